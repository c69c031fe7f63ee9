//! A live capture between two network namespaces, joined by a pair of virtual Ethernet devices.
//!
//! Packets are sent from the namespace of the tests into one made for the test, where the program
//! captures. It takes root to make one; without, these tests say that they were left out. A longer run
//! by hand: `FLOODMARK_WIRE_PACKETS=5000000 cargo test --release --test main -- every_packet_is_counted`.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use floodmark_dataflows::types::Volume;
use pcap::{Active, Capture};

use super::{records, sums};
use crate::replay::run::{Live, Place, Whom};

/// Whether this is run by root.
pub(super) fn root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("running id");
    id.stdout.trim_ascii() == b"0"
}

/// A namespace with one end of a pair of devices in it; the other is here. Both go with it.
pub(super) struct Wire {
    namespace: String,
    here: String,
    there: String,
}

impl Wire {
    /// None, said, where namespaces can't be made.
    pub(super) fn new() -> Option<Self> {
        static WIRES: AtomicUsize = AtomicUsize::new(0);
        let number = WIRES.fetch_add(1, Ordering::Relaxed);
        // The name of a device has at most 15 letters.
        let name = format!("fm{}x{number}", std::process::id());
        let (here, there) = (format!("{name}a"), format!("{name}b"));
        let made = Command::new("ip").args(["netns", "add", &name]).output();
        if !(root() && made.is_ok_and(|made| made.status.success())) {
            println!("left out: no network namespace can be made here (it takes root)");
            return None;
        }
        let wire = Wire { namespace: name, here, there };
        let Wire { namespace, here, there } = &wire;
        wire.ip(&format!("link add {here} type veth peer name {there} netns {namespace}"));
        // No packets but those of the test.
        wire.ip(&format!("link set {here} addrgenmode none"));
        wire.ip(&format!("link set {here} up"));
        wire.ip(&format!("-n {namespace} link set {there} addrgenmode none"));
        wire.ip(&format!("-n {namespace} link set {there} up"));
        Some(wire)
    }

    fn ip(&self, words: &str) {
        let done = Command::new("ip").args(words.split_whitespace()).output().expect("running ip");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "ip {words}: {said}");
    }

    /// Starts a capture at the other end, and waits until it has begun.
    fn capture(&self, place: &Place, options: &str) -> Live {
        // Messages are compared as they are, and not as JSON has them.
        let line = format!("capture --interface {} --log-format text {options}", self.there);
        let under = format!("ip netns exec {}", self.namespace);
        let mut live = place.floodmark(&line).under(&under).start();
        live.wait_for("capturing on");
        live
    }

    /// The name of the device at this end.
    pub(super) fn here(&self) -> &str {
        &self.here
    }

    /// Something to send from here with.
    pub(super) fn sender(&self) -> Capture<Active> {
        let device = Capture::from_device(self.here.as_str()).expect("a device");
        device.snaplen(64).open().expect("the right to send")
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // The devices go with it.
        let _ = Command::new("ip").args(["netns", "del", &self.namespace]).status();
    }
}

/// The least frame: Ethernet, IPv4, UDP, from one of many addresses.
pub(super) fn frame(at: u32) -> [u8; 60] {
    let mut frame = [0; 60];
    frame[..12].copy_from_slice(&[2; 12]);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[14..18].copy_from_slice(&[0x45, 0, 0, 46]);
    frame[22..24].copy_from_slice(&[64, 17]);
    let [_, _, high, low] = (at % 1000).to_be_bytes();
    frame[26..30].copy_from_slice(&[198, 18, high, low]);
    frame[30..34].copy_from_slice(&[198, 19, 0, 1]);
    frame
}

const PACKET: i64 = 46;

/// What was sent is what was counted, and what arrived.
fn check(options: &str, packets: u32) {
    let Some(wire) = Wire::new() else { return };
    let place = Place::new();
    let live = wire.capture(&place, &format!("--to out.jsonl {options}"));
    let mut sender = wire.sender();
    let began = Instant::now();
    for at in 0..packets {
        sender.sendpacket(frame(at)).expect("sending a frame");
    }
    let took = began.elapsed().as_secs_f64();
    live.signal("INT", Whom::Parent);
    let done = live.finish().expect(0);
    let sent = records(&place.read("out.jsonl"));
    let (count, bytes) = (u64::from(packets), u64::from(packets) * PACKET as u64);
    let done = done.says(&[
        &format!("counted {count} of {count} frames, {bytes} bytes"),
        "dropped nothing",
        &format!("records of {count} packets and {bytes} bytes to \"out.jsonl\""),
    ]);
    let mut by_pair: BTreeMap<_, Volume> = BTreeMap::new();
    for ((_, pair), volume) in sums(&sent) {
        let sum = by_pair.entry(pair).or_default();
        *sum = sum.checked_add(volume).expect("small numbers");
    }
    assert_eq!(by_pair.len(), 1000, "{}", done.stderr);
    let each = i64::from(packets) / 1000;
    assert!(by_pair.values().all(|volume| *volume == Volume::new(each * PACKET, each)));
    let rate = f64::from(packets) / took;
    println!("{packets} packets sent, counted and written {options}, {rate:.0} a second");
}

#[test]
fn every_packet_is_counted() {
    // For a longer run by hand: a multiple of a thousand.
    let packets = std::env::var("FLOODMARK_WIRE_PACKETS");
    let packets = packets.map_or(200_000, |packets| packets.parse().expect("a number of packets"));
    check("", packets);
}

#[test]
fn every_packet_is_sent_by_itself() {
    check("--aggregate off", 50_000);
}

#[test]
fn a_quiet_link_sends_what_it_had_while_it_is_captured() {
    let Some(wire) = Wire::new() else { return };
    let place = Place::new();
    let mut live = wire.capture(&place, "--to -");
    let mut sender = wire.sender();
    sender.sendpacket(frame(7)).expect("sending a frame");
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock that is set");
    let first = records(&live.line());
    assert_eq!(first[0].volume, Volume::new(PACKET, 1));
    let late = first[0].time_ms.abs_diff(now.as_millis() as u64);
    assert!(late < 60_000, "{late} ms from the time it was sent");
    live.signal("TERM", Whom::Parent);
    live.finish().expect(0).says(&["counted 1 of 1 frames"]);
}

/// A capture that serves its state over HTTP, and its address.
fn served(wire: &Wire, place: &Place) -> (Live, String) {
    // The namespace has a loopback interface of its own; this one is of the tests, and of what they
    // start there.
    wire.ip(&format!("-n {} link set lo up", wire.namespace));
    let line = format!("capture --interface {} --to - --http 127.0.0.1:0", wire.there);
    let under = format!("ip netns exec {}", wire.namespace);
    let mut live = place.floodmark(&line).under(&under).start();
    let served = live.wait_for("serves /metrics");
    live.wait_for("capturing on");
    let served: serde_json::Value = serde_json::from_str(&served).expect("the log is JSON");
    let address = served["address"].as_str().expect("an address").to_owned();
    (live, address)
}

/// Requests a page from within the namespace.
fn page(wire: &Wire, address: &str, page: &str) -> String {
    let asked = Command::new("ip")
        .args(["netns", "exec", &wire.namespace, "bash", "-c"])
        .arg(format!(
            "exec 3<>/dev/tcp/{} && printf 'GET {page} HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3",
            address.replace(':', "/")
        ))
        .output()
        .expect("running bash");
    String::from_utf8(asked.stdout).expect("text")
}

/// Requests a page until it has a text.
fn page_with(wire: &Wire, address: &str, path: &str, text: &str) -> String {
    let began = Instant::now();
    loop {
        let found = page(wire, address, path);
        if found.contains(text) {
            return found;
        }
        assert!(began.elapsed().as_secs() < 60, "never {text}: {found}");
    }
}

#[test]
fn capture_is_not_ready_while_its_interface_is_down() {
    let Some(wire) = Wire::new() else { return };
    let place = Place::new();
    let (mut live, address) = served(&wire, &place);
    page_with(&wire, &address, "/readyz", "\"ready\":true");
    let there = format!("-n {} link set {}", wire.namespace, wire.there);
    wire.ip(&format!("{there} down"));
    let log = live.wait_for("the interface is down");
    assert!(log.contains("\"level\":\"WARN\""), "{log}");
    let down = page(&wire, &address, "/readyz");
    assert!(down.starts_with("HTTP/1.0 503"), "{down}");
    assert!(down.contains("\"reason\":\"interface_down\""), "{down}");
    page_with(&wire, &address, "/metrics", "floodmark_capture_interface_up 0\n");
    wire.ip(&format!("{there} up"));
    live.wait_for("the interface is up again");
    assert!(page(&wire, &address, "/readyz").starts_with("HTTP/1.0 200"));
    page_with(&wire, &address, "/metrics", "floodmark_capture_interface_up 1\n");
    live.signal("INT", Whom::Parent);
    live.finish().expect(0);
}

#[test]
fn a_capture_is_seen_while_it_goes_on() {
    let Some(wire) = Wire::new() else { return };
    let place = Place::new();
    let (live, address) = served(&wire, &place);
    let ask = |path: &str| page(&wire, &address, path);
    let mut sender = wire.sender();
    for at in 0..50 {
        sender.sendpacket(frame(at)).expect("sending a frame");
    }
    let began = Instant::now();
    let all =
        ["floodmark_capture_packets_total 50\n", "floodmark_sent_records_total{sink=\"-\"} 50\n"];
    let metrics = loop {
        let metrics = ask("/metrics");
        if all.iter().all(|line| metrics.contains(line)) {
            break metrics;
        }
        assert!(began.elapsed().as_secs() < 60, "never counted: {metrics}");
    };
    let none = "floodmark_capture_dropped_frames_total{by=\"kernel\"} 0\n";
    assert!(metrics.contains(none), "{metrics}");
    assert!(ask("/readyz").starts_with("HTTP/1.0 200"), "{}", ask("/readyz"));
    assert!(ask("/healthz").contains("\"alive\":true"), "{}", ask("/healthz"));
    live.signal("INT", Whom::Parent);
    live.finish().expect(0);
}

#[test]
fn a_filter_chooses_and_a_duration_ends_it() {
    let Some(wire) = Wire::new() else { return };
    let place = Place::new();
    let mut live = wire.capture(&place, "--to - --filter ip[14:2]==7 --duration 1h");
    let mut sender = wire.sender();
    for at in 0..1000 {
        sender.sendpacket(frame(at)).expect("sending a frame");
    }
    assert_eq!(records(&live.line()).len(), 1);
    live.signal("INT", Whom::Parent);
    live.finish().expect(0).says(&["counted 1 of 1 frames"]);
    let live = wire.capture(&place, "--to - --duration 100ms");
    live.finish().expect(0).says(&["counted 0 of 0 frames"]);
}

#[test]
fn an_interface_that_goes_away_is_said_after_all_that_it_brought() {
    let Some(wire) = Wire::new() else { return };
    let place = Place::new();
    let mut live = wire.capture(&place, "--to - --aggregate off");
    wire.sender().sendpacket(frame(7)).expect("sending a frame");
    assert_eq!(records(&live.line()).len(), 1);
    let mut sender = wire.sender();
    for at in 0..500 {
        sender.sendpacket(frame(at)).expect("sending a frame");
    }
    wire.ip(&format!("link del {}", wire.here));
    let done = live.finish().expect(1);
    done.says(&[
        "counted 501 of 501 frames",
        &format!("interface \"{}\" can't be read", wire.there),
    ]);
}

#[test]
fn an_interface_that_is_down_for_a_while_is_said_and_goes_on() {
    let Some(wire) = Wire::new() else { return };
    let place = Place::new();
    let mut live = wire.capture(&place, "--to - --aggregate off");
    wire.sender().sendpacket(frame(7)).expect("sending a frame");
    assert_eq!(records(&live.line()).len(), 1);
    let there = format!("-n {} link set {}", wire.namespace, wire.there);
    wire.ip(&format!("{there} down"));
    live.wait_for("the interface is down");
    wire.ip(&format!("{there} up"));
    live.wait_for("the interface is up again");
    wire.sender().sendpacket(frame(8)).expect("sending a frame");
    assert_eq!(records(&live.line()).len(), 1);
    live.signal("INT", Whom::Parent);
    live.finish().expect(0).says(&["counted 2 of 2 frames"]);
}

#[test]
fn what_the_kernel_drops_is_said() {
    let Some(wire) = Wire::new() else { return };
    let place = Place::new();
    // The least buffer, and a program that does not run while packets come.
    let live = wire.capture(&place, "--to out.jsonl --buffer 64KiB");
    live.signal("STOP", Whom::Parent);
    let mut sender = wire.sender();
    for at in 0..20_000 {
        sender.sendpacket(frame(at)).expect("sending a frame");
    }
    live.signal("CONT", Whom::Parent);
    live.signal("INT", Whom::Parent);
    let done = live.finish().expect(0).says(&["frames by the kernel, whose buffer was full"]);
    let number = |after: &str| -> u64 {
        let at = done.stderr.find(after).expect(after) + after.len();
        let digits = done.stderr[at..].split(' ').next().expect("a word");
        digits.parse().unwrap_or_else(|_| panic!("no number after {after}: {}", done.stderr))
    };
    let (counted, dropped) = (number("counted "), number("dropped so far: "));
    assert_eq!(counted + dropped, 20_000, "{}", done.stderr);
    assert!(dropped > 0);
}
