//! Topics: found, made, described, and held against the records that are to be sent to them.
//!
//! A broker deletes messages that are older than the topic keeps them, by their own timestamps, and
//! refuses messages whose timestamps are too far from its clock. Records of a capture are as old as the
//! capture: so what a topic does with time is read, and compared, before anything is sent.

use std::future::Future;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;

use super::{Address, ClientOptions, Context, Error, client_config};
use crate::error::Failure;
use crate::limits::date::format_ms;
use crate::limits::quote::Quoted;

/// How long a broker may take to answer before it counts as unreachable. One that is being started
/// together with us gets the time to come up.
pub const REACH_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait for an answer before looking at what librdkafka has said meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// How long a broker may take to create or to describe a topic.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(20);

/// The bounds of Kafka 3.6 and later on how far a timestamp is behind or ahead of the broker's clock,
/// and the one that earlier versions have instead of both.
const BEFORE_MAX: &str = "message.timestamp.before.max.ms";
const AFTER_MAX: &str = "message.timestamp.after.max.ms";
const DIFFERENCE_MAX: &str = "message.timestamp.difference.max.ms";

/// The value by which Kafka says: no bound.
const NO_BOUND: u64 = i64::MAX as u64;

/// What a topic is to be like that is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How many partitions; -1 for as many as the broker gives a topic.
    pub partitions: i32,
    /// How many copies; -1 for as many as the broker gives a topic.
    pub replication: i32,
    /// Its configuration, as far as it is not the broker's.
    pub config: Vec<(&'static str, String)>,
}

impl Plan {
    /// For records as they are captured: kept as long as the broker keeps messages.
    pub fn flows(partitions: i32) -> Self {
        let config = vec![("message.timestamp.type", "CreateTime".to_owned())];
        Plan { partitions, replication: -1, config }
    }

    /// For records of any age, such as those of a capture file: kept for ever.
    pub fn recording(partitions: i32) -> Self {
        let mut plan = Plan::flows(partitions);
        plan.config.extend([
            ("retention.ms", "-1".to_owned()),
            (BEFORE_MAX, NO_BOUND.to_string()),
            (AFTER_MAX, NO_BOUND.to_string()),
        ]);
        plan
    }

    /// For messages that replace those of the same key: alerts by their ids, totals by window and pair.
    pub fn state(partitions: i32) -> Self {
        let mut plan = Plan::flows(partitions);
        plan.config.push(("cleanup.policy", "compact,delete".to_owned()));
        plan
    }

    /// The same for brokers that have one bound on timestamps instead of two.
    fn for_older_brokers(&self) -> Option<Self> {
        let new = |name: &str| name == BEFORE_MAX || name == AFTER_MAX;
        let bound = self.config.iter().find(|(name, _)| new(name))?.1.clone();
        let mut plan = self.clone();
        plan.config.retain(|(name, _)| !new(name));
        plan.config.push((DIFFERENCE_MAX, bound));
        Some(plan)
    }
}

/// What making a topic came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It was made.
    New,
    /// It was there already, and is as it was.
    Existed,
}

/// What a topic does with the time of messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// Which topic it is.
    pub address: Address,
    /// How many partitions it has.
    pub partitions: usize,
    /// Whether the broker has told its configuration. If not, nothing below is known, and as if there
    /// were no bounds.
    pub told: bool,
    /// How old a message gets before it is deleted; `None` is for ever.
    pub retention_ms: Option<u64>,
    /// Whether old messages are deleted.
    pub deletes: bool,
    /// Whether messages are replaced by later ones of the same key.
    pub compacts: bool,
    /// Whether the broker replaces timestamps by the time of their arrival.
    pub log_append_time: bool,
    /// How far behind the broker's clock a timestamp may be.
    pub timestamp_before_max_ms: Option<u64>,
    /// How far ahead of the broker's clock a timestamp may be.
    pub timestamp_after_max_ms: Option<u64>,
    /// How large a batch of messages may be, compressed.
    pub max_message_bytes: Option<u64>,
    /// What the two bounds are called there.
    bound_names: (&'static str, &'static str),
}

/// How many partitions a topic has.
pub fn partitions(address: &Address, options: &ClientOptions) -> Result<usize, Failure> {
    let config = client_config(address, options)?;
    Ok(existing(address, &config)?)
}

/// Makes a topic, if it is not there.
pub fn create(address: &Address, options: &ClientOptions, plan: &Plan) -> Result<Created, Failure> {
    let config = client_config(address, options)?;
    if lookup(address, &config)?.is_some() {
        return Ok(Created::Existed);
    }
    let admin = admin(&config)?;
    let mut made = create_as(address, &admin, plan)?;
    if made == Err(RDKafkaErrorCode::InvalidConfig)
        && let Some(plan) = plan.for_older_brokers()
    {
        made = create_as(address, &admin, &plan)?;
    }
    let doing = format!("creating topic {}", Quoted(&address.topic));
    match made {
        Ok(()) => {}
        // Somebody else was faster.
        Err(RDKafkaErrorCode::TopicAlreadyExists) => return Ok(Created::Existed),
        Err(code) => return Err(denied(doing, code).into()),
    }
    // The controller has made it; the brokers hear of it a little later.
    let until = Instant::now() + REACH_TIMEOUT;
    while lookup(address, &config)?.is_none() {
        if Instant::now() >= until {
            let reason = "it was created, and no broker has it".to_owned();
            return Err(Error::Failed { doing, reason }.into());
        }
    }
    Ok(Created::New)
}

fn create_as(
    address: &Address,
    admin: &AdminClient<Context>,
    plan: &Plan,
) -> Result<Result<(), RDKafkaErrorCode>, Error> {
    let replication = TopicReplication::Fixed(plan.replication);
    let mut topic = NewTopic::new(&address.topic, plan.partitions, replication);
    topic.config = plan.config.iter().map(|(name, value)| (*name, &**value)).collect();
    let doing = || format!("creating topic {}", Quoted(&address.topic));
    let options = AdminOptions::new()
        .request_timeout(Some(ADMIN_TIMEOUT))
        .operation_timeout(Some(REACH_TIMEOUT));
    let answers = wait_for(admin.create_topics([&topic], &options))
        .map_err(|error| failed(address, doing(), &error))?;
    Ok(answers.into_iter().try_for_each(|answer| answer.map(drop).map_err(|(_, code)| code)))
}

/// Reads what a topic does with time. The topic must be there.
///
/// If the broker does not tell (this user may send but not describe), that is so in the answer.
pub fn describe(address: &Address, options: &ClientOptions) -> Result<TopicConfig, Failure> {
    let config = client_config(address, options)?;
    let partitions = existing(address, &config)?;
    let topic = ResourceSpecifier::Topic(&address.topic);
    let options = AdminOptions::new().request_timeout(Some(ADMIN_TIMEOUT));
    let answer =
        wait_for(admin(&config)?.describe_configs([&topic], &options)).and_then(|answers| {
            match answers.into_iter().next() {
                Some(answer) => answer.map_err(KafkaError::AdminOp),
                None => Err(KafkaError::Canceled),
            }
        });
    let resource = match answer {
        Ok(resource) => Some(resource),
        Err(error) => match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
                | RDKafkaErrorCode::UnsupportedFeature,
            ) => {
                let topic = &address.topic;
                tracing::warn!("the broker does not tell the configuration of {topic}: {error}");
                None
            }
            _ => {
                let doing = format!("describing topic {}", Quoted(&address.topic));
                return Err(failed(address, doing, &error).into());
            }
        },
    };
    Ok(TopicConfig::read(address.clone(), partitions, resource.as_ref()))
}

impl TopicConfig {
    fn read(address: Address, partitions: usize, told: Option<&ConfigResource>) -> Self {
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

/// How many partitions a topic has, which must be there.
pub(super) fn existing(address: &Address, config: &ClientConfig) -> Result<usize, Error> {
    let Address { brokers, topic } = address.clone();
    lookup(address, config)?.ok_or(Error::UnknownTopic { topic, brokers })
}

/// How many partitions a topic has, if it is there.
///
/// Asks as a consumer: asked by a producer, a broker may create the topic.
fn lookup(address: &Address, config: &ClientConfig) -> Result<Option<usize>, Error> {
    let client: BaseConsumer<Context> =
        config.create_with_context(Context::new()).map_err(setup)?;
    let context = client.context();
    let until = Instant::now() + REACH_TIMEOUT;
    loop {
        let answer = client.fetch_metadata(Some(&address.topic), LOOK_INTERVAL);
        // What was said comes only when polled. An error is also in the context, by its reason.
        loop {
            let heard = context.heard();
            let _said = client.poll(Duration::ZERO);
            if context.heard() == heard {
                break;
            }
        }
        let failed = match answer {
            Ok(metadata) => match found(&metadata, &address.topic) {
                Found::Yes(partitions) => return Ok(Some(partitions)),
                Found::No => return Ok(None),
                Found::Failed(code) => code,
            },
            Err(error) => error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown),
        };
        if matches!(failed, RDKafkaErrorCode::TopicAuthorizationFailed) {
            return Err(denied(format!("reading topic {}", Quoted(&address.topic)), failed));
        }
        if let Some(reason) = context.refused() {
            return Err(Error::Refused { brokers: address.brokers.clone(), reason });
        }
        if Instant::now() >= until {
            let reason = context.last_error().unwrap_or_else(|| failed.to_string());
            let brokers = address.brokers.clone();
            return Err(Error::Unreachable { brokers, waited: REACH_TIMEOUT, reason });
        }
    }
}

enum Found {
    Yes(usize),
    No,
    Failed(RDKafkaErrorCode),
}

fn found(metadata: &rdkafka::metadata::Metadata, name: &str) -> Found {
    let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else {
        return Found::No;
    };
    match topic.error() {
        None if topic.partitions().is_empty() => Found::No,
        None => Found::Yes(topic.partitions().len()),
        Some(
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
            | RDKafkaRespErr::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC,
        ) => Found::No,
        Some(error) => Found::Failed(error.into()),
    }
}

fn admin(config: &ClientConfig) -> Result<AdminClient<Context>, Error> {
    config.create_with_context(Context::new()).map_err(setup)
}

/// The error of a client that can't be made.
pub(super) fn setup(error: KafkaError) -> Error {
    match error {
        KafkaError::ClientCreation(reason) => Error::Client(reason),
        KafkaError::ClientConfig(_, reason, ..) => Error::Client(reason),
        other => Error::Client(other.to_string()),
    }
}

/// The error of something that a broker was asked to do.
fn failed(address: &Address, doing: String, error: &KafkaError) -> Error {
    match error.rdkafka_error_code() {
        // A broker was there a moment ago; the one that decides about topics may not be.
        Some(RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::RequestTimedOut) => {
            let reason = format!("{doing} was not answered");
            let brokers = address.brokers.clone();
            Error::Unreachable { brokers, waited: ADMIN_TIMEOUT, reason }
        }
        Some(code) => denied(doing, code),
        None => Error::Failed { doing, reason: error.to_string() },
    }
}

/// The same by its code.
pub(super) fn denied(doing: String, code: RDKafkaErrorCode) -> Error {
    match code {
        RDKafkaErrorCode::TopicAuthorizationFailed
        | RDKafkaErrorCode::ClusterAuthorizationFailed => Error::Forbidden { doing },
        _ => Error::Failed { doing, reason: code.to_string() },
    }
}

/// Waits for an answer of an admin client, whose own thread brings it.
fn wait_for<T>(answer: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime without sockets and timers takes nothing from the system")
        .block_on(answer)
}

#[cfg(test)]
mod tests {
    use rdkafka::admin::{ConfigEntry, ConfigSource, OwnedResourceSpecifier};

    use super::*;
    use crate::error::Exit;

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

    #[test]
    fn older_brokers_get_one_bound() {
        let plan = Plan::recording(3).for_older_brokers().expect("it has bounds");
        let names: Vec<_> = plan.config.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["message.timestamp.type", "retention.ms", DIFFERENCE_MAX]);
        assert_eq!(Plan::state(3).for_older_brokers(), None);
    }
}
