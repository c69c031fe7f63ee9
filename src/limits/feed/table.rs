//! Follows a table of limits in PostgreSQL.
//!
//! The feed reads a table with the trigger that notifies (`floodmark limits init`) at each notification, if
//! notifications arrive; once a second a cheap poll checks that table and connection are still the same. The feed
//! reads any other table once a second.

use std::sync::Arc;
use std::time::Instant;

use tokio::time::sleep_until;

use super::current_rows::{CurrentRows, Edits, Health};
use super::handover::EditSender;
use super::notification_checks::{NotificationChecks, NotificationStatus};
use super::options::{Options, runtime};
use super::pace::Pace;
use super::route::RouteReporter;
use crate::base::error::Failure;
use crate::limits::postgres::snapshot::Shape;
use crate::limits::postgres::{Address, Error, Session, TableName};
use crate::limits::rows::{Defaults, Row};

pub(super) struct TableFeed {
    runtime: tokio::runtime::Runtime,
    reader: Reader,
}

struct Reader {
    address: Address,
    table: TableName,
    defaults: Defaults,
    current: CurrentRows,
    pace: Pace,
    session: Option<Session>,
    checks: NotificationChecks,
    /// The shape of the table at the last reading; `None` if a poll or reading has failed since.
    shape: Option<Shape>,
    /// The shape of the table at the last reading, kept through failures.
    last_shape: Option<Shape>,
    route_reporter: RouteReporter,
}

/// The result of a poll.
enum PollOutcome {
    Unchanged,
    Read(Edits),
}

impl TableFeed {
    pub(super) fn new(address: &Address, options: &Options) -> Result<Self, Failure> {
        let runtime = runtime()?;
        let reader = Reader {
            address: address.clone(),
            table: options.table.clone(),
            defaults: options.defaults,
            current: CurrentRows::new(options, &Error::LABELS),
            pace: Pace::new(options.refresh, Instant::now()),
            session: None,
            checks: NotificationChecks::new(address),
            shape: None,
            last_shape: None,
            route_reporter: RouteReporter::new(&options.table, options.set),
        };
        Ok(TableFeed { runtime, reader })
    }

    pub(super) fn open(address: &Address, options: &Options) -> Result<(Self, Edits), Failure> {
        let TableFeed { runtime, mut reader } = TableFeed::new(address, options)?;
        let edits = runtime.block_on(async {
            reader.connect().await?;
            reader.read().await
        });
        let edits = edits.map_err(|error| error.in_step("reading limits"))?;
        reader.current.first_succeeded();
        Ok((TableFeed { runtime, reader }, edits))
    }

    pub(super) fn health(&self) -> Health {
        self.reader.current.health()
    }

    /// Takes the rows of an earlier run for those that were read last.
    pub(super) fn continue_with(&mut self, rows: Vec<Arc<Row>>, why: &str) -> Edits {
        self.reader.pace.failed();
        self.reader.current.continue_with(rows, "unreachable", why)
    }

    pub(super) fn run(self, sender: &EditSender) {
        let TableFeed { runtime, mut reader } = self;
        runtime.block_on(reader.follow(sender));
    }
}

impl Reader {
    async fn follow(&mut self, sender: &EditSender) {
        loop {
            let notified = self.wait().await;
            let edits = match self.poll(notified).await {
                Ok(PollOutcome::Unchanged) => Edits::new(),
                Ok(PollOutcome::Read(edits)) => edits,
                Err(error) => {
                    self.fail(&error);
                    continue;
                }
            };
            self.current.succeeded();
            if !edits.is_empty() && !sender.send(edits) {
                return;
            }
        }
    }

    fn fail(&mut self, error: &Error) {
        self.pace.failed();
        self.current.failed(error.label(), &error.to_string());
        // The table may have changed during the failure without a notification.
        self.shape = None;
        if error.is_final() || self.session.as_ref().is_some_and(Session::has_ended) {
            self.session = None;
            self.route_reporter.disconnected();
        }
    }

    /// Waits until a poll is due. Returns whether a notification is the reason.
    async fn wait(&mut self) -> bool {
        let next_poll = self.pace.next_poll(Instant::now()).into();
        // Changes do not shorten the pause after a failure.
        let listens = self.pace.listens() && !self.pace.is_failing();
        let Some(session) = self.session.as_ref().filter(|_| listens) else {
            sleep_until(next_poll).await;
            return false;
        };
        let notifies = self.shape.as_ref().is_some_and(|shape| shape.notifies);
        loop {
            tokio::select! {
                biased;
                () = session.notified() => break,
                () = sleep_until(next_poll) => return false,
                () = self.checks.wait_until_due(notifies) => {}
            }
            // The session runs no statement, so a pool that lends server processes lends it none now.
            self.checks.check(session).await;
            self.route_reporter.report(notifies, self.checks.status());
        }
        sleep_until(self.pace.earliest_notified_read().into()).await;
        true
    }

    async fn poll(&mut self, notified: bool) -> Result<PollOutcome, Error> {
        if self.session.as_ref().is_none_or(Session::has_ended) {
            self.session = None;
            self.shape = None;
            self.connect().await?;
        }
        if !notified && self.pace.listens() && self.is_same().await? {
            return Ok(PollOutcome::Unchanged);
        }
        self.read().await.map(PollOutcome::Read)
    }

    /// Whether the table is unchanged unless a notification is on its way.
    async fn is_same(&self) -> Result<bool, Error> {
        let Some((session, last)) = self.session.as_ref().zip(self.shape.as_ref()) else {
            return Ok(false);
        };
        let notifies = last.notifies && *self.checks.status() == NotificationStatus::Arrives;
        if self.pace.must_read(notifies, Instant::now()) {
            return Ok(false);
        }
        Ok(session.shape(&self.table).await?.as_ref() == Some(last))
    }

    async fn connect(&mut self) -> Result<(), Error> {
        self.session = Some(match self.pace.listens() {
            // Listens before the first reading, so that no change falls between the two.
            true => self.checks.connect().await?,
            false => Session::connect(&self.address).await?,
        });
        Ok(())
    }

    async fn read(&mut self) -> Result<Edits, Error> {
        let began = Instant::now();
        let session = self.session.as_ref().expect("the reader has connected");
        let read = session.read_table(&self.table, self.defaults, self.current.rows()).await?;
        let (table, shape) = read;
        let edits = self.current.accept(table);
        self.report_shape(&shape);
        self.shape = Some(shape.clone());
        self.last_shape = Some(shape);
        self.pace.succeeded(began);
        if self.pace.idles_long() {
            // A firewall on the path may drop an idle connection without notice to either end.
            self.session = None;
        }
        Ok(edits)
    }

    /// Logs the unknown columns that are new, and the route by which changes of the table reach the feed.
    fn report_shape(&mut self, shape: &Shape) {
        let known = |column: &str| self.last_shape.as_ref().is_some_and(|shape| shape.has(column));
        for column in shape.unknown_columns().filter(|column| !known(column)) {
            tracing::warn!("table {}: column \"{column}\" is no column of limits", self.table);
        }
        if self.pace.listens() {
            self.route_reporter.report(shape.notifies, self.checks.status());
        }
    }
}
