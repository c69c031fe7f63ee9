//! The durable state of a run: checkpoints in a store, from which another process continues.
//!
//! - `store`: objects with names, written as a whole; `totals`: the file of a window's totals; `parts`: writes these.
//! - `manifest`: a checkpoint; `record`: the record of a tick; `line_log`: records with lines for files.
//!
//! ```text
//! state.json           made once; processes on other machines compare its nonce
//! claims/N             one for each process that has owned the state; the last one does
//! checkpoints/N-M.json checkpoint M of owner N: the clock, positions, and the names of files
//! totals/…, limits/…   the files
//! ticks/N-L.json       object L of owner N: records of ticks, with their lines for files and standard output
//! ```
//!
//! A process claims the state before it reads a checkpoint, and checks before it writes one that no other process has
//! claimed it since. It keeps its two newest checkpoints, so that what another process reads meanwhile stays.

mod line_log;
pub mod manifest;
mod parts;
mod record;
mod store;
pub mod totals;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use nix::fcntl::Flock;
use serde::{Deserialize, Serialize};

pub use self::line_log::{Completed, LineLog, LineLogWriter, LinesOfTick, TICKS};
pub use self::manifest::{Binding, Manifest, Position, SavedLimits, SavedPart, SavedWindow};
pub use self::parts::{PartWriter, PartsRequest, WrittenParts};
pub use self::record::{History, StoredEdit, TickRecord, is_recorded};
pub use self::store::{Directory, Store};
use crate::base::error::{Exit, Failure};

/// The object that identifies a state.
pub const IDENTITY: &str = "state.json";

/// The folder of the claims of its owners.
pub const CLAIMS: &str = "claims";

/// The object that identifies a state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The version of the format.
    pub format: u32,
    /// The kind of the state.
    pub kind: String,
    /// A random number.
    pub nonce: String,
}

/// A state that this process owns.
pub struct OwnedState {
    store: Arc<dyn Store>,
    name: String,
    incarnation: u64,
    /// Objects that this process may delete once no checkpoint of its own refers to them.
    files: BTreeSet<String>,
    _lock: Flock<File>,
}

/// Opens the directory of a state, and returns its identity, which is made if there is none.
pub fn open(path: &Path) -> Result<(Directory, Identity), Failure> {
    let opening = || format!("opening the state \"{}\" (--state)", path.display());
    let open = || -> anyhow::Result<(Directory, Identity)> {
        let directory = Directory::open(path)?;
        let nonce = format!("{:016x}", getrandom::u64()?);
        let made = Identity { format: manifest::FORMAT, kind: "run".to_owned(), nonce };
        directory.create(IDENTITY, &serde_json::to_vec(&made)?)?;
        let content = directory.get(IDENTITY)?.context("it was written just now")?;
        Ok((directory, serde_json::from_slice(&content).context(IDENTITY)?))
    };
    let unavailable = |error: anyhow::Error| Failure::new(Exit::Unavailable, error);
    let (directory, identity) = open().with_context(opening).map_err(unavailable)?;
    if identity.kind != "run" {
        let why = anyhow!("it is a state of kind \"{}\"", identity.kind).context(opening());
        return Err(Failure::new(Exit::Unavailable, why));
    }
    Ok((directory, identity))
}

impl OwnedState {
    /// Claims a state for this process.
    ///
    /// # Errors
    /// Another process of this machine owns it, or the store fails.
    pub fn claim(path: &Path, directory: Directory) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let claiming = || format!("claiming the state \"{name}\" (--state)");
        let unavailable = |error: anyhow::Error| Failure::new(Exit::Unavailable, error);
        let host = nix::unistd::gethostname().unwrap_or_default();
        let owner = format!("process {} on {}", std::process::id(), host.to_string_lossy());
        let locked = directory.lock(&owner).with_context(claiming).map_err(unavailable)?;
        let lock = locked.map_err(|holder| {
            let why =
                anyhow!("{holder} uses it: stop that run, or give this one another directory");
            unavailable(why.context(claiming()))
        })?;
        let claim = || -> anyhow::Result<Self> {
            let mut incarnation = last_claim(&directory)? + 1;
            while !directory.create(&format!("{CLAIMS}/{incarnation:08}"), owner.as_bytes())? {
                incarnation += 1;
            }
            let mut files = BTreeSet::new();
            for folder in [manifest::TOTALS, manifest::LIMITS] {
                files.extend(directory.list(folder)?.into_iter().map(|(name, _)| name));
            }
            let store = Arc::new(directory.clone());
            Ok(OwnedState { store, name: name.clone(), incarnation, files, _lock: lock })
        };
        claim().with_context(claiming).map_err(unavailable)
    }

    /// Returns the store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Returns the name of the state for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the number of this process among the owners of the state.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Returns the objects that this process may delete once no checkpoint of its own refers to them.
    pub fn take_files(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.files)
    }
}

/// Returns the number of the last process that has claimed a state.
fn last_claim(store: &dyn Store) -> anyhow::Result<u64> {
    let claims = store.list(CLAIMS)?.into_iter();
    let number = |(name, _): (String, u64)| name.rsplit('/').next()?.parse().ok();
    Ok(claims.filter_map(number).max().unwrap_or(0))
}

/// Checks that no other process has claimed a state since this one did.
pub fn check_owner(store: &dyn Store, own: u64) -> anyhow::Result<()> {
    let owner = last_claim(store)?;
    if owner > own {
        return Err(anyhow!(manifest::Superseded { owner, own }));
    }
    Ok(())
}
