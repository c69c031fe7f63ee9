//! A connection to a database of limits, and the notifications that come over it.
//!
//! Behind the connection may be a pool that gives each transaction another server process. So settings
//! are made within transactions (`begin`) and never for the session: there they would stay with a server
//! process that others use, too.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_postgres::{AsyncMessage, Client};

use super::error::{connecting, stating};
use super::{Address, Error, TableName};

/// The channel of notifications about tables of limits.
pub const CHANNEL: &str = "floodmark_limits";

/// The channel by which a session checks that notifications arrive. It is one for all, since a pool goes on
/// listening to what was asked for once.
pub const CHECK_CHANNEL: &str = "floodmark_check";

/// How long a statement waits for a lock that somebody else has.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a statement may take at all.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the answer to a statement may take; longer than the server lets it run.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(35);

/// The same for one that has next to nothing to do, and by which a server that hangs is found out.
const QUICK_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection.
#[derive(Debug)]
pub struct Session {
    pub(super) client: Client,
    heard: Arc<Heard>,
    /// Carries what is sent and received.
    carrier: JoinHandle<()>,
    database: String,
}

/// The notifications that came over a connection.
#[derive(Debug, Default)]
struct Heard {
    /// Of tables of limits, or the end of the connection. Many that nobody has waited for are one.
    changed: Notify,
    /// The token that a check waits for, and its arrival.
    token: Mutex<String>,
    arrived: Notify,
}

impl Heard {
    fn take(&self, channel: &str, payload: &str) {
        match channel {
            CHANNEL => self.changed.notify_one(),
            CHECK_CHANNEL
                if *self.token.lock().unwrap_or_else(PoisonError::into_inner) == payload =>
            {
                self.arrived.notify_one();
            }
            // A check of somebody else, or what a pool has listened to for others.
            _ => {}
        }
    }
}

/// Begins a transaction of this kind, whose statements do not wait for ever, and write texts in one way.
pub(super) fn begin(kind: &str) -> String {
    format!(
        "start transaction {kind}; set local lock_timeout = {}; set local statement_timeout = {}; \
         set local timezone = 'UTC'; set local datestyle = 'ISO, YMD'; \
         set local extra_float_digits = 1",
        LOCK_TIMEOUT.as_millis(),
        STATEMENT_TIMEOUT.as_millis(),
    )
}

impl Session {
    /// Connects.
    pub async fn connect(address: &Address) -> Result<Self, Error> {
        let database = address.to_string();
        let tls = address.tls.connector().map_err(|error| Error::Tls {
            database: database.clone(),
            why: format!("{error:#}"),
        })?;
        let config = address.connection();
        let connecting = |error| connecting(database.clone(), &error);
        // The library bounds each attempt to reach a host, but not the wait for what it says then.
        let patience = address.config.get_connect_timeout().copied().unwrap_or(ANSWER_TIMEOUT);
        let made = tokio::time::timeout(patience * 2, config.connect(tls)).await;
        let (client, mut connection) = made
            .map_err(|_| Error::Unreachable {
                database: database.clone(),
                why: format!("no answer within {} s", (patience * 2).as_secs()),
            })?
            .map_err(connecting)?;
        let heard = Arc::new(Heard::default());
        let hears = heard.clone();
        let carrier = tokio::spawn(async move {
            while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
                match message {
                    Ok(AsyncMessage::Notification(it)) => hears.take(it.channel(), it.payload()),
                    Ok(_) => {}
                    // Whoever waits for an answer is told why.
                    Err(_) => break,
                }
            }
            // The end is something to look at, too.
            hears.changed.notify_one();
        });
        Ok(Session { client, heard, carrier, database })
    }

    /// Asks for notifications.
    ///
    /// # Errors
    /// This server gives none, as one that is in recovery.
    pub async fn listen(&self) -> Result<(), Error> {
        self.run_quick(&format!("listen {CHANNEL}; listen {CHECK_CHANNEL}")).await
    }

    /// Takes [`Session::listen`] back, as far as that reaches: a pool may do it for another server process.
    pub async fn unlisten(&self) -> Result<(), Error> {
        self.run_quick(&format!("unlisten {CHANNEL}; unlisten {CHECK_CHANNEL}")).await
    }

    /// Waits for a notification, or the end of the connection.
    pub async fn notified(&self) {
        self.heard.changed.notified().await;
    }

    /// Sends a token over another session, and waits until it arrives over this one, which listens. Nothing
    /// else may be asked of this session meanwhile: a pool lends it a server process then.
    pub async fn hears_from(&self, other: &Session, token: &str) -> Result<(), Error> {
        token.clone_into(&mut self.heard.token.lock().unwrap_or_else(PoisonError::into_inner));
        // An earlier token may have come too late.
        let _ = self.heard.arrived.notified().now_or_never();
        other.run_quick(&format!("notify {CHECK_CHANNEL}, '{token}'")).await?;
        self.heard.arrived.notified().await;
        Ok(())
    }

    async fn run_quick(&self, sql: &str) -> Result<(), Error> {
        self.quick(&TableName::default(), self.client.batch_execute(sql)).await
    }

    /// Whether the connection has ended.
    pub fn has_ended(&self) -> bool {
        self.client.is_closed()
    }

    /// Waits for the answer to a statement about a table, for so long and no longer.
    pub(super) async fn answer<T>(
        &self,
        table: &TableName,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        self.within(ANSWER_TIMEOUT, table, answer).await
    }

    /// The same for a statement that has next to nothing to do.
    pub(super) async fn quick<T>(
        &self,
        table: &TableName,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        self.within(QUICK_TIMEOUT, table, answer).await
    }

    async fn within<T>(
        &self,
        long: Duration,
        table: &TableName,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(long, answer).await {
            Ok(answer) => answer.map_err(|error| stating(&self.database, table, &error)),
            Err(_) => Err(Error::Timeout { table: table.clone(), seconds: long.as_secs() }),
        }
    }

    /// The database, for messages.
    pub(super) fn database(&self) -> &str {
        &self.database
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.carrier.abort();
    }
}
