//! The password file of PostgreSQL's own programs, `~/.pgpass`: lines of
//! `host:port:database:user:password`, of which the first counts that fits.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::base::terminal::Messages;

/// The key by which a password is looked up.
pub(super) struct Door<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) database: &'a str,
    pub(super) user: &'a str,
}

/// A password file, and whether the user has named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PassFile {
    pub(super) path: PathBuf,
    /// Whether the URI or the environment names the file: then a missing file is a fault.
    pub(super) named: bool,
}

impl PassFile {
    /// Returns the password for a door, if the file has one. Reports a file that can't be used once, with the
    /// reason, since the server would report only that there is no password.
    pub(super) fn password(&self, door: &Door<'_>) -> Option<String> {
        match self.read() {
            Ok(text) => find(&text?, door),
            Err(why) => {
                warn_once(&format!("password file \"{}\" is ignored: {why}", self.path.display()));
                None
            }
        }
    }

    /// Returns the content of the file; `None` if nobody has named the file and it is missing, or if it is the
    /// null device.
    fn read(&self) -> Result<Option<String>, String> {
        let path = &self.path;
        let meta = match fs::metadata(path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == ErrorKind::NotFound && !self.named => return Ok(None),
            Err(error) => return Err(format!("{error}; correct its name or its rights")),
        };
        // Scripts name the null device if they want no password file.
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
            Err(error) => Err(format!("{error}; its owner is to be the user that runs this")),
        }
    }
}

/// Warns of a fault once: a connection that is lost is made again each second.
fn warn_once(warning: &str) {
    static WARNED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
    if warned.insert(warning.to_owned()) {
        Messages::new().warn(format_args!("warning: {warning}"));
    }
}

/// Returns the path of the password file that is used if the user names none.
pub(super) fn default_path(home: Option<&str>) -> Option<PathBuf> {
    home.map(|home| Path::new(home).join(".pgpass"))
}

fn find(text: &str, door: &Door<'_>) -> Option<String> {
    let port = door.port.to_string();
    let wanted = [door.host, &port, door.database, door.user];
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = fields(line);
        let (password, keys) = fields.split_last().filter(|_| fields.len() == 5)?;
        let fits = keys.iter().zip(wanted).all(|(key, wanted)| key == "*" || key == wanted);
        fits.then(|| password.clone())
    })
}

/// Returns the fields of a line; a backslash escapes the character behind it. The last field has all the
/// rest.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut signs = line.chars();
    while let Some(sign) = signs.next() {
        let last = fields.len() - 1;
        match sign {
            ':' if fields.len() < 5 => fields.push(String::new()),
            '\\' => fields[last].extend(signs.next()),
            sign => fields[last].push(sign),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOOR: Door<'_> = Door { host: "db", port: 5432, database: "net", user: "floodmark" };

    #[test]
    fn the_first_line_that_fits_counts() {
        let text = "# db:5432:net:floodmark:comment\n\
                    db:5433:net:floodmark:other port\n\
                    short:line\n\
                    *:5432:*:floodmark:a\\:b\\\\c:d\n\
                    db:5432:net:floodmark:later\n";
        assert_eq!(find(text, &DOOR).as_deref(), Some("a:b\\c:d"));
        assert_eq!(find("db:*:net:someone:x\n", &DOOR), None);
        assert_eq!(find("", &DOOR), None);
    }

    #[test]
    fn a_file_that_others_may_read_is_not_believed() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("pgpass");
        fs::write(&path, "*:*:*:*:secret\n").unwrap();
        let file = PassFile { path: path.clone(), named: false };
        for (mode, found) in [(0o600, Some("secret")), (0o640, None), (0o604, None), (0o602, None)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(file.password(&DOOR).as_deref(), found, "{mode:o}");
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
