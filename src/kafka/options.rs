//! The options of users for librdkafka, and the settings of every client.
//!
//! Options come from the command line (`-X key=value`, `-X key=@file`) and from the environment
//! (`FLOODMARK_KAFKA_SASL_PASSWORD` is `sasl.password`); the command line wins. A command line can be read by
//! everyone on the machine, so a secret on it is rejected. An option that the program depends on is rejected, too: it
//! would silently break a guarantee.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

use super::{Address, Error};
use crate::base::error::Failure;
use crate::base::quote::Quoted;

/// The prefix of the environment variables that set options.
const VARIABLE_PREFIX: &str = "FLOODMARK_KAFKA_";

/// Greatest size of a file with the value of an option. Chains of certificates are much smaller.
const VALUE_FILE_MAX: u64 = 1 << 20;

/// The default of the longest pause before another attempt to connect.
const RECONNECT_BACKOFF_MAX_MS: u64 = 1000;

/// Options of librdkafka.
#[derive(Clone, Debug, Default)]
pub struct ClientOptions {
    options: Vec<Setting>,
    /// Whether the environment is ignored.
    ignores_environment: bool,
}

/// An option and its value, or the file that holds the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    key: String,
    value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Text(String),
    File(PathBuf),
}

/// Options that users cannot set, with the reason: the program or another option sets them.
const OWNED: &[(&[&str], &str)] = &[
    (&["bootstrap.servers", "metadata.broker.list"], "the address kafka://… names the brokers"),
    (
        &[
            "enable.idempotence",
            "acks",
            "request.required.acks",
            "retries",
            "message.send.max.retries",
            "transactional.id",
            "enable.gapless.guarantee",
        ],
        "delivery without loss and duplicates depends on it",
    ),
    (
        &["message.timeout.ms", "delivery.timeout.ms"],
        "messages wait for their broker as long as the command runs",
    ),
    (
        &[
            "enable.auto.commit",
            "auto.commit.interval.ms",
            "enable.auto.offset.store",
            "auto.offset.reset",
            "enable.partition.eof",
            "group.protocol",
            "group.instance.id",
            "partition.assignment.strategy",
        ],
        "floodmark assigns partitions and tracks offsets itself",
    ),
    (&["allow.auto.create.topics"], "a mistyped name must not create a topic; see --create-topic"),
    (
        &["statistics.interval.ms", "log_level", "log.queue"],
        "floodmark's logs and metrics depend on it",
    ),
    (&["test.mock.num.brokers", "test.mock.broker.rtt"], "it would replace the brokers"),
];

/// Parts of the names of options whose values are secret.
const SECRET: &[&str] = &["password", "passphrase", "secret", "key.pem", "oauthbearer.config"];

pub(super) fn is_secret(key: &str) -> bool {
    SECRET.iter().any(|part| key.contains(part))
}

/// Returns the name of the environment variable of an option.
fn variable(key: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", key.to_ascii_uppercase().replace('.', "_"))
}

impl FromStr for Setting {
    type Err = String;

    /// Reads `KEY=VALUE`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        if key.is_empty() || !text.contains('=') {
            // The text is not repeated in the error: it may be a secret whose key was forgotten.
            return Err("an option for librdkafka is written KEY=VALUE".into());
        }
        check_key(key)?;
        let value = match value.strip_prefix('@') {
            Some(path) => Value::File(path.into()),
            None if is_secret(key) && !value.is_empty() => {
                return Err(format!(
                    "everyone on this machine can read a command line: give {key} as -X {key}=@FILE, or \
                     in the environment as {}",
                    variable(key)
                ));
            }
            None => {
                check_value(key, value)?;
                Value::Text(value.into())
            }
        };
        Ok(Setting { key: key.into(), value })
    }
}

/// Checks that librdkafka has this option, and that users may set it.
fn check_key(key: &str) -> Result<(), String> {
    if let Some((_, why)) = OWNED.iter().find(|(keys, _)| keys.contains(&key)) {
        return Err(format!("{key} cannot be set by users: {why}"));
    }
    match conf(key, "") {
        Err((RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, _)) => {
            Err(format!("librdkafka has no option {} (see docs/kafka.md)", Quoted(key)))
        }
        _ => Ok(()),
    }
}

/// Checks that librdkafka accepts this value.
fn check_value(key: &str, value: &str) -> Result<(), String> {
    conf(key, value).map_err(|(_, why)| match is_secret(key) {
        true => format!("librdkafka rejects the value of {key}"),
        false => format!("librdkafka rejects the value of {key}: {why}"),
    })
}

fn conf(key: &str, value: &str) -> Result<(), (RDKafkaConfRes, String)> {
    match ClientConfig::new().set(key, value).create_native_config() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(result, why, ..)) => Err((result, why)),
        Err(other) => Err((RDKafkaConfRes::RD_KAFKA_CONF_INVALID, other.to_string())),
    }
}

impl ClientOptions {
    /// Parses options, each as after `-X`.
    pub fn new<'a>(settings: impl IntoIterator<Item = &'a str>) -> Result<Self, Failure> {
        let options: Result<_, String> = settings.into_iter().map(str::parse).collect();
        Ok(ClientOptions::of(options.map_err(Error::Option)?))
    }

    /// Creates options from parsed settings.
    pub fn of(options: Vec<Setting>) -> Self {
        ClientOptions { options, ignores_environment: false }
    }

    /// Ignores the environment: for brokers that this program has started itself.
    pub fn ignore_environment(self) -> Self {
        ClientOptions { ignores_environment: true, ..self }
    }

    /// Returns all options with their values, including those from this environment.
    fn resolve(
        &self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<BTreeMap<String, String>, String> {
        let mut resolved = BTreeMap::new();
        for (name, value) in environment {
            let name = name.to_string_lossy();
            let Some(key) = name.strip_prefix(VARIABLE_PREFIX) else { continue };
            // An empty variable sets nothing, so that a file of variables can leave options out.
            if value.is_empty() {
                continue;
            }
            let key = key.to_ascii_lowercase().replace('_', ".");
            let in_variable = |why| format!("{name} in the environment: {why}");
            let value = value.to_str().ok_or_else(|| in_variable("it is not UTF-8".into()))?;
            check_key(&key).and_then(|()| check_value(&key, value)).map_err(in_variable)?;
            resolved.insert(key, value.to_owned());
        }
        let mut given = BTreeMap::new();
        for Setting { key, value } in &self.options {
            let value = match value {
                Value::Text(text) => text.clone(),
                Value::File(path) => {
                    let text = from_file(path).map_err(|why| format!("-X {key}: {why}"))?;
                    check_value(key, &text)?;
                    text
                }
            };
            if given.insert(key.clone(), value.clone()).is_some_and(|before| before != value) {
                return Err(format!("-X {key} is given twice, with different values"));
            }
        }
        resolved.extend(given);
        Ok(resolved)
    }
}

/// Reads a file without its trailing line ends.
fn from_file(path: &Path) -> Result<String, String> {
    let shown = Quoted(&path.to_string_lossy()).to_string();
    let length = fs::metadata(path).map_err(|error| format!("reading {shown}: {error}"))?.len();
    if length > VALUE_FILE_MAX {
        return Err(format!("{shown} is too large to be the value of an option"));
    }
    let text = fs::read_to_string(path).map_err(|error| format!("reading {shown}: {error}"))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Returns the settings of every client of a topic; producers and consumers add their own.
pub fn client_config(address: &Address, options: &ClientOptions) -> Result<ClientConfig, Failure> {
    let environment = std::env::vars_os().filter(|_| !options.ignores_environment);
    let options = options.resolve(environment).map_err(Error::Option)?;
    Ok(base_config(address, &options))
}

fn base_config(address: &Address, options: &BTreeMap<String, String>) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &address.brokers);
    // Brokers name the client by this in their logs, metrics and quotas.
    config.set("client.id", "floodmark");
    // The client reconnects within a second to a broker that is up again; by default it may take ten.
    config.set("reconnect.backoff.max.ms", RECONNECT_BACKOFF_MAX_MS.to_string());
    // Keepalive notices the end of a connection even if no packet announces it.
    config.set("socket.keepalive.enable", "true");
    // librdkafka batches messages itself, so Nagle's algorithm would only delay them.
    config.set("socket.nagle.disable", "true");
    // The statistics contain the states of connections.
    config.set("statistics.interval.ms", "1000");
    // The lines of librdkafka's log pass through our context, which filters them by level.
    let verbose = options.contains_key("debug");
    config.set_log_level(if verbose { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Info });
    // By default, librdkafka's producers let a broker create a topic that they request.
    config.set("allow.auto.create.topics", "false");
    config.extend(options.clone());
    // librdkafka rejects a first pause that is longer than the longest one.
    if let Some(first) = options.get("reconnect.backoff.ms")
        && !options.contains_key("reconnect.backoff.max.ms")
        && first.parse().is_ok_and(|first: u64| first > RECONNECT_BACKOFF_MAX_MS)
    {
        config.set("reconnect.backoff.max.ms", first);
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Result<ClientOptions, String> {
        let options: Result<_, String> = options.iter().map(|option| option.parse()).collect();
        options.map(ClientOptions::of)
    }

    fn environment(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        variables.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    #[test]
    fn options_are_passed_to_librdkafka() {
        let words = ["security.protocol=ssl", "client.id=a=b"];
        let resolved = parse(&words).unwrap().resolve(environment(&[])).unwrap();
        let address = "kafka://host/t".parse().unwrap();
        let config = base_config(&address, &resolved);
        assert_eq!(config.get("security.protocol"), Some("ssl"));
        assert_eq!(config.get("client.id"), Some("a=b"));
        assert_eq!(config.get("bootstrap.servers"), Some("host:9092"));
        assert!(matches!(config.log_level, RDKafkaLogLevel::Info));
        config.create_native_config().expect("librdkafka takes it");
    }

    #[test]
    fn invalid_option_is_rejected_with_its_name() {
        for (option, expected) in [
            ("security.protocol", "written KEY=VALUE"),
            ("=1", "written KEY=VALUE"),
            ("sequrity.protocol=ssl", "no option \"sequrity.protocol\""),
            ("security.protocol=tls", "security.protocol"),
            ("fetch.wait.max.ms=soon", "fetch.wait.max.ms"),
            ("acks=1", "without loss"),
            ("bootstrap.servers=x", "kafka://"),
            ("enable.auto.commit=true", "cannot be set by users"),
            ("test.mock.num.brokers=3", "cannot be set by users"),
            ("sasl.password=hunter2", "FLOODMARK_KAFKA_SASL_PASSWORD"),
            ("ssl.key.pem=hunter2", "FLOODMARK_KAFKA_SSL_KEY_PEM"),
        ] {
            let error = parse(&[option]).expect_err(option);
            assert!(error.contains(expected), "{option}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn secrets_come_from_files_and_the_environment() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        fs::write(&path, "from file\n").unwrap();
        let option = format!("sasl.password=@{}", path.display());
        let variables = environment(&[
            ("FLOODMARK_KAFKA_SASL_PASSWORD", "@from environment"),
            ("FLOODMARK_KAFKA_SASL_USERNAME", "user"),
            ("FLOODMARK_KAFKA_CLIENT_ID", ""),
            ("FLOODMARK_WINDOW", "1m"),
            ("HOME", "/"),
        ]);
        let resolved = ClientOptions::default().resolve(variables.clone()).unwrap();
        assert_eq!(resolved["sasl.password"], "@from environment");
        assert_eq!(resolved["sasl.username"], "user");
        assert_eq!(resolved.len(), 2);
        let options = parse(&[&option]).unwrap();
        assert_eq!(options.resolve(variables).unwrap()["sasl.password"], "from file");
        fs::remove_file(path).unwrap();
        let error = options.resolve([]).expect_err("the file is gone");
        assert!(error.contains("-X sasl.password: reading"), "{error}");
    }

    #[test]
    fn invalid_variable_is_rejected_with_its_name() {
        for (name, value, expected) in [
            ("FLOODMARK_KAFKA_SASL_PASWORD", "hunter2", "no option \"sasl.pasword\""),
            ("FLOODMARK_KAFKA_ACKS", "1", "cannot be set by users"),
            ("FLOODMARK_KAFKA_SECURITY_PROTOCOL", "tls", "security.protocol"),
        ] {
            let error = ClientOptions::default().resolve(environment(&[(name, value)]));
            let error = error.expect_err(name);
            assert!(error.starts_with(name) && error.contains(expected), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn kafka_page_names_all_rejected_options() {
        let page = include_str!("../../docs/kafka.md");
        let owned = OWNED.iter().flat_map(|(keys, _)| *keys);
        for word in owned.chain(SECRET) {
            assert!(page.contains(&format!("`{word}`")), "docs/kafka.md does not name {word}");
        }
    }

    #[test]
    fn option_given_twice_with_different_values_is_rejected() {
        let twice = parse(&["client.id=a", "client.id=b"]).unwrap();
        assert!(twice.resolve([]).expect_err("two values").contains("client.id is given twice"));
        let same = parse(&["client.id=a", "client.id=a"]).unwrap();
        assert_eq!(same.resolve([]).unwrap()["client.id"], "a");
    }
}
