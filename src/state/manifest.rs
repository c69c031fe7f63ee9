//! Checkpoints: what they consist of, and how they are written and found.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use anyhow::{Context as _, anyhow, bail};
use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::time::Window;
use serde::{Deserialize, Serialize};

use super::record::{StoredEdit, TickRecord};
use super::store::Store;
use crate::source::{LeaderTime, ReadingRules};

/// The version of the format that this program writes.
pub const FORMAT: u32 = 2;

/// The folder of checkpoints.
pub const CHECKPOINTS: &str = "checkpoints";
/// The folder of the totals of windows.
pub const TOTALS: &str = "totals";
/// The folder of rows of limits.
pub const LIMITS: &str = "limits";

/// The things that a state is bound to: with others its totals would mean something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The topic of records.
    pub topic: String,
    /// The id of that topic, if its brokers have ids.
    pub topic_id: Option<String>,
    /// The options that decide which records count, and in which windows.
    pub options: BTreeMap<String, String>,
}

/// The position in a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The position of the next message.
    pub offset: u64,
    /// The greatest event time of the messages before it.
    pub reached: Option<u64>,
    /// Whether messages before the first one that was read are missing, and no event time was read yet.
    pub is_truncated: bool,
}

/// A file with the totals of a window that one worker had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedPart {
    /// The name of the object.
    pub file: String,
    /// The number of totals.
    pub rows: u64,
    /// The sum of their bytes.
    pub bytes: i128,
    /// The sum of their packets.
    pub packets: i128,
    /// The size of the object, in bytes.
    pub size: u64,
    /// The checksum of its content.
    pub crc32: u32,
}

/// The totals of a window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedWindow {
    /// The tick up to which records are counted.
    pub tick: u64,
    /// The parts of all workers.
    pub parts: Vec<SavedPart>,
}

/// The file of the rows of limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedLimits {
    /// The name of the object; `None` if there is no row.
    pub file: Option<String>,
    /// The number of rows.
    pub rows: u64,
    /// The size of the object, in bytes.
    pub size: u64,
    /// The checksum of its content.
    pub crc32: u32,
}

/// A checkpoint: the state of a run at a tick.
///
/// The totals of each window are of a tick of their own, from `tick` on; `records` are those of the ticks from there to
/// the last of these. When they are run again, they leave out what the totals of a window contain already.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the format.
    pub format: u32,
    /// The things that the state is bound to.
    pub binding: Binding,
    /// The number of the process that has written it, of all processes that have owned the state.
    pub incarnation: u64,
    /// The number of the checkpoint, of those of this process.
    pub sequence: u64,
    /// The tick, in milliseconds.
    pub tick: u64,
    /// The time of the last tick that took records.
    pub time: Option<LeaderTime>,
    /// The rules by which records were read; `None` before the first tick.
    pub rules: Option<ReadingRules>,
    /// The state of the clock, as marks that bring it about.
    pub clock: Vec<SourceProgress>,
    /// The positions in the partitions.
    pub partitions: BTreeMap<u32, Position>,
    /// The totals of windows, by their starts.
    pub windows: BTreeMap<u64, SavedWindow>,
    /// The names of the outputs that got this tick.
    pub outputs: Vec<String>,
    /// The rows of limits.
    pub limits: SavedLimits,
    /// The records of the ticks from there to the last one that the totals of a window contain.
    pub records: Vec<TickRecord>,
}

impl SavedWindow {
    /// Returns the number of totals.
    pub fn rows(&self) -> u64 {
        self.parts.iter().map(|part| part.rows).sum()
    }
}

impl Manifest {
    /// Returns the name of its object.
    pub fn name(&self) -> String {
        format!("{CHECKPOINTS}/{:08}-{:08}.json", self.incarnation, self.sequence)
    }

    /// Returns the content of its object.
    pub fn content(&self) -> Vec<u8> {
        sealed(self)
    }

    /// Reads the content of an object.
    pub fn parse(content: &[u8]) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let text = unsealed(content)?;
        let Format { format } = serde_json::from_slice(text)?;
        if format != FORMAT {
            return Err(anyhow!(OtherFormat { format }));
        }
        Ok(serde_json::from_slice(text)?)
    }

    /// Returns the names of the objects that it refers to.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let parts = self.windows.values().flat_map(|window| &window.parts);
        parts.map(|part| part.file.as_str()).chain(self.limits.file.as_deref())
    }

    /// Returns the number of totals.
    pub fn rows(&self) -> u64 {
        self.windows.values().map(SavedWindow::rows).sum()
    }

    /// Returns the last tick that its totals contain records of.
    pub fn last_tick(&self) -> u64 {
        let ticks = self.windows.values().map(|window| window.tick);
        ticks.max().unwrap_or(0).max(self.tick)
    }

    /// Returns the names of the outputs that got a tick, by the records since the checkpoint.
    pub fn outputs_at(&self, tick: u64, records: &[TickRecord]) -> Vec<String> {
        let records = records.iter().take_while(|record| record.tick <= tick);
        let changed = records.filter_map(|record| record.outputs.as_ref()).last();
        changed.unwrap_or(&self.outputs).clone()
    }

    /// Returns the tick up to which records are in the totals of each window.
    pub fn counted(&self) -> BTreeMap<Window, u64> {
        self.windows.iter().map(|(window, saved)| (Window(*window), saved.tick)).collect()
    }

    /// Reads the rows of limits.
    pub fn read_limits(&self, store: &dyn Store) -> anyhow::Result<Vec<StoredEdit>> {
        let Some(file) = &self.limits.file else { return Ok(Vec::new()) };
        let content = checked(store, file, self.limits.size, self.limits.crc32)?;
        let lines = content.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| Ok(serde_json::from_slice(line)?)).collect()
    }

    /// Checks that all objects that it refers to are there, and undamaged.
    fn check(&self, store: &dyn Store) -> anyhow::Result<()> {
        let parts = self.windows.values().flat_map(|window| &window.parts);
        for SavedPart { file, size, crc32, .. } in parts {
            checked(store, file, *size, *crc32)?;
        }
        self.read_limits(store).map(drop)
    }
}

/// Returns a value as JSON, and a line with the checksum of that.
pub(super) fn sealed(value: &impl Serialize) -> Vec<u8> {
    let mut content = serde_json::to_vec(value).expect("it has texts as keys alone");
    let crc32 = crc32fast::hash(&content);
    content.extend(format!("\n{crc32:08x}\n").bytes());
    content
}

/// Returns the JSON of such a content, if it is undamaged.
pub(super) fn unsealed(content: &[u8]) -> anyhow::Result<&[u8]> {
    let mut lines = content.splitn(2, |byte| *byte == b'\n');
    let text = lines.next().unwrap_or_default();
    let sum = lines.next().map(|sum| String::from_utf8_lossy(sum.trim_ascii()).into_owned());
    if sum != Some(format!("{:08x}", crc32fast::hash(text))) {
        bail!("its checksum is wrong");
    }
    Ok(text)
}

/// A checkpoint of a version of this program with another format.
#[derive(Debug, thiserror::Error)]
#[error(
    "it has format {format}, and this version reads format {FORMAT}: start the version that has written it, or over"
)]
pub struct OtherFormat {
    /// The version of that format.
    pub format: u32,
}

/// Another process owns the state now.
#[derive(Debug, thiserror::Error)]
#[error(
    "another process has taken over the state (--state), or removed it: its owner is {owner}, and this is {own}; this run \
     ends"
)]
pub struct Superseded {
    /// The number of the new owner.
    pub owner: u64,
    /// The number of this process.
    pub own: u64,
}

/// Another run has claimed the state, and this one was only started again.
#[derive(Debug, thiserror::Error)]
#[error("{owner} has taken over the state, so this run is not started again (--restart)")]
pub struct TakenOver {
    /// The process that has.
    pub owner: String,
}

/// Returns the content of an object, if it is there and undamaged.
pub fn checked(store: &dyn Store, file: &str, size: u64, crc32: u32) -> anyhow::Result<Vec<u8>> {
    let content = store.get(file).with_context(|| format!("reading {file}"))?;
    let content = content.with_context(|| format!("{file} is missing"))?;
    if content.len() as u64 != size {
        bail!("{file} has {} bytes instead of {size}", content.len());
    }
    if crc32fast::hash(&content) != crc32 {
        bail!("the checksum of {file} is wrong");
    }
    Ok(content)
}

/// Returns the names of the checkpoints, the newest one first.
pub fn names(store: &dyn Store) -> io::Result<Vec<String>> {
    let objects = store.list(CHECKPOINTS)?.into_iter().map(|(name, _)| name);
    let mut names: Vec<String> = objects.filter(|name| name.ends_with(".json")).collect();
    names.sort_unstable_by(|one, other| other.cmp(one));
    Ok(names)
}

/// Returns the newest complete checkpoint; `None` if there is no checkpoint. A damaged one is skipped, and the log names
/// it.
///
/// # Errors
/// The store can't be read, a checkpoint has another format, or all are damaged.
pub fn newest(store: &dyn Store) -> anyhow::Result<Option<Manifest>> {
    let names = names(store)?;
    if names.is_empty() {
        return Ok(None);
    }
    for name in names {
        let Some(content) = store.get(&name)? else { continue };
        let manifest = Manifest::parse(&content);
        let checked = manifest.and_then(|manifest| {
            manifest.check(store)?;
            Ok(manifest)
        });
        match checked {
            Ok(manifest) => return Ok(Some(manifest)),
            Err(error) if error.is::<OtherFormat>() || error.is::<io::Error>() => {
                return Err(error.context(name));
            }
            Err(error) => tracing::warn!(
                checkpoint = name,
                error = format!("{error:#}"),
                "a checkpoint is damaged: the one before it is used"
            ),
        }
    }
    bail!(
        "all checkpoints are damaged (the log says how): restore the directory, or start over with another one"
    )
}

/// Deletes the objects that no checkpoint refers to any more, now that `kept` are the newest ones: checkpoints older
/// than these, and objects that `written` names, by this process, which these don't refer to.
pub fn delete_others(
    store: &dyn Store,
    kept: &[&Manifest],
    written: &mut BTreeSet<String>,
) -> io::Result<()> {
    let Some(oldest) = kept.iter().map(|manifest| manifest.name()).min() else { return Ok(()) };
    for name in names(store)?.into_iter().filter(|name| *name < oldest) {
        store.delete(&name)?;
    }
    let used: BTreeSet<&str> = kept.iter().flat_map(|manifest| manifest.files()).collect();
    for file in written.extract_if(.., |file| !used.contains(file.as_str())) {
        store.delete(&file)?;
    }
    Ok(())
}
