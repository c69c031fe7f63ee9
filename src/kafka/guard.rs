//! Watches a topic that this process sends to: whether it exists, and is the one that it was.
//!
//! Clients of this program never have a broker create a topic. Others may: with
//! `auto.create.topics.enable`, which is Kafka's default, any client that asks for a topic that was deleted
//! brings it back with the broker's default configuration. Such a topic has another id.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use metrics::{Counter, counter};
use rdkafka::client::Client;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;

use super::topic_id::{self, Found, TopicId};
use super::topics::{self, TopicConfig};
use super::{Address, ClientOptions, Context, client_config, setup};
use crate::base::error::Failure;

/// The pause between two requests for the topic's id. For so long, messages may go to a topic that has
/// taken the place of the one before.
const INTERVAL: Duration = Duration::from_secs(1);

/// Time limit for a request for the topic's id.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The pause between two looks at the configuration of a topic that does not fit.
const CONFIG_INTERVAL: Duration = Duration::from_secs(5);

/// Answers in a row without the topic that count as its end: a broker that has just started may not know
/// all topics yet.
const ABSENT_MIN: u32 = 2;

/// The state of a topic that is sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It can be sent to.
    Fit {
        /// The number of topics that have taken its name since.
        generation: u64,
        /// When a broker was last asked.
        asked: Instant,
    },
    /// It does not exist.
    Missing { since: Instant },
    /// Another topic has its name, and would lose messages that the one before kept.
    Unfit { since: Instant, why: String },
}

struct State {
    standing: Standing,
    /// The id of the topic that messages go to; `None` until it is known, and where brokers have no ids.
    id: Option<TopicId>,
    /// The configuration of the same.
    config: TopicConfig,
    generation: u64,
    absent: u32,
    /// The id of a topic that did not fit, and when its configuration was last read.
    unfit: Option<(Option<TopicId>, Instant)>,
}

/// Watches one topic for all senders of the process. The thread ends with the last of them.
pub(super) struct Guard {
    state: Arc<Mutex<State>>,
    hurry: SyncSender<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Guard {
    /// The guard of a topic with this configuration.
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
        let (generation, asked) = (0, Instant::now());
        let state = Arc::new(Mutex::new(State {
            standing: Standing::Fit { generation, asked },
            id: None,
            config: config.clone(),
            generation,
            absent: 0,
            unfit: None,
        }));
        let sink = format!("kafka:{}", address.topic);
        let replaced = counter!("floodmark_sink_topic_replaced_total", "sink" => sink);
        replaced.increment(0);
        let (hurry, hurried) = sync_channel(1);
        let watcher = Watcher { address, options: options.clone(), client, replaced };
        let shared = Arc::downgrade(&state);
        std::thread::Builder::new()
            .name("sink watch".into())
            .spawn(move || watcher.run(&shared, &hurried))
            .context("starting the thread that watches the topic of a sink")?;
        Ok(Guard { state, hurry })
    }

    pub(super) fn standing(&self) -> Standing {
        lock(&self.state).standing.clone()
    }

    /// Whether messages may go to the topic of this generation.
    pub(super) fn is_fit(&self, generation: u64) -> bool {
        matches!(lock(&self.state).standing, Standing::Fit { generation: now, .. } if now == generation)
    }

    /// Has the topic looked at now.
    pub(super) fn hurry(&self) {
        // The thread lives as long as this, and one request that waits is enough.
        let _ = self.hurry.try_send(());
    }
}

struct Watcher {
    address: Address,
    options: ClientOptions,
    client: BaseConsumer<Context>,
    replaced: Counter,
}

impl Watcher {
    fn run(&self, state: &Weak<Mutex<State>>, hurried: &Receiver<()>) {
        if let Some(state) = state.upgrade() {
            self.check(&state);
            self.describe(&state);
        }
        loop {
            let Some(state) = state.upgrade() else { return };
            self.check(&state);
            drop(state);
            if hurried.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
            // Several senders may have asked for the same.
            while hurried.try_recv().is_ok() {}
        }
    }

    /// Reads the configuration, if whoever opened the topic has not: what a later one is held against.
    fn describe(&self, state: &Mutex<State>) {
        if lock(state).config.told {
            return;
        }
        match topics::describe(&self.address, &self.options) {
            Ok(config) => lock(state).config = config,
            Err(failure) => {
                let (topic, error) = (&self.address.topic, &failure.error);
                tracing::debug!(topic, "the configuration is not known: {error:#}");
            }
        }
    }

    #[expect(unsafe_code, reason = "the id is in the C interface of librdkafka alone")]
    fn fetch(&self) -> Result<Found, RDKafkaErrorCode> {
        let client: &Client<Context> = self.client.client();
        // SAFETY: the client is valid.
        unsafe { topic_id::fetch(client.native_ptr(), None, &self.address.topic, ANSWER_TIMEOUT) }
    }

    fn check(&self, state: &Mutex<State>) {
        // Callbacks, such as those of logs, run in this.
        drop(self.client.poll(Duration::ZERO));
        let asked = Instant::now();
        match self.fetch() {
            // An outage says nothing about the topic.
            Err(error) => {
                let topic = &self.address.topic;
                tracing::debug!(topic, %error, "no broker tells the id of the topic");
            }
            Ok(Found::NoTopic) => self.absent(&mut lock(state)),
            Ok(Found::NoId) => self.present(state, None, asked),
            Ok(Found::Id(id)) => self.present(state, Some(id), asked),
        }
    }

    fn absent(&self, state: &mut State) {
        state.absent += 1;
        if state.absent < ABSENT_MIN || matches!(state.standing, Standing::Missing { .. }) {
            return;
        }
        state.standing = Standing::Missing { since: Instant::now() };
        let topic = &self.address.topic;
        tracing::error!(
            topic,
            "the topic is gone: messages for it wait until it is there again; it is not created by itself"
        );
    }

    fn present(&self, state: &Mutex<State>, id: Option<TopicId>, asked: Instant) {
        let mut known = lock(state);
        known.absent = 0;
        let was_fit = matches!(known.standing, Standing::Fit { .. });
        let first = known.id.is_none() && known.generation == 0 && was_fit;
        // Brokers without ids do not tell a new topic from one that was out of sight.
        if first || (id.is_some() && id == known.id) || (id.is_none() && was_fit) {
            if !was_fit {
                tracing::info!(topic = self.address.topic, "the topic is there again");
            }
            if first {
                known.id = id;
            }
            known.unfit = None;
            let generation = known.generation;
            known.standing = Standing::Fit { generation, asked };
            return;
        }
        let again = known.unfit.as_ref().filter(|(unfit, _)| *unfit == id).map(|(_, read)| *read);
        if again.is_some_and(|read| read.elapsed() < CONFIG_INTERVAL) {
            return;
        }
        let before = known.config.clone();
        // Nothing goes to it until its configuration is known.
        let (topic, now) = (self.address.topic.as_str(), Instant::now());
        if again.is_none() {
            self.replaced.increment(1);
        }
        if was_fit {
            let why = "its configuration is not known yet".to_owned();
            known.standing = Standing::Unfit { since: now, why };
        }
        drop(known);
        let config = match topics::describe(&self.address, &self.options) {
            Ok(config) => config,
            Err(failure) => {
                tracing::warn!(topic, "the configuration of the new topic: {:#}", failure.error);
                return;
            }
        };
        let mut known = lock(state);
        let Some(why) = config.worse_than(&before) else {
            tracing::error!(
                topic,
                "the topic was deleted and created again: what was delivered before is gone with the \
                 old one; messages go to the new one"
            );
            known.generation += 1;
            (known.id, known.config, known.unfit) = (id, config, None);
            let generation = known.generation;
            known.standing = Standing::Fit { generation, asked };
            return;
        };
        if again.is_none() {
            tracing::error!(
                topic,
                "the topic was deleted and created again, and does not fit: messages for it wait; {why}"
            );
        }
        let since = match known.standing {
            Standing::Unfit { since, .. } | Standing::Missing { since } => since,
            Standing::Fit { .. } => now,
        };
        known.unfit = Some((id, Instant::now()));
        known.standing = Standing::Unfit { since, why };
    }
}
