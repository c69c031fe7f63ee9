//! Records of a tick folded into one update per (window, pair) before they are exchanged.

use std::hash::{BuildHasher, Hash};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashTable};
use serde::{Deserialize, Serialize};

use crate::time::Window;
use crate::types::{Pair, Volume};

/// Upper bound on the updates of a batch, so that no operator works long on one batch.
pub const BATCH_UPDATES: usize = 8192;

/// Updates of one window for one worker. Families lie apart: an IPv4 update is a third of an IPv6
/// one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateBatch {
    /// The worker that holds these pairs.
    pub to: u64,
    /// The window they count in.
    pub window: Window,
    /// Records folded into all batches of the window and tick; only the last of these batches has the number, the
    /// others have 0.
    pub records: u64,
    /// IPv4 pairs, source in the upper half.
    pub v4: Vec<(u64, Volume)>,
    /// IPv6 pairs.
    pub v6: Vec<((u128, u128), Volume)>,
}

impl UpdateBatch {
    /// All updates.
    pub fn updates(&self) -> impl Iterator<Item = (Pair, Volume)> {
        let v4 = self.v4.iter().map(|&(bits, volume)| (pair_v4(bits), volume));
        let v6 = self.v6.iter().map(|&(bits, volume)| (pair_v6(bits), volume));
        v4.chain(v6)
    }

    /// The number of updates.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether there is no update.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Splits the batch into parts of at most [`BATCH_UPDATES`], none of which is empty, and passes each to
    /// `emit`.
    fn split(self, mut emit: impl FnMut(UpdateBatch)) {
        match self.len() {
            0 => {}
            1..=BATCH_UPDATES => emit(self),
            _ => {
                let UpdateBatch { to, window, records, v4, v6 } = self;
                let empty = UpdateBatch { to, window, records, ..UpdateBatch::default() };
                for v4 in v4.chunks(BATCH_UPDATES) {
                    emit(UpdateBatch { v4: v4.to_vec(), ..empty.clone() });
                }
                for v6 in v6.chunks(BATCH_UPDATES) {
                    emit(UpdateBatch { v6: v6.to_vec(), ..empty.clone() });
                }
            }
        }
    }
}

fn pair_v4(bits: u64) -> Pair {
    Pair::V4(Ipv4Addr::from_bits((bits >> 32) as u32), Ipv4Addr::from_bits(bits as u32))
}

pub(crate) fn pair_v6((source, destination): (u128, u128)) -> Pair {
    Pair::V6(Ipv6Addr::from_bits(source), Ipv6Addr::from_bits(destination))
}

/// Returns the one of `peers` workers that holds the entries keyed by these bits. Every process must return the
/// same worker, so the hash has no seed.
pub(crate) fn route(bits: u128, peers: usize) -> u64 {
    if peers == 1 {
        return 0;
    }
    let folded = (bits ^ (bits >> 64)) as u64;
    // Scales a hash of 32 bits to the number of workers by a multiplication: a division costs more.
    ((folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) * peers as u64) >> 32
}

/// [`route`] of an address.
pub(crate) fn route_address(address: IpAddr, peers: usize) -> u64 {
    match address {
        IpAddr::V4(address) => route(address.to_bits().into(), peers),
        IpAddr::V6(address) => route(address.to_bits(), peers),
    }
}

/// Sums by key, in the order in which the keys came. The hash table stores `u32` indexes into `sums`, so that it
/// stays small enough for a cache, and `sums` leaves as it is.
///
/// A long tick has more sums than fit into a cache, and a look-up then mostly waits for memory. So records are
/// collected and looked up together: their waits overlap.
struct Sums<K> {
    places: HashTable<u32>,
    sums: Vec<(K, Volume)>,
    /// Sums that the next record would have taken beyond 64 bits. A part is never clamped: only the
    /// table that holds the total sees the whole.
    full: Vec<(K, Volume)>,
    /// Records that are not looked up yet.
    waiting: Vec<(K, Volume)>,
    hasher: RandomState,
}

/// Records that are looked up together.
const LOOKED_UP_AT_ONCE: usize = 32;

impl<K> Default for Sums<K> {
    fn default() -> Self {
        Sums {
            places: HashTable::new(),
            sums: Vec::new(),
            full: Vec::new(),
            waiting: Vec::new(),
            hasher: RandomState::default(),
        }
    }
}

impl<K: Copy + Eq + Hash> Sums<K> {
    /// Adds to a sum, now or with a later call. Returns the number of records, of those looked up in this call,
    /// that needed no new sum.
    #[inline]
    fn add(&mut self, key: K, volume: Volume) -> usize {
        self.waiting.push((key, volume));
        if self.waiting.len() < LOOKED_UP_AT_ONCE { 0 } else { self.add_waiting() }
    }

    /// Adds the records that wait to their sums. Returns the number of these records that needed no new sum.
    #[inline(never)]
    fn add_waiting(&mut self) -> usize {
        let (before, added) = (self.sums.len() + self.full.len(), self.waiting.len());
        let Sums { places, sums, full, waiting, hasher } = self;
        let mut found = [(0, None); LOOKED_UP_AT_ONCE];
        for ((hash, place), (key, _)) in found.iter_mut().zip(&*waiting) {
            *hash = hasher.hash_one(key);
            *place = places.find(*hash, |place| sums[*place as usize].0 == *key).copied();
        }
        for ((hash, place), (key, volume)) in found.into_iter().zip(waiting.drain(..)) {
            // An earlier one of these records may have brought a key that was not found.
            let same = |place: &u32| sums[*place as usize].0 == key;
            let place = match place.or_else(|| places.find(hash, same).copied()) {
                Some(place) => place,
                None => {
                    let place =
                        u32::try_from(sums.len()).expect("fewer than 2^32 pairs in one tick");
                    sums.push((key, Volume::default()));
                    places.insert_unique(hash, place, |place| {
                        hasher.hash_one(sums[*place as usize].0)
                    });
                    place
                }
            };
            let sum = &mut sums[place as usize].1;
            match sum.checked_add(volume) {
                Some(whole) => *sum = whole,
                None => full.push((key, std::mem::replace(sum, volume))),
            }
        }
        added - (self.sums.len() + self.full.len() - before)
    }

    /// All sums, by the worker that holds their key.
    fn take(&mut self, peers: usize, to: impl Fn(K) -> u64) -> Vec<Vec<(K, Volume)>> {
        self.places.clear();
        // The next tick brings about as many sums.
        let like_this = Vec::with_capacity(self.sums.len());
        let mut sums = std::mem::replace(&mut self.sums, like_this);
        sums.append(&mut self.full);
        if peers == 1 {
            return vec![sums];
        }
        let share = sums.len() / peers;
        // Not cloned: a clone of an empty vector has no capacity.
        let mut shares: Vec<_> =
            (0..peers).map(|_| Vec::with_capacity(share + share / 8)).collect();
        for (key, volume) in sums {
            shares[to(key) as usize].push((key, volume));
        }
        shares
    }
}

/// The sums of one window.
#[derive(Default)]
struct WindowSums {
    records: u64,
    v4: Sums<u64>,
    v6: Sums<(u128, u128)>,
}

/// Folds records into [`UpdateBatch`]s, one tick at a time.
///
/// # Examples
/// ```
/// use floodmark_dataflows::combine::Combiner;
/// use floodmark_dataflows::time::Window;
/// use floodmark_dataflows::types::{Pair, Volume};
///
/// let pair = Pair::V4([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
/// let mut combiner = Combiner::new(1);
/// combiner.add(Window(0), pair, Volume::new(100, 1));
/// combiner.add(Window(0), pair, Volume::new(60, 1));
/// let batches = combiner.take();
/// assert_eq!(batches.len(), 1);
/// assert_eq!(batches[0].updates().collect::<Vec<_>>(), [(pair, Volume::new(160, 2))]);
/// assert!(combiner.take().is_empty());
/// ```
pub struct Combiner {
    peers: usize,
    /// Windows of this tick; most records fall into the one used last.
    windows: Vec<(Window, WindowSums)>,
    last: usize,
    /// The index of each window in `windows`. There are few windows, unless the times of a file jump.
    places: HashMap<Window, usize, RandomState>,
    spare: Vec<WindowSums>,
    len: usize,
}

impl Combiner {
    /// A combiner for a computation of so many workers.
    pub fn new(peers: usize) -> Self {
        Combiner {
            peers,
            windows: Vec::new(),
            last: 0,
            places: HashMap::default(),
            spare: Vec::new(),
            len: 0,
        }
    }

    /// The number of updates that [`Combiner::take`] would return, or some more: each record that is not looked up
    /// yet counts as one update.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to take.
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// Counts a record. A sum that the record would take beyond 64 bits becomes two updates.
    #[inline]
    pub fn add(&mut self, window: Window, pair: Pair, volume: Volume) {
        if self.windows.get(self.last).is_none_or(|held| held.0 != window) {
            self.select_window(window);
        }
        let sums = &mut self.windows[self.last].1;
        sums.records += 1;
        // Until its look-up a record counts as a sum of its own: there may be many windows, each with few records.
        self.len += 1;
        self.len -= match pair {
            Pair::V4(source, destination) => {
                let bits = u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits());
                sums.v4.add(bits, volume)
            }
            Pair::V6(source, destination) => {
                sums.v6.add((source.to_bits(), destination.to_bits()), volume)
            }
        };
    }

    fn select_window(&mut self, window: Window) {
        self.last = *self.places.entry(window).or_insert_with(|| {
            self.windows.push((window, self.spare.pop().unwrap_or_default()));
            self.windows.len() - 1
        });
    }

    /// The updates since the last call, for each worker and window.
    pub fn take(&mut self) -> Vec<UpdateBatch> {
        let (mut batches, peers) = (Vec::new(), self.peers);
        for (window, mut sums) in self.windows.drain(..) {
            sums.v4.add_waiting();
            sums.v6.add_waiting();
            let v4 = sums.v4.take(peers, |bits| route(bits.into(), peers));
            let v6 = sums.v6.take(peers, |bits| route(bits.0 ^ bits.1.rotate_left(32), peers));
            for (to, (v4, v6)) in (0..).zip(v4.into_iter().zip(v6)) {
                let batch = UpdateBatch { to, window, records: 0, v4, v6 };
                batch.split(|batch| batches.push(batch));
            }
            // A window is added for a record, so it has a batch, and its batches come last.
            let last = batches.last_mut().expect("a window with a record has a batch");
            last.records = std::mem::take(&mut sums.records);
            // A burst must not make every later tick clear its capacity.
            if sums.v4.places.capacity() + sums.v6.places.capacity() <= 16 * (self.len + 1024) {
                self.spare.push(sums);
            }
        }
        self.spare.truncate(4);
        self.places.clear();
        (self.last, self.len) = (0, 0);
        batches
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// SplitMix64.
    struct Random(u64);

    impl Random {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed ^ (mixed >> 31)) % n
        }
    }

    fn pair(random: &mut Random, pairs: u64) -> Pair {
        let number = random.below(pairs);
        match random.below(3) {
            0 => pair_v6((number.into(), (number / 7).into())),
            _ => pair_v4((number << 32) | (number / 5)),
        }
    }

    #[test]
    fn records_of_a_pair_are_folded_into_one_sum_of_one_worker() {
        for (seed, peers, pairs) in [(1, 1, 3), (2, 3, 40), (3, 4, 30_000), (4, 1, 30_000)] {
            let random = &mut Random(seed);
            let mut combiner = Combiner::new(peers);
            let mut routes = BTreeMap::new();
            // Records that wait in one tick must not get into another tick.
            for records in [1, 31, 32, 33, 1000, 50_000, 0, 7] {
                let mut expected = BTreeMap::<(Window, Pair), Volume>::new();
                for _ in 0..records {
                    // Mostly one window, at times another.
                    let window = Window(300 * (random.below(20) / 17));
                    let pair = pair(random, pairs);
                    // Some corrections, which may come to nothing.
                    let volume = Volume::new(random.below(3) as i64 - 1, 1);
                    combiner.add(window, pair, volume);
                    let sum = expected.entry((window, pair)).or_default();
                    *sum = sum.checked_add(volume).expect("small amounts");
                }
                let mut counted = 0;
                let mut sums = BTreeMap::new();
                for batch in combiner.take() {
                    counted += batch.records;
                    assert!((1..=BATCH_UPDATES).contains(&batch.len()), "seed {seed}");
                    for (pair, volume) in batch.updates() {
                        let twice = sums.insert((batch.window, pair), volume);
                        assert_eq!(twice, None, "seed {seed}: {pair:?} is in two sums");
                        let route = *routes.entry(pair).or_insert(batch.to);
                        assert_eq!(route, batch.to, "seed {seed}: {pair:?} goes two ways");
                    }
                }
                assert_eq!((counted, sums), (records, expected), "seed {seed}");
                assert!(combiner.is_empty());
            }
            let workers: std::collections::BTreeSet<u64> = routes.into_values().collect();
            assert_eq!(workers.len(), if pairs == 3 { 1 } else { peers }, "seed {seed}");
        }
    }

    /// A caller that bounds memory by [`Combiner::len`] must not get too small a number where each record is in a
    /// window of its own.
    #[test]
    fn record_before_its_look_up_counts_as_one_update() {
        let mut combiner = Combiner::new(1);
        for window in 0..1000 {
            combiner.add(Window(window * 300), pair_v4(1), Volume::new(1, 1));
        }
        assert_eq!(combiner.len(), 1000);
        combiner.take();
        (0..1000).for_each(|_| combiner.add(Window(0), pair_v4(1), Volume::new(1, 1)));
        assert!((1..=LOOKED_UP_AT_ONCE).contains(&combiner.len()), "{}", combiner.len());
        let updates: usize = combiner.take().iter().map(UpdateBatch::len).sum();
        assert_eq!((updates, combiner.len()), (1, 0));
    }

    #[test]
    fn sum_beyond_64_bits_becomes_two_updates() {
        for pair in [pair_v4(1), pair_v6((1, 2))] {
            let mut combiner = Combiner::new(1);
            let most = Volume::new(i64::MAX - 5, 1);
            let added = [most, Volume::new(5, 1), Volume::new(7, 1), Volume::new(1, 1)];
            added.iter().for_each(|volume| combiner.add(Window(0), pair, *volume));
            assert_eq!(combiner.len(), added.len(), "records that wait count one each");
            let batches = combiner.take();
            let updates: Vec<_> = batches.iter().flat_map(UpdateBatch::updates).collect();
            let expected = [(pair, Volume::new(8, 2)), (pair, Volume::new(i64::MAX, 2))];
            assert_eq!(updates, expected);
            assert_eq!(batches.iter().map(|batch| batch.records).sum::<u64>(), 4);
            assert!(combiner.take().is_empty());
        }
    }
}
