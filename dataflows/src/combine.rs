//! Records of a tick folded into one update per (window, pair) before they are exchanged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use crate::time::Window;
use crate::types::{Pair, Volume};

/// How many updates a parcel holds at most, so that no operator works long on one.
pub const PARCEL_UPDATES: usize = 8192;

/// Updates of one window for one worker. Families lie apart: an IPv4 update is a third of an IPv6
/// one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parcel {
    /// The worker that holds these pairs.
    pub to: u64,
    /// The window they count in.
    pub window: Window,
    /// How many records are in them and in those parcels of the window and the tick that say 0.
    pub records: u64,
    /// IPv4 pairs, source in the upper half.
    pub v4: Vec<(u64, Volume)>,
    /// IPv6 pairs.
    pub v6: Vec<((u128, u128), Volume)>,
}

impl Parcel {
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
}

fn pair_v4(bits: u64) -> Pair {
    Pair::V4(Ipv4Addr::from_bits((bits >> 32) as u32), Ipv4Addr::from_bits(bits as u32))
}

pub(crate) fn pair_v6((source, destination): (u128, u128)) -> Pair {
    Pair::V6(Ipv6Addr::from_bits(source), Ipv6Addr::from_bits(destination))
}

/// Which of `peers` workers holds what is keyed by these bits. The same in every process, hence
/// unseeded.
pub(crate) fn route(bits: u128, peers: usize) -> u64 {
    if peers == 1 {
        return 0;
    }
    let folded = (bits ^ (bits >> 64)) as u64;
    (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % peers as u64
}

/// [`route`] of an address.
pub(crate) fn route_address(address: IpAddr, peers: usize) -> u64 {
    match address {
        IpAddr::V4(address) => route(address.to_bits().into(), peers),
        IpAddr::V6(address) => route(address.to_bits(), peers),
    }
}

#[derive(Default)]
struct Sums {
    records: u64,
    v4: HashMap<u64, Volume, RandomState>,
    v6: HashMap<(u128, u128), Volume, RandomState>,
}

/// Folds records into [`Parcel`]s, one tick at a time.
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
/// let parcels = combiner.take();
/// assert_eq!(parcels.len(), 1);
/// assert_eq!(parcels[0].updates().collect::<Vec<_>>(), [(pair, Volume::new(160, 2))]);
/// assert!(combiner.take().is_empty());
/// ```
pub struct Combiner {
    peers: usize,
    /// Windows of this tick; most records fall into the one used last.
    windows: Vec<(Window, Sums)>,
    last: usize,
    /// Where each is. There are few, unless the times of a file jump.
    places: HashMap<Window, usize, RandomState>,
    spare: Vec<Sums>,
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

    /// The number of updates that would be taken.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to take.
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// Counts a record.
    ///
    /// # Panics
    /// If a sum leaves 64 bits, naming window and pair: no record may be greater than 2^40, so this
    /// takes more records than a tick can hold.
    #[inline]
    pub fn add(&mut self, window: Window, pair: Pair, volume: Volume) {
        if self.windows.get(self.last).is_none_or(|held| held.0 != window) {
            self.turn_to(window);
        }
        let sums = &mut self.windows[self.last].1;
        sums.records += 1;
        let sum = match pair {
            Pair::V4(source, destination) => {
                let bits = u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits());
                sums.v4.entry(bits).or_insert_with(|| {
                    self.len += 1;
                    Volume::default()
                })
            }
            Pair::V6(source, destination) => {
                sums.v6.entry((source.to_bits(), destination.to_bits())).or_insert_with(|| {
                    self.len += 1;
                    Volume::default()
                })
            }
        };
        *sum = sum.checked_add(volume).unwrap_or_else(|| overflow(window, &pair));
    }

    fn turn_to(&mut self, window: Window) {
        self.last = *self.places.entry(window).or_insert_with(|| {
            self.windows.push((window, self.spare.pop().unwrap_or_default()));
            self.windows.len() - 1
        });
    }

    /// The updates since the last call, for each worker and window.
    pub fn take(&mut self) -> Vec<Parcel> {
        let mut parcels = Vec::new();
        for (window, mut sums) in self.windows.drain(..) {
            let mut open: Vec<Parcel> = (0..self.peers as u64)
                .map(|to| Parcel { to, window, ..Parcel::default() })
                .collect();
            let mut put = |to: u64, add: &mut dyn FnMut(&mut Parcel)| {
                let parcel = &mut open[to as usize];
                add(parcel);
                if parcel.len() >= PARCEL_UPDATES {
                    let empty = Parcel { to, window, ..Parcel::default() };
                    parcels.push(std::mem::replace(parcel, empty));
                }
            };
            for (bits, volume) in sums.v4.drain() {
                put(route(bits.into(), self.peers), &mut |parcel| parcel.v4.push((bits, volume)));
            }
            for (bits, volume) in sums.v6.drain() {
                let to = route(bits.0 ^ bits.1.rotate_left(32), self.peers);
                put(to, &mut |parcel| parcel.v6.push((bits, volume)));
            }
            parcels.extend(open.into_iter().filter(|parcel| !parcel.is_empty()));
            // A window is entered for a record, so it has a parcel, and what it has comes last.
            let last = parcels.last_mut().expect("a window with a record has a parcel");
            last.records = std::mem::take(&mut sums.records);
            // A burst must not make every later tick clear its capacity.
            if sums.v4.capacity() + sums.v6.capacity() <= 16 * (self.len + 1024) {
                self.spare.push(sums);
            }
        }
        self.spare.truncate(4);
        self.places.clear();
        (self.last, self.len) = (0, 0);
        parcels
    }
}

/// Ends the run: a wrapped sum would be a wrong answer.
#[cold]
pub(crate) fn overflow(window: Window, who: &dyn std::fmt::Debug) -> ! {
    panic!("the sum for {who:?} in the window that starts at {} leaves 64 bits", window.0)
}
