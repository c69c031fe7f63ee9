//! A text with records as a part of a recorded input.

use super::events::End;
use super::gather::Gather;
use super::intake::{Intake, Notices, PartName, RecordRules};
use super::part::{Part, Progress};
use crate::base::error::Failure;
use crate::base::quote::Quoted;
use crate::files::texts::{Line, Texts};
use crate::record::Message;

/// Messages between two reports of progress.
const PROGRESS_MESSAGES: u64 = 8192;

/// A text. One that can't be read to its end ends there, and the error is reported.
pub(super) struct TextPart {
    name: String,
    texts: Texts,
    intake: Intake,
    progress: Progress,
    has_ended: bool,
    is_damaged: bool,
}

impl TextPart {
    pub(super) fn new(
        name: String,
        texts: Texts,
        rules: &RecordRules,
        notices: &Notices,
        progress: Progress,
    ) -> Self {
        let intake = Intake::new(PartName::File(name.as_str().into()), rules, notices);
        TextPart { name, texts, intake, progress, has_ended: false, is_damaged: false }
    }

    /// Takes the records of the next message, or notes the end.
    fn advance(&mut self, gather: &mut Gather) {
        match self.texts.next(&mut || ()) {
            Ok(Some(Line::Text(text))) => {
                let message = Message { key: None, payload: Some(&text), timestamp_ms: None };
                self.intake.take(&message, self.texts.line(), gather);
            }
            Ok(Some(Line::Broken(_))) => {
                self.intake.refuse("json", "the JSON is broken", self.texts.line());
            }
            Ok(Some(Line::TooLong)) => {
                let why = "the line is longer than 512 KiB";
                self.intake.refuse("too_long", why, self.texts.line());
            }
            Ok(None) => self.end(),
            Err(fault) => {
                self.is_damaged = true;
                let (offset, line) = (self.texts.offset(), self.texts.current_line());
                self.progress.messages().info(format!(
                    "{} can't be read beyond byte {offset}, line {line}: {fault}",
                    Quoted(&self.name)
                ));
                self.end();
            }
        }
        if self.has_ended || self.intake.tally().messages.is_multiple_of(PROGRESS_MESSAGES) {
            let (done, records) = (self.texts.raw_offset(), self.intake.tally().records);
            self.progress.report(done, records, self.intake.reached());
        }
    }

    fn end(&mut self) {
        self.has_ended = true;
        self.intake.end();
        if self.texts.offset() == 0 && !self.is_damaged {
            self.is_damaged = true;
            self.progress.messages().info(format!("{} is empty", Quoted(&self.name)));
        }
    }
}

impl Part for TextPart {
    fn read(&mut self, gather: &mut Gather) -> Result<bool, Failure> {
        loop {
            if self.intake.gather(gather).is_break() {
                return Ok(true);
            }
            if self.has_ended {
                return Ok(false);
            }
            self.advance(gather);
        }
    }

    fn summarize(&self, end: &mut End) {
        end.records.merge(self.intake.tally());
        end.has_records = true;
        end.damaged |= self.is_damaged;
    }
}
