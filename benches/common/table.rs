//! Rows of figures: medians and ranges of several runs.

use super::child::Cost;

/// Returns the median of values; of an even number, the greater one.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Returns the minimum and the maximum of values, as text.
pub(crate) fn spread(values: impl IntoIterator<Item = f64>) -> String {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    format!("{:.2}-{:.2}", values[0], values[values.len() - 1])
}

/// Returns the medians of runs, each figure by itself.
pub(crate) fn medians(costs: &[Cost]) -> Cost {
    Cost {
        wall: median(costs.iter().map(|cost| cost.wall)),
        cpu: median(costs.iter().map(|cost| cost.cpu)),
        peak_mb: median(costs.iter().map(|cost| cost.peak_mb)),
    }
}

/// Returns the head of a table of processes.
pub(crate) fn head(what: &str) -> String {
    format!(
        "{what:<46} {:>7} {:>12} {:>7} {:>8} {:>8}",
        "CPU s", "least-most", "M/CPU s", "wall s", "peak MB"
    )
}

/// Returns a row of the table: runs over this number of records.
pub(crate) fn row(what: &str, records: u64, costs: &[Cost]) -> String {
    let Cost { wall, cpu, peak_mb } = medians(costs);
    let rate = records as f64 / cpu / 1e6;
    let spread = spread(costs.iter().map(|cost| cost.cpu));
    format!("{what:<46} {cpu:>7.2} {spread:>12} {rate:>7.2} {wall:>8.2} {peak_mb:>8.0}")
}
