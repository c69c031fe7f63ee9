//! The columns of a table that hold the fields of its records: named by the user, or known by the names that tools
//! give them.

use std::fmt;
use std::str::FromStr;

use super::value::Unit;
use crate::base::quote::Quoted;

/// A field of the records of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Field {
    /// The event time.
    Time,
    /// The address of the source.
    Source,
    /// The address of the destination.
    Destination,
    /// The bytes.
    Bytes,
    /// The packets.
    Packets,
    /// The sampling factor, by which bytes and packets are multiplied.
    Sampling,
}

impl Field {
    const ALL: [Field; 6] = [
        Field::Time,
        Field::Source,
        Field::Destination,
        Field::Bytes,
        Field::Packets,
        Field::Sampling,
    ];

    /// Those that each record has.
    const REQUIRED: [Field; 4] = [Field::Time, Field::Source, Field::Destination, Field::Bytes];

    /// Returns the name of the field, in options and errors.
    pub(super) fn name(self) -> &'static str {
        match self {
            Field::Time => "time",
            Field::Source => "source",
            Field::Destination => "destination",
            Field::Bytes => "bytes",
            Field::Packets => "packets",
            Field::Sampling => "sampling",
        }
    }

    /// The names of the field in the order of reading, as [`plain`] has them. Times: ends, moments, arrivals, starts.
    /// Bytes are those of IP packets: no name of a frame's length is here.
    fn names(self) -> &'static [&'static str] {
        match self {
            Field::Time => &[
                "te",
                "timeflowendns",
                "timeflowendms",
                "timeflowend",
                "flowendnanoseconds",
                "flowendmicroseconds",
                "flowendmilliseconds",
                "flowendseconds",
                "flowendtime",
                "flowend",
                "timestampend",
                "timestampmax",
                "timeend",
                "endtime",
                "end",
                "lastseen",
                "last",
                "tlast",
                "time",
                "eventtime",
                "timestamp",
                "datetime",
                "frametimeepoch",
                "timereceivedns",
                "timereceived",
                "timestamparrival",
                "received",
                "treceived",
                "timeflowstartns",
                "timeflowstartms",
                "timeflowstart",
                "flowstartnanoseconds",
                "flowstartmicroseconds",
                "flowstartmilliseconds",
                "flowstartseconds",
                "flowstarttime",
                "flowstart",
                "timestampstart",
                "timestampmin",
                "timestart",
                "starttime",
                "start",
                "firstseen",
                "first",
                "tfirst",
                "ts",
                "stampinserted",
            ],
            Field::Source => &[
                "source",
                "src",
                "sourceaddress",
                "sourceaddr",
                "sourceip",
                "srcaddress",
                "srcaddr",
                "srcip",
                "srcipaddr",
                "ipsrc",
                "saddr",
                "sa",
                "sip",
                "src4addr",
                "sourceipv4address",
                "ipv6src",
                "src6addr",
                "sourceipv6address",
            ],
            Field::Destination => &[
                "destination",
                "dst",
                "dest",
                "destinationaddress",
                "destinationaddr",
                "destinationip",
                "dstaddress",
                "dstaddr",
                "dstip",
                "dstipaddr",
                "destip",
                "destaddr",
                "ipdst",
                "daddr",
                "da",
                "dip",
                "dst4addr",
                "destinationipv4address",
                "ipv6dst",
                "dst6addr",
                "destinationipv6address",
            ],
            Field::Bytes => &[
                "bytes",
                "bytecount",
                "inbytes",
                "ibyt",
                "octets",
                "inoctets",
                "octetdeltacount",
                "doctets",
                "iplen",
            ],
            Field::Packets => &[
                "packets",
                "packetcount",
                "inpackets",
                "pkts",
                "inpkts",
                "ipkt",
                "packetdeltacount",
                "dpkts",
            ],
            Field::Sampling => &["samplingrate", "samplinginterval", "sampling"],
        }
    }
}

/// Returns a name as it is compared: its letters and digits, in lower case.
fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// The unit that a name of a time states at its end.
fn stated_unit(plain: &str) -> Option<Unit> {
    const ENDS: [(&str, Unit); 7] = [
        ("nanoseconds", Unit::Nanoseconds),
        ("microseconds", Unit::Microseconds),
        ("milliseconds", Unit::Milliseconds),
        ("seconds", Unit::Seconds),
        ("ns", Unit::Nanoseconds),
        ("us", Unit::Microseconds),
        ("ms", Unit::Milliseconds),
    ];
    ENDS.iter().find(|(end, _)| plain.ends_with(end)).map(|(_, unit)| *unit)
}

/// The unit that a name states which the user has given: `…_ms`, `…Milliseconds`.
fn written_unit(name: &str) -> Option<Unit> {
    let is_word = name.to_lowercase().ends_with("seconds");
    let is_symbol =
        name.rsplit_once('_').is_some_and(|(_, unit)| unit != "s" && Unit::parse(unit).is_some());
    (is_word || is_symbol).then(|| stated_unit(&plain(name))).flatten()
}

/// A column that holds a field, as the user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    field: Field,
    name: String,
    unit: Option<Unit>,
}

/// The reason why the name of a column is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ColumnError {
    /// There is no field, or no name.
    #[error("\"{text}\" does not name a column; write FIELD=COLUMN, such as source=src_ip")]
    Shape {
        /// The whole text.
        text: String,
    },
    /// The field is unknown.
    #[error(
        "unknown field \"{field}\"; the fields are time, source, destination, bytes, packets and sampling"
    )]
    UnknownField {
        /// The name of the field.
        field: String,
    },
}

impl FromStr for Column {
    type Err = ColumnError;

    fn from_str(text: &str) -> Result<Self, ColumnError> {
        let shape = || ColumnError::Shape { text: text.to_owned() };
        let (field, name) = text.split_once('=').ok_or_else(shape)?;
        let (field, name) = (field.trim(), name.trim());
        let unknown = || ColumnError::UnknownField { field: field.to_owned() };
        let field = *Field::ALL.iter().find(|known| known.name() == field).ok_or_else(unknown)?;
        // Other names may have a colon, too.
        let unit = match name.rsplit_once(':') {
            Some((name, unit)) if field == Field::Time => {
                Unit::parse(unit).map(|unit| (name, unit))
            }
            _ => None,
        };
        let (name, unit) = unit.map_or((name, None), |(name, unit)| (name, Some(unit)));
        if name.is_empty() {
            return Err(shape());
        }
        Ok(Column { field, name: name.to_owned(), unit })
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.field.name(), self.name)?;
        self.unit.map_or(Ok(()), |unit| write!(f, ":{}", unit.symbol()))
    }
}

/// The reason why the columns of a table can't be read as records.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A column that the user names is not there.
    #[error("has no column \"{name}\" for the {field} (--columns); it has {columns}")]
    NoSuchColumn {
        /// The field.
        field: &'static str,
        /// The name.
        name: String,
        /// The columns that are there.
        columns: ColumnNames,
    },
    /// No column has a known name of a field.
    #[error("has no column for the {field}; name it by --columns {field}=COLUMN; it has {columns}")]
    NoColumn {
        /// The field.
        field: &'static str,
        /// The columns that are there.
        columns: ColumnNames,
    },
    /// Several columns have the name that the user gives.
    #[error("has several columns \"{name}\", of which one is to be the {field} (--columns)")]
    SameName {
        /// The field.
        field: &'static str,
        /// The name.
        name: String,
    },
    /// Several columns have a known name of a field.
    #[error(
        "has several columns \"{name}\" for the {field}; name another one by --columns {field}=COLUMN"
    )]
    Ambiguous {
        /// The field.
        field: &'static str,
        /// The name.
        name: String,
    },
}

impl LayoutError {
    /// Whether it is a fault of the user's names, and not of the table.
    pub fn is_by_name(&self) -> bool {
        matches!(self, LayoutError::NoSuchColumn { .. } | LayoutError::SameName { .. })
    }
}

/// The names of columns, of which an error shows the first ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnNames(Vec<String>);

impl fmt::Display for ColumnNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Most columns that are shown, and most characters of each.
        const SHOWN: usize = 20;
        const SHOWN_CHARS: usize = 40;
        for (at, name) in self.0.iter().take(SHOWN).enumerate() {
            let short: String = name.chars().take(SHOWN_CHARS).collect();
            write!(f, "{}{}", if at == 0 { "" } else { ", " }, Quoted(&short))?;
        }
        match self.0.len().checked_sub(SHOWN) {
            Some(more @ 1..) => write!(f, " and {more} more"),
            _ => Ok(()),
        }
    }
}

/// Most columns that may hold one field: of more, the first ones are read.
const CANDIDATES_MAX: usize = 8;

/// A column that may hold a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The number of the column among those that are read.
    pub(super) cell: usize,
    /// The unit of a number that is a time; `None`: its size tells.
    pub(super) unit: Option<Unit>,
}

/// The columns of a table by the fields that they hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The columns that are read, by their numbers in the table.
    read: Vec<usize>,
    /// The columns of each field in the order of reading: the first one with a value counts.
    candidates: [Vec<Candidate>; Field::ALL.len()],
}

impl Layout {
    /// Finds the columns of a table with these names.
    ///
    /// # Errors
    /// A column is missing, or ambiguous.
    pub fn of(names: &[&str], chosen: &[Column]) -> Result<Self, LayoutError> {
        let plain_names: Vec<String> = names.iter().map(|name| plain(name)).collect();
        let all = || ColumnNames(names.iter().map(|name| (*name).to_owned()).collect());
        let mut layout = Layout::default();
        for column in chosen {
            let (field, name) = (column.field.name(), column.name.clone());
            let mut found = (0..names.len()).filter(|at| names[*at] == name);
            let Some(at) = found.next() else {
                return Err(LayoutError::NoSuchColumn { field, name, columns: all() });
            };
            if found.next().is_some() {
                return Err(LayoutError::SameName { field, name });
            }
            layout.add(column.field, at, column.unit.or_else(|| written_unit(&column.name)));
        }
        for field in Field::ALL {
            if !layout.of_field(field).is_empty() {
                continue;
            }
            let name = field.name();
            for known in field.names() {
                let mut found = (0..names.len()).filter(|at| plain_names[*at] == *known);
                let Some(at) = found.next() else { continue };
                if found.next().is_some() {
                    return Err(LayoutError::Ambiguous { field: name, name: names[at].to_owned() });
                }
                layout.add(field, at, stated_unit(known).filter(|_| field == Field::Time));
            }
            if layout.of_field(field).is_empty() && Field::REQUIRED.contains(&field) {
                return Err(LayoutError::NoColumn { field: name, columns: all() });
            }
        }
        Ok(layout)
    }

    fn add(&mut self, field: Field, column: usize, unit: Option<Unit>) {
        if self.of_field(field).len() == CANDIDATES_MAX {
            return;
        }
        let cell = self.read.iter().position(|read| *read == column).unwrap_or_else(|| {
            self.read.push(column);
            self.read.len() - 1
        });
        self.candidates[field as usize].push(Candidate { cell, unit });
    }

    /// Returns the numbers of the columns that are read, in the order of the cells of a row.
    pub fn columns(&self) -> &[usize] {
        &self.read
    }

    pub(super) fn of_field(&self, field: Field) -> &[Candidate] {
        &self.candidates[field as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(text: &str) -> Vec<Column> {
        let parse = |column: &str| column.parse().expect("a column");
        text.split(',').filter(|column| !column.is_empty()).map(parse).collect()
    }

    /// Returns the columns of each field, by name.
    fn found(names: &str, chosen: &str) -> Result<Vec<(&'static str, Vec<String>)>, String> {
        let names: Vec<&str> = names.split(',').collect();
        let layout = Layout::of(&names, &columns(chosen)).map_err(|error| error.to_string())?;
        let name = |at: &Candidate| {
            let unit = at.unit.map_or(String::new(), |unit| format!(":{}", unit.symbol()));
            format!("{}{unit}", names[layout.columns()[at.cell]])
        };
        let fields = Field::ALL.into_iter().map(|field| {
            (field.name(), layout.of_field(field).iter().map(name).collect::<Vec<_>>())
        });
        Ok(fields.filter(|(_, names)| !names.is_empty()).collect())
    }

    fn text(found: &[(&'static str, Vec<String>)]) -> String {
        let fields = found.iter().map(|(field, names)| format!("{field}={}", names.join("+")));
        fields.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn columns_of_tools_are_known_by_their_names() {
        for (names, expected) in [
            (
                "time,source,destination,bytes,packets",
                "time=time source=source destination=destination bytes=bytes packets=packets",
            ),
            // nfdump -o csv.
            (
                "ts,te,td,sa,da,sp,dp,pr,flg,fwd,stos,ipkt,ibyt,opkt,obyt",
                "time=te+ts source=sa destination=da bytes=ibyt packets=ipkt",
            ),
            // pmacct, print_output: csv.
            (
                "SRC_IP,DST_IP,TIMESTAMP_START,TIMESTAMP_END,PACKETS,BYTES",
                "time=TIMESTAMP_END+TIMESTAMP_START source=SRC_IP destination=DST_IP bytes=BYTES packets=PACKETS",
            ),
            // goflow2 in ClickHouse.
            (
                "time_received_ns,time_flow_start_ns,sampling_rate,src_addr,dst_addr,bytes,packets",
                "time=time_received_ns:ns+time_flow_start_ns:ns source=src_addr destination=dst_addr bytes=bytes \
                 packets=packets sampling=sampling_rate",
            ),
            // tshark -T fields -E header=y -E separator=,
            (
                "frame.time_epoch,ip.src,ip.dst,ipv6.src,ipv6.dst,ip.len",
                "time=frame.time_epoch source=ip.src+ipv6.src destination=ip.dst+ipv6.dst bytes=ip.len",
            ),
            (
                "Src IP,Dst IP,Timestamp,Bytes",
                "time=Timestamp source=Src IP destination=Dst IP bytes=Bytes",
            ),
        ] {
            assert_eq!(text(&found(names, "").expect("a layout")), expected);
        }
    }

    #[test]
    fn column_that_the_user_names_counts_alone() {
        let names = "time,first,source,a=b,bytes,size,source:x";
        let chosen = "time=first:ms,destination=a=b,bytes=size,source=source:x";
        let own_units = found("at_us,source,destination,bytes", "time=at_us").expect("a layout");
        assert_eq!(own_units[0].1, ["at_us:us"]);
        let expected = "time=first:ms source=source:x destination=a=b bytes=size";
        assert_eq!(text(&found(names, chosen).expect("a layout")), expected);
        let several = "time=time:s,time=first,destination=a=b";
        let expected = "time=time:s+first source=source destination=a=b bytes=bytes";
        assert_eq!(text(&found(names, several).expect("a layout")), expected);
    }

    #[test]
    fn missing_and_ambiguous_columns_are_named() {
        for (names, chosen, expected) in [
            (
                "time,source,bytes",
                "",
                "has no column for the destination; name it by --columns destination=COLUMN; it has \"time\", \
                 \"source\", \"bytes\"",
            ),
            (
                "time,source,destination,bytes",
                "bytes=octets",
                "has no column \"octets\" for the bytes (--columns); it has \"time\", \"source\", \"destination\", \
                 \"bytes\"",
            ),
            (
                "time,src_ip,Src IP,destination,bytes",
                "",
                "has several columns \"src_ip\" for the source; name another one by --columns source=COLUMN",
            ),
        ] {
            assert_eq!(found(names, chosen).expect_err("a fault"), expected);
        }
        let many: Vec<String> = (0..100).map(|number| format!("c{number}")).collect();
        let fault = found(&many.join(","), "").expect_err("a fault");
        assert!(fault.ends_with("\"c18\", \"c19\" and 80 more"), "{fault}");
    }

    #[test]
    fn name_of_a_column_is_rejected_with_its_fault() {
        for (text, expected) in [
            (
                "source",
                "\"source\" does not name a column; write FIELD=COLUMN, such as source=src_ip",
            ),
            (
                "source=",
                "\"source=\" does not name a column; write FIELD=COLUMN, such as source=src_ip",
            ),
            (
                "time=:ms",
                "\"time=:ms\" does not name a column; write FIELD=COLUMN, such as source=src_ip",
            ),
            (
                "src=a",
                "unknown field \"src\"; the fields are time, source, destination, bytes, packets and sampling",
            ),
        ] {
            assert_eq!(text.parse::<Column>().expect_err("a fault").to_string(), expected);
        }
        for text in ["time=a", "time=a:us", "time=a:min", "bytes=a:ms"] {
            assert_eq!(text.parse::<Column>().expect("a column").to_string(), text);
        }
    }
}
