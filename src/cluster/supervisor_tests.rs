//! The supervisor, with shell scripts as processes: they cause events that a computation rarely causes.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::super::group::MemberEvent;
use super::*;

/// Shell prelude of each script: the number of its process, and a function that sends bytes to the supervisor.
const PRELUDE: &str = r#"
read -r role <&"$FLOODMARK_LIFELINE"
[[ $role =~ \"process\":([0-9]+) ]] && process=${BASH_REMATCH[1]}
send() { printf "$1" >&"$FLOODMARK_LIFELINE"; }
"#;

/// A time longer than any of these tests.
const NEVER: Duration = Duration::from_secs(300);

struct Scripts {
    directory: TempDir,
}

impl Scripts {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let made = Command::new("mkfifo").arg(directory.path().join("pipe")).status().unwrap();
        assert!(made.success());
        Scripts { directory }
    }

    /// Returns a supervisor of processes that run this script.
    fn supervisor(
        &self,
        processes: usize,
        hang_timeout: Duration,
        script: &str,
    ) -> Supervisor<impl Fn() -> Command> {
        let (directory, script) = (self.directory.path().to_owned(), format!("{PRELUDE}{script}"));
        let command = move || {
            let mut command = Command::new("bash");
            command.args(["-c", &script]).current_dir(&directory);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        Supervisor::new(processes, hang_timeout, command, sync_channel(EVENTS_MAX))
    }

    /// Returns how many runs of the script have written their line.
    fn runs(&self) -> usize {
        lines(&self.directory.path().join("runs"))
    }
}

fn lines(file: &Path) -> usize {
    fs::read_to_string(file).unwrap().lines().count()
}

fn restarts_at_once() -> Option<Backoff> {
    let soon = Duration::from_millis(1);
    Some(Backoff::between(soon, soon, NEVER))
}

/// Returns the failure of a script.
fn failure(processes: usize, hang_timeout: Duration, script: &str) -> String {
    let outcome = Scripts::new().supervisor(processes, hang_timeout, script).run();
    let failure = outcome.expect_err("the script fails");
    assert_eq!(failure.exit, Exit::Failed);
    format!("{:#}", failure.error)
}

#[test]
fn exit_code_is_that_of_the_first_process() {
    for exit in Exit::ALL {
        for processes in [1, 3] {
            let script = format!("[[ $process = 0 ]] && exit {}; exit 0", exit as i32);
            let scripts = Scripts::new();
            let mut supervisor = scripts.supervisor(processes, NEVER, &script);
            assert_eq!(supervisor.run().expect("no other failure"), exit);
        }
    }
}

#[test]
fn failure_names_the_process() {
    let script = "[[ $process = 1 ]] && kill -9 $$; exec sleep 600";
    let message = "process 1 was killed by signal 9 (SIGKILL): all processes were ended";
    assert_eq!(failure(3, NEVER, script), message);
    let script = "[[ $process = 2 ]] && exit 101; exec sleep 600";
    assert_eq!(
        failure(3, NEVER, script),
        "process 2 ended with code 101: all processes were ended"
    );
    let script = r#"send 'P\0\0\0\0'; kill -ABRT $$"#;
    assert_eq!(failure(1, NEVER, script), "process 0 panicked");
}

#[test]
fn stopped_process_fails_after_the_hang_timeout() {
    let soon = Duration::from_millis(300);
    let message = "process 0 gave no sign of life for 300ms";
    assert_eq!(failure(1, soon, "kill -STOP $$"), message);
}

#[test]
fn cause_is_named_even_if_its_effect_arrives_first() {
    // The second process dies only when the first one has.
    let script = r#"
        if [[ $process = 0 ]]; then exec {held}>pipe; send 'L\0\0\0\1'; exit 1; fi
        read -r _ <pipe
        kill -9 $$"#;
    let message = "process 1 was killed by signal 9 (SIGKILL): all processes were ended";
    assert_eq!(failure(2, NEVER, script), message);
    // Process 1 has not failed, so there is no other cause.
    let script = r#"[[ $process = 0 ]] && send 'L\0\0\0\1' && exit 1; exit 0"#;
    let message = "process 0 lost its connection to process 1: all processes were ended";
    assert_eq!(failure(2, NEVER, script), message);
}

#[test]
fn failed_processes_are_restarted_until_one_start_succeeds() {
    let script = r#"
        if [[ $process = 1 ]]; then read -r _ <pipe; exit 0; fi
        echo run >>runs
        if (( $(wc -l <runs) == 1 )); then kill -9 $$; fi
        if (( $(wc -l <runs) == 2 )); then exit 1; fi
        echo >pipe
        exit 2"#;
    let scripts = Scripts::new();
    let mut supervisor = scripts.supervisor(2, NEVER, script);
    supervisor.restarts = restarts_at_once();
    assert_eq!(supervisor.run().expect("the third start answers"), Exit::Violations);
    assert_eq!(scripts.runs(), 3);
    assert_eq!(supervisor.restarts.unwrap().restarts, 2);
}

#[test]
fn each_start_has_its_own_secret() {
    let script = r#"
        echo "$role" >>roles
        (( $(wc -l <roles) == 2 )) && exit 0
        kill -9 $$"#;
    let scripts = Scripts::new();
    let mut supervisor = scripts.supervisor(1, NEVER, script);
    supervisor.restarts = restarts_at_once();
    supervisor.run().expect("the second start answers");
    let roles = fs::read_to_string(scripts.directory.path().join("roles")).unwrap();
    let secrets: Vec<Vec<u8>> = roles
        .lines()
        .map(|line| {
            let role: crate::cluster::member::ChildRole = serde_json::from_str(line).unwrap();
            role.secret
        })
        .collect();
    assert_eq!(secrets.len(), 2);
    assert_ne!(secrets[0], secrets[1]);
}

#[test]
fn failure_of_options_or_files_causes_no_restart() {
    for exit in [Exit::Usage, Exit::NoInput, Exit::BadConfig, Exit::NoPermission] {
        let scripts = Scripts::new();
        let script = format!("echo run >>runs; exit {}", exit as i32);
        let mut supervisor = scripts.supervisor(1, NEVER, &script);
        supervisor.restarts = restarts_at_once();
        assert_eq!(supervisor.run().expect("it has reported the reason itself"), exit);
        assert_eq!(scripts.runs(), 1);
    }
}

#[test]
fn interrupt_is_forwarded_to_the_first_process() {
    let script = r#"
        [[ $process = 0 ]] || exit 0
        read -r -N1 key <&"$FLOODMARK_LIFELINE"
        [[ $key = I ]] && exit 130"#;
    let scripts = Scripts::new();
    let mut supervisor = scripts.supervisor(2, NEVER, script);
    supervisor.sender.send(Event::Interrupt).unwrap();
    assert_eq!(supervisor.run().expect("it ends in good order"), Exit::Interrupted);
}

#[test]
fn second_interrupt_ends_all_processes_at_once() {
    let scripts = Scripts::new();
    let mut supervisor = scripts.supervisor(2, NEVER, "exec sleep 600");
    supervisor.sender.send(Event::Interrupt).unwrap();
    supervisor.sender.send(Event::Interrupt).unwrap();
    assert_eq!(supervisor.run().expect("it ends"), Exit::Interrupted);
}

/// A terminal interrupts all processes, and the supervisor may be the last to receive the signal.
#[test]
fn process_that_is_interrupted_before_the_supervisor_is_no_failure() {
    for processes in [1, 3] {
        let scripts = Scripts::new();
        let mut supervisor = scripts.supervisor(processes, NEVER, "kill -TERM $$; exec sleep 600");
        let (terminal, relayed) = sync_channel(EVENTS_MAX);
        let events = std::mem::replace(&mut supervisor.events, relayed);
        let relay = std::thread::spawn(move || {
            for event in events {
                let ended = matches!(event, Event::Member { event: MemberEvent::Closed, .. });
                terminal.send(event).unwrap();
                if ended {
                    return terminal.send(Event::Interrupt).unwrap();
                }
            }
        });
        assert_eq!(supervisor.run().expect("it was interrupted"), Exit::Interrupted);
        relay.join().unwrap();
    }
    let message = "process 0 was killed by signal 15 (SIGTERM)";
    assert_eq!(failure(1, NEVER, "kill -TERM $$; exec sleep 600"), message);
}

#[test]
fn interrupted_process_is_not_restarted() {
    let scripts = Scripts::new();
    let script = r#"read -r -N1 _ <&"$FLOODMARK_LIFELINE"; echo run >>runs; kill -9 $$"#;
    let mut supervisor = scripts.supervisor(1, NEVER, script);
    supervisor.restarts = restarts_at_once();
    supervisor.sender.send(Event::Interrupt).unwrap();
    assert_eq!(supervisor.run().expect_err("it was killed").exit, Exit::Failed);
    assert_eq!(scripts.runs(), 1);
    // While the supervisor waits before a restart.
    supervisor.sender.send(Event::Interrupt).unwrap();
    assert!(supervisor.interrupted_within(NEVER));
    assert!(!supervisor.interrupted_within(Duration::ZERO));
    // Before the process listens for it.
    let script = r#"read -r -N1 _ <&"$FLOODMARK_LIFELINE"; kill -TERM $$; exec sleep 600"#;
    let mut supervisor = scripts.supervisor(1, NEVER, script);
    supervisor.sender.send(Event::Interrupt).unwrap();
    assert_eq!(supervisor.run().expect("it was interrupted"), Exit::Interrupted);
}
