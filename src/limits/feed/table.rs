//! A table of limits in PostgreSQL that is followed.
//!
//! A table with the trigger that notifies (`floodmark limits init`), whose notifications arrive, is read at
//! each notification; once a second a cheap look checks that table and connection are still the same. Any
//! other table is read once a second.

use std::time::Instant;

use tokio::time::sleep_until;

use super::handover::Outlet;
use super::hearing::{Checks, Hearing};
use super::held::{Edits, Health, Held};
use super::options::{Options, runtime};
use super::pace::Pace;
use super::route::Telling;
use crate::base::error::Failure;
use crate::limits::postgres::snapshot::Shape;
use crate::limits::postgres::{Address, Error, Session, TableName};
use crate::limits::rows::Defaults;

pub(super) struct TableFeed {
    runtime: tokio::runtime::Runtime,
    reader: Reader,
}

struct Reader {
    address: Address,
    table: TableName,
    defaults: Defaults,
    held: Held,
    pace: Pace,
    session: Option<Session>,
    checks: Checks,
    /// The shape of the table at the last reading; `None` if anything has failed since.
    shape: Option<Shape>,
    /// The shape of the table at the last reading, whatever has failed since.
    told: Option<Shape>,
    telling: Telling,
}

/// The result of a look at the table.
enum Look {
    Same,
    Read(Edits),
}

impl TableFeed {
    pub(super) fn open(address: &Address, options: &Options) -> Result<(Self, Edits), Failure> {
        let runtime = runtime()?;
        let mut reader = Reader {
            address: address.clone(),
            table: options.table.clone(),
            defaults: options.defaults,
            held: Held::new(options, &Error::LABELS),
            pace: Pace::new(options.refresh, Instant::now()),
            session: None,
            checks: Checks::new(address),
            shape: None,
            told: None,
            telling: Telling::new(&options.table, options.set),
        };
        let edits = runtime.block_on(async {
            reader.connect().await?;
            reader.read().await
        });
        let edits = edits.map_err(|error| error.in_step("reading limits"))?;
        reader.held.begin();
        Ok((TableFeed { runtime, reader }, edits))
    }

    pub(super) fn health(&self) -> Health {
        self.reader.held.health()
    }

    pub(super) fn run(self, outlet: &Outlet) {
        let TableFeed { runtime, mut reader } = self;
        runtime.block_on(reader.follow(outlet));
    }
}

impl Reader {
    async fn follow(&mut self, outlet: &Outlet) {
        loop {
            let notified = self.wait().await;
            let edits = match self.look(notified).await {
                Ok(Look::Same) => Edits::new(),
                Ok(Look::Read(edits)) => edits,
                Err(error) => {
                    self.fail(&error);
                    continue;
                }
            };
            self.held.succeeded();
            if !edits.is_empty() && !outlet.give(edits) {
                return;
            }
        }
    }

    fn fail(&mut self, error: &Error) {
        self.pace.failed();
        self.held.failed(error.label(), &error.to_string());
        // The table may have changed during the failure without a notification.
        self.shape = None;
        if error.is_final() || self.session.as_ref().is_some_and(Session::has_ended) {
            self.session = None;
            self.telling.disconnected();
        }
    }

    /// Waits until a look is due. Returns whether a notification is the reason.
    async fn wait(&mut self) -> bool {
        let next_look = self.pace.next_look(Instant::now()).into();
        // A table that can't be read is not read more often because it changes.
        let listens = self.pace.listens() && !self.pace.fails();
        let Some(session) = self.session.as_ref().filter(|_| listens) else {
            sleep_until(next_look).await;
            return false;
        };
        let notifies = self.shape.as_ref().is_some_and(|shape| shape.notifies);
        loop {
            tokio::select! {
                biased;
                () = session.notified() => break,
                () = sleep_until(next_look) => return false,
                () = self.checks.due(notifies) => {}
            }
            // The session is idle: a pool that lends server processes lends it none now.
            self.checks.attempt(session).await;
            self.telling.tell(notifies, self.checks.hearing());
        }
        sleep_until(self.pace.earliest().into()).await;
        true
    }

    async fn look(&mut self, notified: bool) -> Result<Look, Error> {
        if self.session.as_ref().is_none_or(Session::has_ended) {
            self.session = None;
            self.shape = None;
            self.connect().await?;
        }
        if !notified && self.pace.listens() && self.is_same().await? {
            return Ok(Look::Same);
        }
        self.read().await.map(Look::Read)
    }

    /// Whether nothing can have changed without a notification.
    async fn is_same(&self) -> Result<bool, Error> {
        let Some((session, held)) = self.session.as_ref().zip(self.shape.as_ref()) else {
            return Ok(false);
        };
        let notifies = held.notifies && *self.checks.hearing() == Hearing::Arrives;
        if self.pace.reads_anyway(notifies, Instant::now()) {
            return Ok(false);
        }
        Ok(session.shape(&self.table).await?.as_ref() == Some(held))
    }

    async fn connect(&mut self) -> Result<(), Error> {
        self.session = Some(match self.pace.listens() {
            // Before the first reading, so that no change comes between the two.
            true => self.checks.connect().await?,
            false => Session::connect(&self.address).await?,
        });
        Ok(())
    }

    async fn read(&mut self) -> Result<Edits, Error> {
        let began = Instant::now();
        let session = self.session.as_ref().expect("who reads has connected");
        let read = session.checked(&self.table, self.defaults, self.held.rows()).await?;
        let (table, shape) = read;
        let edits = self.held.take(table);
        self.tell_shape(&shape);
        self.shape = Some(shape.clone());
        self.told = Some(shape);
        self.pace.read(began);
        if self.pace.rests_long() {
            // A firewall on the path may drop an idle connection without telling either end.
            self.session = None;
        }
        Ok(edits)
    }

    /// Logs the unknown columns that the table did not have before, and the route by which its changes are noticed.
    fn tell_shape(&mut self, shape: &Shape) {
        let known = |column: &str| self.told.as_ref().is_some_and(|told| told.has(column));
        for column in shape.unknown_columns().filter(|column| !known(column)) {
            tracing::warn!("table {}: column \"{column}\" says nothing of limits", self.table);
        }
        if self.pace.listens() {
            self.telling.tell(shape.notifies, self.checks.hearing());
        }
    }
}
