//! Checks that notifications of a table arrive over the connection that listens.
//!
//! A LISTEN that succeeds is no proof: a pool in transaction mode passes LISTEN on to some server process, and the
//! notifications of that process to no client. So a second connection sends a notification each minute. While that
//! notification does not arrive, the feed reads the table once a second.

use std::future::pending;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::{sleep_until, timeout};

use crate::limits::postgres::{Address, Error, Session};

/// Interval between two checks.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// Time before LISTEN is tried again after a LISTEN that ended the connection.
const LISTEN_RETRY_DELAY: Duration = Duration::from_secs(600);

/// Time limit for a notification to arrive. The feed does not read the table meanwhile.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Lost notifications after which a check counts as lost.
const ATTEMPTS: u32 = 3;

/// Time limit for making the second connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The result of the last check of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotificationStatus {
    /// No check has finished.
    Unknown,
    /// The notification of the last check has arrived.
    Arrives,
    /// The notifications of the last check have not arrived.
    Lost,
    /// The server, or a pool, refuses LISTEN.
    Refused(String),
    /// The second connection could not send the notification.
    Unchecked(String),
}

/// A second connection that is being opened.
type Connecting = JoinHandle<Result<Session, Error>>;

/// Checks the notifications of one connection after the other.
pub(super) struct NotificationChecks {
    address: Address,
    status: NotificationStatus,
    /// The time of the next check.
    next: Instant,
    /// Notifications lost in this check.
    lost: u32,
    connecting: Option<Connecting>,
    /// The second connection, during a check.
    second: Option<Session>,
    /// The time from which LISTEN may be tried: a LISTEN that ended the connection is not repeated on the next one.
    listen_from: Instant,
}

impl NotificationChecks {
    pub(super) fn new(address: &Address) -> Self {
        let now = Instant::now();
        NotificationChecks {
            address: address.clone(),
            status: NotificationStatus::Unknown,
            next: now,
            lost: 0,
            connecting: None,
            second: None,
            listen_from: now,
        }
    }

    pub(super) fn status(&self) -> &NotificationStatus {
        &self.status
    }

    /// Connects the session that listens. A pool may end the connection because of LISTEN: then this connects once
    /// more, without listening.
    pub(super) async fn connect(&mut self) -> Result<Session, Error> {
        self.drop_second();
        self.status = NotificationStatus::Unknown;
        self.next = Instant::now();
        let session = Session::connect(&self.address).await?;
        if Instant::now() < self.listen_from {
            self.conclude_refused("the last LISTEN ended the connection".into());
            return Ok(session);
        }
        match self.listen(&session).await {
            true => Ok(session),
            false => Session::connect(&self.address).await,
        }
    }

    /// Subscribes to notifications. Returns `false` if that ended the connection.
    async fn listen(&mut self, session: &Session) -> bool {
        let Err(error) = session.listen().await else { return true };
        let is_lost = error.is_final() || session.has_ended();
        if is_lost {
            self.listen_from = Instant::now() + LISTEN_RETRY_DELAY;
        }
        self.conclude_refused(error.to_string());
        !is_lost
    }

    fn conclude_refused(&mut self, why: String) {
        self.conclude(NotificationStatus::Refused(why));
    }

    /// Ends a check with its result.
    fn conclude(&mut self, status: NotificationStatus) {
        self.status = status;
        self.drop_second();
        self.next = Instant::now() + CHECK_INTERVAL;
    }

    /// Drops the second connection.
    fn drop_second(&mut self) {
        if let Some(connecting) = self.connecting.take() {
            connecting.abort();
        }
        (self.second, self.lost) = (None, 0);
    }

    /// Waits until a check is due and its second connection is open; for ever if no check `is_wanted`. The future may
    /// be dropped at any time.
    pub(super) async fn wait_until_due(&mut self, is_wanted: bool) {
        if !is_wanted {
            return pending().await;
        }
        sleep_until(self.next.into()).await;
        if self.second.is_some() || Instant::now() < self.listen_from {
            return;
        }
        let address = self.address.clone();
        let connecting = self.connecting.get_or_insert_with(|| {
            tokio::spawn(async move {
                let connecting = timeout(CONNECT_TIMEOUT, Session::connect(&address)).await;
                connecting.unwrap_or_else(|_| {
                    let (database, seconds) = (address.to_string(), CONNECT_TIMEOUT.as_secs());
                    let why = format!("no answer within {seconds} s");
                    Err(Error::Unreachable { database, why })
                })
            })
        });
        let connected = connecting.await;
        self.connecting = None;
        match connected {
            Ok(Ok(second)) => self.second = Some(second),
            Ok(Err(error)) => self.conclude(NotificationStatus::Unchecked(error.to_string())),
            // Only this thread aborts the task.
            Err(_) => {
                self.conclude(NotificationStatus::Unchecked("the check was cancelled".into()))
            }
        }
    }

    /// Sends a notification to the session that listens, and waits for it for about a second at most, unless LISTEN
    /// has to be repeated.
    pub(super) async fn check(&mut self, session: &Session) {
        if Instant::now() < self.listen_from {
            return self.conclude_refused("the last LISTEN ended the connection".into());
        }
        if self.second.is_none() {
            return;
        }
        // A server that was in recovery may have become the primary, and a pool may have dropped the subscription.
        if self.lost == 0
            && !matches!(self.status, NotificationStatus::Unknown | NotificationStatus::Arrives)
        {
            let _ = self.listen(session).await;
        }
        // LISTEN may just have been refused.
        let Some(second) = &self.second else { return };
        let token = match token() {
            Ok(token) => token,
            Err(why) => return self.conclude(NotificationStatus::Unchecked(why)),
        };
        match timeout(ARRIVAL_TIMEOUT, session.receives_from(second, &token)).await {
            Ok(Ok(())) => self.conclude(NotificationStatus::Arrives),
            Ok(Err(error)) => self.conclude(NotificationStatus::Unchecked(error.to_string())),
            Err(_) => {
                self.lost += 1;
                if self.lost < ATTEMPTS {
                    return;
                }
                self.conclude(NotificationStatus::Lost);
                // The next client of this server process in the pool must not receive our
                // notifications. Another server process may run this; then nothing is lost.
                let _ = session.unlisten().await;
            }
        }
    }
}

impl Drop for NotificationChecks {
    fn drop(&mut self) {
        self.drop_second();
    }
}

/// Returns sixteen digits that no session has sent before.
fn token() -> Result<String, String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|error| format!("drawing random bytes from this system: {error}"))?;
    Ok(format!("{:016x}", u64::from_le_bytes(bytes)))
}
