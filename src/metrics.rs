//! Every metric by name, unit and meaning, and how they are exported.
//!
//! Without [`install`] nothing is recorded, and counting costs next to nothing. docs/operating.md has
//! the same table for those who watch.

use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::anyhow;
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// Whether a number only grows, until the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

use Kind::{Counter, Gauge};

/// One metric.
struct Metric {
    name: &'static str,
    kind: Kind,
    unit: Unit,
    help: &'static str,
}

const fn metric(name: &'static str, kind: Kind, unit: Unit, help: &'static str) -> Metric {
    Metric { name, kind, unit, help }
}

/// All there are.
#[rustfmt::skip]
const ALL: &[Metric] = &[
    metric("floodmark_input_messages_total", Counter, Unit::Count, "Messages taken from the topic."),
    metric("floodmark_input_records_total", Counter, Unit::Count, "Records taken, by format."),
    metric("floodmark_input_records_without_packets_total", Counter, Unit::Count, "Records taken that state bytes and no packets, and count as one packet each."),
    metric("floodmark_input_errors_total", Counter, Unit::Count, "Records and messages that can't be counted, by reason."),
    metric("floodmark_input_skipped_total", Counter, Unit::Count, "Messages and records that are no traffic, by reason."),
    metric("floodmark_input_consumers_reopened_total", Counter, Unit::Count, "Consumers that brought nothing while their brokers had messages, and were opened anew."),
    metric("floodmark_late_records_total", Counter, Unit::Count, "Records that came after their window had closed: counted, or dropped since it had settled."),
    metric("floodmark_source_reachable", Gauge, Unit::Count, "Whether the brokers of the topic answer (1) or not (0)."),
    metric("floodmark_kafka_lag_messages", Gauge, Unit::Count, "Messages that the broker has and no finished tick has taken; NaN while the broker does not answer."),
    metric("floodmark_kafka_lag_seconds", Gauge, Unit::Seconds, "For how long there has been no moment at which all that the broker had was in a finished tick."),
    metric("floodmark_kafka_partition_event_time_seconds", Gauge, Unit::Seconds, "The greatest event time read from the partition, since 1970."),
    metric("floodmark_kafka_partition_idle", Gauge, Unit::Count, "Whether the partition is idle (1): the broker has confirmed that it has nothing, and nobody waits for it."),
    metric("floodmark_kafka_open_transaction_seconds", Gauge, Unit::Seconds, "How long messages of the partition have been behind the same open transaction."),
    metric("floodmark_kafka_open_transaction_skipped", Gauge, Unit::Count, "Whether the partition counts as read to its end before an open transaction (1)."),
    metric("floodmark_kafka_partition_paused", Gauge, Unit::Count, "Whether the partition waits for others that are behind (1)."),
    metric("floodmark_kafka_withheld_messages", Gauge, Unit::Count, "Messages of the partition behind an open transaction."),
    metric("floodmark_kafka_partition_straggling", Gauge, Unit::Count, "1 if nobody waits for the partition, since its event time stays behind the others by more than --max-skew."),
    metric("floodmark_frontier_seconds", Gauge, Unit::Seconds, "The last tick that the worker is done with, since 1970."),
    metric("floodmark_tick_age_seconds", Gauge, Unit::Seconds, "How long ago the last tick was that all workers of the process are done with; before the first, since the start."),
    metric("floodmark_watermark_seconds", Gauge, Unit::Seconds, "The watermark, since 1970; 0 while a partition holds it that nothing was read from."),
    metric("floodmark_windows_open", Gauge, Unit::Count, "Windows that exist and are not closed."),
    metric("floodmark_clock_step_seconds", Gauge, Unit::Seconds, "By how much the wall clock is ahead of the run since it was set, negative if it is behind; 0 while the run follows it."),
    metric("floodmark_clock_steps_total", Counter, Unit::Count, "How often the wall clock was set, by direction."),
    metric("floodmark_pairs", Gauge, Unit::Count, "Totals of pairs in memory, in all windows held."),
    metric("floodmark_arrangement_records", Gauge, Unit::Count, "What is held in memory, by the name of the table."),
    metric("floodmark_limits", Gauge, Unit::Count, "Rows of limits: held, refused; and limits in force now."),
    metric("floodmark_limits_readable", Gauge, Unit::Count, "1 while the limits can be read; while they can't (0) the last ones hold."),
    metric("floodmark_limits_notified", Gauge, Unit::Count, "1 while changes of the table of limits are noticed at once; 0 while the table is read once a second instead."),
    metric("floodmark_limits_errors_total", Counter, Unit::Count, "Readings of limits that failed, by what went wrong."),
    metric("floodmark_limits_last_reload_success_timestamp_seconds", Gauge, Unit::Seconds, "When the limits were last read without error, changed or not, since 1970."),
    metric("floodmark_saturated_totals_total", Counter, Unit::Count, "Totals that have reached 2^63-1 and are not counted further."),
    metric("floodmark_violations", Gauge, Unit::Count, "Violations that stand, in all windows held, by set of limits."),
    metric("floodmark_changes_total", Counter, Unit::Count, "What was said of violations, by event, reason and set of limits."),
    metric("floodmark_sink_waiting_messages", Gauge, Unit::Count, "Messages that were given to the sink and are not delivered."),
    metric("floodmark_sink_waiting_bytes", Gauge, Unit::Bytes, "Bytes that were given to standard output, a FIFO or a file and are not written."),
    metric("floodmark_sink_blocked_seconds", Gauge, Unit::Seconds, "For how long the sink has taken nothing of what waits for it; 0 while it takes."),
    metric("floodmark_sink_detached", Gauge, Unit::Count, "Whether nothing more is written to the sink (1), since it would keep the others waiting."),
    metric("floodmark_sink_unwritten_lines_total", Counter, Unit::Count, "Lines that were not written since their sink is detached or its reader has gone."),
    metric("floodmark_log_dropped_lines_total", Counter, Unit::Count, "Lines of the log that were dropped since standard error took nothing."),
    metric("floodmark_sink_reachable", Gauge, Unit::Count, "Whether the brokers of the sink can be reached (1) or not (0)."),
    metric("floodmark_sink_errors_total", Counter, Unit::Count, "How often the sink failed, was detached, or could not be reached any more."),
    metric("floodmark_sink_refused_messages_total", Counter, Unit::Count, "Messages that the brokers of the sink refuse for good, by what is wrong with them."),
    metric("floodmark_sink_topic_fit", Gauge, Unit::Count, "0 while the topic of the sink is gone, or another one that keeps less, and messages wait; else 1."),
    metric("floodmark_sink_topic_replaced_total", Counter, Unit::Count, "How often another topic has taken the name of the sink's topic."),
    metric("floodmark_capture_frames_total", Counter, Unit::Count, "Frames that a capture has read from its interface."),
    metric("floodmark_capture_interface_up", Gauge, Unit::Count, "1 while the interface of a capture is up, else 0."),
    metric("floodmark_capture_packets_total", Counter, Unit::Count, "Frames of a capture that were counted as packets."),
    metric("floodmark_capture_dropped_frames_total", Counter, Unit::Count, "Frames that the kernel or the interface has dropped."),
    metric("floodmark_capture_dropped_records_total", Counter, Unit::Count, "Records that were dropped since the queue to the output was full."),
    metric("floodmark_sent_records_total", Counter, Unit::Count, "Records that a capture has handed to its sink."),
    metric("floodmark_delivered_messages_total", Counter, Unit::Count, "Messages or lines of a capture that have arrived."),
    metric("floodmark_build_info", Gauge, Unit::Count, "Always 1; the version is a label."),
    metric("process_cpu_seconds_total", Gauge, Unit::Seconds, "CPU time of the process, of user and system."),
    metric("process_resident_memory_bytes", Gauge, Unit::Bytes, "Memory of the process that is resident."),
    metric("process_start_time_seconds", Gauge, Unit::Seconds, "When the process was started, since 1970."),
    metric("process_open_fds", Gauge, Unit::Count, "Open file descriptors."),
];

/// Exports metrics that are recorded from now on. Returns the handle that renders them.
pub fn install() -> anyhow::Result<PrometheusHandle> {
    static INSTALLED: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*installed {
        return Ok(handle.clone());
    }
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)
        .map_err(|error| anyhow!("exporting metrics: {error}"))?;
    for Metric { name, kind, unit, help } in ALL {
        match kind {
            Counter => describe_counter!(*name, *unit, *help),
            Gauge => describe_gauge!(*name, *unit, *help),
        }
    }
    gauge!("floodmark_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    *installed = Some(handle.clone());
    Ok(handle)
}

/// Sets the gauges about the process itself.
#[cfg(target_os = "linux")]
pub(crate) fn refresh_process() {
    let Ok(process) = procfs::process::Process::myself() else { return };
    let ticks_per_second = procfs::ticks_per_second() as f64;
    if let Ok(stat) = process.stat() {
        let cpu = (stat.utime + stat.stime) as f64 / ticks_per_second;
        gauge!("process_cpu_seconds_total").set(cpu);
        gauge!("process_resident_memory_bytes").set((stat.rss * procfs::page_size()) as f64);
        // The boot time does not change, and reading it takes a file that is long where there are many CPUs.
        static BOOT: OnceLock<Option<u64>> = OnceLock::new();
        if let Some(boot) = BOOT.get_or_init(|| procfs::boot_time_secs().ok()) {
            let started = *boot as f64 + stat.starttime as f64 / ticks_per_second;
            gauge!("process_start_time_seconds").set(started);
        }
    }
    if let Ok(open) = process.fd_count() {
        gauge!("process_open_fds").set(open as f64);
    }
}

/// Does nothing: only Linux has `/proc`.
#[cfg(not(target_os = "linux"))]
pub(crate) fn refresh_process() {}

/// Sets the counters about the log.
pub(crate) fn refresh_log() {
    counter!("floodmark_log_dropped_lines_total").absolute(crate::base::logging::dropped_lines());
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_tell_unit_and_kind() {
        let names: BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
        for Metric { name, kind, unit, help } in ALL {
            // CPU time is a float, and counters of the crate are integers, so it is exported as a gauge.
            let total = name.ends_with("_total") && *name != "process_cpu_seconds_total";
            assert_eq!(total, *kind == Counter, "{name}");
            assert_eq!(name.contains("_seconds"), *unit == Unit::Seconds, "{name}");
            assert!(help.ends_with('.') && !help.contains('\n'), "{name}");
        }
    }

    #[test]
    fn the_documentation_has_the_same_metrics() {
        let page = include_str!("../docs/operating.md");
        let documented: BTreeSet<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split(['`', '{']).next())
            .filter(|name| name.starts_with("floodmark_") || name.starts_with("process_"))
            .collect();
        let names: BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(documented, names);
    }
}
