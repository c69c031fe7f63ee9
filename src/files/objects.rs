//! Objects of a bucket as files: `s3://BUCKET/KEY`.

use std::io::{self, Read};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use glob::{MatchOptions, Pattern};
use object_store::path::Path;
use object_store::{Error, ObjectMeta, ObjectStore, ObjectStoreExt as _};
use tokio::runtime::Runtime;

use super::names::{is_hidden, is_pattern};
use crate::base::bucket::{self, SCHEME};

/// Bytes that are requested at once.
const CHUNK: u64 = 4 << 20;

/// A bucket that is read.
struct Bucket {
    name: String,
    runtime: Runtime,
    store: Box<dyn ObjectStore>,
}

/// An object of a bucket.
#[derive(Clone)]
pub struct Object {
    bucket: Arc<Bucket>,
    path: Path,
    size: u64,
}

impl Object {
    /// Finds an object, or all objects in a folder and those in it, or those that a pattern matches.
    pub(super) fn find(place: &str) -> anyhow::Result<Vec<Self>> {
        let rest = place.strip_prefix(SCHEME).context("it does not begin with s3://")?;
        let (name, key) = rest.split_once('/').unwrap_or((rest, ""));
        if name.is_empty() {
            bail!("it has no bucket: give s3://BUCKET/KEY");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let store = Box::new(bucket::open(name)?);
        Arc::new(Bucket { name: name.to_owned(), runtime, store }).find(key)
    }

    /// Returns the name of the object.
    pub(super) fn name(&self) -> String {
        format!("{SCHEME}{}/{}", self.bucket.name, self.path)
    }

    /// Returns the number of its bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Reads a part of the object.
    pub(super) fn get(&self, start: u64, length: u64) -> io::Result<Bytes> {
        let end = start.saturating_add(length).min(self.size);
        if start >= end {
            return Ok(Bytes::new());
        }
        let get = self.bucket.store.get_range(&self.path, start..end);
        self.bucket.runtime.block_on(get).map_err(io::Error::other)
    }

    /// Returns a reader of all of the object.
    pub(super) fn reader(&self) -> ObjectReader {
        ObjectReader { object: self.clone(), next: 0, chunk: Bytes::new() }
    }
}

impl Bucket {
    fn find(self: Arc<Self>, key: &str) -> anyhow::Result<Vec<Object>> {
        let objects = match is_pattern(key) {
            true => self.matches(key)?,
            false => self.object_or_folder(key)?,
        };
        let object =
            |ObjectMeta { location: path, size, .. }| Object { bucket: self.clone(), path, size };
        let mut objects: Vec<Object> = objects.into_iter().map(object).collect();
        objects.sort_by(|one, other| one.path.cmp(&other.path));
        if objects.is_empty() {
            bail!("there is no such object");
        }
        Ok(objects)
    }

    fn object_or_folder(&self, key: &str) -> anyhow::Result<Vec<ObjectMeta>> {
        let path = Path::parse(key.trim_end_matches('/'))?;
        if !key.is_empty() && !key.ends_with('/') {
            match self.runtime.block_on(self.store.head(&path)) {
                Ok(object) => return Ok(vec![object]),
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut objects = self.list(&path)?;
        objects.retain(|object| !is_hidden_behind(&object.location, &path));
        Ok(objects)
    }

    /// Returns the objects whose keys, or folders of theirs, match a pattern.
    fn matches(&self, pattern: &str) -> anyhow::Result<Vec<ObjectMeta>> {
        let special = pattern.find(['*', '?', '[']).unwrap_or(pattern.len());
        let folder = pattern[..special].rsplit_once('/').map_or("", |(folder, _)| folder);
        let pattern = Pattern::new(pattern.trim_end_matches('/'))?;
        let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
        let mut objects = self.list(&Path::parse(folder)?)?;
        objects.retain(|ObjectMeta { location, .. }| {
            let key = location.as_ref();
            let ends = key.match_indices('/').map(|(end, _)| end).chain([key.len()]);
            let matched = ends.into_iter().find(|end| pattern.matches_with(&key[..*end], options));
            let folder = matched.and_then(|end| Path::parse(&key[..end]).ok());
            folder.is_some_and(|folder| !is_hidden_behind(location, &folder))
        });
        Ok(objects)
    }

    fn list(&self, folder: &Path) -> anyhow::Result<Vec<ObjectMeta>> {
        Ok(self.runtime.block_on(self.store.list(Some(folder)).try_collect())?)
    }
}

/// Whether a name behind a folder is one that readers of folders leave out.
fn is_hidden_behind(path: &Path, folder: &Path) -> bool {
    let mut names = path.prefix_match(folder).into_iter().flatten();
    names.any(|name| is_hidden(name.as_ref().as_bytes()))
}

/// Reads an object from its start.
pub(super) struct ObjectReader {
    object: Object,
    /// The next byte to request.
    next: u64,
    chunk: Bytes,
}

impl Read for ObjectReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.chunk.is_empty() {
            self.chunk = self.object.get(self.next, CHUNK)?;
            self.next += self.chunk.len() as u64;
        }
        let count = self.chunk.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.chunk.split_to(count));
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    fn bucket(keys: &[&str]) -> Arc<Bucket> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let store = InMemory::new();
        for key in keys {
            let (path, content) = (Path::from(*key), (*key).to_owned());
            let put = store.put(&path, content.into());
            runtime.block_on(put).expect("memory takes everything");
        }
        Arc::new(Bucket { name: "b".to_owned(), runtime, store: Box::new(store) })
    }

    #[test]
    fn keys_folders_and_patterns_stand_for_their_objects() {
        let bucket = bucket(&[
            "a.csv",
            "b.csv",
            "d/_SUCCESS",
            "d/date=1/b",
            "d/date=2/.crc",
            "d/date=2/a",
            "d/e/date=1/x",
            "dd/c",
        ]);
        for (key, expected) in [
            ("a.csv", "a.csv"),
            ("*.csv", "a.csv b.csv"),
            ("d", "d/date=1/b d/date=2/a d/e/date=1/x"),
            ("d/", "d/date=1/b d/date=2/a d/e/date=1/x"),
            ("d/date=*", "d/date=1/b d/date=2/a"),
            ("d/date=[2-9]/a", "d/date=2/a"),
            ("d/_*", "d/_SUCCESS"),
            ("", "a.csv b.csv d/date=1/b d/date=2/a d/e/date=1/x dd/c"),
        ] {
            let found = bucket.clone().find(key).expect("objects");
            let names: Vec<_> = found.iter().map(|object| object.path.to_string()).collect();
            assert_eq!(names.join(" "), expected, "{key}");
        }
        for key in ["c.csv", "e/", "d/x*"] {
            let error = bucket.clone().find(key).err().expect("no such object");
            assert_eq!(error.to_string(), "there is no such object", "{key}");
        }
    }

    #[test]
    fn object_is_read_from_its_start_and_from_any_place() {
        let object = bucket(&["some/key"]).find("some/key").expect("an object").remove(0);
        assert_eq!((object.name(), object.size()), ("s3://b/some/key".to_owned(), 8));
        let mut text = String::new();
        object.reader().read_to_string(&mut text).expect("memory can be read");
        assert_eq!(text, "some/key");
        assert_eq!(object.get(5, 100).expect("memory can be read"), "key");
        assert_eq!(object.get(8, 1).expect("memory can be read"), "");
    }
}
