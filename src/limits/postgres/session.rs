//! A connection to a database of limits, and the notifications that arrive over it.
//!
//! Behind the connection may be a pool that runs each transaction on another server process. So settings
//! are made within transactions (`begin`) and never for the session: there they would stay with a server
//! process that other clients use, too.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_postgres::{AsyncMessage, Client};

use super::error::{connection_error, statement_error};
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
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(35);

/// Time limit for the response to a trivial statement; it reveals a server that hangs.
const QUICK_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection.
#[derive(Debug)]
pub struct Session {
    pub(super) client: Client,
    arrivals: Arc<Arrivals>,
    /// The task that sends and receives for the client.
    connection_task: JoinHandle<()>,
    database: String,
}

/// The notifications that have arrived over a connection.
#[derive(Debug, Default)]
struct Arrivals {
    /// Notified when a notification about a table of limits arrives, or the connection ends. Several before a wait
    /// count as one.
    changed: Notify,
    /// The token that a check waits for; `arrived` is notified when it arrives.
    token: Mutex<String>,
    arrived: Notify,
}

impl Arrivals {
    fn dispatch(&self, channel: &str, payload: &str) {
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
        let connection_error = |error| connection_error(database.clone(), &error);
        // The library bounds each attempt to reach a host, but not the wait for the host's response.
        let per_host = address.config.get_connect_timeout().copied().unwrap_or(RESPONSE_TIMEOUT);
        let connected = tokio::time::timeout(per_host * 2, config.connect(tls)).await;
        let (client, mut connection) = connected
            .map_err(|_| Error::Unreachable {
                database: database.clone(),
                why: format!("no answer within {} s", (per_host * 2).as_secs()),
            })?
            .map_err(connection_error)?;
        let arrivals = Arc::new(Arrivals::default());
        let received = arrivals.clone();
        let connection_task = tokio::spawn(async move {
            while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
                match message {
                    Ok(AsyncMessage::Notification(notification)) => {
                        received.dispatch(notification.channel(), notification.payload());
                    }
                    Ok(_) => {}
                    // The library returns the error to the caller that waits for a response.
                    Err(_) => break,
                }
            }
            // The end of the connection wakes the reader, too.
            received.changed.notify_one();
        });
        Ok(Session { client, arrivals, connection_task, database })
    }

    /// Subscribes to notifications.
    ///
    /// # Errors
    /// The server has no notifications, as one in recovery.
    pub async fn listen(&self) -> Result<(), Error> {
        self.run_quick(&format!("listen {CHANNEL}; listen {CHECK_CHANNEL}")).await
    }

    /// Undoes [`Session::listen`], as far as possible: a pool may run this on another server process.
    pub async fn unlisten(&self) -> Result<(), Error> {
        self.run_quick(&format!("unlisten {CHANNEL}; unlisten {CHECK_CHANNEL}")).await
    }

    /// Waits for a notification, or the end of the connection.
    pub async fn notified(&self) {
        self.arrivals.changed.notified().await;
    }

    /// Sends a token over another session, and waits until it arrives over this one, which listens. This session
    /// must run no other statement meanwhile: a pool would lend it a server process for that.
    pub async fn receives_from(&self, other: &Session, token: &str) -> Result<(), Error> {
        token.clone_into(&mut self.arrivals.token.lock().unwrap_or_else(PoisonError::into_inner));
        // An earlier token may have arrived too late.
        let _ = self.arrivals.arrived.notified().now_or_never();
        other.run_quick(&format!("notify {CHECK_CHANNEL}, '{token}'")).await?;
        self.arrivals.arrived.notified().await;
        Ok(())
    }

    async fn run_quick(&self, sql: &str) -> Result<(), Error> {
        self.quick_response(&TableName::default(), self.client.batch_execute(sql)).await
    }

    /// Whether the connection has ended.
    pub fn has_ended(&self) -> bool {
        self.client.is_closed()
    }

    /// Waits for the response to a statement about a table, for at most `RESPONSE_TIMEOUT`.
    pub(super) async fn response<T>(
        &self,
        table: &TableName,
        response: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        self.within(RESPONSE_TIMEOUT, table, response).await
    }

    /// Waits for the response to a trivial statement, for at most `QUICK_TIMEOUT`.
    pub(super) async fn quick_response<T>(
        &self,
        table: &TableName,
        response: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        self.within(QUICK_TIMEOUT, table, response).await
    }

    async fn within<T>(
        &self,
        limit: Duration,
        table: &TableName,
        response: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(limit, response).await {
            Ok(response) => {
                response.map_err(|error| statement_error(&self.database, table, &error))
            }
            Err(_) => Err(Error::Timeout { table: table.clone(), seconds: limit.as_secs() }),
        }
    }

    /// Returns the database, for messages.
    pub(super) fn database(&self) -> &str {
        &self.database
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection_task.abort();
    }
}
