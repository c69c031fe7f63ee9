//! A connection to a database of limits, and the notifications that come over it.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_postgres::{AsyncMessage, Client};

use super::error::{connecting, stating};
use super::{Address, Error, TableName};

/// The channel of notifications about tables of limits.
pub const CHANNEL: &str = "floodmark_limits";

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
    notified: Arc<Notify>,
    /// Carries what is sent and received.
    carrier: JoinHandle<()>,
    database: String,
}

impl Session {
    /// Connects. Statements of this session do not wait for ever.
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
        let notified = Arc::new(Notify::new());
        let notify = notified.clone();
        let carrier = tokio::spawn(async move {
            while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
                match message {
                    // Many that nobody has waited for are one.
                    Ok(AsyncMessage::Notification(_)) => notify.notify_one(),
                    Ok(_) => {}
                    // Whoever waits for an answer is told why.
                    Err(_) => break,
                }
            }
            // The end is something to look at, too.
            notify.notify_one();
        });
        let session = Session { client, notified, carrier, database };
        let settings = format!(
            "set lock_timeout = {}; set statement_timeout = {}; set timezone = 'UTC'; \
             set datestyle = 'ISO, YMD'; set extra_float_digits = 1",
            LOCK_TIMEOUT.as_millis(),
            STATEMENT_TIMEOUT.as_millis(),
        );
        let any = TableName::default();
        session.quick(&any, session.client.batch_execute(&settings)).await?;
        Ok(session)
    }

    /// Asks for notifications. `false` if this server gives none, as one that is in recovery.
    pub async fn listen(&self) -> bool {
        let listen = format!("listen {CHANNEL}");
        let asked = self.client.batch_execute(&listen);
        matches!(tokio::time::timeout(QUICK_TIMEOUT, asked).await, Ok(Ok(())))
    }

    /// Waits for a notification, or the end of the connection.
    pub async fn notified(&self) {
        self.notified.notified().await;
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
