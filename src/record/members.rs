//! The members of a JSON object, one by one.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::reason::RecordError;

/// Calls `each` with the members of an object in their order, up to the first error.
pub(super) fn for_each_member<'a>(
    object: &'a str,
    each: impl FnMut(&str, &'a str) -> Result<(), RecordError>,
) -> Result<(), RecordError> {
    let mut outcome = Ok(());
    let members = Members { each, outcome: &mut outcome };
    serde_json::Deserializer::from_str(object)
        .deserialize_map(members)
        .map_err(|_| RecordError::UnknownFormat)?;
    outcome
}

struct Members<'o, E> {
    each: E,
    outcome: &'o mut Result<(), RecordError>,
}

impl<'de, E: FnMut(&str, &'de str) -> Result<(), RecordError>> Visitor<'de> for Members<'_, E> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((Borrowed(name), raw)) = map.next_entry::<Borrowed<'de>, &'de RawValue>()? {
            if self.outcome.is_ok() {
                *self.outcome = (self.each)(&name, raw.get());
            }
        }
        Ok(())
    }
}

/// A name that is copied only if it is written with escapes.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);
