//! Output for people: no passwords, and no terminal controls.

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::replay::pcap::{packet, pcap};
use crate::replay::run::{Done, Place};

const SECRET: &str = "hunter2";

/// Characters that control a terminal, or change the direction of text.
const CONTROLS: &str = "\u{1b}[31m\u{9b}2J\u{202e}\u{2066}\u{7f}";

#[track_caller]
fn assert_no_terminal_controls(done: &Done) {
    for text in [&done.stdout, &done.stderr] {
        let bad = text.chars().find(|sign| {
            matches!(sign, '\0'..='\x08' | '\x0b'..='\x1f' | '\x7f'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        });
        assert_eq!(bad, None, "{text:?}");
    }
}

/// Collects every command with the words that name it.
fn commands(command: &clap::Command, words: &str, found: &mut Vec<(String, clap::Command)>) {
    for sub in command.get_subcommands() {
        let words = format!("{words} {}", sub.get_name());
        found.push((words.clone(), sub.clone()));
        commands(sub, &words, found);
    }
}

#[test]
fn help_of_every_command_shows_no_value_of_the_environment() {
    let place = Place::new();
    let mut found = Vec::new();
    commands(&floodmark::cli::command(), "", &mut found);
    assert!(found.len() > 15, "{}", found.len());
    let mut variables = 0;
    for (words, command) in found {
        let mut run = place.floodmark(&format!("{words} --help"));
        for argument in command.get_arguments() {
            let Some(name) = argument.get_env() else { continue };
            assert!(argument.is_hide_env_values_set(), "{words}: {name:?}");
            run = run.env(name.to_str().expect("a name").to_owned().leak(), SECRET);
            variables += 1;
        }
        let help = run.stdout(0);
        assert!(help.contains("Usage:") && !help.contains(SECRET), "{words}: {help}");
    }
    assert!(variables > 50, "{variables}");
}

#[test]
fn password_on_the_command_line_or_in_the_environment_is_not_echoed() {
    let place = Place::new();
    let limits = place.write("limits.json", "[]");
    assert!(limits.exists());
    let run = |words: &str| place.floodmark(words);
    let to = "--from kafka://127.0.0.1:1/t --limits limits.json";
    for (run, expected) in [
        (run(&format!("run {to} -X sasl.password={SECRET}")), 64),
        (run(&format!("run {to} -Xsasl.password={SECRET}")), 64),
        (run(&format!("run {to} --kafka-option=sasl.pasword={SECRET}")), 64),
        (run(&format!("run {to} -X {SECRET}")), 64),
        (run(&format!("run {to} sasl.password={SECRET}")), 64),
        (run(&format!("run {to} --sasl.password={SECRET}")), 64),
        (run(&format!("run {to} --to kafka://user:{SECRET}@127.0.0.1:1/t")), 64),
        (run(&format!("run --limits limits.json --from kafka://user:{SECRET}@127.0.0.1:1/t")), 64),
        (run(&format!("convert --from kafka://user:{SECRET}@127.0.0.1:1/t")), 64),
        (run(&format!("convert --from kafkas://user:{SECRET}@127.0.0.1:1/t")), 64),
        (run(&format!("convert --from kafka:/user:{SECRET}@127.0.0.1:1/t")), 66),
        (run(&format!("convert --from user:{SECRET}@127.0.0.1")), 66),
        (run(&format!("run {to} --publish kafka://user:{SECRET}@127.0.0.1:1/t")), 64),
        (run(&format!("run {to} --http http://user:{SECRET}@127.0.0.1:1")), 64),
        (run(&format!("limits check postgres://me:{SECRET}@127.0.0.1:1/db")), 64),
        (run(&format!("limits check postgres://127.0.0.1:1/db?password={SECRET}")), 64),
        (run(&format!("limits check postgre://me:{SECRET}@127.0.0.1:1/db")), 64),
        (run(&format!("limits list mysql://me:{SECRET}@127.0.0.1:1/db")), 64),
        (
            run(&format!("limits explain 10.0.0.1 10.0.0.2 --from http://u:{SECRET}@127.0.0.1:1")),
            64,
        ),
        (
            run("run --limits limits.json")
                .env("FLOODMARK_FROM", "kafka://user:hunter2@127.0.0.1:1/t"),
            64,
        ),
        (
            run("limits check").env("FLOODMARK_LIMITS", "postgres://me:hunter2@127.0.0.1:1/db?x=y"),
            64,
        ),
        (
            run(&format!("run {to}"))
                .env("FLOODMARK_DEAD_LETTER", "kafka://user:hunter2@127.0.0.1:1/t"),
            64,
        ),
        (run(&format!("run {to}")).env("FLOODMARK_KAFKA_SASL_PASWORD", "hunter2"), 64),
    ] {
        let done = run.run();
        let text = format!("{}{}", done.stdout, done.stderr);
        assert!(!text.contains(SECRET), "{text}");
        assert!(!text.is_empty());
        // An invalid environment variable exits with the code of a configuration error.
        if ![expected, 78].contains(&done.code()) {
            done.fail(&format!("expected exit code {expected}"));
        }
    }
}

#[test]
fn name_with_terminal_controls_is_escaped_in_every_message() {
    let place = Place::new();
    place.write("limits.json", "[]");
    place.write("a.pcap", pcap(&[packet(1_000, "10.0.0.1", "10.0.0.2", 100)]));
    let name = format!("no{CONTROLS}\nfloodmark: all is well");
    for words in [
        "replay --limits limits.json",
        "replay a.pcap --limits",
        "convert --log-format text --from",
        "convert --log-format json --from",
        "convert --from a.pcap --to nowhere/",
        "limits check",
        "limits list",
        "limits diff limits.json",
        "limits import limits.json",
        "test",
        "generate --packets",
        "capture --to -",
        "run --from",
        "run --limits limits.json --log-format json --from kafka://127.0.0.1:1/t --http",
        "run --limits limits.json --from kafka://127.0.0.1:1/t -X",
        "",
        "limits",
    ] {
        let done = place.floodmark(words).arg(&name).run();
        assert!(done.code() != 0, "{words}: {}", done.stderr);
        assert_no_terminal_controls(&done);
        assert!(
            !done.stderr.lines().any(|line| line == "floodmark: all is well"),
            "{}",
            done.stderr
        );
        let long = format!("--{name}");
        assert_no_terminal_controls(&place.floodmark(words).arg(long).run());
    }
    // A damaged capture of that name.
    let mut damaged = pcap(&[packet(1_000, "10.0.0.1", "10.0.0.2", 100)]);
    damaged.extend([0; 7]);
    place.write(&name.replace('/', ""), damaged);
    for words in
        ["replay --limits limits.json", "convert --log-format text --from", "convert --from"]
    {
        let done = place.floodmark(words).arg(&name).run().expect(65);
        assert_no_terminal_controls(&done);
        assert!(done.stderr.contains("u001b") || done.stderr.contains("u{1b}"), "{}", done.stderr);
    }
}

#[test]
fn json_with_terminal_controls_has_them_escaped() {
    let place = Place::new();
    let name = format!("max{CONTROLS}");
    let row =
        serde_json::json!({"limit_name": name, "limit_value": 1, "effective_date": "2020-01-01"});
    place.write("limits.json", row.to_string());
    place.write("a.pcap", pcap(&[packet(1_767_225_600_000, "10.0.0.1", "10.0.0.2", 100)]));
    for (words, key) in [
        ("replay a.pcap --limits limits.json", "limit_name"),
        ("limits list limits.json --format json", "limit_name"),
        ("limits check limits.json --format json", "limit_name"),
        ("limits diff limits.json other.json --format json", "limit_name"),
        (
            "limits explain 10.0.0.1 10.0.0.2 --capture a.pcap --limits limits.json --format json",
            "",
        ),
    ] {
        place.write("other.json", "[]");
        let done = place.floodmark(words).run().expect(0);
        assert_no_terminal_controls(&done);
        let first = done.stdout.lines().next().expect("an object");
        let object: Value = serde_json::from_str(first).unwrap_or_else(|e| panic!("{e}: {first}"));
        // A program parses the original name.
        if !key.is_empty() {
            assert_eq!(object[key], name, "{words}");
        }
        assert!(done.stdout.contains("\\u009b"), "{words}: {}", done.stdout);
    }
    let table =
        place.floodmark("replay a.pcap --limits limits.json --format table").run().expect(0);
    assert_no_terminal_controls(&table);
}

#[test]
fn password_file_that_others_may_read_is_reported() {
    let place = Place::new();
    let file = place.write("pass", "*:*:*:*:hunter2\n");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644))
        .expect("changing its mode");
    let line = format!("limits check postgres://me@127.0.0.1:1/db?passfile={}", file.display());
    let done = place.floodmark(&line).run().expect(69);
    assert!(!done.stderr.contains(SECRET), "{}", done.stderr);
    let (shown, remedy) =
        (file.display().to_string(), format!("chmod 0600 \"{}\"", file.display()));
    done.assert_stderr(&["warning: password file", &shown, "mode is 0644", &remedy]);
    let line = "limits check postgres://me@127.0.0.1:1/db?passfile=nowhere";
    place
        .floodmark(line)
        .run()
        .expect(69)
        .assert_stderr(&["password file \"nowhere\" is ignored: No such file"]);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))
        .expect("changing its mode");
    let line = format!("limits check postgres://me@127.0.0.1:1/db?passfile={}", file.display());
    let done = place.floodmark(&line).run().expect(69);
    assert!(!done.stderr.contains("ignored"), "{}", done.stderr);
}
