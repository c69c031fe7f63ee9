//! Meetings of several processes, here threads, with strangers among them.

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

/// The addresses at which processes listen. The value holds their ports for as long as it lives.
struct Hosts {
    listeners: Vec<TcpListener>,
    secret: Option<Secret>,
}

/// A process that meets the others.
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

    /// Dials as a process would, and returns the verdict.
    fn dial(&self, at: usize, handshake: Handshake, secret: Option<&Secret>) -> Option<Verdict> {
        self.speak(at, handshake, secret).map(|(verdict, _)| verdict)
    }

    /// Dials, and returns the verdict and the other's handshake.
    fn speak(
        &self,
        at: usize,
        handshake: Handshake,
        secret: Option<&Secret>,
    ) -> Option<(Verdict, (TcpStream, Handshake))> {
        let mut stream = TcpStream::connect(&self.addresses()[at]).unwrap();
        stream.write_all(&handshake.to_bytes()).unwrap();
        let mut bytes = [0; HANDSHAKE_BYTES];
        // It drops all connections when it begins again.
        stream.read_exact(&mut bytes).ok()?;
        let listens = Handshake::from_bytes(&bytes).unwrap();
        let handshakes = Handshakes { dials: handshake, listens };
        stream.write_all(&handshakes.prove(secret, Role::Dials)).ok()?;
        let mut answer = [0; 1 + PROOF_BYTES];
        stream.read_exact(&mut answer).ok()?;
        let verdict = Verdict::from_byte(answer[0])?;
        let proved = handshakes.is_proof(self.secret.as_ref(), Role::Listens, &answer[1..]);
        assert_eq!(proved, verdict != Verdict::WrongSecret, "who knows no secret gets no proof");
        if verdict != Verdict::Known {
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

/// Each tells each other who it is, over the sockets that they got.
fn are_connected(all: Vec<Process>) {
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
                let mut said = [0];
                socket.read_exact(&mut said).unwrap();
                assert_eq!(usize::from(said[0]), other);
            }
        }
    }
}

#[test]
fn all_meet_in_any_order() {
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
        let hosts = Hosts::new(4);
        let mut all: Vec<_> =
            order.iter().map(|process| (*process, hosts.start(*process))).collect();
        all.sort_by_key(|(process, _)| *process);
        are_connected(all.into_iter().map(|(_, process)| process).collect());
    }
}

#[test]
fn strangers_hold_nobody_up() {
    let hosts = Hosts::new(2);
    let address = &hosts.addresses()[0];
    let first = hosts.start(0);
    // They are there before anybody else, and stay.
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
        // It may have been dropped already.
        drop(sent);
        if number % 2 == 0 {
            let _ = stranger.shutdown(std::net::Shutdown::Both);
        }
    }
    are_connected(vec![first, hosts.start(1)]);
}

#[test]
fn who_does_not_know_the_secret_is_dropped() {
    let hosts = Hosts::new(2);
    let first = hosts.start(0);
    // A stranger that says it was started for something else does not end the process either.
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
    are_connected(vec![first, hosts.start(1)]);
}

#[test]
fn a_process_with_other_options_ends_both() {
    let hosts = Hosts::new(2);
    let (first, second) = (hosts.start(0), hosts.start_as(hosts.cluster(1), "1m"));
    let says = "process 0 was started with other options: --window 5m there, 1m here";
    assert_eq!(second.failure(), says);
    let says = "process 1 was started with other options: --window 1m there, 5m here";
    assert_eq!(first.failure(), says);
}

#[test]
fn process_that_does_not_tell_its_settings_holds_nobody_up() {
    let hosts = Hosts::new(2);
    let first = hosts.start(0);
    let secret = hosts.secret.as_ref();
    let tell = |told: &[u8]| {
        let mut stream = TcpStream::connect(&hosts.addresses()[0]).unwrap();
        let handshake = hosts.handshake(1, 0);
        stream.write_all(&handshake.to_bytes()).unwrap();
        let mut bytes = [0; HANDSHAKE_BYTES];
        stream.read_exact(&mut bytes).unwrap();
        let handshakes =
            Handshakes { dials: handshake, listens: Handshake::from_bytes(&bytes).unwrap() };
        stream.write_all(&handshakes.prove(secret, Role::Dials)).unwrap();
        let mut answer = [0; 1 + PROOF_BYTES];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(Verdict::from_byte(answer[0]), Some(Verdict::Known));
        stream.write_all(told).unwrap();
        stream
    };
    let frame =
        |json: &[u8]| [&u32::try_from(json.len()).unwrap().to_be_bytes()[..], json].concat();
    let other = settings("1m").to_bytes();
    // Nothing, a part, too much, no JSON, and settings other than those announced.
    let said = [vec![], other[..20].to_vec(), vec![0xff; 4], frame(b"{"), other];
    let _strangers: Vec<TcpStream> = said.iter().map(|told| tell(told)).collect();
    are_connected(vec![first, hosts.start(1)]);
}

#[test]
fn host_files_that_differ_are_noticed() {
    let hosts = Hosts::new(3);
    let (first, second) = (hosts.start(0), hosts.start(1));
    // The third process takes the second one for the first.
    let mut third = hosts.cluster(2);
    third.hosts.swap(0, 1);
    let failure = hosts.start_as(third, WINDOW).failure();
    assert!(failure.contains("it is process 1 that is there"), "{failure}");
    first.leave();
    second.leave();
}

#[test]
fn a_generation_has_one_of_each() {
    let hosts = Hosts::new(3);
    let first = hosts.start(0);
    let secret = hosts.secret.as_ref();
    let (verdict, (held, handshake)) = hosts.speak(0, hosts.handshake(1, 0), secret).unwrap();
    assert_eq!(verdict, Verdict::Welcome);
    assert_eq!(hosts.dial(0, hosts.handshake(1, 0), secret), Some(Verdict::Taken));
    // It ends before all are there: whoever has joined must come again, to another rendezvous.
    drop(held);
    let again = loop {
        match hosts.speak(0, hosts.handshake(1, 0), secret) {
            Some((Verdict::Welcome, (_, again))) => break again,
            Some((verdict, _)) => assert_eq!(verdict, Verdict::Taken),
            None => {}
        }
    };
    assert_ne!(again.generation, handshake.generation);
    first.leave();
}

#[test]
fn a_process_of_an_earlier_start_is_refused() {
    // The fourth one is awaited all along.
    let hosts = Hosts::new(4);
    let (first, second) = (hosts.start(0), hosts.start(1));
    let secret = hosts.secret.as_ref();
    let (verdict, (held, handshake)) = hosts.speak(0, hosts.handshake(2, 0), secret).unwrap();
    assert_eq!(verdict, Verdict::Welcome);
    // As one would that had learnt it from a first process that is gone.
    let old = hosts.handshake(2, handshake.generation ^ 2);
    assert_eq!(hosts.dial(1, old, secret), Some(Verdict::OtherGeneration));
    assert_eq!(hosts.dial(1, hosts.handshake(2, 0), secret), Some(Verdict::OtherGeneration));
    drop(held);
    are_connected(vec![first, second, hosts.start(2), hosts.start(3)]);
}

#[test]
fn who_is_started_again_joins_the_others() {
    for gone in [0, 1] {
        let hosts = Hosts::new(3);
        let mut both = vec![hosts.start(0), hosts.start(1)];
        // The second one answers when it has joined the first.
        let verdict = hosts.dial(1, hosts.handshake(2, 0), hosts.secret.as_ref());
        assert_eq!(verdict, Some(Verdict::OtherGeneration));
        both.remove(gone).leave();
        both.insert(gone, hosts.start(gone));
        both.push(hosts.start(2));
        are_connected(both);
    }
}

#[test]
fn wrong_secret_is_named_by_both_processes() {
    for (with, says) in [
        (Some(Secret::drawn().unwrap()), "process 1 has another secret: give all the same"),
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
        assert!(rendezvous.meet().is_err());
        let why = rendezvous.missing(&Joined::new()).to_string();
        assert!(why.starts_with("no process 1 at 127.0.0.1:") && why.contains(says), "{why}");
        drop(rendezvous);
        let failure = format!("{:#}", other.rendezvous.join().unwrap().unwrap_err().error);
        assert!(failure.contains("secret"), "{failure}");
    }
}
