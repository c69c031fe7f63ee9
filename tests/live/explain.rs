//! Explain queries to a run while records and limits arrive.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};

use floodmark::kafka::{Address, Outgoing};
use serde_json::Value;

use crate::common::Random;
use crate::common::broker::{Mock, produce};
use crate::common::now_ms;
use crate::replay::run::{Live, Place, SignalTarget};
use crate::serving::{HttpResponse, get, get_until, server};

/// One window, whenever the test runs. No partition becomes idle before the end.
const OPTIONS: &str =
    "--limits limits.jsonl --http 127.0.0.1:0 --tick 200ms --window 87600h --idle-timeout 1h";

const PERS: [&str; 5] = ["pair", "source", "destination", "host", "total"];

/// Returns a limit of each kind, for all traffic and for that from one network.
fn limits(value: u64) -> String {
    let mut limits = String::new();
    for per in PERS {
        for (bound, metric) in [("max", "bytes"), ("min", "packets")] {
            for (name, source) in
                [("all", "any"), ("some", "10.0.0.0/31"), ("six", "2001:db8::/127")]
            {
                limits += &format!(
                    "{{\"limit_name\":\"{bound} {per} {name}\",\"limit_value\":{value},\
                     \"effective_date\":\"2020-01-01\",\"per\":\"{per}\",\"bound\":\"{bound}\",\
                     \"metric\":\"{metric}\",\"source\":\"{source}\"}}\n"
                );
            }
        }
    }
    limits
}

/// Bytes by pair and record.
type Sent = Vec<(IpAddr, IpAddr, i64)>;

fn send(to: &Address, partitions: i32, records: &Sent) {
    let keys: Vec<String> =
        records.iter().map(|(source, destination, _)| format!("{source} {destination}")).collect();
    let bytes: Vec<String> = records.iter().map(|(.., bytes)| bytes.to_string()).collect();
    let messages: Vec<Outgoing<'_>> = (0..records.len())
        .map(|at| Outgoing {
            key: Some(keys[at].as_bytes()),
            payload: Some(bytes[at].as_bytes()),
            timestamp_ms: Some(now_ms() as i64),
            partition: Some(at as i32 % partitions),
            ..Outgoing::default()
        })
        .collect();
    produce(to, &messages);
}

fn traffic(random: &mut Random, count: usize) -> Sent {
    let address = |six: bool, last: usize| -> IpAddr {
        let net = if six { "2001:db8::" } else { "10.0.0." };
        format!("{net}{last}").parse().expect("an address")
    };
    let record = |_| {
        let six = random.below(3) == 0;
        let [source, destination] = [(); 2].map(|()| address(six, random.below(4)));
        (source, destination, random.below(1000) as i64)
    };
    (0..count).map(record).collect()
}

/// Returns the amount that a limit counts for its entity.
fn amount(sent: &Sent, limit: &Value) -> i64 {
    let text = |of: &Value, field: &str| of[field].as_str().map(str::to_owned);
    let entity = &limit["entity"];
    let is = |field: &str, address: IpAddr| {
        text(entity, field).is_none_or(|of| of == address.to_string())
    };
    let network = text(limit, "source").expect("a network");
    let inside = |source: IpAddr| {
        let text = source.to_string();
        match network.as_str() {
            "any" => true,
            "10.0.0.0/31" => ["10.0.0.0", "10.0.0.1"].contains(&text.as_str()),
            "2001:db8::/127" => ["2001:db8::", "2001:db8::1"].contains(&text.as_str()),
            other => panic!("a limit of {other}"),
        }
    };
    let packets = limit["metric"] == "packets";
    let counted = sent.iter().filter(|(source, destination, _)| {
        let host = is("host", *source) || is("host", *destination);
        inside(*source) && host && is("source", *source) && is("destination", *destination)
    });
    counted.map(|(.., bytes)| if packets { 1 } else { *bytes }).sum()
}

fn path(source: &str, destination: &str) -> String {
    format!("/api/v1/explain?source={source}&destination={destination}")
}

/// Returns the limits that apply.
fn applying(response: &HttpResponse) -> Vec<Value> {
    assert_eq!(response.status, 200, "{}", response.body);
    response.json()["limits"].as_array().expect("limits").clone()
}

/// Waits until responses count this number of records.
fn wait_for(at: SocketAddr, records: usize) {
    get_until(at, &path("10.0.0.1", "10.0.0.2"), |response| {
        // The run has not begun.
        if response.status == 503 {
            return false;
        }
        let total = |limit: &&Value| limit["limit_name"] == "min total all";
        let limits = applying(response);
        limits.iter().find(total).expect("a limit of the total")["amount"] == records
    });
}

/// Compares the responses about several pairs with the records sent.
fn check(at: SocketAddr, sent: &Sent, value: u64) {
    let value = value as i64;
    let mut states = BTreeMap::<String, usize>::new();
    for (source, destination, judged) in [
        // Two scopes, five kinds of which one judges two hosts, and two bounds.
        ("10.0.0.0", "10.0.0.3", 24),
        ("10.0.0.1", "10.0.0.1", 20),
        ("10.0.0.2", "10.0.0.0", 12),
        ("2001:db8::1", "2001:db8::2", 24),
        ("2001:db8::3", "2001:db8::", 12),
        // Pairs without traffic.
        ("10.9.9.9", "10.0.0.1", 12),
        ("2001:db8::1", "2001:db8::ffff", 24),
    ] {
        let response = get(at, &path(source, destination));
        let limits = applying(&response);
        assert_eq!(limits.len(), judged, "{source} {destination}: {}", response.body);
        assert_eq!(response.json()["window_state"], "open");
        let as_of = response.json()["as_of"].as_str().expect("a tick").to_owned();
        assert!(
            response.head.contains(&format!("floodmark-as-of: {as_of}\r\n")),
            "{}",
            response.head
        );
        for limit in limits {
            let amount = amount(sent, &limit);
            assert_eq!(limit["amount"], amount, "{source} {destination}: {limit}");
            let max = limit["bound"] == "max";
            let headroom = if max { value - amount } else { amount - value };
            assert_eq!(
                (&limit["headroom"], &limit["limit_value"]),
                (&headroom.into(), &value.into())
            );
            // No window has closed.
            assert_eq!(limit["violated"], max && headroom < 0, "{limit}");
            assert_eq!(limit.get("not_judged").is_none(), max, "{limit}");
            *states.entry(limit["violated"].to_string()).or_default() += 1;
        }
    }
    assert!(states.values().all(|count| *count > 5) && states.len() == 2, "{states:?}");
}

fn end(run: Live) {
    run.signal("TERM", SignalTarget::Parent);
    run.finish().expect(0);
}

/// Starts a run over a new topic, and returns its processes, the HTTP address of each, and the topic.
fn started(
    mock: &Mock,
    place: &Place,
    processes: usize,
    workers: usize,
) -> (Vec<Live>, Vec<SocketAddr>, Address) {
    let flows = mock.topic(&format!("flows-{processes}-{workers}"), 3);
    // All ports are bound at once, so that they differ.
    let free: Vec<TcpListener> =
        (0..processes).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    let hosts = free.iter().map(|port| port.local_addr().expect("an address").to_string() + "\n");
    place.write("hosts", hosts.collect::<String>());
    drop(free);
    let line = format!("run --from {flows} {OPTIONS} -w{workers}");
    let mut runs: Vec<Live> = (0..processes)
        .map(|process| match processes {
            1 => place.floodmark(&line).start(),
            _ => place
                .floodmark(&format!("{line} -n{processes} --hostfile hosts -p{process}"))
                .start(),
        })
        .collect();
    let servers = runs.iter_mut().map(server).collect();
    (runs, servers, flows)
}

#[test]
fn explained_amounts_equal_the_sums_of_the_records() {
    let mock = Mock::new();
    for (processes, workers) in [(1, 1), (1, 2), (2, 2)] {
        let place = Place::new();
        place.write("limits.jsonl", limits(9000));
        let (mut runs, servers, flows) = started(&mock, &place, processes, workers);
        let at = servers[0];
        let random = &mut Random(1307 + processes as u64);
        let mut sent = traffic(random, 300);
        send(&flows, 3, &sent);
        wait_for(at, sent.len());
        check(at, &sent, 9000);
        // The new limits all take effect at one tick, with the amounts so far.
        place.write("new", limits(20_000));
        std::fs::rename(place.path("new"), place.path("limits.jsonl")).expect("it is moved");
        get_until(at, &path("10.0.0.1", "10.0.0.2"), |response| {
            let limits = applying(response);
            let new = limits.iter().filter(|limit| limit["limit_value"] == 20_000).count();
            assert!(new == 0 || new == limits.len(), "of two ticks: {}", response.body);
            new > 0
        });
        check(at, &sent, 20_000);
        let more = traffic(random, 200);
        send(&flows, 3, &more);
        sent.extend(more);
        wait_for(at, sent.len());
        check(at, &sent, 20_000);
        // Other processes do not know the limits.
        if let Some(other) = servers.get(1) {
            let response = get(*other, &path("10.0.0.1", "10.0.0.2"));
            let error = response.json()["error"].as_str().expect("a text").to_owned();
            assert_eq!(response.status, 421, "{error}");
            assert!(error.contains("this is process 1, and only process 0 knows"), "{error}");
        }
        let first = runs.remove(0);
        end(first);
        runs.into_iter().for_each(|run| drop(run.finish().expect(0)));
    }
}

/// While records of one pair arrive, the amounts per pair, source, destination, host and in total are equal.
#[test]
fn explain_response_holds_amounts_of_one_tick() {
    let (mock, place) = (Mock::new(), Place::new());
    place.write("limits.jsonl", limits(1000));
    let (mut runs, servers, flows) = started(&mock, &place, 1, 2);
    let at = servers[0];
    let record = ("10.0.0.1".parse().expect("one"), "10.0.0.2".parse().expect("one"), 7);
    const RECORDS: usize = 30_000;
    wait_for(at, 0);
    let sender = std::thread::spawn(move || {
        (0..30).for_each(|_| send(&flows, 3, &vec![record; RECORDS / 30]));
    });
    let (mut amounts, mut last) = (Vec::new(), jiff::Timestamp::UNIX_EPOCH);
    while amounts.last() != Some(&(RECORDS as i64)) {
        let response = get(at, &path("10.0.0.1", "10.0.0.2"));
        let as_of = response.json()["as_of"].as_str().expect("a tick").parse().expect("a time");
        assert!(as_of >= last, "{as_of} after {last}");
        last = as_of;
        let counted = |limit: &Value| {
            let amount = limit["amount"].as_i64().expect("an amount");
            if limit["metric"] == "packets" { amount * 7 } else { amount }
        };
        let counted: Vec<i64> = applying(&response).iter().map(counted).collect();
        assert_eq!(counted.len(), 24);
        assert!(counted.iter().all(|amount| *amount == counted[0]), "{}", response.body);
        amounts.push(counted[0] / 7);
    }
    sender.join().expect("all is sent");
    assert!(amounts.is_sorted());
    println!("{} responses while {RECORDS} records arrived", amounts.len());
    end(runs.remove(0));
}

#[test]
fn explain_command_prints_the_response_of_the_run() {
    let (mock, place) = (Mock::new(), Place::new());
    place.write("limits.jsonl", limits(1000));
    let flows = mock.topic("flows", 1);
    let line = format!("run --from {flows} {OPTIONS} --source 10.0.0.0/8");
    let mut run = place.floodmark(&line).start();
    let at = server(&mut run);
    let [one, two]: [IpAddr; 2] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse().expect("one"));
    send(&flows, 1, &vec![(one, two, 600), (one, two, 401)]);
    wait_for(at, 2);
    let explain = |words: &str| {
        let line = format!("limits explain 10.0.0.1 10.0.0.2 --from http://{at} {words}");
        place.floodmark(&line).stdout(0)
    };
    let printed: Value = serde_json::from_str(&explain("--format json --all")).expect("JSON");
    let mut served = get(at, &(path("10.0.0.1", "10.0.0.2") + "&all=true")).json();
    served["as_of"] = printed["as_of"].clone();
    assert_eq!(printed, served);
    assert_eq!(printed["not_applying"].as_array().expect("a list").len(), 10);
    let table = explain("");
    let squeezed: Vec<&str> = table.split_whitespace().collect();
    let row =
        "max pair all 10.0.0.1 > 10.0.0.2 max 1000 bytes 1001 -1 broken - 2020-01-01T00:00:00Z";
    assert!(squeezed.join(" ").contains(row), "{table}");

    // A window of the future, and one long ago.
    let of = |at_time: &str, words: &str| {
        let response = get(at, &(path("10.0.0.1", "10.0.0.2") + "&at=" + at_time + words));
        assert_eq!(response.status, 200, "{}", response.body);
        let response = response.json();
        let limit = response["limits"].as_array().and_then(|limits| limits.first()).cloned();
        (response["window_state"].clone(), limit.map(|limit| limit["amount"].clone()))
    };
    assert_eq!(of("2999-01-01", ""), ("future".into(), Some(0.into())));
    // No version is so old.
    assert_eq!(of("1975-01-01", "&all=true").1, None);
    // No limit applies to uncounted traffic.
    let none = get(at, &path("2001:db8::1", "2001:db8::2")).json();
    assert_eq!(none["limits"], Value::Array(Vec::new()));
    assert!(none["why_none"].as_str().is_some_and(|why| why.contains("not counted")), "{none}");
    for (query, parameter) in [
        ("source=10.0.0.1", "destination"),
        ("source=10.0.0.1&destination=::1", "destination"),
        ("source=10.0.0.1&destination=10.0.0.2&at=now", "at"),
        ("source=10.0.0.1&destination=10.0.0.2&window=1", "window"),
        ("source=10.0.0.1&source=10.0.0.1&destination=10.0.0.2", "source"),
    ] {
        let response = get(at, &format!("/api/v1/explain?{query}"));
        assert_eq!((response.status, &response.json()["parameter"]), (400, &parameter.into()));
    }
    end(run);
}

/// While a process is stopped, queries time out, and their number is bounded.
#[test]
fn explain_query_times_out_while_no_tick_completes() {
    let (mock, place) = (Mock::new(), Place::new());
    place.write("limits.jsonl", limits(1000));
    let (mut runs, servers, _) = started(&mock, &place, 2, 1);
    let (at, path) = (servers[0], path("10.0.0.1", "10.0.0.2"));
    get_until(at, &path, |response| response.status == 200);
    runs[1].signal("STOP", SignalTarget::Parent);
    let late = get_until(at, &path, |response| response.status == 504);
    assert!(
        late.json()["error"].as_str().is_some_and(|why| why.contains("/readyz")),
        "{}",
        late.body
    );
    // Queries beyond the bound are rejected with 503; other pages are still served.
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let get = || {
            let response = get(at, &path);
            assert_eq!(response.head.contains("retry-after: 1\r\n"), response.status == 503);
            response.status
        };
        let requests: Vec<_> = (0..40).map(|_| scope.spawn(get)).collect();
        assert_eq!(crate::serving::get(at, "/healthz").status, 200);
        requests.into_iter().map(|thread| thread.join().expect("a response")).collect()
    });
    let count = |status| statuses.iter().filter(|of| **of == status).count();
    assert_eq!((count(503), count(504)), (8, 32), "{statuses:?}");
    runs[1].signal("CONT", SignalTarget::Parent);
    get_until(at, &path, |response| response.status == 200);
    end(runs.remove(0));
    runs.remove(0).finish().expect(0);
}

/// Each worker of each process filters and dates the records that it reads, so that a process with other options would
/// change the result.
#[test]
fn option_that_differs_in_one_process_is_rejected_by_both() {
    let (mock, place) = (Mock::new(), Place::new());
    let flows = mock.topic("flows", 2);
    place.write("limits.jsonl", limits(1));
    let line = format!("run --from {flows} {OPTIONS} -n2 --hostfile hosts --log-format text");
    for (option, one, other) in [
        ("--source", "10.0.0.0/8", "192.0.2.0/24"),
        ("--max-ahead", "5m", "1m"),
        ("--input-timezone", "UTC", "Europe/Berlin"),
        ("--from-offset", "earliest", "latest"),
        ("--idle-timeout", "2h", "3h"),
        ("-X", "isolation.level=read_committed", "isolation.level=read_uncommitted"),
    ] {
        place.write("hosts", crate::replay::processes::hosts(2));
        let line = line.replace("--idle-timeout 1h", "");
        let start = |process, value| {
            place.floodmark(&format!("{line} -p{process} {option} {value}")).start()
        };
        let both = [start(0, one), start(1, other)];
        for (done, (theirs, ours)) in both.into_iter().zip([(other, one), (one, other)]) {
            let message =
                format!("started with other options: {option} {theirs} there, {ours} here");
            // Options of the client are named `-X NAME`, with the value alone.
            let message =
                message.replace("isolation.level=read", "read").replace("-X", "-X isolation.level");
            done.finish().expect(1).assert_stderr(&[&message]);
        }
    }
}
