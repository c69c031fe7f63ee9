//! `floodmark replay` over tables, CSV and Parquet, and over many files.

use std::fmt::Write as _;
use std::fs;

use super::pcap::{Packet, packet, pcap};
use super::recorded::{START_MS, assert_equal, captured, replay, sorted};
use super::run::Place;
use super::traffic::date;
use crate::common::data;

/// The fields of a packet, as a row has them.
type Row = fn(&Packet) -> String;

/// Writes a table with a header.
fn table(place: &Place, name: &str, header: &str, packets: &[Packet], row: Row) {
    let rows: String = packets.iter().map(|packet| row(packet) + "\n").collect();
    place.write(name, format!("{header}\n{rows}"));
}

fn own(Packet { ms, source, destination, bytes }: &Packet) -> String {
    format!("{},{source},{destination},{bytes},1", date(*ms))
}

const LIMITS: &str = r#"{"limit_name":"pair","limit_value":100,"effective_date":"2020-01-01"}"#;

const OWN_HEADER: &str = "time,source,destination,bytes,packets";

#[test]
fn csv_in_any_form_says_what_the_capture_says() {
    let (place, packets) = sorted(771);
    let captured = captured(&place, "made.pcap");
    table(&place, "own.csv", OWN_HEADER, &packets, own);
    // nfdump; the first column of times is that of starts.
    let nfdump: Row = |Packet { ms, source, destination, bytes }| {
        let end = date(*ms).replace('T', " ").replace('Z', "");
        format!("2001-01-01 00:00:00;{end};{source};{destination};1;{bytes}")
    };
    table(&place, "nfdump.txt", "ts;te;sa;da;ipkt;ibyt", &packets, nfdump);
    // Seconds with a fraction; a field that is not read has line breaks.
    let odd: Row = |Packet { ms, source, destination, bytes }| {
        let seconds = format!("{}.{:03}", ms / 1000, ms % 1000);
        format!("\"a\n\"\"b\"\"\tc\"\t{bytes}\t{seconds}\t{source}\t{destination}")
    };
    table(&place, "odd.tsv", "\u{feff}what,\tsize\twhen\tfrom\tto", &packets, odd);
    let columns = "--columns time=when,source=from,destination=to --columns bytes=size";
    for what in ["own.csv", "own.csv -w3", "nfdump.txt -n2 -w2", &format!("odd.tsv {columns}")] {
        assert_equal(&place, &captured, what);
    }
    let zipped = zstd::encode_all(place.read("own.csv").as_bytes(), 1).expect("memory");
    place.write("own.zst", zipped);
    assert_equal(&place, &captured, "own.zst");
    let quoted: Row = |Packet { ms, source, destination, bytes }| {
        format!("'{}'|'{source}'|{destination}|'{bytes}'|1", date(*ms))
    };
    table(&place, "bars", "'time'|source|'destination'|bytes|packets", &packets, quoted);
    assert_equal(&place, &captured, "bars --quote ' --delimiter |");
    // Times of a zone.
    let local: Row = |Packet { ms, source, destination, bytes }| {
        let time = date(ms + 2 * 3_600_000).replace('Z', "");
        format!("{time},{source},{destination},{bytes}")
    };
    table(&place, "local.csv", "Timestamp,Src IP,Dst IP,Bytes", &packets, local);
    assert_equal(&place, &captured, "local.csv --input-timezone Africa/Johannesburg");
}

#[test]
fn parquet_files_of_other_programs_say_what_a_text_says() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    let directory = data().join("tables");
    let path = |name: &str| directory.join(name).display().to_string();
    let expected = captured(&place, &path("flows.jsonl"));
    let names = "--columns time=ts,source=src_ip,destination=dst_ip,bytes=octets,packets=pkts";
    for (file, options) in [
        ("pandas.parquet", ""),
        ("pandas-floats.parquet", "-w2"),
        ("polars.parquet", "-n2"),
        ("pyarrow-binary.parquet", ""),
        ("pyarrow-int96.parquet", ""),
        ("duckdb.parquet", names),
    ] {
        assert_equal(&place, &expected, &format!("{} {options}", path(file)));
    }
}

#[test]
fn tables_texts_and_captures_together_say_what_one_capture_says() {
    let (place, packets) = sorted(773);
    let captured = captured(&place, "made.pcap");
    let part = |turn: usize| packets.iter().skip(turn).step_by(3).copied().collect::<Vec<_>>();
    fs::create_dir(place.path("in")).expect("a directory");
    table(&place, "in/a.csv", OWN_HEADER, &part(0), own);
    let object: Row = |Packet { ms, source, destination, bytes }| {
        let time = date(*ms);
        format!(
            r#"{{"time":"{time}","source":"{source}","destination":"{destination}","bytes":{bytes},"packets":1}}"#
        )
    };
    table(&place, "in/b", "", &part(1), object);
    place.write("in/c.pcap", pcap(&part(2)));
    place.write("in/_SUCCESS", "");
    for what in ["in", "in/[abc]*", "in/a.csv in/[bc]*", "in -n2"] {
        assert_equal(&place, &captured, what);
    }
}

/// More files than the process may have open, each a minute, and some of the whole time.
#[test]
fn files_far_apart_are_not_all_open_at_once() {
    let (place, packets) = sorted(775);
    let captured = captured(&place, "made.pcap");
    fs::create_dir_all(place.path("in/day=1")).expect("a directory");
    let mut parts = std::collections::BTreeMap::<u64, Vec<Packet>>::new();
    for (at, packet) in packets.iter().enumerate() {
        let part = if at % 5 == 0 { at as u64 % 3 } else { packet.ms / 20_000 };
        parts.entry(part).or_default().push(*packet);
    }
    assert!(parts.len() > 100, "{}", parts.len());
    for (part, packets) in &parts {
        match part % 3 {
            0 => table(&place, &format!("in/{part}.csv"), OWN_HEADER, packets, own),
            _ => drop(place.write(&format!("in/day=1/{part}"), pcap(packets))),
        }
    }
    assert_equal(&place, &captured, "in");
    let line = "replay in --limits limits.jsonl --updates tick";
    let done = place.floodmark(line).under("prlimit --nofile=70:70").run().expect(0);
    super::fold::assert_same(&captured.0.stdout, &done.stdout, || line.to_owned());
}

#[test]
fn rows_that_can_not_be_read_are_named_and_nothing_else_is_lost() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    let mut text = format!("{OWN_HEADER}\n");
    let row = |second: u64| own(&packet(START_MS + second * 1000, "10.0.0.1", "10.0.0.2", 100));
    for second in 0..10 {
        writeln!(text, "{}", row(second)).expect("memory");
    }
    text += "2026-01-01T00:00:11Z,10.0.0.1,10.0.0,100,1\n";
    text += "noon,10.0.0.1,10.0.0.2,100,1\n";
    text += "2026-01-01T00:00:12Z,10.0.0.1,10.0.0.2,-1,1\n";
    text += "2026-01-01T00:00:12Z,10.0.0.1\n";
    text += "2026-01-01T00:00:12Z,10.0.0.1,\"10.0.0.2,100,1\n";
    // A row of the right form over two lines, of which the second one looks like another.
    text += "noon,10.0.0.1,10.0.0.2,100,\"x\n2026-01-01T00:00:00Z,10.9.9.9,10.0.0.2,9,1\"\n";
    writeln!(text, "{}", row(13)).expect("memory");
    place.write("bad.csv", text);
    let done = replay(&place, "bad.csv", 65);
    let done = done.assert_stderr(&[
        "\"bad.csv\", line 12: not counted: the field \"destination\" is not an IP address",
        "\"bad.csv\", line 13: not counted: the time \"noon\" of the field \"time\" is neither",
        "\"bad.csv\", line 14: not counted: the field \"bytes\" is not a whole number of zero or more",
        "\"bad.csv\", line 15: not counted: the row has 2 fields, and the header 5",
        "\"bad.csv\", line 16: not counted: a quote is not closed",
        "\"bad.csv\", line 17: not counted: the field \"packets\" is not a whole number of zero or more",
        "counted 11 records of 17 messages",
        "1 bad_address, 2 bad_number, 1 bad_time, 2 row",
    ]);
    drop(done);
}

#[test]
fn table_that_can_not_be_read_is_named_and_the_others_count() {
    let (place, packets) = sorted(777);
    let whole = fs::read(data().join("tables/pandas.parquet")).expect("a file");
    let mut damaged = whole.clone();
    // Amid the first pages.
    damaged[200..260].fill(0xff);
    place.write("cut.parquet", &whole[..whole.len() / 2]);
    place.write("damaged.parquet", damaged);
    place.write("whole.parquet", &whole);
    table(&place, "unknown.csv", "a,b,c,d,e", &packets, own);
    place.write("ragged.csv", "time;source\n1;2\n");
    for (file, why) in [
        ("cut.parquet", "\"cut.parquet\" can't be read: "),
        (
            "damaged.parquet",
            "\"damaged.parquet\" is damaged: rows 1 to 240 are lost (row group 1: ",
        ),
        (
            "unknown.csv",
            "\"unknown.csv\" has no column for the time; name it by --columns time=COLUMN; it has \"a\"",
        ),
        ("ragged.csv", "\"ragged.csv\" has no column for the destination"),
    ] {
        let done = replay(&place, &format!("{file} made.pcap"), 65);
        done.assert_stderr(&[why, &format!("counted {} of {0} frames", packets.len())]);
    }
    let done = place.floodmark("replay - made.pcap --limits limits.jsonl").stdin(whole).run();
    done.expect(65)
        .assert_stderr(&["\"standard input\" can't be read: Parquet is read from its end"]);
}

#[test]
fn column_that_is_named_and_absent_ends_the_replay_before_anything_is_read() {
    let (place, packets) = sorted(779);
    table(&place, "own.csv", OWN_HEADER, &packets, own);
    fs::copy(data().join("tables/pandas.parquet"), place.path("own.parquet")).expect("a copy");
    for file in ["own.csv", "own.parquet"] {
        let done = replay(&place, &format!("made.pcap {file} --columns bytes=octets"), 64);
        let why = format!(
            "\"{file}\" has no column \"octets\" for the bytes (--columns); it has \"time\""
        );
        let done = done.assert_stderr(&[&why]);
        assert_eq!(done.stdout, "");
    }
    for (option, code, why) in [
        ("--columns octets", 64, "write FIELD=COLUMN"),
        ("--columns size=octets", 64, "unknown field \"size\""),
        ("--delimiter ab", 64, "is not one character of ASCII"),
        ("--quote both", 64, "is not one character of ASCII"),
        ("--delimiter '  --quote '", 64, "are the same character"),
        (".", 64, "is read twice"),
        ("*.json", 66, "no file matches"),
    ] {
        let done = place.floodmark(&format!("replay own.csv {option} --limits limits.jsonl")).run();
        done.expect(code).assert_stderr(&[why]);
    }
}

/// Lines of tshark in a file with the name of a table, and with columns for others.
#[test]
fn text_that_is_no_table_is_read_as_before() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    let line =
        "    1 2026-01-01 00:00:00.000000 10.0.0.1 → 10.0.0.2 DNS 80 Standard query, a, b, c, d\n";
    place.write("lines.csv", line);
    table(&place, "own.csv", OWN_HEADER, &[packet(START_MS, "10.0.0.1", "10.0.0.2", 100)], own);
    for what in ["lines.csv", "lines.csv own.csv --columns bytes=bytes"] {
        replay(&place, what, 0).assert_stderr(&["counted"]);
    }
}

/// Of each file the first record looks like a stray until the second one comes.
#[test]
fn strays_of_files_that_wait_are_dropped_once() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    let far = START_MS + 400 * 86_400_000;
    for file in 0..70 {
        let at = |ms: u64| packet(START_MS + file * 60_000 + ms, "10.0.0.1", "10.0.0.2", 100);
        let packets = [packet(far, "10.0.0.1", "10.0.0.9", 100), at(0), at(1000)];
        table(&place, &format!("{file}.csv"), OWN_HEADER, &packets, own);
    }
    let done = replay(&place, "*.csv", 0);
    let done =
        done.assert_stderr(&["counted 140 records of 210 messages", "not counted: 70 stray"]);
    assert_eq!(done.stderr.matches("dropped as a stray").count(), 20);
}
