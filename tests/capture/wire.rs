//! A live capture between two network namespaces, joined by a pair of virtual Ethernet devices.
//!
//! The tests send packets from their own namespace into one created for the test, where the program
//! captures. Creating a namespace needs root; without it, these tests print that they were skipped. A longer run
//! by hand: `FLOODMARK_WIRE_PACKETS=5000000 cargo test --release --test main -- every_packet_is_counted`.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use floodmark_dataflows::types::Volume;
use pcap::{Active, Capture};

use super::{records, sums};
use crate::replay::run::{Live, Place, SignalTarget};

/// Whether the tests run as root.
pub(super) fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("running id");
    id.stdout.trim_ascii() == b"0"
}

/// A network namespace, and a pair of devices with one end in it and the other end here. Dropping it removes all.
pub(super) struct Wire {
    namespace: String,
    here: String,
    there: String,
}

impl Wire {
    /// Returns `None`, and prints so, if namespaces can't be created.
    pub(super) fn new() -> Option<Self> {
        static WIRES: AtomicUsize = AtomicUsize::new(0);
        let number = WIRES.fetch_add(1, Ordering::Relaxed);
        // The name of a device has at most 15 letters.
        let name = format!("fm{}x{number}", std::process::id());
        let (here, there) = (format!("{name}a"), format!("{name}b"));
        let made = Command::new("ip").args(["netns", "add", &name]).output();
        if !(is_root() && made.is_ok_and(|made| made.status.success())) {
            println!("left out: no network namespace can be made here (it takes root)");
            return None;
        }
        let wire = Wire { namespace: name, here, there };
        let Wire { namespace, here, there } = &wire;
        wire.ip(&format!("link add {here} type veth peer name {there} netns {namespace}"));
        // Without addresses the kernel sends no packets of its own.
        wire.ip(&format!("link set {here} addrgenmode none"));
        wire.ip(&format!("link set {here} up"));
        wire.ip(&format!("-n {namespace} link set {there} addrgenmode none"));
        wire.ip(&format!("-n {namespace} link set {there} up"));
        Some(wire)
    }

    fn ip(&self, words: &str) {
        let done = Command::new("ip").args(words.split_whitespace()).output().expect("running ip");
        let message = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "ip {words}: {message}");
    }

    /// Starts a capture at the other end, and waits until it runs.
    fn capture(&self, place: &Place, options: &str) -> Live {
        // Assertions compare plain messages, without the escapes of JSON.
        let line = format!("capture --interface {} --log-format text {options}", self.there);
        let under = format!("ip netns exec {}", self.namespace);
        let mut live = place.floodmark(&line).under(&under).start();
        live.wait_for("capturing on");
        live
    }

    /// Returns the name of the device at this end.
    pub(super) fn here(&self) -> &str {
        &self.here
    }

    /// Opens the device at this end for sending.
    pub(super) fn sender(&self) -> Capture<Active> {
        let device = Capture::from_device(self.here.as_str()).expect("a device");
        device.snaplen(64).open().expect("the right to send")
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // The kernel removes the devices with the namespace.
        let _ = Command::new("ip").args(["netns", "del", &self.namespace]).status();
    }
}

/// Returns a minimal Ethernet frame with IPv4 and UDP, from one of a thousand addresses.
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

/// The length of the IP packet in a frame, in bytes.
const PACKET: i64 = 46;

/// Sends packets, and asserts that all are counted and arrive.
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
    live.signal("INT", SignalTarget::Parent);
    let done = live.finish().expect(0);
    let sent = records(&place.read("out.jsonl"));
    let (count, bytes) = (u64::from(packets), u64::from(packets) * PACKET as u64);
    let done = done.assert_stderr(&[
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
    // For a longer run by hand; must be a multiple of a thousand.
    let packets = std::env::var("FLOODMARK_WIRE_PACKETS");
    let packets = packets.map_or(200_000, |packets| packets.parse().expect("a number of packets"));
    check("", packets);
}

#[test]
fn every_packet_is_sent_as_its_own_record() {
    check("--aggregate off", 50_000);
}

#[test]
fn record_of_a_quiet_link_is_sent_during_the_capture() {
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
    live.signal("TERM", SignalTarget::Parent);
    live.finish().expect(0).assert_stderr(&["counted 1 of 1 frames"]);
}

/// Starts a capture that serves its state over HTTP, and returns it with its address.
fn served(wire: &Wire, place: &Place) -> (Live, String) {
    // The namespace has a loopback interface of its own.
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
    let response = Command::new("ip")
        .args(["netns", "exec", &wire.namespace, "bash", "-c"])
        .arg(format!(
            "exec 3<>/dev/tcp/{} && printf 'GET {page} HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3",
            address.replace(':', "/")
        ))
        .output()
        .expect("running bash");
    String::from_utf8(response.stdout).expect("text")
}

/// Requests a page until it contains a text.
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
    live.signal("INT", SignalTarget::Parent);
    live.finish().expect(0);
}

#[test]
fn running_capture_serves_metrics_and_readiness() {
    let Some(wire) = Wire::new() else { return };
    let place = Place::new();
    let (live, address) = served(&wire, &place);
    let get = |path: &str| page(&wire, &address, path);
    let mut sender = wire.sender();
    for at in 0..50 {
        sender.sendpacket(frame(at)).expect("sending a frame");
    }
    let began = Instant::now();
    let all =
        ["floodmark_capture_packets_total 50\n", "floodmark_sent_records_total{sink=\"-\"} 50\n"];
    let metrics = loop {
        let metrics = get("/metrics");
        if all.iter().all(|line| metrics.contains(line)) {
            break metrics;
        }
        assert!(began.elapsed().as_secs() < 60, "never counted: {metrics}");
    };
    let none = "floodmark_capture_dropped_frames_total{by=\"kernel\"} 0\n";
    assert!(metrics.contains(none), "{metrics}");
    assert!(get("/readyz").starts_with("HTTP/1.0 200"), "{}", get("/readyz"));
    assert!(get("/healthz").contains("\"alive\":true"), "{}", get("/healthz"));
    live.signal("INT", SignalTarget::Parent);
    live.finish().expect(0);
}

#[test]
fn filter_selects_packets_and_duration_ends_the_capture() {
    let Some(wire) = Wire::new() else { return };
    let place = Place::new();
    let mut live = wire.capture(&place, "--to - --filter ip[14:2]==7 --duration 1h");
    let mut sender = wire.sender();
    for at in 0..1000 {
        sender.sendpacket(frame(at)).expect("sending a frame");
    }
    assert_eq!(records(&live.line()).len(), 1);
    live.signal("INT", SignalTarget::Parent);
    live.finish().expect(0).assert_stderr(&["counted 1 of 1 frames"]);
    let live = wire.capture(&place, "--to - --duration 100ms");
    live.finish().expect(0).assert_stderr(&["counted 0 of 0 frames"]);
}

#[test]
fn deleted_interface_is_reported_after_its_packets_are_counted() {
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
    done.assert_stderr(&[
        "counted 501 of 501 frames",
        &format!("interface \"{}\" can't be read", wire.there),
    ]);
}

#[test]
fn capture_continues_after_its_interface_was_down() {
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
    live.signal("INT", SignalTarget::Parent);
    live.finish().expect(0).assert_stderr(&["counted 2 of 2 frames"]);
}

#[test]
fn packets_dropped_by_the_kernel_are_reported() {
    let Some(wire) = Wire::new() else { return };
    let place = Place::new();
    // The smallest buffer, and a program that is stopped while packets arrive.
    let live = wire.capture(&place, "--to out.jsonl --buffer 64KiB");
    live.signal("STOP", SignalTarget::Parent);
    let mut sender = wire.sender();
    for at in 0..20_000 {
        sender.sendpacket(frame(at)).expect("sending a frame");
    }
    live.signal("CONT", SignalTarget::Parent);
    live.signal("INT", SignalTarget::Parent);
    let done =
        live.finish().expect(0).assert_stderr(&["frames by the kernel, whose buffer was full"]);
    let number = |after: &str| -> u64 {
        let at = done.stderr.find(after).expect(after) + after.len();
        let digits = done.stderr[at..].split(' ').next().expect("a word");
        digits.parse().unwrap_or_else(|_| panic!("no number after {after}: {}", done.stderr))
    };
    let (counted, dropped) = (number("counted "), number("dropped so far: "));
    assert_eq!(counted + dropped, 20_000, "{}", done.stderr);
    assert!(dropped > 0);
}
