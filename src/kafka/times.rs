//! The settings of a topic for the times of messages, checked against the times of the records to be sent to
//! it.
//!
//! A broker deletes messages that are older than the topic keeps them, by their own timestamps, and refuses
//! messages whose timestamps are too far from its clock. Records of a capture are as old as the capture: so the
//! settings are read, and checked, before anything is sent.

use rdkafka::admin::ConfigResource;

use super::{Address, Error};
use crate::base::date::format_ms;
use crate::base::error::Failure;
use crate::base::quote::Quoted;

/// The bounds of Kafka 3.6 and later on how far a timestamp is behind or ahead of the broker's clock,
/// and the one that earlier versions have instead of both.
pub(super) const BEFORE_MAX: &str = "message.timestamp.before.max.ms";
pub(super) const AFTER_MAX: &str = "message.timestamp.after.max.ms";
pub(super) const DIFFERENCE_MAX: &str = "message.timestamp.difference.max.ms";

/// The value by which Kafka says: no bound.
pub(super) const NO_BOUND: u64 = i64::MAX as u64;

/// The configuration of a topic as to the times and sizes of messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// The address of the topic.
    pub address: Address,
    /// The number of partitions.
    pub partitions: usize,
    /// Whether the broker has told the configuration. If not, the fields below are unknown and as if there were
    /// no bounds.
    pub told: bool,
    /// Age at which a message is deleted, in milliseconds; `None`: never.
    pub retention_ms: Option<u64>,
    /// Whether old messages are deleted.
    pub deletes: bool,
    /// Whether messages are replaced by later ones of the same key.
    pub compacts: bool,
    /// Whether the broker replaces timestamps by the time of their arrival.
    pub log_append_time: bool,
    /// Greatest distance of a timestamp behind the broker's clock, in milliseconds; `None`: no bound.
    pub timestamp_before_max_ms: Option<u64>,
    /// Greatest distance of a timestamp ahead of the broker's clock, in milliseconds; `None`: no bound.
    pub timestamp_after_max_ms: Option<u64>,
    /// Greatest size of a compressed batch of messages, in bytes; `None`: unknown or no bound.
    pub max_message_bytes: Option<u64>,
    /// The names of the settings behind the two bounds on timestamps, which depend on the broker's version.
    bound_names: (&'static str, &'static str),
}

impl TopicConfig {
    pub(super) fn read(address: Address, partitions: usize, told: Option<&ConfigResource>) -> Self {
        let text = |name| told.and_then(|told| told.get(name)?.value.as_deref());
        // A negative number is Kafka's "no bound", and so is the greatest one.
        let number = |name| text(name)?.parse().ok().filter(|number| *number < NO_BOUND);
        let policy = text("cleanup.policy").unwrap_or_default();
        let has = |word| policy.split(',').any(|part| part.trim() == word);
        // Kafka 3.6 to 3.9 have all three, and the old one holds where the new one is not set.
        let bound = |name| match number(name) {
            Some(bound) => (Some(bound), name),
            None => (number(DIFFERENCE_MAX), DIFFERENCE_MAX),
        };
        let (before, after) = (bound(BEFORE_MAX), bound(AFTER_MAX));
        TopicConfig {
            partitions,
            told: told.is_some(),
            retention_ms: number("retention.ms"),
            deletes: has("delete"),
            compacts: has("compact"),
            log_append_time: text("message.timestamp.type") == Some("LogAppendTime"),
            timestamp_before_max_ms: before.0,
            timestamp_after_max_ms: after.0,
            max_message_bytes: number("max.message.bytes"),
            bound_names: (before.1, after.1),
            address,
        }
    }

    /// Returns the configuration of a topic whose broker tells nothing: as if there were no bounds.
    pub fn untold(address: Address, partitions: usize) -> Self {
        TopicConfig::read(address, partitions, None)
    }

    /// Whether a message keeps the timestamp that it is sent with, which is all the time that there is
    /// in a format such as `kv`.
    pub fn check_timestamps_kept(&self) -> Result<(), Failure> {
        if !self.log_append_time {
            return Ok(());
        }
        let topic = Quoted(&self.address.topic);
        let mend = self.mend("message.timestamp.type=CreateTime");
        Err(Error::Unfit(format!(
            "topic {topic} has message.timestamp.type=LogAppendTime: the times of records would be \
             lost, which this format has nowhere else ({mend})"
        ))
        .into())
    }

    /// Returns the setting by which a new topic of the same name would lose messages that the earlier topic
    /// kept, with the remedy; `None` if no such setting is known.
    pub(super) fn worse_than(&self, before: &TopicConfig) -> Option<String> {
        if self.partitions < before.partitions {
            let (now, then) = (self.partitions, before.partitions);
            let Address { brokers, topic } = &self.address;
            return Some(format!(
                "it has {now} partitions and had {then} (kafka-topics.sh --bootstrap-server {brokers} \
                 --alter --topic {topic} --partitions {then}, or start again, which takes it as it is)"
            ));
        }
        if !(self.told && before.told) {
            return None;
        }
        let policy = |config: &TopicConfig| match (config.compacts, config.deletes) {
            (true, true) => "compact,delete",
            (true, false) => "compact",
            (false, _) => "delete",
        };
        let shown = |bound: Option<u64>| bound.map_or("-1".to_owned(), |ms| ms.to_string());
        let kept = |config: &TopicConfig| config.retention_ms.filter(|_| config.deletes);
        let time = |config: &TopicConfig| match config.log_append_time {
            true => "LogAppendTime",
            false => "CreateTime",
        };
        let less = |now: Option<u64>, then: Option<u64>| {
            now.is_some_and(|now| then.is_none_or(|then| now < then))
        };
        let (name, now, then) = if self.compacts != before.compacts {
            ("cleanup.policy", policy(self).to_owned(), policy(before).to_owned())
        } else if less(kept(self), kept(before)) {
            ("retention.ms", shown(kept(self)), shown(kept(before)))
        } else if self.log_append_time && !before.log_append_time {
            ("message.timestamp.type", time(self).to_owned(), time(before).to_owned())
        } else if less(self.timestamp_before_max_ms, before.timestamp_before_max_ms) {
            let [now, then] = [self, before].map(|config| config.timestamp_before_max_ms);
            (self.bound_names.0, shown(now), then.unwrap_or(NO_BOUND).to_string())
        } else if less(self.timestamp_after_max_ms, before.timestamp_after_max_ms) {
            let [now, then] = [self, before].map(|config| config.timestamp_after_max_ms);
            (self.bound_names.1, shown(now), then.unwrap_or(NO_BOUND).to_string())
        } else {
            return None;
        };
        // Of a value that is a list, brackets hold it together.
        let value = if then.contains(',') { format!("[{then}]") } else { then.clone() };
        let Address { brokers, topic } = &self.address;
        Some(format!(
            "{name} is {now} and was {then} (kafka-configs.sh --bootstrap-server {brokers} --alter \
             --entity-type topics --entity-name {topic} --add-config {name}={value}, or start again, which \
             takes it as it is)"
        ))
    }

    /// The commands that change it, or make another one.
    fn mend(&self, setting: &str) -> String {
        let Address { brokers, topic } = &self.address;
        format!(
            "let --create-topic make another topic, or change this one: kafka-configs.sh \
             --bootstrap-server {brokers} --alter --entity-type topics --entity-name {topic} \
             --add-config {setting}"
        )
    }
}

/// Holds a topic against the times of records: it must keep the oldest and accept all of them.
pub fn check_times(
    config: &TopicConfig,
    oldest_ms: u64,
    newest_ms: u64,
    now_ms: u64,
) -> Result<(), Failure> {
    // The timestamps are then the broker's own, and records are never old.
    if config.log_append_time {
        return Ok(());
    }
    let topic = Quoted(&config.address.topic);
    let (oldest, newest) = (format_ms(oldest_ms), format_ms(newest_ms));
    let age_ms = now_ms.saturating_sub(oldest_ms);
    let ahead_ms = newest_ms.saturating_sub(now_ms);
    let unfit = |text: String, setting: String| {
        Err(Error::Unfit(format!("{text} ({})", config.mend(&setting))).into())
    };
    if let Some(kept_ms) = config.retention_ms.filter(|kept_ms| config.deletes && age_ms > *kept_ms)
    {
        return unfit(
            format!(
                "topic {topic} keeps messages for {} (retention.ms={kept_ms}), and the oldest record \
                 is {} old, of {oldest}: it would be deleted",
                span(kept_ms),
                span(age_ms),
            ),
            "retention.ms=-1".to_owned(),
        );
    }
    let (before_name, after_name) = config.bound_names;
    if let Some(max_ms) = config.timestamp_before_max_ms.filter(|max_ms| age_ms > *max_ms) {
        return unfit(
            format!(
                "topic {topic} refuses messages older than {} ({before_name}={max_ms}), and the oldest \
                 record is {} old, of {oldest}",
                span(max_ms),
                span(age_ms),
            ),
            format!("{before_name}={NO_BOUND}"),
        );
    }
    if let Some(max_ms) = config.timestamp_after_max_ms.filter(|max_ms| ahead_ms > *max_ms) {
        return unfit(
            format!(
                "topic {topic} refuses messages more than {} ahead of its clock ({after_name}={max_ms}), \
                 and the newest record is {} ahead, of {newest}",
                span(max_ms),
                span(ahead_ms),
            ),
            format!("{after_name}={NO_BOUND}"),
        );
    }
    Ok(())
}

/// A length of time in the greatest unit that it has at least one of.
fn span(ms: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(86_400_000, "days"), (3_600_000, "h"), (60_000, "min"), (1000, "s")];
    let unit = UNITS.iter().find(|(length_ms, _)| ms >= *length_ms);
    unit.map_or_else(|| format!("{ms} ms"), |(length, name)| format!("{} {name}", ms / length))
}

#[cfg(test)]
mod tests {
    use rdkafka::admin::{ConfigEntry, ConfigSource, OwnedResourceSpecifier};

    use super::*;
    use crate::base::error::Exit;

    const DAY: u64 = 86_400_000;
    const NOW: u64 = 20_000 * DAY;

    fn told(entries: &[(&str, &str)]) -> TopicConfig {
        let entries = entries.iter().map(|(name, value)| ConfigEntry {
            name: (*name).into(),
            value: Some((*value).into()),
            source: ConfigSource::DynamicTopic,
            is_read_only: false,
            is_default: false,
            is_sensitive: false,
        });
        let specifier = OwnedResourceSpecifier::Topic("flows".into());
        let resource = ConfigResource { specifier, entries: entries.collect() };
        TopicConfig::read("kafka://host/flows".parse().unwrap(), 1, Some(&resource))
    }

    fn refused(config: &TopicConfig, oldest_ms: u64, newest_ms: u64) -> String {
        let failure = check_times(config, oldest_ms, newest_ms, NOW).expect_err("it is unfit");
        assert_eq!(failure.exit, Exit::BadConfig);
        failure.error.to_string()
    }

    #[test]
    fn what_is_not_told_has_no_bounds() {
        let address = "kafka://host/flows".parse().unwrap();
        let config = TopicConfig::read(address, 2, None);
        assert_eq!((config.told, config.partitions, config.retention_ms), (false, 2, None));
        check_times(&config, 0, u64::MAX, NOW).expect("nothing is known against it");
        config.check_timestamps_kept().expect("nothing is known against it");
    }

    #[test]
    fn a_topic_that_forgets_is_named_with_what_mends_it() {
        let config = told(&[("cleanup.policy", "delete"), ("retention.ms", "604800000")]);
        check_times(&config, NOW - 7 * DAY, NOW, NOW).expect("just young enough");
        let said = refused(&config, NOW - 30 * DAY, NOW);
        for part in [
            "topic \"flows\" keeps messages for 7 days (retention.ms=604800000)",
            "the oldest record is 30 days old, of 2024-09-04T00:00:00Z",
            "--create-topic",
            "--bootstrap-server host:9092 --alter --entity-type topics --entity-name flows",
            "--add-config retention.ms=-1",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        for fits in [
            told(&[("cleanup.policy", "compact"), ("retention.ms", "1")]),
            told(&[("cleanup.policy", "delete"), ("retention.ms", "-1")]),
        ] {
            check_times(&fits, 0, NOW, NOW).expect("it keeps all");
        }
        let both = told(&[("cleanup.policy", "compact,delete"), ("retention.ms", "1")]);
        assert!(refused(&both, NOW - 2, NOW).contains("keeps messages for 1 ms"));
    }

    #[test]
    fn bounds_on_timestamps_are_named_as_the_broker_names_them() {
        let none = NO_BOUND.to_string();
        let hour = "3600000";
        let config = told(&[(BEFORE_MAX, hour), (AFTER_MAX, "60000"), (DIFFERENCE_MAX, &none)]);
        let said = refused(&config, NOW - DAY, NOW);
        assert!(
            said.contains("older than 1 h (message.timestamp.before.max.ms=3600000)"),
            "{said}"
        );
        let said = refused(&config, NOW, NOW + DAY);
        let part = "more than 1 min ahead of its clock (message.timestamp.after.max.ms=60000)";
        assert!(said.contains(part) && said.contains("is 1 days ahead"), "{said}");
        check_times(&config, NOW - 3_600_000, NOW + 60_000, NOW).expect("just within");
        // Brokers before 3.6 have one bound for both.
        let config = told(&[(DIFFERENCE_MAX, hour)]);
        for (oldest, newest) in [(NOW - DAY, NOW), (NOW, NOW + DAY)] {
            let said = refused(&config, oldest, newest);
            assert!(said.contains("message.timestamp.difference.max.ms=3600000"), "{said}");
        }
    }

    #[test]
    fn topic_that_replaces_another_and_keeps_less_is_named_with_what_mends_it() {
        let policy = |policy: &str| told(&[("cleanup.policy", policy), ("retention.ms", "1000")]);
        let (state, plain) = (policy("compact,delete"), policy("delete"));
        let said = plain.worse_than(&state).expect("it is not compacted");
        for part in
            ["is delete and was compact,delete", "--add-config cleanup.policy=[compact,delete]"]
        {
            assert!(said.contains(part), "{part}: {said}");
        }
        // Records with the same key would replace each other.
        assert!(state.worse_than(&plain).is_some_and(|said| said.contains("was delete")));
        let forever = told(&[("cleanup.policy", "delete"), ("retention.ms", "-1")]);
        let said = plain.worse_than(&forever).expect("it keeps a second");
        assert!(said.contains("retention.ms is 1000 and was -1"), "{said}");
        let (one, two) = (plain.clone(), TopicConfig { partitions: 2, ..plain.clone() });
        assert!(one.worse_than(&two).is_some_and(|said| said.contains("--partitions 2")));
        let bound =
            told(&[("cleanup.policy", "delete"), ("retention.ms", "-1"), (BEFORE_MAX, "5")]);
        let said = bound.worse_than(&forever).expect("it refuses older ones");
        assert!(said.contains("message.timestamp.before.max.ms is 5"), "{said}");
        let stamps = told(&[("retention.ms", "-1"), ("message.timestamp.type", "LogAppendTime")]);
        let keeps = told(&[("retention.ms", "-1")]);
        assert!(stamps.worse_than(&keeps).is_some_and(|said| said.contains("LogAppendTime")));
        for (now, before) in [(&forever, &plain), (&two, &one), (&plain, &plain)] {
            assert_eq!(now.worse_than(before), None);
        }
        let untold = TopicConfig::untold(plain.address.clone(), 1);
        assert_eq!((untold.worse_than(&state), plain.worse_than(&untold)), (None, None));
    }

    #[test]
    fn a_topic_that_stamps_messages_itself_takes_any_age_and_loses_times() {
        let config = told(&[
            ("message.timestamp.type", "LogAppendTime"),
            ("cleanup.policy", "delete"),
            ("retention.ms", "1"),
            (BEFORE_MAX, "1"),
        ]);
        check_times(&config, 0, NOW, NOW).expect("the timestamps are its own");
        let failure = config.check_timestamps_kept().expect_err("times are lost");
        assert_eq!(failure.exit, Exit::BadConfig);
        let said = failure.error.to_string();
        assert!(said.contains("message.timestamp.type=LogAppendTime"), "{said}");
    }
}
