//! The URI of a database. As with PostgreSQL's own programs, settings that the URI leaves out come from the
//! environment (`PGHOST`, `PGUSER`, `PGPASSWORD`, …), and a password also from a password file.

use std::fmt::{self, Debug, Display};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use super::passfile::{self, PassFile, PasswordKey};
use super::tls::{Tls, Trust};

/// Time limit for a server to respond to a connection attempt, unless the URI or the environment gives another.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time after which a connection is dead if the server has not acknowledged the data sent to it.
const DEAD_AFTER: Duration = Duration::from_secs(20);

/// The default port of PostgreSQL.
const PORT: u16 = 5432;

/// A database, and how to connect to it.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    pub(super) config: Config,
    pub(super) tls: Tls,
    /// The file with the password, if neither the URI nor the environment gives one.
    passfile: Option<PassFile>,
    /// The URI for messages, without password and parameters.
    shown: String,
}

/// The reason why a text is not accepted as the URI of a database.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The text is no URI, or a parameter does not accept its value.
    #[error(
        "\"{shown}\" is not the URI of a database: {why}; write postgres://USER@HOST:PORT/DATABASE, with \
         parameters as for psql"
    )]
    Uri {
        /// The text, without the part that may be a password.
        shown: String,
        /// The fault of the text.
        why: String,
    },
    /// The text has a password, and everyone on the machine can read a command line.
    #[error(
        "\"{shown}\" had a password in it, and everyone on this machine can read a command line: put \
         the password into PGPASSWORD or ~/.pgpass, or the whole address into FLOODMARK_LIMITS"
    )]
    Password {
        /// The text, without the password.
        shown: String,
    },
}

/// The variables that may hold a whole address, password included.
const ADDRESS_VARIABLES: [&str; 2] = ["FLOODMARK_LIMITS", "FLOODMARK_WHAT_IF"];

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Address::parse(text, &|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }
}

/// Splits a URI into the text before its parameters, and the parameters.
fn split(text: &str) -> (&str, Vec<(String, String)>) {
    // A question mark before the last `@` is part of a password.
    let host = text.rfind('@').unwrap_or(0);
    let query = text[host..].find('?').map_or(text.len(), |at| host + at);
    let (base, query) = (&text[..query], text[query..].trim_start_matches('?'));
    let decode = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
    let parameters = query.split('&').filter(|part| !part.is_empty()).map(|part| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        (decode(key), decode(value))
    });
    (base, parameters.collect())
}

/// Returns a URI's base without the password.
fn without_password(base: &str) -> String {
    let Some((scheme, rest)) = base.split_once("://") else {
        return base.to_owned();
    };
    // A password may have any character in it, `@` too: it ends at the last `@`.
    match rest.rsplit_once('@') {
        Some((user, host)) => {
            let user = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}@{host}")
        }
        None => base.to_owned(),
    }
}

impl Address {
    fn parse(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, AddressError> {
        let (base, parameters) = split(text);
        let shown = without_password(base);
        let bad = |why: String| AddressError::Uri { shown: shown.clone(), why };
        let mut given = Parameters::default();
        let mut rest = String::new();
        for (key, value) in parameters {
            if !given.accept(&key, &value) {
                let encode = |text: &str| {
                    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
                        .to_string()
                };
                rest.push(if rest.is_empty() { '?' } else { '&' });
                rest += &format!("{}={}", encode(&key), encode(&value));
            }
        }
        let mut config: Config = format!("{base}{rest}").parse().map_err(|error| {
            // The outermost error only names the parser.
            let error = anyhow::Error::new(error);
            bad(error.root_cause().to_string())
        })?;
        let from_environment = || {
            // The name of a table may follow the URI, behind `#`.
            let is_this = |value: String| value.split('#').next() == Some(text);
            ADDRESS_VARIABLES.iter().any(|name| variable(name).is_some_and(is_this))
        };
        if config.get_password().is_some() && !from_environment() {
            return Err(AddressError::Password { shown });
        }
        given.fill(variable);
        fill(&mut config, variable).map_err(bad)?;
        let tls = given.tls(variable("HOME")).map_err(bad)?;
        config.ssl_mode(tls.mode);
        let named = given.passfile.map(|path| PassFile { path, named: true });
        let home = || {
            let path = passfile::default_path(variable("HOME").as_deref())?;
            Some(PassFile { path, named: false })
        };
        Ok(Address { config, tls, passfile: named.or_else(home), shown })
    }
}

impl Address {
    /// Returns the settings for a new connection. Reads the password file each time, since it may have changed.
    pub(super) fn connection(&self) -> Config {
        let mut config = self.config.clone();
        if config.get_password().is_none()
            && let Some(file) = &self.passfile
            && let Some(password) = file.password(&password_key(&config))
        {
            config.password(password);
        }
        config
    }
}

/// Returns the key of the first host's entry in a password file.
fn password_key(config: &Config) -> PasswordKey<'_> {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host,
        _ => "localhost",
    };
    let user = config.get_user().unwrap_or_default();
    PasswordKey {
        host,
        port: config.get_ports().first().copied().unwrap_or(PORT),
        database: config.get_dbname().unwrap_or(user),
        user,
    }
}

/// Fills in the settings that the URI leaves out: from the environment, else with floodmark's defaults.
fn fill(config: &mut Config, variable: &dyn Fn(&str) -> Option<String>) -> Result<(), String> {
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        config.host(variable("PGHOST").unwrap_or_else(|| "localhost".into()));
    }
    if config.get_ports().is_empty()
        && let Some(port) = variable("PGPORT")
    {
        let number = port.parse().map_err(|_| format!("PGPORT is \"{port}\", which is no port"))?;
        config.port(number);
    }
    if config.get_user().is_none() {
        let user = variable("PGUSER").or_else(|| variable("USER"));
        config.user(user.unwrap_or_else(|| "postgres".into()));
    }
    if config.get_dbname().is_none()
        && let Some(database) = variable("PGDATABASE")
    {
        config.dbname(database);
    }
    if config.get_password().is_none()
        && let Some(password) = variable("PGPASSWORD")
    {
        config.password(password);
    }
    if config.get_options().is_none()
        && let Some(options) = variable("PGOPTIONS")
    {
        config.options(options);
    }
    if config.get_application_name().is_none() {
        config.application_name(variable("PGAPPNAME").unwrap_or_else(|| "floodmark".into()));
    }
    if config.get_connect_timeout().is_none() {
        let given = variable("PGCONNECT_TIMEOUT").and_then(|text| text.parse().ok());
        let given = given.filter(|secs| *secs > 0).map(Duration::from_secs);
        config.connect_timeout(given.unwrap_or(CONNECT_TIMEOUT));
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(DEAD_AFTER);
    }
    Ok(())
}

/// The parameters that the library does not know: those of TLS, and the password file.
#[derive(Default)]
struct Parameters {
    sslmode: Option<String>,
    root: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
    passfile: Option<PathBuf>,
}

impl Parameters {
    /// Stores a parameter, if it is one of these. Returns whether it is.
    fn accept(&mut self, key: &str, value: &str) -> bool {
        let value = value.to_owned();
        match key {
            "sslmode" => self.sslmode = Some(value),
            "sslrootcert" => self.root = Some(value),
            "sslcert" => self.certificate = Some(value),
            "sslkey" => self.key = Some(value),
            "passfile" => self.passfile = Some(value.into()),
            // Both values allow a connection without Kerberos, which is not supported.
            "gssencmode" if matches!(&*value, "disable" | "prefer") => {}
            _ => return false,
        }
        true
    }

    fn fill(&mut self, variable: &dyn Fn(&str) -> Option<String>) {
        let fill = |field: &mut Option<String>, name| {
            if field.is_none() {
                *field = variable(name);
            }
        };
        fill(&mut self.sslmode, "PGSSLMODE");
        fill(&mut self.root, "PGSSLROOTCERT");
        fill(&mut self.certificate, "PGSSLCERT");
        fill(&mut self.key, "PGSSLKEY");
        self.passfile = self.passfile.take().or_else(|| variable("PGPASSFILE").map(PathBuf::from));
    }

    fn tls(&self, home: Option<String>) -> Result<Tls, String> {
        let home = home.map(|home| PathBuf::from(home).join(".postgresql/root.crt"));
        let root = match &self.root {
            Some(root) if root == "system" => None,
            Some(root) => Some(PathBuf::from(root)),
            None => home.filter(|root| root.exists()),
        };
        let client_identity = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
            (None, None) => None,
            _ => return Err("a client certificate needs both sslcert and sslkey".into()),
        };
        let system = self.root.as_deref() == Some("system");
        let (mode, trust) = match self.sslmode.as_deref() {
            Some("disable") => (SslMode::Disable, Trust::Anyone),
            // As with PostgreSQL's own programs, these modes do not verify the server unless a root certificate is
            // given.
            None | Some("allow" | "prefer") if !system => (SslMode::Prefer, Trust::Anyone),
            Some("require") if root.is_none() && !system => (SslMode::Require, Trust::Anyone),
            Some("require" | "verify-ca") if !system => (SslMode::Require, Trust::Authority),
            None | Some("verify-full") => (SslMode::Require, Trust::Host),
            Some("allow" | "prefer" | "require" | "verify-ca") => {
                return Err("sslrootcert=system needs sslmode=verify-full".into());
            }
            Some(other) => {
                return Err(format!(
                    "sslmode is \"{other}\"; give disable, prefer, require, verify-ca or verify-full"
                ));
            }
        };
        Ok(Tls { mode, trust, root, client_identity })
    }
}

impl Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn parse(text: &str, variables: &[(&str, &str)]) -> Result<Address, AddressError> {
        let find = |name: &str| variables.iter().find(|(other, _)| *other == name);
        Address::parse(text, &|name| find(name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn uri_overrides_the_environment() {
        let variables = [
            ("PGHOST", "elsewhere"),
            ("PGPORT", "5433"),
            ("PGUSER", "env"),
            ("PGDATABASE", "other"),
            ("PGPASSWORD", "secret"),
            ("PGSSLMODE", "disable"),
        ];
        let full = parse("postgres://me@db:6000/net?sslmode=require", &variables).unwrap();
        let key = password_key(&full.config);
        assert_eq!((key.host, key.port, key.database, key.user), ("db", 6000, "net", "me"));
        assert_eq!(full.config.get_password(), Some(&b"secret"[..]));
        assert_eq!((full.tls.mode, full.tls.trust), (SslMode::Require, Trust::Anyone));
        let bare = parse("postgres://", &variables).unwrap();
        let key = super::password_key(&bare.config);
        assert_eq!(
            (key.host, key.port, key.database, key.user),
            ("elsewhere", 5433, "other", "env")
        );
        assert_eq!(bare.tls.mode, SslMode::Disable);
    }

    #[test]
    fn password_in_a_uri_is_rejected_unless_from_a_variable_and_never_shown() {
        let uri = "postgres://me:hunter2@db/net";
        let error = parse(uri, &[]).unwrap_err().to_string();
        assert!(
            error.contains("\"postgres://me@db/net\"") && error.contains("PGPASSWORD"),
            "{error}"
        );
        let address = parse(uri, &[("FLOODMARK_LIMITS", uri)]).unwrap();
        assert_eq!(address.config.get_password(), Some(&b"hunter2"[..]));
        let with_table = format!("{uri}#net.limits");
        assert!(parse(uri, &[("FLOODMARK_WHAT_IF", &with_table)]).is_ok());
        for wrong in [
            "postgres://me:hunter2@db:port/net",
            "postgres://me:hunter2@db/net?sslmod=x",
            "postgres://me:hun/ter2@db/net",
            "postgres://me:hun?ter2@db/net",
            "postgres://me:hun@ter2@db/net",
        ] {
            let given = parse(wrong, &[("FLOODMARK_LIMITS", wrong)]);
            let shown = given.map_or_else(|error| error.to_string(), |known| known.to_string());
            assert!(!shown.contains("hun") && !shown.contains("ter2"), "{shown}");
        }
        assert!(!format!("{address:?} {address}").contains("hunter2"));
    }

    #[test]
    fn password_comes_from_the_password_file_of_a_matching_key() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("pass");
        std::fs::write(&file, "db:5432:net:me:from file\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let path = file.to_str().unwrap();
        let by_parameter = parse(&format!("postgres://me@db/net?passfile={path}"), &[]);
        let by_variable = parse("postgres://me@db/net", &[("PGPASSFILE", path)]);
        for address in [by_parameter, by_variable] {
            assert_eq!(address.unwrap().connection().get_password(), Some(&b"from file"[..]));
        }
        let other = parse("postgres://you@db/net", &[("PGPASSFILE", path)]).unwrap();
        assert_eq!(other.connection().get_password(), None);
    }

    #[test]
    fn sslmode_and_sslrootcert_set_mode_and_trust() {
        let tls = |query: &str| {
            parse(&format!("postgres://me@db/net?{query}"), &[]).map(|address| address.tls)
        };
        for (query, mode, trust) in [
            ("", SslMode::Prefer, Trust::Anyone),
            ("sslmode=disable", SslMode::Disable, Trust::Anyone),
            ("sslmode=require", SslMode::Require, Trust::Anyone),
            ("sslmode=require&sslrootcert=/ca", SslMode::Require, Trust::Authority),
            ("sslmode=verify-ca&sslrootcert=/ca", SslMode::Require, Trust::Authority),
            ("sslmode=verify-full", SslMode::Require, Trust::Host),
            ("sslrootcert=system", SslMode::Require, Trust::Host),
        ] {
            let tls = tls(query).unwrap();
            assert_eq!((tls.mode, tls.trust), (mode, trust), "{query}");
        }
        for (query, expected) in [
            ("sslmode=verify_full", "\"verify_full\""),
            ("sslmode=require&sslrootcert=system", "verify-full"),
            ("sslcert=/c", "sslkey"),
            ("statement=1", "statement"),
        ] {
            let error = tls(query).unwrap_err().to_string();
            assert!(error.contains(expected), "{query}: {error}");
        }
    }
}
