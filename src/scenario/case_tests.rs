use std::net::IpAddr;

use floodmark_dataflows::types::{Event, Per};

use super::*;

fn read(text: &str) -> Result<Vec<Case>, CaseError> {
    parse(Path::new("dir/a.scenario"), text)
}

fn pair(source: &str, destination: &str) -> Pair {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    Pair::new(address(source), address(destination)).expect("one family")
}

#[test]
fn lines_before_the_first_case_apply_to_all_cases() {
    let cases = read(
        "# a comment\n\
         window 1m\n\
         limits-per source\n\
         limit max 5\n\
         case one # of two\n\
         window 2m\n\
         at 0s\n\
         \t10.0.0.1 > 10.0.0.2 5 bytes # late\n\
         expect nothing\n\
         case two\n\
         delete max\n\
         at 1s\n\
         expect raised \"a b\" source ::1 6 bytes\n",
    );
    let cases = cases.expect("two cases");
    let titles: Vec<_> = cases.iter().map(|case| (case.title.as_str(), case.line)).collect();
    assert_eq!(titles, [("one", 5), ("two", 10)]);
    let windows: Vec<u64> =
        cases.iter().map(|case| case.settings.options().windows.width_secs).collect();
    assert_eq!(windows, [120, 60]);
    assert!(cases.iter().all(|case| case.settings.defaults().per == Per::Source));
    assert_eq!((cases[0].rows.len(), cases[1].rows.len()), (0, 1));
    assert!(cases.iter().all(|case| case.common_rows.len() == 1));
    let traffic = Traffic {
        pair: pair("10.0.0.1", "10.0.0.2"),
        volume: Volume::new(5, 1),
        time: None,
        every: None,
    };
    assert_eq!(cases[0].steps[0].traffic, [Located { line: 8, what: traffic }]);
    let expected = &cases[1].steps[0].expected[0];
    assert_eq!(
        (expected.line, expected.text.as_str()),
        (13, "expect raised \"a b\" source ::1 6 bytes")
    );
    assert_eq!(expected.subject.event, Event::Raised);
    assert_eq!(expected.subject.limit, "a b");
}

#[test]
fn file_without_case_lines_is_one_case() {
    let cases = read("\u{feff}at 5m\r\nexpect nothing\r\n").expect("a case");
    assert_eq!((cases.len(), cases[0].title.as_str()), (1, "a"));
}

#[test]
fn traffic_lines_are_parsed_with_packets_and_times() {
    let cases = read(
        "at 5m\n\
         ::1 > ::2 0 bytes 7 packets time=4m\n\
         ::1 > ::2 9 bytes every 1s for 10s\n\
         expect nothing\n",
    );
    let step = &cases.expect("a case")[0].steps[0];
    let traffic: Vec<_> = step.traffic.iter().map(|traffic| traffic.what).collect();
    let pair = pair("::1", "::2");
    let time = Some(Moment::After(240_000));
    assert_eq!(
        traffic,
        [
            Traffic { pair, volume: Volume::new(0, 7), time, every: None },
            Traffic { pair, volume: Volume::new(9, 1), time: None, every: Some((1000, 10_000)) },
        ]
    );
}

#[test]
fn invalid_line_is_rejected_with_its_number() {
    for (line, problem) in [
        ("10.0.0.1 > ::1 5 bytes", "of different families"),
        ("10.0.0.1 > 10.0.0.2", "a number of bytes is missing"),
        ("10.0.0.1 > 10.0.0.2 5", "\"bytes\" is missing"),
        ("10.0.0.1 > 10.0.0.2 -5 bytes", "is not a number of bytes"),
        ("10.0.0.1 > 10.0.0.2 1099511627777 bytes", "is not a number of bytes"),
        ("10.0.0.1 > 10.0.0.2 5 bytes 0 packets", "at least one packet"),
        ("10.0.0.1 > 10.0.0.2 5 bytes 5 bytes", "expected \"packets\", not \"bytes\""),
        ("10.0.0.1 > 10.0.0.2 5 bytes sometimes", "expected time=…"),
        ("10.0.0.1 > 10.0.0.2 5 bytes every 1s", "\"for\" is missing"),
        ("10.0.0.1 > 10.0.0.2 5 bytes every 0s for 1s", "is zero"),
        ("10.0.0.1 > 10.0.0.2 5 bytes time=0s every 1s for 2s", "have no single time"),
        ("10.0.0.1 > 10.0.0.2 5 bytes time=noon", "is not a time"),
        ("10.0.0.256 > 10.0.0.2 5 bytes", "can't start a line"),
        ("windw 5m", "can't start a line"),
        ("window 5m", "is a setting: put it before the first"),
        ("at", "the time is missing"),
        ("at 5m now", "expected the end of the line, not \"now\""),
        ("end", "\"end\" needs \"clock replay\""),
        ("limit max", "the limit's value, or null, is missing"),
        ("limit max 5 source", "is not a column"),
        ("limit max 5 effective_date=0s effective_date=0s", "given twice"),
        ("limits -", "takes no limits from standard input"),
        ("limits a b", "expected the end of the line"),
        ("delete", "the limit's name is missing"),
        ("expect nothing at all", "expected the end of the line"),
        ("expect silence max total", "\"silence\" is not an event; there are raised, updated"),
        ("expect raised max everybody", "is not an entity"),
        ("expect raised max \"total\"", "is not an entity"),
        ("expect raised max source total", "is not an address"),
        ("expect raised max total 5", "bytes or packets is missing"),
        ("expect raised max total 5 octets", "expected bytes or packets, not \"octets\""),
        ("expect raised max total loud", "is not a field; write fields like"),
        ("expect raised max total colour=red", "is not a field of a change"),
        ("expect raised max total 5 bytes bytes=6", "bytes is given twice"),
        ("expect raised max total value=lots", "is not a decimal number"),
        ("expect raised max total settled=yes", "is not true or false"),
        ("expect raised max total window=5", "is not a time"),
        ("limit {\"limit_name\": 5", "the row is not a JSON object"),
        ("limit {} {}", "expected the end of the line"),
        ("expect \u{1b}[2J", "control character U+001B"),
        ("expect \"raised max total", "has no closing quote"),
    ] {
        let error = read(&format!("at 1m\nexpect nothing\nat 2m\n{line}\n")).expect_err(line);
        assert!(error.problem.contains(problem), "{line}: {error}");
        let whole_case = line == "end";
        assert_eq!(error.line, if whole_case { 1 } else { 4 }, "{line}: {error}");
    }
}

#[test]
fn contradictory_case_is_rejected() {
    for (text, problem) in [
        ("", "the case has no expectation"),
        ("at 1m\n", "the case has no expectation"),
        ("case a\nat 1m\nexpect nothing\ncase b\nat 1m\n", "the case has no expectation"),
        ("at 1m\nexpect nothing\ncase a\n", "belong to no case"),
        ("expect nothing", "put \"at 0s\", or another, before it"),
        ("10.0.0.1 > 10.0.0.2 5 bytes", "put \"at 0s\", or another, before it"),
        ("at 1m\nexpect nothing\nexpect raised max total", "can't expect a change"),
        ("at 1m\nexpect raised max total\nexpect nothing", "can't expect a change"),
        ("clock replay\nend\nexpect nothing\nat 5m", "no step may follow"),
        ("window 5m\nwindow 5m", "window is set twice"),
        ("case", "the title of the case is missing"),
        ("window soon", "not a duration"),
        ("clock wall", "\"wall\" is not a clock; there are live, replay"),
        ("window 1s\nmax-gap 1000000h\nat 1m\nexpect nothing", "spans more than 100000 windows"),
        ("capture -", "takes no capture from standard input"),
        ("begin 1969-12-31", "is not a whole millisecond since 1970"),
        ("clock replay\nretention 1h\nat 1m\nexpect nothing", "give both, or neither"),
        ("clock replay\nfrom-offset latest\nat 1m\nexpect nothing", "from-offset needs"),
    ] {
        let error = read(text).expect_err(text);
        assert!(error.problem.contains(problem), "{text}: {error}");
    }
}
