//! Reads and writes networks and addresses.

use std::net::IpAddr;

use floodmark_dataflows::types::{Pair, Prefix};
use ipnet::IpNet;

use super::quote::Quoted;

/// The word for any address of either family.
pub const ANY: &str = "any";

/// The reason why a text names no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// The text before the slash is no address.
    #[error(
        "{} is not an address or network; write 10.1.2.3, 10.0.0.0/8, 2001:db8::/32 or any",
        Quoted(.text)
    )]
    Address {
        /// The text given.
        text: String,
    },
    /// The text after the slash is no length of the family.
    #[error("{} has no length between 0 and {longest} after the slash; write one", Quoted(.text))]
    Length {
        /// The text given.
        text: String,
        /// The greatest length of the address's family.
        longest: u8,
    },
}

/// Reads an address with or without `/length`; without, the address alone is meant. Nothing, or
/// `any`, means any address of either family. Bits beyond the length are ignored. An IPv6 address
/// that wraps an IPv4 one stays IPv6.
pub fn parse(text: &str) -> Result<Prefix, PrefixError> {
    if text.is_empty() || text == ANY {
        return Ok(Prefix::ANY);
    }
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr =
        address.parse().map_err(|_| PrefixError::Address { text: text.to_owned() })?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => Some(longest),
        // `parse` would accept a sign.
        Some(digits) if !digits.bytes().all(|byte| byte.is_ascii_digit()) => None,
        Some(digits) => digits.parse().ok(),
    };
    length
        .and_then(|length| IpNet::new(address, length).ok())
        .map(Prefix::new)
        .ok_or_else(|| PrefixError::Length { text: text.to_owned(), longest })
}

/// Reads an address alone.
pub fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| {
        format!("{} is not an address; write one like 10.1.2.3 or 2001:db8::1", Quoted(text))
    })
}

/// The pair of two addresses.
pub fn pair(source: IpAddr, destination: IpAddr) -> Result<Pair, String> {
    Pair::new(source, destination).ok_or_else(|| {
        format!(
            "\"{source}\" and \"{destination}\" are of different families; give two addresses of \
             one family"
        )
    })
}

/// The shortest text that [`parse`] reads as this prefix and that names its length.
pub fn text(prefix: Prefix) -> String {
    prefix.network().map_or_else(|| ANY.to_owned(), |network| network.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn networks_are_read() {
        for (given, canonical) in [
            ("", "any"),
            ("any", "any"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("10.1.2.3/24", "10.1.2.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("9.9.9.9/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("2001:DB8::1", "2001:db8::1/128"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("::ffff:10.1.2.3", "::ffff:10.1.2.3/128"),
            ("::ffff:10.1.2.3/104", "::ffff:10.0.0.0/104"),
        ] {
            let prefix = parse(given).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(text(prefix), canonical, "{given}");
            assert_eq!(parse(canonical), Ok(prefix));
        }
    }

    #[test]
    fn prefix_contains_only_addresses_of_its_family() {
        let (v4, mapped) = ("10.1.2.3".parse().unwrap(), "::ffff:10.1.2.3".parse().unwrap());
        for (prefix, holds_v4, holds_mapped) in
            [("any", true, true), ("0.0.0.0/0", true, false), ("::/0", false, true)]
        {
            let prefix = parse(prefix).unwrap();
            assert_eq!((prefix.contains(v4), prefix.contains(mapped)), (holds_v4, holds_mapped));
        }
    }

    #[test]
    fn invalid_networks_are_rejected_with_their_reason() {
        for text in [
            "10",
            "10/8",
            "10.0.0",
            "10.0.0.256",
            "010.0.0.1",
            "ANY",
            " any",
            "10.0.0.1 ",
            "/8",
            "fe80::1%eth0",
            "example.com",
            "*",
            "any/0",
            "10.0.0.0-10.0.0.9",
            "[::1]",
        ] {
            assert_eq!(parse(text), Err(PrefixError::Address { text: text.into() }));
        }
        for (text, longest) in [
            ("10.0.0.0/", 32),
            ("10.0.0.0/33", 32),
            ("10.0.0.0/+8", 32),
            ("10.0.0.0/-1", 32),
            ("10.0.0.0/8/8", 32),
            ("10.0.0.0/255.0.0.0", 32),
            ("10.0.0.0/99999999999", 32),
            ("::/129", 128),
        ] {
            assert_eq!(parse(text), Err(PrefixError::Length { text: text.into(), longest }));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_rejected(given in "[0-9a-f:./]{0,20}|\\PC*") {
            if let Ok(prefix) = parse(&given) {
                prop_assert_eq!(parse(&text(prefix)), Ok(prefix));
            }
        }
    }
}
