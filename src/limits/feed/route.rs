//! The route by which changes of a table are noticed: logs it, and exports it as a metric.

use metrics::gauge;

use super::hearing::Hearing;
use crate::limits::catalog::LimitSet;
use crate::limits::postgres::TableName;

/// The route by which changes of a table are noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Route {
    /// By a reading each second, since the table notifies of nothing.
    Silent,
    /// By a reading each second, since notifications are not known to arrive, with the reason.
    Polled(Hearing),
    /// By notifications.
    Notified,
}

/// Logs the route by which changes of a table are noticed, and exports it as a metric.
pub(super) struct Telling {
    table: TableName,
    set: LimitSet,
    told: Option<Route>,
}

impl Telling {
    pub(super) fn new(table: &TableName, set: LimitSet) -> Self {
        let telling = Telling { table: table.clone(), set, told: None };
        telling.show(false);
        telling
    }

    /// The connection is lost, so nothing is noticed over it.
    pub(super) fn disconnected(&self) {
        self.show(false);
    }

    /// `notifies`: whether the table notifies of its changes. Logs each route once, until another is taken.
    pub(super) fn tell(&mut self, notifies: bool, hearing: &Hearing) {
        self.show(notifies && *hearing == Hearing::Arrives);
        let route = match (notifies, hearing) {
            (false, _) => Route::Silent,
            (true, Hearing::Unknown) => return,
            (true, Hearing::Arrives) => Route::Notified,
            (true, hearing) => Route::Polled(hearing.clone()),
        };
        if self.told.as_ref() != Some(&route) {
            log(&self.table, &route);
            self.told = Some(route);
        }
    }

    fn show(&self, notified: bool) {
        let value = f64::from(u8::from(notified));
        gauge!("floodmark_limits_notified", self.set.labels([])).set(value);
    }
}

fn log(table: &TableName, route: &Route) {
    match route {
        Route::Notified => tracing::info!("table {table} tells of its changes"),
        Route::Silent => tracing::info!(
            "table {table} does not tell of its changes, and is read once a second: \
             `floodmark limits init` adds a trigger that tells"
        ),
        Route::Polled(Hearing::Refused(why)) => tracing::warn!(
            why,
            "table {table} is read once a second: the server, or a pool before it, refuses LISTEN"
        ),
        Route::Polled(Hearing::Unchecked(why)) => tracing::warn!(
            why,
            "table {table} is read once a second: whether its notifications arrive can't be checked"
        ),
        Route::Polled(_) => tracing::warn!(
            "table {table} is read once a second: its notifications do not arrive, as through a \
             connection pool in transaction mode; connect to the server itself, or to a pool in session \
             mode"
        ),
    }
}
