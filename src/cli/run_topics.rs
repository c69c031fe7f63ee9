//! The topics of a run with a state.

use anyhow::anyhow;

use crate::base::error::{Exit, Failure};
use crate::kafka::topics::TopicConfig;
use crate::kafka::{Address, OnRefusal};

/// The topics that a run with a state publishes to.
#[derive(Default)]
pub(super) struct PublishedTopics {
    /// The topics of alerts.
    pub(super) alerts: Vec<TopicConfig>,
    /// The topic of totals.
    pub(super) totals: Option<TopicConfig>,
    /// The topic of messages that can't be counted.
    pub(super) dead_letters: Option<TopicConfig>,
}

/// The messages of a topic.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Messages {
    Alerts,
    Totals,
    Uncounted,
}

impl PublishedTopics {
    /// Returns all of them, with their messages.
    pub(super) fn all(&self) -> impl Iterator<Item = (&TopicConfig, Messages)> {
        let alerts = self.alerts.iter().map(|topic| (topic, Messages::Alerts));
        let totals = self.totals.iter().map(|topic| (topic, Messages::Totals));
        let letters = self.dead_letters.iter().map(|topic| (topic, Messages::Uncounted));
        alerts.chain(totals).chain(letters)
    }

    /// Returns the topics of each cluster, which get the messages of a tick together.
    ///
    /// # Errors
    /// A topic is that of the records of ticks.
    pub(super) fn clusters(&self) -> Result<Vec<ClusterTopics>, Failure> {
        let mut clusters = Vec::<ClusterTopics>::new();
        for (topic, messages) in self.all() {
            let address = &topic.address;
            let is_there = |cluster: &&mut ClusterTopics| cluster.log.brokers == address.brokers;
            let cluster = match clusters.iter_mut().find(is_there) {
                Some(cluster) => cluster,
                None => {
                    let log = log_beside(address);
                    clusters.push(ClusterTopics { log, topics: Vec::new() });
                    clusters.last_mut().expect("it was added just now")
                }
            };
            cluster.topics.push((topic.clone(), messages));
        }
        for ClusterTopics { log, topics } in &clusters {
            if topics.iter().any(|(topic, _)| topic.address.topic == log.topic) {
                return Err(log_has_other_messages(log));
            }
        }
        Ok(clusters)
    }
}

/// Returns the topic of the records of ticks of a cluster, by its first topic.
fn log_beside(first: &Address) -> Address {
    Address { topic: format!("{}-progress", first.topic), ..first.clone() }
}

fn log_has_other_messages(log: &Address) -> Failure {
    let error =
        anyhow!("\"{log}\" gets the records of ticks (--state): it can't have other messages");
    Failure::new(Exit::Usage, error)
}

/// Checks that a run whose messages go to these topics does not read the records of its ticks.
pub(super) fn check_input<'a>(
    from: &Address,
    mut topics: impl Iterator<Item = &'a Address>,
) -> Result<(), Failure> {
    match topics.find(|topic| log_beside(topic).sorted() == from.sorted()) {
        Some(topic) => Err(log_has_other_messages(&log_beside(topic))),
        None => Ok(()),
    }
}

/// The topics of one cluster.
pub(super) struct ClusterTopics {
    /// The topic of the records of ticks.
    pub(super) log: Address,
    pub(super) topics: Vec<(TopicConfig, Messages)>,
}

impl ClusterTopics {
    /// Returns the topics, with the treatment of messages that their broker refuses.
    pub(super) fn with_refusals(&self) -> Vec<(TopicConfig, OnRefusal)> {
        let treated = |(topic, messages): &(TopicConfig, Messages)| match messages {
            Messages::Alerts | Messages::Totals => (topic.clone(), OnRefusal::Keep),
            Messages::Uncounted => (topic.clone(), OnRefusal::Cut),
        };
        self.topics.iter().map(treated).collect()
    }

    /// Returns the topics alone.
    pub(super) fn configs(&self) -> impl Iterator<Item = &TopicConfig> {
        self.topics.iter().map(|(topic, _)| topic)
    }
}
