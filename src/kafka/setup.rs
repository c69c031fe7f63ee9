//! Clients that librdkafka refuses to create: names the option at fault, its value, and the remedy.
//!
//! librdkafka accepts each option on its own and checks their combination, the files that they name, and
//! the credentials when a client is created. Its texts name an option at best.

use std::fmt::Write as _;
use std::fs::File;

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::KafkaError;

use super::Error;
use super::options::is_secret;
use crate::base::quote::Quoted;
use crate::base::threads;

/// Options whose values are names of files or directories.
const FILES: &[&str] = &[
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.keystore.location",
    "ssl.crl.location",
    "https.ca.location",
];

/// The password options of files that can be read but not decrypted.
const PASSWORDS: &[(&str, &str)] = &[
    ("ssl.key.location", "ssl.key.password"),
    ("ssl.key.pem", "ssl.key.password"),
    ("ssl.keystore.location", "ssl.keystore.password"),
];

/// Threads of a client beside those for brokers: its main thread, and one for the coordinator of the group.
const CLIENT_THREADS: usize = 2;

/// Creates a client with this configuration.
pub(super) fn create<C, T>(config: &ClientConfig, context: C) -> Result<T, Error>
where
    C: ClientContext,
    T: FromClientConfigAndContext<C>,
{
    let brokers = config.get("bootstrap.servers").map_or(1, |named| named.split(',').count());
    // Two threads a broker: one for its configured name, and one for its advertised name.
    threads::check_capacity(CLIENT_THREADS + 2 * brokers).map_err(|error| Error::Failed {
        doing: "creating a Kafka client".to_owned(),
        reason: error.to_string(),
    })?;
    config.create_with_context(context).map_err(|error| creation_error(error, config))
}

/// Returns the error of a client that could not be created with this configuration.
fn creation_error(error: KafkaError, config: &ClientConfig) -> Error {
    let reason = match error {
        KafkaError::ClientCreation(reason) | KafkaError::ClientConfig(_, reason, ..) => reason,
        other => other.to_string(),
    };
    // The machine lacks threads or memory: no option helps, and a later start may succeed.
    if reason.contains("create thread") || reason.contains("background thread") {
        let doing = "creating a Kafka client".to_owned();
        return Error::Failed { doing, reason };
    }
    let text = unreadable_file(config)
        .or_else(|| credentials(&reason, config))
        .unwrap_or_else(|| described(&reason, config));
    Error::Client(text)
}

/// Returns the error text for a file of an option that can't be opened, if there is one.
fn unreadable_file(config: &ClientConfig) -> Option<String> {
    FILES.iter().find_map(|option| {
        let path = config.get(option).filter(|path| !path.is_empty() && *path != "probe")?;
        let error = File::open(path).err()?;
        let path = Quoted(path);
        Some(format!(
            "{option} is {path}, which can't be read: {error} (give -X {option} a file that this \
             user may read)"
        ))
    })
}

/// Returns the error text for a missing mechanism or missing credentials, if that is the reason.
fn credentials(reason: &str, config: &ClientConfig) -> Option<String> {
    const MECHANISMS: &str = "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512";
    let protocol = config.get("security.protocol").unwrap_or("plaintext");
    let mechanism = config.get("sasl.mechanism").or_else(|| config.get("sasl.mechanisms"));
    if reason.contains("SASL mechanism") || reason.contains("hash function") {
        return Some(match mechanism {
            None => format!(
                "security.protocol is {protocol} and no mechanism is given (give -X \
                 sasl.mechanism={MECHANISMS}: the one that the brokers have)"
            ),
            Some(mechanism) => format!(
                "sasl.mechanism is {}, which is not built in (give -X sasl.mechanism={MECHANISMS}: \
                 one that the brokers have)",
                Quoted(mechanism)
            ),
        });
    }
    if !reason.contains("sasl.username and sasl.password must be set") {
        return None;
    }
    let lacks = |option: &str| config.get(option).is_none_or(str::is_empty);
    let mut remedies = Vec::new();
    if lacks("sasl.username") {
        remedies.push("-X sasl.username=NAME");
    }
    if lacks("sasl.password") {
        remedies.push("-X sasl.password=@FILE or FLOODMARK_KAFKA_SASL_PASSWORD in the environment");
    }
    Some(format!(
        "sasl.mechanism is {} and needs a user and a password (give {})",
        mechanism.unwrap_or_default(),
        remedies.join(", and ")
    ))
}

/// Returns the text of librdkafka with the values of the options that it names, and the remedy.
fn described(reason: &str, config: &ClientConfig) -> String {
    let mut text = reason.replace('`', "");
    let mut values = Vec::new();
    for word in reason.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '.')) {
        // The end of a sentence is not part of a name.
        let name = word.trim_matches('.');
        let Some(value) = config.get(name).filter(|_| name.contains('.')) else { continue };
        if !values.iter().any(|(known, _)| *known == name) {
            values.push((name, value));
        }
    }
    let shown: Vec<String> = values
        .iter()
        .map(|(name, value)| match is_secret(name) {
            true => format!("{name} is given"),
            false => format!("{name} is {}", Quoted(value)),
        })
        .collect();
    if !shown.is_empty() {
        write!(text, ": {}", shown.join(", ")).expect("a string takes all");
    }
    let password = PASSWORDS.iter().find(|(file, _)| reason.contains(file));
    match (password, values.first()) {
        (Some((_, password)), _) => write!(
            text,
            " (is it a file of the right kind, and is its password given as -X {password}=@FILE?)"
        ),
        (None, Some((name, _))) => write!(text, " (give -X {name} another value)"),
        (None, None) => write!(text, " (see the options -X, and docs/kafka.md)"),
    }
    .expect("a string takes all");
    text
}

#[cfg(test)]
mod tests {
    use rdkafka::consumer::BaseConsumer;
    use rdkafka::producer::BaseProducer;

    use super::*;
    use crate::base::error::Exit;

    type Setting<'a> = (&'a str, &'a str);

    /// Returns the errors of creating a consumer and a producer with these options.
    fn errors(options: &[Setting<'_>]) -> Vec<Error> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", "127.0.0.1:9").set("group.id", "tests");
        config.set("enable.idempotence", "true").set("reconnect.backoff.max.ms", "1000");
        for (name, value) in options {
            config.set(*name, *value);
        }
        let consumer = config.create::<BaseConsumer>().err();
        let producer = config.create::<BaseProducer>().err();
        consumer.into_iter().chain(producer).map(|error| creation_error(error, &config)).collect()
    }

    #[test]
    fn client_that_cannot_be_created_names_option_value_and_remedy() {
        let directory = tempfile::tempdir().expect("a directory");
        let missing = directory.path().join("ca.pem");
        let missing = missing.to_str().expect("a path in UTF-8");
        let broken = directory.path().join("broken.pem");
        std::fs::write(&broken, "no certificate\n").expect("a file");
        let broken = broken.to_str().expect("a path in UTF-8");
        let ssl = ("security.protocol", "ssl");
        let sasl = ("security.protocol", "sasl_plaintext");
        let cases: &[(&[Setting<'_>], &[&str])] = &[
            (
                &[ssl, ("ssl.ca.location", missing)],
                &["ssl.ca.location", missing, "No such file", "give -X ssl.ca.location"],
            ),
            (&[ssl, ("ssl.ca.location", broken)], &["ssl.ca.location", broken, "(give -X"]),
            (
                &[ssl, ("ssl.certificate.location", missing)],
                &["ssl.certificate.location", missing, "No such file"],
            ),
            (
                &[ssl, ("ssl.key.location", broken)],
                &["ssl.key.location", broken, "ssl.key.password"],
            ),
            (
                &[ssl, ("ssl.keystore.location", broken)],
                &["ssl.keystore.location", broken, "ssl.keystore.password=@FILE"],
            ),
            (&[sasl], &["security.protocol is sasl_plaintext", "-X sasl.mechanism=PLAIN"]),
            (
                &[sasl, ("sasl.mechanism", "GSSAPI")],
                &["sasl.mechanism is \"GSSAPI\"", "SCRAM-SHA-512"],
            ),
            (
                &[sasl, ("sasl.mechanism", "PLAIN"), ("sasl.username", "me")],
                &["needs a user and a password", "-X sasl.password=@FILE"],
            ),
            (
                &[sasl, ("sasl.mechanism", "SCRAM-SHA-256"), ("sasl.password", "hunter2")],
                &["SCRAM-SHA-256", "-X sasl.username=NAME"],
            ),
            (
                &[("fetch.max.bytes", "1000"), ("message.max.bytes", "2000")],
                &["fetch.max.bytes is \"1000\"", "message.max.bytes is \"2000\"", "give -X"],
            ),
            (
                &[("fetch.max.bytes", "5000000"), ("receive.message.max.bytes", "2000000")],
                &["receive.message.max.bytes is \"2000000\"", "fetch.max.bytes is \"5000000\""],
            ),
            (&[("max.in.flight", "6")], &["max.in.flight is \"6\"", "<= 5"]),
            (&[("reconnect.backoff.ms", "2000")], &["reconnect.backoff.ms is \"2000\""]),
            (&[("queuing.strategy", "lifo")], &["queuing.strategy is \"lifo\""]),
            (&[("session.timeout.ms", "600000")], &["session.timeout.ms is \"600000\""]),
        ];
        for (options, parts) in cases {
            let errors = errors(options);
            assert!(!errors.is_empty(), "{options:?}");
            for error in errors {
                assert_eq!(error.exit(), Exit::BadConfig, "{options:?}");
                let text = error.to_string();
                for part in *parts {
                    assert!(text.contains(part), "{options:?}: {part}: {text}");
                }
                assert!(!text.contains("hunter2"), "{text}");
            }
        }
    }

    #[test]
    fn missing_threads_are_no_configuration_error() {
        let error = KafkaError::ClientCreation("Failed to create thread: Resource".into());
        assert_eq!(creation_error(error, &ClientConfig::new()).exit(), Exit::Failed);
    }
}
