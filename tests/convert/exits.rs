//! Rejected arguments, and exit codes.

use floodmark::kafka::Outgoing;

use super::{lines, pmacct, send};
use crate::common::broker::{Broker, produce, read_all};
use crate::replay::run::{Place, SignalTarget};

#[test]
fn invalid_arguments_exit_with_code_64() {
    let place = Place::new();
    place.write("a.txt", pmacct(1));
    let cases: [(&str, &str); 20] = [
        ("", "--from"),
        ("--from redis://x", "unknown scheme \"redis://\""),
        ("--from a.txt --to redis://x", "unknown scheme \"redis://\""),
        ("--from kafka://x/a kafka://x/b", "--from is one topic, or files"),
        ("--from kafka://x/a a.txt", "--from is one topic, or files"),
        ("--from kafka://x", "names no topic"),
        ("--from a.txt --format packed", "give json or kv"),
        ("--from a.txt --to kafka://x/a --format packed --fields bytes", "give --format json"),
        ("--from a.txt --format kv --fields bytes", "give --format json"),
        ("--from a.txt --bytes-only", "--bytes-only is for --format kv"),
        ("--from a.txt --fields bytes,bytes", "named twice"),
        ("--from a.txt --create-topic", "--create-topic needs"),
        ("--from a.txt -w2", "files are read by one worker"),
        ("--from a.txt --until-end", "are for topics"),
        ("--from a.txt --to ./a.txt", "would be overwritten"),
        ("--from kafka://x/a --to kafka://x/a", "read its own output, for ever"),
        (
            "--from kafka://x/a --to kafka://x/b --dead-letter kafka://x/a",
            "read its own dead letters",
        ),
        ("--from kafka://x/a -n2", "several processes can't write one file"),
        ("--from kafka://x/a --from-offset committed", "give --group"),
        ("--from kafka://x/a --restart", "give --from-offset committed"),
    ];
    for (options, message) in cases {
        let done = place.floodmark(&format!("convert {options}")).run().expect(64);
        done.assert_stderr(&[message]);
    }
    assert_eq!(place.read("a.txt"), pmacct(1));
}

#[test]
fn missing_input_and_unreachable_broker_have_their_own_exit_codes() {
    let place = Place::new();
    place.floodmark("convert --from none.txt").run().expect(66).assert_stderr(&["\"none.txt\""]);
    let broker = Broker::shared();
    let gone = broker.address("gone");
    place
        .floodmark(&format!("convert --from {gone}"))
        .run()
        .expect(66)
        .assert_stderr(&["no topic"]);
    place.write("a.txt", pmacct(1));
    let done = place.floodmark(&format!("convert --from a.txt --to {gone}")).run().expect(78);
    done.assert_stderr(&["--create-topic"]);
    let nobody = "kafka://127.0.0.1:1/flows";
    place.floodmark(&format!("convert --from a.txt --to {nobody}")).run().expect(69);
}

#[test]
fn killed_process_ends_the_others() {
    let (broker, place) = (Broker::shared(), Place::new());
    let (from, to) = (broker.topic("pmacct", 2), broker.topic("packed", 2));
    send(&from, &lines(0..10), 2);
    let mut run = place.floodmark(&format!("convert --from {from} --to {to} -n2")).start();
    run.wait_for("reading a partition");
    run.wait_for("reading a partition");
    run.signal("KILL", SignalTarget::Child(1));
    run.finish_killed().expect(1).assert_stderr(&["process 1 was killed by signal 9"]);
}

/// The created topic must accept and keep records of any age, which a real broker decides.
#[test]
fn created_topic_keeps_all_converted_records() {
    let (broker, place) = (Broker::shared(), Place::new());
    let from = broker.topic("pmacct", 3);
    send(&from, &lines(0..30), 3);
    let to = broker.address(&crate::common::broker::random_name("made"));
    let line = format!("convert --from {from} --to {to} --create-topic --until-end -n2 -w2");
    place.floodmark(&line).run().expect(0);
    let received = read_all(&to);
    assert_eq!(super::records(&received), super::records_of(&lines(0..30)));
    assert!(received.iter().any(|message| message.partition == 2), "as many partitions");
}

#[test]
fn closed_stdout_ends_an_endless_conversion_with_code_74() {
    let place = Place::new();
    let topic = Broker::shared().topic("flows", 1);
    let record = Outgoing {
        key: Some(b"192.0.2.1 192.0.2.2"),
        payload: Some(b"100"),
        timestamp_ms: Some(1),
        partition: Some(0),
        ..Outgoing::default()
    };
    produce(&topic, &[record; 2]);
    for (options, code) in [("", 74), ("--until-end", 0)] {
        let line = format!("convert --from {topic} --to - {options}");
        let done = match code {
            0 => place.floodmark(&line).stdout_closed().run(),
            _ => {
                let mut run = place.floodmark(&line).start();
                run.line();
                run.close_stdout();
                run.finish()
            }
        };
        let done = done.expect(code);
        assert_eq!(done.stderr.contains("its reader has gone away"), code == 74, "{}", done.stderr);
    }
}
