//! A named pipe that stays open: changes are emitted while input is still arriving.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;

use super::fold::{events, objects, text};
use super::pcap::{Packet, header, packet};
use super::run::{Place, STUCK_AFTER};

/// The write end of a named pipe that the program reads.
pub(crate) struct PipeFeed {
    pipe: File,
}

impl PipeFeed {
    /// Opens the pipe, once the program has, and writes the header of a capture.
    pub(crate) fn open(path: &Path) -> Self {
        PipeFeed::open_with(path, &header())
    }

    /// Opens the pipe, once the program has, and writes these bytes.
    pub(crate) fn open_with(path: &Path, bytes: &[u8]) -> Self {
        let (opened, wait) = channel();
        let name: PathBuf = path.to_owned();
        std::thread::spawn(move || opened.send(File::options().write(true).open(name)));
        let pipe = wait.recv_timeout(STUCK_AFTER).expect("the program opens the pipe");
        let mut feed = PipeFeed { pipe: pipe.expect("opening the pipe") };
        feed.write(bytes);
        feed
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.pipe.write_all(bytes).expect("the program reads the pipe");
    }

    pub(crate) fn packet(&mut self, packet: Packet) {
        self.write(&packet.record());
    }
}

/// A limit that single packets break, one that silence breaks, and one that nothing breaks.
pub(super) const LIMITS: &str = r#"
{"limit_name":"big","limit_value":1000,"effective_date":"1970-01-01"}
{"limit_name":"min","limit_value":1e9,"effective_date":"1970-01-01","per":"total"}
{"limit_name":"never","limit_value":1e30,"effective_date":"1970-01-01"}
"#;

#[test]
fn violation_is_emitted_when_the_next_tick_begins() {
    for variant in ["-w1", "-w2", "-n2", "--totals totals.csv --top 2"] {
        let place = Place::new();
        let pipe = place.fifo("pipe");
        place.write("limits.jsonl", LIMITS);
        let line = format!("replay pipe --limits limits.jsonl --window 1m {variant}");
        let mut run = place.floodmark(&line).start();
        let mut feed = PipeFeed::open(&pipe);
        let next_change = |run: &mut super::run::Live| {
            let line = objects(&run.line()).remove(0);
            (text(&line, "event").to_owned(), text(&line, "as_of").to_owned())
        };
        let raised = |at: &str| ("raised".to_owned(), format!("1970-01-01T00:{at}Z"));
        feed.packet(packet(1_100, "10.0.0.1", "10.0.0.2", 1200));
        feed.packet(packet(2_000, "10.0.0.1", "10.0.0.3", 20));
        assert_eq!(next_change(&mut run), raised("00:01"), "{variant}");
        // Each packet of a later tick completes the tick before.
        for second in 3..20 {
            feed.packet(packet(second * 1000, "10.0.0.9", &format!("10.0.1.{second}"), 5000));
            feed.packet(packet(second * 1000 + 999, "10.0.0.9", &format!("10.0.1.{second}"), 20));
            feed.packet(packet(second * 1000 + 1000, "10.0.0.1", "10.0.0.3", 20));
            assert_eq!(next_change(&mut run), raised(&format!("00:{second:02}")), "{variant}");
        }
        // The window closes while the pipe is open.
        feed.packet(packet(60_000, "10.0.0.1", "10.0.0.3", 20));
        feed.packet(packet(61_000, "10.0.0.1", "10.0.0.3", 20));
        assert_eq!(next_change(&mut run), raised("01:00"), "{variant}");
        drop(feed);
        let done = run.finish().expect(0).assert_stderr(&["counted 55 of 55 frames"]);
        // The end of input raises the `min` of the second window, and settles each violation.
        let events = events(&done.stdout);
        let count = |event| events.iter().filter(|line| line.starts_with(event)).count();
        let counts = [count("raised"), count("updated"), count("cleared")];
        assert_eq!(counts, [20, 20, 0], "{}", done.stdout);
    }
}

#[test]
fn violation_is_updated_once_a_tick_with_longer_ticks() {
    let place = Place::new();
    let pipe = place.fifo("pipe");
    place.write("limits.jsonl", LIMITS);
    let line = "replay pipe --limits limits.jsonl --window 1m --tick 10s --updates tick";
    let mut run = place.floodmark(line).start();
    let mut feed = PipeFeed::open(&pipe);
    for ms in [11_000, 12_000, 19_999] {
        feed.packet(packet(ms, "10.0.0.1", "10.0.0.2", 1200));
    }
    feed.packet(packet(20_000, "10.0.0.1", "10.0.0.2", 1200));
    assert_eq!(events(&run.line()), ["raised big 3600"]);
    feed.packet(packet(35_000, "10.0.0.1", "10.0.0.2", 1200));
    assert_eq!(events(&run.line()), ["updated big 4800"]);
    drop(feed);
    let done = run.finish().expect(0);
    assert_eq!(
        events(&done.stdout)[2..],
        ["updated big 6000", "raised min 6000", "updated big 6000", "updated min 6000"]
    );
}

#[test]
fn truncated_pipe_ends_like_a_damaged_file() {
    let place = Place::new();
    let pipe = place.fifo("pipe");
    place.write("limits.jsonl", LIMITS);
    let run = place.floodmark("replay pipe --limits limits.jsonl").start();
    let mut feed = PipeFeed::open(&pipe);
    feed.packet(packet(1_000, "10.0.0.1", "10.0.0.2", 1200));
    let record = packet(2_000, "10.0.0.1", "10.0.0.2", 1200).record();
    feed.write(&record[..20]);
    drop(feed);
    let done =
        run.finish().expect(65).assert_stderr(&["pipe", "packet 2", "counted 1 of 1 frames"]);
    assert_eq!(
        events(&done.stdout),
        ["raised big 1200", "raised min 1200", "updated big 1200", "updated min 1200"]
    );
}
