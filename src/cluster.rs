//! Workers and processes: which there are, and how they find each other.
//!
//! timely's own bootstrap retries for ever, believes whoever connects, and does not notice that
//! processes were started with different options until it is too late. So the sockets are made here:
//! each process dials those before it and accepts those after it, and both sides say who they are
//! before timely gets the socket.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use tempfile::TempPath;
use timely::WorkerConfig;
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};
use timely::communication::{Config, Hooks};
use timely::worker::Worker;

use crate::error::{Exit, Failure};
use crate::terminal::Messages;

/// The workers of a computation, as one process sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Worker threads of each process.
    pub workers: usize,
    /// Which of the processes this one is.
    pub process: usize,
    /// The address of each process; one and unused if there is only this one.
    pub hosts: Vec<String>,
}

/// How long a process waits for the others to come up.
const WAIT_FOR_PROCESSES: Duration = Duration::from_secs(60);
/// How long a connection may take to say who it is; others wait meanwhile.
const WAIT_FOR_HELLO: Duration = Duration::from_secs(2);
/// Between two attempts to reach a process.
const RETRY: Duration = Duration::from_millis(50);

/// Ends the process when any thread panics: a computation that has lost a worker would wait for it.
pub fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// The worker that panics, for tests of what that does. Not in release builds.
pub const PANIC_WORKER: &str = "FLOODMARK_PANIC_WORKER";

fn panic_if_asked_to(worker: usize) {
    if cfg!(debug_assertions) && std::env::var(PANIC_WORKER) == Ok(worker.to_string()) {
        panic!("worker {worker} panics, as {PANIC_WORKER} says");
    }
}

fn usage(error: anyhow::Error) -> Failure {
    Failure::new(Exit::Usage, error)
}

impl Cluster {
    /// One process.
    pub fn alone(workers: usize) -> Self {
        Cluster { workers, process: 0, hosts: vec![String::new()] }
    }

    /// The processes of a host file, of which this is one.
    pub fn of_host_file(
        workers: usize,
        processes: usize,
        process: usize,
        file: &Path,
    ) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("reading the host file \"{}\"", file.display()))
            .map_err(|error| Failure::new(Exit::NoInput, error))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let hosts: Vec<String> = lines.map(str::to_owned).collect();
        let name = file.display();
        if hosts.len() != processes {
            return Err(usage(anyhow!(
                "the host file \"{name}\" names {} processes, and -n says {processes}: give each one \
                 line host:port",
                hosts.len()
            )));
        }
        if let Some(bad) = hosts.iter().find(|host| !host.contains(':')) {
            return Err(usage(anyhow!("\"{bad}\" in the host file \"{name}\" is not host:port")));
        }
        Ok(Cluster { workers, process, hosts })
    }

    /// The number of all workers.
    pub fn peers(&self) -> usize {
        self.workers * self.hosts.len()
    }

    /// Starts the workers of this process, together with those of the others, and waits for them.
    ///
    /// `options` must be equal in all processes: it is what the computation is built from.
    /// `waiting` is called again and again while other processes are waited for; an error of its ends
    /// that.
    pub fn execute<T: Send + 'static>(
        &self,
        options: &str,
        messages: &Messages,
        waiting: &mut dyn FnMut() -> Result<(), Failure>,
        config: WorkerConfig,
        work: impl Fn(&mut Worker) -> T + Send + Sync + 'static,
    ) -> Result<Vec<T>, Failure> {
        let (builders, others) = if self.hosts.len() == 1 {
            Config::Process(self.workers).try_build().map_err(|error| anyhow!(error))?
        } else {
            let sockets = Meeting::new(self, options)?.sockets(messages, waiting)?;
            let hooks = Hooks::default();
            let process =
                ProcessBuilder::new_typed_vector(self.workers, hooks.refill.clone(), None);
            let (builders, guard) = initialize_networking_from_sockets(
                process,
                sockets,
                self.process,
                self.workers,
                hooks,
            )
            .context("starting the threads that talk to the other processes")?;
            let builders = builders.into_iter().map(AllocatorBuilder::Tcp).collect();
            (builders, Box::new(guard) as Box<dyn std::any::Any + Send>)
        };
        let work = move |worker: &mut Worker| {
            panic_if_asked_to(worker.index());
            work(worker)
        };
        let guards = timely::execute::execute_from(builders, others, config, work)
            .map_err(|error| anyhow!(error))?;
        let results = guards.join().into_iter();
        Ok(results.collect::<Result<_, _>>().map_err(|error| anyhow!("a worker ended: {error}"))?)
    }
}

/// What each side of a new connection says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hello {
    process: u64,
    processes: u64,
    workers: u64,
    /// Of version and options.
    digest: u64,
}

const MAGIC: [u8; 8] = *b"floodmrk";
const HELLO_BYTES: usize = 8 + 4 * 8;

impl Hello {
    fn write(&self, stream: &mut TcpStream) -> io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        for number in [self.process, self.processes, self.workers, self.digest] {
            bytes.extend(number.to_be_bytes());
        }
        stream.write_all(&bytes)
    }

    fn read(stream: &mut TcpStream) -> io::Result<Hello> {
        let mut bytes = [0; HELLO_BYTES];
        stream.read_exact(&mut bytes)?;
        let (magic, rest) = bytes.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(io::Error::new(ErrorKind::InvalidData, "not floodmark at the other end"));
        }
        let mut numbers = rest.chunks_exact(8).map(|chunk| {
            u64::from_be_bytes(chunk.try_into().expect("a chunk of 8 bytes has 8 bytes"))
        });
        let mut next = || numbers.next().expect("the array has room for four numbers");
        Ok(Hello { process: next(), processes: next(), workers: next(), digest: next() })
    }

    /// Why the other process can't be one of this computation.
    fn mismatch(&self, other: &Hello) -> Option<String> {
        let who = format!("process {}", other.process);
        let differs = |what: &str, theirs: u64, ours: u64| {
            format!("{who} was started with {what} {theirs}, this one with {what} {ours}")
        };
        if other.processes != self.processes {
            Some(differs("-n", other.processes, self.processes))
        } else if other.workers != self.workers {
            Some(differs("-w", other.workers, self.workers))
        } else if other.digest != self.digest {
            Some(format!("{who} is of another version, or was started with other options"))
        } else if other.process == self.process || other.process >= self.processes {
            Some(format!("{who} was started twice: each process needs a -p of its own"))
        } else {
            None
        }
    }
}

/// The processes come together.
struct Meeting<'a> {
    cluster: &'a Cluster,
    hello: Hello,
    listener: TcpListener,
}

impl<'a> Meeting<'a> {
    fn new(cluster: &'a Cluster, options: &str) -> anyhow::Result<Self> {
        let own = &cluster.hosts[cluster.process];
        let listener = TcpListener::bind(own.as_str())
            .with_context(|| format!("listening on \"{own}\" for the other processes"))?;
        let mut hasher = DefaultHasher::new();
        (env!("CARGO_PKG_VERSION"), options).hash(&mut hasher);
        let hello = Hello {
            process: cluster.process as u64,
            processes: cluster.hosts.len() as u64,
            workers: cluster.workers as u64,
            digest: hasher.finish(),
        };
        Ok(Meeting { cluster, hello, listener })
    }

    /// A socket for each other process.
    fn sockets(
        &self,
        messages: &Messages,
        waiting: &mut dyn FnMut() -> Result<(), Failure>,
    ) -> Result<Vec<Option<TcpStream>>, Failure> {
        let until = Instant::now() + WAIT_FOR_PROCESSES;
        let mut sockets = BTreeMap::new();
        for process in 0..self.cluster.process {
            sockets.insert(process, self.dial(process, until, waiting)?);
        }
        self.listener.set_nonblocking(true).context("listening for the other processes")?;
        while sockets.len() + 1 < self.cluster.hosts.len() {
            match self.listener.accept() {
                Ok((stream, from)) => match self.welcome(stream)? {
                    Ok((process, stream)) => drop(sockets.insert(process, stream)),
                    Err(error) => {
                        messages.say(format!("dropped a connection from {from}: {error}"));
                    }
                },
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let missing: Vec<_> = (0..self.cluster.hosts.len())
                        .filter(|process| {
                            *process != self.cluster.process && !sockets.contains_key(process)
                        })
                        .map(|process| format!("{process} at {}", self.cluster.hosts[process]))
                        .collect();
                    if Instant::now() > until {
                        let seconds = WAIT_FOR_PROCESSES.as_secs();
                        let missing = missing.join(", no process ");
                        return Err(anyhow!("no process {missing} after {seconds} s").into());
                    }
                    waiting()?;
                    std::thread::sleep(RETRY);
                }
                Err(error) => {
                    return Err(anyhow!(error).context("accepting another process").into());
                }
            }
        }
        let processes = 0..self.cluster.hosts.len();
        Ok(processes.map(|process| sockets.remove(&process)).collect())
    }

    fn dial(
        &self,
        process: usize,
        until: Instant,
        waiting: &mut dyn FnMut() -> Result<(), Failure>,
    ) -> Result<TcpStream, Failure> {
        let host = &self.cluster.hosts[process];
        let reach = || format!("reaching process {process} at \"{host}\"");
        let mut stream = loop {
            let addresses: Vec<_> = host.to_socket_addrs().with_context(reach)?.collect();
            match TcpStream::connect(&addresses[..]) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > until => {
                    return Err(anyhow!(error).context(reach()).into());
                }
                Err(_) => {
                    waiting()?;
                    std::thread::sleep(RETRY);
                }
            }
        };
        self.hello.write(&mut stream).with_context(reach)?;
        // The other one may be busy with those before this one.
        stream.set_read_timeout(Some(WAIT_FOR_PROCESSES)).with_context(reach)?;
        let other = Hello::read(&mut stream).with_context(reach)?;
        self.check(&other)?;
        Ok(settle(stream).with_context(reach)?)
    }

    /// Hears who has connected. The inner error is a stranger's fault, and ends only its connection.
    fn welcome(&self, mut stream: TcpStream) -> anyhow::Result<io::Result<(usize, TcpStream)>> {
        let hear = |stream: &mut TcpStream| {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(WAIT_FOR_HELLO))?;
            let other = Hello::read(stream)?;
            self.hello.write(stream)?;
            Ok(other)
        };
        let other = match hear(&mut stream) {
            Ok(other) => other,
            Err(error) => return Ok(Err(error)),
        };
        self.check(&other)?;
        Ok(settle(stream).map(|stream| (other.process as usize, stream)))
    }

    fn check(&self, other: &Hello) -> anyhow::Result<()> {
        match self.hello.mismatch(other) {
            Some(why) => bail!("{why}"),
            None => Ok(()),
        }
    }
}

/// Readies a socket for the computation.
fn settle(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_read_timeout(None)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The processes after the first one, started on this machine. They end with this value.
#[derive(Debug)]
pub struct Followers {
    children: Vec<Child>,
    /// Removed with this value.
    host_file: TempPath,
}

/// Set for followers, which leave the terminal to the first process.
pub const FOLLOWER: &str = "FLOODMARK_FOLLOWER";

impl Followers {
    /// Starts this command again as each of the other processes, on free ports of this machine, and
    /// returns how this process takes part.
    pub fn start(workers: usize, processes: usize) -> anyhow::Result<(Self, Cluster)> {
        // All at once, so that they are different ones.
        let listeners: Vec<TcpListener> = (0..processes)
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<io::Result<_>>()
            .context("finding free ports for the processes")?;
        let addresses = listeners.iter().map(|listener| Ok(listener.local_addr()?.to_string()));
        let hosts: Vec<String> = addresses.collect::<io::Result<_>>()?;
        drop(listeners);

        let mut host_file = tempfile::NamedTempFile::new().context("writing a host file")?;
        host_file.write_all(hosts.join("\n").as_bytes()).context("writing a host file")?;
        let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
        // The command comes first. What follows its options may be files behind a `--`.
        let (command, options) = arguments.split_at(arguments.len().min(1));
        let mut followers =
            Followers { children: Vec::new(), host_file: host_file.into_temp_path() };
        for process in 1..processes {
            let program = std::env::current_exe().context("finding this program")?;
            let child = Command::new(program)
                .args(command)
                .arg("--process")
                .arg(process.to_string())
                .arg("--hostfile")
                .arg(&*followers.host_file)
                .args(options)
                .env(FOLLOWER, "1")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .with_context(|| format!("starting process {process}"))?;
            followers.children.push(child);
        }
        Ok((followers, Cluster { workers, process: 0, hosts }))
    }

    /// Tells if one has ended, which none should while this one waits for it.
    pub fn check(&mut self) -> anyhow::Result<()> {
        for (child, process) in self.children.iter_mut().zip(1..) {
            if let Some(status) = child.try_wait().context("looking after the processes")? {
                bail!("process {process} ended with {status} before it had begun");
            }
        }
        Ok(())
    }

    /// Waits until all have ended, and tells if one did not do so well.
    pub fn join(mut self) -> anyhow::Result<()> {
        for (mut child, process) in std::mem::take(&mut self.children).into_iter().zip(1..) {
            let status = child.wait().with_context(|| format!("waiting for process {process}"))?;
            if !status.success() {
                bail!("process {process} ended with {status}");
            }
        }
        Ok(())
    }
}

impl Drop for Followers {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
