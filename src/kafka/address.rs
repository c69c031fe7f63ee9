//! The address of a topic: `kafka://host:9092,host2/topic`.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use crate::base::quote::Quoted;

/// The prefix of every address.
pub const SCHEME: &str = "kafka://";

/// The port of a broker whose port is not given.
const DEFAULT_PORT: u16 = 9092;

/// Greatest length of a topic name. Kafka uses the name in file names.
const TOPIC_LENGTH_MAX: usize = 249;

/// A topic and its bootstrap brokers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// The brokers as `host:port`, separated by commas.
    pub brokers: String,
    /// The name of the topic.
    pub topic: String,
}

/// The reason why a text is no topic address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The text does not begin with `kafka://`.
    #[error("{} does not begin with kafka:// (write it like kafka://host:9092/topic)", Quoted(.0))]
    Scheme(String),
    /// The text contains a user or a password.
    #[error(
        "an address must not contain a user or a password: give them with -X sasl.username=NAME and \
         -X sasl.password=@FILE, or in the environment as FLOODMARK_KAFKA_SASL_PASSWORD"
    )]
    Credentials,
    /// The text names no topic.
    #[error("{} names no topic (write it like kafka://host:9092/topic)", Quoted(.0))]
    NoTopic(String),
    /// One of the brokers is neither a host nor a host with a port.
    #[error(
        "{} is not a broker (write it like host, host:9092, 192.0.2.1:9092 or [2001:db8::1]:9092)",
        Quoted(.0)
    )]
    Broker(String),
    /// Kafka rejects this topic name.
    #[error(
        "{} is not a topic name (use 1 to 249 characters of a-z, A-Z, 0-9, \".\", \"_\" and \"-\", but not \
         \".\" or \"..\" alone)",
        Quoted(.0)
    )]
    Topic(String),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| {
            // The text before the `@` may be a password, so the error must not repeat it.
            if text.contains('@') {
                AddressError::Credentials
            } else {
                AddressError::Scheme(text.to_owned())
            }
        })?;
        // Checked first, so that no credentials get into an error or a log.
        if rest.contains('@') {
            return Err(AddressError::Credentials);
        }
        let (brokers, topic) = rest.split_once('/').unwrap_or((rest, ""));
        if topic.is_empty() {
            return Err(AddressError::NoTopic(text.to_owned()));
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if topic.len() > TOPIC_LENGTH_MAX
            || matches!(topic, "." | "..")
            || !topic.bytes().all(allowed)
        {
            return Err(AddressError::Topic(topic.to_owned()));
        }
        let brokers: Result<Vec<String>, AddressError> = brokers.split(',').map(broker).collect();
        Ok(Address { brokers: brokers?.join(","), topic: topic.to_owned() })
    }
}

/// Parses a broker, and returns it with its port.
fn broker(text: &str) -> Result<String, AddressError> {
    let bad = || AddressError::Broker(text.to_owned());
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or_else(bad)?;
            let address: Ipv6Addr = address.parse().map_err(|_| bad())?;
            let port = match port.strip_prefix(':') {
                None if port.is_empty() => None,
                None => return Err(bad()),
                Some(port) => Some(port),
            };
            (format!("[{address}]"), port)
        }
        None => {
            let (host, port) = match text.split_once(':') {
                None => (text, None),
                Some((host, port)) => (host, Some(port)),
            };
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            if host.is_empty() || host.len() > 253 || !host.bytes().all(allowed) {
                return Err(bad());
            }
            (host.to_owned(), port)
        }
    };
    let port = match port {
        None => DEFAULT_PORT,
        // Digits only: a number may also begin with a plus sign.
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?
        }
        Some(_) => return Err(bad()),
    };
    Ok(format!("{host}:{port}"))
}

impl Address {
    /// Returns the address with its brokers sorted and without duplicates: the order of brokers makes no
    /// difference to a client.
    pub fn sorted(&self) -> Address {
        let mut brokers: Vec<&str> = self.brokers.split(',').collect();
        brokers.sort_unstable();
        brokers.dedup();
        Address { brokers: brokers.join(","), topic: self.topic.clone() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Address { brokers, topic } = self;
        write!(f, "{SCHEME}{brokers}/{topic}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_are_read_with_default_ports() {
        for (text, brokers, topic) in [
            ("kafka://host/flows", "host:9092", "flows"),
            ("kafka://host:1/a.b_c-D9", "host:1", "a.b_c-D9"),
            ("kafka://a,b:9093,192.0.2.1/t", "a:9092,b:9093,192.0.2.1:9092", "t"),
            ("kafka://[::1]:9094,[2001:DB8::0]/t", "[::1]:9094,[2001:db8::]:9092", "t"),
            ("kafka://my_host.example/...", "my_host.example:9092", "..."),
        ] {
            let address: Address = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((&*address.brokers, &*address.topic), (brokers, topic));
            assert_eq!(address.to_string().parse(), Ok(address));
        }
    }

    #[test]
    fn text_that_is_no_address_is_rejected_with_its_fault() {
        use AddressError::*;
        let long = "t".repeat(TOPIC_LENGTH_MAX + 1);
        for (text, error) in [
            ("host/flows", Scheme("host/flows".into())),
            ("KAFKA://host/flows", Scheme("KAFKA://host/flows".into())),
            ("kafka://user:secret@host/t", Credentials),
            ("kafkas://user:secret@host/t", Credentials),
            ("kafka://host", NoTopic("kafka://host".into())),
            ("kafka://host/", NoTopic("kafka://host/".into())),
            ("kafka:///t", Broker(String::new())),
            ("kafka://a,,b/t", Broker(String::new())),
            ("kafka://host:/t", Broker("host:".into())),
            ("kafka://host:0/t", Broker("host:0".into())),
            ("kafka://host:65536/t", Broker("host:65536".into())),
            ("kafka://host:+1/t", Broker("host:+1".into())),
            ("kafka://::1/t", Broker("::1".into())),
            ("kafka://[::1/t", Broker("[::1".into())),
            ("kafka://[::1]9092/t", Broker("[::1]9092".into())),
            ("kafka://[host]:9092/t", Broker("[host]:9092".into())),
            ("kafka://a b/t", Broker("a b".into())),
            ("kafka://host/a/b", Topic("a/b".into())),
            ("kafka://host/t?acks=1", Topic("t?acks=1".into())),
            ("kafka://host/.", Topic(".".into())),
            ("kafka://host/..", Topic("..".into())),
            ("kafka://host/grün", Topic("grün".into())),
            (&format!("kafka://host/{long}"), Topic(long)),
        ] {
            let result = text.parse::<Address>();
            assert_eq!(result, Err(error), "{text}");
            let message = result.map_err(|error| error.to_string());
            assert!(!message.expect_err("an error").contains("secret"));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_rejected(text in "(kafka://)?[a-z0-9.:,/\\[\\]@%é -]{0,40}") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string().parse::<Address>(), Ok(address));
            }
        }

        #[test]
        fn written_address_is_read_back(
            hosts in prop::collection::vec(("[a-z][a-z0-9.-]{0,20}", 1u16..), 1..4),
            topic in "[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,20}",
        ) {
            let brokers: Vec<_> = hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect();
            let address = Address { brokers: brokers.join(","), topic };
            prop_assert_eq!(address.to_string().parse::<Address>(), Ok(address));
        }
    }
}
