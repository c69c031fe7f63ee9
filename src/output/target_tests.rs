use std::fs;
use std::io::Read;

use anyhow::{Context, ensure};

use super::*;

fn write(target: &mut Target, line: &str) -> anyhow::Result<()> {
    match target.write(line.as_bytes()) {
        (written, None) if written == line.len() => Ok(()),
        other => anyhow::bail!("{line}: {other:?}"),
    }
}

#[test]
fn file_moved_away_is_not_written_to_any_more() -> anyhow::Result<()> {
    let place = tempfile::tempdir()?;
    let (path, moved) = (place.path().join("alerts"), place.path().join("alerts.1"));
    fs::write(&path, "before\n")?;
    let mut file = Target::open(&path)?;
    write(&mut file, "one\n")?;
    fs::rename(&path, &moved)?;
    write(&mut file, "two\n")?;
    fs::remove_file(&path)?;
    write(&mut file, "three\n")?;
    // Truncated by a program that copies it first, such as logrotate with copytruncate.
    File::options().write(true).open(&path)?.set_len(0)?;
    write(&mut file, "four\n")?;
    let read = |path: &Path| fs::read_to_string(path).context("reading");
    assert_eq!((read(&moved)?, read(&path)?), ("before\none\n".into(), "four\n".into()));
    Ok(())
}

#[test]
fn file_that_ends_with_half_a_line_is_continued_on_a_new_line() -> anyhow::Result<()> {
    let place = tempfile::tempdir()?;
    let path = place.path().join("alerts");
    for (before, after) in [
        ("", "one\ntwo\n"),
        ("whole\n", "whole\none\ntwo\n"),
        ("whole\n{\"event\":\"rai", "whole\n{\"event\":\"rai\none\ntwo\n"),
    ] {
        fs::write(&path, before)?;
        let mut file = Target::open(&path)?;
        write(&mut file, "one\n")?;
        write(&mut file, "two\n")?;
        assert_eq!(fs::read_to_string(&path)?, after);
    }
    Ok(())
}

#[test]
fn line_that_was_cut_is_removed_unless_others_have_written() -> anyhow::Result<()> {
    let place = tempfile::tempdir()?;
    let path = place.path().join("alerts");
    let mut target = Target::open(&path)?;
    write(&mut target, "one\nhal")?;
    let opened = target.opened.as_mut().context("a file")?;
    ensure!(opened.undo_append(3));
    assert_eq!(fs::read_to_string(&path)?, "one\n");
    write(&mut target, "hal")?;
    File::options().append(true).open(&path)?.write_all(b"another")?;
    let opened = target.opened.as_mut().context("a file")?;
    ensure!(!opened.undo_append(3));
    opened.cut = opened.ends_with_part_of_a_line();
    write(&mut target, "two\n")?;
    assert_eq!(fs::read_to_string(&path)?, "one\nhalanother\ntwo\n");
    Ok(())
}

#[test]
fn fifo_receives_whole_lines_in_pieces() -> anyhow::Result<()> {
    let place = tempfile::tempdir()?;
    let path = place.path().join("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU)?;
    let mut target = Target::open(&path)?;
    ensure!(matches!(target.write(b"one\n"), (0, Some(Obstacle::NoReader))));
    ensure!(matches!(target.check_reader(), Some(Obstacle::NoReader)));
    let flags = OFlag::O_NONBLOCK.bits();
    let mut reader = File::options().read(true).custom_flags(flags).open(&path)?;
    ensure!(target.check_reader().is_none());
    let line = [vec![b'x'; 999], b"\n".to_vec()].concat();
    let lines = line.repeat(200);
    let mut written = 0;
    let obstacle = loop {
        let (some, obstacle) = target.write(&lines[written..]);
        written += some;
        if obstacle.is_some() {
            break obstacle;
        }
    };
    ensure!(matches!(obstacle, Some(Obstacle::NotRead)), "{obstacle:?}");
    assert_eq!((written % line.len(), written > PIECE), (0, true));
    let mut read = vec![0; written];
    reader.read_exact(&mut read)?;
    drop(reader);
    ensure!(matches!(target.check_reader(), Some(Obstacle::NoReader)));
    Ok(())
}

#[test]
fn device_that_is_full_fails_at_each_attempt() -> anyhow::Result<()> {
    let mut target = Target::open(Path::new("/dev/full"))?;
    for _ in 0..2 {
        let (written, obstacle) = target.write(b"one\n");
        ensure!(written == 0 && matches!(obstacle, Some(Obstacle::Failed(_))), "{obstacle:?}");
    }
    ensure!(!target.is_file());
    let missing = Target::open(Path::new("no/such/folder"));
    ensure!(missing.is_err_and(|error| error.kind() == ErrorKind::NotFound));
    Ok(())
}

#[test]
fn pieces_are_whole_lines_where_lines_are_short() {
    assert_eq!(piece(b"ab\ncd\n", 100), b"ab\ncd\n");
    assert_eq!(piece(b"ab\ncd\n", 5), b"ab\n");
    assert_eq!(piece(b"ab\ncd\n", 3), b"ab\n");
    assert_eq!(piece(b"abcdef\n", 3), b"abc");
}
