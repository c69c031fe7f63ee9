//! Chosen fields of the records of a message, by their names in the message.

use std::str::FromStr;

use super::decoder::Decoder;
use super::json;
use super::members::for_each_member;
use super::message::{Format, Message, Observation};
use super::reason::RecordError;
use super::sink::Receiver;

/// Names of the chosen fields, in the order of the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields(Vec<String>);

/// The reason why a list of fields is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldsError {
    /// The list, or a name in it, is empty.
    #[error("empty field name in \"{text}\"; separate names by commas, such as ip_src,bytes")]
    Empty {
        /// The whole list.
        text: String,
    },
    /// A name occurs twice.
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
    /// Those of [`Decoder::decode`].
    pub fn project(
        &self,
        decoder: &Decoder,
        message: &Message<'_>,
        each: &mut impl FnMut(Observation, &[u8]),
    ) -> Result<Option<Format>, RecordError> {
        let mut projection =
            Projection { fields: self, each, own_object: Vec::new(), object: Vec::new() };
        decoder.decode_to(message, &mut projection)
    }

    /// Writes an object with the chosen fields of an object.
    fn write_chosen(&self, source: &str, out: &mut Vec<u8>) -> Result<(), RecordError> {
        let mut values = vec![None; self.0.len()];
        for_each_member(source, |name, raw| {
            if let Some(at) = self.0.iter().position(|field| field == name) {
                // Of members with the same name the last one counts, as in other readers of JSON.
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
            serde_json::to_writer(&mut *out, name).expect("writing to a vector succeeds");
            out.push(b':');
            out.extend_from_slice(value.as_bytes());
        }
        if out.is_empty() {
            // An empty object would hide a mistyped name.
            return Err(RecordError::MissingField { field: "any of the chosen ones" });
        }
        out.push(b'}');
        Ok(())
    }
}

/// Forwards observations with their chosen fields.
struct Projection<'f, 'e, E> {
    fields: &'f Fields,
    each: &'e mut E,
    own_object: Vec<u8>,
    object: Vec<u8>,
}

impl<E: FnMut(Observation, &[u8])> Receiver for Projection<'_, '_, E> {
    const SOURCES: bool = true;

    fn receive(&mut self, read: Observation, source: Option<&str>) {
        let Some(record) = read.record() else {
            (self.each)(read, &[]);
            return;
        };
        let source = match source {
            Some(source) => source,
            None => {
                self.own_object.clear();
                json::write_object(&record, &mut self.own_object);
                str::from_utf8(&self.own_object)
                    .expect("an object of numbers and addresses is text")
            }
        };
        match self.fields.write_chosen(source, &mut self.object) {
            Ok(()) => (self.each)(read, &self.object),
            Err(reason) => (self.each)(Observation::Bad(reason), &[]),
        }
    }
}
