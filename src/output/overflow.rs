//! Reports of totals that have reached the greatest 64-bit number.

use floodmark_dataflows::reports::Saturated;
use floodmark_dataflows::types::Entity;

use super::table;
use crate::base::date::format_secs;

/// Greatest number of totals named in one tick; the others are only counted.
const NAMED_MAX: usize = 10;

/// Returns a line for each total that has reached the greatest 64-bit number at one tick.
pub fn lines(saturated: &[Saturated]) -> impl Iterator<Item = String> {
    let more = saturated.len().saturating_sub(NAMED_MAX);
    let named = saturated.iter().take(NAMED_MAX).map(|total| {
        format!(
            "{} in the window that starts at {} has reached {}: it stays there, and changes about it carry \
             \"overflow\": true",
            subject(&total.entity),
            format_secs(total.window.0),
            i64::MAX,
        )
    });
    let rest = (more > 0).then(|| format!("{more} more totals have reached {}", i64::MAX));
    named.chain(rest)
}

/// Names the total of an entity.
fn subject(entity: &Entity) -> String {
    match entity {
        Entity::Total => "the sum of all pairs".into(),
        entity => format!("the total of {}", table::entity(entity)),
    }
}

#[cfg(test)]
mod tests {
    use floodmark_dataflows::time::Window;

    use super::*;

    #[test]
    fn saturated_totals_beyond_ten_are_counted_in_one_line() {
        let total = Saturated { window: Window(300), rollup: None, entity: Entity::Total };
        let lines: Vec<String> = lines(&[total; 12]).collect();
        assert_eq!(lines.len(), 11);
        assert!(
            lines[0].starts_with(
                "the sum of all pairs in the window that starts at 1970-01-01T00:05:00Z"
            ),
            "{}",
            lines[0]
        );
        assert_eq!(lines[10], "2 more totals have reached 9223372036854775807");
    }
}
