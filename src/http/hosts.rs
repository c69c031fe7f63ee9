//! The names under which clients request the server.
//!
//! A web page may have its own name lead to an address of this machine or network (DNS rebinding), and
//! its visitors' browsers would then read from the server what only they can reach. They send the name of
//! the page as `Host`, so that a name which nobody has given to this server is refused. An address is no
//! name: a page can't have one that is not its own.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use axum::extract::Request;
use axum::http::{StatusCode, Version, header, uri::Authority};

use crate::base::quote::Quoted;

/// Names of this server, in small letters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hosts(BTreeSet<String>);

/// The reason why a request is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) text: String,
}

fn normal(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// Parses a name under which clients request the server.
pub fn name(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    match is_name {
        true => Ok(normal(text)),
        false => Err(format!(
            "{} is no host name: give the name alone, such as floodmark.example.org, without http:// \
             and without a port",
            Quoted(text)
        )),
    }
}

impl Hosts {
    /// The host of `--http`, the name of this machine, `localhost`, and names that were given.
    pub(super) fn new(http: &str, given: &[String]) -> Self {
        let own = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        let served = http.rsplit_once(':').map(|(host, _)| host.to_owned());
        let names = ["localhost".to_owned()].into_iter().chain(own).chain(served);
        let names = names.chain(given.iter().cloned()).map(|name| normal(&name));
        Hosts(names.filter(|name| !name.is_empty()).collect())
    }

    fn knows(&self, host: &str) -> bool {
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_address = match address {
            Some(v6) => v6.parse::<Ipv6Addr>().is_ok(),
            None => host.parse::<IpAddr>().is_ok(),
        };
        is_address || self.0.contains(&normal(host))
    }

    pub(super) fn check(&self, request: &Request) -> Result<(), Refused> {
        let bad = |text: &str| Refused { status: StatusCode::BAD_REQUEST, text: text.to_owned() };
        let mut given = request.headers().get_all(header::HOST).iter();
        let host = match (given.next(), given.next()) {
            (_, Some(_)) => return Err(bad("there are several Host headers: send one")),
            (Some(host), None) => {
                let text = host.to_str().unwrap_or_default();
                let authority: Option<Authority> = text.parse().ok();
                Some(authority.ok_or_else(|| bad("the Host header is no host"))?)
            }
            (None, None) if request.version() < Version::HTTP_11 => None,
            (None, None) => return Err(bad("there is no Host header")),
        };
        // A request to a proxy has the host in its first line as well.
        for authority in host.iter().chain(request.uri().authority()) {
            let host = authority.host();
            if !self.knows(host) || authority.as_str().contains('@') {
                let text = format!(
                    "this server is not known as {}: use its IP address or localhost, or start it with \
                     --http-host NAME",
                    Quoted(host)
                );
                return Err(Refused { status: StatusCode::MISDIRECTED_REQUEST, text });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn check(hosts: &[&str], version: Version) -> Result<(), StatusCode> {
        let own = Hosts::new("Node-1.example:9464", &["floodmark.example.org".to_owned()]);
        let request = hosts.iter().fold(Request::builder().version(version), |request, host| {
            request.header(header::HOST, *host)
        });
        own.check(&request.body(Body::empty()).unwrap()).map_err(|refused| refused.status)
    }

    #[test]
    fn host_that_is_no_name_of_the_server_is_refused() {
        for host in [
            "127.0.0.1:9464",
            "10.1.2.3",
            "[::1]:9464",
            "[2001:db8::1]",
            "localhost",
            "LOCALHOST.:1",
            "node-1.example:9464",
            "floodmark.example.org",
        ] {
            assert_eq!(check(&[host], Version::HTTP_11), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9464",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "0x7f.1",
            "x@127.0.0.1",
        ] {
            let refused = Err(StatusCode::MISDIRECTED_REQUEST);
            assert_eq!(check(&[host], Version::HTTP_11), refused, "{host}");
            assert_eq!(check(&[host], Version::HTTP_10), refused, "{host}");
        }
        let bad = Err(StatusCode::BAD_REQUEST);
        assert_eq!(check(&[], Version::HTTP_11), bad);
        assert_eq!(check(&[], Version::HTTP_10), Ok(()));
        assert_eq!(check(&["localhost", "evil.example"], Version::HTTP_11), bad);
        for host in ["", "a b", "::1", "[::1"] {
            assert!(check(&[host], Version::HTTP_11).is_err(), "{host}");
        }
    }

    #[test]
    fn host_of_the_first_line_is_checked_too() {
        let request = Request::builder()
            .uri("http://evil.example/metrics")
            .header(header::HOST, "localhost")
            .body(Body::empty())
            .unwrap();
        let refused = Hosts::new("127.0.0.1:0", &[]).check(&request).unwrap_err();
        assert!(refused.text.contains("\"evil.example\"") && refused.text.contains("--http-host"));
    }

    #[test]
    fn http_host_with_more_than_a_name_is_refused() {
        assert_eq!(name("Floodmark.Example.org.").unwrap(), "floodmark.example.org");
        for wrong in ["", "http://here", "here:80", "a b", "*"] {
            let why = name(wrong).unwrap_err();
            assert!(why.contains("is no host name: give the name alone"), "{wrong}: {why}");
        }
    }
}
