//! The hand-over of limits from the thread that reads them: the newest state, and no history.
//!
//! A run takes edits when it begins a tick. While none can begin, as behind a reader of its output that
//! sleeps, the table may be edited any number of times. Edits that wait are merged, so that they never hold
//! more than the rows that the run has and the rows that were read last.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::held::Edits;
use crate::limits::rows::Row;

/// The reading thread's end.
pub(super) struct Outlet {
    slot: Arc<Slot>,
    wake: Box<dyn Fn() + Send>,
}

/// The other end: the edits that lead from the rows taken last to the rows read last.
pub struct Changes {
    slot: Arc<Slot>,
}

#[derive(Default)]
struct Slot {
    pending: Mutex<Pending>,
    changed: Condvar,
    /// Whether edits wait, for a receiver that polls.
    waits: AtomicBool,
    /// Nobody takes edits any more.
    unwanted: AtomicBool,
}

/// Returns both ends; the outlet calls `wake` after it has handed over edits.
pub(super) fn handover(wake: impl Fn() + Send + 'static) -> (Outlet, Changes) {
    let slot = Arc::<Slot>::default();
    (Outlet { slot: slot.clone(), wake: Box::new(wake) }, Changes { slot })
}

impl Slot {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts edits into the slot. Returns those that were there.
    fn put(&self, edits: Pending) -> Pending {
        let mut pending = self.pending();
        self.waits.store(!edits.rows.is_empty(), Ordering::Release);
        std::mem::replace(&mut *pending, edits)
    }
}

impl Outlet {
    /// Hands over edits, merged with those that wait. Returns `false` if nobody takes edits any more.
    pub(super) fn give(&self, edits: Edits) -> bool {
        // Merged outside the lock: there may be a million edits, and the leader must not wait for that.
        let mut pending = self.slot.put(Pending::default());
        edits.into_iter().for_each(|(row, diff)| pending.add(row, diff));
        self.slot.put(pending);
        self.slot.changed.notify_all();
        (self.wake)();
        !self.slot.unwanted.load(Ordering::Acquire)
    }
}

impl Changes {
    /// Whether edits wait.
    pub fn are_waiting(&self) -> bool {
        self.slot.waits.load(Ordering::Acquire)
    }

    /// Takes the edits that wait: at most one removal and one addition of each row.
    pub fn take(&self) -> Edits {
        self.slot.put(Pending::default()).into_edits()
    }

    /// Waits for edits and takes them; `None` if none come in time.
    pub fn next(&self, at_most: Duration) -> Option<Edits> {
        let until = Instant::now() + at_most;
        let mut pending = self.slot.pending();
        while pending.rows.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let waited = self.slot.changed.wait_timeout(pending, left);
            pending = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(pending);
        Some(self.take())
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.slot.unwanted.store(true, Ordering::Release);
    }
}

/// The difference between the rows taken last and the rows read last.
#[derive(Default)]
struct Pending {
    rows: BTreeMap<Arc<Row>, Edit>,
}

/// The edit of a row.
enum Edit {
    /// The row is to be removed.
    Removal,
    /// The row is to be added.
    Addition,
    /// The row is to be replaced by this one, which is equal and written differently.
    Rewriting(Arc<Row>),
}

impl Pending {
    fn add(&mut self, row: Arc<Row>, diff: isize) {
        let Some(edit) = self.rows.get_mut(&row) else {
            self.rows.insert(row, if diff > 0 { Edit::Addition } else { Edit::Removal });
            return;
        };
        match (&*edit, diff > 0) {
            (Edit::Removal, true) => {
                let held = self.rows.remove_entry(&row);
                if let Some((held, _)) = held.filter(|(held, _)| !held.is_written_as(&row)) {
                    self.rows.insert(held, Edit::Rewriting(row));
                }
            }
            (Edit::Rewriting(_), false) => *edit = Edit::Removal,
            (Edit::Addition, false) => drop(self.rows.remove(&row)),
            // The newest letters count.
            (Edit::Addition, true) => {
                self.rows.remove(&row);
                self.rows.insert(row, Edit::Addition);
            }
            (Edit::Rewriting(_), true) => *edit = Edit::Rewriting(row),
            (Edit::Removal, false) => {}
        }
    }

    fn into_edits(self) -> Edits {
        let mut edits = Edits::with_capacity(self.rows.len());
        for (row, edit) in self.rows {
            match edit {
                Edit::Removal => edits.push((row, -1)),
                Edit::Addition => edits.push((row, 1)),
                Edit::Rewriting(now) => edits.extend([(row, -1), (now, 1)]),
            }
        }
        edits
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::limits::feed::held::difference;
    use crate::limits::json;
    use crate::limits::rows::Defaults;

    /// Rows of JSON: some names, two dates, values in several letters; each name and date once.
    fn rows() -> impl Strategy<Value = Vec<Arc<Row>>> {
        let value = prop::sample::select(vec!["1", "1.0", "2", "null"]);
        let held = prop::collection::btree_map(("[a-d]", 1..3u8), value, 0..6);
        held.prop_map(|rows| {
            let row = |((name, day), value)| {
                format!(
                    "{{\"limit_name\":\"{name}\",\"limit_value\":{value},\"effective_date\":\"2026-01-0{day}\"}}\n"
                )
            };
            let text: String = rows.into_iter().map(row).collect();
            let table = json::read(text.as_bytes(), Defaults::default()).expect("JSON");
            table.into_held()
        })
    }

    /// Rows as they are shown: equal values in other letters differ.
    fn shown(rows: &[Arc<Row>]) -> BTreeSet<String> {
        rows.iter().map(|row| format!("{row:?}")).collect()
    }

    proptest! {
        /// A run that applies the edits it takes, at any moments, has the rows that were read last.
        #[test]
        fn edits_taken_at_any_time_lead_to_the_rows_read_last(
            tables in prop::collection::vec((rows(), any::<bool>()), 1..12)
        ) {
            let (outlet, changes) = handover(|| ());
            let (mut read, mut held) = (Vec::<Arc<Row>>::new(), BTreeSet::<String>::new());
            let mut taken = 0;
            let last = tables.len() - 1;
            for (at, (rows, takes)) in tables.into_iter().enumerate() {
                prop_assert!(outlet.give(difference(&read, &rows)));
                read = rows;
                if !takes && at != last {
                    continue;
                }
                let edits = changes.take();
                prop_assert!(edits.len() <= taken + read.len(), "{} edits", edits.len());
                for (row, diff) in edits {
                    let row = format!("{row:?}");
                    let changed = if diff > 0 { held.insert(row) } else { held.remove(&row) };
                    prop_assert!(changed, "an edit of nothing");
                }
                taken = read.len();
                prop_assert_eq!(&held, &shown(&read));
                prop_assert!(!changes.are_waiting() && changes.take().is_empty());
            }
        }
    }

    #[test]
    fn outlet_without_a_receiver_reports_that_nobody_listens() {
        let (outlet, changes) = handover(|| ());
        assert!(outlet.give(Edits::new()));
        drop(changes);
        assert!(!outlet.give(Edits::new()));
    }
}
