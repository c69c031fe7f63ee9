//! Reports of totals that have reached the end of 64 bits.

use floodmark_dataflows::reports::Saturated;

use super::table;
use crate::base::date::format_secs;

/// Totals of one tick that are named; the others are counted.
const NAMED_MAX: usize = 10;

/// Names totals that have reached the end of 64 bits at one tick, one line each.
pub fn lines(saturated: &[Saturated]) -> impl Iterator<Item = String> {
    let more = saturated.len().saturating_sub(NAMED_MAX);
    let named = saturated.iter().take(NAMED_MAX).map(|total| {
        format!(
            "the total of {} in the window that starts at {} has reached {}: it stays there, and \
             changes about it carry \"overflow\": true",
            table::entity(&total.entity),
            format_secs(total.window.0),
            i64::MAX,
        )
    });
    let rest = (more > 0).then(|| format!("{more} more totals have reached {}", i64::MAX));
    named.chain(rest)
}

#[cfg(test)]
mod tests {
    use floodmark_dataflows::time::Window;
    use floodmark_dataflows::types::Entity;

    use super::*;

    #[test]
    fn saturated_totals_beyond_ten_are_counted() {
        let total = Saturated { window: Window(300), rollup: None, entity: Entity::Total };
        let lines: Vec<String> = lines(&[total; 12]).collect();
        assert_eq!(lines.len(), 11);
        assert!(
            lines[0].starts_with(
                "the total of total in the window that starts at 1970-01-01T00:05:00Z"
            ),
            "{}",
            lines[0]
        );
        assert_eq!(lines[10], "2 more totals have reached 9223372036854775807");
    }
}
