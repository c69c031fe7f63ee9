//! `floodmark test`: plays cases of limits and traffic, and compares the changes with the expected ones.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, anyhow};
use floodmark_dataflows::graph::Options;
use walkdir::WalkDir;

use super::cluster::Stall;
use crate::base::error::{Exit, Failure, Outcome};
use crate::base::terminal::{Interrupt, Messages};
use crate::cluster::watchdog::{self, Watch};
use crate::cluster::{self, Cluster, Settings};
use crate::computation;
use crate::output::{OutputFile, WriteError};
use crate::runner;
use crate::scenario::{self, Difference, EXTENSION, Mismatch, Played, Scenario};

/// The options of `floodmark test`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Files of cases, and directories to search for *.scenario files
    #[arg(required = true, value_name = "CASES")]
    files: Vec<PathBuf>,

    /// Run only cases whose title contains this text
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,

    /// Print all changes, in the form of lines that expect them
    #[arg(short, long)]
    verbose: bool,

    #[command(flatten)]
    cluster: super::cluster::Args,

    #[command(flatten)]
    stall: Stall,
}

/// Runs `floodmark test`.
pub fn run(args: &Args) -> Outcome {
    cluster::launch(&args.cluster.plan(), |cluster| {
        let cases = Cases::read(args)?;
        match cluster.process {
            0 => lead(args, cases, cluster),
            _ => follow(cases, cluster),
        }
    })
}

/// The cases to play, in order.
struct Cases {
    cases: Vec<Scenario>,
    /// The errors of files that can't be read as cases.
    broken: Vec<scenario::CaseError>,
}

impl Cases {
    fn read(args: &Args) -> Result<Self, Failure> {
        let (mut cases, mut broken) = (Vec::new(), Vec::new());
        let found = args.files.iter().map(|path| files(path)).collect::<Result<Vec<_>, _>>()?;
        for file in found.concat() {
            let text = contents(&file)?;
            match text.and_then(|text| scenario::read(&file, &text)) {
                Ok(read) => cases.extend(read),
                Err(error) => broken.push(error),
            }
        }
        if let Some(text) = &args.case {
            cases.retain(|case| case.title().contains(text.as_str()));
            if cases.is_empty() && broken.is_empty() {
                let error = anyhow!("no case has \"{text}\" in its title");
                return Err(Failure::new(Exit::Usage, error));
            }
        }
        Ok(Cases { cases, broken })
    }

    /// The settings that all processes must have in common: one for each of the first cases, one for all the
    /// others.
    fn settings(&self) -> Settings {
        let text = |case: &Scenario| format!("{}: {:?}", case.title(), case.options());
        let (first, others) = self.cases.split_at(self.cases.len().min(CASES_NAMED));
        let settings = Settings::of("test").with("number of cases", self.cases.len());
        let settings = first.iter().enumerate().fold(settings, |settings, (index, case)| {
            settings.with(format!("case {}", index + 1), text(case))
        });
        let others: Vec<String> = others.iter().map(text).collect();
        settings.with("further cases", others.join("; "))
    }

    /// Returns the options of the computations of all cases, which all processes must have in common.
    fn options(&self) -> Vec<Options> {
        self.cases.iter().map(Scenario::options).collect()
    }
}

/// The number of cases with a setting of their own.
const CASES_NAMED: usize = 64;

/// The maximum size of a file of cases, in bytes.
const FILE_MAX: u64 = 64 << 20;

/// Reads the text of a file of cases.
fn contents(file: &Path) -> Result<Result<String, scenario::CaseError>, Failure> {
    let read = || {
        let about = std::fs::metadata(file)?;
        // A pipe can be read only once, and each process reads; a device may have no end.
        if !about.is_file() {
            return Err(io::Error::other("the path is no regular file"));
        }
        if about.len() > FILE_MAX {
            return Err(io::Error::other(format!("the file has more than {FILE_MAX} bytes")));
        }
        std::fs::read(file)
    };
    let bytes = read()
        .with_context(|| format!("reading cases from \"{}\"", file.display()))
        .map_err(|error| Failure::new(Exit::NoInput, error))?;
    Ok(String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        scenario::CaseError {
            file: file.to_owned(),
            line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
            problem: "not UTF-8; save the file as UTF-8".into(),
        }
    }))
}

/// A file itself, or all files of cases in a directory and those below it, in the order of their names.
fn files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let missing = |error: anyhow::Error| Failure::new(Exit::NoInput, error);
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    // Links to directories are not followed: they may form a cycle.
    for entry in WalkDir::new(path).follow_root_links(true).sort_by_file_name() {
        let searching = || format!("searching for cases in \"{}\"", path.display());
        let entry = entry.with_context(searching).map_err(missing)?;
        let is_case = entry.path().extension().is_some_and(|extension| extension == EXTENSION);
        if is_case && !entry.file_type().is_dir() {
            found.push(entry.into_path());
        }
    }
    if found.is_empty() {
        return Err(missing(anyhow!("there is no *.{EXTENSION} in \"{}\"", path.display())));
    }
    Ok(found)
}

/// The state of the first process.
struct Leader {
    cases: Cases,
    verbose: bool,
    interrupt: Interrupt,
    messages: Messages,
    watch: Watch,
}

/// Runs the process that plays the cases.
fn lead(args: &Args, cases: Cases, cluster: Cluster) -> Outcome {
    let messages = Messages::new();
    let (others, settings) = (cases.options(), cases.settings());
    let interrupt = Interrupt::listen()?;
    let mut waiting = cluster::unless_interrupted(&interrupt);
    let lead = Leader {
        cases,
        verbose: args.verbose,
        interrupt,
        messages: messages.clone(),
        watch: watchdog::start(args.stall.timeout())?,
    };
    // The first worker takes the leader.
    let lead = Arc::new(Mutex::new(Some(lead)));
    let outcomes = cluster.execute(
        &settings,
        &messages,
        &mut waiting,
        computation::worker_config(),
        move |worker| {
            let first = worker.index() == 0;
            let lead = first.then(|| lead.lock().unwrap_or_else(PoisonError::into_inner).take());
            match lead.flatten() {
                Some(lead) => Some(lead.run(worker)),
                None => {
                    others.iter().for_each(|options| runner::follow(worker, *options));
                    None
                }
            }
        },
    )?;
    outcomes.into_iter().flatten().next().expect("the first process has the first worker")
}

/// Runs a process that only computes.
fn follow(cases: Cases, cluster: Cluster) -> Outcome {
    if cluster.supervised {
        Interrupt::ignore()?;
    }
    let (options, settings) = (cases.options(), cases.settings());
    cluster.execute(
        &settings,
        &Messages::new(),
        &mut || Ok(()),
        computation::worker_config(),
        move |worker| options.iter().for_each(|options| runner::follow(worker, *options)),
    )?;
    Ok(Exit::Done)
}

/// Numbers of cases by verdict.
#[derive(Default)]
struct Verdicts {
    passed: usize,
    failed: usize,
    broken: usize,
}

impl Leader {
    fn run(self, worker: &mut timely::worker::Worker) -> Outcome {
        self.interrupt.wake_current_thread();
        let mut count = Verdicts::default();
        for error in &self.cases.broken {
            self.messages.info(error);
            count.broken += 1;
        }
        let mut interrupted = false;
        let mut out = OutputFile::open(Path::new("-"))?;
        let mut has_reader = true;
        for case in &self.cases.cases {
            // The other workers play all cases, so this one takes part in each.
            if interrupted || !has_reader {
                runner::follow(worker, case.options());
                continue;
            }
            let played = case.play(worker, &self.interrupt, &self.watch);
            interrupted = matches!(played, Played::Interrupted);
            match self.report(case, &played, &mut count, &mut out) {
                Ok(()) => {}
                Err(WriteError::Closed) => has_reader = false,
                Err(WriteError::Failed(failure)) => return Err(failure),
            }
        }
        if interrupted {
            return Ok(Exit::Interrupted);
        }
        if let Err(WriteError::Failed(failure)) = write_text(&mut out, &count.summary()) {
            return Err(failure);
        }
        let failed = if count.failed > 0 { Exit::Failed } else { Exit::Done };
        Ok(failed.or(if count.broken > 0 { Exit::BadData } else { Exit::Done }))
    }

    fn report(
        &self,
        case: &Scenario,
        played: &Played,
        count: &mut Verdicts,
        out: &mut OutputFile,
    ) -> Result<(), WriteError> {
        let named = format!("{}:{} {}", case.file().display(), case.line(), case.title());
        let (mismatches, published) = match played {
            Played::Interrupted => return Ok(()),
            Played::Problem(error) => {
                count.broken += 1;
                self.messages.info(error);
                return write_text(out, &format!("broken {named}\n"));
            }
            Played::Compared { mismatches, published } => (mismatches, published),
        };
        let mut text = match mismatches.is_empty() {
            true => {
                count.passed += 1;
                format!("ok     {named}\n")
            }
            false => {
                count.failed += 1;
                format!("failed {named}\n")
            }
        };
        mismatches.iter().for_each(|mismatch| text += &format_mismatch(mismatch, case.file()));
        if self.verbose {
            let mut last = None;
            for (when, line) in published {
                if last.replace(when) != Some(when) {
                    text += &format!("       at {when}\n");
                }
                text += &format!("         {line}\n");
            }
        }
        write_text(out, &text)
    }
}

/// Formats the differences at one time.
fn format_mismatch(mismatch: &Mismatch, file: &Path) -> String {
    let Mismatch { line, when, differences } = mismatch;
    let mut text = match line {
        Some(line) => format!("  at {when} ({}:{line}):\n", file.display()),
        None => format!("  at {when}, after all expected changes:\n"),
    };
    for Difference { expected, actual, fields } in differences {
        if let Some((line, expected)) = expected {
            text += &format!("    - {expected}    (line {line})\n");
        }
        if let Some(actual) = actual {
            text += &format!("    + {actual}\n");
        }
        if !fields.is_empty() {
            text += &format!("      differs in {}\n", fields.join(", "));
        }
    }
    text
}

impl Verdicts {
    fn summary(&self) -> String {
        let Verdicts { passed, failed, broken } = self;
        let cases = passed + failed;
        let mut text = match cases {
            1 => format!("1 case played, {failed} failed"),
            _ => format!("{cases} cases played, {failed} failed"),
        };
        if *failed > 0 {
            text += " (- expected but missing, + not expected)";
        }
        if *broken > 0 {
            text += &format!("; files and cases that can't be played: {broken}");
        }
        text + "\n"
    }
}

fn write_text(out: &mut OutputFile, text: &str) -> Result<(), WriteError> {
    out.write(|out| out.write_all(text.as_bytes()))?;
    out.flush()
}
