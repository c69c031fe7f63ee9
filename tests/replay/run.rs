//! Runs the program in the directory of a test, with a bound on all waiting.
//!
//! A watchdog kills a child that does not end, or does not print the expected line, with all its child processes; the
//! test then fails with the command line and the output.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;

/// Time-out of a child process; far above anything that a busy machine needs.
pub(crate) const STUCK_AFTER: Duration = Duration::from_secs(120);

/// A directory for the files of a test; removed on drop.
pub(crate) struct Place {
    directory: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Place { directory: tempfile::tempdir().expect("a directory for the test") }
    }

    /// Returns the path of a file in the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file, and returns its path.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("writing a file of the test");
        path
    }

    /// Reads the text of a file.
    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Creates a named pipe.
    pub(crate) fn fifo(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let made = Command::new("mkfifo").arg(&path).status().expect("running mkfifo");
        assert!(made.success(), "mkfifo {}", path.display());
        path
    }

    /// Prepares a run of the program in this directory, with the blank-separated arguments `words`.
    pub(crate) fn floodmark(&self, words: &str) -> Run<'_> {
        let arguments = words.split_whitespace().map(OsString::from).collect();
        let environment = Vec::new();
        let under = Vec::new();
        let (stdin, stdout) = (Stdin::Null, Stdout::Piped);
        Run { place: self, under, arguments, environment, stdin, stdout }
    }
}

enum Stdin {
    Null,
    Bytes(Vec<u8>),
}

enum Stdout {
    Piped,
    /// A pipe whose read end is closed.
    Closed,
    /// A device file.
    Device(&'static str),
}

/// A run that is not started yet.
pub(crate) struct Run<'a> {
    place: &'a Place,
    /// The command that runs the program, such as `setpriv` with its options; empty for none.
    under: Vec<OsString>,
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, &'static str)>,
    stdin: Stdin,
    stdout: Stdout,
}

impl Run<'_> {
    /// Adds an argument, which may contain blanks.
    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Runs the program under a command that executes it in place, like `ip netns exec` and `setpriv`.
    pub(crate) fn under(mut self, words: &str) -> Self {
        self.under = words.split_whitespace().map(OsString::from).collect();
        self
    }

    /// Sets an environment variable; the environment is empty otherwise.
    pub(crate) fn env(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.push((name, value));
        self
    }

    /// Sets the content of standard input.
    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Stdin::Bytes(bytes.into());
        self
    }

    /// Closes the read end of standard output before the start.
    pub(crate) fn stdout_closed(mut self) -> Self {
        self.stdout = Stdout::Closed;
        self
    }

    /// Redirects standard output to a device.
    pub(crate) fn stdout_to(mut self, device: &'static str) -> Self {
        self.stdout = Stdout::Device(device);
        self
    }

    /// Starts the program.
    pub(crate) fn start(self) -> Live {
        let words = self.arguments.iter().map(|word| word.to_string_lossy());
        let command_line = words.fold("floodmark".to_owned(), |line, word| line + " " + &word);
        // A directory of its own identifies the processes of this run.
        static RUNS: AtomicUsize = AtomicUsize::new(0);
        let number = RUNS.fetch_add(1, Ordering::Relaxed);
        let temporary = self.place.path(&format!("tmp-{number}"));
        fs::create_dir_all(&temporary).expect("a directory for temporary files");
        let program = OsStr::new(env!("CARGO_BIN_EXE_floodmark"));
        let words: Vec<&OsStr> =
            self.under.iter().map(OsString::as_os_str).chain([program]).collect();
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .args(&self.arguments)
            .current_dir(self.place.directory.path())
            // No option comes from the environment of the tests.
            .env_clear()
            .env("TMPDIR", &temporary)
            .envs(self.environment)
            // Signals to the group reach the program and its children, but not the tests.
            .process_group(0)
            .stdin(match &self.stdin {
                Stdin::Null => Stdio::null(),
                Stdin::Bytes(_) => Stdio::piped(),
            })
            .stdout(match self.stdout {
                Stdout::Piped => Stdio::piped(),
                Stdout::Closed => {
                    let (reader, writer) = std::io::pipe().expect("a pipe");
                    drop(reader);
                    writer.into()
                }
                Stdout::Device(device) => {
                    let device = fs::File::options().write(true).open(device);
                    device.expect("opening the device").into()
                }
            })
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command_line}: {error}"));
        let watchdog = Watchdog::start(child.id());
        if let Stdin::Bytes(bytes) = self.stdin {
            let mut stdin = child.stdin.take().expect("standard input is piped");
            // The program may end before it has read all.
            std::thread::spawn(move || drop(stdin.write_all(&bytes)));
        }
        let stdout = child.stdout.take();
        let stderr = child.stderr.take().expect("standard error is piped");
        let (line_sender, stderr_lines) = channel();
        // Child processes inherit standard error: it ends with the last of them.
        let stderr = std::thread::spawn(move || {
            let mut all = String::new();
            for line in BufReader::new(stderr).lines() {
                let line = line.expect("messages are UTF-8") + "\n";
                all += &line;
                let _ = line_sender.send(line);
            }
            all
        });
        Live {
            command_line,
            mark: temporary,
            child,
            watchdog,
            stdout: stdout.map(BufReader::new),
            lines: String::new(),
            stderr: Some(stderr),
            stderr_lines,
            orphans: Vec::new(),
        }
    }

    /// Runs the program to its end.
    pub(crate) fn run(self) -> Done {
        self.start().finish()
    }

    /// Runs the program, which must exit with this code, and returns its standard output.
    pub(crate) fn stdout(self, code: i32) -> String {
        self.run().expect(code).stdout
    }
}

/// Kills a process group after a time-out.
struct Watchdog {
    cancel: Sender<()>,
    fired: Arc<AtomicBool>,
}

impl Watchdog {
    fn start(group: u32) -> Self {
        let (cancel, waiting) = channel::<()>();
        let fired = Arc::new(AtomicBool::new(false));
        let fire = fired.clone();
        std::thread::spawn(move || {
            let timeout = std::sync::mpsc::RecvTimeoutError::Timeout;
            if waiting.recv_timeout(STUCK_AFTER) == Err(timeout) {
                fire.store(true, Ordering::SeqCst);
                signal("KILL", &format!("-{group}"));
            }
        });
        Watchdog { cancel, fired }
    }
}

/// Sends a signal to a process, or to a group if `to` has a minus sign.
fn signal(name: &str, to: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), "--", to]).status();
    assert!(sent.expect("running kill").success(), "kill -{name} {to}");
}

/// The processes that receive a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignalTarget {
    /// The process that was started.
    Parent,
    /// That process and its children, as for an interrupt at a terminal.
    Group,
    /// The child process with this number, in order of their start.
    Child(usize),
}

/// A running program.
pub(crate) struct Live {
    command_line: String,
    /// The value of `TMPDIR`, which identifies all processes of this run.
    mark: PathBuf,
    child: Child,
    watchdog: Watchdog,
    stdout: Option<BufReader<ChildStdout>>,
    /// The lines read so far.
    lines: String,
    stderr: Option<JoinHandle<String>>,
    /// The lines of standard error, as they arrive.
    stderr_lines: Receiver<String>,
    /// Processes of the run that were left after the end of the first one.
    orphans: Vec<String>,
}

impl Live {
    /// Waits for the next line of standard output, and returns it.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        let stdout = self.stdout.as_mut().expect("standard output is piped");
        let read = stdout.read_line(&mut line).expect("standard output is text");
        if read == 0 {
            self.end().fail("the program ended before it printed another line");
        }
        self.lines += &line;
        line
    }

    /// Returns the lines of standard output read so far.
    pub(crate) fn lines(&self) -> &str {
        &self.lines
    }

    /// Waits for a line on standard error that contains this part, and returns it.
    pub(crate) fn wait_for(&mut self, part: &str) -> String {
        while let Ok(line) = self.stderr_lines.recv() {
            if line.contains(part) {
                return line;
            }
        }
        self.end().fail(&format!("the program ended before it logged: {part}"))
    }

    /// Closes the read end of standard output.
    pub(crate) fn close_stdout(&mut self) {
        self.stdout = None;
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, name: &str, target: SignalTarget) {
        let id = self.child.id();
        match target {
            SignalTarget::Parent => signal(name, &id.to_string()),
            SignalTarget::Group => signal(name, &format!("-{id}")),
            SignalTarget::Child(number) => signal(name, &self.children()[number]),
        }
    }

    /// Returns the id of the process that was started.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the child processes, in order of their start.
    fn children(&self) -> Vec<String> {
        let id = self.child.id().to_string();
        let mut children: Vec<(u64, u32)> = self
            .processes()
            .into_iter()
            .filter(|process| *process != id)
            .map(|process| (started(&process), process.parse().expect("an id is a number")))
            .collect();
        children.sort_unstable();
        children.into_iter().map(|(_, process)| process.to_string()).collect()
    }

    /// Whether the program has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("polling the child").is_some()
    }

    /// Returns the ids of all running processes of this run.
    pub(crate) fn processes(&self) -> Vec<String> {
        processes_with(&self.mark)
    }

    /// Waits for the program's end, and asserts that it left no processes and no temporary files.
    pub(crate) fn finish(mut self) -> Done {
        let done = self.end();
        if !self.orphans.is_empty() {
            done.fail(&format!("the program has left processes behind: {:?}", self.orphans));
        }
        let files = fs::read_dir(&self.mark).expect("the directory for temporary files");
        let left: Vec<_> = files.map(|file| file.expect("a temporary file").path()).collect();
        if !left.is_empty() {
            done.fail(&format!("the program has left temporary files behind: {left:?}"));
        }
        done
    }

    /// Waits for the end of the program and its children, after one of them was killed.
    pub(crate) fn finish_killed(mut self) -> Done {
        let done = self.end();
        let left = self.processes();
        if !left.is_empty() {
            done.fail(&format!("the program has left processes behind: {left:?}"));
        }
        done
    }

    fn end(&mut self) -> Done {
        let mut rest = Vec::new();
        if let Some(stdout) = &mut self.stdout {
            stdout.read_to_end(&mut rest).expect("reading standard output");
        }
        let status = self.child.wait().expect("waiting for the child");
        self.orphans = processes_with(&self.mark);
        let stderr = self.stderr.take().expect("it ends once").join().expect("the reader ends");
        let _ = self.watchdog.cancel.send(());
        let mut stdout = std::mem::take(&mut self.lines);
        stdout += &String::from_utf8(rest).expect("standard output is UTF-8");
        let done = Done { command_line: self.command_line.clone(), status, stdout, stderr };
        if self.watchdog.fired.load(Ordering::SeqCst) {
            done.fail(&format!(
                "the program was stuck, and killed after {} s",
                STUCK_AFTER.as_secs()
            ));
        }
        done
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // Only a failed test leaves the program running.
        if self.stderr.is_some() {
            let group = format!("-{}", self.child.id());
            let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
            let _ = self.child.wait();
        }
    }
}

/// Returns the start time of a process, in clock ticks since boot.
fn started(process: &str) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("the process is there");
    // The name, in parentheses, may contain anything.
    let (_, fields) = stat.rsplit_once(')').expect("its name is in parentheses");
    let started = fields.split_whitespace().nth(19).expect("the field after 21 others");
    started.parse().expect("ticks of the clock")
}

/// Returns the processes with this path as their `TMPDIR`. A process that is exiting has no environment.
fn processes_with(mark: &Path) -> Vec<String> {
    let mark = [b"TMPDIR=", mark.as_os_str().as_bytes(), b"\0"].concat();
    let Ok(all) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    all.filter_map(|process| {
        let process = process.ok()?.path();
        let environment = fs::read(process.join("environ")).ok()?;
        let has = environment.windows(mark.len()).any(|part| part == mark);
        has.then(|| process.file_name().map(|id| id.to_string_lossy().into_owned()))?
    })
    .collect()
}

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Done {
    command_line: String,
    status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    /// Asserts the exit code.
    pub(crate) fn expect(self, code: i32) -> Self {
        if self.status.code() != Some(code) {
            self.fail(&format!("expected exit code {code}"));
        }
        self
    }

    /// Asserts that standard error contains all of these parts.
    pub(crate) fn assert_stderr(self, parts: &[&str]) -> Self {
        // Quotes are escaped in a log of JSON objects.
        let unescaped = self.stderr.replace("\\\"", "\"");
        for part in parts {
            if !unescaped.contains(part) {
                self.fail(&format!("expected on standard error: {part}"));
            }
        }
        self
    }

    /// Returns the exit code; -1 if a signal ended the program.
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// Returns the command line.
    pub(crate) fn command_line(&self) -> &str {
        &self.command_line
    }

    /// Fails the test with a reason, the command line and the output.
    pub(crate) fn fail(&self, why: &str) -> ! {
        let Done { command_line, status, stdout, stderr } = self;
        let stdout: String = stdout.chars().take(3000).collect();
        panic!("{why}\n$ {command_line}\n{status}\n--- stdout\n{stdout}--- stderr\n{stderr}---");
    }
}
