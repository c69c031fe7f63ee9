//! The join of amounts with thresholds that costs what it emits.
//!
//! Under a key, an amount is at a place, and a threshold holds for a range of places. Per key, one side has
//! its values in the order of place and amount, the other its thresholds in the order of the ends of their
//! ranges. What the changes of one limit at one time do to the output of a place is a step function of the
//! amount: a `max` of `v` adds its difference from `v + 1` on, a `min` of `v` everywhere below `v`. When a
//! limit moves from `v` to `v'` most of the two steps cancels, and what is left is the *piece* between `v`
//! and `v'`. So the join consolidates the steps that hold for a place into pieces `[from, until)` with a
//! coefficient, and sweeps over them in order of amount, seeking over amounts that no piece covers, and
//! over places that have no piece. Fresh values against held thresholds and fresh thresholds against held
//! values are the same sweep.
//!
//! In plain differential dataflow this is
//! ```text
//! amounts.join(&thresholds).filter(|(_, (value, threshold))| threshold.is_broken_by(value))
//! ```
//! which looks at each amount under a key whenever a threshold of that key changes.

use std::cmp::Reverse;

use differential_dataflow::lattice::Lattice;
use differential_dataflow::operators::arrange::{Arranged, TraceAgent, arrangement};
use differential_dataflow::operators::join::{Fresh, JoinTactic, join_with_tactic};
use differential_dataflow::trace::implementations::{
    ContainerChunker, ValBatcher, ValBuilder, ValSpine,
};
use differential_dataflow::trace::{BatchReader, Cursor, Navigable};
use differential_dataflow::{AsCollection, Data, ExchangeData, VecCollection};
use timely::dataflow::channels::pact::Pipeline;
use timely::order::TotalOrder;
use timely::progress::Timestamp;

use crate::pieces::{SweptPlace, ThresholdChange};
use crate::threshold::Threshold;

/// A value whose order begins with a place, and then an amount.
pub trait Amount: Copy + Ord {
    /// The place.
    fn place(&self) -> u64;
    /// The amount.
    fn amount(&self) -> i64;
    /// The least value of a place and an amount, in this order.
    fn least(place: u64, amount: i64) -> Self;
}

impl Amount for (u64, i64) {
    fn place(&self) -> u64 {
        self.0
    }
    fn amount(&self) -> i64 {
        self.1
    }
    fn least(place: u64, amount: i64) -> Self {
        (place, amount)
    }
}

/// The values that break a threshold of their key, with the limit whose threshold it is.
///
/// # In
/// `amounts` and `thresholds`, each with any multiplicity. Neither is exchanged: equal keys must be
/// on one worker, so one side is usually partitioned by key and the other broadcast.
///
/// # Out
/// (key, value, limit), as often as the product of the two multiplicities says, at the later of the
/// two times.
///
/// # Keeps
/// Both inputs, ordered; they compact as the other side's frontier advances.
///
/// # Costs
/// Per changed threshold: its output changes, and a logarithmic seek for each gap between them and for
/// each place in its range that has amounts. Per changed amount: the thresholds of its key whose range
/// ends after its place.
///
/// # Examples
/// ```
/// use differential_dataflow::input::Input;
/// use floodmark_dataflows::threshold::Threshold;
/// use floodmark_dataflows::threshold_join::threshold_join;
/// use floodmark_dataflows::types::Bound;
/// use timely::dataflow::operators::capture::{Capture, Extract};
/// use timely::dataflow::operators::Inspect;
///
/// let changes = timely::execute_directly(|worker| {
///     let (mut amounts, mut limits, changes) = worker.dataflow::<u64, _, _>(|scope| {
///         let (amounts_input, amounts) = scope.new_collection();
///         let (limits_input, limits) = scope.new_collection();
///         let broken = threshold_join(amounts, limits);
///         (amounts_input, limits_input, broken.consolidate().inner.capture())
///     });
///     let max = |value| (7u32, Threshold::everywhere('a', Bound::Max, value));
///     for amount in [10i64, 20, 30] {
///         amounts.insert((7, (0, amount)));
///     }
///     limits.insert(max(25));
///     for time in 1..3 {
///         amounts.advance_to(time);
///         limits.advance_to(time);
///         if time == 1 {
///             limits.remove(max(25));
///             limits.insert(max(15)); // 20 comes to be over it
///         } else {
///             amounts.remove((7, (0, 30))); // and 30 is gone
///         }
///     }
///     drop((amounts, limits));
///     changes
/// });
/// let mut changes: Vec<_> = changes.extract().into_iter().flat_map(|(_, updates)| updates).collect();
/// changes.sort_by_key(|(_, time, _)| *time);
/// assert_eq!(changes, [
///     ((7, (0, 30), 'a'), 0, 1),
///     ((7, (0, 20), 'a'), 1, 1),
///     ((7, (0, 30), 'a'), 2, -1),
/// ]);
/// ```
pub fn threshold_join<'scope, T, K, V, L>(
    amounts: VecCollection<'scope, T, (K, V), isize>,
    thresholds: VecCollection<'scope, T, (K, Threshold<L>), isize>,
) -> VecCollection<'scope, T, (K, V, L), isize>
where
    T: Timestamp + Lattice + TotalOrder,
    K: ExchangeData + Copy,
    V: ExchangeData + Amount,
    L: ExchangeData + Copy,
{
    threshold_join_arranged(arrange(amounts, "Amounts"), arrange(thresholds, "Thresholds"))
}

type Arrangement<'scope, T, K, V> = Arranged<'scope, TraceAgent<ValSpine<K, V, T, isize>>>;

/// Arranges a collection without an exchange.
fn arrange<'scope, T, K, V>(
    collection: VecCollection<'scope, T, (K, V), isize>,
    name: &str,
) -> Arrangement<'scope, T, K, V>
where
    T: Timestamp + Lattice,
    K: ExchangeData,
    V: ExchangeData,
{
    arrangement::arrange_core::<
        _,
        _,
        ContainerChunker<Vec<((K, V), T, isize)>>,
        ValBatcher<K, V, T, isize>,
        ValBuilder<K, V, T, isize>,
        ValSpine<K, V, T, isize>,
    >(collection.inner, Pipeline, name)
}

/// As [`threshold_join`], of arrangements that the caller has.
pub fn threshold_join_arranged<'scope, T, K, V, L>(
    amounts: Arrangement<'scope, T, K, V>,
    thresholds: Arrangement<'scope, T, K, Threshold<L>>,
) -> VecCollection<'scope, T, (K, V, L), isize>
where
    T: Timestamp + Lattice + TotalOrder,
    K: ExchangeData + Copy,
    V: ExchangeData + Amount,
    L: ExchangeData + Copy,
{
    join_with_tactic(amounts, thresholds, ThresholdTactic).as_collection()
}

struct ThresholdTactic;

type Updates<K, V, L, T> = Vec<((K, V, L), T, isize)>;

impl<B0, B1, K, V, L, T> JoinTactic<B0, B1, Updates<K, V, L, T>> for ThresholdTactic
where
    T: Timestamp + Lattice + TotalOrder,
    K: Data + Copy,
    V: Data + Amount,
    L: Data + Copy,
    B0: BatchReader<Time = T> + Navigable + 'static,
    B0::Cursor: for<'a> Cursor<Key<'a> = &'a K, Val<'a> = &'a V, Time = T, Diff = isize>,
    B1: BatchReader<Time = T> + Navigable + 'static,
    B1::Cursor: for<'a> Cursor<Key<'a> = &'a K, Val<'a> = &'a Threshold<L>, Time = T, Diff = isize>,
{
    fn prep(
        &mut self,
        amounts: Vec<B0>,
        thresholds: Vec<B1>,
        fresh: Fresh,
        meet: T,
    ) -> Box<dyn Iterator<Item = Updates<K, V, L, T>>> {
        // The held side is advanced, so that what cancelled since is not emitted as a pair of
        // opposites; the fresh side lies at or beyond the meet anyway.
        Box::new(Sweep {
            amounts: Side::new(amounts),
            thresholds: Side::new(thresholds),
            meet,
            fresh,
            key: None,
            ahead: Vec::new(),
            current: SweptPlace::default(),
            updates: Vec::new(),
        })
    }
}

/// Batches, each with a cursor of its own: a `CursorList` moves cursors that stand on other keys when
/// it seeks a value.
struct Side<B: Navigable> {
    cursors: Vec<(B, B::Cursor)>,
}

impl<B: BatchReader + Navigable> Side<B> {
    fn new(batches: Vec<B>) -> Self {
        let cursors = batches
            .into_iter()
            .filter(|batch| !batch.is_empty())
            .map(|batch| {
                let cursor = batch.cursor();
                (batch, cursor)
            })
            .collect();
        Side { cursors }
    }

    /// The least key that a cursor stands on.
    fn key<K: Ord + Copy>(&self) -> Option<K>
    where
        B::Cursor: for<'a> Cursor<Key<'a> = &'a K>,
    {
        self.cursors.iter().filter_map(|(batch, cursor)| cursor.get_key(batch).copied()).min()
    }

    /// Moves cursors before a key to it. A cursor that stands on it stays: seeking would rewind its
    /// values.
    fn seek_key<K: Ord + Copy>(&mut self, key: K)
    where
        B::Cursor: for<'a> Cursor<Key<'a> = &'a K>,
    {
        for (batch, cursor) in &mut self.cursors {
            if cursor.get_key(batch).is_some_and(|at| *at < key) {
                cursor.seek_key(batch, &key);
            }
        }
    }

    /// Moves cursors that stand on a key beyond it.
    fn step_key<K: Ord + Copy>(&mut self, key: K)
    where
        B::Cursor: for<'a> Cursor<Key<'a> = &'a K>,
    {
        for (batch, cursor) in &mut self.cursors {
            if cursor.get_key(batch).is_some_and(|at| *at == key) {
                cursor.step_key(batch);
            }
        }
    }

    /// The cursors that stand on a key.
    fn on<'s, K: Ord + Copy>(
        &'s mut self,
        key: K,
    ) -> impl Iterator<Item = &'s mut (B, B::Cursor)> + use<'s, B, K>
    where
        B::Cursor: for<'a> Cursor<Key<'a> = &'a K>,
    {
        self.cursors
            .iter_mut()
            .filter(move |(batch, cursor)| cursor.get_key(batch).is_some_and(|at| *at == key))
    }
}

struct Sweep<B0: Navigable, B1: Navigable, K, V, L, T> {
    amounts: Side<B0>,
    thresholds: Side<B1>,
    meet: T,
    fresh: Fresh,
    /// The key under way.
    key: Option<K>,
    /// Its thresholds whose ranges begin later on, the next one last.
    ahead: Vec<ThresholdChange<L, T>>,
    current: SweptPlace<L, T>,
    updates: Updates<K, V, L, T>,
}

/// The least number of updates in a container, except the last one.
const UPDATES: usize = 1024;

impl<B0, B1, K, V, L, T> Sweep<B0, B1, K, V, L, T>
where
    T: Timestamp + Lattice + TotalOrder,
    K: Data + Copy,
    V: Data + Amount,
    L: Data + Copy,
    B0: BatchReader<Time = T> + Navigable,
    B0::Cursor: for<'a> Cursor<Key<'a> = &'a K, Val<'a> = &'a V, Time = T, Diff = isize>,
    B1: BatchReader<Time = T> + Navigable,
    B1::Cursor: for<'a> Cursor<Key<'a> = &'a K, Val<'a> = &'a Threshold<L>, Time = T, Diff = isize>,
{
    /// Moves to the next key that both sides have.
    fn next_key(&mut self) -> Option<K> {
        loop {
            let amounts = self.amounts.key::<K>()?;
            let thresholds = self.thresholds.key::<K>()?;
            match amounts.cmp(&thresholds) {
                std::cmp::Ordering::Less => self.amounts.seek_key(thresholds),
                std::cmp::Ordering::Greater => self.thresholds.seek_key(amounts),
                std::cmp::Ordering::Equal => return Some(amounts),
            }
        }
    }

    /// The least value that is left of the key.
    fn value(&mut self, key: K) -> Option<V> {
        self.amounts.on(key).filter_map(|(batch, cursor)| cursor.get_val(batch).copied()).min()
    }

    /// Loads the thresholds of a key that hold for its first place or a later one.
    fn load_thresholds(&mut self, key: K) {
        let first = self.value(key).map_or(0, |value| value.place());
        let meet = matches!(self.fresh, Fresh::Input0).then_some(&self.meet);
        let Sweep { thresholds, ahead, .. } = self;
        for (batch, cursor) in thresholds.on(key) {
            if let Some(&threshold) = cursor.get_val(batch)
                && threshold.until <= first
            {
                // After all that end there: no range begins at the last place of all.
                cursor.seek_val(batch, &Threshold { until: first, from: u64::MAX, ..threshold });
            }
            while let Some(&threshold) = cursor.get_val(batch) {
                cursor.map_times(batch, |time, diff| {
                    let mut time = B1::Cursor::owned_time(time);
                    if let Some(meet) = meet {
                        time.join_assign(meet);
                    }
                    ahead.push((threshold, time, B1::Cursor::owned_diff(diff)));
                });
                cursor.step_val(batch);
            }
        }
        ahead.sort_unstable_by_key(|(threshold, ..)| Reverse(threshold.from));
    }

    /// Moves every cursor on the key to the least value at or after a place and an amount.
    fn seek(&mut self, key: K, place: u64, amount: i64) {
        let least = V::least(place, amount);
        for (batch, cursor) in self.amounts.on(key) {
            if cursor.get_val(batch).is_some_and(|value| *value < least) {
                cursor.seek_val(batch, &least);
            }
        }
    }

    /// Emits what the next value of the key adds, or seeks it. `false` if no value of it is left to look
    /// at.
    fn sweep_value(&mut self, key: K) -> bool {
        let Some(value) = self.value(key) else {
            return false;
        };
        let (place, amount) = (value.place(), value.amount());
        if self.current.place != Some(place) {
            self.current.move_to(place, &mut self.ahead);
        }
        if !self.current.is_covered() {
            let Some(next) = self.current.next_change(&self.ahead) else {
                return false;
            };
            self.seek(key, next, i64::MIN);
            return true;
        }
        self.current.reach(amount);
        if self.current.active().next().is_some() {
            self.emit(key, value);
            return true;
        }
        match self.current.next_amount() {
            Some(from) => self.seek(key, place, from),
            None => match place.checked_add(1) {
                Some(next) => self.seek(key, next, i64::MIN),
                None => return false,
            },
        }
        true
    }

    /// Multiplies one value, over all batches that have it, with the active pieces, and steps past it.
    fn emit(&mut self, key: K, value: V) {
        let meet = matches!(self.fresh, Fresh::Input1).then_some(&self.meet);
        let mut edits: Vec<(T, isize)> = Vec::new();
        for (batch, cursor) in self.amounts.on(key) {
            if cursor.get_val(batch).is_none_or(|at| *at != value) {
                continue;
            }
            cursor.map_times(batch, |time, diff| {
                let mut time = B0::Cursor::owned_time(time);
                if let Some(meet) = meet {
                    time.join_assign(meet);
                }
                edits.push((time, B0::Cursor::owned_diff(diff)));
            });
            cursor.step_val(batch);
        }
        differential_dataflow::consolidation::consolidate(&mut edits);
        for (time, diff) in &edits {
            for piece in self.current.active() {
                let time = time.join(&piece.time);
                self.updates.push(((key, value, piece.limit), time, diff * piece.diff));
            }
        }
    }
}

impl<B0, B1, K, V, L, T> Iterator for Sweep<B0, B1, K, V, L, T>
where
    T: Timestamp + Lattice + TotalOrder,
    K: Data + Copy,
    V: Data + Amount,
    L: Data + Copy,
    B0: BatchReader<Time = T> + Navigable,
    B0::Cursor: for<'a> Cursor<Key<'a> = &'a K, Val<'a> = &'a V, Time = T, Diff = isize>,
    B1: BatchReader<Time = T> + Navigable,
    B1::Cursor: for<'a> Cursor<Key<'a> = &'a K, Val<'a> = &'a Threshold<L>, Time = T, Diff = isize>,
{
    type Item = Updates<K, V, L, T>;

    fn next(&mut self) -> Option<Updates<K, V, L, T>> {
        while self.updates.len() < UPDATES {
            let key = match self.key {
                Some(key) => key,
                None => {
                    let Some(key) = self.next_key() else { break };
                    self.load_thresholds(key);
                    *self.key.insert(key)
                }
            };
            if !self.sweep_value(key) {
                self.amounts.step_key(key);
                self.thresholds.step_key(key);
                self.ahead.clear();
                self.current = SweptPlace::default();
                self.key = None;
            }
        }
        (!self.updates.is_empty()).then(|| std::mem::take(&mut self.updates))
    }
}
