//! Tables behind connection pools and firewalls that lose notifications.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use floodmark::limits::feed::{Feed, Options};

use super::{Followed, PLAIN, add_notify_trigger, options};
use crate::common::free_port;
use crate::common::postgres::{Database, Postgres};
use crate::common::relay::{Listen, Relay};
use crate::replay::run::STUCK_AFTER;

/// Enough for a busy machine, and shorter than the minute after which a feed reads a table in any case.
const SOON: Duration = Duration::from_secs(30);

/// Creates a database with a table that notifies of its changes.
fn notifying() -> Database {
    let database = Postgres::shared().database();
    database.sql(PLAIN);
    add_notify_trigger(&database);
    database.sql("insert into traffic_limits values ('max', 1, '2026-01-01')");
    database
}

fn options_through(relay: &Relay, database: &Database) -> Options {
    let address = relay.uri(database, "reader").parse().expect("an address");
    Options { address, ..options(database) }
}

/// Changes the table several times, and asserts that each change is read soon.
fn changes_are_soon_read(database: &Database, followed: &mut Followed) {
    for value in ["2", "3", "4"] {
        let began = Instant::now();
        database.sql(&format!("update traffic_limits set limit_value = {value}"));
        followed.wait_for_values(&[value]);
        assert!(began.elapsed() < SOON, "read after {:?}", began.elapsed());
    }
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < STUCK_AFTER, "stuck: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn table_whose_notifications_are_lost_is_read_each_second() {
    let database = notifying();
    let relay = Relay::to(&database, Listen::Passes, false);
    let mut followed = Followed::of(&options_through(&relay, &database));
    changes_are_soon_read(&database, &mut followed);
    // Once the loss is detected, the feed sends UNLISTEN, and closes the second connection.
    let unlisten = || relay.statements().iter().any(|sql| sql.starts_with("unlisten"));
    wait_until("the check has an end", unlisten);
    wait_until("the second connection is closed", || relay.open() == 1);
    assert_eq!(relay.max_open(), 2);
    changes_are_soon_read(&database, &mut followed);
}

#[test]
fn successful_notification_check_is_not_repeated_for_a_minute() {
    let database = notifying();
    let relay = Relay::to(&database, Listen::Passes, true);
    let mut followed = Followed::of(&options_through(&relay, &database));
    let checks = || relay.statements().iter().filter(|sql| sql.starts_with("notify")).count();
    wait_until("a check", || checks() == 1);
    wait_until("the second connection is closed", || relay.open() == 1);
    changes_are_soon_read(&database, &mut followed);
    assert_eq!((checks(), relay.max_open()), (1, 2));
}

#[test]
fn failed_listen_is_not_repeated_and_the_table_is_still_read() {
    for listen in [Listen::Rejected, Listen::Disconnects] {
        let database = notifying();
        let relay = Relay::to(&database, listen, true);
        let mut followed = Followed::of(&options_through(&relay, &database));
        changes_are_soon_read(&database, &mut followed);
        assert_eq!(followed.health.fault(), None, "{listen:?}");
        let listens = relay.statements().iter().filter(|sql| sql.starts_with("listen")).count();
        assert_eq!(listens, 1, "{listen:?}");
    }
}

#[test]
fn session_leaves_no_settings_and_no_named_statements_in_a_pool() {
    let database = notifying();
    let relay = Relay::to(&database, Listen::Passes, true);
    let mut followed = Followed::of(&options_through(&relay, &database));
    changes_are_soon_read(&database, &mut followed);
    let statements = relay.statements();
    assert!(statements.iter().any(|sql| sql.contains("set local statement_timeout")));
    for sql in statements {
        let settings = sql.split(';').map(str::trim).filter(|one| one.starts_with("set "));
        assert!(settings.into_iter().all(|one| one.starts_with("set local ")), "{sql}");
    }
    // The next server process would not know a statement prepared by name.
    let names = relay.statement_names();
    assert!(!names.is_empty() && names.iter().all(String::is_empty), "{names:?}");
}

#[test]
fn connection_forgotten_by_a_firewall_is_reopened() {
    let database = notifying();
    let relay = Relay::to(&database, Listen::Passes, true);
    let mut followed = Followed::of(&options_through(&relay, &database));
    relay.forget_connections();
    database.sql("update traffic_limits set limit_value = 2");
    followed.wait_for_values(&["2"]);
    changes_are_soon_read(&database, &mut followed);
}

#[test]
fn trigger_that_notifies_of_some_changes_only_is_not_relied_on() {
    const NOTIFIER: &str =
        "create function floodmark_notify_limits() returns trigger language plpgsql
        as $$ begin perform pg_notify('CHANNEL', ''); return null; end $$";
    for (channel, of) in [
        ("floodmark_limits", "after insert or delete or truncate on traffic_limits"),
        (
            "floodmark_limits",
            "after insert or delete or truncate or update of limit_name on traffic_limits",
        ),
        ("other", "after insert or delete or truncate or update on traffic_limits"),
    ] {
        let database = Postgres::shared().database();
        database.sql(PLAIN);
        database.sql(&NOTIFIER.replace("CHANNEL", channel));
        database.sql(&format!(
            "create trigger floodmark_notify {of} execute function floodmark_notify_limits();
             insert into traffic_limits values ('max', 1, '2026-01-01')"
        ));
        let mut followed = Followed::of(&options(&database));
        changes_are_soon_read(&database, &mut followed);
    }
}

/// A real pgbouncer process; killed on drop.
struct PgBouncer {
    child: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl PgBouncer {
    /// Starts a pgbouncer in front of a database. Returns `None` if it is not installed.
    fn before(database: &Database, mode: &str) -> Option<Self> {
        let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/usr/local/bin/pgbouncer"];
        let program = program.into_iter().find(|path| Path::new(path).exists())?;
        let directory = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let (host, server) = database.server();
        let name = database.name();
        let config = format!(
            "[databases]\n{name} = host={host} port={server} dbname={name} user=reader\n[pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\npool_mode = {mode}\n\
             unix_socket_dir =\n"
        );
        let path = directory.path().join("pgbouncer.ini");
        std::fs::write(&path, config).expect("a file");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(directory.path(), open).expect("its mode");
        let mut command = Command::new(program);
        // pgbouncer does not run as root.
        if std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0) {
            command.args(["-u", "postgres"]);
        }
        let child = command.arg(&path).stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.expect("starting pgbouncer");
        let pool = PgBouncer { child, port, _directory: directory };
        wait_until("pgbouncer listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Some(pool)
    }

    fn options(&self, database: &Database) -> Options {
        let uri = format!("postgres://reader@127.0.0.1:{}/{}", self.port, database.name());
        Options { address: uri.parse().expect("an address"), ..options(database) }
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn table_behind_pgbouncer_is_followed_in_session_and_transaction_mode() {
    for mode in ["session", "transaction"] {
        let database = notifying();
        let Some(pool) = PgBouncer::before(&database, mode) else {
            let skipped = b"skipped: pgbouncer is not installed\n";
            let _ = std::io::Write::write_all(&mut std::io::stderr(), skipped);
            return;
        };
        let mut followed = Followed::of(&pool.options(&database));
        changes_are_soon_read(&database, &mut followed);
        assert_eq!(followed.health.fault(), None);
        // Settings of the feed do not reach other clients of the pool.
        let timeout = pool_setting(&pool, &database, "statement_timeout");
        assert_eq!(timeout, "0", "{mode}");
    }
    // A database unknown to the pool is an error of configuration, and no outage.
    let database = notifying();
    let pool = PgBouncer::before(&database, "transaction").expect("it was there");
    let unknown = pool.options(&database.on_server("postgres"));
    let failure = Feed::open(&unknown).err().expect("no such database");
    assert_eq!(failure.exit as u8, 78, "{:#}", failure.error);
    let pool = PgBouncer::before(&database, "statement").expect("it was there");
    let failure = Feed::open(&pool.options(&database)).err().expect("no transactions there");
    let message = format!("{:#}", failure.error);
    assert!(message.contains("use a pool in transaction or session mode"), "{message}");
    assert_eq!(failure.exit as u8, 78, "{message}");
}

/// Returns a setting as another client of the pool sees it.
fn pool_setting(pool: &PgBouncer, database: &Database, setting: &str) -> String {
    let runtime = floodmark::limits::feed::runtime().expect("a runtime");
    runtime.block_on(async {
        let line =
            format!("host=127.0.0.1 port={} user=reader dbname={}", pool.port, database.name());
        let connected = tokio_postgres::connect(&line, tokio_postgres::NoTls).await;
        let (client, connection) = connected.expect("a connection");
        let connection_task = tokio::spawn(connection);
        let messages = client.simple_query(&format!("show {setting}")).await.expect("a response");
        let found = messages.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        drop(client);
        let _ = connection_task.await;
        found.expect("a row")
    })
}
