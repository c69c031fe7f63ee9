//! Connects the processes of a computation to each other.
//!
//! Each process dials those before it and then accepts those after it. No stranger can join the computation, delay
//! it, or end it: the process drops a connection whose peer does not identify itself in time.
//!
//! # Generations
//!
//! A process may end while others still wait, and be started again at once. The others must not mistake the new
//! process for the old one: they would compute with connections to a dead process. So process 0 draws a number for
//! each rendezvous, the generation, and
//!
//! - process 0 admits each number of a process once in a generation;
//! - the others learn the generation from process 0, which they dial first, and keep a connection to
//!   each other only if both know the same generation;
//! - a process that loses a connection before all processes have joined closes all its connections and starts anew;
//!   process 0 then draws another generation.
//!
//! So all connections of a generation lead to the processes that process 0 has admitted, and each of these exists
//! once. A complete rendezvous no longer listens: nobody joins a group that computes, or that is ending.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use nix::poll::{PollFd, PollFlags, poll};
use socket2::{SockRef, TcpKeepalive};

use super::handshake::{HANDSHAKE_BYTES, Handshake, Handshakes, Side, Verdict};
use super::pending_peer::{HANDSHAKE_TIMEOUT, PendingPeer, Progress, settings_length};
use super::role::Cluster;
use super::secret::{self, PROOF_BYTES, Secret};
use super::settings::Settings;
use crate::base::error::Failure;
use crate::base::terminal::Messages;

/// Time limit for the other processes to join.
const WAIT_FOR_PROCESSES: Duration = Duration::from_secs(60);
/// Interval between two attempts to reach a process, and between two checks for other events.
const RETRY: Duration = Duration::from_millis(50);
/// Time limit for an address to accept a connection.
const WAIT_FOR_ADDRESS: Duration = Duration::from_secs(2);
/// Time for which a machine may be unreachable before its processes count as lost. The machine of a process that is
/// only stopped still responds.
const UNREACHABLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum number of connections in their handshake at once. Others wait.
const PENDING_PEERS_MAX: usize = 256;
/// The error about a response that no process of this build sends.
const INVALID_RESPONSE: &str = "its response is invalid";
/// Number of dropped connections that are reported one by one. Further ones are only counted.
const REPORTED_DROPS_MAX: u64 = 10;

/// Called while the process waits for others. An error ends the wait.
pub(super) type Waiting<'a> = &'a mut dyn FnMut() -> Result<(), Failure>;

pub(super) struct Rendezvous<'a> {
    cluster: &'a Cluster,
    settings: &'a Settings,
    handshake: Handshake,
    listener: TcpListener,
    messages: &'a Messages,
    waiting: Waiting<'a>,
    deadline: Instant,
    dropped: u64,
    /// The last report of a wrong secret, by the number that the process claims.
    wrong_secrets: BTreeMap<usize, String>,
}

/// Processes that have joined.
type Joined = BTreeMap<usize, TcpStream>;

/// The reason why a rendezvous stops.
enum Stop {
    /// A process that had joined has ended: wait for all processes again.
    Restart,
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
    /// Listens, so that others can connect.
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
        let deadline = Instant::now() + WAIT_FOR_PROCESSES;
        let wrong_secrets = BTreeMap::new();
        Ok(Rendezvous {
            cluster,
            settings,
            handshake,
            listener,
            messages,
            waiting,
            deadline,
            dropped: 0,
            wrong_secrets,
        })
    }

    /// Waits for all processes, and returns a socket for each other process.
    pub(super) fn sockets(mut self) -> Result<Vec<Option<TcpStream>>, Failure> {
        let joined = loop {
            match self.connect_all() {
                Ok(joined) => break joined,
                Err(Stop::Failed(failure)) => return Err(failure),
                Err(Stop::Restart) => self.messages.info(
                    "a process has ended before all have joined; waiting for all processes again",
                ),
            }
        };
        if self.dropped > REPORTED_DROPS_MAX {
            let more = self.dropped - REPORTED_DROPS_MAX;
            self.messages.info(format!("dropped {more} more connections"));
        }
        let mut joined = joined;
        let processes = 0..self.cluster.hosts.len();
        let configured =
            processes.map(|process| joined.remove(&process).map(configure).transpose());
        let configured: io::Result<Vec<_>> = configured.collect();
        Ok(configured.context("configuring the connections to the other processes")?)
    }

    fn secret(&self) -> Option<&'a Secret> {
        self.cluster.secret.as_ref()
    }

    fn connect_all(&mut self) -> Result<Joined, Stop> {
        let mut joined = Joined::new();
        // Not 0, which stands for an unknown generation.
        let mut generation = u64::from_be_bytes(secret::draw()?) | 1;
        for process in 0..self.cluster.process {
            let known = if process == 0 { 0 } else { generation };
            let (stream, handshake) = self.dial(process, known, &joined)?;
            if process == 0 {
                generation = handshake.generation;
            }
            joined.insert(process, stream);
        }
        self.accept_all(generation, &mut joined)?;
        // A process may have ended before the last one has joined.
        self.check_joined(&joined)?;
        Ok(joined)
    }

    /// Fails if the wait is to end, or if a process that has joined has ended.
    fn check_joined(&mut self, joined: &Joined) -> Result<(), Stop> {
        (self.waiting)()?;
        if joined.values().any(is_closed) {
            // So that the others notice the loss too, before this process dials them again.
            std::thread::sleep(RETRY);
            return Err(Stop::Restart);
        }
        Ok(())
    }

    fn is_too_late(&self) -> bool {
        Instant::now() > self.deadline
    }

    /// Connects to a process before this one.
    fn dial(
        &mut self,
        process: usize,
        generation: u64,
        joined: &Joined,
    ) -> Result<(TcpStream, Handshake), Stop> {
        let host = &self.cluster.hosts[process];
        let reach = || format!("reaching process {process} at \"{host}\"");
        loop {
            self.check_joined(joined)?;
            let error = match connect(host) {
                Ok(stream) => {
                    let handshake = self.handshake.of_conversation(generation)?;
                    match self.exchange_handshakes(process, stream, handshake, joined)? {
                        Ok(peer) => return Ok(peer),
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

    /// Exchanges handshakes, proofs and settings with a listening process. The inner error may disappear at a retry.
    fn exchange_handshakes(
        &mut self,
        process: usize,
        mut stream: TcpStream,
        own: Handshake,
        joined: &Joined,
    ) -> Result<io::Result<(TcpStream, Handshake)>, Stop> {
        let host = &self.cluster.hosts[process];
        let reach = || format!("reaching process {process} at \"{host}\"");
        let mut bytes = [0; HANDSHAKE_BYTES];
        let sent = stream.set_read_timeout(Some(RETRY)).and(stream.write_all(&own.to_bytes()));
        if let Err(error) = sent {
            return Ok(Err(error));
        }
        // The other process may still wait for those before this one.
        if let Err(error) = self.read_all(&mut stream, &mut bytes, joined)? {
            return Ok(Err(error));
        }
        let other = Handshake::from_bytes(&bytes).with_context(reach)?;
        let handshakes = Handshakes { dials: own, listens: other };
        let mut response = [0; 1 + PROOF_BYTES];
        if let Err(error) = stream.write_all(&handshakes.prove(self.secret(), Side::Dials)) {
            return Ok(Err(error));
        }
        if let Err(error) = self.read_all(&mut stream, &mut response, joined)? {
            return Ok(Err(error));
        }
        let (verdict, proof) = (Verdict::from_byte(response[0]), &response[1..]);
        let proved = handshakes.is_proof(self.secret(), Side::Listens, proof);
        if verdict == Some(Verdict::WrongSecret) || !proved {
            return Err(anyhow!(own.secret_mismatch(&other)).context(reach()).into());
        }
        if let Some(why) = own.mismatch(&other) {
            return Err(anyhow!(why).into());
        }
        if other.process != process as u64 {
            return Err(anyhow!(
                "process {} listens there: all processes need the same host file",
                other.process
            )
            .context(reach())
            .into());
        }
        // This process would have noticed any mismatch, too.
        if verdict != Some(Verdict::SendSettings) {
            return Err(anyhow!(INVALID_RESPONSE).context(reach()).into());
        }
        self.send_settings(stream, other, joined)
    }

    /// Sends the settings of this process to the listening one, and reads the verdict. The inner error may disappear at
    /// a retry.
    fn send_settings(
        &mut self,
        mut stream: TcpStream,
        other: Handshake,
        joined: &Joined,
    ) -> Result<io::Result<(TcpStream, Handshake)>, Stop> {
        let sent = stream.set_write_timeout(Some(HANDSHAKE_TIMEOUT));
        let sent = sent.and_then(|()| stream.write_all(&self.settings.to_bytes()));
        if let Err(error) = sent.and_then(|()| stream.set_write_timeout(None)) {
            return Ok(Err(error));
        }
        let mut verdict = [0];
        if let Err(error) = self.read_all(&mut stream, &mut verdict, joined)? {
            return Ok(Err(error));
        }
        let again = |why: &str| Ok(Err(io::Error::other(why.to_owned())));
        match Verdict::from_byte(verdict[0]) {
            Some(Verdict::Welcome) => Ok(Ok((stream, other))),
            Some(Verdict::Taken) => {
                again("a process with the number of this one has joined already")
            }
            Some(Verdict::OtherGeneration) => again("it waits for the processes of another start"),
            Some(Verdict::Mismatch) => match self.read_settings(&mut stream, &other, joined)? {
                Ok(theirs) => {
                    let why = self.settings_mismatch(&theirs, other.process);
                    let why = why.unwrap_or_else(|| INVALID_RESPONSE.to_owned());
                    Err(anyhow!(why).into())
                }
                Err(error) => Ok(Err(error)),
            },
            Some(Verdict::WrongSecret | Verdict::SendSettings) | None => {
                let from = format!("reaching process {}", other.process);
                Err(anyhow!(INVALID_RESPONSE).context(from).into())
            }
        }
    }

    /// Reads the settings of the listening process. The inner error may disappear at a retry.
    fn read_settings(
        &mut self,
        stream: &mut TcpStream,
        other: &Handshake,
        joined: &Joined,
    ) -> Result<io::Result<Settings>, Stop> {
        let mut length = [0; 4];
        if let Err(error) = self.read_all(stream, &mut length, joined)? {
            return Ok(Err(error));
        }
        let mut json = match settings_length(length) {
            Ok(length) => vec![0; length],
            Err(error) => return Ok(Err(error)),
        };
        if let Err(error) = self.read_all(stream, &mut json, joined)? {
            return Ok(Err(error));
        }
        Ok(Settings::from_json(&json, other.settings))
    }

    /// Returns the reason if a process with these settings can't be one of this computation.
    fn settings_mismatch(&self, theirs: &Settings, process: u64) -> Option<String> {
        let differences = self.settings.differences(self.handshake.process, theirs, process)?;
        Some(format!("process {process} was started with other options: {differences}"))
    }

    /// Reads until `bytes` is full. The inner error is one of the connection.
    fn read_all(
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
                Err(error) if may_follow(&error) => {
                    self.check_joined(joined)?;
                    if self.is_too_late() {
                        return Ok(Err(io::Error::new(ErrorKind::TimedOut, "it sends nothing")));
                    }
                }
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(()))
    }

    /// Accepts connections until the processes after this one have joined.
    fn accept_all(&mut self, generation: u64, joined: &mut Joined) -> Result<(), Stop> {
        let mut pending_peers: Vec<PendingPeer> = Vec::new();
        while joined.len() + 1 < self.cluster.hosts.len() {
            self.check_joined(joined)?;
            if self.is_too_late() {
                return Err(self.missing(joined).into());
            }
            self.wait_for_input(&pending_peers)?;
            self.accept(generation, &mut pending_peers)?;
            let now = Instant::now();
            for mut pending_peer in std::mem::take(&mut pending_peers) {
                match pending_peer.advance(self.secret(), now) {
                    Progress::Pending => pending_peers.push(pending_peer),
                    Progress::Rejected(error) => self.report_dropped(&pending_peer, error),
                    Progress::Identified { handshakes, proved } => {
                        pending_peers.extend(self.admit(pending_peer, &handshakes, proved, now)?);
                    }
                    Progress::SettingsReceived { handshakes, settings } => {
                        self.join(pending_peer, &handshakes, &settings, joined)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Sleeps until a connection or bytes may have arrived.
    fn wait_for_input(&self, pending_peers: &[PendingPeer]) -> anyhow::Result<()> {
        let mut polled = Vec::with_capacity(1 + pending_peers.len());
        if pending_peers.len() < PENDING_PEERS_MAX {
            polled.push(PollFd::new(self.listener.as_fd(), PollFlags::POLLIN));
        }
        let streams = pending_peers.iter().map(|pending_peer| pending_peer.stream.as_fd());
        polled.extend(streams.map(|stream| PollFd::new(stream, PollFlags::POLLIN)));
        let nap = u16::try_from(RETRY.as_millis()).expect("it is short");
        match poll(&mut polled, nap) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(anyhow!(error).context("waiting for the other processes")),
        }
    }

    fn accept(&self, generation: u64, pending_peers: &mut Vec<PendingPeer>) -> anyhow::Result<()> {
        while pending_peers.len() < PENDING_PEERS_MAX {
            match self.listener.accept() {
                Ok((stream, from)) => {
                    let own = self.handshake.of_conversation(generation)?;
                    // The peer may have disconnected.
                    if let Ok(pending_peer) = PendingPeer::new(stream, from, own, Instant::now()) {
                        pending_peers.push(pending_peer);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The peer disconnected before it was accepted.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(anyhow!(error).context("accepting another process")),
            }
        }
        Ok(())
    }

    /// Admits or rejects a peer that has identified itself. Returns it if its settings are to follow.
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
            let why = own.secret_mismatch(other);
            // The connection is dropped anyway.
            let _ = pending_peer.respond(handshakes, self.secret(), Verdict::WrongSecret);
            self.report_wrong_secret(&pending_peer, process, why);
            return Ok(None);
        }
        // Only a process that knows the secret can end this one by a mismatch; a stranger can't.
        let mismatch = own.mismatch(other).or_else(|| {
            let number = self.cluster.process;
            (process < number).then(|| {
                format!(
                    "process {process} dialed this process, {number}, as if it came before: all processes \
                     need the same host file"
                )
            })
        });
        if let Some(why) = mismatch {
            // This process ends anyway.
            let _ = pending_peer.respond(handshakes, self.secret(), Verdict::Mismatch);
            return Err(anyhow!(why).into());
        }
        match pending_peer.request_settings(handshakes, self.secret(), now) {
            Ok(()) => Ok(Some(pending_peer)),
            Err(error) => {
                self.report_dropped(&pending_peer, error);
                Ok(None)
            }
        }
    }

    /// Lets a process join, or rejects it by its settings, its generation or its number.
    fn join(
        &mut self,
        mut pending_peer: PendingPeer,
        handshakes: &Handshakes,
        settings: &Settings,
        joined: &mut Joined,
    ) -> Result<(), Stop> {
        let Handshakes { dials: other, listens: own } = handshakes;
        if let Some(why) = self.settings_mismatch(settings, other.process) {
            // This process ends anyway.
            let _ = pending_peer.reject(self.settings);
            return Err(anyhow!(why).into());
        }
        let process = usize::try_from(other.process).unwrap_or(usize::MAX);
        let expected = if self.cluster.process == 0 { 0 } else { own.generation };
        let rejection = if other.generation != expected {
            Some((Verdict::OtherGeneration, format!("process {process} belongs to another start")))
        } else if joined.contains_key(&process) {
            Some((Verdict::Taken, format!("process {process} has joined already")))
        } else {
            None
        };
        let (verdict, why) = rejection.unwrap_or((Verdict::Welcome, String::new()));
        match pending_peer.send_verdict(verdict) {
            Ok(()) if verdict == Verdict::Welcome => {
                joined.insert(process, pending_peer.stream);
            }
            Ok(()) => self.report_dropped(&pending_peer, why),
            Err(error) => self.report_dropped(&pending_peer, error),
        }
        Ok(())
    }

    /// Reports a peer with another secret. Its number is only a claim: it may be a stranger, so it can't end this
    /// process.
    fn report_wrong_secret(&mut self, pending_peer: &PendingPeer, process: usize, why: String) {
        if process < self.cluster.hosts.len() {
            let from = pending_peer.from;
            // The first report for a number does not count towards the maximum.
            if self.wrong_secrets.insert(process, format!("{why} (from {from})")).is_none() {
                self.messages.warn(format!("dropped a connection from {from}: {why}"));
                return;
            }
        }
        self.report_dropped(pending_peer, why);
    }

    fn report_dropped(&mut self, pending_peer: &PendingPeer, why: impl std::fmt::Display) {
        self.dropped += 1;
        if self.dropped <= REPORTED_DROPS_MAX {
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
        // The mistake of a process that joined later, with the right secret, was fixed.
        let wrong_secrets =
            self.wrong_secrets.iter().filter(|(process, _)| !joined.contains_key(process));
        let reasons: String = wrong_secrets.map(|(_, why)| format!("; {why}")).collect();
        anyhow!("no process {} after {seconds} s{reasons}", missing.join(", no process "))
    }
}

fn connect(host: &str) -> io::Result<TcpStream> {
    let mut error = io::Error::new(ErrorKind::NotFound, "it resolves to no address");
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

/// Whether no bytes have arrived yet, but may still arrive.
fn may_follow(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Whether the peer has closed the connection. A peer that has joined all may already compute, and send.
fn is_closed(stream: &TcpStream) -> bool {
    if stream.set_nonblocking(true).is_err() {
        return true;
    }
    match stream.peek(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => !may_follow(&error),
    }
}

/// Configures a socket for the computation.
fn configure(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(None)?;
    // A machine that loses power closes no connection, so a process that only waits would never notice.
    let socket = SockRef::from(&stream);
    let keepalive = TcpKeepalive::new()
        .with_time(UNREACHABLE_TIMEOUT / 3)
        .with_interval(UNREACHABLE_TIMEOUT / 6);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNREACHABLE_TIMEOUT))?;
    Ok(stream)
}

#[cfg(test)]
#[path = "rendezvous_tests.rs"]
mod tests;
