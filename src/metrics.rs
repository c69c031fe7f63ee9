//! All metrics, with their names, kinds, units and help texts, and their export.
//!
//! Without [`install`] nothing is recorded, and counting costs next to nothing. docs/operating.md lists the same metrics
//! for operators.

use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::anyhow;
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// Kind of a metric: a counter only grows until the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

use Kind::{Counter, Gauge};

struct Metric {
    name: &'static str,
    kind: Kind,
    unit: Unit,
    help: &'static str,
}

const fn metric(name: &'static str, kind: Kind, unit: Unit, help: &'static str) -> Metric {
    Metric { name, kind, unit, help }
}

/// All metrics.
#[rustfmt::skip]
const ALL: &[Metric] = &[
    metric("floodmark_input_messages_total", Counter, Unit::Count, "Messages read from the topic."),
    metric("floodmark_input_records_total", Counter, Unit::Count, "Records read, by format."),
    metric("floodmark_input_records_without_packets_total", Counter, Unit::Count, "Records read that state bytes but no packets; each counts as one packet."),
    metric("floodmark_input_errors_total", Counter, Unit::Count, "Records and messages that can't be counted, by reason."),
    metric("floodmark_input_skipped_total", Counter, Unit::Count, "Messages and records that are no traffic, by reason."),
    metric("floodmark_input_consumers_reopened_total", Counter, Unit::Count, "Consumers that were reopened because they returned nothing while their brokers had messages."),
    metric("floodmark_late_records_total", Counter, Unit::Count, "Records that came after their window had closed: counted, or dropped because it had settled."),
    metric("floodmark_source_reachable", Gauge, Unit::Count, "1 if the brokers of the topic respond, else 0."),
    metric("floodmark_kafka_lag_messages", Gauge, Unit::Count, "Messages that the broker has and that are in no completed tick; NaN while the broker does not respond."),
    metric("floodmark_kafka_lag_seconds", Gauge, Unit::Seconds, "Time since all messages that the broker had were in completed ticks."),
    metric("floodmark_kafka_partition_event_time_seconds", Gauge, Unit::Seconds, "The greatest event time read from the partition, in Unix time."),
    metric("floodmark_kafka_partition_idle", Gauge, Unit::Count, "1 if the partition is idle, so that it does not hold the watermark: the broker has confirmed that it has no messages."),
    metric("floodmark_kafka_open_transaction_seconds", Gauge, Unit::Seconds, "Time for which messages of the partition have been behind the same open transaction."),
    metric("floodmark_kafka_open_transaction_skipped", Gauge, Unit::Count, "1 if the partition counts as read to its end before an open transaction."),
    metric("floodmark_kafka_partition_paused", Gauge, Unit::Count, "1 if reading of the partition is paused until others have caught up in event time."),
    metric("floodmark_kafka_withheld_messages", Gauge, Unit::Count, "Messages of the partition behind an open transaction."),
    metric("floodmark_kafka_partition_straggling", Gauge, Unit::Count, "1 if the other partitions do not wait for the partition, because its event time stays behind by more than --max-skew."),
    metric("floodmark_frontier_seconds", Gauge, Unit::Seconds, "The last tick that the worker has completed, in Unix time."),
    metric("floodmark_state_checkpoints_total", Counter, Unit::Count, "Checkpoints of the state that were written."),
    metric("floodmark_state_errors_total", Counter, Unit::Count, "Checkpoints of the state that could not be written."),
    metric("floodmark_state_checkpoint_age_seconds", Gauge, Unit::Seconds, "Time since the last checkpoint of the state was written, or since the run continued from one."),
    metric("floodmark_state_totals", Gauge, Unit::Count, "Totals in the last checkpoint of the state."),
    metric("floodmark_tick_age_seconds", Gauge, Unit::Seconds, "Age of the last tick that all workers of the process have completed; before the first one, time since the start."),
    metric("floodmark_watermark_seconds", Gauge, Unit::Seconds, "The watermark, in Unix time; 0 while a partition that was not read yet holds it."),
    metric("floodmark_windows_open", Gauge, Unit::Count, "Windows that exist and are not closed."),
    metric("floodmark_clock_step_seconds", Gauge, Unit::Seconds, "Time by which the wall clock is ahead of the clock of the run since it was set, negative if behind; 0 while the run follows the wall clock."),
    metric("floodmark_clock_steps_total", Counter, Unit::Count, "Steps of the wall clock, by direction."),
    metric("floodmark_pairs", Gauge, Unit::Count, "Totals of pairs in memory, in all retained windows."),
    metric("floodmark_arrangement_records", Gauge, Unit::Count, "Entries in memory, by the name of the table."),
    metric("floodmark_limits", Gauge, Unit::Count, "Rows of limits that are held or refused, and limits in force now, by state."),
    metric("floodmark_limits_readable", Gauge, Unit::Count, "1 while the limits can be read; 0 while they can't, and the last ones stay in force."),
    metric("floodmark_limits_notified", Gauge, Unit::Count, "1 while changes of the table of limits are noticed at once; 0 while the table is read once a second instead."),
    metric("floodmark_limits_errors_total", Counter, Unit::Count, "Failed reads of limits, by error."),
    metric("floodmark_limits_last_reload_success_timestamp_seconds", Gauge, Unit::Seconds, "Time of the last read of the limits without error, changed or not, in Unix time."),
    metric("floodmark_saturated_totals_total", Counter, Unit::Count, "Totals that have reached 2^63-1 and are not counted further."),
    metric("floodmark_violations", Gauge, Unit::Count, "Standing violations in all retained windows, by set of limits."),
    metric("floodmark_changes_total", Counter, Unit::Count, "Changes of violations, by event, reason and set of limits."),
    metric("floodmark_sink_waiting_messages", Gauge, Unit::Count, "Messages queued for the sink and not delivered yet."),
    metric("floodmark_sink_waiting_bytes", Gauge, Unit::Bytes, "Bytes queued for standard output, a FIFO or a file and not written yet."),
    metric("floodmark_sink_blocked_seconds", Gauge, Unit::Seconds, "Time for which the sink has accepted nothing while output waits for it; 0 while it accepts."),
    metric("floodmark_sink_detached", Gauge, Unit::Count, "1 if the sink is detached: nothing more is written to it, so that it does not block the others."),
    metric("floodmark_sink_unwritten_lines_total", Counter, Unit::Count, "Lines that were not written because their sink is detached or its reader has gone."),
    metric("floodmark_log_dropped_lines_total", Counter, Unit::Count, "Lines of the log that were dropped because standard error accepted nothing."),
    metric("floodmark_sink_reachable", Gauge, Unit::Count, "1 if the brokers of the sink can be reached, else 0."),
    metric("floodmark_sink_errors_total", Counter, Unit::Count, "Times that the sink failed, was detached, or became unreachable."),
    metric("floodmark_sink_refused_messages_total", Counter, Unit::Count, "Messages that the brokers of the sink rejected for good, by error."),
    metric("floodmark_sink_topic_fit", Gauge, Unit::Count, "0 while messages wait because the topic of the sink is missing, or replaced by one that keeps less; else 1."),
    metric("floodmark_sink_topic_replaced_total", Counter, Unit::Count, "Times that another topic took the name of the sink's topic."),
    metric("floodmark_capture_frames_total", Counter, Unit::Count, "Frames that a capture has read from its interface."),
    metric("floodmark_capture_interface_up", Gauge, Unit::Count, "1 while the interface of a capture is up, else 0."),
    metric("floodmark_capture_packets_total", Counter, Unit::Count, "Frames of a capture that were counted as packets."),
    metric("floodmark_capture_dropped_frames_total", Counter, Unit::Count, "Frames that the kernel or the interface has dropped."),
    metric("floodmark_capture_dropped_records_total", Counter, Unit::Count, "Records that were dropped because the queue to the output was full."),
    metric("floodmark_sent_records_total", Counter, Unit::Count, "Records that a capture has sent to its sink."),
    metric("floodmark_delivered_messages_total", Counter, Unit::Count, "Messages or lines of a capture that have arrived."),
    metric("floodmark_build_info", Gauge, Unit::Count, "Always 1; the version is a label."),
    metric("process_cpu_seconds_total", Gauge, Unit::Seconds, "CPU time of the process, of user and system."),
    metric("process_resident_memory_bytes", Gauge, Unit::Bytes, "Resident memory of the process."),
    metric("process_start_time_seconds", Gauge, Unit::Seconds, "Start time of the process, in Unix time."),
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
        // The boot time does not change, and its file is long on a machine with many CPUs.
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
    fn metric_names_state_unit_and_kind() {
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
    fn documentation_lists_the_same_metrics() {
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
