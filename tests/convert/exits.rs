//! What is refused, and how it ends.

use floodmark::kafka::Outgoing;

use super::{lines, pmacct, send};
use crate::common::broker::{Broker, produce, read_all};
use crate::replay::run::{Place, Whom};

#[test]
fn usage_errors() {
    let place = Place::new();
    place.write("a.txt", pmacct(1));
    let cases: [(&str, &str); 20] = [
        ("", "--from"),
        ("--from redis://x", "\"redis://\" is not known"),
        ("--from a.txt --to redis://x", "\"redis://\" is not known"),
        ("--from kafka://x/a kafka://x/b", "one topic is read, or files"),
        ("--from kafka://x/a a.txt", "one topic is read, or files"),
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
        ("--from kafka://x/a --to kafka://x/a", "read for ever what it writes"),
        ("--from kafka://x/a --to kafka://x/b --dead-letter kafka://x/a", "what it can't read"),
        ("--from kafka://x/a -n2", "several processes can't write one file"),
        ("--from kafka://x/a --from-offset committed", "give --group"),
        ("--from kafka://x/a --restart", "give --from-offset committed"),
    ];
    for (options, says) in cases {
        let done = place.floodmark(&format!("convert {options}")).run().expect(64);
        done.says(&[says]);
    }
    assert_eq!(place.read("a.txt"), pmacct(1));
}

#[test]
fn missing_input_and_unreachable_brokers() {
    let place = Place::new();
    place.floodmark("convert --from none.txt").run().expect(66).says(&["\"none.txt\""]);
    let broker = Broker::shared();
    let gone = broker.address("gone");
    place.floodmark(&format!("convert --from {gone}")).run().expect(66).says(&["no topic"]);
    place.write("a.txt", pmacct(1));
    let done = place.floodmark(&format!("convert --from a.txt --to {gone}")).run().expect(78);
    done.says(&["--create-topic"]);
    let nobody = "kafka://127.0.0.1:1/flows";
    place.floodmark(&format!("convert --from a.txt --to {nobody}")).run().expect(69);
}

#[test]
fn a_process_that_is_killed_ends_the_others() {
    let (broker, place) = (Broker::shared(), Place::new());
    let (from, to) = (broker.topic("pmacct", 2), broker.topic("packed", 2));
    send(&from, &lines(0..10), 2);
    let mut run = place.floodmark(&format!("convert --from {from} --to {to} -n2")).start();
    run.wait_for("reads a partition");
    run.wait_for("reads a partition");
    run.signal("KILL", Whom::Child(1));
    run.finish_killed().expect(1).says(&["process 1 was killed by signal 9"]);
}

/// The topic that is written to keeps and takes records of so much time; a real broker says how much.
#[test]
fn a_topic_is_made_that_keeps_what_is_converted() {
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
fn reader_that_goes_away_ends_what_follows_a_topic_with_a_code_of_its_own() {
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
