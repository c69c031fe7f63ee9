//! Work grows in proportion to the number of rows, even of similar ones.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::catalog::{Catalog, LimitSet};
use super::json;
use super::rows::Defaults;

/// The processor time of this thread: other tests run at the same time.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock of this thread").into()
}

/// Returns rows, a fifth each of: distinct limits, versions of one limit, one row repeated, rows that contradict each
/// other, names that differ only near their end.
fn rows(count: usize) -> String {
    let long = "x".repeat(200);
    let row = |number: usize| {
        let (name, value, day) = match number % 5 {
            0 => (format!("pair-{number}"), 1, 0),
            1 => ("versions".into(), 1, number),
            2 => ("again".into(), 1, 0),
            3 => ("contradiction".into(), number, 0),
            _ => (format!("{long}{number}"), 1, 0),
        };
        let date = crate::base::date::format_ms(86_400_000 * day as u64);
        format!(
            "{{\"limit_name\":\"{name}\",\"limit_value\":{value},\"effective_date\":\"{date}\"}}\n"
        )
    };
    (0..count).map(row).collect()
}

/// Measures reading rows, numbering them, reading them again with some changed, and forgetting them.
fn work(count: usize) -> Duration {
    let text = rows(count);
    let changed = text.replace("pair-", "new-");
    let began = processor_time();
    let table = json::read(text.as_bytes(), Defaults::default()).expect("rows");
    assert_eq!(table.held().len(), 3 * (count / 5) + 1);
    let mut catalog = Catalog::new();
    catalog.add(LimitSet::Live, table.held());
    let read = json::read_from(changed.as_bytes(), Defaults::default(), table.held());
    let new = read.expect("rows").0;
    let after = catalog.versions(LimitSet::Live, new.held());
    assert_eq!((after.len(), catalog.len()), (3 * (count / 5) + 1, 4 * (count / 5) + 1));
    for version in &catalog.held().collect::<Vec<_>>() {
        catalog.forget(version.id);
    }
    assert!(catalog.is_empty());
    processor_time() - began
}

#[test]
fn eight_times_the_rows_take_less_than_sixteen_times_the_time() {
    let few = (0..3).map(|_| work(10_000)).min().expect("three");
    let many = work(80_000);
    assert!(many < 16 * few, "10 000 rows take {few:?}, 80 000 take {many:?}");
}
