//! Small cases of the reference, computed by hand.
//!
//! Windows are 10 s wide, so that the windows of this page are 0, 10, 20, ...; ticks and watermarks
//! are given in seconds. Each case pushes ticks and compares the changes, as text: event, reason,
//! entity and volume.

use std::net::IpAddr;

use floodmark_dataflows::reference::{Existence, Reference, TickInput, TickOutput};
use floodmark_dataflows::time::{END_OF_INPUT, Window, Windows};
use floodmark_dataflows::top::TopQuery;
use floodmark_dataflows::types::{
    Bound, Change, Entity, LimitId, Metric, Pair, Per, Prefix, Scope, Updates, Version, VersionId,
    Volume,
};

const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";

const WINDOWS: Windows =
    Windows { width_secs: 10, lateness_ms: Some(10_000), retention_ms: None, max_gap_secs: 30 };

fn reference() -> Reference {
    Reference::new(WINDOWS, Updates::Settled, None)
}

/// A version of limit 1 for pairs and bytes, dated in milliseconds.
fn row(number: u32, effective_ms: i64, bound: Bound, value: Option<i64>) -> Version {
    Version {
        limit: LimitId(1),
        effective: i128::from(effective_ms) * 1_000_000,
        id: VersionId(number),
        bound,
        scope: Scope::default(),
        value,
    }
}

fn max(number: u32, effective_ms: i64, value: i64) -> Version {
    row(number, effective_ms, Bound::Max, Some(value))
}

fn min(number: u32, effective_ms: i64, value: i64) -> Version {
    row(number, effective_ms, Bound::Min, Some(value))
}

fn per(per: Per, version: Version) -> Version {
    let scope = Scope { per, ..version.scope };
    Version { scope, ..version }
}

fn pair(source: &str, destination: &str) -> Pair {
    let address = |text: &str| -> IpAddr { text.parse().expect("an address") };
    Pair::new(address(source), address(destination)).expect("one family")
}

/// A tick with its watermark, in seconds.
fn at(tick: u64, watermark: u64) -> TickInput {
    TickInput { tick: tick * 1000, watermark: watermark * 1000, ..TickInput::default() }
}

/// Adds to the input of a tick.
trait With {
    fn row(self, row: Version) -> Self;
    fn without(self, row: Version) -> Self;
    fn record(self, window: u64, pair: Pair, bytes: i64, packets: i64) -> Self;
    fn seen(self, window: u64) -> Self;
}

impl With for TickInput {
    fn row(mut self, row: Version) -> Self {
        self.edits.push((row, 1));
        self
    }
    fn without(mut self, row: Version) -> Self {
        self.edits.push((row, -1));
        self
    }
    fn record(mut self, window: u64, pair: Pair, bytes: i64, packets: i64) -> Self {
        let volume = Volume::new(bytes, packets);
        self.records.push((Window(window), pair, volume));
        self.seen(window)
    }
    fn seen(mut self, window: u64) -> Self {
        self.seen.push(Window(window));
        self
    }
}

/// The changes, one a line: event, reason, window, entity, bytes and packets, the version
/// that judges and, if so, that the window is settled.
fn change_lines(output: &TickOutput) -> Vec<String> {
    output.changes.iter().map(line).collect()
}

fn line(change: &Change) -> String {
    let violation = &change.violation;
    let entity = match violation.entity {
        Entity::Pair(pair) => format!("{}>{}", pair.source(), pair.destination()),
        Entity::Source(address) => format!("{address}>"),
        Entity::Destination(address) => format!(">{address}"),
        Entity::Host(address) => format!("{address}"),
        Entity::Total => "total".to_owned(),
    };
    let version = change.version.map_or("gone".to_owned(), |id| format!("v{}", id.0));
    let settled = if change.settled { " settled" } else { "" };
    format!(
        "{:?} {:?} {} {entity} {}/{} {version}{settled}",
        change.event,
        change.reason,
        violation.window.0,
        violation.volume.bytes,
        violation.volume.packets,
    )
}

/// Pushes a tick and compares all its changes.
#[track_caller]
fn check(reference: &mut Reference, input: TickInput, expected: &[&str]) -> TickOutput {
    let output = reference.tick(input);
    assert_eq!(change_lines(&output), expected);
    output
}

#[test]
fn max_is_broken_only_above_its_value() {
    let r = &mut reference();
    check(r, at(1, 1).row(max(1, 0, 100)).record(0, pair(A, B), 100, 1), &[]);
    let expected = ["Raised Data 0 10.0.0.1>10.0.0.2 101/2 v1"];
    let left = check(r, at(2, 2).record(0, pair(A, B), 1, 1), &expected);
    assert_eq!(left.violations.len(), 1);
    assert_eq!(left.held[&(Window(0), pair(A, B))], Volume::new(101, 2));
    // The next amounts make no change: no updates were requested.
    check(r, at(3, 3).record(0, pair(A, B), 1, 1), &[]);
    let expected = ["Cleared Data 0 10.0.0.1>10.0.0.2 100/2 v1"];
    check(r, at(4, 4).record(0, pair(A, B), -2, -1), &expected);
}

#[test]
fn rows_raise_and_clear_violations_without_records() {
    let r = &mut reference();
    check(r, at(1, 1).record(0, pair(A, B), 100, 1), &[]);
    let raised = ["Raised LimitChange 0 10.0.0.1>10.0.0.2 100/1 v1"];
    check(r, at(2, 2).row(max(1, 0, 50)), &raised);
    // The version that judges now is shown, not the one that was broken.
    let cleared = ["Cleared LimitChange 0 10.0.0.1>10.0.0.2 100/1 v2"];
    check(r, at(3, 3).without(max(1, 0, 50)).row(max(2, 0, 500)), &cleared);
    let raised = ["Raised LimitChange 0 10.0.0.1>10.0.0.2 100/1 v3"];
    check(r, at(4, 4).row(max(3, 1, 60)), &raised);
    let cleared = ["Cleared LimitChange 0 10.0.0.1>10.0.0.2 100/1 gone"];
    let gone = at(5, 5).without(max(2, 0, 500)).without(max(3, 1, 60));
    check(r, gone.record(0, pair(A, B), 10, 1), &cleared);
}

#[test]
fn reason_is_the_first_phase_that_raises_the_violation() {
    let r = &mut reference();
    check(r, at(1, 1).record(0, pair(A, B), 100, 1), &[]);
    // The row alone is enough, whatever the records of the same tick add.
    let raised = ["Raised LimitChange 0 10.0.0.1>10.0.0.2 150/2 v1"];
    check(r, at(2, 2).row(max(1, 0, 50)).record(0, pair(A, B), 50, 1), &raised);
    // Row and record together: the row alone would not do it.
    let expected = [
        "Raised Data 0 10.0.0.2>10.0.0.1 45/1 v2 settled",
        "Updated Schedule 0 10.0.0.1>10.0.0.2 150/2 v2 settled",
    ];
    let edit = at(20, 20).without(max(1, 0, 50)).row(max(2, 0, 40));
    check(r, edit.record(0, pair(B, A), 45, 1), &expected);
}

#[test]
fn min_is_judged_when_the_window_closes() {
    let r = &mut reference();
    let rows = at(1, 1).row(min(1, 0, 50));
    check(r, rows.record(0, pair(A, B), 49, 1).record(0, pair(B, A), 50, 1), &[]);
    check(r, at(9, 9), &[]);
    let raised = ["Raised Schedule 0 10.0.0.1>10.0.0.2 49/1 v1"];
    check(r, at(10, 10), &raised);
    // Late data revises: up to the value, and a new one comes in under it.
    let revised = ["Cleared LateData 0 10.0.0.1>10.0.0.2 50/2 v1"];
    check(r, at(11, 11).record(0, pair(A, B), 1, 1), &revised);
    let revised = ["Raised LateData 0 10.0.0.1>10.0.0.1 3/1 v1"];
    check(r, at(12, 12).record(0, pair(A, A), 3, 1), &revised);
    // All packets taken back: it has no record any more and is not judged.
    let revised = ["Cleared LateData 0 10.0.0.1>10.0.0.1 1/0 v1"];
    check(r, at(13, 13).record(0, pair(A, A), -2, -1), &revised);
}

#[test]
fn silence_up_to_the_greatest_gap_breaks_a_min_of_a_total() {
    let r = &mut reference();
    let first = at(1, 1).row(per(Per::Total, min(1, 0, 5))).record(0, pair(A, B), 9, 1);
    check(r, first, &[]);
    // 30 s from start to start are not too much; 10 and 20 lie between, and 20 has not ended.
    let raised = ["Raised Schedule 10 total 0/0 v1"];
    let left = check(r, at(30, 29).record(30, pair(A, B), 9, 1), &raised);
    let windows: Vec<_> = left.windows.into_iter().collect();
    let (seen, gap) = (Existence::Seen, Existence::Gap);
    let expected = [(0, seen), (10, gap), (20, gap), (30, seen)];
    assert_eq!(windows, expected.map(|(start, what)| (Window(start), what)));
    // 20 closes, 0 is over its value.
    check(
        r,
        at(31, 30),
        &["Raised Schedule 20 total 0/0 v1", "Updated Schedule 10 total 0/0 v1 settled"],
    );
    // 40 s are a break in observation.
    let left = check(r, at(70, 30).record(70, pair(A, B), 9, 1), &[]);
    assert_eq!(left.windows.len(), 5);
    // Until a record before the filters falls between.
    let left = check(r, at(71, 30).seen(60), &[]);
    assert_eq!(left.windows.len(), 8);
    let expected = [
        "Raised Schedule 40 total 0/0 v1 settled",
        "Raised Schedule 50 total 0/0 v1 settled",
        "Raised Schedule 60 total 0/0 v1",
        "Updated Schedule 20 total 0/0 v1 settled",
    ];
    check(r, at(72, 70), &expected);
    // A late record ends the silence.
    let expected = ["Cleared LateData 60 total 7/1 v1"];
    check(r, at(73, 70).record(60, pair(A, B), 7, 1), &expected);
}

#[test]
fn silence_found_after_its_windows_closed_is_judged_at_once() {
    let r = &mut reference();
    let first = at(1, 1).row(per(Per::Total, min(1, 0, 5))).record(0, pair(A, B), 9, 1);
    check(r, first, &[]);
    // The clock has passed the windows 10 and 20, of which nothing is known yet.
    check(r, at(35, 35), &[]);
    let raised = ["Raised Schedule 10 total 0/0 v1 settled", "Raised Schedule 20 total 0/0 v1"];
    check(r, at(36, 35).record(30, pair(A, B), 9, 1), &raised);
}

#[test]
fn settled_window_publishes_the_final_amount_once() {
    let r = &mut reference();
    let raised = ["Raised Data 0 10.0.0.1>10.0.0.2 60/1 v1"];
    check(r, at(1, 1).row(max(1, 0, 50)).record(0, pair(A, B), 60, 1), &raised);
    check(r, at(2, 2).record(0, pair(A, B), 5, 1), &[]);
    check(r, at(12, 12).record(0, pair(A, B), 5, 1), &[]);
    let settled = ["Updated Schedule 0 10.0.0.1>10.0.0.2 70/3 v1 settled"];
    check(r, at(20, 20), &settled);
    // Too late, and neither counted nor seen.
    let late = at(21, 21).record(0, pair(A, B), 5, 3).record(0, pair(A, B), 5, 4);
    let output = check(r, late, &[]);
    assert_eq!(output.late_dropped, 7);
    assert_eq!(output.held[&(Window(0), pair(A, B))], Volume::new(70, 3));
    check(r, at(40, 40), &[]);
}

#[test]
fn back_dated_row_judges_settled_windows_again() {
    let r = &mut reference();
    let first = at(1, 1).record(0, pair(A, B), 60, 1).record(0, pair(B, A), 30, 1);
    check(r, first, &[]);
    check(r, at(30, 30), &[]);
    let raised = ["Raised LimitChange 0 10.0.0.1>10.0.0.2 60/1 v1 settled"];
    check(r, at(31, 30).row(max(1, 0, 50)), &raised);
    let expected = [
        "Raised LimitChange 0 10.0.0.2>10.0.0.1 30/1 v2 settled",
        "Updated LimitChange 0 10.0.0.1>10.0.0.2 60/1 v2 settled",
    ];
    check(r, at(32, 30).row(max(2, 9_999, 20)), &expected);
    // At the end of the window it is too late to be in force there.
    check(r, at(33, 30).row(max(3, 10_000, 1)), &[]);
}

#[test]
fn version_dated_in_the_future_takes_effect_at_its_date() {
    let r = &mut reference();
    let mut waits = max(1, 5_000, 50);
    waits.effective += 1;
    check(r, at(1, 1).row(waits).record(0, pair(A, B), 60, 1), &[]);
    // A nanosecond too early.
    check(r, at(5, 5), &[]);
    let mut due = at(5, 5);
    due.tick += 1;
    check(r, due, &["Raised Schedule 0 10.0.0.1>10.0.0.2 60/1 v1"]);
    // A row deleted before its date, or at the very tick of its date, never takes effect.
    check(r, at(6, 6).row(max(2, 7_000, 1000)).row(max(3, 8_000, 1000)), &[]);
    check(r, at(7, 6).without(max(2, 7_000, 1000)).without(max(3, 8_000, 1000)), &[]);
    check(r, at(9, 9), &[]);
    // Read when it is due already: the rows have changed, not the time.
    let cleared = ["Cleared LimitChange 0 10.0.0.1>10.0.0.2 60/1 v4"];
    check(r, at(10, 9).row(max(4, 9_500, 1000)), &cleared);
}

#[test]
fn last_version_dated_in_a_window_judges_all_of_it() {
    let r = &mut reference();
    let rows = at(1, 1).row(max(1, 0, 100)).row(max(2, 4_000, 50)).row(max(3, 8_000, 200));
    check(r, rows.record(0, pair(A, B), 60, 1), &[]);
    check(r, at(4, 4), &["Raised Schedule 0 10.0.0.1>10.0.0.2 60/1 v2"]);
    check(r, at(9, 9), &["Cleared Schedule 0 10.0.0.1>10.0.0.2 60/1 v3"]);
    // All of it is due from here on, and the last one is in force in every window to come.
    check(r, at(11, 11).record(10, pair(A, B), 150, 1), &[]);
    let raised = [
        "Raised LimitChange 0 10.0.0.1>10.0.0.2 60/1 v2",
        "Raised LimitChange 10 10.0.0.1>10.0.0.2 150/1 v2",
    ];
    check(r, at(12, 12).without(max(3, 8_000, 200)), &raised);
}

#[test]
fn row_without_a_value_ends_the_limit_at_its_date() {
    let r = &mut reference();
    let (limit, none) = (max(1, 0, 50), row(2, 10_000, Bound::Max, None));
    let raised = ["Raised Data 0 10.0.0.1>10.0.0.2 60/1 v1"];
    let rows = at(1, 1).row(limit).row(none).record(0, pair(A, B), 60, 1);
    check(r, rows, &raised);
    check(r, at(10, 9).record(10, pair(A, B), 60, 1), &[]);
    // Without the row that ends it, it holds there as well; with it, it is gone.
    let raised = ["Raised LimitChange 10 10.0.0.1>10.0.0.2 60/1 v1"];
    check(r, at(11, 9).without(none), &raised);
    let cleared = ["Cleared LimitChange 10 10.0.0.1>10.0.0.2 60/1 gone"];
    check(r, at(12, 9).row(none), &cleared);
}

#[test]
fn pair_of_a_host_with_itself_is_counted_once() {
    let r = &mut reference();
    let mut limit = per(Per::Host, max(1, 0, 10));
    limit.scope.host = Prefix::new("10.0.0.0/24".parse().expect("a network"));
    let raised = ["Raised Data 0 10.0.0.1 12/4 v1", "Raised Data 0 10.0.0.2 25/5 v1"];
    let traffic = at(1, 1)
        .record(0, pair(A, A), 4, 1)
        .record(0, pair(A, B), 5, 1)
        .record(0, pair(B, A), 3, 2)
        .record(0, pair(B, "10.9.0.1"), 17, 2);
    check(r, traffic.row(limit), &raised);
}

#[test]
fn network_of_one_family_admits_no_address_of_the_other() {
    let r = &mut reference();
    let mapped = "::ffff:10.0.0.1";
    let mut v4 = per(Per::Total, max(1, 0, 10));
    v4.scope.source = Prefix::new("0.0.0.0/0".parse().expect("a network"));
    let traffic = at(1, 1).record(0, pair(mapped, mapped), 20, 1);
    check(r, traffic.record(0, pair(A, B), 10, 1).row(v4), &[]);
    let mut v6 = v4;
    v6.id = VersionId(2);
    v6.scope.source = Prefix::new("::ffff:0:0/96".parse().expect("a network"));
    let raised = ["Raised LimitChange 0 total 20/1 v2"];
    check(r, at(2, 2).without(v4).row(v6), &raised);
    // Any address is any of both.
    let sources = per(Per::Source, max(3, 0, 9));
    let expected = [
        "Raised LimitChange 0 10.0.0.1> 10/1 v3",
        "Raised LimitChange 0 ::ffff:10.0.0.1> 20/1 v3",
        "Cleared LimitChange 0 total 20/1 v3",
    ];
    check(r, at(3, 3).without(v6).row(sources), &expected);
}

#[test]
fn retired_window_emits_no_change() {
    let windows = Windows { retention_ms: Some(5_000), ..WINDOWS };
    let r = &mut Reference::new(windows, Updates::Settled, None);
    let raised = ["Raised Data 0 10.0.0.1>10.0.0.2 60/1 v1"];
    check(r, at(1, 1).row(max(1, 0, 50)).record(0, pair(A, B), 60, 1), &raised);
    // Even when the watermark passes all of it at once, the settled change is published first.
    let settled = ["Updated Schedule 0 10.0.0.1>10.0.0.2 60/1 v1 settled"];
    let left = check(r, at(25, 25), &settled);
    assert_eq!((left.violations.len(), left.retired.len()), (1, 0));
    // The window retires at the next tick, after the changes of the rows of that tick.
    let edit = at(26, 25).without(max(1, 0, 50)).row(max(2, 0, 40));
    let expected = ["Updated LimitChange 0 10.0.0.1>10.0.0.2 60/1 v2 settled"];
    let left = check(r, edit, &expected);
    assert_eq!((left.violations.len(), left.held.len()), (0, 0));
    assert_eq!(left.retired[&(Window(0), pair(A, B))], Volume::new(60, 1));
    assert!(left.windows.is_empty());
    let left = check(r, at(27, 25).without(max(2, 0, 40)), &[]);
    assert!(left.retired.is_empty());
}

#[test]
fn updates_are_published_as_requested() {
    let lines = |updates| {
        let r = &mut Reference::new(WINDOWS, updates, None);
        let inputs = [
            at(1, 1).row(max(1, 0, 50)).record(0, pair(A, B), 60, 1),
            at(2, 2).record(0, pair(A, B), 5, 1),
            at(3, 3).without(max(1, 0, 50)).row(max(2, 0, 40)),
            at(4, 4).record(0, pair(A, B), 0, 1),
            at(12, 12),
            at(13, 13).record(0, pair(A, B), 1, 1),
        ];
        let changes = inputs.map(|input| change_lines(&r.tick(input)));
        changes.concat()
    };
    let raised = "Raised Data 0 10.0.0.1>10.0.0.2 60/1 v1";
    let grown = "Updated Data 0 10.0.0.1>10.0.0.2 65/2 v1";
    let judged = "Updated LimitChange 0 10.0.0.1>10.0.0.2 65/2 v2";
    let late = "Updated LateData 0 10.0.0.1>10.0.0.2 66/4 v2";
    assert_eq!(lines(Updates::Settled), [raised]);
    assert_eq!(lines(Updates::Limit), [raised, judged]);
    assert_eq!(lines(Updates::Tick), [raised, grown, judged, late]);
}

#[test]
fn row_with_another_bound_or_metric_judges_the_same_limit_anew() {
    let r = &mut reference();
    let first = at(1, 1).row(max(1, 0, 50)).record(0, pair(A, B), 60, 3);
    check(r, first, &["Raised Data 0 10.0.0.1>10.0.0.2 60/3 v1"]);
    // In packets it is not over; as a minimum it is under once the window has closed.
    let mut packets = max(2, 0, 50);
    packets.scope.metric = Metric::Packets;
    let output = r.tick(at(2, 2).without(max(1, 0, 50)).row(packets));
    let cleared = ["Cleared LimitChange 0 10.0.0.1>10.0.0.2 60/3 v2"];
    assert_eq!(change_lines(&output), cleared);
    let change = output.changes.first().expect("one change");
    assert_eq!((change.bound, change.metric), (Bound::Max, Metric::Packets));
    let minimum = Version { id: VersionId(3), bound: Bound::Min, ..packets };
    check(r, at(3, 3).without(packets).row(minimum), &[]);
    check(r, at(10, 10), &["Raised Schedule 0 10.0.0.1>10.0.0.2 60/3 v3"]);
}

#[test]
fn top_is_emitted_when_the_window_settles() {
    let top = TopQuery { n: 2, per: Per::Source, metric: Metric::Bytes };
    let r = &mut Reference::new(WINDOWS, Updates::Settled, Some(top));
    let c = "10.0.0.3";
    let traffic = at(1, 1)
        .record(0, pair(B, A), 30, 1)
        .record(0, pair(A, B), 10, 1)
        .record(0, pair(A, c), 20, 1)
        .record(0, pair(c, A), 5, 1)
        .record(10, pair(c, A), 0, 1);
    r.tick(traffic);
    assert_eq!(r.tick(at(12, 12).record(0, pair(c, A), 5, 1)).top, []);
    let source = |text: &str| Entity::Source(text.parse().expect("an address"));
    let expected = [
        (Window(0), 1, source(A), Volume::new(30, 2)),
        (Window(0), 2, source(B), Volume::new(30, 1)),
    ];
    assert_eq!(r.tick(at(20, 20)).top, expected);
    // A source without traffic is not ranked.
    let mut end = at(31, 0);
    end.watermark = END_OF_INPUT;
    assert_eq!(r.tick(end).top, []);
}
