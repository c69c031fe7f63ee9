//! Many limits: their memory, and that all are in effect when the first packet is judged.

use std::fmt::Write;
use std::fs;

use floodmark::computation::INITIAL_ROWS_PER_TICK;

use super::pcap::{packet, pcap};
use super::pipes::PipeFeed;
use super::run::{Live, Place};
use super::traffic::{BEGIN_MS, date};

/// Upper bound on the peak memory of each further row until all are read, in bytes. The text of a row has 125 bytes.
const BYTES_A_ROW: f64 = 290.0;

/// Upper bound on the peak memory of each further row that is in effect, in bytes.
const BYTES_A_ROW_IN_EFFECT: f64 = 1030.0;

const FEW: usize = 20_000;
const MANY: usize = 80_000;

/// Returns limits of one pair each, which no packet breaks.
pub(crate) fn rows(count: usize, separator: &str) -> String {
    let mut rows = String::new();
    for number in 0..count {
        let (top, high, low) = (number / 65536, number / 256 % 256, number % 256);
        write!(
            rows,
            "{}{{\"limit_name\":\"pair-{number}\",\"limit_value\":{},\"effective_date\":\"2000-01-01\",\
             \"source\":\"10.{top}.{high}.{low}/32\",\"destination\":\"172.16.{low}.{high}/32\"}}",
            if number > 0 { separator } else { "" },
            1_000_000 + number
        )
        .expect("memory");
    }
    rows
}

/// Returns the least of three peaks: on a busy machine the replay may have continued when its peak is read.
fn peak(options: &str, files: &[(&str, String)]) -> f64 {
    (0..3).map(|_| one_peak(options, files)).fold(f64::INFINITY, f64::min)
}

/// Returns the peak memory of a replay, in bytes, when it has read its limits and opens the capture.
fn one_peak(options: &str, files: &[(&str, String)]) -> f64 {
    let place = Place::new();
    let pipe = place.fifo("pipe");
    files.iter().for_each(|(name, text)| drop(place.write(name, text)));
    let run = place.floodmark(&format!("replay pipe -w1 {options}")).start();
    let feed = PipeFeed::open(&pipe);
    let peak = most_memory(&run);
    drop(feed);
    run.finish().expect(0).assert_stderr(&["counted 0 of 0 frames"]);
    peak
}

/// Returns the peak memory of a process so far, in bytes.
fn most_memory(run: &Live) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", run.id())).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its memory");
    let kb: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kb * 1024.0
}

#[test]
fn rows_stay_below_the_memory_bound_while_they_are_read() {
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
fn rows_of_two_sets_stay_below_the_memory_bound() {
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

#[test]
fn rows_in_effect_stay_below_the_memory_bound() {
    const LEFT: usize = 50_000;
    let peak = |count| {
        let place = Place::new();
        let pipe = place.fifo("pipe");
        let any = r#"{"limit_name":"any","limit_value":0,"effective_date":"1970-01-01"}"#;
        place.write("limits.json", rows(count, "\n") + "\n" + any);
        let mut run = place.floodmark("replay pipe -w1 --limits limits.json").start();
        let mut feed = PipeFeed::open(&pipe);
        feed.packet(packet(BEGIN_MS, "10.0.0.1", "10.0.0.2", 100));
        feed.packet(packet(BEGIN_MS + 10_000, "10.0.0.1", "10.0.0.2", 100));
        run.line();
        let peak = most_memory(&run);
        drop(feed);
        run.finish().expect(0);
        peak
    };
    // Both numbers leave as many rows for the last tick, and fill vectors that double equally well.
    let (few, many) = (INITIAL_ROWS_PER_TICK + LEFT, 3 * INITIAL_ROWS_PER_TICK + LEFT);
    let each = (peak(many) - peak(few)) / (many - few) as f64;
    assert!(each < BYTES_A_ROW_IN_EFFECT, "{each:.0} bytes a row");
}

/// The changes of a few limits are the same, to the millisecond, beside more limits than one tick can enter.
#[test]
fn all_of_many_rows_are_in_effect_when_the_first_packet_is_judged() {
    let place = Place::new();
    let mut broken = String::new();
    for (number, ms) in (BEGIN_MS - 4..BEGIN_MS + 4).enumerate() {
        let date = date(ms);
        writeln!(
            broken,
            "{{\"limit_name\":\"ms-{number}\",\"limit_value\":{number},\"effective_date\":\"{date}\"}}\n\
             {{\"limit_name\":\"later\",\"limit_value\":{number},\"effective_date\":\"{date}\"}}"
        )
        .expect("memory");
    }
    let packets: Vec<_> =
        (0..9).map(|n| packet(BEGIN_MS + n, "10.0.0.1", "172.16.1.0", 100)).collect();
    place.write("made.pcap", pcap(&packets));
    place.write("few.json", &broken);
    place.write("many.json", rows(2 * MANY, "\n") + "\n" + &broken);
    for variant in ["--tick 1ms -w1", "--tick 1ms -w2", "--tick 3ms -w1"] {
        let changes = |limits: &str| {
            place.floodmark(&format!("replay made.pcap --limits {limits} {variant}")).stdout(0)
        };
        let few = changes("few.json");
        assert!(few.lines().count() >= 16, "{few}");
        assert!(few == changes("many.json"), "{variant}");
    }
}
