//! The settings of a topic for the times of messages, checked against the times of the records to be sent to
//! it.
//!
//! A broker deletes messages whose timestamps are older than the retention time, and refuses messages whose timestamps
//! are too far from its clock. Records of a capture are as old as the capture, so the settings are checked before any
//! message is sent.

use rdkafka::admin::ConfigResource;

use super::{Address, Error};
use crate::base::date::format_ms;
use crate::base::error::Failure;
use crate::base::quote::Quoted;

/// The settings that bound the distance of a timestamp behind or ahead of the broker's clock, in Kafka 3.6 and later;
/// earlier versions have only the third one.
pub(super) const BEFORE_MAX: &str = "message.timestamp.before.max.ms";
pub(super) const AFTER_MAX: &str = "message.timestamp.after.max.ms";
pub(super) const DIFFERENCE_MAX: &str = "message.timestamp.difference.max.ms";

/// Kafka's value for "no bound".
pub(super) const NO_BOUND: u64 = i64::MAX as u64;

/// The settings of a topic for the times and sizes of messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// The address of the topic.
    pub address: Address,
    /// The number of partitions.
    pub partitions: usize,
    /// Whether the broker has returned the configuration. If not, the fields below have no bounds.
    pub is_known: bool,
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
    /// The names of the settings of the two timestamp bounds, which depend on the broker's version.
    bound_names: (&'static str, &'static str),
}

impl TopicConfig {
    pub(super) fn read(
        address: Address,
        partitions: usize,
        resource: Option<&ConfigResource>,
    ) -> Self {
        let text = |name| resource.and_then(|resource| resource.get(name)?.value.as_deref());
        // A negative number is Kafka's "no bound", and so is the greatest one.
        let number = |name| text(name)?.parse().ok().filter(|number| *number < NO_BOUND);
        let policy = text("cleanup.policy").unwrap_or_default();
        let has = |word| policy.split(',').any(|part| part.trim() == word);
        // Kafka 3.6 to 3.9 have all three settings; the old one applies if the new one is not set.
        let bound = |name| match number(name) {
            Some(bound) => (Some(bound), name),
            None => (number(DIFFERENCE_MAX), DIFFERENCE_MAX),
        };
        let (before, after) = (bound(BEFORE_MAX), bound(AFTER_MAX));
        TopicConfig {
            partitions,
            is_known: resource.is_some(),
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

    /// Returns the configuration of a topic whose broker does not return it: without bounds.
    pub fn unknown(address: Address, partitions: usize) -> Self {
        TopicConfig::read(address, partitions, None)
    }

    /// Checks that messages keep the timestamps that they are sent with: a format such as `kv` has no other time.
    pub fn check_timestamps_kept(&self) -> Result<(), Failure> {
        if !self.log_append_time {
            return Ok(());
        }
        let topic = Quoted(&self.address.topic);
        let remedy = self.remedy("message.timestamp.type=CreateTime");
        Err(Error::Unfit(format!(
            "topic {topic} has message.timestamp.type=LogAppendTime: the times of records would be \
             lost, since messages of this format contain no time ({remedy})"
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
                 --alter --topic {topic} --partitions {then}, or start again to use the topic as it is)"
            ));
        }
        if !(self.is_known && before.is_known) {
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
        // `kafka-configs.sh` needs brackets around a value with commas.
        let value = if then.contains(',') { format!("[{then}]") } else { then.clone() };
        let Address { brokers, topic } = &self.address;
        Some(format!(
            "{name} is {now} and was {then} (kafka-configs.sh --bootstrap-server {brokers} --alter \
             --entity-type topics --entity-name {topic} --add-config {name}={value}, or start again to \
             use the topic as it is)"
        ))
    }

    /// Returns the option that creates another topic, and the command that changes this one.
    fn remedy(&self, setting: &str) -> String {
        let Address { brokers, topic } = &self.address;
        format!(
            "let --create-topic make another topic, or change this one: kafka-configs.sh \
             --bootstrap-server {brokers} --alter --entity-type topics --entity-name {topic} \
             --add-config {setting}"
        )
    }
}

/// Checks that a topic keeps the oldest record and accepts the times of all records.
pub fn check_times(
    config: &TopicConfig,
    oldest_ms: u64,
    newest_ms: u64,
    now_ms: u64,
) -> Result<(), Failure> {
    // The broker then sets the timestamps itself, so records are never old.
    if config.log_append_time {
        return Ok(());
    }
    let topic = Quoted(&config.address.topic);
    let (oldest, newest) = (format_ms(oldest_ms), format_ms(newest_ms));
    let age_ms = now_ms.saturating_sub(oldest_ms);
    let ahead_ms = newest_ms.saturating_sub(now_ms);
    let unfit = |text: String, setting: String| {
        Err(Error::Unfit(format!("{text} ({})", config.remedy(&setting))).into())
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

/// Formats a duration in the greatest unit of which it contains at least one.
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

    fn topic_config(entries: &[(&str, &str)]) -> TopicConfig {
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

    fn rejection(config: &TopicConfig, oldest_ms: u64, newest_ms: u64) -> String {
        let failure = check_times(config, oldest_ms, newest_ms, NOW).expect_err("it is unfit");
        assert_eq!(failure.exit, Exit::BadConfig);
        failure.error.to_string()
    }

    #[test]
    fn unknown_configuration_has_no_bounds() {
        let address = "kafka://host/flows".parse().unwrap();
        let config = TopicConfig::read(address, 2, None);
        assert_eq!((config.is_known, config.partitions, config.retention_ms), (false, 2, None));
        check_times(&config, 0, u64::MAX, NOW).expect("nothing is known against it");
        config.check_timestamps_kept().expect("nothing is known against it");
    }

    #[test]
    fn topic_with_short_retention_is_rejected_with_the_remedy() {
        let config = topic_config(&[("cleanup.policy", "delete"), ("retention.ms", "604800000")]);
        check_times(&config, NOW - 7 * DAY, NOW, NOW).expect("just young enough");
        let error = rejection(&config, NOW - 30 * DAY, NOW);
        for part in [
            "topic \"flows\" keeps messages for 7 days (retention.ms=604800000)",
            "the oldest record is 30 days old, of 2024-09-04T00:00:00Z",
            "--create-topic",
            "--bootstrap-server host:9092 --alter --entity-type topics --entity-name flows",
            "--add-config retention.ms=-1",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        for fits in [
            topic_config(&[("cleanup.policy", "compact"), ("retention.ms", "1")]),
            topic_config(&[("cleanup.policy", "delete"), ("retention.ms", "-1")]),
        ] {
            check_times(&fits, 0, NOW, NOW).expect("it keeps all");
        }
        let both = topic_config(&[("cleanup.policy", "compact,delete"), ("retention.ms", "1")]);
        assert!(rejection(&both, NOW - 2, NOW).contains("keeps messages for 1 ms"));
    }

    #[test]
    fn timestamp_bounds_are_named_as_by_the_broker() {
        let none = NO_BOUND.to_string();
        let hour = "3600000";
        let config =
            topic_config(&[(BEFORE_MAX, hour), (AFTER_MAX, "60000"), (DIFFERENCE_MAX, &none)]);
        let error = rejection(&config, NOW - DAY, NOW);
        assert!(
            error.contains("older than 1 h (message.timestamp.before.max.ms=3600000)"),
            "{error}"
        );
        let error = rejection(&config, NOW, NOW + DAY);
        let part = "more than 1 min ahead of its clock (message.timestamp.after.max.ms=60000)";
        assert!(error.contains(part) && error.contains("is 1 days ahead"), "{error}");
        check_times(&config, NOW - 3_600_000, NOW + 60_000, NOW).expect("just within");
        // Brokers before 3.6 have one bound for both.
        let config = topic_config(&[(DIFFERENCE_MAX, hour)]);
        for (oldest, newest) in [(NOW - DAY, NOW), (NOW, NOW + DAY)] {
            let error = rejection(&config, oldest, newest);
            assert!(error.contains("message.timestamp.difference.max.ms=3600000"), "{error}");
        }
    }

    #[test]
    fn replacement_topic_that_keeps_less_is_named_with_the_remedy() {
        let policy =
            |policy: &str| topic_config(&[("cleanup.policy", policy), ("retention.ms", "1000")]);
        let (state, plain) = (policy("compact,delete"), policy("delete"));
        let error = plain.worse_than(&state).expect("it is not compacted");
        for part in
            ["is delete and was compact,delete", "--add-config cleanup.policy=[compact,delete]"]
        {
            assert!(error.contains(part), "{part}: {error}");
        }
        // Records with the same key would replace each other.
        assert!(state.worse_than(&plain).is_some_and(|error| error.contains("was delete")));
        let forever = topic_config(&[("cleanup.policy", "delete"), ("retention.ms", "-1")]);
        let error = plain.worse_than(&forever).expect("it keeps a second");
        assert!(error.contains("retention.ms is 1000 and was -1"), "{error}");
        let (one, two) = (plain.clone(), TopicConfig { partitions: 2, ..plain.clone() });
        assert!(one.worse_than(&two).is_some_and(|error| error.contains("--partitions 2")));
        let bound = topic_config(&[
            ("cleanup.policy", "delete"),
            ("retention.ms", "-1"),
            (BEFORE_MAX, "5"),
        ]);
        let error = bound.worse_than(&forever).expect("it refuses older ones");
        assert!(error.contains("message.timestamp.before.max.ms is 5"), "{error}");
        let stamps =
            topic_config(&[("retention.ms", "-1"), ("message.timestamp.type", "LogAppendTime")]);
        let keeps = topic_config(&[("retention.ms", "-1")]);
        assert!(stamps.worse_than(&keeps).is_some_and(|error| error.contains("LogAppendTime")));
        for (now, before) in [(&forever, &plain), (&two, &one), (&plain, &plain)] {
            assert_eq!(now.worse_than(before), None);
        }
        let unknown = TopicConfig::unknown(plain.address.clone(), 1);
        assert_eq!((unknown.worse_than(&state), plain.worse_than(&unknown)), (None, None));
    }

    #[test]
    fn topic_with_log_append_time_accepts_any_age_and_loses_times() {
        let config = topic_config(&[
            ("message.timestamp.type", "LogAppendTime"),
            ("cleanup.policy", "delete"),
            ("retention.ms", "1"),
            (BEFORE_MAX, "1"),
        ]);
        check_times(&config, 0, NOW, NOW).expect("the timestamps are its own");
        let failure = config.check_timestamps_kept().expect_err("times are lost");
        assert_eq!(failure.exit, Exit::BadConfig);
        let error = failure.error.to_string();
        assert!(error.contains("message.timestamp.type=LogAppendTime"), "{error}");
    }
}
