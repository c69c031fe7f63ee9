use std::fs::File;
use std::io::{BufRead, BufReader};

use tempfile::TempDir;

use super::*;

/// Waits until the state is as expected. Only a test that fails waits for long.
fn wait_until(writer: &Writer, is_expected: impl Fn(&WriterState) -> bool) -> WriterState {
    let began = Instant::now();
    loop {
        let state = writer.state();
        if is_expected(&state) {
            return state;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{state:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn fifo() -> (TempDir, std::path::PathBuf) {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    (place, path)
}

/// Accepts all lines of a tick.
fn accept(writer: &Writer, tick: u64, lines: Vec<u8>) {
    writer.accept(lines);
    writer.end_tick(tick);
}

/// Returns more lines than a pipe can buffer.
fn many_lines() -> Vec<u8> {
    (0..20_000).flat_map(|number| format!("line {number:06}\n").into_bytes()).collect()
}

#[test]
fn file_has_all_lines_in_their_order() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("alerts");
    let writer = Writer::open(&path).expect("a file");
    for tick in 1..=50 {
        accept(&writer, tick, format!("{tick}\n").into_bytes());
    }
    let state = wait_until(&writer, |state| state.newest_durable == Some(50));
    assert_eq!((state.waiting_bytes, state.fault, state.is_file), (0, None, true));
    let expected: String = (1..=50).map(|tick| format!("{tick}\n")).collect();
    assert_eq!(std::fs::read_to_string(&path).expect("the file"), expected);
}

#[test]
fn fifo_waits_for_a_reader_and_passes_whole_lines_to_the_next_one() {
    let (_place, path) = fifo();
    let writer = Writer::open(&path).expect("a FIFO");
    // Detected before there is anything to write.
    wait_until(&writer, |state| state.fault == Some(WriterFault::NoReader));
    accept(&writer, 1, many_lines());
    let mut first = BufReader::new(File::open(&path).expect("the reader"));
    let mut line = String::new();
    first.read_line(&mut line).expect("a line");
    assert_eq!(line, "line 000000\n");
    wait_until(&writer, |state| state.fault == Some(WriterFault::NotRead));
    drop(first);
    wait_until(&writer, |state| state.fault == Some(WriterFault::NoReader));
    let second = BufReader::new(File::open(&path).expect("the next reader"));
    let mut lines = second.lines().map(|line| line.expect("a line"));
    let number = |line: &str| -> u32 {
        let digits = line.strip_prefix("line ").filter(|digits| digits.len() == 6);
        digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("cut: {line}"))
    };
    let mut last = number(&lines.next().expect("the first line"));
    while last < 19_999 {
        let next = number(&lines.next().expect("the next line"));
        assert_eq!(next, last + 1);
        last = next;
    }
    wait_until(&writer, |state| state.newest_durable == Some(1));
}

#[test]
fn stopped_writer_returns_the_number_of_unwritten_lines() {
    let (_place, path) = fifo();
    let writer = Writer::open(&path).expect("a FIFO");
    accept(&writer, 1, b"one\ntwo\n".to_vec());
    accept(&writer, 2, b"three\n".to_vec());
    assert_eq!(writer.state().waiting_bytes, 14);
    assert_eq!(writer.stop(), 3);
    accept(&writer, 3, b"four\n".to_vec());
    assert_eq!(writer.state().waiting_bytes, 0);
}

#[test]
fn writer_whose_queue_is_full_has_no_capacity() {
    let (_place, path) = fifo();
    let writer = Writer::open(&path).expect("a FIFO");
    let mut tick = 0;
    while writer.has_capacity() {
        tick += 1;
        accept(&writer, tick, [vec![b'x'; (1 << 20) - 1], b"\n".to_vec()].concat());
    }
    assert_eq!(tick as usize, QUEUE_BYTES >> 20);
}

#[test]
fn failed_write_keeps_the_line_and_names_the_error() {
    let writer = Writer::open(Path::new("/dev/full")).expect("a device");
    accept(&writer, 1, b"one\n".to_vec());
    let state = wait_until(&writer, |state| state.fault.is_some());
    let Some(WriterFault::Failed(error)) = &state.fault else { panic!("{state:?}") };
    assert!(error.contains("No space left"), "{error}");
    assert_eq!((state.waiting_bytes, state.closed), (4, None));
}
