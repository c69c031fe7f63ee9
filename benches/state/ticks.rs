//! The delay of ticks while checkpoints are taken.

use std::fs;
use std::time::{Duration, Instant};

use crate::common::live::{Children, LOST_AFTER, Load, wait_until};
use crate::common::table::{median, spread};
use crate::common::{free_address, scrape, usage};
use crate::{Bench, DEFAULT_INTERVAL, PACKETS_PER_TOTAL, count};

/// Measures the greatest delay of ticks while a window is under way that has this number of totals.
///
/// Ticks begin each 100 ms, since a checkpoint has ticks begin early: with ticks of a second, one that takes half a
/// second would be complete before the next one is due. A small load goes on, so that each checkpoint writes the
/// window.
pub(crate) fn measure(bench: &Bench<'_>, runs: usize, totals: u64) {
    const TICK: Duration = Duration::from_millis(100);
    const RATE: u64 = 10_000;
    const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(3);
    const OBSERVED: Duration = Duration::from_secs(15);
    let flows = bench.flows();
    let packets = totals * PACKETS_PER_TOTAL;
    let pairs = packets.to_string();
    let before = Load {
        packets,
        pairs: &pairs,
        from_now: -60,
        speed: "max",
        format: "packed",
        ..Load::default()
    };
    before.send_all(bench.floodmark, &flows);
    // Longer than all runs take.
    let seconds = 2 * runs as u64 * (OBSERVED + LOST_AFTER).as_secs();
    let load = Load { packets: RATE * seconds, pairs: &pairs, seconds, seed: 2, ..Load::default() };
    let _sending = Children(load.send(bench.floodmark, &flows).into());
    let observe = |interval| {
        let (mut command, state) = bench.run(&flows, interval);
        let http = free_address();
        command.args(["--window", "1d", "--tick", "100ms", "--http", &http]);
        let run = command.args(["--log-level", "error"]).spawn().expect("starting floodmark run");
        let process = run.id().to_string();
        let _run = Children(vec![run]);
        wait_until("the load to flow", || {
            scrape(&http, "floodmark_input_records_total").unwrap_or_default() > packets as f64
                && scrape(&http, "floodmark_kafka_lag_messages")
                    .is_some_and(|lag| lag < RATE as f64)
        });
        wait_until("the totals", || {
            scrape(&http, "floodmark_pairs").is_some_and(|held| held >= totals as f64)
        });
        let written = || scrape(&http, "floodmark_state_checkpoints_total").unwrap_or_default();
        if interval.is_some() {
            wait_until("a checkpoint", || written() > 0.0);
        }
        let (before, begun, cpu) = (written(), Instant::now(), usage(&process).cpu);
        let mut oldest: f64 = 0.0;
        while begun.elapsed() < OBSERVED {
            oldest = oldest.max(scrape(&http, "floodmark_tick_age_seconds").unwrap_or_default());
            std::thread::sleep(Duration::from_millis(5));
        }
        let used = usage(&process);
        let took = begun.elapsed().as_secs_f64();
        let _ = fs::remove_dir_all(&state);
        Ticks {
            delay_ms: (oldest - TICK.as_secs_f64()) * 1e3,
            checkpoints: written() - before,
            cpu: used.cpu - cpu,
            cores: (used.cpu - cpu) / took,
            peak_mb: used.peak_mb,
            totals: scrape(&http, "floodmark_pairs").unwrap_or_default(),
        }
    };
    let variants = [None, Some(CHECKPOINT_INTERVAL)];
    let mut measured = variants.map(|_| Vec::new());
    for _ in 0..runs {
        for (variant, ticks) in variants.iter().zip(&mut measured) {
            ticks.push(observe(*variant));
        }
    }
    println!(
        "{:<44} {:>9} {:>14} {:>11} {:>8} {:>8} {:>8}  wanted",
        format!("ticks of {TICK:?}, one window, {RATE} records/s"),
        "delay ms",
        "least-most",
        "checkpoints",
        "core %",
        "peak MB",
        "totals"
    );
    for (variant, ticks) in variants.iter().zip(&measured) {
        let (name, wanted) = match variant {
            None => ("without --state".to_owned(), ""),
            Some(interval) => {
                (format!("--state, a checkpoint each {interval:?}"), "at most 100 ms more")
            }
        };
        let figure = |figure: fn(&Ticks) -> f64| median(ticks.iter().map(figure));
        println!(
            "{name:<44} {:>9.0} {:>14} {:>11.0} {:>8.0} {:>8.0} {:>8}  {wanted}",
            figure(|ticks| ticks.delay_ms),
            spread(ticks.iter().map(|ticks| ticks.delay_ms)),
            figure(|ticks| ticks.checkpoints),
            100.0 * figure(|ticks| ticks.cores),
            figure(|ticks| ticks.peak_mb),
            count(figure(|ticks| ticks.totals)),
        );
    }
    let [without, with] = measured;
    let cpu = |ticks: &[Ticks]| median(ticks.iter().map(|ticks| ticks.cpu));
    let each = median(with.iter().map(|ticks| ticks.checkpoints)).max(1.0);
    let each = (cpu(&with) - cpu(&without)) / each;
    println!(
        "one checkpoint of that window takes {each:.2} CPU s; each 60 s: {:.1} % of a core\n",
        100.0 * each / DEFAULT_INTERVAL
    );
}

/// The ticks of a run while it was observed.
struct Ticks {
    /// The greatest time from when a tick was due to begin until it was complete.
    delay_ms: f64,
    checkpoints: f64,
    cpu: f64,
    cores: f64,
    peak_mb: f64,
    totals: f64,
}
