//! A great many limits: the memory that they take before the first packet is read.

use std::fmt::Write;
use std::fs;

use super::pipes::Feed;
use super::run::Place;

/// Bytes of memory that one more row of limits may take until all are read, at the peak. The text of these
/// rows has 125 bytes each.
const BYTES_A_ROW: f64 = 290.0;

const FEW: usize = 20_000;
const MANY: usize = 80_000;

/// Limits of one pair each.
fn rows(count: usize, separator: &str) -> String {
    let mut rows = String::new();
    for number in 0..count {
        let (high, low) = (number / 256 % 256, number % 256);
        write!(
            rows,
            "{}{{\"limit_name\":\"pair-{number}\",\"limit_value\":{},\"effective_date\":\"2000-01-01\",\
             \"source\":\"10.0.{high}.{low}/32\",\"destination\":\"172.16.{low}.{high}/32\"}}",
            if number > 0 { separator } else { "" },
            1_000_000 + number
        )
        .expect("memory");
    }
    rows
}

/// The least of three peaks: on a busy machine the replay has gone on when its peak is read.
fn peak(options: &str, files: &[(&str, String)]) -> f64 {
    (0..3).map(|_| one_peak(options, files)).fold(f64::INFINITY, f64::min)
}

/// The most memory that a replay has had, in bytes, when it has read its limits and opens the capture.
fn one_peak(options: &str, files: &[(&str, String)]) -> f64 {
    let place = Place::new();
    let pipe = place.fifo("pipe");
    files.iter().for_each(|(name, text)| drop(place.write(name, text)));
    let run = place.floodmark(&format!("replay pipe -w1 {options}")).start();
    let feed = Feed::open(&pipe);
    let status = fs::read_to_string(format!("/proc/{}/status", run.id())).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its memory");
    let kb: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    drop(feed);
    run.finish().expect(0).says(&["counted 0 of 0 frames"]);
    kb * 1024.0
}

#[test]
fn rows_of_limits_take_few_bytes_each_while_they_are_read() {
    let array = |count| format!("[\n{}\n]\n", rows(count, ",\n"));
    let lines = |count| rows(count, "\n") + "\n";
    for (form, text) in [("lines", &lines as &dyn Fn(usize) -> String), ("array", &array)] {
        let few = peak("--limits a.json", &[("a.json", text(FEW))]);
        let many = peak("--limits a.json", &[("a.json", text(MANY))]);
        let each = (many - few) / (MANY - FEW) as f64;
        assert!(each < BYTES_A_ROW, "{form}: {each:.0} bytes a row");
    }
}

#[test]
fn rows_in_two_sets_take_few_bytes_each() {
    let files = |count| {
        let text = rows(count, "\n");
        [
            ("a.json", text.clone()),
            ("b.json", text.replace("\"limit_value\":1", "\"limit_value\":2")),
        ]
    };
    let few = peak("--limits a.json --what-if b.json", &files(FEW / 2));
    let many = peak("--limits a.json --what-if b.json", &files(MANY / 2));
    let each = (many - few) / (MANY - FEW) as f64;
    assert!(each < BYTES_A_ROW, "{each:.0} bytes a row");
}
