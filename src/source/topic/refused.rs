//! Reasons for rejecting records.

use std::fmt;

use crate::record::RecordError;

/// A reason why a record, or a whole message, does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Refused {
    /// It is unreadable.
    Unread(RecordError),
    /// Its event time is too far in the future.
    Future,
    /// It is too far behind the greatest event time of its partition.
    Past,
    /// Its window ends beyond all times.
    NoWindow,
}

impl Refused {
    /// The label of a metric.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Refused::Unread(reason) => reason.as_str(),
            Refused::Future => "future",
            Refused::Past => "past",
            Refused::NoWindow => "bad_time",
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Unread(reason) => reason.fmt(f),
            Refused::Future => f.write_str("it is further ahead of the clock than --max-ahead"),
            Refused::Past => {
                f.write_str("it is further behind others of its partition than --max-behind")
            }
            Refused::NoWindow => f.write_str("its window ends beyond 64 bits of milliseconds"),
        }
    }
}
