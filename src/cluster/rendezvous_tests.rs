//! Rendezvous of several processes, here threads, and of strangers.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use super::*;
use crate::base::error::Exit;

const WINDOW: &str = "5m";

/// The settings of a process with windows of this width.
fn settings(window: &str) -> Settings {
    Settings::of("test").with("--window", window)
}

/// Listeners of the processes, which keep their ports.
struct Hosts {
    listeners: Vec<TcpListener>,
    secret: Option<Secret>,
}

/// A process in its rendezvous.
struct Process {
    leave: Arc<AtomicBool>,
    rendezvous: JoinHandle<Result<Vec<Option<TcpStream>>, Failure>>,
}

impl Hosts {
    fn new(processes: usize) -> Self {
        let bind = |_| TcpListener::bind("127.0.0.1:0").unwrap();
        let secret = Some(Secret::drawn().unwrap());
        Hosts { listeners: (0..processes).map(bind).collect(), secret }
    }

    fn addresses(&self) -> Vec<String> {
        let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
        self.listeners.iter().map(address).collect()
    }

    fn start_as(&self, cluster: Cluster, window: &'static str) -> Process {
        let process = cluster.process;
        let listener = self.listeners[process].try_clone().unwrap();
        let leave = Arc::new(AtomicBool::new(false));
        let asked = leave.clone();
        let rendezvous = thread::spawn(move || {
            let mut waiting = || match asked.load(Ordering::SeqCst) {
                true => Err(Failure::new(Exit::Interrupted, anyhow!("asked to leave"))),
                false => Ok(()),
            };
            let messages = Messages::new();
            let settings = settings(window);
            Rendezvous::new(&cluster, Some(listener), &settings, &messages, &mut waiting)?.sockets()
        });
        Process { leave, rendezvous }
    }

    fn cluster(&self, process: usize) -> Cluster {
        let (hosts, secret) = (self.addresses(), self.secret.clone());
        Cluster { process, hosts, secret, ..Cluster::alone(2) }
    }

    fn start(&self, process: usize) -> Process {
        self.start_as(self.cluster(process), WINDOW)
    }

    /// Dials like a process, and returns the verdict.
    fn dial(&self, at: usize, handshake: Handshake, secret: Option<&Secret>) -> Option<Verdict> {
        self.exchange(at, handshake, secret).map(|(verdict, _)| verdict)
    }

    /// Dials like a process, and returns the verdict, the connection, and the handshake of the listening process.
    fn exchange(
        &self,
        at: usize,
        handshake: Handshake,
        secret: Option<&Secret>,
    ) -> Option<(Verdict, (TcpStream, Handshake))> {
        let mut stream = TcpStream::connect(&self.addresses()[at]).unwrap();
        stream.write_all(&handshake.to_bytes()).unwrap();
        let mut bytes = [0; HANDSHAKE_BYTES];
        // The listening process drops all connections when it starts anew.
        stream.read_exact(&mut bytes).ok()?;
        let listens = Handshake::from_bytes(&bytes).unwrap();
        let handshakes = Handshakes { dials: handshake, listens };
        stream.write_all(&handshakes.prove(secret, Side::Dials)).ok()?;
        let mut response = [0; 1 + PROOF_BYTES];
        stream.read_exact(&mut response).ok()?;
        let verdict = Verdict::from_byte(response[0])?;
        let proved = handshakes.is_proof(self.secret.as_ref(), Side::Listens, &response[1..]);
        assert_eq!(
            proved,
            verdict != Verdict::WrongSecret,
            "a peer without the secret gets no proof"
        );
        if verdict != Verdict::SendSettings {
            return Some((verdict, (stream, listens)));
        }
        stream.write_all(&settings(WINDOW).to_bytes()).ok()?;
        let mut verdict = [0];
        stream.read_exact(&mut verdict).ok()?;
        Some((Verdict::from_byte(verdict[0])?, (stream, listens)))
    }

    /// Returns the handshake of a process in a conversation.
    fn handshake(&self, process: usize, generation: u64) -> Handshake {
        let announced = settings(WINDOW).fingerprint();
        let handshake =
            Handshake::new(process, self.listeners.len(), 2, announced, self.secret.is_some());
        handshake.of_conversation(generation).unwrap()
    }
}

impl Process {
    fn sockets(self) -> Vec<Option<TcpStream>> {
        self.rendezvous.join().unwrap().unwrap_or_else(|failure| panic!("{:#}", failure.error))
    }

    fn failure(self) -> String {
        format!("{:#}", self.rendezvous.join().unwrap().expect_err("it must fail").error)
    }

    fn leave(self) {
        self.leave.store(true, Ordering::SeqCst);
        assert_eq!(self.failure(), "asked to leave");
    }
}

/// Asserts that the sockets connect each process with each other one.
fn assert_connected(all: Vec<Process>) {
    let mut all: Vec<_> = all.into_iter().map(Process::sockets).collect();
    for (process, sockets) in all.iter_mut().enumerate() {
        for (other, socket) in sockets.iter_mut().enumerate() {
            assert_eq!(socket.is_none(), process == other);
            if let Some(socket) = socket {
                assert!(SockRef::from(&*socket).keepalive().unwrap() && socket.nodelay().unwrap());
                socket.write_all(&[process as u8]).unwrap();
            }
        }
    }
    for sockets in &mut all {
        for (other, socket) in sockets.iter_mut().enumerate() {
            if let Some(socket) = socket {
                let mut number = [0];
                socket.read_exact(&mut number).unwrap();
                assert_eq!(usize::from(number[0]), other);
            }
        }
    }
}

#[test]
fn processes_connect_in_any_order() {
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
        let hosts = Hosts::new(4);
        let mut all: Vec<_> =
            order.iter().map(|process| (*process, hosts.start(*process))).collect();
        all.sort_by_key(|(process, _)| *process);
        assert_connected(all.into_iter().map(|(_, process)| process).collect());
    }
}

#[test]
fn strangers_delay_no_process() {
    let hosts = Hosts::new(2);
    let address = &hosts.addresses()[0];
    let first = hosts.start(0);
    // They connect before any process, and stay connected.
    let mut strangers: Vec<TcpStream> =
        (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
    for (number, stranger) in strangers.iter_mut().enumerate() {
        let sent = match number % 5 {
            0 => stranger.write_all(b"GET / HTTP/1.1\r\n\r\n"),
            1 => stranger.write_all(&[0xff; 10_000]),
            2 => stranger.write_all(&hosts.handshake(1, 0).to_bytes()[..40]),
            3 => stranger.write_all(&hosts.handshake(1, 0).to_bytes()),
            _ => Ok(()),
        };
        // The process may have dropped the connection already.
        drop(sent);
        if number % 2 == 0 {
            let _ = stranger.shutdown(std::net::Shutdown::Both);
        }
    }
    assert_connected(vec![first, hosts.start(1)]);
}

#[test]
fn peer_without_the_secret_is_disconnected() {
    let hosts = Hosts::new(2);
    let first = hosts.start(0);
    // A stranger that claims other options does not end the process either.
    let liar = Handshake::new(1, 9, 9, 1, true).of_conversation(0).unwrap();
    for secret in [None, Some(&Secret::drawn().unwrap())] {
        for handshake in [hosts.handshake(1, 0), liar] {
            assert_eq!(hosts.dial(0, handshake, secret), Some(Verdict::WrongSecret));
        }
    }
    let with = |secret| Cluster { secret, ..hosts.cluster(1) };
    let wrong = Some(Secret::drawn().unwrap());
    let failure = hosts.start_as(with(wrong), WINDOW).failure();
    assert!(failure.contains("process 0 has another secret"), "{failure}");
    let failure = hosts.start_as(with(None), WINDOW).failure();
    assert!(failure.contains("process 0 was started with --cluster-secret"), "{failure}");
    assert_connected(vec![first, hosts.start(1)]);
}

#[test]
fn process_with_other_options_ends_both() {
    let hosts = Hosts::new(2);
    let (first, second) = (hosts.start(0), hosts.start_as(hosts.cluster(1), "1m"));
    let message = "process 0 was started with other options: --window 5m there, 1m here";
    assert_eq!(second.failure(), message);
    let message = "process 1 was started with other options: --window 1m there, 5m here";
    assert_eq!(first.failure(), message);
}

#[test]
fn process_that_sends_no_valid_settings_delays_nobody() {
    let hosts = Hosts::new(2);
    let first = hosts.start(0);
    let secret = hosts.secret.as_ref();
    let send_settings = |sent: &[u8]| {
        let mut stream = TcpStream::connect(&hosts.addresses()[0]).unwrap();
        let handshake = hosts.handshake(1, 0);
        stream.write_all(&handshake.to_bytes()).unwrap();
        let mut bytes = [0; HANDSHAKE_BYTES];
        stream.read_exact(&mut bytes).unwrap();
        let handshakes =
            Handshakes { dials: handshake, listens: Handshake::from_bytes(&bytes).unwrap() };
        stream.write_all(&handshakes.prove(secret, Side::Dials)).unwrap();
        let mut response = [0; 1 + PROOF_BYTES];
        stream.read_exact(&mut response).unwrap();
        assert_eq!(Verdict::from_byte(response[0]), Some(Verdict::SendSettings));
        stream.write_all(sent).unwrap();
        stream
    };
    let frame =
        |json: &[u8]| [&u32::try_from(json.len()).unwrap().to_be_bytes()[..], json].concat();
    let other = settings("1m").to_bytes();
    // Nothing, a part, too much, no JSON, and settings other than those announced.
    let sent = [vec![], other[..20].to_vec(), vec![0xff; 4], frame(b"{"), other];
    let _strangers: Vec<TcpStream> = sent.iter().map(|sent| send_settings(sent)).collect();
    assert_connected(vec![first, hosts.start(1)]);
}

#[test]
fn different_host_files_are_reported() {
    let hosts = Hosts::new(3);
    let (first, second) = (hosts.start(0), hosts.start(1));
    // The third process takes the second one for the first.
    let mut third = hosts.cluster(2);
    third.hosts.swap(0, 1);
    let failure = hosts.start_as(third, WINDOW).failure();
    assert!(failure.contains("process 1 listens there"), "{failure}");
    first.leave();
    second.leave();
}

#[test]
fn generation_admits_each_process_once() {
    let hosts = Hosts::new(3);
    let first = hosts.start(0);
    let secret = hosts.secret.as_ref();
    let (verdict, (held, handshake)) = hosts.exchange(0, hosts.handshake(1, 0), secret).unwrap();
    assert_eq!(verdict, Verdict::Welcome);
    assert_eq!(hosts.dial(0, hosts.handshake(1, 0), secret), Some(Verdict::Taken));
    // It ends before all have joined: each process must join again, in another generation.
    drop(held);
    let again = loop {
        match hosts.exchange(0, hosts.handshake(1, 0), secret) {
            Some((Verdict::Welcome, (_, again))) => break again,
            Some((verdict, _)) => assert_eq!(verdict, Verdict::Taken),
            None => {}
        }
    };
    assert_ne!(again.generation, handshake.generation);
    first.leave();
}

#[test]
fn process_of_an_earlier_start_is_rejected() {
    // The fourth process is missing until the end.
    let hosts = Hosts::new(4);
    let (first, second) = (hosts.start(0), hosts.start(1));
    let secret = hosts.secret.as_ref();
    let (verdict, (held, handshake)) = hosts.exchange(0, hosts.handshake(2, 0), secret).unwrap();
    assert_eq!(verdict, Verdict::Welcome);
    // A generation as of an earlier process 0.
    let old = hosts.handshake(2, handshake.generation ^ 2);
    assert_eq!(hosts.dial(1, old, secret), Some(Verdict::OtherGeneration));
    assert_eq!(hosts.dial(1, hosts.handshake(2, 0), secret), Some(Verdict::OtherGeneration));
    drop(held);
    assert_connected(vec![first, second, hosts.start(2), hosts.start(3)]);
}

#[test]
fn restarted_process_joins_the_others() {
    for gone in [0, 1] {
        let hosts = Hosts::new(3);
        let mut both = vec![hosts.start(0), hosts.start(1)];
        // Process 1 responds once it has joined process 0.
        let verdict = hosts.dial(1, hosts.handshake(2, 0), hosts.secret.as_ref());
        assert_eq!(verdict, Some(Verdict::OtherGeneration));
        both.remove(gone).leave();
        both.insert(gone, hosts.start(gone));
        both.push(hosts.start(2));
        assert_connected(both);
    }
}

#[test]
fn wrong_secret_is_named_by_both_processes() {
    for (with, message) in [
        (
            Some(Secret::drawn().unwrap()),
            "process 1 has another secret: give all processes the same",
        ),
        (None, "process 1 was started without --cluster-secret, this one with it"),
    ] {
        let hosts = Hosts::new(2);
        let other = hosts.start_as(Cluster { secret: with, ..hosts.cluster(1) }, WINDOW);
        let cluster = hosts.cluster(0);
        let listener = hosts.listeners[0].try_clone().unwrap();
        let messages = Messages::new();
        // Process 0 waits until process 1 has given up.
        let mut waiting = || match other.rendezvous.is_finished() {
            true => Err(anyhow!("the other one is gone").into()),
            false => Ok(()),
        };
        let settings = settings(WINDOW);
        let rendezvous =
            Rendezvous::new(&cluster, Some(listener), &settings, &messages, &mut waiting);
        let mut rendezvous = rendezvous.unwrap();
        assert!(rendezvous.connect_all().is_err());
        let why = rendezvous.missing(&Joined::new()).to_string();
        assert!(why.starts_with("no process 1 at 127.0.0.1:") && why.contains(message), "{why}");
        drop(rendezvous);
        let failure = format!("{:#}", other.rendezvous.join().unwrap().unwrap_err().error);
        assert!(failure.contains("secret"), "{failure}");
    }
}
