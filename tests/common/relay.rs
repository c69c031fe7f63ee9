//! A relay between the program and a PostgreSQL server. It acts as a pool that drops notifications or rejects
//! LISTEN, or as a firewall that silently drops connections.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::postgres::Database;

/// The treatment of LISTEN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listen {
    Passes,
    Rejected,
    Disconnects,
}

/// A relay on the loopback interface. It parses messages, so clients must not request TLS.
pub(crate) struct Relay {
    port: u16,
    shared: Arc<RelayState>,
}

struct RelayState {
    server: (String, u16),
    listen: Listen,
    /// Whether notifications are forwarded.
    notifies: AtomicBool,
    /// The number of open connections.
    open: AtomicUsize,
    /// The greatest number of connections open at a time.
    max_open: AtomicUsize,
    /// For each connection, whether the relay drops everything on it.
    forgotten: Mutex<Vec<Arc<AtomicBool>>>,
    /// The texts of the clients' statements.
    statements: Mutex<Vec<String>>,
    /// The names of the clients' prepared statements; most are empty.
    statement_names: Mutex<Vec<String>>,
}

/// A message of the protocol: its type byte and its content.
type Message = (u8, Vec<u8>);

fn read_message(from: &mut TcpStream) -> io::Result<Message> {
    let mut head = [0; 5];
    from.read_exact(&mut head)?;
    let [letter, length @ ..] = head;
    let mut content = vec![0; u32::from_be_bytes(length) as usize - 4];
    from.read_exact(&mut content)?;
    Ok((letter, content))
}

fn write_message(to: &mut TcpStream, letter: u8, content: &[u8]) -> io::Result<()> {
    let mut message = vec![letter];
    message.extend((content.len() as u32 + 4).to_be_bytes());
    message.extend(content);
    to.write_all(&message)
}

/// Returns the text up to the first zero byte.
fn text(content: &[u8]) -> String {
    let end = content.iter().position(|byte| *byte == 0).unwrap_or(content.len());
    String::from_utf8_lossy(&content[..end]).into_owned()
}

impl Relay {
    /// Starts a relay in front of the server of a database.
    pub(crate) fn to(database: &Database, listen: Listen, notifies: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(RelayState {
            server: database.server(),
            listen,
            notifies: AtomicBool::new(notifies),
            open: AtomicUsize::new(0),
            max_open: AtomicUsize::new(0),
            forgotten: Mutex::default(),
            statements: Mutex::default(),
            statement_names: Mutex::default(),
        });
        let relay = Relay { port, shared: shared.clone() };
        // The thread ends with the process of the tests.
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, shared) = (client.expect("a connection"), shared.clone());
                std::thread::spawn(move || {
                    let open = shared.open.fetch_add(1, Ordering::SeqCst) + 1;
                    shared.max_open.fetch_max(open, Ordering::SeqCst);
                    // Every connection ends with an error on one side or the other.
                    let _ = relay_connection(client, &shared);
                    shared.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        relay
    }

    /// Returns the URI of the database through the relay.
    pub(crate) fn uri(&self, database: &Database, user: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{}?sslmode=disable", self.port, database.name())
    }

    /// Returns the number of open connections.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Returns the greatest number of connections open at a time.
    pub(crate) fn max_open(&self) -> usize {
        self.shared.max_open.load(Ordering::SeqCst)
    }

    /// Silently drops everything on the connections that are open now.
    pub(crate) fn forget_connections(&self) {
        for forgotten in self.shared.forgotten.lock().expect("no panic").iter() {
            forgotten.store(true, Ordering::SeqCst);
        }
    }

    /// Returns the statements that clients have sent so far.
    pub(crate) fn statements(&self) -> Vec<String> {
        self.shared.statements.lock().expect("no panic").clone()
    }

    /// Returns the names of the clients' prepared statements; most are empty.
    pub(crate) fn statement_names(&self) -> Vec<String> {
        self.shared.statement_names.lock().expect("no panic").clone()
    }
}

fn relay_connection(mut client: TcpStream, shared: &Arc<RelayState>) -> io::Result<()> {
    let (host, port) = &shared.server;
    let mut server = TcpStream::connect((host.as_str(), *port))?;
    let forgotten = Arc::new(AtomicBool::new(false));
    shared.forgotten.lock().expect("no panic").push(forgotten.clone());
    // The first message has no type byte.
    let mut length = [0; 4];
    client.read_exact(&mut length)?;
    let mut start = vec![0; u32::from_be_bytes(length) as usize - 4];
    client.read_exact(&mut start)?;
    server.write_all(&[&length[..], &start].concat())?;
    let back = (server.try_clone()?, client.try_clone()?, shared.clone(), forgotten.clone());
    std::thread::spawn(move || {
        let (mut server, mut client, shared, forgotten) = back;
        let mut forward = || -> io::Result<()> {
            loop {
                let (letter, content) = read_message(&mut server)?;
                let is_withheld = letter == b'A' && !shared.notifies.load(Ordering::SeqCst);
                if !is_withheld && !forgotten.load(Ordering::SeqCst) {
                    write_message(&mut client, letter, &content)?;
                }
            }
        };
        let _ = forward();
        if !forgotten.load(Ordering::SeqCst) {
            let _ = client.shutdown(Shutdown::Both);
        }
    });
    let mut forward = || -> io::Result<()> {
        loop {
            let (letter, content) = read_message(&mut client)?;
            let (statement, name) = (text(&content), text(&content));
            match letter {
                b'Q' => shared.statements.lock().expect("no panic").push(statement.clone()),
                b'P' => shared.statement_names.lock().expect("no panic").push(name),
                _ => {}
            }
            if letter == b'Q' && statement.starts_with("listen") {
                match shared.listen {
                    Listen::Passes => {}
                    Listen::Rejected => {
                        let why = b"SERROR\0VERROR\0C0A000\0MLISTEN is not supported here\0\0";
                        write_message(&mut client, b'E', why)?;
                        write_message(&mut client, b'Z', b"I")?;
                        continue;
                    }
                    Listen::Disconnects => return Ok(()),
                }
            }
            if !forgotten.load(Ordering::SeqCst) {
                write_message(&mut server, letter, &content)?;
            }
        }
    };
    let outcome = forward();
    let _ = server.shutdown(Shutdown::Both);
    let _ = client.shutdown(Shutdown::Both);
    outcome
}
