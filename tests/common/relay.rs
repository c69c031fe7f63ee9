//! Something between a program and a PostgreSQL server: a pool that keeps notifications for itself or
//! refuses LISTEN, or a firewall that forgets connections.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::postgres::Database;

/// The treatment of LISTEN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listen {
    Passes,
    IsRefused,
    EndsTheConnection,
}

/// A relay on the loopback interface. It reads messages, so connections must not ask for TLS.
pub(crate) struct Relay {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    server: (String, u16),
    listen: Listen,
    /// Whether notifications are passed on.
    notifies: AtomicBool,
    /// Connections now, and at most.
    open: AtomicUsize,
    most: AtomicUsize,
    /// For each connection, whether everything on it is lost from now on.
    forgotten: Mutex<Vec<Arc<AtomicBool>>>,
    /// Statements of clients: their texts, and the names of prepared ones.
    statements: Mutex<Vec<String>>,
    names: Mutex<Vec<String>>,
}

/// A message: its letter and its content.
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

/// The text up to the first zero.
fn text(content: &[u8]) -> String {
    let end = content.iter().position(|byte| *byte == 0).unwrap_or(content.len());
    String::from_utf8_lossy(&content[..end]).into_owned()
}

impl Relay {
    /// A relay in front of the server of a database.
    pub(crate) fn to(database: &Database, listen: Listen, notifies: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared {
            server: database.server(),
            listen,
            notifies: AtomicBool::new(notifies),
            open: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            forgotten: Mutex::default(),
            statements: Mutex::default(),
            names: Mutex::default(),
        });
        let relay = Relay { port, shared: shared.clone() };
        // It ends with the process of the tests.
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, shared) = (client.expect("a connection"), shared.clone());
                std::thread::spawn(move || {
                    let open = shared.open.fetch_add(1, Ordering::SeqCst) + 1;
                    shared.most.fetch_max(open, Ordering::SeqCst);
                    // A connection ends by an error of one side or the other.
                    let _ = relay_one(client, &shared);
                    shared.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        relay
    }

    /// The address of the database by way of the relay.
    pub(crate) fn uri(&self, database: &Database, user: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{}?sslmode=disable", self.port, database.name())
    }

    /// Connections now.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// The most connections that there were at a time.
    pub(crate) fn most(&self) -> usize {
        self.shared.most.load(Ordering::SeqCst)
    }

    /// From now on nothing comes through the connections that there are, and nobody is told.
    pub(crate) fn forget(&self) {
        for forgotten in self.shared.forgotten.lock().expect("no panic").iter() {
            forgotten.store(true, Ordering::SeqCst);
        }
    }

    /// The statements that clients have sent so far.
    pub(crate) fn statements(&self) -> Vec<String> {
        self.shared.statements.lock().expect("no panic").clone()
    }

    /// The names under which clients have prepared statements; most have none.
    pub(crate) fn names(&self) -> Vec<String> {
        self.shared.names.lock().expect("no panic").clone()
    }
}

fn relay_one(mut client: TcpStream, shared: &Arc<Shared>) -> io::Result<()> {
    let (host, port) = &shared.server;
    let mut server = TcpStream::connect((host.as_str(), *port))?;
    let forgotten = Arc::new(AtomicBool::new(false));
    shared.forgotten.lock().expect("no panic").push(forgotten.clone());
    // The first message has no letter.
    let mut length = [0; 4];
    client.read_exact(&mut length)?;
    let mut start = vec![0; u32::from_be_bytes(length) as usize - 4];
    client.read_exact(&mut start)?;
    server.write_all(&[&length[..], &start].concat())?;
    let back = (server.try_clone()?, client.try_clone()?, shared.clone(), forgotten.clone());
    std::thread::spawn(move || {
        let (mut server, mut client, shared, forgotten) = back;
        let mut pass = || -> io::Result<()> {
            loop {
                let (letter, content) = read_message(&mut server)?;
                let is_kept = letter == b'A' && !shared.notifies.load(Ordering::SeqCst);
                if !is_kept && !forgotten.load(Ordering::SeqCst) {
                    write_message(&mut client, letter, &content)?;
                }
            }
        };
        let _ = pass();
        if !forgotten.load(Ordering::SeqCst) {
            let _ = client.shutdown(Shutdown::Both);
        }
    });
    let mut pass = || -> io::Result<()> {
        loop {
            let (letter, content) = read_message(&mut client)?;
            let (statement, name) = (text(&content), text(&content));
            match letter {
                b'Q' => shared.statements.lock().expect("no panic").push(statement.clone()),
                b'P' => shared.names.lock().expect("no panic").push(name),
                _ => {}
            }
            if letter == b'Q' && statement.starts_with("listen") {
                match shared.listen {
                    Listen::Passes => {}
                    Listen::IsRefused => {
                        let why = b"SERROR\0VERROR\0C0A000\0MLISTEN is not supported here\0\0";
                        write_message(&mut client, b'E', why)?;
                        write_message(&mut client, b'Z', b"I")?;
                        continue;
                    }
                    Listen::EndsTheConnection => return Ok(()),
                }
            }
            if !forgotten.load(Ordering::SeqCst) {
                write_message(&mut server, letter, &content)?;
            }
        }
    };
    let passed = pass();
    let _ = server.shutdown(Shutdown::Both);
    let _ = client.shutdown(Shutdown::Both);
    passed
}
