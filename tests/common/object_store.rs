//! An object store that speaks S3, owned by `scripts/s3`, and the way to it, which can be interrupted.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use super::test_server::{TestServer, free_ports};

/// The bucket of tests.
pub(crate) const BUCKET: &str = "floodmark";

/// Returns the port of the object store that tests share; the first caller starts it, with the [bucket](BUCKET).
fn shared() -> u16 {
    static SHARED: OnceLock<TestServer> = OnceLock::new();
    let server = SHARED.get_or_init(|| {
        let server = TestServer::start("s3", free_ports(32_000, 1), &[]);
        create_bucket(server.port);
        server
    });
    server.port
}

fn create_bucket(port: u16) {
    request_put(port, BUCKET, &[]);
}

/// Puts an object into the [bucket](BUCKET).
pub(crate) fn put_object(key: &str, content: &[u8]) {
    request_put(shared(), &format!("{BUCKET}/{key}"), content);
}

fn request_put(port: u16, path: &str, content: &[u8]) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
    let length = content.len();
    let head = format!(
        "PUT /{path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("the server reads");
    stream.write_all(content).expect("the server reads");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("the server responds");
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
}

/// A port through which the object store is reached, unless the way is interrupted.
pub(crate) struct Way {
    /// The URL.
    pub(crate) endpoint: &'static str,
    is_open: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl Way {
    pub(crate) fn new() -> Self {
        let server = shared();
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let (is_open, connections) =
            (Arc::new(AtomicBool::new(true)), Arc::<Mutex<Vec<_>>>::default());
        let (accepts, accepted) = (is_open.clone(), connections.clone());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if accepts.load(Ordering::SeqCst) {
                    let server = TcpStream::connect(("127.0.0.1", server)).expect("it listens");
                    accepted.lock().expect("no panic").push(client.try_clone().expect("a socket"));
                    forward(&client, &server);
                    forward(&server, &client);
                }
            }
        });
        // A test needs one or two.
        let endpoint = Box::leak(format!("http://127.0.0.1:{port}").into_boxed_str());
        Way { endpoint, is_open, connections }
    }

    /// Cuts all connections, and accepts no more.
    pub(crate) fn interrupt(&self) {
        self.is_open.store(false, Ordering::SeqCst);
        for connection in self.connections.lock().expect("no panic").drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn resume(&self) {
        self.is_open.store(true, Ordering::SeqCst);
    }
}

fn forward(from: &TcpStream, to: &TcpStream) {
    let (mut from, mut to) =
        (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"));
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
}
