use std::fs;
use std::path::PathBuf;

use super::*;
use crate::source::LeaderTime;
use crate::state::{CLAIMS, Directory};

/// A state with the log of a file.
struct Logging {
    place: tempfile::TempDir,
    store: Arc<dyn Store>,
}

impl Logging {
    fn new() -> Self {
        let place = tempfile::tempdir().expect("a directory");
        let store = Directory::open(&place.path().join("state")).expect("it is created");
        Logging { place, store: Arc::new(store) }
    }

    fn path(&self) -> PathBuf {
        self.place.path().join("out.jsonl")
    }

    fn end(&self) -> Option<FileEnd> {
        fs::metadata(self.path()).ok().and_then(|metadata| FileEnd::of(&metadata))
    }

    /// Logs lines of ticks from `first` on, and writes them to the file.
    fn log(&self, first: u64, lines: &[&str]) {
        let writer = self.writer(self.read());
        let mut end = self.end();
        for (tick, lines) in (first..).zip(lines) {
            writer.add(tick_with(tick, end, lines));
            end = end.map(|end| FileEnd { length: end.length + lines.len() as u64, ..end });
        }
        self.finish(writer);
        let mut file = OpenOptions::new().append(true).open(self.path()).expect("the file");
        lines.iter().for_each(|lines| file.write_all(lines.as_bytes()).expect("it is written"));
    }

    fn writer(&self, log: LineLog) -> LineLogWriter {
        let outputs = vec!["out".to_owned()];
        LineLogWriter::start(self.store.clone(), self.owner(), log, outputs).expect("a thread")
    }

    /// Claims the state.
    fn owner(&self) -> u64 {
        let owner = self.store.list(CLAIMS).expect("a list").len() as u64 + 1;
        self.store.put(&format!("{CLAIMS}/{owner:08}"), b"").expect("it is written");
        owner
    }

    fn finish(&self, mut writer: LineLogWriter) {
        writer.finish().expect("it is logged");
        // The thread has ended, and dropped its store.
        while Arc::strong_count(&self.store) > 1 {
            thread::yield_now();
        }
    }

    fn read(&self) -> LineLog {
        LineLog::read(&*self.store).expect("it is there")
    }

    fn complete(&self) -> Completed {
        self.read().complete("out", &self.path()).expect("the file can be read")
    }

    fn cut(&self, length: u64) {
        let file = OpenOptions::new().write(true).open(self.path()).expect("the file");
        file.set_len(length).expect("it can be cut");
    }
}

fn tick_with(tick: u64, before: Option<FileEnd>, lines: &str) -> LinesOfTick {
    let time = LeaderTime { now: tick, horizon: tick, undecided: false };
    let (marks, edits) = (Vec::new(), Vec::new());
    let (previous, takes_records, holds_back) = (tick - 1, true, false);
    let (rules, outputs) = (None, None);
    let record = TickRecord {
        tick,
        previous,
        time,
        takes_records,
        rules,
        outputs,
        marks,
        edits,
        holds_back,
    };
    LinesOfTick { record, lines: vec![(before, Arc::new(lines.as_bytes().to_vec()))] }
}

#[test]
fn file_cut_anywhere_is_completed_byte_for_byte() {
    let logging = Logging::new();
    fs::write(logging.path(), "before\n").expect("it is written");
    logging.log(1, &["one\n", "", "two\nthree\n"]);
    logging.log(4, &["four\n"]);
    let whole = "before\none\ntwo\nthree\nfour\n";
    assert_eq!(logging.complete(), Completed::Whole);
    for cut in 7..whole.len() as u64 {
        logging.cut(cut);
        assert_eq!(logging.complete(), Completed::Appended(whole.len() as u64 - cut));
        assert_eq!(fs::read_to_string(logging.path()).expect("text"), whole);
    }
    assert_eq!(logging.read().records.len(), 4);
}

#[test]
fn file_that_is_another_one_is_left_alone() {
    let logging = Logging::new();
    fs::write(logging.path(), "before\n").expect("it is written");
    logging.log(1, &["one\n", "two\n"]);
    // Shortened beyond what the log has, changed, another file, none.
    logging.cut(3);
    let other = |length: Option<u64>| match logging.complete() {
        Completed::Other { expected, found } => {
            assert_eq!((expected, found.map(|end| end.length)), (15, length));
        }
        completed => panic!("{completed:?}"),
    };
    other(Some(3));
    let file = OpenOptions::new().write(true).open(logging.path()).expect("the file");
    std::os::unix::fs::FileExt::write_all_at(&file, b"changed, longer", 0).expect("it is written");
    other(Some(15));
    let moved = logging.place.path().join("moved");
    fs::rename(logging.path(), moved).expect("it is there");
    other(None);
    fs::write(logging.path(), "").expect("it is written");
    other(Some(0));
}

#[test]
fn records_before_a_tick_are_removed_and_damaged_ones_are_named() {
    let logging = Logging::new();
    fs::write(logging.path(), "").expect("it is written");
    (1..=3).for_each(|tick| logging.log(tick, &["line\n"]));
    let log = logging.read();
    assert_eq!((log.records.len(), log.objects.len()), (3, 3));
    let writer = logging.writer(log);
    writer.forget(3);
    writer.add(tick_with(4, logging.end(), "line\n"));
    logging.finish(writer);
    let log = logging.read();
    let ticks: Vec<u64> = log.records.iter().map(|record| record.tick).collect();
    assert_eq!(ticks, [3, 4]);
    let name = log.objects.keys().next().expect("an object").clone();
    logging.store.put(&name, b"{}").expect("it is written");
    let damaged = logging.read();
    assert_eq!(damaged.damaged.len(), 1);
    assert!(damaged.damaged[0].contains(&name), "{:?}", damaged.damaged);
}

#[test]
fn log_of_a_state_that_another_process_has_claimed_gets_nothing_more() {
    let logging = Logging::new();
    fs::write(logging.path(), "").expect("it is written");
    let writer = logging.writer(LineLog::default());
    logging.owner();
    writer.add(tick_with(1, logging.end(), "line\n"));
    let result = writer.results.recv().expect("a result");
    let error = result.expect_err("another process owns the state").error;
    assert!(error.to_string().contains("has taken over the state"), "{error}");
    assert_eq!(logging.read().records.len(), 0);
}
