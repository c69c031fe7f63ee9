//! Files that are read from any place, by several readers.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use ::parquet::errors::{ParquetError, Result};
use ::parquet::file::reader::{ChunkReader, Length};
use bytes::Bytes;

use super::objects::Object;

/// Bytes that a reader takes at once: of an object many, since each request has to go to the store and back.
const FILE_BUFFER: usize = 8 << 10;
const OBJECT_BUFFER: usize = 1 << 20;

/// A file, or an object of a bucket.
#[derive(Clone)]
enum Source {
    File(Arc<File>),
    Object(Object),
}

/// A file of which any part can be read: its readers do not share a position.
pub(super) struct FileAt {
    source: Source,
    length: u64,
}

impl FileAt {
    pub(super) fn of_file(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        Ok(FileAt { source: Source::File(Arc::new(file)), length })
    }

    pub(super) fn of_object(object: Object) -> Self {
        let length = object.size();
        FileAt { source: Source::Object(object), length }
    }
}

impl Length for FileAt {
    fn len(&self) -> u64 {
        self.length
    }
}

/// The bytes of a file from a place on.
pub(super) struct Positioned {
    source: Source,
    place: u64,
}

impl Read for Positioned {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &self.source {
            Source::File(file) => file.read_at(buffer, self.place)?,
            Source::Object(object) => {
                let bytes = object.get(self.place, buffer.len() as u64)?;
                buffer[..bytes.len()].copy_from_slice(&bytes);
                bytes.len()
            }
        };
        self.place += count as u64;
        Ok(count)
    }
}

impl ChunkReader for FileAt {
    type T = BufReader<Positioned>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        let capacity = match &self.source {
            Source::File(_) => FILE_BUFFER,
            Source::Object(_) => OBJECT_BUFFER,
        };
        let from = Positioned { source: self.source.clone(), place: start };
        Ok(BufReader::with_capacity(capacity, from))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        // Before memory is taken: lengths are those of a file that may be damaged.
        if start.checked_add(length as u64).is_none_or(|end| end > self.length) {
            return Err(ParquetError::EOF(format!(
                "{length} bytes at {start} are beyond the end of the file, {}",
                self.length
            )));
        }
        match &self.source {
            Source::File(file) => {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, start)?;
                Ok(bytes.into())
            }
            Source::Object(object) => Ok(object.get(start, length as u64)?),
        }
    }
}
