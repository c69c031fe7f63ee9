//! The durable state of a run: checkpoints in a store, from which another process continues.
//!
//! - `store`: objects with names, written as a whole, in a directory; `objects`: in an object store; `totals`: the file of a window's totals; `parts`: writes these.
//! - `manifest`: a checkpoint; `record`: the record of a tick; `line_log`: records with lines for files; `rules`: the
//!   rules that may be others from one run to the next.
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
mod objects;
mod parts;
mod record;
mod rules;
mod store;
pub mod totals;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use serde::{Deserialize, Serialize};

pub use self::line_log::{Completed, LineLog, LineLogWriter, LinesOfTick, TICKS};
pub use self::manifest::{Binding, Manifest, Position, SavedLimits, SavedPart, SavedWindow};
pub use self::parts::{PartWriter, PartsRequest, WrittenParts};
pub use self::record::{History, StoredEdit, TickRecord, is_recorded};
pub use self::rules::RunRules;
pub use self::store::{Directory, Lock, Store};
use crate::base::bucket::SCHEME;
use crate::base::error::{Exit, Failure};

/// The object that identifies a state.
pub const IDENTITY: &str = "state.json";

/// The folder of the claims of its owners.
pub const CLAIMS: &str = "claims";

/// The kind of the state of a run.
const KIND: &str = "run";

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
    _lock: Lock,
}

/// The place of a state, which may be empty.
#[derive(Clone)]
pub struct Place {
    name: String,
    store: Arc<dyn Store>,
}

impl Place {
    /// Opens a directory, which is created if it does not exist, or `s3://BUCKET/PREFIX`.
    pub fn open(name: &str) -> Result<Self, Failure> {
        let open = || -> anyhow::Result<Arc<dyn Store>> {
            Ok(match name.starts_with(SCHEME) {
                true => Arc::new(objects::Objects::open(name)?),
                false => Arc::new(Directory::open(Path::new(name))?),
            })
        };
        let place = |store| Place { name: name.to_owned(), store };
        open().map(place).map_err(|error| unavailable(error.context(opening(name))))
    }

    /// Returns the store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Returns the name for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the identity of the state; `None` if there is none.
    ///
    /// # Errors
    /// The place can't be read, or it is a state of another kind.
    pub fn identity(&self) -> Result<Option<Identity>, Failure> {
        let read = || -> anyhow::Result<Option<Identity>> {
            let Some(content) = self.store.get(IDENTITY)? else { return Ok(None) };
            let identity: Identity = serde_json::from_slice(&content).context(IDENTITY)?;
            if identity.kind != KIND {
                bail!("it is a state of kind \"{}\"", identity.kind);
            }
            Ok(Some(identity))
        };
        read().map_err(|error| unavailable(error.context(opening(&self.name))))
    }

    /// Returns the identity of the state, which is made if there is none.
    pub fn make_identity(&self) -> Result<Identity, Failure> {
        let make = || -> anyhow::Result<()> {
            let nonce = format!("{:016x}", getrandom::u64()?);
            let made = Identity { format: manifest::FORMAT, kind: KIND.to_owned(), nonce };
            self.store.create(IDENTITY, &serde_json::to_vec(&made)?)?;
            Ok(())
        };
        make().map_err(|error| unavailable(error.context(opening(&self.name))))?;
        let gone = || unavailable(anyhow!("{IDENTITY} is gone").context(opening(&self.name)));
        self.identity()?.ok_or_else(gone)
    }
}

fn opening(name: &str) -> String {
    format!("opening the state \"{name}\" (--state)")
}

fn unavailable(error: anyhow::Error) -> Failure {
    Failure::new(Exit::Unavailable, error)
}

impl OwnedState {
    /// Claims a state for this process. `is_restarted`: the supervisor has started it again after a failure.
    ///
    /// # Errors
    /// Another process of this machine owns it, one of another run has claimed it before this one was started again, or
    /// the store fails.
    pub fn claim(place: &Place, is_restarted: bool) -> Result<Self, Failure> {
        let Place { name, store } = place.clone();
        let claiming = || format!("claiming the state \"{name}\" (--state)");
        let host = nix::unistd::gethostname().unwrap_or_default();
        let host = host.to_string_lossy();
        let owner = format!("process {} on {host}", std::process::id());
        let run = format!("started by process {} on {host}", nix::unistd::getppid());
        let locked = store.lock(&owner).with_context(claiming).map_err(unavailable)?;
        let lock = locked.map_err(|holder| {
            let why =
                anyhow!("{holder} uses it: stop that run, or give this one another directory");
            unavailable(why.context(claiming()))
        })?;
        let claim = || -> anyhow::Result<Self> {
            let last = last_claim(&*store)?;
            if let Some(claimed) = store.get(&claim_name(last))?.filter(|_| is_restarted) {
                let claimed = String::from_utf8_lossy(&claimed);
                if !claimed.lines().any(|line| line == run) {
                    let owner = claimed.lines().next().unwrap_or_default().to_owned();
                    return Err(anyhow!(manifest::TakenOver { owner }));
                }
            }
            let incarnation = claim_next(&*store, &format!("{owner}\n{run}\n"))?;
            // The last claim decides: earlier ones, and what a process has left that was killed meanwhile, only cost time.
            let own = claim_name(incarnation);
            for (earlier, _) in store.list(CLAIMS)?.into_iter().filter(|(name, _)| *name < own) {
                store.delete(&earlier)?;
            }
            remove_unfinished(&*store)?;
            let mut files = BTreeSet::new();
            for folder in [manifest::TOTALS, manifest::LIMITS] {
                files.extend(store.list(folder)?.into_iter().map(|(name, _)| name));
            }
            Ok(OwnedState {
                store: store.clone(),
                name: name.clone(),
                incarnation,
                files,
                _lock: lock,
            })
        };
        claim().map_err(|error| match error.is::<manifest::TakenOver>() {
            true => Failure::new(Exit::Superseded, error.context(claiming())),
            false => unavailable(error.context(claiming())),
        })
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

/// Claims a state. A run that owns it, where no lock protects it, ends. Returns the number of the claim.
pub fn claim_next(store: &dyn Store, owner: &str) -> anyhow::Result<u64> {
    loop {
        let next = last_claim(store)?.checked_add(1).context("there is no next claim")?;
        // Another process may have claimed it meanwhile, and removed the claim that was the last one.
        if store.create(&claim_name(next), owner.as_bytes())? && last_claim(store)? == next {
            return Ok(next);
        }
    }
}

/// Deletes the files that earlier owners have not finished.
fn remove_unfinished(store: &dyn Store) -> anyhow::Result<()> {
    for folder in [manifest::CHECKPOINTS, manifest::TOTALS, manifest::LIMITS, TICKS, CLAIMS] {
        for (name, _) in store.list(folder)? {
            if name[folder.len() + 1..].starts_with(store::UNFINISHED) {
                store.delete(&name)?;
            }
        }
    }
    Ok(())
}

fn claim_name(incarnation: u64) -> String {
    format!("{CLAIMS}/{incarnation:08}")
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
    if owner != own {
        return Err(anyhow!(manifest::Superseded { owner, own }));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn claims(place: &Place) -> Vec<String> {
        let claims = place.store.list(CLAIMS).expect("a list");
        claims.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn owner_removes_what_earlier_ones_have_left_unfinished() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = Place::open(&directory.path().display().to_string()).expect("it exists");
        drop(OwnedState::claim(&place, false).expect("nobody owns it"));
        for folder in [CLAIMS, TICKS, manifest::TOTALS] {
            fs::create_dir_all(directory.path().join(folder)).expect("it is created");
            fs::write(directory.path().join(folder).join(".unfinished-1"), "").expect("a file");
        }
        place.store.put("totals/1", b"").expect("it is written");
        let owned = OwnedState::claim(&place, false).expect("nobody owns it any more");
        assert_eq!((owned.incarnation(), claims(&place)), (2, vec!["claims/00000002".to_owned()]));
        assert_eq!(place.store.list(TICKS).expect("a list"), []);
        assert_eq!(
            place.store.list(manifest::TOTALS).expect("a list"),
            [("totals/1".to_owned(), 0)]
        );
    }

    #[test]
    fn run_that_is_started_again_leaves_the_state_to_another_owner() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = Place::open(&directory.path().display().to_string()).expect("it exists");
        drop(OwnedState::claim(&place, true).expect("nobody owns it"));
        drop(OwnedState::claim(&place, true).expect("it was this run"));
        place
            .store
            .put("claims/00000007", b"process 1 on a\nstarted by process 2 on a\n")
            .expect("a claim");
        let failure = OwnedState::claim(&place, true).err().expect("another run has claimed it");
        assert_eq!(failure.exit, Exit::Superseded);
        let why = format!("{:#}", failure.error);
        assert!(why.contains("process 1 on a has taken over the state"), "{why}");
        assert_eq!(OwnedState::claim(&place, false).expect("it may").incarnation(), 8);
    }

    #[test]
    fn state_of_another_kind_is_rejected() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = Place::open(&directory.path().display().to_string()).expect("it exists");
        assert_eq!(place.identity().expect("it can be read"), None);
        let made = place.make_identity().expect("it can be written");
        assert_eq!(place.make_identity().expect("it is there"), made);
        place
            .store
            .put(IDENTITY, br#"{"format":1,"kind":"collect","nonce":"a"}"#)
            .expect("it is written");
        let failure = place.identity().expect_err("it is no state of a run");
        assert!(format!("{:#}", failure.error).contains("it is a state of kind \"collect\""));
    }
}
