//! Runs over a topic to its end, with many checkpoints, with none, and without a state.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use crate::common::child::{Cost, run_within};
use crate::common::live::{LOST_AFTER, Load};
use crate::common::table::{median, medians, spread};
use crate::common::{free_address, scrape};
use crate::{Bench, DEFAULT_INTERVAL, count};

/// Measures checkpoints of a run over a topic to its end: none, without a state; one at most, with an interval of an
/// hour; and about four in a run.
///
/// A run at full speed changes all windows that it retains within a minute, so each checkpoint writes all totals.
pub(crate) fn measure(bench: &Bench<'_>, runs: usize, format: &str, records: u64) {
    let flows = bench.flows();
    let load = Load {
        packets: records,
        pairs: &(records / 10).to_string(),
        seconds: 3600,
        from_now: -3700,
        speed: "max",
        format,
        ..Load::default()
    };
    load.send_all(bench.floodmark, &flows);
    let judge = |interval| {
        let (mut command, state) = bench.run(&flows, interval);
        let http = free_address();
        command.args(["--until-end", "--http", &http, "--log-level", "error"]);
        let mut written = Written::default();
        let cost = run_within(command.stdout(Stdio::null()), LOST_AFTER * 3, &mut || {
            written.observe(&http);
        });
        let _ = fs::remove_dir_all(&state);
        (cost, written)
    };
    // Also a warm-up: the broker has the topic in memory after it.
    let (first, _) = judge(None);
    let interval = Duration::from_millis((first.wall * 250.0) as u64);
    let hour = Duration::from_secs(3600);
    let variants = [None, Some(hour), Some(interval)];
    let mut measured = variants.map(|_| (Vec::new(), Vec::new()));
    for _ in 0..runs {
        for (variant, (costs, written)) in variants.iter().zip(&mut measured) {
            let (cost, counts) = judge(*variant);
            costs.push(cost);
            written.push(counts);
        }
    }
    println!(
        "{:<44} {:>7} {:>12} {:>7} {:>11} {:>8} {:>8} {:>11} {:>8}",
        format!("{format}: topic to its end, one worker"),
        "CPU s",
        "least-most",
        "wall s",
        "least-most",
        "M rec/s",
        "peak MB",
        "checkpoints",
        "of"
    );
    for (variant, (costs, written)) in variants.iter().zip(&measured) {
        let name = match variant {
            None => "without --state".to_owned(),
            Some(interval) => format!("--state, a checkpoint each {interval:?}"),
        };
        let Cost { wall, cpu, peak_mb } = medians(costs);
        println!(
            "{:<44} {cpu:>7.2} {:>12} {wall:>7.2} {:>11} {:>8.2} {peak_mb:>8.0} {:>11.0} {:>8}",
            format!("{format}: {name}"),
            spread(costs.iter().map(|cost| cost.cpu)),
            spread(costs.iter().map(|cost| cost.wall)),
            records as f64 / wall / 1e6,
            median(written.iter().map(|written| written.checkpoints)),
            count(median(written.iter().map(|written| written.most_totals))),
        );
    }
    let [(without, _), (seldom, few), (often, many)] = measured;
    let number = |written: &[Written]| median(written.iter().map(|written| written.checkpoints));
    let more = (number(&many) - number(&few)).max(1.0);
    let [without, seldom, often] = [without, seldom, often].map(|costs| medians(&costs));
    println!(
        "{format}: a state without checkpoints takes {:.0} % more CPU, and {:.2} s more on the wall",
        100.0 * (seldom.cpu / without.cpu - 1.0),
        seldom.wall - without.wall
    );
    let (cpu, wall) = ((often.cpu - seldom.cpu) / more, (often.wall - seldom.wall) / more);
    println!(
        "{format}: one of {more:.0} checkpoints takes {cpu:.2} CPU s and {wall:.2} s; each 60 s: {:.1} % of CPU, \
         {:.1} % of throughput (wanted: at most 10 %)\n",
        100.0 * cpu / DEFAULT_INTERVAL,
        100.0 * wall / DEFAULT_INTERVAL
    );
}

/// The checkpoints of a run, as its metrics show them.
#[derive(Default)]
struct Written {
    checkpoints: f64,
    /// The totals of the greatest one.
    most_totals: f64,
}

impl Written {
    fn observe(&mut self, http: &str) {
        let greatest = |figure: &mut f64, metric| {
            *figure = figure.max(scrape(http, metric).unwrap_or_default());
        };
        greatest(&mut self.checkpoints, "floodmark_state_checkpoints_total");
        greatest(&mut self.most_totals, "floodmark_state_totals");
    }
}
