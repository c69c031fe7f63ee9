//! A connection to a database of limits, and the notifications that arrive over it.
//!
//! Behind the connection may be a pool that gives each transaction another server process. So settings
//! are made within transactions (`begin`) and never for the session: there they would stay with a server
//! process that other clients use, too.

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

/// The channel by which a session checks that notifications arrive. All sessions share it, since a pool keeps
/// listening to every channel that a client has ever requested.
pub const CHECK_CHANNEL: &str = "floodmark_check";

/// Time limit for a statement to wait for a lock that another session holds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit that the server puts on a statement.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Time limit for the response to a statement; longer than the server lets the statement run.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(35);

/// Time limit for the response to a statement that has next to nothing to do; it reveals a server that hangs.
const QUICK_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection.
#[derive(Debug)]
pub struct Session {
    pub(super) client: Client,
    heard: Arc<Heard>,
    /// The task that sends and receives for the client.
    carrier: JoinHandle<()>,
    database: String,
}

/// The notifications that have arrived over a connection.
#[derive(Debug, Default)]
struct Heard {
    /// A notification about a table of limits has arrived, or the connection has ended. Several of them that
    /// nobody has waited for count as one.
    changed: Notify,
    /// The token that a check waits for; `arrived` is notified when it arrives.
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
            // The check of another session, or a channel that a pool listens to for other clients.
            _ => {}
        }
    }
}

/// Returns the SQL that begins a transaction of this kind, whose statements have time limits, and return texts
/// in one format.
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
        // The library bounds each attempt to reach a host, but not the wait for the host's response.
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
                    // The library returns the error to the caller that waits for a response.
                    Err(_) => break,
                }
            }
            // The end of the connection wakes the reader, too.
            hears.changed.notify_one();
        });
        Ok(Session { client, heard, carrier, database })
    }

    /// Subscribes to notifications.
    ///
    /// # Errors
    /// This server gives none, as one that is in recovery.
    pub async fn listen(&self) -> Result<(), Error> {
        self.run_quick(&format!("listen {CHANNEL}; listen {CHECK_CHANNEL}")).await
    }

    /// Undoes [`Session::listen`], as far as possible: a pool may run this on another server process.
    pub async fn unlisten(&self) -> Result<(), Error> {
        self.run_quick(&format!("unlisten {CHANNEL}; unlisten {CHECK_CHANNEL}")).await
    }

    /// Waits for a notification, or the end of the connection.
    pub async fn notified(&self) {
        self.heard.changed.notified().await;
    }

    /// Sends a token over another session, and waits until it arrives over this one, which listens. This session
    /// must run no other statement meanwhile: a pool would lend it a server process for that.
    pub async fn hears_from(&self, other: &Session, token: &str) -> Result<(), Error> {
        token.clone_into(&mut self.heard.token.lock().unwrap_or_else(PoisonError::into_inner));
        // An earlier token may have arrived too late.
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

    /// Waits for the response to a statement about a table, for at most `ANSWER_TIMEOUT`.
    pub(super) async fn answer<T>(
        &self,
        table: &TableName,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        self.within(ANSWER_TIMEOUT, table, answer).await
    }

    /// Waits for the response to a statement that has next to nothing to do, for at most `QUICK_TIMEOUT`.
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

    /// Returns the database, for messages.
    pub(super) fn database(&self) -> &str {
        &self.database
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.carrier.abort();
    }
}
