//! Watches a topic that this process sends to, and detects when it is deleted or replaced.
//!
//! Clients of this program never have a broker create a topic. Others may: with
//! `auto.create.topics.enable`, which is Kafka's default, any client that requests a deleted topic creates it
//! again with the broker's default configuration. Such a topic has another id.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use metrics::{Counter, counter};
use rdkafka::client::Client;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;

use super::topic_id::{self, IdResponse, TopicId};
use super::topics::{self, TopicConfig};
use super::{Address, ClientOptions, Context, client_config, setup};
use crate::base::error::Failure;

/// The pause between two requests for the topic's id. For this long, messages may go to a topic that has replaced
/// the earlier one.
const INTERVAL: Duration = Duration::from_secs(1);

/// Time limit for a request for the topic's id.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The pause between two reads of the configuration of a topic that does not fit.
const CONFIG_INTERVAL: Duration = Duration::from_secs(5);

/// Number of consecutive responses without the topic after which it counts as deleted: a broker that has just started
/// may not know all topics yet.
const ABSENT_RESPONSES_MIN: u32 = 2;

/// The state of a topic that is sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TopicState {
    /// The topic accepts messages.
    Fit {
        /// The number of times that the topic was replaced.
        generation: u64,
        /// The time of the last request.
        requested_at: Instant,
    },
    /// The topic does not exist.
    Missing { since: Instant },
    /// Another topic has its name, and would lose messages that the earlier topic kept.
    Unfit { since: Instant, why: String },
}

struct GuardState {
    topic_state: TopicState,
    /// The id of the topic that messages go to; `None` until it is known, and where brokers have no ids.
    id: Option<TopicId>,
    /// The configuration of this topic.
    config: TopicConfig,
    generation: u64,
    absent_responses: u32,
    /// The id of a topic that did not fit, and the time at which its configuration was last read.
    unfit: Option<(Option<TopicId>, Instant)>,
}

/// Watches one topic for all senders of the process. The thread ends with the last of them.
pub(super) struct Guard {
    state: Arc<Mutex<GuardState>>,
    wake: SyncSender<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Guard {
    /// Returns the guard of a topic with this configuration.
    pub(super) fn of(config: &TopicConfig, options: &ClientOptions) -> Result<Arc<Self>, Failure> {
        static GUARDS: Mutex<BTreeMap<String, Weak<Guard>>> = Mutex::new(BTreeMap::new());
        let mut guards = lock(&GUARDS);
        let name = config.address.to_string();
        if let Some(guard) = guards.get(&name).and_then(Weak::upgrade) {
            return Ok(guard);
        }
        guards.retain(|_, guard| guard.strong_count() > 0);
        let guard = Arc::new(Guard::start(config, options)?);
        guards.insert(name, Arc::downgrade(&guard));
        Ok(guard)
    }

    fn start(config: &TopicConfig, options: &ClientOptions) -> Result<Self, Failure> {
        let address = config.address.clone();
        let client_config = client_config(&address, options)?;
        let client = setup::create(&client_config, Context::new())?;
        let (generation, requested_at) = (0, Instant::now());
        let state = Arc::new(Mutex::new(GuardState {
            topic_state: TopicState::Fit { generation, requested_at },
            id: None,
            config: config.clone(),
            generation,
            absent_responses: 0,
            unfit: None,
        }));
        let sink = format!("kafka:{}", address.topic);
        let replaced = counter!("floodmark_sink_topic_replaced_total", "sink" => sink);
        replaced.increment(0);
        let (wake, wakeups) = sync_channel(1);
        let watcher = SinkTopicWatcher { address, options: options.clone(), client, replaced };
        let shared = Arc::downgrade(&state);
        std::thread::Builder::new()
            .name("sink watch".into())
            .spawn(move || watcher.run(&shared, &wakeups))
            .context("starting the thread that watches the topic of a sink")?;
        Ok(Guard { state, wake })
    }

    pub(super) fn topic_state(&self) -> TopicState {
        lock(&self.state).topic_state.clone()
    }

    /// Whether messages may go to the topic of this generation.
    pub(super) fn is_fit(&self, generation: u64) -> bool {
        matches!(lock(&self.state).topic_state, TopicState::Fit { generation: now, .. } if now == generation)
    }

    /// Requests a check of the topic now.
    pub(super) fn check_now(&self) {
        // The thread lives as long as the guard, and one pending request is enough.
        let _ = self.wake.try_send(());
    }
}

struct SinkTopicWatcher {
    address: Address,
    options: ClientOptions,
    client: BaseConsumer<Context>,
    replaced: Counter,
}

impl SinkTopicWatcher {
    fn run(&self, state: &Weak<Mutex<GuardState>>, wakeups: &Receiver<()>) {
        if let Some(state) = state.upgrade() {
            self.check(&state);
            self.describe(&state);
        }
        loop {
            let Some(state) = state.upgrade() else { return };
            self.check(&state);
            drop(state);
            if wakeups.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
            // Several senders may have requested the same check.
            while wakeups.try_recv().is_ok() {}
        }
    }

    /// Reads the configuration unless the opener of the topic has read it. Later topics are compared with it.
    fn describe(&self, state: &Mutex<GuardState>) {
        if lock(state).config.is_known {
            return;
        }
        match topics::describe(&self.address, &self.options) {
            Ok(config) => lock(state).config = config,
            Err(failure) => {
                let (topic, error) = (&self.address.topic, &failure.error);
                tracing::debug!(topic, "cannot read the configuration: {error:#}");
            }
        }
    }

    #[expect(unsafe_code, reason = "the id is in the C interface of librdkafka alone")]
    fn fetch(&self) -> Result<IdResponse, RDKafkaErrorCode> {
        let client: &Client<Context> = self.client.client();
        // SAFETY: the client is valid.
        unsafe { topic_id::fetch(client.native_ptr(), None, &self.address.topic, ANSWER_TIMEOUT) }
    }

    fn check(&self, state: &Mutex<GuardState>) {
        // Callbacks, such as those of logs, run in this.
        drop(self.client.poll(Duration::ZERO));
        let requested_at = Instant::now();
        match self.fetch() {
            // An outage tells nothing about the topic.
            Err(error) => {
                let topic = &self.address.topic;
                tracing::debug!(topic, %error, "cannot read the id of the topic");
            }
            Ok(IdResponse::NoTopic) => self.note_absent(&mut lock(state)),
            Ok(IdResponse::NoId) => self.note_present(state, None, requested_at),
            Ok(IdResponse::Id(id)) => self.note_present(state, Some(id), requested_at),
        }
    }

    fn note_absent(&self, state: &mut GuardState) {
        state.absent_responses += 1;
        if state.absent_responses < ABSENT_RESPONSES_MIN
            || matches!(state.topic_state, TopicState::Missing { .. })
        {
            return;
        }
        state.topic_state = TopicState::Missing { since: Instant::now() };
        let topic = &self.address.topic;
        tracing::error!(
            topic,
            "the topic does not exist any more: messages for it wait until somebody creates it again"
        );
    }

    fn note_present(&self, state: &Mutex<GuardState>, id: Option<TopicId>, requested_at: Instant) {
        let mut current = lock(state);
        current.absent_responses = 0;
        let was_fit = matches!(current.topic_state, TopicState::Fit { .. });
        let first = current.id.is_none() && current.generation == 0 && was_fit;
        // Without ids, a new topic looks like one that was missing for a while.
        if first || (id.is_some() && id == current.id) || (id.is_none() && was_fit) {
            if !was_fit {
                tracing::info!(topic = self.address.topic, "the topic exists again");
            }
            if first {
                current.id = id;
            }
            current.unfit = None;
            let generation = current.generation;
            current.topic_state = TopicState::Fit { generation, requested_at };
            return;
        }
        self.note_replaced(current, state, id, requested_at);
    }

    /// Notes that another topic has the name: messages go to it if it fits. Its configuration is read without the lock.
    fn note_replaced(
        &self,
        mut current: MutexGuard<'_, GuardState>,
        state: &Mutex<GuardState>,
        id: Option<TopicId>,
        requested_at: Instant,
    ) {
        let last_read =
            current.unfit.as_ref().filter(|(unfit, _)| *unfit == id).map(|(_, read)| *read);
        if last_read.is_some_and(|read| read.elapsed() < CONFIG_INTERVAL) {
            return;
        }
        let before = current.config.clone();
        // No messages go to the topic until its configuration is known.
        let (topic, now) = (self.address.topic.as_str(), Instant::now());
        if last_read.is_none() {
            self.replaced.increment(1);
        }
        if matches!(current.topic_state, TopicState::Fit { .. }) {
            let why = "its configuration has not been read yet".to_owned();
            current.topic_state = TopicState::Unfit { since: now, why };
        }
        drop(current);
        let config = match topics::describe(&self.address, &self.options) {
            Ok(config) => config,
            Err(failure) => {
                tracing::warn!(
                    topic,
                    "cannot read the configuration of the new topic: {:#}",
                    failure.error
                );
                return;
            }
        };
        let mut current = lock(state);
        let Some(why) = config.worse_than(&before) else {
            tracing::error!(
                topic,
                "the topic was deleted and created again: messages delivered before are lost with the \
                 old one; messages go to the new one"
            );
            current.generation += 1;
            (current.id, current.config, current.unfit) = (id, config, None);
            let generation = current.generation;
            current.topic_state = TopicState::Fit { generation, requested_at };
            return;
        };
        if last_read.is_none() {
            tracing::error!(
                topic,
                "the topic was deleted and created again, and does not fit: messages for it wait; {why}"
            );
        }
        let since = match current.topic_state {
            TopicState::Unfit { since, .. } | TopicState::Missing { since } => since,
            TopicState::Fit { .. } => now,
        };
        current.unfit = Some((id, Instant::now()));
        current.topic_state = TopicState::Unfit { since, why };
    }
}
