//! The join of amounts with thresholds that costs what it puts out.
//!
//! Per key, one side holds values ordered by amount, the other thresholds. What the changes of one
//! limit at one time do to the output is a step function of the amount: a `max` of `v` adds its
//! difference from `v + 1` on, a `min` of `v` everywhere below `v`. When a limit moves from `v` to
//! `v'` most of the two steps cancels, and what is left is the *piece* between `v` and `v'`. So the
//! join consolidates the steps into pieces `[from, until)` with a coefficient, and sweeps over them in
//! order of amount, seeking over amounts that no piece covers. Fresh values against held thresholds
//! and fresh thresholds against held values are the same sweep.
//!
//! In plain differential dataflow this is
//! ```text
//! amounts.join(&thresholds).filter(|(_, (value, threshold))| threshold.is_broken_by(value.amount()))
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
use serde::{Deserialize, Serialize};
use timely::dataflow::channels::pact::Pipeline;
use timely::order::TotalOrder;
use timely::progress::Timestamp;

use crate::gauge::Total;
use crate::types::Bound;

/// A value whose order begins with an amount.
pub trait Amount: Copy + Ord {
    /// The amount.
    fn amount(&self) -> i64;
    /// The least value of an amount, in this order.
    fn least(amount: i64) -> Self;
}

impl Amount for Total {
    fn amount(&self) -> i64 {
        self.amount
    }
    fn least(amount: i64) -> Self {
        Total { amount, key: crate::addresses::Key::MIN, other: i64::MIN }
    }
}

impl Amount for i64 {
    fn amount(&self) -> i64 {
        *self
    }
    fn least(amount: i64) -> Self {
        amount
    }
}

/// A limit holds to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Threshold<L> {
    /// Who does.
    pub limit: L,
    /// On which side of the value amounts break it.
    pub bound: Bound,
    /// The value.
    pub value: i64,
}

impl<L> Threshold<L> {
    /// Whether an amount breaks it.
    pub fn is_broken_by(&self, amount: i64) -> bool {
        match self.bound {
            Bound::Max => amount > self.value,
            Bound::Min => amount < self.value,
        }
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
/// Per changed threshold: its output changes, and a logarithmic seek for each gap between them. Per
/// changed amount: the thresholds of its key.
///
/// # Examples
/// ```
/// use differential_dataflow::input::Input;
/// use floodmark_dataflows::threshold_join::{Threshold, threshold_join};
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
///     let max = |value| (7u32, Threshold { limit: 'a', bound: Bound::Max, value });
///     for amount in [10i64, 20, 30] {
///         amounts.insert((7, amount));
///     }
///     limits.insert(max(25));
///     for time in 1..3 {
///         amounts.advance_to(time);
///         limits.advance_to(time);
///         if time == 1 {
///             limits.remove(max(25));
///             limits.insert(max(15)); // 20 comes to be over it
///         } else {
///             amounts.remove((7, 30)); // and 30 is gone
///         }
///     }
///     drop((amounts, limits));
///     changes
/// });
/// let mut changes: Vec<_> = changes.extract().into_iter().flat_map(|(_, updates)| updates).collect();
/// changes.sort_by_key(|(_, time, _)| *time);
/// assert_eq!(changes, [
///     ((7, 30, 'a'), 0, 1),
///     ((7, 20, 'a'), 1, 1),
///     ((7, 30, 'a'), 2, -1),
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

/// A collection arranged where it is.
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
        // The held side is advanced, so that what cancelled since is not put out as a pair of
        // opposites; the fresh side lies at or beyond the meet anyway.
        Box::new(Sweep {
            amounts: Side::new(amounts),
            thresholds: Side::new(thresholds),
            meet,
            fresh,
            key: None,
            pieces: Vec::new(),
            active: Vec::new(),
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

/// Amounts in `[from, until)` gain `diff` times their multiplicity at `time`.
struct Piece<L, T> {
    from: i64,
    /// `None`: up to the greatest amount, inclusive.
    until: Option<i64>,
    limit: L,
    time: T,
    diff: isize,
}

struct Sweep<B0: Navigable, B1: Navigable, K, V, L, T> {
    amounts: Side<B0>,
    thresholds: Side<B1>,
    meet: T,
    fresh: Fresh,
    /// The key under way.
    key: Option<K>,
    /// Its pieces that are not reached yet, the next one last.
    pieces: Vec<Piece<L, T>>,
    /// Those that cover the current amount.
    active: Vec<Piece<L, T>>,
    updates: Updates<K, V, L, T>,
}

/// How many updates are put out at once, at least.
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

    /// The pieces of a key, the one that begins at the least amount last.
    fn load_pieces(&mut self, key: K) {
        let meet = matches!(self.fresh, Fresh::Input0).then_some(&self.meet);
        let mut steps = Steps::default();
        for (batch, cursor) in self.thresholds.on(key) {
            while let Some(&threshold) = cursor.get_val(batch) {
                cursor.map_times(batch, |time, diff| {
                    let mut time = B1::Cursor::owned_time(time);
                    if let Some(meet) = meet {
                        time.join_assign(meet);
                    }
                    steps.add(threshold, time, B1::Cursor::owned_diff(diff));
                });
                cursor.step_val(batch);
            }
        }
        self.pieces = steps.into_pieces();
        self.pieces.sort_unstable_by_key(|piece| Reverse(piece.from));
    }

    /// Moves every cursor on the key to the least amount that the next piece covers.
    fn seek_amount(&mut self, key: K, amount: i64) {
        let least = V::least(amount);
        for (batch, cursor) in self.amounts.on(key) {
            if cursor.get_val(batch).is_some_and(|value| *value < least) {
                cursor.seek_val(batch, &least);
            }
        }
    }

    /// Puts out what the next value of the key adds. `false` if no value of it is left to look at.
    fn sweep_value(&mut self, key: K) -> bool {
        if self.active.is_empty() {
            let Some(next) = self.pieces.last() else {
                return false;
            };
            let from = next.from;
            self.seek_amount(key, from);
        }
        let values =
            self.amounts.on(key).filter_map(|(batch, cursor)| cursor.get_val(batch).copied());
        let Some(value) = values.min() else {
            return false;
        };
        let amount = value.amount();
        while let Some(piece) = self.pieces.pop_if(|piece| piece.from <= amount) {
            self.active.push(piece);
        }
        self.active.retain(|piece| piece.until.is_none_or(|until| amount < until));
        if !self.active.is_empty() {
            self.put_out(key, value);
        }
        true
    }

    /// Multiplies one value, over all batches that have it, with the active pieces, and steps past it.
    fn put_out(&mut self, key: K, value: V) {
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
            for piece in &self.active {
                let time = time.join(&piece.time);
                self.updates.push(((key, value, piece.limit), time, diff * piece.diff));
            }
        }
    }
}

/// The step functions of a key's thresholds, by limit and time.
struct Steps<L, T> {
    steps: Vec<((L, T, i64), isize)>,
}

impl<L, T> Default for Steps<L, T> {
    fn default() -> Self {
        Steps { steps: Vec::new() }
    }
}

impl<L: Ord + Copy, T: Ord + Clone> Steps<L, T> {
    fn add(&mut self, threshold: Threshold<L>, time: T, diff: isize) {
        let Threshold { limit, bound, value } = threshold;
        match bound {
            // Nothing is over the greatest amount.
            Bound::Max => {
                if let Some(from) = value.checked_add(1) {
                    self.steps.push(((limit, time, from), diff));
                }
            }
            Bound::Min => {
                self.steps.push(((limit, time.clone(), i64::MIN), diff));
                self.steps.push(((limit, time, value), -diff));
            }
        }
    }

    fn into_pieces(mut self) -> Vec<Piece<L, T>> {
        differential_dataflow::consolidation::consolidate(&mut self.steps);
        let mut pieces: Vec<Piece<L, T>> = Vec::new();
        let mut height = 0;
        let mut steps = self.steps.into_iter().peekable();
        while let Some(((limit, time, from), diff)) = steps.next() {
            height += diff;
            let same = |other: &((L, T, i64), isize)| other.0.0 == limit && other.0.1 == time;
            let until = steps.peek().filter(|next| same(next)).map(|next| next.0.2);
            if height != 0 {
                pieces.push(Piece { from, until, limit, time, diff: height });
            }
            if until.is_none() {
                height = 0;
            }
        }
        pieces
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
                    self.load_pieces(key);
                    *self.key.insert(key)
                }
            };
            if !self.sweep_value(key) {
                self.amounts.step_key(key);
                self.thresholds.step_key(key);
                self.active.clear();
                self.key = None;
            }
        }
        (!self.updates.is_empty()).then(|| std::mem::take(&mut self.updates))
    }
}
