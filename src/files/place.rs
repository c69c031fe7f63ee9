//! The places of files.

use std::path::PathBuf;

use super::objects::Object;

/// A file of this machine, or an object of a bucket.
#[derive(Clone)]
pub enum Place {
    /// The path of a file; `-` is standard input.
    Path(PathBuf),
    /// An object of a bucket.
    Object(Object),
}
