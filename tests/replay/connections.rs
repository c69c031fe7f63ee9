//! Connections while processes wait for each other: foreign ones, and those of processes with and without the secret.

use std::io::Write;
use std::net::{Shutdown, TcpStream};

use super::fold::assert_same;
use super::processes::{hosts, place};
use super::run::{Live, Place};

/// Starts the first process, and returns it with its address once it accepts connections. It writes to a file, so that
/// it does not block on standard output.
fn first(place: &Place, options: &str) -> (Live, String) {
    let hosts = hosts(2);
    place.write("hosts", &hosts);
    let line = "replay a.pcap --limits limits.jsonl --changes changes -n2 -p0 --hostfile hosts";
    let line = format!("{line} {options}");
    let run = place.floodmark(&line).start();
    let address = hosts.lines().next().expect("two hosts").to_owned();
    while TcpStream::connect(&address).is_err() {
        std::thread::yield_now();
    }
    (run, address)
}

fn second(place: &Place, options: &str) -> Live {
    place.floodmark(&format!("replay a.pcap -n2 -p1 --hostfile hosts {options}")).start()
}

#[test]
fn foreign_connections_are_dropped_and_change_nothing() {
    let place = place();
    let alone = place.floodmark("replay a.pcap --limits limits.jsonl").stdout(0);
    let (run, address) = first(&place, "");
    let mut strangers: Vec<TcpStream> =
        (0..100).map(|_| TcpStream::connect(&address).expect("it listens")).collect();
    for (number, stranger) in strangers.iter_mut().enumerate() {
        // The process may have dropped the connection by now.
        let _ = match number % 4 {
            0 => stranger.write_all(b"GET / HTTP/1.1\r\nHost: floodmark\r\n\r\n"),
            1 => stranger.write_all(b"floodmrk and no more"),
            2 => stranger.shutdown(Shutdown::Both),
            _ => Ok(()),
        };
    }
    let other = second(&place, "").finish().expect(0);
    let done = run.finish().expect(0);
    assert_same(&place.read("changes"), &alone, || "with strangers".into());
    assert_eq!((other.stdout.as_str(), other.stderr.as_str()), ("", ""));
    // The first dropped connections are logged each, the others are counted.
    let logged = done.stderr.lines().filter(|line| line.contains("dropped a connection from"));
    assert!((1..=10).contains(&logged.count()), "{}", done.stderr);
    drop(strangers);
}

#[test]
fn process_without_the_secret_is_rejected() {
    let place = place();
    place.write("secret", "what the first process knows\n");
    place.write("same", "  what the first process knows");
    place.write("other", "what the first process does not know\n");
    let (run, _) = first(&place, "--cluster-secret secret");
    let wrong = second(&place, "--cluster-secret other").finish().expect(1);
    wrong.assert_stderr(&[
        "reaching process 0",
        "process 0 has another secret",
        "--cluster-secret",
    ]);
    let none = second(&place, "").finish().expect(1);
    none.assert_stderr(&["reaching process 0", "process 0 was started with --cluster-secret"]);
    second(&place, "--cluster-secret same").finish().expect(0);
    let done = run.finish().expect(0);
    done.assert_stderr(&[
        "process 1 has another secret",
        "process 1 was started without --cluster-secret",
    ]);
    // A supervisor generates a secret for its processes.
    let line = "replay a.pcap --limits limits.jsonl -n2 --cluster-secret secret";
    place.floodmark(line).run().expect(0);
}

#[test]
fn short_or_missing_secret_fails_the_start() {
    let place = place();
    place.write("hosts", hosts(2));
    place.write("short", "0123456789abcde\n");
    for (name, code, message) in
        [("short", 78, "fewer than 16 bytes"), ("none", 66, "reading the cluster secret \"none\"")]
    {
        for variant in ["-n2 -p0 --hostfile hosts", "-n2 -p1 --hostfile hosts", "-n2", "-n1"] {
            let line = format!("replay a.pcap --totals t.csv {variant} --cluster-secret {name}");
            let done = place.floodmark(&line).run().expect(code);
            assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
            done.assert_stderr(&[message]);
            assert!(!place.path("t.csv").exists());
        }
    }
}

#[test]
fn non_loopback_address_needs_listen_any() {
    let place = place();
    let loopback = hosts(2);
    let (one, other) = loopback.trim().split_once('\n').expect("two hosts");
    let any = one.replace("127.0.0.1", "0.0.0.0");
    place.write("hosts", format!("{any}\n{other}\n"));
    let line = "replay a.pcap --totals t.csv -n2 --hostfile hosts -p0";
    let done = place.floodmark(line).run().expect(64);
    assert!(!place.path("t.csv").exists());
    done.assert_stderr(&[&format!("\"{any}\""), "not encrypted", "--listen-any", "private"]);
    place.write("secret", "what all processes know\n");
    let run = place.floodmark(&format!("{line} --listen-any --cluster-secret secret")).start();
    // A process needs the option for its own address only.
    second(&place, "--totals unused.csv --cluster-secret secret").finish().expect(0);
    run.finish().expect(0);
}

#[test]
fn listen_any_without_a_secret_is_rejected() {
    let place = place();
    place.write("hosts", hosts(2));
    place.write("secret", "what all processes know\n");
    for variant in ["-n2 --hostfile hosts -p0", "-n2 --hostfile hosts -p1", "-n2", "-n1"] {
        let line = format!("replay a.pcap --totals t.csv --listen-any {variant}");
        let done = place.floodmark(&line).run().expect(64);
        assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
        done.assert_stderr(&["--listen-any needs --cluster-secret FILE", "openssl rand -hex 32"]);
        assert!(!place.path("t.csv").exists());
    }
    // The secret may come from the environment.
    let line = "replay a.pcap --totals t.csv --listen-any -n2";
    place.floodmark(line).env("FLOODMARK_CLUSTER_SECRET", "secret").run().expect(0);
}
