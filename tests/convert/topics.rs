//! From a topic to another one or a file, also in parts and through outages.

use std::collections::BTreeMap;
use std::time::Instant;

use floodmark::kafka::topics::Plan;
use floodmark::kafka::{Address, Outgoing};

use super::{START_MS, counted, lines, pmacct, records, records_of, send, wait_for};
use crate::common::broker::{Broker, Received, STUCK_AFTER, produce, read_all};
use crate::replay::run::{Place, SignalTarget};

/// The selected fields.
const FIELDS: &str = "ip_src,ip_dst,timestamp_end,bytes,writer_id";

/// Returns flow `number` reduced to the selected fields.
fn chosen(number: u64) -> String {
    let line = pmacct(number);
    let value = |name: &str| {
        let start = line.find(&format!("\"{name}\": ")).expect("a field") + name.len() + 4;
        let rest = &line[start..];
        &rest[..rest.find([',', '}']).expect("its end")]
    };
    let members: Vec<String> =
        FIELDS.split(',').map(|name| format!("\"{name}\":{}", value(name))).collect();
    format!("{{{}}}", members.join(","))
}

const AFTER_MAX: &str = "message.timestamp.after.max.ms";

/// Returns the command line of a conversion.
fn line(from: &Address, to: &Address, options: &str) -> String {
    format!("convert --from {from} --to {to} {options}")
}

fn by_partition(received: &[Received]) -> BTreeMap<i32, Vec<&Received>> {
    let mut by: BTreeMap<i32, Vec<&Received>> = BTreeMap::new();
    received.iter().for_each(|message| by.entry(message.partition).or_default().push(message));
    by
}

#[test]
fn pmacct_topic_becomes_packed_records_partition_by_partition() {
    let (broker, place) = (Broker::shared(), Place::new());
    let (from, to) = (broker.topic("pmacct", 3), broker.topic("packed", 3));
    let sent = lines(0..300);
    send(&from, &sent, 3);
    let init = "{\"event_type\": \"purge_init\", \"writer_pid\": 1}";
    produce(&from, &[Outgoing { payload: Some(init.as_bytes()), ..Outgoing::default() }]);
    let done = place.floodmark(&line(&from, &to, "--until-end")).run().expect(0);
    done.assert_stderr(&["read 301 messages, wrote 300 records; skipped: 1"]);
    let received = read_all(&to);
    // Messages hold many records, and each only records of one partition.
    assert!(received.len() < 30, "{}", received.len());
    for (partition, messages) in by_partition(&received) {
        let came: Vec<String> = sent.iter().skip(partition as usize).step_by(3).cloned().collect();
        assert_eq!(records(messages.iter().copied()), records_of(&came));
        for message in messages {
            let newest = records([message]).iter().map(|record| record.time_ms).max();
            assert_eq!(message.timestamp_ms.map(|ms| ms as u64), newest);
            assert_eq!(message.key, None);
        }
    }
    assert_eq!(records(&received).len(), 300);
}

#[test]
fn selected_fields_are_copied_byte_for_byte_and_keyed_by_pair() {
    let (broker, place) = (Broker::shared(), Place::new());
    let (from, to) = (broker.topic("pmacct", 2), broker.topic("chosen", 4));
    send(&from, &lines(0..200), 2);
    let options = format!("--until-end --format json --fields {FIELDS}");
    place.floodmark(&line(&from, &to, &options)).run().expect(0);
    let received = read_all(&to);
    assert_eq!(counted(received.iter().map(Received::text)), counted((0..200).map(chosen)));
    for message in &received {
        let text = message.text();
        let number: u64 =
            text.rsplit(['/', '"']).nth(1).and_then(|n| n.parse().ok()).expect("its number");
        let key = format!("10.0.0.{} 10.1.0.{}", number % 7, number / 7 % 11);
        assert_eq!(message.key.as_deref(), Some(key.as_bytes()));
        assert_eq!(message.timestamp_ms, Some((START_MS + 100 * number) as i64));
    }
}

#[test]
fn workers_and_processes_share_the_partitions() {
    for (workers, name) in [("-w4", "four"), ("-n2 -w2", "twotwo"), ("-n3", "three")] {
        let (broker, place) = (Broker::shared(), Place::new());
        // The partitions do not divide evenly among the workers.
        let (from, to) = (broker.topic("pmacct", 5), broker.topic(name, 5));
        send(&from, &lines(0..500), 5);
        let options = format!("--until-end --format json --fields writer_id {workers}");
        let done = place.floodmark(&line(&from, &to, &options)).run().expect(0);
        let received = read_all(&to);
        let expected =
            (0..500).map(|number| format!("{{\"writer_id\":\"default_kafka/{number}\"}}"));
        assert_eq!(counted(received.iter().map(Received::text)), counted(expected), "{workers}");
        let offsets = done.stderr.matches("reading a partition").count();
        assert_eq!(offsets, 5, "{}", done.stderr);
    }
}

#[test]
fn topic_is_written_to_one_file_by_several_workers() {
    let (broker, place) = (Broker::shared(), Place::new());
    let from = broker.topic("pmacct", 4);
    send(&from, &lines(0..400), 4);
    let options = format!("convert --from {from} --to out.jsonl --until-end -w3 --fields {FIELDS}");
    place.floodmark(&options).run().expect(0).assert_stderr(&["400 lines"]);
    assert_eq!(counted(place.read("out.jsonl").lines()), counted((0..400).map(chosen)));
}

#[test]
fn unreadable_messages_are_counted_and_sent_to_the_dead_letters() {
    let (broker, place) = (Broker::shared(), Place::new());
    let (from, to) = (broker.topic("pmacct", 1), broker.topic("packed", 1));
    let dead = broker.topic("dead", 1);
    let mut sent = lines(0..100);
    let poison =
        ["no record", "{\"ip_src\": \"10.0.0.1\"", "{\"ip_src\": \"x\", \"ip_dst\": \"y\"}"];
    for (at, text) in poison.iter().enumerate() {
        sent.insert(20 * at + 7, (*text).to_owned());
    }
    send(&from, &sent, 1);
    let options = format!("--until-end --dead-letter {dead}");
    let done = place.floodmark(&line(&from, &to, &options)).run().expect(0).assert_stderr(&[
        "read 103 messages, wrote 100 records; not written: 3 (bad_address 1, json 1, \
         unknown_format 1)",
        "a record is not written",
    ]);
    assert!(done.stderr.contains("\"offset\":7"), "{}", done.stderr);
    assert_eq!(records(&read_all(&to)), records_of(&lines(0..100)));
    let kept = read_all(&dead);
    assert_eq!(kept.iter().map(Received::text).collect::<Vec<_>>(), poison);
}

#[test]
fn records_of_several_packets_are_written_as_kv_only_with_bytes_only() {
    let (broker, place) = (Broker::shared(), Place::new());
    let (from, to, all) =
        (broker.topic("pmacct", 1), broker.topic("kv", 1), broker.topic("all", 1));
    send(&from, &lines(0..100), 1);
    let done = place.floodmark(&line(&from, &to, "--until-end --format kv")).run().expect(0);
    done.assert_stderr(&[
        "100 messages, wrote 20 records; not written: 80 (packets 80)",
        "--bytes-only",
    ]);
    let single: Vec<String> = (0..100).step_by(5).map(pmacct).collect();
    assert_eq!(records(&read_all(&to)), records_of(&single));
    place.floodmark(&line(&from, &all, "--until-end --format kv --bytes-only")).run().expect(0);
    let mut bytes: Vec<i64> = records(&read_all(&all)).iter().map(|r| r.volume.bytes).collect();
    let mut expected: Vec<i64> =
        records_of(&lines(0..100)).iter().map(|record| record.volume.bytes).collect();
    bytes.sort_unstable();
    expected.sort_unstable();
    assert_eq!(bytes, expected);
}

#[test]
fn sink_outage_loses_and_duplicates_no_record() {
    let (source, sink, place) = (Broker::shared(), Broker::own(), Place::new());
    let (from, to) = (source.topic("pmacct", 2), sink.topic("chosen", 2));
    send(&from, &lines(0..50), 2);
    let options = format!("--format json --fields {FIELDS} -w2");
    let run = place.floodmark(&line(&from, &to, &options)).start();
    wait_for(&to, 50);
    sink.stop();
    send(&from, &lines(50..150), 2);
    sink.start();
    wait_for(&to, 150);
    run.signal("TERM", SignalTarget::Parent);
    run.finish().expect(0);
    assert_eq!(counted(read_all(&to).iter().map(Received::text)), counted((0..150).map(chosen)));
}

#[test]
fn sigterm_delivers_all_records_read_before_it() {
    for workers in ["", "-n2 -w2"] {
        let (broker, place) = (Broker::shared(), Place::new());
        let (from, to) = (broker.topic("pmacct", 4), broker.topic("packed", 4));
        let dead = broker.topic("dead", 1);
        // The last message of each partition is unreadable: its dead letter proves that all before it were read.
        let mut sent = lines(0..400);
        sent.extend(["x"; 4].map(str::to_owned));
        send(&from, &sent, 4);
        // Read records are held back for longer than the test lasts.
        let options = format!("--linger 1h --dead-letter {dead} {workers}");
        let run = place.floodmark(&line(&from, &to, &options)).start();
        wait_for(&dead, 4);
        run.signal("TERM", SignalTarget::Parent);
        run.finish().expect(0);
        assert_eq!(records(&read_all(&to)), records_of(&lines(0..400)), "{workers}");
    }
}

#[test]
fn restart_after_a_killed_process_skips_no_record() {
    let (broker, place) = (Broker::shared(), Place::new());
    let (from, to) = (broker.topic("pmacct", 2), broker.topic("chosen", 2));
    send(&from, &lines(0..50), 2);
    let options = format!(
        "--format json --fields {FIELDS} -n2 --restart --from-offset committed --group mine"
    );
    let mut run = place.floodmark(&line(&from, &to, &options)).start();
    wait_for(&to, 50);
    run.signal("KILL", SignalTarget::Child(1));
    run.wait_for("starting all processes again");
    send(&from, &lines(50..100), 2);
    let started = Instant::now();
    let all = counted((0..100).map(chosen));
    // Duplicates are allowed.
    while counted(read_all(&to).iter().map(Received::text)).into_keys().ne(all.keys().cloned()) {
        assert!(started.elapsed() < STUCK_AFTER, "something is left out");
    }
    run.signal("TERM", SignalTarget::Parent);
    run.finish().expect(0);
}

#[test]
fn conversion_resumes_at_the_offsets_of_its_group() {
    let (broker, place) = (Broker::shared(), Place::new());
    let (from, to) = (broker.topic("pmacct", 3), broker.topic("chosen", 3));
    let options =
        format!("--format json --fields {FIELDS} --until-end --from-offset committed --group mine");
    for part in [0..90, 90..200, 200..200, 200..201] {
        send(&from, &lines(part), 3);
        place.floodmark(&line(&from, &to, &options)).run().expect(0);
    }
    assert_eq!(counted(read_all(&to).iter().map(Received::text)), counted((0..201).map(chosen)));
    // Another group starts at the first message.
    let other = options.replace("mine", "another");
    place.floodmark(&line(&from, &to, &other)).run().expect(0);
    assert_eq!(read_all(&to).len(), 402);
}

/// The target topic rejects records of the future. One such record among others is skipped; a source of nothing else
/// fails at once.
#[test]
fn record_with_unfit_time_is_skipped_and_a_topic_of_them_is_rejected() {
    let (broker, place) = (Broker::shared(), Place::new());
    let mut plan = Plan::recording(1);
    plan.config.retain(|(name, _)| *name != AFTER_MAX);
    plan.config.push((AFTER_MAX, "3600000".to_owned()));
    let (from, to) = (broker.topic("pmacct", 1), broker.topic_with("timely", &plan));
    let mut sent = lines(0..20);
    // This record is of the year 2096.
    sent.insert(9, pmacct(22_000_000_000));
    send(&from, &sent, 1);
    place.floodmark(&line(&from, &to, "--until-end")).run().expect(0).assert_stderr(&[
        "wrote 20 records; not written: 1 (unfit_time 1)",
        AFTER_MAX,
        "\"offset\":9",
    ]);
    assert_eq!(records(&read_all(&to)), records_of(&lines(0..20)));
    let future = broker.topic("pmacct", 1);
    send(&future, &sent[9..10], 1);
    let done = place.floodmark(&line(&future, &to, "--until-end")).run().expect(78);
    done.assert_stderr(&[AFTER_MAX, "--create-topic"]);
}
