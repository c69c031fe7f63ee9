use std::fs;
use std::os::unix::fs::symlink;
use std::sync::mpsc::channel;

use super::super::{EditReceiver, Feed};
use super::*;

const ROW: &str = r#"{"limit_name":"max","limit_value":VALUE,"effective_date":"2026-01-01"}"#;

/// Time limit for reading a change, generous even on a busy machine.
const STUCK_AFTER: Duration = Duration::from_secs(60);

fn row(value: u32) -> String {
    ROW.replace("VALUE", &value.to_string())
}

/// The values of added rows.
fn values(edits: &Edits) -> Vec<String> {
    let new = edits.iter().filter(|(_, diff)| *diff > 0);
    new.map(|(row, _)| row.value.as_ref().map_or("null".into(), |value| value.text().into()))
        .collect()
}

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Place { directory: tempfile::tempdir().unwrap() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file beside another one and renames it into the place of that.
    fn replace(&self, name: &str, text: &str) {
        fs::write(self.at("next"), text).unwrap();
        fs::rename(self.at("next"), self.at(name)).unwrap();
    }

    fn follow(&self, name: &str) -> EditReceiver {
        let (feed, _) = Feed::open(&Options::file(self.at(name))).ok().unwrap();
        feed.follow(|| ()).unwrap()
    }
}

fn feed(text: &str) -> (Place, PathBuf, FileFeed, Edits) {
    let place = Place::new();
    let path = place.at("limits.json");
    fs::write(&path, text).unwrap();
    let (feed, edits) = FileFeed::open(&path, &Options::file(&path)).ok().unwrap();
    (place, path, feed, edits)
}

#[test]
fn file_that_changes_while_it_is_read_first_is_read_again() {
    let place = Place::new();
    let path = place.at("limits.json");
    for (changes, readings) in [(0, 1), (1, 2), (usize::MAX, ATTEMPTS)] {
        fs::write(&path, row(1)).unwrap();
        let mut count = 0;
        let (len, stamp) = read_stable(&path, |file| {
            count += 1;
            let len = file.metadata()?.len();
            if count <= changes {
                fs::write(&path, row(1) + &" ".repeat(count))?;
            }
            Ok(len)
        })
        .unwrap();
        assert_eq!(count, readings);
        assert_eq!(len == stamp.len, changes < ATTEMPTS, "{changes} changes");
    }
}

fn next(changes: &EditReceiver) -> Vec<String> {
    values(&changes.next(STUCK_AFTER).expect("the feed reads the change"))
}

#[test]
fn missing_or_broken_file_at_the_start_is_an_error() {
    let place = Place::new();
    let path = place.at("limits.json");
    let exit = || FileFeed::open(&path, &Options::file(&path)).err().unwrap().exit;
    assert_eq!(exit(), Exit::NoInput);
    fs::write(&path, "[{").unwrap();
    assert_eq!(exit(), Exit::BadConfig);
}

#[test]
fn poll_returns_only_new_valid_rows_and_reports_faults() {
    let (place, path, mut feed, edits) = feed(&row(1));
    assert_eq!(values(&edits), ["1"]);
    assert_eq!(feed.poll(FileEvents::Complete, false), None);
    place.replace("limits.json", &(row(2) + "\n" + &row(2).replace("max", "other")));
    assert_eq!(
        feed.poll(FileEvents::Complete, false).map(|edits| values(&edits)),
        Some(vec!["2".into(); 2])
    );
    assert_eq!(feed.poll(FileEvents::Complete, false), None);
    // The file is broken, then removed: the limits stay, and the feed's health has the newest fault.
    place.replace("limits.json", &row(3)[..20]);
    assert_eq!(feed.poll(FileEvents::Complete, false), None);
    let (_, why) = feed.health().fault().expect("it is broken");
    assert!(why.contains("line 1, column 20"), "{why}");
    fs::remove_file(&path).unwrap();
    feed.missing_since = Instant::now().checked_sub(POLL_INTERVAL);
    assert_eq!(feed.poll(FileEvents::Nearby, false), None);
    assert!(feed.health().fault().expect("it is gone").1.contains("No such file"));
    // One invalid row is refused, and the others hold.
    place.replace("limits.json", &(row(4) + "\n" + &row(5).replace("2026-01-01", "soon")));
    assert_eq!(
        feed.poll(FileEvents::Complete, false).map(|edits| values(&edits)),
        Some(vec!["4".into()])
    );
    assert_eq!(feed.health().fault(), None);
}

#[test]
fn file_that_still_changes_is_read_once_it_rests_or_is_closed() {
    let (place, path, mut feed, _) = feed(&row(1));
    let both = format!("[{},{}]", row(2), row(2).replace("max", "other"));
    fs::write(&path, &both[..both.len() / 2]).unwrap();
    assert_eq!(feed.poll(FileEvents::None, false), None);
    assert_eq!(feed.poll(FileEvents::Nearby, false), None, "something else was moved");
    fs::write(&path, &both).unwrap();
    assert_eq!(feed.poll(FileEvents::None, false), None);
    // The file has stayed the same from one poll to the next.
    assert_eq!(
        feed.poll(FileEvents::None, false).map(|edits| values(&edits)),
        Some(vec!["2".into(); 2])
    );
    // A file that was closed, or replaced by another one, need not wait.
    fs::write(&path, row(3)).unwrap();
    assert_eq!(
        feed.poll(FileEvents::Complete, false).map(|edits| values(&edits)),
        Some(vec!["3".into()])
    );
    place.replace("limits.json", &row(4));
    assert_eq!(
        feed.poll(FileEvents::Nearby, false).map(|edits| values(&edits)),
        Some(vec!["4".into()])
    );
}

#[test]
fn file_that_a_writer_has_open_waits_until_it_is_closed() {
    let (_place, path, mut feed, _) = feed(&row(1));
    fs::write(&path, row(2) + "\n").unwrap();
    for _ in 0..3 {
        assert_eq!(feed.poll(FileEvents::None, true), None);
    }
    assert_eq!(
        feed.poll(FileEvents::Complete, false).map(|edits| values(&edits)),
        Some(vec!["2".into()])
    );
    // A file that has just been emptied is about to be filled.
    fs::write(&path, "").unwrap();
    for _ in 0..3 {
        assert_eq!(feed.poll(FileEvents::None, false), None);
    }
    assert_eq!(feed.poll(FileEvents::Complete, false).map(|edits| edits.len()), Some(1));
}

/// A writer empties the file to write in place, and only then the feed receives the end of the write before.
#[test]
fn file_that_was_just_emptied_is_polled_once_more() {
    let (_place, path, mut feed, _) = feed(&row(1));
    fs::write(&path, "").unwrap();
    assert_eq!(feed.poll(FileEvents::Complete, false), None);
    fs::write(&path, row(2)).unwrap();
    assert_eq!(
        feed.poll(FileEvents::Complete, false).map(|edits| values(&edits)),
        Some(vec!["2".into()])
    );
    // Nobody writes to the file again: it was emptied on purpose.
    fs::write(&path, "").unwrap();
    assert_eq!(feed.poll(FileEvents::Complete, false), None);
    assert_eq!(feed.poll(FileEvents::None, false).map(|edits| edits.len()), Some(1));
}

/// Returns the instant `long` ago.
fn ago(long: Duration) -> Instant {
    Instant::now().checked_sub(long).expect("the machine runs for longer")
}

#[test]
fn array_or_object_whose_writer_keeps_it_open_is_read_once_it_rests() {
    use std::io::Write;
    let place = Place::new();
    fs::write(place.at("limits.json"), row(1)).unwrap();
    let changes = place.follow("limits.json");
    let mut file = File::create(place.at("limits.json")).unwrap();
    write!(file, "[{},", row(2)).unwrap();
    assert!(changes.next(3 * POLL_INTERVAL).is_none(), "half an array is no array");
    writeln!(file, "{}]", row(3).replace("max", "other")).unwrap();
    assert_eq!(next(&changes), ["2", "3"]);
    // The writer writes one object by the same handle.
    file.set_len(0).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    write!(file, "{}", row(4)).unwrap();
    assert_eq!(next(&changes), ["4"]);
}

#[test]
fn json_lines_whose_writer_keeps_them_open_are_read_after_a_minute() {
    let (_place, path, mut feed, _) = feed(&row(1));
    let lines = row(2) + "\n" + &row(2).replace("max", "other") + "\n";
    fs::write(&path, &lines).unwrap();
    for _ in 0..3 {
        assert_eq!(feed.poll(FileEvents::None, true), None);
    }
    // A writer who adds a line now and then is read as late as one who has stopped.
    feed.unread_since = Some(ago(OPEN_WRITER_TIMEOUT));
    fs::write(&path, lines.clone() + &row(3).replace("max", "third") + "\n").unwrap();
    assert_eq!(feed.poll(FileEvents::None, true), None, "it has just changed");
    let read = feed.poll(FileEvents::None, true).map(|edits| values(&edits));
    assert_eq!(read, Some(vec!["2".into(), "2".into(), "3".into()]));
    // Half a line is no line, however long it stands there.
    fs::write(&path, &lines[..lines.len() - 9]).unwrap();
    assert_eq!(feed.poll(FileEvents::None, true), None);
    assert_eq!(feed.poll(FileEvents::None, true), None);
    assert_eq!(feed.health().fault(), None, "the rest of it may come");
    feed.unread_since = Some(ago(OPEN_WRITER_TIMEOUT));
    assert_eq!(feed.poll(FileEvents::None, true), None);
    assert!(feed.health().fault().expect("it is broken").1.contains("line 2"));
}

#[test]
fn json_lines_on_a_mount_without_notifications_rest_longer_than_arrays() {
    let (place, path, mut feed, _) = feed(&row(1));
    let lines = row(2) + "\n" + &row(2).replace("max", "other") + "\n";
    fs::write(&path, &lines).unwrap();
    for _ in 0..3 {
        assert_eq!(feed.poll(FileEvents::None, false), None);
    }
    feed.last_seen = feed.last_seen.map(|(stamp, _)| (stamp, ago(IN_PLACE_REST)));
    assert_eq!(
        feed.poll(FileEvents::None, false).map(|edits| values(&edits)),
        Some(vec!["2".into(); 2])
    );
    // A file that was renamed into its place without a notification.
    place.replace("limits.json", &lines.replace(":2,", ":3,"));
    assert_eq!(feed.poll(FileEvents::None, false), None);
    assert_eq!(
        feed.poll(FileEvents::None, false).map(|edits| values(&edits)),
        Some(vec!["3".into(); 2])
    );
}

#[test]
fn file_that_never_rests_is_a_fault_after_a_minute() {
    let (_place, path, mut feed, _) = feed(&row(1));
    let grow = |lines: usize| {
        let text: String = (0..lines).map(|_| row(1) + "\n").collect();
        fs::write(&path, text).unwrap();
    };
    grow(2);
    assert_eq!(feed.poll(FileEvents::None, true), None);
    feed.unread_since = Some(ago(OPEN_WRITER_TIMEOUT));
    for lines in 3..5 {
        grow(lines);
        assert_eq!(feed.poll(FileEvents::None, true), None);
        let (_, why) = feed.health().fault().expect("the limits are old");
        assert!(why.contains("without a second of rest"), "{why}");
    }
    assert_eq!(feed.poll(FileEvents::None, true), Some(Edits::new()), "the rows are the same");
    assert_eq!(feed.health().fault(), None);
}

#[test]
fn file_missing_for_a_moment_is_no_fault() {
    let (place, path, mut feed, _) = feed(&row(1));
    // As editors do that keep the old file as a backup.
    fs::rename(&path, place.at("limits.json~")).unwrap();
    assert_eq!(feed.poll(FileEvents::Nearby, false), None);
    assert_eq!(feed.health().fault(), None);
    fs::write(&path, row(2)).unwrap();
    assert_eq!(
        feed.poll(FileEvents::Complete, false).map(|edits| values(&edits)),
        Some(vec!["2".into()])
    );
    fs::remove_file(&path).unwrap();
    assert_eq!(feed.poll(FileEvents::Nearby, false), None);
    feed.missing_since = feed.missing_since.map(|_| ago(POLL_INTERVAL));
    assert_eq!(feed.poll(FileEvents::None, false), None);
    assert!(feed.health().fault().expect("it stays away").1.contains("No such file"));
}

#[test]
fn slow_writer_deletes_nothing() {
    use std::io::Write;
    let place = Place::new();
    fs::write(place.at("limits.json"), row(1)).unwrap();
    let changes = place.follow("limits.json");
    // As a shell does for a command that takes its time.
    let mut file = File::create(place.at("limits.json")).unwrap();
    assert!(changes.next(3 * POLL_INTERVAL).is_none());
    writeln!(file, "{}", row(2)).unwrap();
    assert!(changes.next(3 * POLL_INTERVAL).is_none());
    writeln!(file, "{}", row(3).replace("max", "other")).unwrap();
    drop(file);
    assert_eq!(next(&changes), ["2", "3"]);
}

#[test]
fn pipe_in_place_of_the_file_is_a_fault_until_a_file_replaces_it() {
    let place = Place::new();
    fs::write(place.at("limits.json"), row(1)).unwrap();
    let (feed, _) = Feed::open(&Options::file(place.at("limits.json"))).ok().unwrap();
    let health = feed.health();
    let changes = feed.follow(|| ()).unwrap();
    nix::unistd::mkfifo(&place.at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::rename(place.at("pipe"), place.at("limits.json")).unwrap();
    let began = Instant::now();
    while !health.fault().is_some_and(|(_, why)| why.contains("no regular file")) {
        assert!(began.elapsed() < STUCK_AFTER, "{:?}", health.fault());
        std::thread::sleep(Duration::from_millis(5));
    }
    place.replace("limits.json", &row(2));
    assert_eq!(next(&changes), ["2"]);
    assert_eq!(health.fault(), None);
}

#[test]
fn failed_reading_is_retried_before_the_refresh_interval_ends() {
    let place = Place::new();
    fs::write(place.at("limits.json"), row(1)).unwrap();
    let options = Options::file(place.at("limits.json"));
    let hour = Duration::from_secs(3600);
    let options = Options { refresh: Some(hour), ..options };
    let (mut feed, _) = FileFeed::open(&place.at("limits.json"), &options).ok().unwrap();
    assert_eq!(feed.time_until_poll(hour), hour);
    fs::remove_file(place.at("limits.json")).unwrap();
    assert_eq!(feed.poll(FileEvents::None, false), None);
    assert_eq!(feed.time_until_poll(hour), RETRY_INTERVAL);
    place.replace("limits.json", "[{");
    feed.poll(FileEvents::Complete, false);
    assert_eq!(feed.time_until_poll(hour), RETRY_INTERVAL);
    place.replace("limits.json", &row(2));
    assert_eq!(
        feed.poll(FileEvents::Complete, false).map(|edits| values(&edits)),
        Some(vec!["2".into()])
    );
    assert_eq!(feed.time_until_poll(hour), hour);
}

#[test]
fn file_that_replaces_another_one_is_read() {
    let place = Place::new();
    fs::write(place.at("limits.json"), row(1)).unwrap();
    let (feed, _) = Feed::open(&Options::file(place.at("limits.json"))).ok().unwrap();
    let (wake, woken) = channel::<()>();
    let changes = feed.follow(move || wake.send(()).unwrap_or_default()).unwrap();
    for value in 2..5 {
        place.replace("limits.json", &row(value));
        assert_eq!(next(&changes), [value.to_string()]);
        woken.recv_timeout(STUCK_AFTER).expect("the receiver is woken");
    }
    // The file is written in place, removed, and created anew.
    fs::write(place.at("limits.json"), row(5)).unwrap();
    assert_eq!(next(&changes), ["5"]);
    fs::remove_file(place.at("limits.json")).unwrap();
    fs::write(place.at("limits.json"), row(6)).unwrap();
    assert_eq!(next(&changes), ["6"]);
}

#[test]
fn file_behind_changed_links_is_read() {
    let place = Place::new();
    // As a ConfigMap is mounted: a new version is a new directory, and one link is moved.
    let version = |name: &str, value| {
        fs::create_dir(place.at(name)).unwrap();
        fs::write(place.at(name).join("limits.json"), row(value)).unwrap();
        symlink(name, place.at("..data_tmp")).unwrap();
        fs::rename(place.at("..data_tmp"), place.at("..data")).unwrap();
    };
    version("..v1", 1);
    symlink("..data/limits.json", place.at("limits.json")).unwrap();
    let changes = place.follow("limits.json");
    for value in 2..5 {
        version(&format!("..v{value}"), value);
        assert_eq!(next(&changes), [value.to_string()]);
        fs::remove_dir_all(place.at(&format!("..v{}", value - 1))).unwrap();
    }
    // The file behind the links.
    fs::write(place.at("..v4/limits.json"), row(5)).unwrap();
    assert_eq!(next(&changes), ["5"]);
}

#[test]
fn file_in_a_directory_that_replaces_another_one_is_read() {
    let place = Place::new();
    let directory = |name: &str, value| {
        fs::create_dir(place.at(name)).unwrap();
        fs::write(place.at(name).join("limits.json"), row(value)).unwrap();
    };
    directory("now", 1);
    let changes = place.follow("now/limits.json");
    directory("later", 2);
    fs::rename(place.at("now"), place.at("before")).unwrap();
    fs::rename(place.at("later"), place.at("now")).unwrap();
    assert_eq!(next(&changes), ["2"]);
    fs::write(place.at("now/limits.json"), row(3)).unwrap();
    assert_eq!(next(&changes), ["3"]);
}

#[test]
fn file_with_a_refresh_interval_is_read_at_that_interval() {
    let place = Place::new();
    fs::write(place.at("limits.json"), row(1)).unwrap();
    let refresh = Duration::from_secs(2);
    let options = Options { refresh: Some(refresh), ..Options::file(place.at("limits.json")) };
    let began = Instant::now();
    let (feed, _) = Feed::open(&options).ok().unwrap();
    place.replace("limits.json", &row(2));
    let changes = feed.follow(|| ()).unwrap();
    assert_eq!(next(&changes), ["2"]);
    place.replace("limits.json", &row(3));
    assert_eq!(next(&changes), ["3"]);
    assert!(began.elapsed() >= 2 * refresh, "{:?}", began.elapsed());
}
