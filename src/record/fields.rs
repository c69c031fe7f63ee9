//! Chosen fields of a message, by the names that they have in it: for those who need only a part of each
//! record.

use std::str::FromStr;

use super::decoder::Decoder;
use super::json;
use super::members::for_each_member;
use super::message::{Format, Message, Read};
use super::reason::Reason;
use super::sink::Take;

/// Names of fields, in the order in which they are to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields(Vec<String>);

/// The reason why a list of fields can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldsError {
    /// A name in it is empty, or the whole list.
    #[error(
        "a field without a name in \"{text}\"; write names with commas between, such as ip_src,bytes"
    )]
    Empty {
        /// The whole list.
        text: String,
    },
    /// A name is there twice.
    #[error("the field \"{name}\" is named twice; name it once")]
    Twice {
        /// The name.
        name: String,
    },
}

impl FromStr for Fields {
    type Err = FieldsError;

    fn from_str(text: &str) -> Result<Self, FieldsError> {
        let mut names: Vec<String> = Vec::new();
        for name in text.split(',').map(str::trim) {
            if name.is_empty() {
                return Err(FieldsError::Empty { text: text.to_owned() });
            }
            if names.iter().any(|other| other == name) {
                return Err(FieldsError::Twice { name: name.to_owned() });
            }
            names.push(name.to_owned());
        }
        Ok(Fields(names))
    }
}

impl Fields {
    /// Reads a message as [`Decoder::decode`] does, and calls `each` with every record and a JSON object of the
    /// chosen fields: those of the object that the record was read from, with their values byte for byte; for a
    /// message that is no JSON, those of floodmark's own format of objects. An absent field is left out. An
    /// observation that is no record comes without an object.
    ///
    /// # Errors
    /// As [`Decoder::decode`].
    pub fn project(
        &self,
        decoder: &Decoder,
        message: &Message<'_>,
        each: &mut impl FnMut(Read, &[u8]),
    ) -> Result<Option<Format>, Reason> {
        let mut projection = Projection { fields: self, each, own: Vec::new(), object: Vec::new() };
        decoder.decode_to(message, &mut projection)
    }

    /// Writes the object of the chosen fields of an object.
    fn choose(&self, source: &str, out: &mut Vec<u8>) -> Result<(), Reason> {
        let mut values = vec![None; self.0.len()];
        for_each_member(source, |name, raw| {
            if let Some(at) = self.0.iter().position(|field| field == name) {
                // Of several members with one name the last one counts, as in other readers of JSON.
                values[at] = Some(raw);
            }
            Ok(())
        })?;
        out.clear();
        for (name, value) in self.0.iter().zip(values) {
            let Some(value) = value else {
                continue;
            };
            out.push(if out.is_empty() { b'{' } else { b',' });
            serde_json::to_writer(&mut *out, name).expect("a vector takes all that is written");
            out.push(b':');
            out.extend_from_slice(value.as_bytes());
        }
        if out.is_empty() {
            // Most likely a mistyped name; an empty object would hide it.
            return Err(Reason::MissingField { field: "any of the chosen ones" });
        }
        out.push(b'}');
        Ok(())
    }
}

/// Passes observations on, with the chosen fields.
struct Projection<'f, 'e, E> {
    fields: &'f Fields,
    each: &'e mut E,
    own: Vec<u8>,
    object: Vec<u8>,
}

impl<E: FnMut(Read, &[u8])> Take for Projection<'_, '_, E> {
    const SOURCES: bool = true;

    fn take(&mut self, read: Read, source: Option<&str>) {
        let Some(record) = read.record() else {
            (self.each)(read, &[]);
            return;
        };
        let source = match source {
            Some(source) => source,
            None => {
                self.own.clear();
                json::write_object(&record, &mut self.own);
                str::from_utf8(&self.own).expect("an object of numbers and addresses is text")
            }
        };
        match self.fields.choose(source, &mut self.object) {
            Ok(()) => (self.each)(read, &self.object),
            Err(reason) => (self.each)(Read::Bad(reason), &[]),
        }
    }
}
