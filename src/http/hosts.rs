//! The host names by which clients may address the server.
//!
//! A web page can make its own name resolve to an address of this machine or network (DNS rebinding), so that its
//! visitors' browsers read pages of this server for it. Such browsers send the name of the web page as `Host`, so
//! the server rejects names that are not its own. It accepts every IP address: a web page can't use the address of
//! another machine as its own.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use axum::extract::Request;
use axum::http::{StatusCode, Version, header, uri::Authority};

use crate::base::quote::Quoted;

/// Names of this server, in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HostNames(BTreeSet<String>);

/// The reason why a request is rejected.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HostError {
    pub(super) status: StatusCode,
    pub(super) text: String,
}

fn normalize(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// Parses a host name by which clients may address the server.
pub fn name(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    match is_name {
        true => Ok(normalize(text)),
        false => Err(format!(
            "{} is not a host name: give the name alone, such as floodmark.example.org, without http:// \
             and without a port",
            Quoted(text)
        )),
    }
}

impl HostNames {
    /// Creates the names: the host of `--http`, the name of this machine, `localhost`, and those in `given`.
    pub(super) fn new(http: &str, given: &[String]) -> Self {
        let own = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        let served = http.rsplit_once(':').map(|(host, _)| host.to_owned());
        let names = ["localhost".to_owned()].into_iter().chain(own).chain(served);
        let names = names.chain(given.iter().cloned()).map(|name| normalize(&name));
        HostNames(names.filter(|name| !name.is_empty()).collect())
    }

    fn accepts(&self, host: &str) -> bool {
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_address = match address {
            Some(v6) => v6.parse::<Ipv6Addr>().is_ok(),
            None => host.parse::<IpAddr>().is_ok(),
        };
        is_address || self.0.contains(&normalize(host))
    }

    pub(super) fn check(&self, request: &Request) -> Result<(), HostError> {
        let bad = |text: &str| HostError { status: StatusCode::BAD_REQUEST, text: text.to_owned() };
        let mut given = request.headers().get_all(header::HOST).iter();
        let host = match (given.next(), given.next()) {
            (_, Some(_)) => return Err(bad("there are several Host headers: send one")),
            (Some(host), None) => {
                let text = host.to_str().unwrap_or_default();
                let authority: Option<Authority> = text.parse().ok();
                Some(
                    authority
                        .ok_or_else(|| bad("the Host header is not a host name or address"))?,
                )
            }
            (None, None) if request.version() < Version::HTTP_11 => None,
            (None, None) => return Err(bad("there is no Host header")),
        };
        // A request to a proxy has the host in its first line as well.
        for authority in host.iter().chain(request.uri().authority()) {
            let host = authority.host();
            if !self.accepts(host) || authority.as_str().contains('@') {
                let text = format!(
                    "{} is not a name of this server: use its IP address or localhost, or start it with \
                     --http-host NAME",
                    Quoted(host)
                );
                return Err(HostError { status: StatusCode::MISDIRECTED_REQUEST, text });
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
        let own = HostNames::new("Node-1.example:9464", &["floodmark.example.org".to_owned()]);
        let request = hosts.iter().fold(Request::builder().version(version), |request, host| {
            request.header(header::HOST, *host)
        });
        own.check(&request.body(Body::empty()).unwrap()).map_err(|error| error.status)
    }

    #[test]
    fn host_that_is_no_name_of_the_server_is_rejected() {
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
            let rejected = Err(StatusCode::MISDIRECTED_REQUEST);
            assert_eq!(check(&[host], Version::HTTP_11), rejected, "{host}");
            assert_eq!(check(&[host], Version::HTTP_10), rejected, "{host}");
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
    fn foreign_host_in_the_request_line_is_rejected() {
        let request = Request::builder()
            .uri("http://evil.example/metrics")
            .header(header::HOST, "localhost")
            .body(Body::empty())
            .unwrap();
        let error = HostNames::new("127.0.0.1:0", &[]).check(&request).unwrap_err();
        assert!(error.text.contains("\"evil.example\"") && error.text.contains("--http-host"));
    }

    #[test]
    fn http_host_with_more_than_a_name_is_rejected() {
        assert_eq!(name("Floodmark.Example.org.").unwrap(), "floodmark.example.org");
        for wrong in ["", "http://here", "here:80", "a b", "*"] {
            let why = name(wrong).unwrap_err();
            assert!(why.contains("is not a host name: give the name alone"), "{wrong}: {why}");
        }
    }
}
