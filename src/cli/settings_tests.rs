//! Tests that processes compare all options of a command except those that may differ.

use std::collections::BTreeSet;

use super::*;
use crate::cluster::Settings;

/// The options that may differ between processes, and are in no settings.
const FREE: [&str; 20] = [
    "--changes",
    "--cluster-secret",
    "--create-topic",
    "--detach-after",
    "--hang-timeout",
    "--help",
    "--hostfile",
    "--http",
    "--http-host",
    "--kafka-option",
    "--listen-any",
    "--log-format",
    "--log-level",
    "--process",
    "--restart",
    "--stall-timeout",
    "--to",
    "--version",
    // Compared in the hello.
    "--processes",
    "--workers",
];

fn settings(line: &str) -> Settings {
    let words = line.split_whitespace().map(OsString::from);
    let settings = match parse(words).expect("a command line").command {
        Command::Replay(args) => args.settings(),
        Command::Run(args) => args.settings(Some("id".into()), "read_committed", None),
        _ => panic!("no command that computes"),
    };
    settings.expect("settings")
}

#[test]
fn each_option_is_compared_or_documented_as_free() {
    let page = include_str!("../../docs/processes.md");
    for line in ["floodmark replay a.pcap", "floodmark run --from kafka://h/t"] {
        let settings = settings(line);
        let compared: BTreeSet<&str> = settings.options().collect();
        let mut command = command();
        command.build();
        let name = line.split(' ').nth(1).expect("a command");
        let command = command.find_subcommand(name).expect("it exists");
        for argument in command.get_arguments() {
            let option = match argument.get_long() {
                Some(long) => format!("--{long}"),
                None => "INPUT".to_owned(),
            };
            let free = FREE.contains(&option.as_str());
            assert_ne!(compared.contains(option.as_str()), free, "{option} of {name}");
            assert!(page.contains(&format!("`{option}`")), "docs/processes.md: {option}");
        }
    }
}

#[test]
fn settings_in_other_words_are_equal() {
    for (one, other) in [
        (
            "floodmark replay a.pcap b.pcap --source 10.0.0.0/8 --source 192.0.2.0/24 --window 5m",
            "floodmark replay b.pcap a.pcap --source 192.0.2.7/24 --source 10.0.0.0/8 --window \
             300s",
        ),
        (
            "floodmark run --from kafka://a,b:9093/t --max-behind 7d --limits-per pair",
            "floodmark run --from kafka://b:9093,a:9092/t -X client.id=x --to out --http \
             127.0.0.1:0",
        ),
    ] {
        assert_eq!(settings(one), settings(other));
    }
}
