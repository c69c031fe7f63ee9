//! PostgreSQL for tests: one shared server, and further servers for tests that stop theirs.
//!
//! The script `scripts/postgres hold` owns each server, and stops it with the tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use tokio::runtime::Runtime;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::broker::{STUCK_AFTER, random_name};
use super::test_server::{TestServer, free_ports, script};

/// A PostgreSQL server on the loopback interface, which accepts any user without a password.
pub(crate) struct Postgres {
    host: String,
    port: u16,
    test_server: Option<TestServer>,
}

/// A database of one test. It is removed with the server.
pub(crate) struct Database {
    host: String,
    port: u16,
    name: String,
}

/// A connection to a database. An open transaction and its locks last until the session is dropped.
pub(crate) struct Session {
    runtime: Runtime,
    client: Client,
}

impl Postgres {
    /// Returns the server that tests share; the first caller starts it. If `FLOODMARK_TEST_POSTGRES` is set to
    /// `host:port`, that server.
    pub(crate) fn shared() -> &'static Postgres {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(|| match std::env::var("FLOODMARK_TEST_POSTGRES") {
            Ok(given) => {
                let (host, port) = given.rsplit_once(':').expect("host:port");
                Postgres {
                    host: host.into(),
                    port: port.parse().expect("a port"),
                    test_server: None,
                }
            }
            Err(_) => Postgres::own(),
        })
    }

    /// Starts another server, for a test that stops it.
    pub(crate) fn own() -> Postgres {
        // These ports lie below those of brokers.
        let port = free_ports(15_000, 1);
        let test_server = TestServer::start("postgres", port, &[]);
        Postgres { host: "127.0.0.1".into(), port, test_server: Some(test_server) }
    }

    /// Creates a database, owned by user `floodmark`.
    pub(crate) fn database(&self) -> Database {
        self.database_in("UTF8")
    }

    /// Creates a database with this encoding, owned by user `floodmark`.
    pub(crate) fn database_in(&self, encoding: &str) -> Database {
        let name = random_name("test").replace('-', "_");
        let all =
            Database { host: self.host.clone(), port: self.port, name: "postgres".to_owned() };
        all.sql(&format!(
            "create database {name} owner floodmark encoding '{encoding}' lc_collate 'C' lc_ctype 'C'
             template template0"
        ));
        let database = Database { name, ..all };
        database.sql("alter schema public owner to floodmark");
        database
    }

    /// Returns the root certificate of the server's certificate, which is for `localhost`.
    pub(crate) fn authority(&self) -> PathBuf {
        self.directory().join("root.crt")
    }

    /// Returns the directory of a server started by the tests.
    fn directory(&self) -> &Path {
        self.test_server.as_ref().expect("a server that these tests have started").directory.path()
    }

    fn run(&self, words: &[&str]) {
        let mut command = Command::new(script("postgres"));
        command.arg(words[0]).arg(self.directory()).args(&words[1..]).stdout(Stdio::null());
        let ended = command.status().expect("running scripts/postgres");
        assert!(ended.success(), "scripts/postgres {words:?}");
    }

    /// Shuts the server and its connections down in good order.
    pub(crate) fn stop(&self) {
        self.run(&["stop"]);
    }

    /// Starts the server again, on the same port with the same data.
    pub(crate) fn start(&self) {
        self.run(&["start", &self.port.to_string()]);
    }

    /// Returns the ids of the server's processes, the parent of the others first.
    fn processes(&self) -> Vec<i32> {
        let pid_file = self.directory().join("data/postmaster.pid");
        let text = fs::read_to_string(pid_file).expect("the id of the server");
        let main: i32 = text.lines().next().and_then(|line| line.parse().ok()).expect("an id");
        let children = fs::read_to_string(format!("/proc/{main}/task/{main}/children"));
        let children = children.unwrap_or_default();
        let children = children.split_whitespace().map(|id| id.parse().expect("an id"));
        std::iter::once(main).chain(children).collect()
    }

    fn signal(&self, signal: nix::sys::signal::Signal) -> Vec<i32> {
        let processes = self.processes();
        for id in &processes {
            // A process may have ended by itself.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(*id), signal);
        }
        processes
    }

    /// Kills the server, as a power cut would. Transactions committed by [`Database::sql`] stay.
    pub(crate) fn kill(&self) {
        let processes = self.signal(nix::sys::signal::Signal::SIGKILL);
        let started = Instant::now();
        // A zombie has an empty command line.
        let runs =
            |id: &i32| fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|line| !line.is_empty());
        while processes.iter().any(runs) {
            assert!(started.elapsed() < STUCK_AFTER, "stuck: {processes:?} do not end");
            std::thread::yield_now();
        }
        // While the old process is a zombie, a new server would take these files for those of a running server.
        for file in ["data/postmaster.pid".to_owned(), format!(".s.PGSQL.{}.lock", self.port)] {
            let _ = fs::remove_file(self.directory().join(file));
        }
    }

    /// Suspends the server's processes: connections stay open, without responses.
    pub(crate) fn pause(&self) {
        self.signal(nix::sys::signal::Signal::SIGSTOP);
    }

    /// Resumes the server after a pause.
    pub(crate) fn resume(&self) {
        self.signal(nix::sys::signal::Signal::SIGCONT);
    }
}

impl Database {
    /// Returns the URI of this database for `floodmark` (its owner), `reader` or `postgres`.
    pub(crate) fn uri(&self, user: &str) -> String {
        format!("postgres://{user}@{}:{}/{}", self.host, self.port, self.name)
    }

    /// Returns another database of the same server.
    pub(crate) fn on_server(&self, name: &str) -> Database {
        Database { host: self.host.clone(), port: self.port, name: name.to_owned() }
    }

    /// Returns host and port of the server.
    pub(crate) fn server(&self) -> (String, u16) {
        (self.host.clone(), self.port)
    }

    /// Returns the name of the database.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Connects as a user.
    pub(crate) fn session(&self, user: &str) -> Session {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let mut config = Config::new();
        config.host(&self.host).port(self.port).user(user).dbname(&self.name);
        config.connect_timeout(STUCK_AFTER);
        // Committed data is in the server's files, if not on disk, and survives a kill of its processes.
        config.options(format!(
            "-c synchronous_commit=on -c statement_timeout={} -c lock_timeout={}",
            STUCK_AFTER.as_millis(),
            STUCK_AFTER.as_millis()
        ));
        let client = runtime.block_on(async {
            let (client, connection) = config
                .connect(NoTls)
                .await
                .unwrap_or_else(|error| panic!("connecting to {}: {error:?}", self.uri(user)));
            tokio::spawn(connection);
            client
        });
        Session { runtime, client }
    }

    /// Runs statements as user `postgres`. Several statements are one transaction, unless they begin their own.
    pub(crate) fn sql(&self, statements: &str) {
        self.session("postgres").sql(statements);
    }

    /// Returns the result of a query as `psql -At` prints it: columns separated by `|`, a row a line.
    pub(crate) fn query(&self, sql: &str) -> String {
        self.session("postgres").query(sql)
    }
}

impl Session {
    /// Runs statements.
    pub(crate) fn sql(&self, statements: &str) {
        self.try_sql(statements).unwrap_or_else(|why| panic!("{why}: {statements}"));
    }

    /// Runs statements, or returns the server's error.
    pub(crate) fn try_sql(&self, statements: &str) -> Result<(), String> {
        let ran = self.runtime.block_on(self.client.batch_execute(statements));
        ran.map_err(|error| error_text(&error))
    }

    /// Returns the result of a query as `psql -At` prints it.
    pub(crate) fn query(&self, sql: &str) -> String {
        let messages = self.runtime.block_on(self.client.simple_query(sql));
        let messages = messages.unwrap_or_else(|error| panic!("{}: {sql}", error_text(&error)));
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                let cells: Vec<&str> =
                    (0..row.len()).map(|at| row.get(at).unwrap_or_default()).collect();
                Some(cells.join("|"))
            }
            _ => None,
        });
        rows.collect::<Vec<_>>().join("\n")
    }
}

fn error_text(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string)
}

#[test]
fn restarted_server_keeps_its_data() {
    let server = Postgres::own();
    assert!(server.authority().is_file());
    let database = server.database();
    database.session("floodmark").sql("create table kept (n int)");
    server.pause();
    server.resume();
    database.sql("insert into kept values (1), (2)");
    server.kill();
    server.start();
    assert_eq!(database.query("select n, null, n + 1 from kept order by n"), "1||2\n2||3");
    server.stop();
    server.start();
    assert_eq!(database.query("select current_database()"), database.name());
}

#[test]
fn users_have_their_own_rights_and_locks() {
    let database = Postgres::shared().database();
    let owner = database.session("floodmark");
    owner.sql("create table kept (n int)");
    let reader = database.session("reader");
    assert_eq!(reader.query("select n from kept"), "");
    let refused = reader.try_sql("insert into kept values (3)").expect_err("a reader");
    assert!(refused.contains("permission denied"), "{refused}");
    owner.sql("begin; lock table kept");
    let refused = database.session("postgres").try_sql("begin; lock table kept nowait");
    assert!(refused.expect_err("a lock is held").contains("could not obtain lock"));
}
