//! Starts that continue a run after `kill -9`.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::common::live::{Children, LOST_AFTER, Load, wait_until};
use crate::common::table::{median, spread};
use crate::common::{free_address, scrape, usage};
use crate::{Bench, PACKETS_PER_TOTAL, count};

/// Measures starts after `kill -9` with this number of totals saved, in windows of which the last ones change, and with
/// messages that have come meanwhile.
pub(crate) fn measure(bench: &Bench<'_>, runs: usize, totals: u64) {
    const INTERVAL: Duration = Duration::from_secs(10);
    let flows = bench.flows();
    let before = Load {
        packets: totals * PACKETS_PER_TOTAL,
        // The four windows have a quarter of the packets each.
        pairs: &(totals / 4 * PACKETS_PER_TOTAL).to_string(),
        seconds: 1200,
        from_now: -1200,
        speed: "max",
        format: "packed",
        ..Load::default()
    };
    before.send_all(bench.floodmark, &flows);
    let backlog = totals;
    let (mut command, state) = bench.run(&flows, Some(INTERVAL));
    let http = free_address();
    command.args(["--http", &http, "--log-level", "info", "--log-format", "json"]);
    command.stderr(Stdio::piped());
    let (mut run, _) = start(&mut command);
    let saves = |run: &mut Children, at_least: f64| {
        wait_until("the totals to be saved", || {
            assert!(!usage(&run.0[0].id().to_string()).ended, "floodmark has ended");
            let lag = scrape(&http, "floodmark_kafka_lag_messages");
            lag == Some(0.0)
                && scrape(&http, "floodmark_state_totals").is_some_and(|saved| saved >= at_least)
        });
    };
    saves(&mut run, totals as f64);
    let mut measured = Vec::new();
    for seed in 0..runs as u64 {
        drop(run);
        let saved = bench.newest(&state);
        let load = Load {
            packets: backlog,
            pairs: &(totals / 20).to_string(),
            seconds: 30,
            from_now: -30,
            speed: "max",
            seed: 10 + seed,
            ..Load::default()
        };
        load.send_all(bench.floodmark, &flows);
        let begun = Instant::now();
        let (child, mut log) = start(&mut command);
        run = child;
        log.wait_for("the state is restored");
        let restored = begun.elapsed().as_secs_f64();
        let cpu = usage(&run.0[0].id().to_string()).cpu;
        let speed = backlog_speed(&http);
        measured.push(Restart { restored, cpu, speed, totals: saved.totals });
        log.drain();
        // The next start is from a checkpoint with this backlog.
        let written = scrape(&http, "floodmark_state_checkpoints_total").unwrap_or_default();
        wait_until("two checkpoints", || {
            scrape(&http, "floodmark_state_checkpoints_total").is_some_and(|n| n >= written + 2.0)
        });
        saves(&mut run, totals as f64);
    }
    let peak_mb = usage(&run.0[0].id().to_string()).peak_mb;
    println!(
        "{:<44} {:>9} {:>14} {:>8} {:>8} {:>14} {:>8}",
        "kill -9, and start again",
        "start s",
        "least-most",
        "CPU s",
        "M rec/s",
        "least-most",
        "totals"
    );
    let figure = |figure: fn(&Restart) -> f64| median(measured.iter().map(figure));
    println!(
        "{:<44} {:>9.2} {:>14} {:>8.2} {:>8.2} {:>14} {:>8}",
        format!("until it reads, then {} of backlog", count(backlog as f64)),
        figure(|restart| restart.restored),
        spread(measured.iter().map(|restart| restart.restored)),
        figure(|restart| restart.cpu),
        figure(|restart| restart.speed),
        spread(measured.iter().map(|restart| restart.speed)),
        count(figure(|restart| restart.totals)),
    );
    println!("at most {peak_mb:.0} MB; the first start had {totals} totals or more\n");
}

/// A start that continues a run.
struct Restart {
    /// Seconds from the start of the process until it has the state.
    restored: f64,
    /// CPU seconds until then.
    cpu: f64,
    /// Millions of records a second after that, until the backlog is read.
    speed: f64,
    /// The totals of the checkpoint.
    totals: f64,
}

/// Returns the speed at which a run counts records from now on until all are counted, in millions a second.
fn backlog_speed(http: &str) -> f64 {
    let counted = || scrape(http, "floodmark_input_records_total");
    let begun = Instant::now();
    let (mut first, mut last) = (None, (0.0, begun));
    loop {
        assert!(begun.elapsed() < LOST_AFTER, "waited too long for the backlog");
        if let Some(now) = counted() {
            first.get_or_insert(now);
            if now > last.0 {
                last = (now, Instant::now());
            }
        }
        // The lag may be that of an old response of the broker.
        let rests = last.0 > 0.0 && last.1.elapsed() > Duration::from_secs(3);
        if rests && scrape(http, "floodmark_kafka_lag_messages") == Some(0.0) {
            let (count, at) = last;
            return (count - first.unwrap_or_default()) / (at - begun).as_secs_f64() / 1e6;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The log of a process.
struct Log(Option<BufReader<ChildStderr>>);

impl Log {
    /// Waits for a line that contains this text.
    fn wait_for(&mut self, text: &'static str) {
        let mut lines = self.0.take().expect("the log");
        let (found, line) = channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            while lines.read_line(&mut line).is_ok_and(|read| read > 0) {
                if line.contains(text) {
                    let _ = found.send(lines);
                    return;
                }
                line.clear();
            }
        });
        self.0 = Some(line.recv_timeout(LOST_AFTER).expect(text));
    }

    /// Reads the rest, so that the process never waits for the bench.
    fn drain(self) {
        if let Some(mut lines) = self.0 {
            std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        }
    }
}

/// Starts a command whose standard error is piped.
fn start(command: &mut Command) -> (Children, Log) {
    let mut child: Child = command.spawn().expect("starting floodmark run");
    let log = BufReader::new(child.stderr.take().expect("it is piped"));
    (Children(vec![child]), Log(Some(log)))
}
