//! A text with records as a part of a recorded input.

use super::gather::Gather;
use super::intake::Intake;
use super::part::{Advance, Progress};
use crate::base::error::Failure;
use crate::base::quote::Quoted;
use crate::files::{Line, Texts};
use crate::record::Message;

/// Messages between two reports of progress.
const PROGRESS_MESSAGES: u64 = 8192;

/// The messages of a text. One that can't be read to its end ends there, and the error is reported.
pub(super) struct TextMessages {
    name: String,
    texts: Texts,
    progress: Progress,
    is_damaged: bool,
}

impl TextMessages {
    pub(super) fn new(name: String, texts: Texts, progress: Progress) -> Self {
        TextMessages { name, texts, progress, is_damaged: false }
    }

    /// Takes the records of the next message; `false` at the end.
    fn take(&mut self, intake: &mut Intake, gather: &mut Gather) -> bool {
        match self.texts.next(&mut || ()) {
            Ok(Some(Line::Text(text))) => {
                let message = Message { key: None, payload: Some(&text), timestamp_ms: None };
                intake.take(&message, self.texts.line(), gather);
            }
            Ok(Some(Line::Broken(_))) => {
                intake.refuse("json", "the JSON is broken", self.texts.line());
            }
            Ok(Some(Line::TooLong)) => {
                let why = "the line is longer than 512 KiB";
                intake.refuse("too_long", why, self.texts.line());
            }
            Ok(None) => {
                if self.texts.offset() == 0 {
                    self.damage("is empty");
                }
                return false;
            }
            Err(fault) => {
                let (offset, line) = (self.texts.offset(), self.texts.current_line());
                let beyond = format!("can't be read beyond byte {offset}, line {line}: {fault}");
                self.damage(&beyond);
                return false;
            }
        }
        true
    }

    fn damage(&mut self, what: &str) {
        self.is_damaged = true;
        self.progress.messages().info(format!("{} {what}", Quoted(&self.name)));
    }
}

impl Advance for TextMessages {
    fn advance(&mut self, intake: &mut Intake, gather: &mut Gather) -> Result<bool, Failure> {
        let has_more = self.take(intake, gather);
        if !has_more || intake.tally().messages.is_multiple_of(PROGRESS_MESSAGES) {
            let (done, records) = (self.texts.raw_offset(), intake.tally().records);
            self.progress.report(done, records, intake.reached());
        }
        Ok(has_more)
    }

    fn is_damaged(&self) -> bool {
        self.is_damaged
    }
}
