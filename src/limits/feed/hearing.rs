//! Whether notifications of a table arrive over the connection that listens.
//!
//! The server's consent to LISTEN is no proof: a pool in transaction mode passes LISTEN on to some server
//! process, and the notifications of that to nobody. So a second connection sends a notification each
//! minute. While it does not arrive, the table is read once a second.

use std::future::pending;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::{sleep_until, timeout};

use crate::limits::postgres::{Address, Error, Session};

/// Interval between two checks.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// Time before LISTEN is tried again after it has cost the connection.
const LISTEN_AGAIN_AFTER: Duration = Duration::from_secs(600);

/// Time limit for a notification to arrive. The table is not read meanwhile.
const ARRIVES_WITHIN: Duration = Duration::from_secs(1);

/// Notifications that are lost before a check counts as lost.
const ATTEMPTS: u32 = 3;

/// Time limit for making the second connection.
const CONNECTS_WITHIN: Duration = Duration::from_secs(10);

/// Whether notifications arrive over a connection, as far as a check has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hearing {
    /// No check has ended yet.
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

/// A second connection that is being made.
type Connecting = JoinHandle<Result<Session, Error>>;

/// The checks of one connection after the other.
pub(super) struct Checks {
    address: Address,
    hearing: Hearing,
    /// The time of the next check.
    next: Instant,
    /// Notifications lost in this check.
    lost: u32,
    connecting: Option<Connecting>,
    /// The second connection, while a check goes on.
    second: Option<Session>,
    /// The time from which LISTEN may be tried: a LISTEN that has cost the connection is not repeated on the next
    /// connection.
    listen_from: Instant,
}

impl Checks {
    pub(super) fn new(address: &Address) -> Self {
        let now = Instant::now();
        Checks {
            address: address.clone(),
            hearing: Hearing::Unknown,
            next: now,
            lost: 0,
            connecting: None,
            second: None,
            listen_from: now,
        }
    }

    pub(super) fn hearing(&self) -> &Hearing {
        &self.hearing
    }

    /// Connects the session that listens. A pool may end the connection because of LISTEN: then the session is made
    /// once more and does not listen.
    pub(super) async fn connect(&mut self) -> Result<Session, Error> {
        self.stop();
        self.hearing = Hearing::Unknown;
        self.next = Instant::now();
        let session = Session::connect(&self.address).await?;
        if Instant::now() < self.listen_from {
            self.refuse("the connection was lost over it".into());
            return Ok(session);
        }
        match self.listen(&session).await {
            true => Ok(session),
            false => Session::connect(&self.address).await,
        }
    }

    /// Subscribes to notifications. Returns `false` if that has cost the connection.
    async fn listen(&mut self, session: &Session) -> bool {
        let Err(error) = session.listen().await else { return true };
        let is_lost = error.is_final() || session.has_ended();
        if is_lost {
            self.listen_from = Instant::now() + LISTEN_AGAIN_AFTER;
        }
        self.refuse(error.to_string());
        !is_lost
    }

    fn refuse(&mut self, why: String) {
        self.conclude(Hearing::Refused(why));
    }

    /// Ends a check with its result.
    fn conclude(&mut self, hearing: Hearing) {
        self.hearing = hearing;
        self.stop();
        self.next = Instant::now() + CHECK_INTERVAL;
    }

    /// Drops the second connection.
    fn stop(&mut self) {
        if let Some(connecting) = self.connecting.take() {
            connecting.abort();
        }
        (self.second, self.lost) = (None, 0);
    }

    /// Waits until a check is due and its second connection is there; for ever if none `is_wanted`. May be
    /// dropped at any time.
    pub(super) async fn due(&mut self, is_wanted: bool) {
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
                let connecting = timeout(CONNECTS_WITHIN, Session::connect(&address)).await;
                connecting.unwrap_or_else(|_| {
                    let (database, seconds) = (address.to_string(), CONNECTS_WITHIN.as_secs());
                    let why = format!("no answer within {seconds} s");
                    Err(Error::Unreachable { database, why })
                })
            })
        });
        let connected = connecting.await;
        self.connecting = None;
        match connected {
            Ok(Ok(second)) => self.second = Some(second),
            Ok(Err(error)) => self.conclude(Hearing::Unchecked(error.to_string())),
            // Only this thread aborts it.
            Err(_) => self.conclude(Hearing::Unchecked("the check was given up".into())),
        }
    }

    /// Sends a notification to the session that listens, and waits for it. Takes about a second at most,
    /// unless LISTEN is to be repeated.
    pub(super) async fn attempt(&mut self, session: &Session) {
        if Instant::now() < self.listen_from {
            return self.refuse("the connection was lost over it".into());
        }
        if self.second.is_none() {
            return;
        }
        // A server that was in recovery may have become the first one, and a pool may have discarded what
        // was listened to.
        if self.lost == 0 && !matches!(self.hearing, Hearing::Unknown | Hearing::Arrives) {
            let _ = self.listen(session).await;
        }
        // LISTEN may just have been refused.
        let Some(second) = &self.second else { return };
        let token = match token() {
            Ok(token) => token,
            Err(why) => return self.conclude(Hearing::Unchecked(why)),
        };
        match timeout(ARRIVES_WITHIN, session.hears_from(second, &token)).await {
            Ok(Ok(())) => self.conclude(Hearing::Arrives),
            Ok(Err(error)) => self.conclude(Hearing::Unchecked(error.to_string())),
            Err(_) => {
                self.lost += 1;
                if self.lost < ATTEMPTS {
                    return;
                }
                self.conclude(Hearing::Lost);
                // The next client of this server process in the pool must not receive our
                // notifications. Another server process may answer; then nothing is lost.
                let _ = session.unlisten().await;
            }
        }
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Sixteen digits that nobody has sent before.
fn token() -> Result<String, String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|error| format!("drawing random bytes from this system: {error}"))?;
    Ok(format!("{:016x}", u64::from_le_bytes(bytes)))
}
