//! A file as a part of a recorded input: a capture or a text. Only its first bytes tell, and these are read by the
//! thread that reads everything: a pipe may be silent.

use std::fmt;

use super::capture::CapturePart;
use super::events::End;
use super::gather::Gather;
use super::intake::{Notices, RecordRules};
use super::part::{Part, Progress};
use super::text::TextPart;
use crate::base::error::Failure;
use crate::base::quote::Quoted;
use crate::files::{Contents, OpenFile};

/// Bytes that tell a text from other files.
const BEGINNING: usize = 4;

/// A file.
pub(super) struct FilePart {
    state: State,
    rules: RecordRules,
    notices: Notices,
    progress: Progress,
}

enum State {
    Unread(Option<OpenFile>),
    Known(Box<dyn Part>),
    Unreadable,
}

impl FilePart {
    pub(super) fn new(
        file: OpenFile,
        rules: &RecordRules,
        notices: &Notices,
        progress: Progress,
    ) -> Self {
        let state = State::Unread(Some(file));
        FilePart { state, rules: rules.clone(), notices: notices.clone(), progress }
    }

    fn recognize(&mut self, file: OpenFile) -> State {
        let name = file.name().to_owned();
        match file.contents() {
            Ok(Contents::Capture(mut reader)) => {
                reader.drop_strays(self.rules.max_ahead_ms);
                State::Known(Box::new(CapturePart::new(*reader, self.progress.of_part())))
            }
            Ok(Contents::Text(texts)) if !begins_as_text(texts.buffered()) => {
                let bytes: String = texts
                    .buffered()
                    .iter()
                    .take(BEGINNING)
                    .map(|byte| format!(" {byte:02x}"))
                    .collect();
                self.refuse(
                    &name,
                    format_args!("is neither a capture nor a text (it begins with{bytes})"),
                )
            }
            Ok(Contents::Text(texts)) => {
                let progress = self.progress.of_part();
                let text = TextPart::new(name, *texts, &self.rules, &self.notices, progress);
                State::Known(Box::new(text))
            }
            Err(fault) => self.refuse(&name, format_args!("can't be read: {fault}")),
        }
    }

    fn refuse(&self, name: &str, why: fmt::Arguments<'_>) -> State {
        self.progress.messages().info(format!("{} {why}", Quoted(name)));
        State::Unreadable
    }
}

/// Whether the first bytes of a file may be those of a text: lines that can't be read are reported one by one.
fn begins_as_text(bytes: &[u8]) -> bool {
    let is_control = |byte: &u8| byte.is_ascii_control() && !matches!(byte, b'\t' | b'\n' | b'\r');
    !bytes.iter().take(BEGINNING).any(is_control)
}

impl Part for FilePart {
    fn read(&mut self, gather: &mut Gather) -> Result<bool, Failure> {
        if let State::Unread(file) = &mut self.state
            && let Some(file) = file.take()
        {
            self.state = self.recognize(file);
        }
        match &mut self.state {
            State::Known(part) => part.read(gather),
            State::Unread(_) | State::Unreadable => Ok(false),
        }
    }

    fn summarize(&self, end: &mut End) {
        match &self.state {
            State::Known(part) => part.summarize(end),
            State::Unread(_) => {}
            State::Unreadable => end.damaged = true,
        }
    }
}
