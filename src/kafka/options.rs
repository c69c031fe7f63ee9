//! The options of users for librdkafka, and the settings of every client.
//!
//! Options come from the command line (`-X key=value`, `-X key=@file`) and from the environment
//! (`FLOODMARK_KAFKA_SASL_PASSWORD` is `sasl.password`); the command line wins. A command line can be read by
//! everyone on the machine, so a secret on it is refused. An option whose value the program depends on is
//! refused, too: it would break a promise in silence.

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

/// The greatest file that holds the value of an option: a chain of certificates fits many times.
const VALUE_FILE_MAX: u64 = 1 << 20;

/// The longest pause before another attempt to connect, unless the user says otherwise.
const RECONNECT_BACKOFF_MAX_MS: u64 = 1000;

/// Options of librdkafka.
#[derive(Clone, Debug, Default)]
pub struct ClientOptions {
    options: Vec<Setting>,
    /// Whether the environment is ignored.
    apart: bool,
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

/// Options that are not for users to set, with the reason: the program sets them, or another option does.
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
        "no message is lost or doubled, which depends on it",
    ),
    (
        &["message.timeout.ms", "delivery.timeout.ms"],
        "a message waits for its broker as long as the command runs",
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
        "floodmark itself knows which partitions it reads, and up to where",
    ),
    (
        &["allow.auto.create.topics"],
        "a mistyped topic must not come into being; see --create-topic",
    ),
    (&["statistics.interval.ms", "log_level", "log.queue"], "logs and metrics come from it"),
    (&["test.mock.num.brokers", "test.mock.broker.rtt"], "it would replace the brokers"),
];

/// Parts of the names of options whose values are secret.
const SECRET: &[&str] = &["password", "passphrase", "secret", "key.pem", "oauthbearer.config"];

pub(super) fn is_secret(key: &str) -> bool {
    SECRET.iter().any(|part| key.contains(part))
}

/// The name of the variable that sets an option.
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

/// Whether librdkafka has this option, and it is for users to set.
fn check_key(key: &str) -> Result<(), String> {
    if let Some((_, why)) = OWNED.iter().find(|(keys, _)| keys.contains(&key)) {
        return Err(format!("{key} is not for you to set: {why}"));
    }
    match conf(key, "") {
        Err((RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, _)) => {
            Err(format!("librdkafka has no option {} (see docs/kafka.md)", Quoted(key)))
        }
        _ => Ok(()),
    }
}

/// Whether librdkafka takes this value.
fn check_value(key: &str, value: &str) -> Result<(), String> {
    conf(key, value).map_err(|(_, why)| match is_secret(key) {
        true => format!("the value of {key} is not taken by librdkafka"),
        false => format!("{key} is not taken by librdkafka: {why}"),
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
    /// Options from texts as they stand after `-X`.
    pub fn new<'a>(settings: impl IntoIterator<Item = &'a str>) -> Result<Self, Failure> {
        let options: Result<_, String> = settings.into_iter().map(str::parse).collect();
        Ok(ClientOptions::of(options.map_err(Error::Option)?))
    }

    /// These options.
    pub fn of(options: Vec<Setting>) -> Self {
        ClientOptions { options, apart: false }
    }

    /// Ignores the environment: for brokers that this program has started itself.
    pub fn apart(self) -> Self {
        ClientOptions { apart: true, ..self }
    }

    /// All options with their values, from this environment too.
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

/// The content of a file, without the ends of lines after it.
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
    let environment = std::env::vars_os().filter(|_| !options.apart);
    let options = options.resolve(environment).map_err(Error::Option)?;
    Ok(base_config(address, &options))
}

fn base_config(address: &Address, options: &BTreeMap<String, String>) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &address.brokers);
    // Brokers name the client by this in their logs, metrics and quotas.
    config.set("client.id", "floodmark");
    // A broker that is back is found within a second; by default it may take ten.
    config.set("reconnect.backoff.max.ms", RECONNECT_BACKOFF_MAX_MS.to_string());
    // Keepalive notices the end of a connection even if no packet announces it.
    config.set("socket.keepalive.enable", "true");
    // librdkafka batches messages itself, so Nagle's algorithm would only delay them.
    config.set("socket.nagle.disable", "true");
    // The statistics tell which brokers are connected.
    config.set("statistics.interval.ms", "1000");
    // The lines of librdkafka's log pass through our context, which filters them by level.
    let verbose = options.contains_key("debug");
    config.set_log_level(if verbose { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Info });
    // librdkafka's producers let a broker create a topic that they ask for, unless they are told not to.
    config.set("allow.auto.create.topics", "false");
    config.extend(options.clone());
    // librdkafka refuses a first pause that is longer than the longest one.
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
    fn options_are_passed_on() {
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
    fn what_is_wrong_is_named() {
        for (option, said) in [
            ("security.protocol", "written KEY=VALUE"),
            ("=1", "written KEY=VALUE"),
            ("sequrity.protocol=ssl", "no option \"sequrity.protocol\""),
            ("security.protocol=tls", "security.protocol"),
            ("fetch.wait.max.ms=soon", "fetch.wait.max.ms"),
            ("acks=1", "no message is lost"),
            ("bootstrap.servers=x", "kafka://"),
            ("enable.auto.commit=true", "not for you to set"),
            ("test.mock.num.brokers=3", "not for you to set"),
            ("sasl.password=hunter2", "FLOODMARK_KAFKA_SASL_PASSWORD"),
            ("ssl.key.pem=hunter2", "FLOODMARK_KAFKA_SSL_KEY_PEM"),
        ] {
            let error = parse(&[option]).expect_err(option);
            assert!(error.contains(said), "{option}: {error}");
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
    fn a_wrong_variable_is_named() {
        for (name, value, said) in [
            ("FLOODMARK_KAFKA_SASL_PASWORD", "hunter2", "no option \"sasl.pasword\""),
            ("FLOODMARK_KAFKA_ACKS", "1", "not for you to set"),
            ("FLOODMARK_KAFKA_SECURITY_PROTOCOL", "tls", "security.protocol"),
        ] {
            let error = ClientOptions::default().resolve(environment(&[(name, value)]));
            let error = error.expect_err(name);
            assert!(error.starts_with(name) && error.contains(said), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn the_page_for_users_has_all_that_is_refused() {
        let page = include_str!("../../docs/kafka.md");
        let owned = OWNED.iter().flat_map(|(keys, _)| *keys);
        for word in owned.chain(SECRET) {
            assert!(page.contains(&format!("`{word}`")), "docs/kafka.md does not name {word}");
        }
    }

    #[test]
    fn an_option_given_twice_is_said() {
        let twice = parse(&["client.id=a", "client.id=b"]).unwrap();
        assert!(twice.resolve([]).expect_err("two values").contains("client.id is given twice"));
        let same = parse(&["client.id=a", "client.id=a"]).unwrap();
        assert_eq!(same.resolve([]).unwrap()["client.id"], "a");
    }
}
