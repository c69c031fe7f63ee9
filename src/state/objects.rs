//! A part of a bucket of an object store as the place of a state: `s3://BUCKET/PREFIX`.

use std::io;

use anyhow::{Context as _, bail};
use futures_util::TryStreamExt as _;
use object_store::path::Path;
use object_store::{Error, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};
use tokio::runtime::Runtime;

use super::store::{Lock, Store};
use crate::base::bucket::{self, SCHEME};

/// Objects whose names have a common beginning.
pub(super) struct Objects {
    runtime: Runtime,
    store: Box<dyn ObjectStore>,
    prefix: Path,
}

impl Objects {
    /// Opens `s3://BUCKET/PREFIX`.
    pub(super) fn open(place: &str) -> anyhow::Result<Self> {
        let (bucket, prefix) = Self::parse(place)?;
        let store = bucket::open(bucket)?;
        Self::of(Box::new(store), prefix)
    }

    fn parse(place: &str) -> anyhow::Result<(&str, &str)> {
        let rest = place.strip_prefix(SCHEME).context("it does not begin with s3://")?;
        match rest.split_once('/') {
            Some((bucket, prefix))
                if !bucket.is_empty() && !prefix.trim_matches('/').is_empty() =>
            {
                Ok((bucket, prefix))
            }
            _ => bail!("\"{place}\" has no bucket or no prefix: give s3://BUCKET/PREFIX"),
        }
    }

    fn of(store: Box<dyn ObjectStore>, prefix: &str) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Objects { runtime, store, prefix: Path::parse(prefix.trim_matches('/'))? })
    }

    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    fn put_as(&self, name: &str, content: &[u8], mode: PutMode) -> Result<(), Error> {
        let (path, options) = (self.path(name), PutOptions::from(mode));
        let put = self.store.put_opts(&path, content.to_vec().into(), options);
        self.runtime.block_on(put).map(drop)
    }
}

fn failed(error: Error) -> io::Error {
    io::Error::other(error)
}

impl Store for Objects {
    fn put(&self, name: &str, content: &[u8]) -> io::Result<()> {
        self.put_as(name, content, PutMode::Overwrite).map_err(failed)
    }

    fn create(&self, name: &str, content: &[u8]) -> io::Result<bool> {
        match self.put_as(name, content, PutMode::Create) {
            Ok(()) => Ok(true),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    fn get(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let path = self.path(name);
        let get = async { self.store.get(&path).await?.bytes().await };
        match self.runtime.block_on(get) {
            Ok(content) => Ok(Some(content.into())),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>> {
        let path = self.path(folder);
        let listed: Result<Vec<ObjectMeta>, Error> =
            self.runtime.block_on(self.store.list(Some(&path)).try_collect());
        let named = |object: ObjectMeta| {
            Some((format!("{folder}/{}", object.location.filename()?), object.size))
        };
        let mut objects: Vec<_> = listed.map_err(failed)?.into_iter().filter_map(named).collect();
        objects.sort();
        Ok(objects)
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        let path = self.path(name);
        match self.runtime.block_on(self.store.delete(&path)) {
            Err(Error::NotFound { .. }) | Ok(()) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    /// The claims decide who owns the state: the last one.
    fn lock(&self, _: &str) -> io::Result<Result<Lock, String>> {
        Ok(Ok(Lock::NONE))
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;
    use crate::state::store::tests::check_store;

    #[test]
    fn objects_are_those_of_their_prefix() {
        check_store(&Objects::of(Box::new(InMemory::new()), "a/state/").expect("a store"));
    }

    #[test]
    fn place_without_bucket_or_prefix_is_rejected() {
        for place in
            ["s3://", "s3://bucket", "s3://bucket/", "s3://bucket//", "s3:///prefix", "/tmp"]
        {
            assert!(Objects::parse(place).is_err(), "{place}");
        }
        assert_eq!(Objects::parse("s3://bucket/a/b").expect("a place"), ("bucket", "a/b"));
    }
}
