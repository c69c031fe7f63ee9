//! Input that stays open: complete buckets are sent, also while no packet follows.

use super::records;
use crate::replay::pcap::{packet, pcap};
use crate::replay::pipes::PipeFeed;
use crate::replay::run::{Place, SignalTarget};

#[test]
fn bucket_is_sent_when_its_time_has_passed_and_the_pipe_is_silent() {
    for options in ["", "--aggregate off", "--aggregate 500ms --speed 10x"] {
        let place = Place::new();
        let pipe = place.fifo("pipe");
        let mut run = place.floodmark(&format!("capture pipe --to - {options}")).start();
        let mut feed = PipeFeed::open(&pipe);
        feed.packet(packet(1_900, "10.0.0.1", "10.0.0.2", 1200));
        // The pipe stays open, and no packet follows.
        let first = records(&run.line());
        assert_eq!((first.len(), first[0].time_ms), (1, 1_900), "{options}");
        feed.packet(packet(1_950, "10.0.0.1", "10.0.0.2", 100));
        drop(feed);
        let done = run.finish().expect(0);
        let all = records(&done.stdout);
        assert_eq!(all.iter().map(|record| record.volume.bytes).collect::<Vec<_>>(), [1200, 100]);
    }
}

#[test]
fn interrupt_sends_all_packets_read_before_it() {
    for signal in ["INT", "TERM"] {
        let place = Place::new();
        let pipe = place.fifo("pipe");
        // The bucket stays open for longer than the test may last.
        let line = "capture pipe --to - --aggregate 5m";
        let run = place.floodmark(line).start();
        let mut feed = PipeFeed::open(&pipe);
        // More than a pipe holds: once all is written, the program has read some, and handles signals.
        let record = packet(1_000, "10.0.0.1", "10.0.0.2", 1200).record();
        let count = 200_000 / record.len();
        feed.write(&record.repeat(count));
        run.signal(signal, SignalTarget::Parent);
        let done = run.finish().expect(130);
        drop(feed);
        let sent: i64 = records(&done.stdout).iter().map(|record| record.volume.packets).sum();
        assert!(sent > 0 && sent <= count as i64, "{sent} of {count}");
        done.assert_stderr(&[&format!("sent 1 records of {sent} packets")]);
    }
}

#[test]
fn unread_stdout_is_reported_and_loses_nothing() {
    let place = Place::new();
    // More lines than a pipe holds.
    let packets: Vec<_> =
        (0..2000).map(|number| packet(number, "10.0.0.1", "10.0.0.2", 100)).collect();
    place.write("a.pcap", pcap(&packets));
    let mut run = place.floodmark("capture a.pcap --to - --aggregate off").start();
    run.wait_for("waiting until all records are delivered");
    let done = run.finish().expect(0).assert_stderr(&["sent 2000 records", "2000 lines"]);
    assert_eq!(records(&done.stdout).len(), 2000);
}
