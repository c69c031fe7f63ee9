//! The password file of PostgreSQL's own programs, `~/.pgpass`: lines of
//! `host:port:database:user:password`, of which the first counts that fits.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What is to be opened with a password.
pub(super) struct Door<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) database: &'a str,
    pub(super) user: &'a str,
}

/// The password for a door, if the file has one. A file that others may read is not believed, as those
/// programs do not believe it.
pub(super) fn password(file: &Path, door: &Door<'_>) -> Option<String> {
    let meta = fs::metadata(file).ok()?;
    if !meta.is_file() {
        return None;
    }
    if meta.permissions().mode() & 0o077 != 0 {
        let file = file.display().to_string();
        tracing::warn!(file, "others may read the password file, so it is not used: chmod 0600 it");
        return None;
    }
    find(&fs::read_to_string(file).ok()?, door)
}

/// Where the file is, unless something else is said.
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

/// The fields of a line; a backslash takes the meaning from the sign behind it. The last one has all
/// the rest.
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
        let file = place.path().join("pgpass");
        fs::write(&file, "*:*:*:*:secret\n").unwrap();
        for (mode, found) in [(0o600, Some("secret")), (0o640, None), (0o604, None)] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(password(&file, &DOOR).as_deref(), found, "{mode:o}");
        }
        assert_eq!(password(Path::new("/nowhere"), &DOOR), None);
        assert_eq!(default_path(Some("/home/x")), Some("/home/x/.pgpass".into()));
    }
}
