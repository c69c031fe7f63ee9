//! `floodmark state`: lists, checks, tidies and removes the state of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use serde_json::json;

use super::grid::Grid;
use crate::base::bucket::SCHEME;
use crate::base::date::format_ms;
use crate::base::error::{Exit, Failure, Outcome};
use crate::state::manifest::{self, CHECKPOINTS, LIMITS, OtherFormat, TOTALS, checked};
use crate::state::totals::Groups;
use crate::state::{self, Identity, LineLog, Manifest, Place, RunRules, SavedPart, Store, TICKS};

/// List, check, tidy or remove the state of a run (`run --state`)
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show the checkpoints of a state, the newest one first, and the options that it is bound to
    List {
        /// The directory of the state, or s3://BUCKET/PREFIX
        #[arg(value_name = "DIR|s3://…")]
        place: String,
        /// Print a JSON object for each checkpoint
        #[arg(long)]
        json: bool,
    },
    /// Read everything that the checkpoints refer to, and compare checksums, numbers and sums
    ///
    /// Exit code 65 if something is damaged.
    Check {
        /// The directory of the state, or s3://BUCKET/PREFIX
        #[arg(value_name = "DIR|s3://…")]
        place: String,
    },
    /// Remove everything but the newest complete checkpoint, such as what a run that was killed has left
    Prune {
        /// The directory of the state, or s3://BUCKET/PREFIX
        #[arg(value_name = "DIR|s3://…")]
        place: String,
    },
    /// Remove the state, so that the next run starts over
    Reset {
        /// The directory of the state, or s3://BUCKET/PREFIX
        #[arg(value_name = "DIR|s3://…")]
        place: String,
    },
}

/// Runs `floodmark state`.
pub fn run(args: &Args) -> Outcome {
    match &args.action {
        Action::List { place, json } => list(place, *json),
        Action::Check { place } => check(place),
        Action::Prune { place } => prune(place),
        Action::Reset { place } => reset(place),
    }
}

/// Opens a state that exists.
fn open(name: &str) -> Result<(Place, Identity), Failure> {
    let is_missing = !name.starts_with(SCHEME) && !Path::new(name).is_dir();
    let none = || {
        let error = anyhow!("\"{name}\" is no state: it has no {}", state::IDENTITY);
        Failure::new(Exit::NoInput, error)
    };
    // Opening a directory would create it.
    let place = if is_missing { return Err(none()) } else { Place::open(name)? };
    let identity = place.identity()?.ok_or_else(none)?;
    Ok((place, identity))
}

/// Opens a state that no run uses, and keeps others from it while `act` runs.
fn alone(name: &str, act: impl FnOnce(&dyn Store) -> anyhow::Result<()>) -> Outcome {
    let (place, _) = open(name)?;
    let store = &**place.store();
    let owner = format!("process {} (floodmark state)", std::process::id());
    let locked = store.lock(&owner).context("locking the state").map_err(Failure::from)?;
    let _lock = locked.map_err(|holder| {
        let why = anyhow!("{holder} uses the state \"{name}\": stop that run first");
        Failure::new(Exit::Unavailable, why)
    })?;
    // Without a lock, a run that goes on finds that it is not the owner any more.
    state::claim_next(store, &owner)?;
    act(store)?;
    Ok(Exit::Done)
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(anyhow!(error).context("writing to standard output").into())
        }
        _ => Ok(()),
    }
}

/// The checkpoints of a state, the newest one first, each with its name. One that can't be read is an error in its place.
fn checkpoints(store: &dyn Store) -> anyhow::Result<Vec<(String, anyhow::Result<Manifest>)>> {
    let read = |name: String| {
        let content = store.get(&name)?.unwrap_or_default();
        Ok((name, Manifest::parse(&content)))
    };
    manifest::names(store)?.into_iter().map(read).collect()
}

/// Bytes of the files that a checkpoint refers to.
fn bytes(manifest: &Manifest) -> u64 {
    let parts = manifest.windows.values().flat_map(|window| &window.parts);
    parts.map(|part| part.size).sum::<u64>() + manifest.limits.size
}

/// Returns the text for a tick; that of tick 0 is from before the first one.
fn tick_text(tick: u64) -> String {
    if tick == 0 { "before the first tick".to_owned() } else { format_ms(tick).to_string() }
}

fn list(name: &str, as_json: bool) -> Outcome {
    let (place, identity) = open(name)?;
    let checkpoints = checkpoints(&**place.store())?;
    if as_json {
        let line = |(name, manifest): &(String, anyhow::Result<Manifest>)| match manifest {
            Ok(manifest) => json!({
                "checkpoint": name,
                "format": manifest.format,
                "tick": manifest.tick,
                "windows": manifest.windows.len(),
                "totals": manifest.rows(),
                "limits": manifest.limits.rows,
                "bytes": bytes(manifest),
                "offsets": manifest.partitions.iter().map(|(partition, at)| {
                    (partition.to_string(), json!(at.offset))
                }).collect::<serde_json::Map<_, _>>(),
                "topic": manifest.binding.topic,
                "options": manifest.binding.options,
                "rules": rules(manifest).collect::<BTreeMap<_, _>>(),
            }),
            Err(error) => json!({ "checkpoint": name, "error": format!("{error:#}") }),
        };
        let lines: String = checkpoints.iter().map(|one| line(one).to_string() + "\n").collect();
        return print(&lines).map(|()| Exit::Done);
    }
    let mut grid =
        Grid::new(["checkpoint", "format", "tick", "windows", "totals", "limits", "bytes"]);
    let mut bound = String::new();
    for (name, manifest) in &checkpoints {
        let name = name.trim_start_matches(CHECKPOINTS).trim_start_matches('/').to_owned();
        match manifest {
            Ok(manifest) => {
                if bound.is_empty() {
                    bound = bound_text(manifest);
                }
                grid.push([
                    name,
                    manifest.format.to_string(),
                    tick_text(manifest.tick),
                    manifest.windows.len().to_string(),
                    manifest.rows().to_string(),
                    manifest.limits.rows.to_string(),
                    bytes(manifest).to_string(),
                ]);
            }
            Err(error) => {
                let nothing = String::new;
                let error = match error.is::<OtherFormat>() {
                    true => error.to_string(),
                    false => format!("damaged: {error:#}"),
                };
                grid.push([name, nothing(), error, nothing(), nothing(), nothing(), nothing()]);
            }
        }
    }
    print(&format!(
        "a state of kind {}, format {}\n\n{grid}\n{bound}",
        identity.kind, identity.format
    ))?;
    Ok(Exit::Done)
}

/// The options that hold until another run has other ones, with their values.
fn rules(manifest: &Manifest) -> impl Iterator<Item = (&'static str, String)> + use<> {
    let rules = RunRules::last(manifest.clock.iter(), manifest.rules.iter());
    rules.into_iter().flat_map(|rules| rules.options())
}

/// The topic, offsets and options of the newest checkpoint.
fn bound_text(manifest: &Manifest) -> String {
    let mut grid = Grid::new(["bound to", "value"]);
    grid.push(["--from (its topic)".into(), manifest.binding.topic.clone()]);
    for (option, value) in &manifest.binding.options {
        grid.push([option.clone(), value.clone()]);
    }
    let mut until_changed = Grid::new(["until it is changed", "value"]);
    rules(manifest).for_each(|(option, value)| until_changed.push([option.into(), value]));
    let mut offsets = Grid::new(["partition", "next offset", "event time"]);
    for (partition, position) in &manifest.partitions {
        let reached = position.reached.map(|at| format_ms(at).to_string()).unwrap_or_default();
        offsets.push([partition.to_string(), position.offset.to_string(), reached]);
    }
    format!("{grid}\n{until_changed}\n{offsets}")
}

fn check(name: &str) -> Outcome {
    let (place, _) = open(name)?;
    let store = &**place.store();
    let (mut text, mut exit) = (String::new(), Exit::Done);
    for (name, manifest) in checkpoints(store)? {
        let checked = manifest.and_then(|manifest| check_files(store, &manifest));
        match checked {
            Ok((files, totals)) => {
                text += &format!("{name}: {files} files, {totals} totals: sound\n")
            }
            Err(error) => {
                exit = Exit::BadData;
                text += &format!("{name}: {error:#}\n");
            }
        }
    }
    for damaged in LineLog::read(store)?.damaged {
        exit = Exit::BadData;
        text += &format!("{damaged}\n");
    }
    print(&text)?;
    Ok(exit)
}

/// Reads all files of a checkpoint. Returns the numbers of files and of totals.
fn check_files(store: &dyn Store, manifest: &Manifest) -> anyhow::Result<(usize, u64)> {
    let mut totals = 0;
    for part in manifest.windows.values().flat_map(|window| &window.parts) {
        check_part(store, part).with_context(|| part.file.clone())?;
        totals += part.rows;
    }
    let limits = manifest.read_limits(store)?;
    if limits.len() as u64 != manifest.limits.rows {
        bail!("{} rows of limits instead of {}", limits.len(), manifest.limits.rows);
    }
    if let Some(damaged) = limits.iter().find(|edit| edit.row.row().is_none()) {
        bail!("a row of limits is not one of this version: {damaged:?}");
    }
    Ok((manifest.files().count(), totals))
}

/// Compares the totals of a file with their number and sums.
fn check_part(store: &dyn Store, part: &SavedPart) -> anyhow::Result<()> {
    let mut groups = Groups::open(checked(store, &part.file, part.size, part.crc32)?)?;
    let (mut rows, mut bytes, mut packets) = (0, 0, 0);
    while let Some(group) = groups.next_group()? {
        rows += group.len() as u64;
        for (_, volume) in group {
            bytes += i128::from(volume.bytes);
            packets += i128::from(volume.packets);
        }
    }
    if (rows, bytes, packets) != (part.rows, part.bytes, part.packets) {
        bail!(
            "{rows} totals of {bytes} bytes and {packets} packets instead of {} of {} and {}",
            part.rows,
            part.bytes,
            part.packets
        );
    }
    Ok(())
}

fn prune(name: &str) -> Outcome {
    alone(name, |store| {
        let newest = manifest::newest(store)?.context("the state has no complete checkpoint")?;
        let name = newest.name();
        let kept: BTreeSet<&str> = newest.files().chain([name.as_str()]).collect();
        let (mut files, mut freed) = (0, 0);
        for folder in [CHECKPOINTS, TOTALS, LIMITS] {
            for (object, size) in store.list(folder)? {
                if !kept.contains(object.as_str()) {
                    store.delete(&object)?;
                    (files, freed) = (files + 1, freed + size);
                }
            }
        }
        print(&format!("removed {files} files of {freed} bytes; {name} is left\n"))
            .map_err(|failure| failure.error)
    })
}

fn reset(name: &str) -> Outcome {
    alone(name, |store| {
        for folder in [CHECKPOINTS, TOTALS, LIMITS, TICKS, state::CLAIMS] {
            for (object, _) in store.list(folder)? {
                store.delete(&object)?;
            }
        }
        // The last one: until then the state is known to be one.
        store.delete(state::IDENTITY)?;
        print("the state is removed: the next run with this directory starts over\n")
            .map_err(|failure| failure.error)
    })
}
