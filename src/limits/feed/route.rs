//! Logs the route by which changes of a table reach the feed, and exports it as a metric.

use metrics::gauge;

use super::notification_checks::NotificationStatus;
use crate::limits::catalog::LimitSet;
use crate::limits::postgres::TableName;

/// The route by which changes of a table reach the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Route {
    /// The feed reads the table each second, since the table has no trigger that notifies.
    Silent,
    /// The feed reads the table each second, since notifications do not arrive or can't be checked.
    Polled(NotificationStatus),
    /// The feed reads the table when a notification arrives.
    Notified,
}

/// Logs the route by which changes of a table reach the feed, and exports it as a metric.
pub(super) struct RouteReporter {
    table: TableName,
    set: LimitSet,
    reported: Option<Route>,
}

impl RouteReporter {
    pub(super) fn new(table: &TableName, set: LimitSet) -> Self {
        let reporter = RouteReporter { table: table.clone(), set, reported: None };
        reporter.set_gauge(false);
        reporter
    }

    /// Records that the connection is lost, so that no notification can arrive.
    pub(super) fn disconnected(&self) {
        self.set_gauge(false);
    }

    /// Logs a new route once; `notifies`: whether the table notifies of its changes.
    pub(super) fn report(&mut self, notifies: bool, status: &NotificationStatus) {
        self.set_gauge(notifies && *status == NotificationStatus::Arrives);
        let route = match (notifies, status) {
            (false, _) => Route::Silent,
            (true, NotificationStatus::Unknown) => return,
            (true, NotificationStatus::Arrives) => Route::Notified,
            (true, status) => Route::Polled(status.clone()),
        };
        if self.reported.as_ref() != Some(&route) {
            log(&self.table, &route);
            self.reported = Some(route);
        }
    }

    fn set_gauge(&self, notified: bool) {
        let value = f64::from(u8::from(notified));
        gauge!("floodmark_limits_notified", self.set.labels([])).set(value);
    }
}

fn log(table: &TableName, route: &Route) {
    match route {
        Route::Notified => tracing::info!("table {table} notifies of its changes"),
        Route::Silent => tracing::info!(
            "table {table} does not notify of its changes and is read once a second: \
             `floodmark limits init` adds a trigger that notifies"
        ),
        Route::Polled(NotificationStatus::Refused(why)) => tracing::warn!(
            why,
            "table {table} is read once a second: the server, or a pool before it, refuses LISTEN"
        ),
        Route::Polled(NotificationStatus::Unchecked(why)) => tracing::warn!(
            why,
            "table {table} is read once a second: can't check that its notifications arrive"
        ),
        Route::Polled(_) => tracing::warn!(
            "table {table} is read once a second: its notifications do not arrive, as through a \
             connection pool in transaction mode; connect to the server itself, or to a pool in session \
             mode"
        ),
    }
}
