//! The values of `--format`.

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::output;
use crate::sniffer::outlet;

impl ValueEnum for output::Format {
    fn value_variants<'a>() -> &'a [Self] {
        &[output::Format::Json, output::Format::Table]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            output::Format::Json => PossibleValue::new("json").help("One JSON object a line"),
            output::Format::Table => {
                PossibleValue::new("table").help("Aligned columns, for people")
            }
        })
    }
}

impl ValueEnum for outlet::Format {
    fn value_variants<'a>() -> &'a [Self] {
        &[outlet::Format::Packed, outlet::Format::Kv, outlet::Format::Json]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            outlet::Format::Packed => PossibleValue::new("packed")
                .help("Many records in one message: compact and fast; only to a topic"),
            outlet::Format::Kv => PossibleValue::new("kv").help(
                "One record a message: the key is source and destination, the value the length",
            ),
            outlet::Format::Json => {
                PossibleValue::new("json").help("One record a message or a line, as a JSON object")
            }
        })
    }
}
