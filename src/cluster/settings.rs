//! The settings that all processes of one computation must have in common.
//!
//! Processes exchange their settings before they compute together. Two processes with different settings both end,
//! and report each setting that differs with both values.

use std::fmt::{self, Display};
use std::io;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::base::shown;

/// Longest value that a process sends whole, in bytes. Of a longer one, it sends the start and a digest.
const VALUE_MAX: usize = 512;
/// Length of the start of a longer value, in bytes.
const START_BYTES: usize = 400;
/// Maximum number of differences that are reported one by one; further ones are only counted.
const REPORTED_MAX: usize = 10;
/// Maximum length of all settings as they are sent, in bytes.
pub(super) const SETTINGS_MAX: usize = 256 << 10;

/// Digest of all settings of a process.
pub(super) type Fingerprint = u64;

/// The settings of one process, in an order that is the same in all processes of one build.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings(Vec<Setting>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Setting {
    /// The option, as users write it.
    option: String,
    /// `None` if the option is not given, or the value not known.
    value: Option<String>,
    rule: Rule,
}

/// The processes that must have the same value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Rule {
    /// All.
    Everywhere,
    /// All that give the option, which process 0 alone uses.
    Leader,
    /// All that know the value.
    Known,
}

impl Settings {
    /// The settings of a command.
    pub fn of(command: &str) -> Self {
        Settings::default().with("command", command)
    }

    /// Adds an option that has a value in every process.
    pub fn with(self, option: impl Into<String>, value: impl Display) -> Self {
        self.push(option, Some(value), Rule::Everywhere)
    }

    /// Adds an option that is given in all processes, with the same value, or in none.
    pub fn with_optional(self, option: &str, value: Option<impl Display>) -> Self {
        self.push(option, value, Rule::Everywhere)
    }

    /// Adds an option that process 0 alone uses: the others may leave it out.
    pub fn with_leaders(self, option: &str, value: Option<impl Display>) -> Self {
        self.push(option, value, Rule::Leader)
    }

    /// Adds a value that a process has found out, and others may not know.
    pub fn with_known(self, name: &str, value: Option<impl Display>) -> Self {
        self.push(name, value, Rule::Known)
    }

    fn push(mut self, option: impl Into<String>, value: Option<impl Display>, rule: Rule) -> Self {
        // A password does not change the result: it is neither compared nor sent.
        let value = value.map(|value| shortened(shown::line(value)));
        self.0.push(Setting { option: option.into(), value, rule });
        self
    }

    /// The names of all options.
    #[cfg(test)]
    pub(crate) fn options(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|setting| setting.option.as_str())
    }

    /// The settings as they are sent: their length, and JSON.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let json = self.json();
        let length = u32::try_from(json.len()).expect("settings are short");
        [&length.to_be_bytes()[..], &json].concat()
    }

    /// Reads the JSON of the settings that a process has announced by their fingerprint.
    pub(super) fn from_json(json: &[u8], announced: Fingerprint) -> io::Result<Self> {
        let settings: Settings = serde_json::from_slice(json).map_err(io::Error::other)?;
        if settings.fingerprint() != announced {
            return Err(io::Error::other("its settings differ from those that it announced"));
        }
        Ok(settings)
    }

    fn json(&self) -> Vec<u8> {
        serde_json::to_vec(&self).expect("texts can be written as JSON")
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        let digest = Sha256::digest(self.json());
        u64::from_be_bytes(*digest.first_chunk().expect("the digest has more than 8 bytes"))
    }

    /// Describes the differences between these settings and those of another process; `None` if the two
    /// can compute together. `here` and `there` are the numbers of the two processes; process 0 leads.
    pub(super) fn differences(&self, here: u64, other: &Settings, there: u64) -> Option<String> {
        let mut found: Vec<String> = Vec::new();
        for ours in &self.0 {
            let theirs = other.0.iter().find(|theirs| theirs.option == ours.option);
            let theirs = theirs.and_then(|theirs| theirs.value.as_deref());
            if ours.differs(here == 0, theirs, there == 0) {
                found.push(difference(&ours.option, theirs, ours.value.as_deref()));
                // Another command has other options.
                if ours.option == "command" {
                    break;
                }
            }
        }
        let reported = found.len().min(REPORTED_MAX);
        let more = match found.len() - reported {
            0 => String::new(),
            more => format!("; {more} more"),
        };
        (reported > 0).then(|| found[..reported].join("; ") + &more)
    }
}

impl Setting {
    /// Whether the value in another process rules out computing together.
    fn differs(&self, leads: bool, theirs: Option<&str>, other_leads: bool) -> bool {
        let ours = self.value.as_deref();
        ours != theirs
            && match self.rule {
                Rule::Everywhere => true,
                Rule::Leader => (ours.is_some() || leads) && (theirs.is_some() || other_leads),
                Rule::Known => ours.is_some() && theirs.is_some(),
            }
    }
}

/// Describes an option and both values.
fn difference(option: &str, theirs: Option<&str>, ours: Option<&str>) -> String {
    let text = |value: Option<&str>| value.unwrap_or("not given").to_owned();
    format!("{option} {} there, {} here", text(theirs), text(ours))
}

fn shortened(value: String) -> String {
    if value.len() <= VALUE_MAX {
        return value;
    }
    let start = &value[..value.floor_char_boundary(START_BYTES)];
    let digest = Sha256::digest(&value);
    let digest: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{start}… ({} bytes, SHA-256 {digest}…)", value.len())
}

/// The value of a flag that is given.
#[derive(Clone, Copy, Debug)]
pub struct Given;

impl Given {
    /// A flag as an optional value.
    pub fn when(given: bool) -> Option<Given> {
        given.then_some(Given)
    }
}

impl Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("given")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(window: &str, limits: Option<&str>, id: Option<&str>) -> Settings {
        Settings::of("run")
            .with("--window", window)
            .with_leaders("--limits", limits)
            .with_known("id of the topic", id)
    }

    /// Returns the differences as process 0 and as process 1 describe them.
    fn both(first: &Settings, second: &Settings) -> [Option<String>; 2] {
        [first.differences(0, second, 1), second.differences(1, first, 0)]
    }

    #[test]
    fn settings_that_differ_are_named_with_both_values() {
        let first = settings("5m", Some("a.json"), Some("x"));
        assert_eq!(both(&first, &first), [None, None]);
        let [one, other] = both(&first, &settings("1m", Some("b.json"), Some("y")));
        assert_eq!(
            one.as_deref(),
            Some(
                "--window 1m there, 5m here; --limits b.json there, a.json here; \
                 id of the topic y there, x here"
            )
        );
        assert_eq!(
            other.as_deref(),
            Some(
                "--window 5m there, 1m here; --limits a.json there, b.json here; \
                 id of the topic x there, y here"
            )
        );
        let other = Settings::of("replay").with("FILE", "a.pcap");
        let [one, _] = both(&first, &other);
        assert_eq!(one.as_deref(), Some("command replay there, run here"));
        let with = |flag| Settings::default().with_optional("--flag", Given::when(flag));
        let [one, other] = both(&with(true), &with(false));
        assert_eq!(one.as_deref(), Some("--flag not given there, given here"));
        assert_eq!(other.as_deref(), Some("--flag given there, not given here"));
    }

    #[test]
    fn option_of_process_0_may_be_left_out_by_others_alone() {
        let (with, without) = (settings("5m", Some("a"), None), settings("5m", None, None));
        assert_eq!(both(&with, &without), [None, None]);
        let [one, other] = both(&without, &with);
        assert_eq!(one.as_deref(), Some("--limits a there, not given here"));
        assert_eq!(other.as_deref(), Some("--limits not given there, a here"));
        // Two other processes, of which neither uses the option, must still have the same value.
        assert_eq!(with.differences(1, &without, 2), None);
        let other = settings("5m", Some("b"), None);
        assert!(with.differences(1, &other, 2).is_some());
        // An id that one process could not find out is no difference.
        let known = settings("5m", Some("a"), Some("x"));
        assert_eq!([both(&with, &known), both(&known, &with)], [const { [None, None] }; 2]);
    }

    #[test]
    fn passwords_are_neither_sent_nor_compared() {
        let with = |uri: &str| Settings::default().with("--limits", uri);
        let (one, other) = (with("postgres://a:hunter2@h/d"), with("postgres://a:hunter3@h/d"));
        assert_eq!(both(&one, &other), [None, None]);
        assert!(!String::from_utf8_lossy(&one.to_bytes()).contains("hunter"));
        let [difference, _] = both(&one, &with("postgres://a:hunter2@i/d"));
        let difference = difference.expect("another host");
        assert!(difference.contains("postgres://a:***@i/d there"), "{difference}");
    }

    #[test]
    fn long_values_are_shortened_and_still_compared() {
        let long = |last: &str| Settings::default().with("FILE", "ä\n".repeat(9000) + last);
        let [one, other] = both(&long("a"), &long("b"));
        let (one, other) = (one.expect("they differ"), other.expect("they differ"));
        assert!(one.len() < 4 * VALUE_MAX && one != other, "{one}");
        let mut many = Settings::default();
        let mut others = Settings::default();
        for number in 0..128 {
            many = many.with(format!("case {number}"), "\\\"".repeat(VALUE_MAX));
            others = others.with(format!("case {number}"), number);
        }
        assert!(many.to_bytes().len() < SETTINGS_MAX, "{}", many.to_bytes().len());
        let [one, _] = both(&many, &others);
        assert!(one.expect("they differ").ends_with("; 118 more"));
    }

    #[test]
    fn settings_other_than_announced_are_rejected() {
        let (one, other) = (settings("5m", None, None), settings("1m", None, None));
        let bytes = one.to_bytes();
        let read = |announced| Settings::from_json(&bytes[4..], announced);
        assert_eq!(read(one.fingerprint()).expect("they are whole"), one);
        assert!(read(other.fingerprint()).is_err());
        assert!(Settings::from_json(b"{}", one.fingerprint()).is_err());
    }
}
