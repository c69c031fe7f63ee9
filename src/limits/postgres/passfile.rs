//! The password file of PostgreSQL's own programs, `~/.pgpass`: lines of
//! `host:port:database:user:password`, of which the first match counts.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::base::terminal::Messages;

/// The key by which a password is looked up.
pub(super) struct PasswordKey<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) database: &'a str,
    pub(super) user: &'a str,
}

/// A password file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PassFile {
    pub(super) path: PathBuf,
    /// Whether the URI or the environment names the file: then a missing file is an error.
    pub(super) named: bool,
}

impl PassFile {
    /// Returns the password of a key, if the file has one. Warns once of a file that can't be used, with
    /// the reason, since the server would report only that there is no password.
    pub(super) fn password(&self, key: &PasswordKey<'_>) -> Option<String> {
        match self.read() {
            Ok(text) => find(&text?, key),
            Err(why) => {
                warn_once(&format!("password file \"{}\" is ignored: {why}", self.path.display()));
                None
            }
        }
    }

    /// Returns the content of the file; `None` if the file is missing and not named, or is the null device.
    fn read(&self) -> Result<Option<String>, String> {
        let path = &self.path;
        let meta = match fs::metadata(path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == ErrorKind::NotFound && !self.named => return Ok(None),
            Err(error) => return Err(format!("{error}; correct its path or permissions")),
        };
        // Scripts name the null device to use no password file.
        if path == Path::new("/dev/null") {
            return Ok(None);
        }
        if !meta.is_file() {
            return Err("it is not a plain file".into());
        }
        let mode = meta.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(format!(
                "others may read or write it (its mode is {mode:04o}); run: chmod 0600 \"{}\"",
                path.display()
            ));
        }
        match fs::read(path) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) => Err(format!("{error}; the user that runs floodmark must own it")),
        }
    }
}

/// Prints a warning once: floodmark reconnects a lost connection each second.
fn warn_once(warning: &str) {
    static WARNED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
    if warned.insert(warning.to_owned()) {
        Messages::new().warn(format_args!("warning: {warning}"));
    }
}

/// Returns the path of the password file if the user names none.
pub(super) fn default_path(home: Option<&str>) -> Option<PathBuf> {
    home.map(|home| Path::new(home).join(".pgpass"))
}

fn find(text: &str, key: &PasswordKey<'_>) -> Option<String> {
    let port = key.port.to_string();
    let wanted = [key.host, &port, key.database, key.user];
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = fields(line);
        let (password, keys) = fields.split_last().filter(|_| fields.len() == 5)?;
        let fits = keys.iter().zip(wanted).all(|(key, wanted)| key == "*" || key == wanted);
        fits.then(|| password.clone())
    })
}

/// Returns the fields of a line; a backslash escapes the character behind it. The last field is the rest of the line.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        let last = fields.len() - 1;
        match character {
            ':' if fields.len() < 5 => fields.push(String::new()),
            '\\' => fields[last].extend(characters.next()),
            character => fields[last].push(character),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: PasswordKey<'_> =
        PasswordKey { host: "db", port: 5432, database: "net", user: "floodmark" };

    #[test]
    fn first_matching_line_gives_the_password() {
        let text = "# db:5432:net:floodmark:comment\n\
                    db:5433:net:floodmark:other port\n\
                    short:line\n\
                    *:5432:*:floodmark:a\\:b\\\\c:d\n\
                    db:5432:net:floodmark:later\n";
        assert_eq!(find(text, &KEY).as_deref(), Some("a:b\\c:d"));
        assert_eq!(find("db:*:net:someone:x\n", &KEY), None);
        assert_eq!(find("", &KEY), None);
    }

    #[test]
    fn file_that_others_may_read_or_write_is_ignored() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("pgpass");
        fs::write(&path, "*:*:*:*:secret\n").unwrap();
        let file = PassFile { path: path.clone(), named: false };
        for (mode, found) in [(0o600, Some("secret")), (0o640, None), (0o604, None), (0o602, None)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(file.password(&KEY).as_deref(), found, "{mode:o}");
            let why = file.read().err().unwrap_or_default();
            assert_eq!(why.contains(&format!("{mode:04o}")), found.is_none(), "{why}");
        }
        let nowhere = |named| PassFile { path: "/nowhere".into(), named };
        assert_eq!(nowhere(false).read(), Ok(None));
        assert!(nowhere(true).read().unwrap_err().contains("No such file"));
        let directory = PassFile { path: place.path().into(), named: false };
        assert!(directory.read().unwrap_err().contains("not a plain file"));
        assert_eq!(PassFile { path: "/dev/null".into(), named: true }.read(), Ok(None));
        assert_eq!(default_path(Some("/home/x")), Some("/home/x/.pgpass".into()));
    }
}
