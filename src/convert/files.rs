//! Reads captures and texts on a thread of its own: first all captures, merged by time, then the texts line by line,
//! in the order of the arguments. The first bytes of a file show whether it is a capture or a text.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::CAPACITY_PAUSE;
use super::converter::{Converter, Origin};
use crate::base::terminal::{Interrupt, Messages};
use crate::capture::merge::Merge;
use crate::capture::{Reader, Tally};
use crate::files::{Contents, InputFile, Line, Texts};
use crate::output::WriteError;
use crate::record::{Message, Record};
use crate::sniffer::source::record;

/// Greatest size of a batch for the converter's thread, in items and in bytes of texts, and greatest number of
/// batches that wait. Together they bound the memory of these batches.
const BATCH: usize = 1024;
const BATCH_BYTES: usize = 1 << 20;
const BATCHES: usize = 16;

/// Interval at which the loop checks for an interrupt while no batch arrives.
const INTERRUPT_INTERVAL: Duration = Duration::from_millis(100);

/// Time limit for the reading thread to stop after an interrupt. A thread that waits for a silent pipe does not
/// notice the interrupt.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// A packet of a capture, or a line of a text.
enum Item {
    Packet(Record),
    Line { file: Arc<str>, line: u64, text: Line },
}

/// The summary of all files after they were read.
#[derive(Debug, Default)]
pub struct FilesSummary {
    /// The frames of captures, and those of them that were not counted.
    pub tally: Tally,
    /// Whether a file was damaged, or could not be read to its end.
    pub damaged: bool,
    /// Whether the user has interrupted the reading.
    pub interrupted: bool,
}

/// A message from the reading thread.
enum ReaderMessage {
    Items(Vec<Item>),
    End(Box<FilesSummary>),
}

/// Reads all files, and writes the records in them.
pub fn convert(
    files: Vec<InputFile>,
    converter: &mut Converter,
    interrupt: &Interrupt,
) -> Result<FilesSummary, WriteError> {
    let (send, receive) = sync_channel(BATCHES);
    let reader = FileReader { send, batch: Vec::new(), bytes: 0, interrupt: interrupt.clone() };
    std::thread::Builder::new()
        .name("reader".into())
        .spawn(move || reader.run(files))
        .context("starting the thread that reads")
        .map_err(|error| WriteError::Failed(error.into()))?;
    let end = convert_all(&receive, converter, interrupt)?;
    // After a first interrupt, the reading has ended, and the records that were read are still delivered. A second
    // interrupt ends the process.
    converter.finish(&mut || false)?;
    Ok(end)
}

fn convert_all(
    receive: &Receiver<ReaderMessage>,
    converter: &mut Converter,
    interrupt: &Interrupt,
) -> Result<FilesSummary, WriteError> {
    let mut pressed: Option<Instant> = None;
    loop {
        converter.poll()?;
        if !converter.has_capacity() {
            std::thread::park_timeout(CAPACITY_PAUSE);
            continue;
        }
        let due = converter.due().map(|due| due.saturating_duration_since(Instant::now()));
        match receive.recv_timeout(due.unwrap_or(INTERRUPT_INTERVAL).min(INTERRUPT_INTERVAL)) {
            Ok(ReaderMessage::Items(items)) => {
                for item in items {
                    converter.wait_for_capacity(&|| false)?;
                    convert_item(item, converter)?;
                }
            }
            Ok(ReaderMessage::End(end)) => return Ok(*end),
            Err(RecvTimeoutError::Timeout) if interrupt.pressed() => {
                if pressed.get_or_insert_with(Instant::now).elapsed() >= STOP_TIMEOUT {
                    return Ok(FilesSummary { interrupted: true, ..FilesSummary::default() });
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            // The thread sends its summary before it ends, unless it panics, which ends the process.
            Err(RecvTimeoutError::Disconnected) => return Ok(FilesSummary::default()),
        }
    }
}

fn convert_item(item: Item, converter: &mut Converter) -> Result<(), WriteError> {
    match item {
        Item::Packet(record) => converter.write_record(record),
        Item::Line { file, line, text: Line::Text(text) } => {
            let message = Message { key: None, payload: Some(&text), timestamp_ms: None };
            converter.convert(Origin::File { file: &file, line }, &message).map(drop)
        }
        Item::Line { file, line, text: Line::Broken(text) } => {
            converter.reject_broken(Origin::File { file: &file, line }, &text);
            Ok(())
        }
        Item::Line { file, line, text: Line::TooLong } => {
            converter.reject_too_long(Origin::File { file: &file, line });
            Ok(())
        }
    }
}

struct FileReader {
    send: SyncSender<ReaderMessage>,
    batch: Vec<Item>,
    bytes: usize,
    interrupt: Interrupt,
}

/// The reading must stop: the receiver has gone, or the user has pressed Ctrl-C.
struct Stopped;

impl FileReader {
    fn run(mut self, files: Vec<InputFile>) {
        let mut end = FilesSummary::default();
        let (mut captures, mut texts, mut pipes) = (Vec::new(), Vec::new(), false);
        for mut file in files {
            let name = file.name().to_owned();
            let contents = match file.contents() {
                Ok(contents) => contents,
                Err(failure) => {
                    end.damaged = true;
                    tracing::error!("{:#}", failure.error);
                    continue;
                }
            };
            match contents {
                Ok(Contents::Capture(reader)) => {
                    pipes |= reader.size_hint().is_none();
                    captures.push(*reader);
                }
                Ok(Contents::Text(text)) => texts.push((name, *text)),
                Ok(Contents::Parquet(_)) => {
                    end.damaged = true;
                    tracing::error!(
                        "\"{name}\" is a Parquet file, which only `floodmark replay` reads"
                    );
                }
                Err(fault) => {
                    end.damaged = true;
                    tracing::error!("\"{name}\" can't be read: {fault}");
                }
            }
        }
        let read = self.read_captures(captures, pipes, &mut end);
        let read = read.and_then(|()| {
            texts.into_iter().try_for_each(|(name, text)| self.read_text(&name, text, &mut end))
        });
        drop(read.and_then(|()| self.flush()));
        end.interrupted = self.interrupt.pressed();
        let _ = self.send.send(ReaderMessage::End(Box::new(end)));
    }

    fn read_captures(
        &mut self,
        readers: Vec<Reader>,
        one_by_one: bool,
        end: &mut FilesSummary,
    ) -> Result<(), Stopped> {
        let mut merge = Merge::new(readers, Messages::new());
        let mut sent = Ok(());
        while let Some(packet) = merge.next() {
            sent = self.push(Item::Packet(record(&packet)), 0);
            if sent.is_ok() && one_by_one {
                // A packet from a pipe must not wait for the one after it.
                sent = self.flush();
            }
            if sent.is_err() {
                break;
            }
        }
        end.tally = merge.tally();
        end.damaged |= merge.damaged();
        sent
    }

    fn read_text(
        &mut self,
        name: &str,
        mut texts: Texts,
        end: &mut FilesSummary,
    ) -> Result<(), Stopped> {
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
                    self.push(Item::Line { file: file.clone(), line: texts.line(), text }, bytes)?;
                }
                Ok(None) => return Ok(()),
                Err(fault) => {
                    end.damaged = true;
                    let (offset, line) = (texts.offset(), texts.current_line());
                    tracing::error!(
                        "\"{name}\" can't be read beyond byte {offset}, line {line}: {fault}"
                    );
                    return Ok(());
                }
            }
        }
    }

    fn push(&mut self, item: Item, bytes: usize) -> Result<(), Stopped> {
        self.batch.push(item);
        self.bytes += bytes;
        match self.batch.len() >= BATCH || self.bytes >= BATCH_BYTES {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), Stopped> {
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if !batch.is_empty() {
            self.send.send(ReaderMessage::Items(batch)).map_err(|_| Stopped)?;
        }
        if self.interrupt.pressed() { Err(Stopped) } else { Ok(()) }
    }
}
