//! Rows of tables as records.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use floodmark_dataflows::types::Pair;
use jiff::tz::TimeZone;

use super::columns::{Field, Layout};
use super::message::{FlowAmounts, Observation, Record};
use super::reason::{Excerpt, RecordError, Skip, TimeFault};
use super::time::{self, FieldTime};
use super::value::{self, Unit};

/// A value of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<'a> {
    /// No value.
    Null,
    /// A text, as in CSV: of a number, an address, or a date and time.
    Text(&'a str),
    /// A whole number.
    Integer(i128),
    /// A number with a fraction.
    Float(f64),
    /// An address as its bytes, 4 or 16.
    Binary(&'a [u8]),
    /// A text, or an address as its bytes.
    Bytes(&'a [u8]),
    /// A moment, in nanoseconds since 1970.
    Moment(i128),
    /// A date and time without a zone, in nanoseconds since 1970 as if of UTC.
    LocalMoment(i128),
}

/// The values of a row, by the numbers of [`Layout::columns`].
pub trait Cells {
    /// Returns a value.
    fn cell(&self, number: usize) -> Cell<'_>;
}

impl<'a> Cell<'a> {
    /// Returns the value as a text, if it is one.
    fn text(&self) -> Option<&'a str> {
        match self {
            Cell::Text(text) => Some(text),
            Cell::Bytes(bytes) => str::from_utf8(bytes.trim_ascii()).ok(),
            _ => None,
        }
    }

    fn excerpt(&self) -> Excerpt {
        match self {
            Cell::Integer(number) => Excerpt::new(&number.to_string()),
            Cell::Float(number) => Excerpt::new(&number.to_string()),
            Cell::Moment(nanos) | Cell::LocalMoment(nanos) => Excerpt::new(&format!("{nanos} ns")),
            _ => Excerpt::new(self.text().unwrap_or("(bytes)")),
        }
    }
}

/// Returns the address with these bytes: of 16 bytes one of IPv4, too, as programs keep both in one column.
fn binary(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
        16 => {
            let address = Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?);
            Some(address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4))
        }
        _ => None,
    }
}

/// Whether some program writes this text for an absent address.
fn is_no_address(text: &str) -> bool {
    value::is_placeholder(text) || text == "invalid IP"
}

impl Layout {
    /// Reads a row. Times without a zone are of this one.
    #[inline]
    pub fn read(&self, row: &impl Cells, zone: &TimeZone) -> Observation {
        self.record(row, zone).unwrap_or_else(Observation::Bad)
    }

    fn record(&self, row: &impl Cells, zone: &TimeZone) -> Result<Observation, RecordError> {
        let source = self.address(row, Field::Source)?;
        let destination = self.address(row, Field::Destination)?;
        let (source, destination) = match (source, destination) {
            (Some(source), Some(destination)) => (source, destination),
            (None, None) => return Ok(Observation::Skipped(Skip::NotIp)),
            (None, _) => return Err(missing(Field::Source)),
            (_, None) => return Err(missing(Field::Destination)),
        };
        let pair = Pair::new(source, destination).ok_or(RecordError::MixedFamily)?;
        let amounts = FlowAmounts {
            packets: self.amount(row, Field::Packets)?,
            bytes: self.amount(row, Field::Bytes)?,
        };
        let sampling = || self.amount(row, Field::Sampling);
        let Some(volume) = amounts.volume(Field::Bytes.name(), sampling)? else {
            return Ok(Observation::Skipped(Skip::NoTraffic));
        };
        let record = Record { time_ms: self.time(row, zone)?, pair, volume };
        Ok(amounts.observation(record))
    }

    fn address(&self, row: &impl Cells, field: Field) -> Result<Option<IpAddr>, RecordError> {
        for candidate in self.of_field(field) {
            let cell = row.cell(candidate.cell);
            let address = match cell {
                Cell::Null => continue,
                Cell::Text(text) => text.parse().ok(),
                // Hardly any address has bytes that are the text of another one.
                Cell::Bytes(bytes) if bytes.len() == 4 => binary(bytes),
                Cell::Bytes(bytes) => {
                    cell.text().and_then(|text| text.parse().ok()).or(binary(bytes))
                }
                Cell::Binary(bytes) => binary(bytes),
                // Databases keep an IPv4 address as its number.
                Cell::Integer(number) => {
                    u32::try_from(number).ok().map(|bits| Ipv4Addr::from(bits).into())
                }
                Cell::Float(_) | Cell::Moment(_) | Cell::LocalMoment(_) => None,
            };
            match address {
                Some(address) => return Ok(Some(address)),
                None if cell.text().is_some_and(is_no_address) => {}
                None => return Err(RecordError::BadAddress { field: field.name() }),
            }
        }
        Ok(None)
    }

    fn amount(&self, row: &impl Cells, field: Field) -> Result<Option<u64>, RecordError> {
        let bad = RecordError::BadNumber { field: field.name() };
        for candidate in self.of_field(field) {
            let cell = row.cell(candidate.cell);
            let amount = match cell {
                Cell::Null => None,
                Cell::Text(text) => value::amount_of(text, field.name())?,
                Cell::Bytes(_) => value::amount_of(cell.text().ok_or(bad)?, field.name())?,
                Cell::Integer(number) if number < 0 => return Err(bad),
                Cell::Integer(number) => {
                    Some(u64::try_from(number).map_err(|_| RecordError::TooLarge)?)
                }
                // Of pandas, which has no whole numbers where some are absent.
                Cell::Float(number) if number.is_nan() => None,
                Cell::Float(number) if number < 0.0 || number.fract() != 0.0 => return Err(bad),
                Cell::Float(number) if number >= u64::MAX as f64 => {
                    return Err(RecordError::TooLarge);
                }
                Cell::Float(number) => Some(number as u64),
                Cell::Binary(_) | Cell::Moment(_) | Cell::LocalMoment(_) => return Err(bad),
            };
            if amount.is_some() {
                return Ok(amount);
            }
        }
        Ok(None)
    }

    fn time(&self, row: &impl Cells, zone: &TimeZone) -> Result<u64, RecordError> {
        let name = Field::Time.name();
        for candidate in self.of_field(Field::Time) {
            let cell = row.cell(candidate.cell);
            let unit = |number: i128| candidate.unit.unwrap_or_else(|| Unit::of_size(number));
            let time = match cell {
                Cell::Null => FieldTime::Absent,
                Cell::Text(_) | Cell::Bytes(_) => match cell.text() {
                    Some(text) => time::of_text(text, candidate.unit, zone),
                    None => FieldTime::Bad(TimeFault::Unreadable),
                },
                Cell::Integer(number) => time::of_integer(number, unit(number)),
                Cell::Float(number) if number.is_nan() => FieldTime::Absent,
                Cell::Float(number) => time::of_float(number, unit(number as i128)),
                Cell::Moment(nanos) => time::of_integer(nanos, Unit::Nanoseconds),
                Cell::LocalMoment(nanos) => match time::in_zone(nanos, zone) {
                    Some(nanos) => time::of_integer(nanos, Unit::Nanoseconds),
                    None => FieldTime::Bad(TimeFault::OutOfRange),
                },
                Cell::Binary(_) => FieldTime::Bad(TimeFault::Unreadable),
            };
            match time {
                FieldTime::At(ms) => return Ok(ms),
                FieldTime::Absent => {}
                FieldTime::Bad(fault) => {
                    return Err(RecordError::BadTime { field: name, value: cell.excerpt(), fault });
                }
            }
        }
        Err(missing(Field::Time))
    }
}

fn missing(field: Field) -> RecordError {
    RecordError::MissingField { field: field.name() }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Row<'a>(Vec<Cell<'a>>);

    impl Cells for Row<'_> {
        fn cell(&self, number: usize) -> Cell<'_> {
            self.0[number]
        }
    }

    /// Reads a row of a table with some columns of each field.
    fn read(cells: &[Cell<'_>]) -> Observation {
        let names = ["time", "ts", "src", "src6", "dst", "dst6", "bytes", "packets", "sampling"];
        let chosen = [
            "time=time",
            "time=ts:ms",
            "source=src",
            "source=src6",
            "destination=dst",
            "destination=dst6",
        ]
        .map(|column| column.parse().expect("a column"));
        let layout = Layout::of(&names, &chosen).expect("a layout");
        let mut ordered = vec![Cell::Null; names.len()];
        for (to, column) in ordered.iter_mut().zip(layout.columns()) {
            *to = cells.get(*column).copied().unwrap_or(Cell::Null);
        }
        layout.read(&Row(ordered), &TimeZone::fixed(jiff::tz::offset(2)))
    }

    const TIME: Cell<'_> = Cell::Moment(1_714_554_000_250_000_000);
    const FOUR: Cell<'_> = Cell::Text("10.0.0.1");

    fn row<'a>(time: Cell<'a>, addresses: [Cell<'a>; 4], amounts: [Cell<'a>; 3]) -> [Cell<'a>; 9] {
        let ([a, b, c, d], [bytes, packets, sampling]) = (addresses, amounts);
        [time, Cell::Null, a, b, c, d, bytes, packets, sampling]
    }

    fn shown(row: &[Cell<'_>]) -> String {
        match read(row) {
            Observation::Record(record) => text(record),
            Observation::WithoutPackets(record) => format!("{} no packets", text(record)),
            Observation::Skipped(skip) => skip.as_str().to_owned(),
            Observation::Bad(reason) => reason.to_string(),
        }
    }

    fn text(Record { time_ms, pair, volume }: Record) -> String {
        let (source, destination) = (pair.source(), pair.destination());
        format!("{time_ms} {source} {destination} {} {}", volume.bytes, volume.packets)
    }

    #[test]
    fn addresses_in_any_form_are_read() {
        let four = [10, 0, 0, 1];
        let mapped = std::net::Ipv4Addr::from(four).to_ipv6_mapped().octets();
        let six = std::net::Ipv6Addr::LOCALHOST.octets();
        for (cell, expected) in [
            (FOUR, "10.0.0.1"),
            (Cell::Bytes(b"10.0.0.1"), "10.0.0.1"),
            (Cell::Bytes(&four), "10.0.0.1"),
            (Cell::Binary(&four), "10.0.0.1"),
            (Cell::Integer(0x0a00_0001), "10.0.0.1"),
            (Cell::Binary(&mapped), "10.0.0.1"),
            (Cell::Text("::ffff:10.0.0.1"), "::ffff:10.0.0.1"),
            (Cell::Binary(&six), "::1"),
            (Cell::Bytes(&six), "::1"),
        ] {
            let row = row(
                TIME,
                [cell, Cell::Null, cell, Cell::Null],
                [Cell::Integer(5), Cell::Integer(1), Cell::Null],
            );
            assert_eq!(shown(&row), format!("1714554000250 {expected} {expected} 5 1"), "{cell:?}");
        }
        // The first one that is there counts.
        let amounts = [Cell::Integer(5), Cell::Integer(1), Cell::Null];
        let other =
            row(TIME, [Cell::Text(""), Cell::Text("::1"), Cell::Null, Cell::Binary(&six)], amounts);
        assert_eq!(shown(&other), "1714554000250 ::1 ::1 5 1");
        for (cells, expected) in [
            ([Cell::Null, Cell::Text("-"), Cell::Text("invalid IP"), Cell::Null], "not_ip"),
            ([FOUR, Cell::Null, Cell::Null, Cell::Null], "the field \"destination\" is missing"),
            (
                [FOUR, Cell::Null, Cell::Text("10.0.0"), Cell::Null],
                "the field \"destination\" is not an IP address",
            ),
            (
                [FOUR, Cell::Null, Cell::Bytes(&[1, 2, 3]), Cell::Null],
                "the field \"destination\" is not an IP address",
            ),
            (
                [FOUR, Cell::Null, Cell::Integer(-1), Cell::Null],
                "the field \"destination\" is not an IP address",
            ),
            (
                [FOUR, Cell::Null, Cell::Integer(1 << 32), Cell::Null],
                "the field \"destination\" is not an IP address",
            ),
            (
                [FOUR, Cell::Null, Cell::Text("::1"), Cell::Null],
                "source and destination are of different address families",
            ),
        ] {
            assert_eq!(shown(&row(TIME, cells, amounts)), expected);
        }
    }

    #[test]
    fn times_in_any_form_are_read() {
        for (cell, expected) in [
            (Cell::Integer(1_714_554_000), "1714554000000"),
            (Cell::Integer(1_714_554_000_250), "1714554000250"),
            (Cell::Integer(1_714_554_000_250_999), "1714554000250"),
            (Cell::Integer(1_714_554_000_250_999_999), "1714554000250"),
            (Cell::Text("1714554000.25"), "1714554000250"),
            (Cell::Bytes(b"1714554000250"), "1714554000250"),
            // Binary fractions do not have all thousandths.
            (Cell::Float(1_714_554_000.123), "1714554000123"),
            (Cell::Float(1_714_554_000_250.0), "1714554000250"),
            (Cell::Text("2024-05-01T11:00:00.25"), "1714554000250"),
            (Cell::Text("2024-05-01T09:00:00.25Z"), "1714554000250"),
            (Cell::LocalMoment(1_714_561_200_250_000_000), "1714554000250"),
        ] {
            let row = row(
                cell,
                [FOUR, Cell::Null, FOUR, Cell::Null],
                [Cell::Integer(5), Cell::Integer(1), Cell::Null],
            );
            assert_eq!(shown(&row), format!("{expected} 10.0.0.1 10.0.0.1 5 1"), "{cell:?}");
        }
        let amounts = [Cell::Integer(5), Cell::Integer(1), Cell::Null];
        let mut later =
            row(Cell::Text("0000-00-00 00:00:00"), [FOUR, Cell::Null, FOUR, Cell::Null], amounts);
        later[1] = Cell::Integer(5000);
        assert_eq!(shown(&later), "the field \"time\" is missing");
        later[1] = Cell::Integer(86_400_000);
        assert_eq!(shown(&later), "86400000 10.0.0.1 10.0.0.1 5 1");
        for (cell, expected) in [
            (Cell::Null, "the field \"time\" is missing"),
            // Databases have it for an unset time.
            (Cell::Moment(0), "the field \"time\" is missing"),
            (Cell::LocalMoment(7_200_000_000_000), "the field \"time\" is missing"),
            (Cell::Float(f64::NAN), "the field \"time\" is missing"),
            (
                Cell::Text("noon"),
                "the time \"noon\" of the field \"time\" is neither a number nor a date and time",
            ),
            (
                Cell::Binary(&[1, 2, 3, 4]),
                "the time \"(bytes)\" of the field \"time\" is neither a number nor a date and time",
            ),
            (
                Cell::Moment(-1_000_000_000_000_000_000),
                "the time \"-1000000000000000000 ns\" of the field \"time\" is before 1970 or beyond 64 bits of milliseconds",
            ),
            (
                Cell::Float(f64::INFINITY),
                "the time \"inf\" of the field \"time\" is before 1970 or beyond 64 bits of milliseconds",
            ),
        ] {
            assert_eq!(shown(&row(cell, [FOUR, Cell::Null, FOUR, Cell::Null], amounts)), expected);
        }
    }

    #[test]
    fn amounts_in_any_form_are_read() {
        const NONE: Cell<'_> = Cell::Null;
        let number = |number| Cell::Integer(number);
        for (amounts, expected) in [
            ([number(5), number(2), NONE], "5 2"),
            ([Cell::Text("5"), Cell::Text("2.0"), NONE], "5 2"),
            ([Cell::Float(5.0), Cell::Float(2.0), NONE], "5 2"),
            ([number(5), Cell::Float(f64::NAN), NONE], "5 1 no packets"),
            ([Cell::Bytes(b"5"), number(0), NONE], "5 1 no packets"),
            ([number(5), number(2), number(100)], "500 200"),
            ([number(5), number(2), number(0)], "5 2"),
            ([number(0), number(2), NONE], "0 2"),
        ] {
            let row = row(TIME, [FOUR, NONE, FOUR, NONE], amounts);
            assert_eq!(
                shown(&row),
                format!("1714554000250 10.0.0.1 10.0.0.1 {expected}"),
                "{amounts:?}"
            );
        }
        let not_whole = "the field \"bytes\" is not a whole number of zero or more";
        let too_large = "the record has more than 2^40 bytes or packets, sampling included";
        for (amounts, expected) in [
            ([number(0), number(0), NONE], "no_traffic"),
            ([NONE, number(2), NONE], "the field \"bytes\" is missing"),
            ([number(-1), number(2), NONE], not_whole),
            ([Cell::Float(0.5), number(2), NONE], not_whole),
            ([Cell::Float(-1.0), number(2), NONE], not_whole),
            ([Cell::Text("five"), number(2), NONE], not_whole),
            ([Cell::Bytes(&[0xff]), number(2), NONE], not_whole),
            ([TIME, number(2), NONE], not_whole),
            ([number(i128::MAX), number(2), NONE], too_large),
            ([Cell::Float(1e300), number(2), NONE], too_large),
            ([number(1 << 41), number(2), NONE], too_large),
            ([number(1 << 39), number(2), number(4)], too_large),
        ] {
            assert_eq!(
                shown(&row(TIME, [FOUR, NONE, FOUR, NONE], amounts)),
                expected,
                "{amounts:?}"
            );
        }
    }
}
