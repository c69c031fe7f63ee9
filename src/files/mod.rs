//! Files of the input: captures, Parquet files, or texts with records. The first bytes of a file tell which it is.
//!
//! - `texts`: cuts a text into messages; `json_cut` finds the ends of JSON values over several lines.
//! - [`expand`]: the files in directories, and those that patterns match; `objects`: objects of a bucket as files.
//! - `csv`: cuts a text into rows.
//! - `parquet`: rows of Parquet files, which are read from any place (`file_at`), page by page (`pages`).

mod csv;
mod expand;
mod file_at;
mod json_cut;
mod names;
mod objects;
mod pages;
mod parquet;
mod place;
mod texts;

use std::fs::File;

use anyhow::{anyhow, bail};

use crate::base::error::{Exit, Failure};
use crate::capture::{Fault, Input, ReadError, Reader};
use file_at::FileAt;

pub use csv::{CsvForm, Fields, Row, Rows};
pub use expand::expand;
pub use objects::Object;
pub use parquet::{DamagedGroup, ParquetFile, ParquetRows, UnsupportedColumn};
pub use place::Place;
pub use texts::{Line, Texts};

/// Finds all files, so that a missing one is reported before anything starts. `-` is standard input. Nothing is read: a
/// pipe may be silent.
///
/// # Errors
/// A file can't be opened, or standard input is named twice.
pub fn open(files: Vec<Place>) -> Result<Vec<InputFile>, Failure> {
    let is_stdin = |place: &&Place| matches!(place, Place::Path(path) if path.as_os_str() == "-");
    if files.iter().filter(is_stdin).count() > 1 {
        let error = anyhow!("standard input \"-\" is named twice, and can be read once");
        return Err(Failure::new(Exit::Usage, error));
    }
    let open = |place| {
        let (name, size_hint, stream) = match &place {
            Place::Object(object) => (object.name(), Some(object.size()), None),
            Place::Path(path) => {
                let name = match path.as_os_str() == "-" {
                    true => "standard input".to_owned(),
                    false => path.display().to_string(),
                };
                let input = Input::open(path).map_err(|fault| {
                    let error = ReadError::new(&name, 1, 0, fault);
                    Failure::new(error.exit(), error)
                })?;
                let size_hint = input.size_hint();
                // There may be more files than a process may have open.
                let stream = size_hint.is_none().then_some(input);
                (name, size_hint, stream)
            }
        };
        Ok(InputFile { name, place, size_hint, stream })
    };
    files.into_iter().map(open).collect()
}

/// A file, of which nothing is read yet.
pub struct InputFile {
    name: String,
    place: Place,
    /// The size of a regular file, and of an object.
    size_hint: Option<u64>,
    /// Any other file, open since it was found.
    stream: Option<Input>,
}

/// The content of a file.
pub enum Contents {
    /// A capture.
    Capture(Box<Reader>),
    /// A Parquet file.
    Parquet(ParquetPlace),
    /// A text.
    Text(Box<Texts>),
}

/// The place of a Parquet file, which is read from its end.
pub struct ParquetPlace(Option<Place>);

impl ParquetPlace {
    /// Opens the file.
    ///
    /// # Errors
    /// It is no file that can be read from its end, or it is damaged.
    pub fn open(self) -> anyhow::Result<ParquetFile> {
        let file = match self.0 {
            Some(Place::Path(path)) => FileAt::of_file(File::open(path)?)?,
            Some(Place::Object(object)) => FileAt::of_object(object),
            None => bail!("Parquet is read from its end: give a file, and no pipe"),
        };
        Ok(ParquetFile::open(file)?)
    }
}

impl InputFile {
    /// Returns the name of the file, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the number of bytes of a regular file or an object.
    pub fn size_hint(&self) -> Option<u64> {
        self.size_hint
    }

    /// Reads as many bytes as it takes to tell the kinds of files apart, and begins to read it. An empty file is a text
    /// without a message. A regular file or an object may be read several times.
    ///
    /// # Errors
    /// A file that was found can't be opened any more. The inner error: it can't be read.
    pub fn contents(&mut self) -> Result<Result<Contents, Fault>, Failure> {
        let input = match (self.stream.take(), &self.place) {
            (Some(stream), _) => stream,
            (None, Place::Path(path)) => Input::open(path).map_err(|fault| {
                let error = ReadError::new(&self.name, 1, 0, fault);
                Failure::new(error.exit(), error)
            })?,
            (None, Place::Object(object)) => Input::from_read(Box::new(object.reader())),
        };
        Ok(self.contents_of(input))
    }

    fn contents_of(&self, mut input: Input) -> Result<Contents, Fault> {
        const ENOUGH: usize = 4;
        while input.bytes().len() < ENOUGH {
            if !input.fill(ENOUGH)? {
                break;
            }
        }
        let bytes = input.bytes();
        Ok(match () {
            () if Reader::has_magic(bytes) => {
                Contents::Capture(Box::new(Reader::from_input(&self.name, input)))
            }
            () if bytes.starts_with(&parquet::MAGIC) => {
                let place = self.size_hint.is_some().then(|| self.place.clone());
                Contents::Parquet(ParquetPlace(place))
            }
            () => Contents::Text(Box::new(Texts::new(input))),
        })
    }
}
