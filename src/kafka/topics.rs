//! Finds, creates and describes topics. [`TopicConfig`] has their settings for times.

use std::future::Future;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;

use super::times::{AFTER_MAX, BEFORE_MAX, DIFFERENCE_MAX, NO_BOUND};
use super::{Address, ClientOptions, Context, Error, client_config, setup};
use crate::base::error::Failure;
use crate::base::quote::Quoted;

pub use super::times::{TopicConfig, check_times};

/// Time limit for a broker to respond before it counts as unreachable. A broker that is started together with floodmark
/// gets the time to start.
pub const REACH_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit for one request of metadata, before the errors that librdkafka has reported meanwhile are read.
const METADATA_TIMEOUT: Duration = Duration::from_millis(200);

/// Time limit for a broker to create or to describe a topic.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(20);

/// Time limit for a newly created topic to become known to the broker.
const APPEAR_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause between two requests for a topic that is unknown.
const APPEAR_INTERVAL: Duration = Duration::from_millis(200);

/// Time limit for describing a topic where the description is not needed.
const TRY_DESCRIBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The settings of a topic that is to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The number of partitions; -1 for the broker's default.
    pub partitions: i32,
    /// The number of replicas; -1 for the broker's default.
    pub replication: i32,
    /// The configuration, as far as it differs from the broker's default.
    pub config: Vec<(&'static str, String)>,
}

impl Plan {
    /// For records as they are captured, kept for the default time of the broker.
    pub fn flows(partitions: i32) -> Self {
        let config = vec![("message.timestamp.type", "CreateTime".to_owned())];
        Plan { partitions, replication: -1, config }
    }

    /// For records of any age, such as those of a capture file, kept for ever.
    pub fn recording(partitions: i32) -> Self {
        let mut plan = Plan::flows(partitions);
        plan.config.extend([
            ("retention.ms", "-1".to_owned()),
            (BEFORE_MAX, NO_BOUND.to_string()),
            (AFTER_MAX, NO_BOUND.to_string()),
        ]);
        plan
    }

    /// For dead letters, kept for the default time of the broker, without compaction.
    pub fn dead_letters() -> Self {
        let mut plan = Plan::flows(-1);
        // A broker whose default is compaction would keep one of two messages with the same key.
        plan.config.push(("cleanup.policy", "delete".to_owned()));
        plan
    }

    /// For messages that replace those of the same key: alerts by their ids, totals by window and pair.
    pub fn state(partitions: i32) -> Self {
        let mut plan = Plan::flows(partitions);
        plan.config.push(("cleanup.policy", "compact,delete".to_owned()));
        plan
    }

    /// For the records of the ticks of runs with a state.
    pub fn records() -> Self {
        let mut plan = Plan::flows(1);
        plan.config.push(("cleanup.policy", "compact".to_owned()));
        plan
    }

    /// Returns the command by which people can create such a topic.
    fn command(&self, address: &Address) -> String {
        let Address { brokers, topic } = address;
        let mut command =
            format!("kafka-topics.sh --bootstrap-server {brokers} --create --topic {topic}");
        for (name, value) in &self.config {
            // CreateTime is the default of every broker.
            if value != "CreateTime" {
                command += &format!(" --config {name}={value}");
            }
        }
        command
    }

    /// Returns the plan for brokers that have one bound on timestamps instead of two; `None` if the plan sets
    /// no bound.
    fn for_older_brokers(&self) -> Option<Self> {
        let new = |name: &str| name == BEFORE_MAX || name == AFTER_MAX;
        let bound = self.config.iter().find(|(name, _)| new(name))?.1.clone();
        let mut plan = self.clone();
        plan.config.retain(|(name, _)| !new(name));
        plan.config.push((DIFFERENCE_MAX, bound));
        Some(plan)
    }
}

/// The outcome of creating a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// The topic was created.
    New,
    /// The topic existed before, and is unchanged.
    Existed,
}

/// Returns the number of partitions of a topic.
pub fn partitions(address: &Address, options: &ClientOptions) -> Result<usize, Failure> {
    let config = client_config(address, options)?;
    Ok(existing(address, &config)?)
}

/// Checks that a topic to be written to exists. With `create`, a missing topic is created by this plan; otherwise it
/// is an error.
pub fn find(
    address: &Address,
    options: &ClientOptions,
    plan: &Plan,
    create: bool,
) -> Result<(), Failure> {
    if create {
        return self::create(address, options, plan).map(drop);
    }
    let config = client_config(address, options)?;
    match existing(address, &config) {
        Err(Error::UnknownTopic { topic, brokers, similar, .. }) => {
            let command = plan.command(address);
            Err(Error::UnknownTopic { topic, brokers, similar, command }.into())
        }
        found => Ok(found.map(drop)?),
    }
}

/// Creates a topic, if it does not exist.
pub fn create(address: &Address, options: &ClientOptions, plan: &Plan) -> Result<Created, Failure> {
    let config = client_config(address, options)?;
    if lookup(address, &config)?.is_some() {
        return Ok(Created::Existed);
    }
    let admin = admin(&config)?;
    let mut result = create_as(address, &admin, plan)?;
    if result == Err(RDKafkaErrorCode::InvalidConfig)
        && let Some(plan) = plan.for_older_brokers()
    {
        result = create_as(address, &admin, &plan)?;
    }
    let doing = format!("creating topic {}", Quoted(&address.topic));
    match result {
        Ok(()) => {}
        // Another client has created it meanwhile.
        Err(RDKafkaErrorCode::TopicAlreadyExists) => return Ok(Created::Existed),
        Err(code) => return Err(denied(doing, code).into()),
    }
    // The controller has created it; the brokers learn of it a little later.
    let until = Instant::now() + REACH_TIMEOUT;
    while lookup(address, &config)?.is_none() {
        if Instant::now() >= until {
            let reason = "it was created, but no broker knows it".to_owned();
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
    let responses = wait_for(admin.create_topics([&topic], &options))
        .map_err(|error| failed(address, doing(), &error))?;
    Ok(responses.into_iter().try_for_each(|response| response.map(drop).map_err(|(_, code)| code)))
}

/// Reads the settings of a topic for times. The topic must exist.
///
/// If the broker does not return the settings (this user may send but not describe), [`TopicConfig::is_known`] is
/// false.
pub fn describe(address: &Address, options: &ClientOptions) -> Result<TopicConfig, Failure> {
    let config = client_config(address, options)?;
    let partitions = existing(address, &config)?;
    match configuration(address, &config, ADMIN_TIMEOUT)? {
        Ok(resource) => Ok(TopicConfig::read(address.clone(), partitions, Some(&resource))),
        Err(error) if is_withheld(&error) => Ok(unknown_config(address, partitions, &error)),
        Err(error) => {
            let doing = format!("describing topic {}", Quoted(&address.topic));
            Err(failed(address, doing, &error).into())
        }
    }
}

/// Describes a topic as [`describe`] does, where the configuration is useful but not needed: waits at most 2 s
/// for it, and returns an unknown configuration if reading it fails.
pub fn try_describe(address: &Address, options: &ClientOptions) -> Result<TopicConfig, Failure> {
    let config = client_config(address, options)?;
    let partitions = existing(address, &config)?;
    match configuration(address, &config, TRY_DESCRIBE_TIMEOUT)? {
        Ok(resource) => Ok(TopicConfig::read(address.clone(), partitions, Some(&resource))),
        Err(error) => Ok(unknown_config(address, partitions, &error)),
    }
}

fn configuration(
    address: &Address,
    config: &ClientConfig,
    timeout: Duration,
) -> Result<Result<ConfigResource, KafkaError>, Error> {
    let topic = ResourceSpecifier::Topic(&address.topic);
    let options = AdminOptions::new().request_timeout(Some(timeout));
    let responses = wait_for(admin(config)?.describe_configs([&topic], &options));
    Ok(responses.and_then(|responses| match responses.into_iter().next() {
        Some(response) => response.map_err(KafkaError::AdminOp),
        None => Err(KafkaError::Canceled),
    }))
}

/// Whether this user may not read the configuration, or the broker does not support reading it.
fn is_withheld(error: &KafkaError) -> bool {
    matches!(
        code(error),
        Some(
            RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
                | RDKafkaErrorCode::UnsupportedFeature
        )
    )
}

fn unknown_config(address: &Address, partitions: usize, error: &KafkaError) -> TopicConfig {
    let topic = &address.topic;
    tracing::warn!(topic, %error, "cannot read the configuration of the topic");
    TopicConfig::unknown(address.clone(), partitions)
}

/// Returns the code of an error, also of an error of an admin request, for which the crate returns none.
fn code(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        error => error.rdkafka_error_code(),
    }
}

/// Returns the number of partitions of a topic, which must exist or appear within a second.
pub(super) fn existing(address: &Address, config: &ClientConfig) -> Result<usize, Error> {
    let client = client(config)?;
    let until = Instant::now() + APPEAR_TIMEOUT;
    loop {
        if let Some(partitions) = request_partitions(&client, address)? {
            return Ok(partitions);
        }
        if Instant::now() >= until {
            let Address { brokers, topic } = address.clone();
            let similar = similar(&client, &topic);
            let command = Plan::flows(-1).command(address);
            return Err(Error::UnknownTopic { topic, brokers, similar, command });
        }
        std::thread::sleep(APPEAR_INTERVAL);
    }
}

/// Returns the most similar name among the topics that this user may see, if one is similar enough.
fn similar(client: &BaseConsumer<Context>, name: &str) -> Option<String> {
    let metadata = client.fetch_metadata(None, REACH_TIMEOUT).ok()?;
    let names = metadata.topics().iter().map(rdkafka::metadata::MetadataTopic::name);
    most_similar(name, names).map(str::to_owned)
}

fn most_similar<'a>(name: &str, others: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // At most two typing errors, and fewer in a short name.
    let slips_max = (name.len() / 3).min(2);
    others
        // Kafka's own topics.
        .filter(|other| !other.starts_with("__"))
        .filter(|other| other.len().abs_diff(name.len()) <= slips_max)
        .map(|other| {
            let slips = match other.eq_ignore_ascii_case(name) {
                true => 0,
                false => strsim::osa_distance(other, name),
            };
            (slips, other)
        })
        .filter(|(slips, _)| *slips <= slips_max)
        .min()
        .map(|(_, other)| other)
}

/// Returns the number of partitions of a topic, if it exists.
pub(super) fn lookup(address: &Address, config: &ClientConfig) -> Result<Option<usize>, Error> {
    request_partitions(&client(config)?, address)
}

fn client(config: &ClientConfig) -> Result<BaseConsumer<Context>, Error> {
    setup::create(config, Context::new())
}

/// Requests the metadata of a topic until a broker responds. Brokers create no topic for such a request of a consumer.
fn request_partitions(
    client: &BaseConsumer<Context>,
    address: &Address,
) -> Result<Option<usize>, Error> {
    let context = client.context();
    let until = Instant::now() + REACH_TIMEOUT;
    loop {
        let response = client.fetch_metadata(Some(&address.topic), METADATA_TIMEOUT);
        // Events of librdkafka arrive only when the client is polled; the context keeps the reason of an error.
        loop {
            let events = context.events();
            let _event = client.poll(Duration::ZERO);
            if context.events() == events {
                break;
            }
        }
        let failed = match response {
            Ok(metadata) => match partitions_in(&metadata, &address.topic) {
                Lookup::Yes(partitions) => return Ok(Some(partitions)),
                Lookup::No => return Ok(None),
                Lookup::Failed(code) => code,
            },
            Err(error) => error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown),
        };
        if matches!(failed, RDKafkaErrorCode::TopicAuthorizationFailed) {
            return Err(denied(format!("reading topic {}", Quoted(&address.topic)), failed));
        }
        if let Some(reason) = context.credentials_error() {
            return Err(Error::Refused { brokers: address.brokers.clone(), reason });
        }
        if Instant::now() >= until {
            let reason = context.last_error().unwrap_or_else(|| failed.to_string());
            let brokers = address.brokers.clone();
            return Err(Error::Unreachable { brokers, waited: REACH_TIMEOUT, reason });
        }
    }
}

enum Lookup {
    Yes(usize),
    No,
    Failed(RDKafkaErrorCode),
}

fn partitions_in(metadata: &rdkafka::metadata::Metadata, name: &str) -> Lookup {
    let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else {
        return Lookup::No;
    };
    match topic.error() {
        None if topic.partitions().is_empty() => Lookup::No,
        None => Lookup::Yes(topic.partitions().len()),
        Some(
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
            | RDKafkaRespErr::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC,
        ) => Lookup::No,
        Some(error) => Lookup::Failed(error.into()),
    }
}

fn admin(config: &ClientConfig) -> Result<AdminClient<Context>, Error> {
    setup::create(config, Context::new())
}

/// Returns the error of an admin request that failed.
fn failed(address: &Address, doing: String, error: &KafkaError) -> Error {
    match code(error) {
        // A broker responded a moment ago, but the controller may be down.
        Some(RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::RequestTimedOut) => {
            let reason = format!("no response to {doing}");
            let brokers = address.brokers.clone();
            Error::Unreachable { brokers, waited: ADMIN_TIMEOUT, reason }
        }
        Some(code) => denied(doing, code),
        None => Error::Failed { doing, reason: error.to_string() },
    }
}

/// Returns the error of an operation that failed with this code.
pub(super) fn denied(doing: String, code: RDKafkaErrorCode) -> Error {
    match code {
        RDKafkaErrorCode::TopicAuthorizationFailed
        | RDKafkaErrorCode::ClusterAuthorizationFailed => Error::Forbidden { doing },
        _ => Error::Failed { doing, reason: code.to_string() },
    }
}

/// Waits for the response to an admin client, which is delivered by the client's own thread.
fn wait_for<T>(response: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime without sockets and timers takes nothing from the system")
        .block_on(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_name_suggests_the_existing_topic() {
        let topics = ["floodmark-alerts-v1", "floodmark-flows-v1", "__consumer_offsets", "ab"];
        for (name, suggested) in [
            ("floodmark-alert-v1", Some("floodmark-alerts-v1")),
            ("floodmark-alerst-v1", Some("floodmark-alerts-v1")),
            ("Floodmark-Flows-V1", Some("floodmark-flows-v1")),
            ("floodmark_alerts_v1", Some("floodmark-alerts-v1")),
            ("_consumer_offsets", None),
            ("floodmark-totals-v1", None),
            ("ac", None),
            ("x", None),
        ] {
            assert_eq!(most_similar(name, topics.into_iter()), suggested, "{name}");
        }
    }

    #[test]
    fn configuration_that_this_user_may_not_read_is_no_failure() {
        use RDKafkaErrorCode::*;
        for (code, withheld) in [
            (TopicAuthorizationFailed, true),
            (ClusterAuthorizationFailed, true),
            (UnsupportedFeature, true),
            (OperationTimedOut, false),
            (UnknownTopicOrPartition, false),
        ] {
            // The error of one topic, and the error of the whole request.
            assert_eq!(is_withheld(&KafkaError::AdminOp(code)), withheld, "{code:?}");
            assert_eq!(is_withheld(&KafkaError::Global(code)), withheld, "{code:?}");
        }
        let address = "kafka://host/t".parse().expect("an address");
        let error = failed(&address, "x".into(), &KafkaError::AdminOp(OperationTimedOut));
        assert_eq!(error.exit(), crate::base::error::Exit::Unavailable);
    }

    #[test]
    fn older_brokers_get_one_timestamp_bound() {
        let plan = Plan::recording(3).for_older_brokers().expect("it has bounds");
        let names: Vec<_> = plan.config.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["message.timestamp.type", "retention.ms", DIFFERENCE_MAX]);
        assert_eq!(Plan::state(3).for_older_brokers(), None);
    }
}
