//! Reads captures and texts on a thread of its own: captures by time as one, then texts line by line, in the
//! order in which they were named. The first bytes of a file show which kind it is.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};

use super::FULL;
use super::converter::{Converter, Origin};
use super::texts::{Line, Texts};
use crate::base::error::{Exit, Failure};
use crate::base::terminal::{Interrupt, Messages};
use crate::capture::merge::Merge;
use crate::capture::{Fault, Input, ReadError, Reader, Tally};
use crate::output::WriteError;
use crate::record::{Message, Record};
use crate::sniffer::source::record;

/// Greatest size of a batch for the other thread: items, and bytes of texts. Together with the number of
/// batches they bound the memory of batches that wait.
const BATCH: usize = 1024;
const BATCH_BYTES: usize = 1 << 20;
const BATCHES: usize = 16;

/// Interval at which the loop checks for an interrupt while nothing comes.
const LOOK: Duration = Duration::from_millis(100);

/// Time for which a file may go on after an interrupt before it is given up: a thread that waits for a silent
/// pipe does not see the interrupt.
const STOP_MAX: Duration = Duration::from_secs(1);

/// Something that was read.
enum Item {
    Packet(Record),
    Line { file: Arc<str>, line: u64, text: Line },
}

/// The summary of all files after they were read.
#[derive(Debug, Default)]
pub struct End {
    /// The frames of captures, and those of them that were not counted.
    pub tally: Tally,
    /// Whether a file was damaged, or could not be read to its end.
    pub damaged: bool,
    /// Whether the user has interrupted the reading.
    pub interrupted: bool,
}

/// A message from the thread that reads.
enum Said {
    Items(Vec<Item>),
    End(Box<End>),
}

/// Opens all files, so that a missing one is reported before anything starts.
pub fn open(files: &[PathBuf]) -> Result<Vec<Opened>, Failure> {
    if files.iter().filter(|file| file.as_os_str() == "-").count() > 1 {
        let error = anyhow!("standard input \"-\" is named twice, and can be read once");
        return Err(Failure::new(Exit::Usage, error));
    }
    let open = |path: &PathBuf| {
        let name = match path.as_os_str() == "-" {
            true => "standard input".to_owned(),
            false => path.display().to_string(),
        };
        let input = Input::open(path).map_err(|fault| ReadError::new(&name, 1, 0, fault))?;
        Ok(Opened { name, input })
    };
    files.iter().map(open).collect()
}

/// A file that was opened.
pub struct Opened {
    name: String,
    input: Input,
}

/// Reads all files, and writes the records in them.
pub fn convert(
    files: Vec<Opened>,
    converter: &mut Converter,
    interrupt: &Interrupt,
) -> Result<End, WriteError> {
    let (send, receive) = sync_channel(BATCHES);
    let reader = FileReader { send, batch: Vec::new(), bytes: 0, interrupt: interrupt.clone() };
    std::thread::Builder::new()
        .name("reader".into())
        .spawn(move || reader.run(files))
        .context("starting the thread that reads")
        .map_err(|error| WriteError::Failed(error.into()))?;
    let end = take_all(&receive, converter, interrupt)?;
    // A first interrupt has ended the reading; the records that were read are still sent, for as long as that
    // takes. On a second interrupt, the process exits by itself.
    converter.finish(&mut || false)?;
    Ok(end)
}

fn take_all(
    receive: &Receiver<Said>,
    converter: &mut Converter,
    interrupt: &Interrupt,
) -> Result<End, WriteError> {
    let mut pressed: Option<Instant> = None;
    loop {
        converter.poll()?;
        if !converter.has_room() {
            std::thread::park_timeout(FULL);
            continue;
        }
        let due = converter.due().map(|due| due.saturating_duration_since(Instant::now()));
        match receive.recv_timeout(due.unwrap_or(LOOK).min(LOOK)) {
            Ok(Said::Items(items)) => {
                for item in items {
                    converter.wait_for_room(&|| false)?;
                    put(item, converter)?;
                }
            }
            Ok(Said::End(end)) => return Ok(*end),
            Err(RecvTimeoutError::Timeout) if interrupt.pressed() => {
                if pressed.get_or_insert_with(Instant::now).elapsed() >= STOP_MAX {
                    return Ok(End { interrupted: true, ..End::default() });
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            // The thread sends its end first, unless it has panicked, which ends the process.
            Err(RecvTimeoutError::Disconnected) => return Ok(End::default()),
        }
    }
}

fn put(item: Item, converter: &mut Converter) -> Result<(), WriteError> {
    match item {
        Item::Packet(record) => converter.record(record),
        Item::Line { file, line, text: Line::Text(text) } => {
            let message = Message { key: None, payload: Some(&text), timestamp_ms: None };
            converter.message(Origin::File { file: &file, line }, &message).map(drop)
        }
        Item::Line { file, line, text: Line::Broken(text) } => {
            converter.broken(Origin::File { file: &file, line }, &text);
            Ok(())
        }
        Item::Line { file, line, text: Line::TooLong } => {
            converter.too_long(Origin::File { file: &file, line });
            Ok(())
        }
    }
}

struct FileReader {
    send: SyncSender<Said>,
    batch: Vec<Item>,
    bytes: usize,
    interrupt: Interrupt,
}

/// The receiver has gone, or the user has interrupted the reading.
struct Ended;

impl FileReader {
    fn run(mut self, files: Vec<Opened>) {
        let mut end = End::default();
        let (mut captures, mut texts, mut pipes) = (Vec::new(), Vec::new(), false);
        for Opened { name, mut input } in files {
            match begins_as_capture(&mut input) {
                Ok(true) => {
                    pipes |= input.size_hint().is_none();
                    captures.push(Reader::from_input(&name, input));
                }
                Ok(false) => texts.push((name, Texts::new(input))),
                Err(fault) => {
                    end.damaged = true;
                    tracing::error!("\"{name}\" can't be read: {fault}");
                }
            }
        }
        let read = self.captures(captures, pipes, &mut end);
        let read = read.and_then(|()| {
            texts.into_iter().try_for_each(|(name, text)| self.text(&name, text, &mut end))
        });
        drop(read.and_then(|()| self.flush()));
        end.interrupted = self.interrupt.pressed();
        let _ = self.send.send(Said::End(Box::new(end)));
    }

    fn captures(
        &mut self,
        readers: Vec<Reader>,
        one_by_one: bool,
        end: &mut End,
    ) -> Result<(), Ended> {
        let mut merge = Merge::new(readers, Messages::new());
        let mut taken = Ok(());
        while let Some(packet) = merge.next() {
            taken = self.push(Item::Packet(record(&packet)), 0);
            if taken.is_ok() && one_by_one {
                // A packet must not wait for the one after it.
                taken = self.flush();
            }
            if taken.is_err() {
                break;
            }
        }
        end.tally = merge.tally();
        end.damaged |= merge.damaged();
        taken
    }

    fn text(&mut self, name: &str, mut texts: Texts, end: &mut End) -> Result<(), Ended> {
        let file: Arc<str> = name.into();
        loop {
            let mut flushed = Ok(());
            let next = texts.next(&mut || flushed = self.flush());
            flushed?;
            match next {
                Ok(Some(text)) => {
                    let bytes = match &text {
                        Line::Text(bytes) | Line::Broken(bytes) => bytes.len(),
                        Line::TooLong => 0,
                    };
                    self.push(Item::Line { file: file.clone(), line: texts.line, text }, bytes)?;
                }
                Ok(None) => return Ok(()),
                Err(fault) => {
                    end.damaged = true;
                    let (offset, line) = (texts.offset(), texts.current_line());
                    tracing::error!(
                        "\"{name}\" can't be read on at byte {offset}, line {line}: {fault}"
                    );
                    return Ok(());
                }
            }
        }
    }

    fn push(&mut self, item: Item, bytes: usize) -> Result<(), Ended> {
        self.batch.push(item);
        self.bytes += bytes;
        match self.batch.len() >= BATCH || self.bytes >= BATCH_BYTES {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), Ended> {
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if !batch.is_empty() {
            self.send.send(Said::Items(batch)).map_err(|_| Ended)?;
        }
        if self.interrupt.pressed() { Err(Ended) } else { Ok(()) }
    }
}

/// Reads as many bytes as it takes to recognize a capture.
fn begins_as_capture(input: &mut Input) -> Result<bool, Fault> {
    const ENOUGH: usize = 4;
    while input.bytes().len() < ENOUGH {
        if !input.fill(ENOUGH)? {
            break;
        }
    }
    Ok(Reader::begins(input.bytes()))
}
