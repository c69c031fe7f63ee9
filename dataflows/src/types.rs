//! The words of the computation as types: pairs, volumes, entities, scopes, limits, violations,
//! changes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use differential_dataflow::difference::{Abelian, IsZero, Monoid, Multiply, Semigroup};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::time::Window;

/// The source and the destination address of a record, in this order, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Pair {
    /// Two IPv4 addresses.
    V4(Ipv4Addr, Ipv4Addr),
    /// Two IPv6 addresses.
    V6(Ipv6Addr, Ipv6Addr),
}

impl Pair {
    /// The pair of two addresses; `None` if they are of different families.
    pub fn new(source: IpAddr, destination: IpAddr) -> Option<Self> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Some(Pair::V4(source, destination)),
            (IpAddr::V6(source), IpAddr::V6(destination)) => Some(Pair::V6(source, destination)),
            _ => None,
        }
    }

    /// The address that sent.
    pub fn source(&self) -> IpAddr {
        match *self {
            Pair::V4(source, _) => source.into(),
            Pair::V6(source, _) => source.into(),
        }
    }

    /// The address that was sent to.
    pub fn destination(&self) -> IpAddr {
        match *self {
            Pair::V4(_, destination) => destination.into(),
            Pair::V6(_, destination) => destination.into(),
        }
    }
}

/// An amount of traffic: of a record, an update, or a table entry. Corrections are negative.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Volume {
    /// Bytes on the wire.
    pub bytes: i64,
    /// Packets.
    pub packets: i64,
}

impl Volume {
    /// A volume of so many bytes and packets.
    pub const fn new(bytes: i64, packets: i64) -> Self {
        Volume { bytes, packets }
    }

    /// The sum, or `None` if it leaves 64 bits.
    #[inline]
    pub fn checked_add(self, other: Volume) -> Option<Volume> {
        Some(Volume {
            bytes: self.bytes.checked_add(other.bytes)?,
            packets: self.packets.checked_add(other.packets)?,
        })
    }

    /// The sum, each part of which stays at `i64::MAX` once it has reached it: a total that is
    /// [saturated](Volume::is_saturated) never looks exact again.
    #[inline]
    pub fn saturating_add(self, other: Volume) -> Volume {
        match self.checked_add(other) {
            Some(sum) if !self.is_saturated() => sum,
            _ => self.saturating_add_parts(other),
        }
    }

    #[cold]
    fn saturating_add_parts(self, other: Volume) -> Volume {
        let add = |sum: i64, more: i64| match sum {
            i64::MAX => i64::MAX,
            sum => sum.saturating_add(more),
        };
        Volume { bytes: add(self.bytes, other.bytes), packets: add(self.packets, other.packets) }
    }

    /// Whether a part has reached `i64::MAX`: the traffic is at least that, and the excess is unknown.
    #[inline]
    pub fn is_saturated(&self) -> bool {
        self.bytes == i64::MAX || self.packets == i64::MAX
    }

    /// The part that a metric counts.
    pub fn amount(&self, metric: Metric) -> i64 {
        match metric {
            Metric::Bytes => self.bytes,
            Metric::Packets => self.packets,
        }
    }
}

/// A sum of volumes in 128 bits, which no traffic can leave: the difference type of the
/// [textbook](crate::textbook) form, and the arithmetic of the [reference](crate::reference).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct WideVolume {
    bytes: i128,
    packets: i128,
}

impl From<Volume> for WideVolume {
    fn from(volume: Volume) -> Self {
        WideVolume { bytes: volume.bytes.into(), packets: volume.packets.into() }
    }
}

impl WideVolume {
    /// The volume of 64 bits, [saturated](Volume::is_saturated) where the sum is beyond them.
    pub fn saturate(&self) -> Volume {
        let clamp = |sum: i128| sum.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
        Volume { bytes: clamp(self.bytes), packets: clamp(self.packets) }
    }
}

impl IsZero for WideVolume {
    fn is_zero(&self) -> bool {
        self.bytes == 0 && self.packets == 0
    }
}

impl Semigroup for WideVolume {
    fn plus_equals(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.packets += other.packets;
    }
}

impl Monoid for WideVolume {
    fn zero() -> Self {
        WideVolume::default()
    }
}

impl Abelian for WideVolume {
    fn negate(&mut self) {
        self.bytes = -self.bytes;
        self.packets = -self.packets;
    }
}

impl Multiply<isize> for WideVolume {
    type Output = WideVolume;

    fn multiply(self, times: &isize) -> WideVolume {
        let times = *times as i128;
        WideVolume { bytes: self.bytes * times, packets: self.packets * times }
    }
}

/// The part of a volume that a limit counts.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Bytes on the wire.
    #[default]
    Bytes,
    /// Packets.
    Packets,
}

/// The kind of entity that a limit is counted for.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// Each (source, destination).
    #[default]
    Pair,
    /// Each source address.
    Source,
    /// Each destination address.
    Destination,
    /// Each address, in both directions.
    Host,
    /// Everything in scope together.
    Total,
}

/// The side of its value on which a limit is broken.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Broken as soon as the amount is over the value.
    #[default]
    Max,
    /// Broken when the amount is under the value once the window has closed.
    Min,
}

/// The addresses that a scope admits: a network of one family, or any address of either.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Prefix(Option<IpNet>);

impl Prefix {
    /// Any address of either family.
    pub const ANY: Prefix = Prefix(None);

    /// The addresses of a network; bits beyond its length are ignored.
    pub fn new(network: IpNet) -> Self {
        Prefix(Some(network.trunc()))
    }

    /// The network, unless any address is admitted.
    pub fn network(&self) -> Option<IpNet> {
        self.0
    }

    /// Whether an address is admitted.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.is_none_or(|network| network.contains(&address))
    }
}

/// The traffic that a limit counts: a metric of some pairs, summed for each entity of a kind.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Scope {
    /// The kind of entity that the limit is counted for.
    pub per: Per,
    /// The part of a volume that is counted.
    pub metric: Metric,
    /// Only pairs whose source is in here are counted.
    pub source: Prefix,
    /// Only pairs whose destination is in here are counted.
    pub destination: Prefix,
    /// With [`Per::Host`]: the hosts that are judged. Else [`Prefix::ANY`].
    pub host: Prefix,
}

impl Scope {
    /// Returns the entities that the scope counts a pair for: two if both ends of the pair are hosts that are judged.
    pub fn entities(&self, pair: &Pair) -> [Option<Entity>; 2] {
        let (source, destination) = (pair.source(), pair.destination());
        if !(self.source.contains(source) && self.destination.contains(destination)) {
            return [None, None];
        }
        match self.per {
            Per::Pair => [Some(Entity::Pair(*pair)), None],
            Per::Source => [Some(Entity::Source(source)), None],
            Per::Destination => [Some(Entity::Destination(destination)), None],
            Per::Total => [Some(Entity::Total), None],
            Per::Host => [Some(source), Some(destination).filter(|other| *other != source)]
                .map(|host| host.filter(|host| self.host.contains(*host)).map(Entity::Host)),
        }
    }
}

/// Something a limit is counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Entity {
    /// A (source, destination).
    Pair(Pair),
    /// A source address.
    Source(IpAddr),
    /// A destination address.
    Destination(IpAddr),
    /// An address, in both directions.
    Host(IpAddr),
    /// Everything in scope.
    Total,
}

/// A limit's name, as a number that the owner of the names chose.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct LimitId(pub u32);

/// One row of limits, as a number that the owner of the rows chose; other content, other number.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct VersionId(pub u32);

/// One row of limits. It defines the limit from its effective date on, until that of the next row of the same
/// limit.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Version {
    /// The limit that this is a version of.
    pub limit: LimitId,
    /// Nanoseconds since the Unix epoch. Two rows of one limit never share it.
    pub effective: i128,
    /// The number of the row; different content has a different number.
    pub id: VersionId,
    /// The side of the value on which amounts break the limit.
    pub bound: Bound,
    /// The traffic that is counted.
    pub scope: Scope,
    /// `max` is broken by an amount above it, `min` by one below it; `None`: from the effective date
    /// on, the limit does not exist. A value is at least 0: entities without traffic break no `max`.
    pub value: Option<i64>,
}

/// A broken limit: the amount of an entity is over a `max`, or under a `min` of a closed window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Violation {
    /// The broken limit.
    pub limit: LimitId,
    /// The window in which the limit is broken.
    pub window: Window,
    /// The entity that breaks the limit.
    pub entity: Entity,
    /// The entity's traffic in the limit's scope; the limit's metric says which part is judged.
    pub volume: Volume,
}

/// The kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// The violation is new.
    Raised,
    /// The violation stands, with another amount, version or settledness.
    Updated,
    /// The violation has ended.
    Cleared,
}

/// The reason of a change; of several reasons the first that was enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The rows of limits differ from those of the tick before.
    LimitChange,
    /// Time passed: a version's date came, or the window closed or settled.
    Schedule,
    /// A record came after its window had closed.
    LateData,
    /// A record came before its window had closed.
    Data,
}

/// A change of a violation, as a tick publishes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Change {
    /// The kind of the change.
    pub event: Event,
    /// The reason of the change.
    pub reason: Reason,
    /// The violation: limit, window, entity and volume. For `cleared`, the volume that cleared it.
    pub violation: Violation,
    /// The side of the value on which the limit is broken: that of the version that judges now, or of the last one
    /// that did if none does.
    pub bound: Bound,
    /// The metric that is judged, of the same version.
    pub metric: Metric,
    /// The version that judges now; `None` if none does.
    pub version: Option<VersionId>,
    /// Whether the window is settled.
    pub settled: bool,
    /// Whether the window was not observed from its start on, or whether it was is not known yet.
    pub partial: bool,
}

/// The changes of a standing violation that are published before its window settles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Updates {
    /// None.
    #[default]
    Settled,
    /// A change to another version that judges.
    Limit,
    /// As [`Updates::Limit`], and a new amount at each tick.
    Tick,
}
