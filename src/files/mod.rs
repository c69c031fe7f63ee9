//! Files of the input: captures, or texts with records. The first bytes of a file tell which it is.
//!
//! - [`texts`]: cuts a text into messages; `json_cut` finds the ends of JSON values over several lines.

mod json_cut;
pub mod texts;

use std::path::PathBuf;

use anyhow::anyhow;

use crate::base::error::{Exit, Failure};
use crate::capture::{Fault, Input, ReadError, Reader};
use texts::Texts;

/// Opens all files, so that a missing one is reported before anything starts. `-` is standard input. Nothing is read:
/// a pipe may be silent.
///
/// # Errors
/// A file can't be opened, or standard input is named twice.
pub fn open(files: &[PathBuf]) -> Result<Vec<OpenFile>, Failure> {
    if files.iter().filter(|file| file.as_os_str() == "-").count() > 1 {
        let error = anyhow!("standard input \"-\" is named twice, and can be read once");
        return Err(Failure::new(Exit::Usage, error));
    }
    let open = |path: &PathBuf| {
        let name = match path.as_os_str() == "-" {
            true => "standard input".to_owned(),
            false => path.display().to_string(),
        };
        let input = Input::open(path).map_err(|fault| {
            let error = ReadError::new(&name, 1, 0, fault);
            Failure::new(error.exit(), error)
        })?;
        Ok(OpenFile { name, input })
    };
    files.iter().map(open).collect()
}

/// An open file, of which nothing is read yet.
pub struct OpenFile {
    name: String,
    input: Input,
}

/// The content of a file.
pub enum Contents {
    /// A capture.
    Capture(Box<Reader>),
    /// A text.
    Text(Box<Texts>),
}

impl OpenFile {
    /// Returns the name of the file, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the number of bytes of a regular file.
    pub fn size_hint(&self) -> Option<u64> {
        self.input.size_hint()
    }

    /// Reads as many bytes as it takes to tell a capture from a text, and begins to read it. An empty file is a text
    /// without a message.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn contents(mut self) -> Result<Contents, Fault> {
        const ENOUGH: usize = 4;
        while self.input.bytes().len() < ENOUGH {
            if !self.input.fill(ENOUGH)? {
                break;
            }
        }
        Ok(match Reader::has_magic(self.input.bytes()) {
            true => Contents::Capture(Box::new(Reader::from_input(&self.name, self.input))),
            false => Contents::Text(Box::new(Texts::new(self.input))),
        })
    }
}
