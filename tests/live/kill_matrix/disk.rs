//! Faults of the directory of a state.

use std::fs;
use std::path::Path;

use floodmark::state::manifest::{checked, names};
use floodmark::state::{Directory, Manifest, Store};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::replay::run::Live;
use crate::replay::traffic::Random;

/// Exchanges a folder of a state and an empty file, or the other way round. No process sees neither.
pub(super) fn exchange(state: &Path, folder: &str) {
    let (folder, file) = (state.join(folder), state.join("blocker"));
    if !file.exists() {
        // A run that was ended early has not created the folder.
        fs::create_dir_all(&folder).expect("a folder of the state");
        fs::write(&file, "").expect("a file");
    }
    renameat2(AT_FDCWD, &folder, AT_FDCWD, &file, RenameFlags::RENAME_EXCHANGE)
        .expect("an exchange of two names");
}

/// Bounds the size of new files of all processes of a run; `unlimited` lifts the bound.
pub(super) fn bound_files(run: &Live, bytes: &str) {
    for process in run.processes() {
        let mut prlimit = std::process::Command::new("prlimit");
        // A process that has ended has no limits.
        let _ = prlimit.args(["--pid", &process, &format!("--fsize={bytes}:")]).status();
    }
}

/// Returns the undamaged checkpoints, the newest one first.
fn sound(store: &Directory) -> Vec<Manifest> {
    let read = |name: &String| {
        let content = store.get(name).expect("the folder can be read")?;
        let manifest = Manifest::parse(&content).ok()?;
        let mut parts = manifest.windows.values().flat_map(|window| &window.parts);
        let has_parts = parts.all(|part| checked(store, &part.file, part.size, part.crc32).is_ok());
        (has_parts && manifest.read_limits(store).is_ok()).then_some(manifest)
    };
    names(store).expect("the folder can be read").iter().filter_map(read).collect()
}

/// Returns the name of the newest checkpoint.
pub(super) fn newest(state: &Path) -> Option<String> {
    let store = Directory::open(state).expect("a directory");
    names(&store).ok()?.into_iter().next()
}

/// Loses writes as a loss of power may: unfinished files are gone, and the newest checkpoint is damaged if there is
/// another one. Returns whether the next run has to skip a checkpoint.
pub(super) fn lose_writes(state: &Path, random: &mut Random) -> bool {
    let store = Directory::open(state).expect("a directory");
    for folder in ["", "checkpoints", "totals", "limits", "claims"] {
        let Ok(entries) = fs::read_dir(state.join(folder)) else { continue };
        for entry in entries {
            let path = entry.expect("an entry").path();
            if path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(".unfinished-"))
            {
                fs::remove_file(path).expect("it is a file");
            }
        }
    }
    let checkpoints = sound(&store);
    let [newest, before, ..] = &checkpoints[..] else { return false };
    let own: Vec<&str> =
        newest.files().filter(|file| before.files().all(|other| other != *file)).collect();
    let file = match random.below(4) {
        0 => {
            fs::remove_file(state.join(newest.name())).expect("it is a file");
            return false;
        }
        1 if !own.is_empty() => random.pick(&own).to_owned(),
        _ => newest.name(),
    };
    let content = fs::read(state.join(&file)).expect("it is a file");
    let size = random.below(content.len() as u64) as usize;
    fs::write(state.join(&file), &content[..size]).expect("it can be written");
    true
}
