//! Runs the program, each time in a directory of its own, and never waits for it for ever.
//!
//! A child that does not end, or does not say what a test waits for, is killed by a watchdog with all
//! that it has started; the test then fails and shows what was run and what it said.

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

/// How long a child may take. None comes near it, however busy the machine.
pub(crate) const STUCK_AFTER: Duration = Duration::from_secs(120);

/// A directory for the files of a test, removed with it.
pub(crate) struct Place {
    directory: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Place { directory: tempfile::tempdir().expect("a directory for the test") }
    }

    /// The path of a file in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file, and returns its path.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("writing a file of the test");
        path
    }

    /// The text of a file.
    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Makes a named pipe.
    pub(crate) fn fifo(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let made = Command::new("mkfifo").arg(&path).status().expect("running mkfifo");
        assert!(made.success(), "mkfifo {}", path.display());
        path
    }

    /// The program, to be run here. Words are split at blanks; paths are relative to this place.
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
    /// A pipe whose reader has gone.
    Closed,
    /// What a device takes.
    Device(&'static str),
}

/// A run that has not begun.
pub(crate) struct Run<'a> {
    place: &'a Place,
    /// Commands that run it, such as `setpriv` with its options.
    under: Vec<OsString>,
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, &'static str)>,
    stdin: Stdin,
    stdout: Stdout,
}

impl Run<'_> {
    /// Adds an argument, blanks and all.
    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Runs it by another program, which must become it: `ip netns exec`, `setpriv`.
    pub(crate) fn under(mut self, words: &str) -> Self {
        self.under = words.split_whitespace().map(OsString::from).collect();
        self
    }

    /// Sets a variable of its environment, which has none otherwise.
    pub(crate) fn env(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.push((name, value));
        self
    }

    /// What it reads on standard input.
    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Stdin::Bytes(bytes.into());
        self
    }

    /// Nobody reads its standard output.
    pub(crate) fn stdout_closed(mut self) -> Self {
        self.stdout = Stdout::Closed;
        self
    }

    /// Its standard output is a device.
    pub(crate) fn stdout_to(mut self, device: &'static str) -> Self {
        self.stdout = Stdout::Device(device);
        self
    }

    /// Starts it.
    pub(crate) fn start(self) -> Live {
        let words = self.arguments.iter().map(|word| word.to_string_lossy());
        let shown = words.fold("floodmark".to_owned(), |line, word| line + " " + &word);
        // Its own, by which the processes of this run are known.
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
            // Signals to the group reach it and what it starts, and not the tests.
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
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{shown}: {error}"));
        let watchdog = Watchdog::over(child.id());
        if let Stdin::Bytes(bytes) = self.stdin {
            let mut stdin = child.stdin.take().expect("standard input is piped");
            // It may end before it has read all.
            std::thread::spawn(move || drop(stdin.write_all(&bytes)));
        }
        let stdout = child.stdout.take();
        let stderr = child.stderr.take().expect("standard error is piped");
        let (say, said) = channel();
        // Followers hold it too: it ends when the last of them has.
        let stderr = std::thread::spawn(move || {
            let mut all = String::new();
            for line in BufReader::new(stderr).lines() {
                let line = line.expect("messages are UTF-8") + "\n";
                all += &line;
                let _ = say.send(line);
            }
            all
        });
        Live {
            shown,
            mark: temporary,
            child,
            watchdog,
            stdout: stdout.map(BufReader::new),
            lines: String::new(),
            stderr: Some(stderr),
            said,
            orphans: Vec::new(),
        }
    }

    /// Runs it to its end.
    pub(crate) fn run(self) -> Done {
        self.start().finish()
    }

    /// Runs it, which must end with this code, and returns what it wrote to standard output.
    pub(crate) fn stdout(self, code: i32) -> String {
        self.run().expect(code).stdout
    }
}

/// Kills a process group that takes too long.
struct Watchdog {
    off: Sender<()>,
    barked: Arc<AtomicBool>,
}

impl Watchdog {
    fn over(group: u32) -> Self {
        let (off, waiting) = channel::<()>();
        let barked = Arc::new(AtomicBool::new(false));
        let bark = barked.clone();
        std::thread::spawn(move || {
            let timeout = std::sync::mpsc::RecvTimeoutError::Timeout;
            if waiting.recv_timeout(STUCK_AFTER) == Err(timeout) {
                bark.store(true, Ordering::SeqCst);
                signal("KILL", &format!("-{group}"));
            }
        });
        Watchdog { off, barked }
    }
}

/// Sends a signal to a process, or with a minus sign to a group.
fn signal(name: &str, to: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), "--", to]).status();
    assert!(sent.expect("running kill").success(), "kill -{name} {to}");
}

/// Who gets a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    /// The process that was started.
    Parent,
    /// It and what it has started, as when a key is pressed at a terminal.
    Group,
    /// Of the processes that it has started, the one that was started as this one.
    Child(usize),
}

/// A run that has begun.
pub(crate) struct Live {
    shown: String,
    /// In the environment of all processes of this run.
    mark: PathBuf,
    child: Child,
    watchdog: Watchdog,
    stdout: Option<BufReader<ChildStdout>>,
    /// Read so far.
    lines: String,
    stderr: Option<JoinHandle<String>>,
    /// The same, line by line as it comes.
    said: Receiver<String>,
    /// Processes that were there after the first one's end.
    orphans: Vec<String>,
}

impl Live {
    /// The next line of standard output, as soon as it is there.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        let stdout = self.stdout.as_mut().expect("standard output is piped");
        let read = stdout.read_line(&mut line).expect("standard output is text");
        if read == 0 {
            self.end().fail("it ended before it said what was waited for");
        }
        self.lines += &line;
        line
    }

    /// The lines of standard output that were read so far.
    pub(crate) fn lines(&self) -> &str {
        &self.lines
    }

    /// Waits until it has said a line with this part on standard error.
    pub(crate) fn wait_for(&mut self, part: &str) -> String {
        while let Ok(line) = self.said.recv() {
            if line.contains(part) {
                return line;
            }
        }
        self.end().fail(&format!("it ended before it said: {part}"))
    }

    /// Reads no more of standard output.
    pub(crate) fn close_stdout(&mut self) {
        self.stdout = None;
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, name: &str, whom: Whom) {
        let id = self.child.id();
        match whom {
            Whom::Parent => signal(name, &id.to_string()),
            Whom::Group => signal(name, &format!("-{id}")),
            Whom::Child(number) => signal(name, &self.children()[number]),
        }
    }

    /// The id of the process that was started.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The processes that it has started, in the order in which it did.
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

    /// Whether it has ended by now.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("looking after the child").is_some()
    }

    /// The ids of the processes of this run that there are now.
    pub(crate) fn processes(&self) -> Vec<String> {
        processes_with(&self.mark)
    }

    /// Waits for its end, and holds it to have cleaned up.
    pub(crate) fn finish(mut self) -> Done {
        let done = self.end();
        if !self.orphans.is_empty() {
            done.fail(&format!("it has left processes behind: {:?}", self.orphans));
        }
        let files = fs::read_dir(&self.mark).expect("the directory for temporary files");
        let left: Vec<_> = files.map(|file| file.expect("a temporary file").path()).collect();
        if !left.is_empty() {
            done.fail(&format!("it has left temporary files behind: {left:?}"));
        }
        done
    }

    /// Waits for its end and that of all it has started, after one of them was killed.
    pub(crate) fn finish_killed(mut self) -> Done {
        let done = self.end();
        let left = self.processes();
        if !left.is_empty() {
            done.fail(&format!("it has left processes behind: {left:?}"));
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
        let _ = self.watchdog.off.send(());
        let mut stdout = std::mem::take(&mut self.lines);
        stdout += &String::from_utf8(rest).expect("standard output is UTF-8");
        let done = Done { shown: self.shown.clone(), status, stdout, stderr };
        if self.watchdog.barked.load(Ordering::SeqCst) {
            done.fail(&format!("it was stuck, and killed after {} s", STUCK_AFTER.as_secs()));
        }
        done
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // Only a test that has failed leaves it running.
        if self.stderr.is_some() {
            let group = format!("-{}", self.child.id());
            let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
            let _ = self.child.wait();
        }
    }
}

/// When a process was started.
fn started(process: &str) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("the process is there");
    // What is in parentheses, its name, may contain anything.
    let (_, fields) = stat.rsplit_once(')').expect("its name is in parentheses");
    let started = fields.split_whitespace().nth(19).expect("the field after 21 others");
    started.parse().expect("ticks of the clock")
}

/// The processes that have this path in their environment. One that is ending has none.
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

/// A run that has ended.
#[derive(Debug)]
pub(crate) struct Done {
    shown: String,
    status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    /// The same, if it ended with this exit code.
    pub(crate) fn expect(self, code: i32) -> Self {
        if self.status.code() != Some(code) {
            self.fail(&format!("expected exit code {code}"));
        }
        self
    }

    /// The same, if standard error has all of these.
    pub(crate) fn says(self, parts: &[&str]) -> Self {
        // A log of JSON objects has quotes within quotes.
        let unescaped = self.stderr.replace("\\\"", "\"");
        for part in parts {
            if !unescaped.contains(part) {
                self.fail(&format!("expected on standard error: {part}"));
            }
        }
        self
    }

    /// The exit code; an end by a signal counts as -1.
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// The command line.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// Fails the test, with all there is to know.
    pub(crate) fn fail(&self, why: &str) -> ! {
        let Done { shown, status, stdout, stderr } = self;
        let stdout: String = stdout.chars().take(3000).collect();
        panic!("{why}\n$ {shown}\n{status}\n--- stdout\n{stdout}--- stderr\n{stderr}---");
    }
}
