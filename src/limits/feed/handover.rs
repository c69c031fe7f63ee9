//! Passes edits of limits from the reading thread to a run: the newest state without its history.
//!
//! A run receives edits when it begins a tick. While no tick can begin, as when the reader of its output sleeps, the
//! table may be edited any number of times. Pending edits are merged, so that they never hold more than the rows of
//! the run and the rows that were read last.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::current_rows::Edits;
use crate::limits::rows::Row;

/// The end of the reading thread.
pub(super) struct EditSender {
    slot: Arc<Slot>,
    wake: Box<dyn Fn() + Send>,
}

/// The end of the run: receives the edits that lead from the rows received last to the rows read last.
pub struct EditReceiver {
    slot: Arc<Slot>,
}

#[derive(Default)]
struct Slot {
    pending: Mutex<Pending>,
    changed: Condvar,
    /// Whether edits are pending, for a receiver that polls.
    has_pending: AtomicBool,
    /// Whether the receiver was dropped.
    is_receiver_dropped: AtomicBool,
}

/// Returns both ends; the sender calls `wake` after it has sent edits.
pub(super) fn handover(wake: impl Fn() + Send + 'static) -> (EditSender, EditReceiver) {
    let slot = Arc::<Slot>::default();
    (EditSender { slot: slot.clone(), wake: Box::new(wake) }, EditReceiver { slot })
}

impl Slot {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores edits in the slot. Returns those that it replaces.
    fn replace(&self, edits: Pending) -> Pending {
        let mut pending = self.pending();
        self.has_pending.store(!edits.rows.is_empty(), Ordering::Release);
        std::mem::replace(&mut *pending, edits)
    }
}

impl EditSender {
    /// Sends edits, merged with the pending ones. Returns `false` if the receiver was dropped.
    pub(super) fn send(&self, edits: Edits) -> bool {
        // Merged outside the lock: there may be a million edits, and the leader must not wait for that.
        let mut pending = self.slot.replace(Pending::default());
        edits.into_iter().for_each(|(row, diff)| pending.add(row, diff));
        self.slot.replace(pending);
        self.slot.changed.notify_all();
        (self.wake)();
        !self.slot.is_receiver_dropped.load(Ordering::Acquire)
    }
}

impl EditReceiver {
    /// Whether edits are pending.
    pub fn has_edits(&self) -> bool {
        self.slot.has_pending.load(Ordering::Acquire)
    }

    /// Takes the pending edits: at most one removal and one addition of each row.
    pub fn take(&self) -> Edits {
        self.slot.replace(Pending::default()).into_edits()
    }

    /// Waits for edits and takes them; `None` if none arrive in time.
    pub fn next(&self, at_most: Duration) -> Option<Edits> {
        let deadline = Instant::now() + at_most;
        let mut pending = self.slot.pending();
        while pending.rows.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
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

impl Drop for EditReceiver {
    fn drop(&mut self) {
        self.slot.is_receiver_dropped.store(true, Ordering::Release);
    }
}

/// The difference between the rows received last and the rows read last.
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
            // The newest spelling counts.
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
    use crate::limits::feed::current_rows::difference;
    use crate::limits::json;
    use crate::limits::rows::Defaults;

    /// Rows of JSON: some names, two dates, values in several spellings; each name and date once.
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

    /// The texts of rows: equal values in other spellings differ.
    fn shown(rows: &[Arc<Row>]) -> BTreeSet<String> {
        rows.iter().map(|row| format!("{row:?}")).collect()
    }

    proptest! {
        /// A run that receives edits at any time, and applies them, has the rows that were read last.
        #[test]
        fn edits_received_at_any_time_lead_to_the_rows_read_last(
            tables in prop::collection::vec((rows(), any::<bool>()), 1..12)
        ) {
            let (sender, receiver) = handover(|| ());
            let (mut read, mut held) = (Vec::<Arc<Row>>::new(), BTreeSet::<String>::new());
            let mut taken = 0;
            let last = tables.len() - 1;
            for (at, (rows, takes)) in tables.into_iter().enumerate() {
                prop_assert!(sender.send(difference(&read, &rows)));
                read = rows;
                if !takes && at != last {
                    continue;
                }
                let edits = receiver.take();
                prop_assert!(edits.len() <= taken + read.len(), "{} edits", edits.len());
                for (row, diff) in edits {
                    let row = format!("{row:?}");
                    let changed = if diff > 0 { held.insert(row) } else { held.remove(&row) };
                    prop_assert!(changed, "an edit of nothing");
                }
                taken = read.len();
                prop_assert_eq!(&held, &shown(&read));
                prop_assert!(!receiver.has_edits() && receiver.take().is_empty());
            }
        }
    }

    #[test]
    fn sender_without_a_receiver_returns_false() {
        let (sender, receiver) = handover(|| ());
        assert!(sender.send(Edits::new()));
        drop(receiver);
        assert!(!sender.send(Edits::new()));
    }
}
