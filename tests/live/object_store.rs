//! Runs with a state in an object store.

use floodmark::kafka::Address;

use super::kit::TopicFeed;
use super::restarts::{alerts, check};
use super::sinks::new_address;
use super::state::{OPTIONS, made, send};
use crate::common::broker::{Broker, random_name};
use crate::common::data;
use crate::common::object_store::{BUCKET, Way, put_object};
use crate::replay::fold::assert_same;
use crate::replay::pcap::{Packet, pcap};
use crate::replay::recorded::sorted;
use crate::replay::run::{Place, Run, SignalTarget};
use crate::replay::traffic::{Random, date};
use crate::serving::{get_until, server};

fn run<'a>(place: &'a Place, way: &Way, words: &str) -> Run<'a> {
    place
        .floodmark(words)
        .env("AWS_ENDPOINT_URL", way.endpoint)
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", "floodmark")
        .env("AWS_SECRET_ACCESS_KEY", "floodmark")
}

fn line(from: &Address, to: &Address, state: &str, more: &str) -> String {
    format!(
        "run --from {from} --to {to} {OPTIONS} --state {state} --idle-timeout 1h --tick 50ms {more}"
    )
}

/// A state that no other test has.
fn new_state() -> String {
    format!("s3://{BUCKET}/{}/state", random_name("test"))
}

#[test]
fn run_with_its_state_in_an_object_store_continues_after_kills() {
    let (place, packets) = made(871, 900);
    let random = &mut Random::new(871);
    let (way, state) = (Way::new(), new_state());
    let from = Broker::shared().topic("flows", 3);
    let to = new_address("alerts");
    let mut feed = TopicFeed::to(&from);
    for (shape, slice) in ["-w1", "-n2 -w1", "-w2"].into_iter().zip(packets.chunks(300)) {
        send(&mut feed, slice);
        let outputs = format!("--to out.jsonl --to - {shape}");
        let mut live = run(&place, &way, &line(&from, &to, &state, &outputs)).start();
        (0..=random.below(20)).for_each(|_| drop(live.line()));
        live.signal("KILL", SignalTarget::Group);
        live.finish_killed();
    }
    let end = "--to out.jsonl --until-end -w3";
    run(&place, &way, &line(&from, &to, &state, end)).run().expect(0);
    check(&place, &to, "made.pcap");
    super::lines::check_lines(&place, &place.read("out.jsonl"));
    let sound = run(&place, &way, &format!("state check {state}")).stdout(0);
    assert!(sound.contains(": sound"), "{sound}");
    let listed = run(&place, &way, &format!("state list {state}")).stdout(0);
    assert!(listed.contains(&from.topic), "{listed}");
    run(&place, &way, &format!("state prune {state}")).run().expect(0);
    run(&place, &way, &format!("state reset {state}")).run().expect(0);
    let gone = run(&place, &way, &format!("state list {state}")).run().expect(66);
    gone.assert_stderr(&["is no state: it has no state.json"]);
}

#[test]
fn run_on_another_machine_takes_over_the_state_in_an_object_store() {
    let (place, packets) = made(881, 600);
    let (way, state) = (Way::new(), new_state());
    let from = Broker::shared().topic("flows", 3);
    let to = new_address("alerts");
    let mut feed = TopicFeed::to(&from);
    send(&mut feed, &packets[..300]);
    let first = line(&from, &to, &state, "--to first.jsonl --to - --restart");
    let mut first = run(&place, &way, &first).start();
    first.line();
    first.signal("STOP", SignalTarget::Group);
    send(&mut feed, &packets[300..]);
    let second = line(&from, &to, &state, "--until-end");
    run(&place, &way, &second).run().expect(0);
    check(&place, &to, "made.pcap");
    let before = alerts(&to);
    first.signal("CONT", SignalTarget::Group);
    first.finish().expect(76).assert_stderr(&["has taken over the state"]);
    assert_eq!(alerts(&to), before);
}

#[test]
fn outage_of_the_object_store_is_reported_and_survived() {
    let (place, packets) = made(891, 600);
    let (way, state) = (Way::new(), new_state());
    let from = Broker::shared().topic("flows", 3);
    let to = new_address("alerts");
    let mut feed = TopicFeed::to(&from);
    send(&mut feed, &packets[..200]);
    let words = line(&from, &to, &state, "--to - --http 127.0.0.1:0");
    let mut live = run(&place, &way, &words).start();
    let http = server(&mut live);
    live.line();
    way.interrupt();
    send(&mut feed, &packets[200..400]);
    // Alerts flow.
    let unready = get_until(http, "/readyz", |page| page.body.contains("state_not_durable"));
    assert_eq!(unready.status, 503);
    live.line();
    way.resume();
    get_until(http, "/readyz", |page| page.status == 200);
    live.signal("KILL", SignalTarget::Group);
    live.finish_killed();
    send(&mut feed, &packets[400..]);
    run(&place, &way, &line(&from, &to, &state, "--until-end")).run().expect(0);
    check(&place, &to, "made.pcap");
}

#[test]
fn bucket_that_does_not_exist_is_named() {
    let (place, _) = made(893, 10);
    let way = Way::new();
    let from = Broker::shared().topic("flows", 1);
    let words = line(&from, &new_address("alerts"), "s3://no-such-bucket/a", "");
    let rejected = run(&place, &way, &words).run().expect(69);
    rejected
        .assert_stderr(&["opening the state \"s3://no-such-bucket/a\" (--state)", "NoSuchBucket"]);
    let words = line(&from, &new_address("alerts"), "s3://bucket", "");
    run(&place, &way, &words).run().expect(69).assert_stderr(&["give s3://BUCKET/PREFIX"]);
}

#[test]
fn replay_of_objects_says_what_the_capture_says() {
    let (place, packets) = sorted(881);
    let line = |what: &str| format!("replay {what} --limits limits.jsonl --updates tick");
    let captured = place.floodmark(&line("made.pcap")).stdout(0);
    let (way, prefix) = (Way::new(), random_name("test"));
    let part = |turn: usize| packets.iter().skip(turn).step_by(2).copied().collect::<Vec<_>>();
    let rows = part(0).into_iter().map(|Packet { ms, source, destination, bytes }| {
        format!("{},{source},{destination},{bytes}\n", date(ms))
    });
    let table = "time,source,destination,bytes\n".to_owned() + &rows.collect::<String>();
    let table = zstd::encode_all(table.as_bytes(), 1).expect("memory");
    put_object(&format!("{prefix}/in/date=1/a.csv.zst"), &table);
    put_object(&format!("{prefix}/in/date=2/b"), &pcap(&part(1)));
    put_object(&format!("{prefix}/in/_SUCCESS"), b"");
    let parquet = std::fs::read(data().join("tables/polars.parquet")).expect("a file");
    put_object(&format!("{prefix}/polars"), &parquet);
    let at = |key: &str| format!("s3://{BUCKET}/{prefix}/{key}");
    for what in [at("in"), at("in/date=*"), at("in/date=1/a.csv.zst ") + &at("in/date=2")] {
        let replayed = run(&place, &way, &line(&what)).stdout(0);
        assert_same(&captured, &replayed, || what);
    }
    let polars = data().join("tables/polars.parquet").display().to_string();
    let expected = place.floodmark(&line(&polars)).stdout(0);
    let replayed = run(&place, &way, &line(&at("polars"))).stdout(0);
    assert_same(&expected, &replayed, || polars);
    for (what, code, why) in [
        (at("none"), 66, "there is no such object"),
        ("s3:///a".to_owned(), 66, "give s3://BUCKET/KEY"),
        (at("polars ") + &at("pol*"), 64, "is read twice"),
        ("s3://no-such-bucket/a".to_owned(), 69, "NoSuchBucket"),
    ] {
        run(&place, &way, &line(&what)).run().expect(code).assert_stderr(&[why]);
    }
}
