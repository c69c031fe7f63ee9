//! The clients of transactions, which end those of earlier owners when they start.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, Producer as _};

use super::setup;
use super::transaction_reports::TransactionReports;
use crate::base::error::{Exit, Failure};

/// Time limit for one request about a transaction, before it is made again.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Time within which the broker must end the transactions of an earlier owner, and accept the claim of a new one.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The clients of which the transactions of all earlier owners have ended. None is opened later: that would end those
/// of a later owner.
pub(super) struct FencedClients(pub(super) [BaseProducer<TransactionReports>; 3]);

/// The one of these that sends each message in a batch of its own.
pub(super) const SINGLE: usize = 2;

impl FencedClients {
    /// Starts the clients, and ends the transactions of earlier owners.
    pub(super) fn start(config: &ClientConfig, id: &str) -> Result<Self, Failure> {
        let mut single = config.clone();
        single.set("batch.num.messages", "1");
        Ok(FencedClients([
            start(config, &format!("{id}/1"))?,
            start(config, &format!("{id}/2"))?,
            start(&single, &format!("{id}/3"))?,
        ]))
    }
}

/// Starts a client with this `transactional.id`, and ends the transactions of earlier owners.
fn start(config: &ClientConfig, id: &str) -> Result<BaseProducer<TransactionReports>, Failure> {
    let mut config = config.clone();
    config.set("transactional.id", id);
    let starting = || format!("ending the transactions of earlier owners of \"{id}\"");
    let producer: BaseProducer<TransactionReports> =
        setup::create(&config, TransactionReports::default())?;
    let until = Instant::now() + START_TIMEOUT;
    loop {
        match producer.init_transactions(REQUEST_TIMEOUT) {
            Ok(()) => return Ok(producer),
            Err(error) if is_retriable(&error) && Instant::now() < until => {}
            Err(error) => {
                let why = anyhow!(error).context(starting());
                return Err(Failure::new(Exit::Unavailable, why));
            }
        }
    }
}

/// Whether a request may succeed when it is made again.
pub(super) fn is_retriable(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(error) => error.is_retriable(),
        KafkaError::Flush(_) => true,
        _ => false,
    }
}
