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

/// Time limit for a broker to respond before it counts as unreachable. A broker that is started together with
/// this program gets the time to come up.
pub const REACH_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit for one request of metadata, before the errors that librdkafka has reported meanwhile are read.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Time limit for a broker to create or to describe a topic.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(20);

/// Time for a topic that was created just now to become known to the broker.
const APPEAR_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause between two requests for a topic that is unknown.
const APPEAR_INTERVAL: Duration = Duration::from_millis(200);

/// Time limit for describing a topic where the description is not needed.
const SOON_TIMEOUT: Duration = Duration::from_secs(2);

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

    /// For messages that could not be used: each is kept by itself, as long as the broker keeps messages.
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

    /// The command that creates such a topic, for people.
    fn command(&self, address: &Address) -> String {
        let Address { brokers, topic } = address;
        let mut command =
            format!("kafka-topics.sh --bootstrap-server {brokers} --create --topic {topic}");
        for (name, value) in &self.config {
            // Every broker has it as its default.
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

/// Finds a topic that is to be written to. One that is missing is created by this plan with `create`, and
/// is an error without.
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
    let mut made = create_as(address, &admin, plan)?;
    if made == Err(RDKafkaErrorCode::InvalidConfig)
        && let Some(plan) = plan.for_older_brokers()
    {
        made = create_as(address, &admin, &plan)?;
    }
    let doing = format!("creating topic {}", Quoted(&address.topic));
    match made {
        Ok(()) => {}
        // Another client has created it meanwhile.
        Err(RDKafkaErrorCode::TopicAlreadyExists) => return Ok(Created::Existed),
        Err(code) => return Err(denied(doing, code).into()),
    }
    // The controller has created it; the brokers learn of it a little later.
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

/// Reads the settings of a topic for times. The topic must exist.
///
/// If the broker does not tell them (this user may send but not describe), [`TopicConfig::told`] is false.
pub fn describe(address: &Address, options: &ClientOptions) -> Result<TopicConfig, Failure> {
    let config = client_config(address, options)?;
    let partitions = existing(address, &config)?;
    match configuration(address, &config, ADMIN_TIMEOUT)? {
        Ok(resource) => Ok(TopicConfig::read(address.clone(), partitions, Some(&resource))),
        Err(error) if is_withheld(&error) => Ok(untold(address, partitions, &error)),
        Err(error) => {
            let doing = format!("describing topic {}", Quoted(&address.topic));
            Err(failed(address, doing, &error).into())
        }
    }
}

/// Describes a topic as [`describe`] does, where the configuration is useful but not needed: waits at most 2 s
/// for it, and treats every failure to read it as a broker that does not tell.
pub fn describe_soon(address: &Address, options: &ClientOptions) -> Result<TopicConfig, Failure> {
    let config = client_config(address, options)?;
    let partitions = existing(address, &config)?;
    match configuration(address, &config, SOON_TIMEOUT)? {
        Ok(resource) => Ok(TopicConfig::read(address.clone(), partitions, Some(&resource))),
        Err(error) => Ok(untold(address, partitions, &error)),
    }
}

fn configuration(
    address: &Address,
    config: &ClientConfig,
    timeout: Duration,
) -> Result<Result<ConfigResource, KafkaError>, Error> {
    let topic = ResourceSpecifier::Topic(&address.topic);
    let options = AdminOptions::new().request_timeout(Some(timeout));
    let answers = wait_for(admin(config)?.describe_configs([&topic], &options));
    Ok(answers.and_then(|answers| match answers.into_iter().next() {
        Some(answer) => answer.map_err(KafkaError::AdminOp),
        None => Err(KafkaError::Canceled),
    }))
}

/// Whether a broker does not tell a configuration, to this user or to anybody.
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

fn untold(address: &Address, partitions: usize, error: &KafkaError) -> TopicConfig {
    let topic = &address.topic;
    tracing::warn!("the broker does not tell the configuration of {topic}: {error}");
    TopicConfig::untold(address.clone(), partitions)
}

/// The code of an error, also of one about a topic, where the crate has none.
fn code(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        error => error.rdkafka_error_code(),
    }
}

/// Returns the number of partitions of a topic, which must exist, or appear in a moment.
pub(super) fn existing(address: &Address, config: &ClientConfig) -> Result<usize, Error> {
    let client = client(config)?;
    let until = Instant::now() + APPEAR_TIMEOUT;
    loop {
        if let Some(partitions) = ask(&client, address)? {
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

/// The name most like this one among the topics that this user may see, if one is much like it.
fn similar(client: &BaseConsumer<Context>, name: &str) -> Option<String> {
    let metadata = client.fetch_metadata(None, REACH_TIMEOUT).ok()?;
    let names = metadata.topics().iter().map(rdkafka::metadata::MetadataTopic::name);
    most_similar(name, names).map(str::to_owned)
}

fn most_similar<'a>(name: &str, others: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Two slips, and fewer in a short name.
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
    ask(&client(config)?, address)
}

fn client(config: &ClientConfig) -> Result<BaseConsumer<Context>, Error> {
    setup::create(config, Context::new())
}

/// Asks until a broker answers. No broker creates a topic for a consumer that asks.
fn ask(client: &BaseConsumer<Context>, address: &Address) -> Result<Option<usize>, Error> {
    let context = client.context();
    let until = Instant::now() + REACH_TIMEOUT;
    loop {
        let answer = client.fetch_metadata(Some(&address.topic), LOOK_INTERVAL);
        // Events of librdkafka arrive only when the client is polled; the context keeps the reason of an error.
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
    setup::create(config, Context::new())
}

/// Returns the error of an admin request that failed.
fn failed(address: &Address, doing: String, error: &KafkaError) -> Error {
    match code(error) {
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

/// Returns the error of an operation that failed with this code.
pub(super) fn denied(doing: String, code: RDKafkaErrorCode) -> Error {
    match code {
        RDKafkaErrorCode::TopicAuthorizationFailed
        | RDKafkaErrorCode::ClusterAuthorizationFailed => Error::Forbidden { doing },
        _ => Error::Failed { doing, reason: code.to_string() },
    }
}

/// Waits for the response to an admin client, which is delivered by the client's own thread.
fn wait_for<T>(answer: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime without sockets and timers takes nothing from the system")
        .block_on(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_with_a_slip_suggests_the_topic_that_is_there() {
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
    fn configuration_that_this_user_may_not_read_is_withheld_and_no_failure() {
        use RDKafkaErrorCode::*;
        for (code, withheld) in [
            (TopicAuthorizationFailed, true),
            (ClusterAuthorizationFailed, true),
            (UnsupportedFeature, true),
            (OperationTimedOut, false),
            (UnknownTopicOrPartition, false),
        ] {
            // The answer about a topic, and that about all.
            assert_eq!(is_withheld(&KafkaError::AdminOp(code)), withheld, "{code:?}");
            assert_eq!(is_withheld(&KafkaError::Global(code)), withheld, "{code:?}");
        }
        let address = "kafka://host/t".parse().expect("an address");
        let error = failed(&address, "x".into(), &KafkaError::AdminOp(OperationTimedOut));
        assert_eq!(error.exit(), crate::base::error::Exit::Unavailable);
    }

    #[test]
    fn older_brokers_get_one_bound() {
        let plan = Plan::recording(3).for_older_brokers().expect("it has bounds");
        let names: Vec<_> = plan.config.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["message.timestamp.type", "retention.ms", DIFFERENCE_MAX]);
        assert_eq!(Plan::state(3).for_older_brokers(), None);
    }
}
