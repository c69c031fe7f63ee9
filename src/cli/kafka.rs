//! The options of the Kafka client.

use crate::kafka::{ClientOptions, Setting};

/// The options that a command passes on to the Kafka client.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(id = "kafka")]
pub struct Args {
    /// An option for the Kafka client librdkafka, such as -X security.protocol=ssl
    ///
    /// KEY=@FILE takes the value from a file. Passwords and keys come from a file, or from the
    /// environment: FLOODMARK_KAFKA_SASL_PASSWORD is sasl.password, and so on for every option.
    #[arg(short = 'X', long = "kafka-option", value_name = "KEY=VALUE")]
    options: Vec<Setting>,
}

impl Args {
    /// Returns the options for the client.
    pub fn client(&self) -> ClientOptions {
        ClientOptions::of(self.options.clone())
    }
}
