//! The processes come together.
//!
//! Each dials those before it and then listens to those after it. Nobody who is not of this computation
//! can join, hold it up, or end it: a connection must say who it is, soon, and is dropped otherwise.
//!
//! # Generations
//!
//! A process may end while others still wait, and be started again at once. The others must not take
//! the new one for the old: they would compute with connections to the dead. So process 0 calls a
//! rendezvous by a number that it draws, the generation, and
//!
//! - process 0 admits each number of a process once in a generation;
//! - the others learn the generation from process 0, whom they dial first, and keep a connection to
//!   each other only if both know the same one;
//! - who loses a connection before all are there leaves them all and begins again; process 0 then
//!   draws another number.
//!
//! So the connections of a generation all lead to the processes that process 0 has admitted, and of
//! each of them there is one. A rendezvous that is complete no longer listens: nobody joins a group that
//! computes, or that is dying.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use nix::poll::{PollFd, PollFlags, poll};
use socket2::{SockRef, TcpKeepalive};

use super::handshake::{HANDSHAKE_BYTES, Handshake, Handshakes, Role, Verdict};
use super::pending_peer::{PATIENCE, PendingPeer, Progress, settings_length};
use super::role::Cluster;
use super::secret::{self, PROOF_BYTES, Secret};
use super::settings::Settings;
use crate::base::error::Failure;
use crate::base::terminal::Messages;

/// Time limit for the other processes to come up.
const WAIT_FOR_PROCESSES: Duration = Duration::from_secs(60);
/// Interval between two attempts to reach a process, and between two checks for other events.
const RETRY: Duration = Duration::from_millis(50);
/// Time limit for an address to accept a connection.
const WAIT_FOR_ADDRESS: Duration = Duration::from_secs(2);
/// Time for which a machine may be out of reach before its processes count as lost. A process that is only stopped
/// is still in reach: its machine responds.
const OUT_OF_REACH: Duration = Duration::from_secs(30);
/// Maximum number of connections in their handshake at once. Others wait.
const GREETINGS: usize = 256;
/// The error about a response that no process of this build sends.
const NO_SENSE: &str = "its answer makes no sense";
/// Number of dropped connections that are reported one by one. Further ones are only counted.
const TOLD: u64 = 10;

/// Called while the process waits for others. An error ends the wait.
pub(super) type Waiting<'a> = &'a mut dyn FnMut() -> Result<(), Failure>;

pub(super) struct Rendezvous<'a> {
    cluster: &'a Cluster,
    settings: &'a Settings,
    handshake: Handshake,
    listener: TcpListener,
    messages: &'a Messages,
    waiting: Waiting<'a>,
    until: Instant,
    dropped: u64,
    /// Why processes of this computation were turned away last, by the number that each claims.
    turned_away: BTreeMap<usize, String>,
}

/// Processes that have joined.
type Joined = BTreeMap<usize, TcpStream>;

/// Why a rendezvous does not go on.
enum Stop {
    /// Somebody who had joined is gone.
    BeginAgain,
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Stop::Failed(failure)
    }
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Stop::Failed(error.into())
    }
}

impl<'a> Rendezvous<'a> {
    /// Listens, so that others can come.
    pub(super) fn new(
        cluster: &'a Cluster,
        listener: Option<TcpListener>,
        settings: &'a Settings,
        messages: &'a Messages,
        waiting: Waiting<'a>,
    ) -> anyhow::Result<Self> {
        let own = &cluster.hosts[cluster.process];
        let listening = || format!("listening on \"{own}\" for the other processes");
        let listener = match listener {
            Some(listener) => listener,
            None => TcpListener::bind(own.as_str()).with_context(listening)?,
        };
        listener.set_nonblocking(true).with_context(listening)?;
        let handshake = Handshake::new(
            cluster.process,
            cluster.hosts.len(),
            cluster.workers,
            settings.fingerprint(),
            cluster.secret.is_some(),
        );
        let until = Instant::now() + WAIT_FOR_PROCESSES;
        let turned_away = BTreeMap::new();
        Ok(Rendezvous {
            cluster,
            settings,
            handshake,
            listener,
            messages,
            waiting,
            until,
            dropped: 0,
            turned_away,
        })
    }

    /// A socket for each other process, when all are there.
    pub(super) fn sockets(mut self) -> Result<Vec<Option<TcpStream>>, Failure> {
        let joined = loop {
            match self.meet() {
                Ok(joined) => break joined,
                Err(Stop::Failed(failure)) => return Err(failure),
                Err(Stop::BeginAgain) => self
                    .messages
                    .say("a process has ended while others were waited for; waiting for all again"),
            }
        };
        if self.dropped > TOLD {
            let more = self.dropped - TOLD;
            self.messages.say(format!("dropped {more} more connections"));
        }
        let mut joined = joined;
        let processes = 0..self.cluster.hosts.len();
        let settled = processes.map(|process| joined.remove(&process).map(settle).transpose());
        let settled: io::Result<Vec<_>> = settled.collect();
        Ok(settled.context("readying the connections to the other processes")?)
    }

    fn secret(&self) -> Option<&'a Secret> {
        self.cluster.secret.as_ref()
    }

    fn meet(&mut self) -> Result<Joined, Stop> {
        let mut joined = Joined::new();
        // Not 0, which stands for one that is not known.
        let mut generation = u64::from_be_bytes(secret::draw()?) | 1;
        for process in 0..self.cluster.process {
            let knows = if process == 0 { 0 } else { generation };
            let (stream, handshake) = self.dial(process, knows, &joined)?;
            if process == 0 {
                generation = handshake.generation;
            }
            joined.insert(process, stream);
        }
        self.welcome(generation, &mut joined)?;
        // One that has left before the last one came is not there.
        self.look_around(&joined)?;
        Ok(joined)
    }

    /// Looks at what else may have happened while others are waited for.
    fn look_around(&mut self, joined: &Joined) -> Result<(), Stop> {
        (self.waiting)()?;
        if joined.values().any(is_cut) {
            // So that the others notice too, before this one comes again.
            std::thread::sleep(RETRY);
            return Err(Stop::BeginAgain);
        }
        Ok(())
    }

    fn is_too_late(&self) -> bool {
        Instant::now() > self.until
    }

    /// Reaches a process before this one.
    fn dial(
        &mut self,
        process: usize,
        generation: u64,
        joined: &Joined,
    ) -> Result<(TcpStream, Handshake), Stop> {
        let host = &self.cluster.hosts[process];
        let reach = || format!("reaching process {process} at \"{host}\"");
        loop {
            self.look_around(joined)?;
            let error = match connect(host) {
                Ok(stream) => {
                    let handshake = self.handshake.of_conversation(generation)?;
                    match self.introduce(process, stream, handshake, joined)? {
                        Ok(found) => return Ok(found),
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            if self.is_too_late() {
                return Err(anyhow!(error).context(reach()).into());
            }
            std::thread::sleep(RETRY);
        }
    }

    /// Says who this is, and hears who is there. The inner error may be gone another time.
    fn introduce(
        &mut self,
        process: usize,
        mut stream: TcpStream,
        own: Handshake,
        joined: &Joined,
    ) -> Result<io::Result<(TcpStream, Handshake)>, Stop> {
        let host = &self.cluster.hosts[process];
        let reach = || format!("reaching process {process} at \"{host}\"");
        let mut bytes = [0; HANDSHAKE_BYTES];
        let heard = stream.set_read_timeout(Some(RETRY)).and(stream.write_all(&own.to_bytes()));
        if let Err(error) = heard {
            return Ok(Err(error));
        }
        // The other one may be busy with those before this one.
        if let Err(error) = self.read_patiently(&mut stream, &mut bytes, joined)? {
            return Ok(Err(error));
        }
        let other = Handshake::from_bytes(&bytes).with_context(reach)?;
        let handshakes = Handshakes { dials: own, listens: other };
        let mut answer = [0; 1 + PROOF_BYTES];
        if let Err(error) = stream.write_all(&handshakes.prove(self.secret(), Role::Dials)) {
            return Ok(Err(error));
        }
        if let Err(error) = self.read_patiently(&mut stream, &mut answer, joined)? {
            return Ok(Err(error));
        }
        let (verdict, proof) = (Verdict::from_byte(answer[0]), &answer[1..]);
        let proved = handshakes.is_proof(self.secret(), Role::Listens, proof);
        if verdict == Some(Verdict::WrongSecret) || !proved {
            return Err(anyhow!(own.secrets(&other)).context(reach()).into());
        }
        if let Some(why) = own.mismatch(&other) {
            return Err(anyhow!(why).into());
        }
        if other.process != process as u64 {
            return Err(anyhow!(
                "it is process {} that is there: all must have the same host file",
                other.process
            )
            .context(reach())
            .into());
        }
        // Both would have seen a mismatch.
        if verdict != Some(Verdict::Known) {
            return Err(anyhow!(NO_SENSE).context(reach()).into());
        }
        self.tell_settings(stream, other, joined)
    }

    /// Tells the process that listens the settings of this one, and hears what comes of it. The inner error
    /// may be gone another time.
    fn tell_settings(
        &mut self,
        mut stream: TcpStream,
        other: Handshake,
        joined: &Joined,
    ) -> Result<io::Result<(TcpStream, Handshake)>, Stop> {
        let told = stream.set_write_timeout(Some(PATIENCE));
        let told = told.and_then(|()| stream.write_all(&self.settings.to_bytes()));
        if let Err(error) = told.and_then(|()| stream.set_write_timeout(None)) {
            return Ok(Err(error));
        }
        let mut verdict = [0];
        if let Err(error) = self.read_patiently(&mut stream, &mut verdict, joined)? {
            return Ok(Err(error));
        }
        let again = |why: &str| Ok(Err(io::Error::other(why.to_owned())));
        match Verdict::from_byte(verdict[0]) {
            Some(Verdict::Welcome) => Ok(Ok((stream, other))),
            Some(Verdict::Taken) => again("there is a process with the number of this one already"),
            Some(Verdict::OtherGeneration) => again("it waits for processes of another start"),
            Some(Verdict::Mismatch) => match self.read_settings(&mut stream, &other, joined)? {
                Ok(theirs) => {
                    let why = self.misfit(&theirs, other.process);
                    let why = why.unwrap_or_else(|| NO_SENSE.to_owned());
                    Err(anyhow!(why).into())
                }
                Err(error) => Ok(Err(error)),
            },
            Some(Verdict::WrongSecret | Verdict::Known) | None => {
                let from = format!("reaching process {}", other.process);
                Err(anyhow!(NO_SENSE).context(from).into())
            }
        }
    }

    /// Reads the settings of the process that listens. The inner error may be gone another time.
    fn read_settings(
        &mut self,
        stream: &mut TcpStream,
        other: &Handshake,
        joined: &Joined,
    ) -> Result<io::Result<Settings>, Stop> {
        let mut length = [0; 4];
        if let Err(error) = self.read_patiently(stream, &mut length, joined)? {
            return Ok(Err(error));
        }
        let mut json = match settings_length(length) {
            Ok(length) => vec![0; length],
            Err(error) => return Ok(Err(error)),
        };
        if let Err(error) = self.read_patiently(stream, &mut json, joined)? {
            return Ok(Err(error));
        }
        Ok(Settings::from_json(&json, other.settings))
    }

    /// Why a process with these settings can't be one of this computation.
    fn misfit(&self, theirs: &Settings, process: u64) -> Option<String> {
        let differences = self.settings.differences(self.handshake.process, theirs, process)?;
        Some(format!("process {process} was started with other options: {differences}"))
    }

    /// Reads all of these bytes. The inner error is one of the connection.
    fn read_patiently(
        &mut self,
        stream: &mut TcpStream,
        mut bytes: &mut [u8],
        joined: &Joined,
    ) -> Result<io::Result<()>, Stop> {
        while !bytes.is_empty() {
            match stream.read(bytes) {
                Ok(0) => {
                    let why = "it closed the connection";
                    return Ok(Err(io::Error::new(ErrorKind::UnexpectedEof, why)));
                }
                Ok(count) => bytes = &mut bytes[count..],
                Err(error) if is_pause(&error) => {
                    self.look_around(joined)?;
                    if self.is_too_late() {
                        return Ok(Err(io::Error::new(ErrorKind::TimedOut, "it says nothing")));
                    }
                }
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(()))
    }

    /// Waits for the processes after this one.
    fn welcome(&mut self, generation: u64, joined: &mut Joined) -> Result<(), Stop> {
        let mut pending_peers: Vec<PendingPeer> = Vec::new();
        while joined.len() + 1 < self.cluster.hosts.len() {
            self.look_around(joined)?;
            if self.is_too_late() {
                return Err(self.missing(joined).into());
            }
            self.wait_for_word(&pending_peers)?;
            self.accept(generation, &mut pending_peers)?;
            let now = Instant::now();
            for mut pending_peer in std::mem::take(&mut pending_peers) {
                match pending_peer.advance(self.secret(), now) {
                    Progress::Waits => pending_peers.push(pending_peer),
                    Progress::Stranger(error) => self.tell_dropped(&pending_peer, error),
                    Progress::Knows { handshakes, proved } => {
                        pending_peers.extend(self.admit(pending_peer, &handshakes, proved, now)?);
                    }
                    Progress::Tells { handshakes, settings } => {
                        self.join(pending_peer, &handshakes, &settings, joined)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Sleeps until something may have come.
    fn wait_for_word(&self, pending_peers: &[PendingPeer]) -> anyhow::Result<()> {
        let mut awaited = Vec::with_capacity(1 + pending_peers.len());
        if pending_peers.len() < GREETINGS {
            awaited.push(PollFd::new(self.listener.as_fd(), PollFlags::POLLIN));
        }
        let streams = pending_peers.iter().map(|pending_peer| pending_peer.stream.as_fd());
        awaited.extend(streams.map(|stream| PollFd::new(stream, PollFlags::POLLIN)));
        let nap = u16::try_from(RETRY.as_millis()).expect("it is short");
        match poll(&mut awaited, nap) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(anyhow!(error).context("waiting for the other processes")),
        }
    }

    fn accept(&self, generation: u64, pending_peers: &mut Vec<PendingPeer>) -> anyhow::Result<()> {
        while pending_peers.len() < GREETINGS {
            match self.listener.accept() {
                Ok((stream, from)) => {
                    let own = self.handshake.of_conversation(generation)?;
                    // It may be gone again.
                    if let Ok(pending_peer) = PendingPeer::new(stream, from, own, Instant::now()) {
                        pending_peers.push(pending_peer);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // A stranger that was gone before it was accepted.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(anyhow!(error).context("accepting another process")),
            }
        }
        Ok(())
    }

    /// Decides about a connection that has said who it is. Returns it if it goes on.
    fn admit(
        &mut self,
        mut pending_peer: PendingPeer,
        handshakes: &Handshakes,
        proved: bool,
        now: Instant,
    ) -> Result<Option<PendingPeer>, Stop> {
        let Handshakes { dials: other, listens: own } = handshakes;
        let process = usize::try_from(other.process).unwrap_or(usize::MAX);
        if !proved {
            let why = own.secrets(other);
            // The connection is dropped anyway.
            let _ = pending_peer.answer(handshakes, self.secret(), Verdict::WrongSecret);
            self.turn_away(&pending_peer, process, why);
            return Ok(None);
        }
        // Only of a process that knows the secret: a stranger can't end this one.
        let mismatch = own.mismatch(other).or_else(|| {
            let number = self.cluster.process;
            (process < number).then(|| {
                format!(
                    "process {process} took this one, {number}, for one before it: all must have the \
                     same host file"
                )
            })
        });
        if let Some(why) = mismatch {
            // This process ends anyway.
            let _ = pending_peer.answer(handshakes, self.secret(), Verdict::Mismatch);
            return Err(anyhow!(why).into());
        }
        match pending_peer.ask_settings(handshakes, self.secret(), now) {
            Ok(()) => Ok(Some(pending_peer)),
            Err(error) => {
                self.tell_dropped(&pending_peer, error);
                Ok(None)
            }
        }
    }

    /// Decides about a process of this computation that has told its settings.
    fn join(
        &mut self,
        mut pending_peer: PendingPeer,
        handshakes: &Handshakes,
        settings: &Settings,
        joined: &mut Joined,
    ) -> Result<(), Stop> {
        let Handshakes { dials: other, listens: own } = handshakes;
        if let Some(why) = self.misfit(settings, other.process) {
            // This process ends anyway.
            let _ = pending_peer.refuse(self.settings);
            return Err(anyhow!(why).into());
        }
        let process = usize::try_from(other.process).unwrap_or(usize::MAX);
        let expected = if self.cluster.process == 0 { 0 } else { own.generation };
        let refused = if other.generation != expected {
            Some((Verdict::OtherGeneration, format!("process {process} is of another start")))
        } else if joined.contains_key(&process) {
            Some((Verdict::Taken, format!("there is a process {process} already")))
        } else {
            None
        };
        let (verdict, why) = refused.unwrap_or((Verdict::Welcome, String::new()));
        match pending_peer.conclude(verdict) {
            Ok(()) if verdict == Verdict::Welcome => {
                joined.insert(process, pending_peer.stream);
            }
            Ok(()) => self.tell_dropped(&pending_peer, why),
            Err(error) => self.tell_dropped(&pending_peer, error),
        }
        Ok(())
    }

    /// Reports a process that has another secret. Its number is only claimed: it may be a stranger, and
    /// can't end this process.
    fn turn_away(&mut self, pending_peer: &PendingPeer, process: usize, why: String) {
        if process < self.cluster.hosts.len() {
            let from = pending_peer.from;
            // The first time it is reported whatever else was dropped before.
            if self.turned_away.insert(process, format!("{why} (from {from})")).is_none() {
                self.messages.warn(format!("dropped a connection from {from}: {why}"));
                return;
            }
        }
        self.tell_dropped(pending_peer, why);
    }

    fn tell_dropped(&mut self, pending_peer: &PendingPeer, why: impl std::fmt::Display) {
        self.dropped += 1;
        if self.dropped <= TOLD {
            let from = pending_peer.from;
            self.messages.warn(format!("dropped a connection from {from}: {why}"));
        }
    }

    fn missing(&self, joined: &Joined) -> anyhow::Error {
        let hosts = self.cluster.hosts.iter().enumerate();
        let missing: Vec<String> = hosts
            .filter(|(process, _)| *process != self.cluster.process)
            .filter(|(process, _)| !joined.contains_key(process))
            .map(|(process, host)| format!("{process} at {host}"))
            .collect();
        let seconds = WAIT_FOR_PROCESSES.as_secs();
        // A process that joined later with the right secret has had its mistake mended.
        let turned_away =
            self.turned_away.iter().filter(|(process, _)| !joined.contains_key(process));
        let reasons: String = turned_away.map(|(_, why)| format!("; {why}")).collect();
        anyhow!("no process {} after {seconds} s{reasons}", missing.join(", no process "))
    }
}

fn connect(host: &str) -> io::Result<TcpStream> {
    let mut error = io::Error::new(ErrorKind::NotFound, "it has no address");
    for address in host.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, WAIT_FOR_ADDRESS) {
            // At a port of the range that the system gives to dialing sockets, a socket may happen to connect to
            // itself while nobody listens there yet.
            Ok(stream) if stream.local_addr()? == address => {
                error = io::Error::new(ErrorKind::ConnectionRefused, "nobody listens there");
            }
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(refused) => error = refused,
        }
    }
    Err(error)
}

/// Whether nothing has come yet, and may still come.
fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Whether the process at the other end is gone. Who has met all may already compute, and send.
fn is_cut(stream: &TcpStream) -> bool {
    if stream.set_nonblocking(true).is_err() {
        return true;
    }
    match stream.peek(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => !is_pause(&error),
    }
}

/// Readies a socket for the computation.
fn settle(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(None)?;
    // A machine without power closes no connection, and who only waits would never know.
    let socket = SockRef::from(&stream);
    let keepalive = TcpKeepalive::new().with_time(OUT_OF_REACH / 3).with_interval(OUT_OF_REACH / 6);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(OUT_OF_REACH))?;
    Ok(stream)
}

#[cfg(test)]
#[path = "rendezvous_tests.rs"]
mod tests;
