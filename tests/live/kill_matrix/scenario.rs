//! Carries out the steps of a seed, and compares topics with a replay of the same records.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use floodmark::kafka::Address;
use nix::fcntl::OFlag;

use super::disk::{bound_files, exchange, lose_writes, newest};
use super::limits::Limits;
use super::plan::{Action, EditTime, Event, Plan, Shape, Step};
use crate::common::broker::{Broker, random_name, read_all};
use crate::common::postgres::Postgres;
use crate::live::kit::TopicFeed;
use crate::live::restarts::check;
use crate::live::sinks::csv;
use crate::replay::fold::assert_same;
use crate::replay::pcap::{Packet, pcap};
use crate::replay::run::{Done, Live, Place, STUCK_AFTER, SignalTarget};
use crate::replay::traffic::{self, BEGIN_MS, Random};

/// Event time of all packets, but for two silences.
const SPAN_MS: u64 = 4 * 3600 * 1000;

const SILENCE_MS: u64 = 25 * 60 * 1000;

/// Packets come up to this late, which is less than the lateness of any run.
const JITTER_MS: u64 = 8 * 60 * 1000;

/// All windows stay in memory, so that every edit of limits applies to them.
const OPTIONS: &str = "--window 5m --retention 1000h --idle-timeout 1h --create-topic --state state \
                       --hang-timeout 2s -X reconnect.backoff.max.ms=200";

/// Packets from one message that can't be counted to the next.
const LETTER_INTERVAL: usize = 40;

const PARTITIONS: u64 = 3;

/// The time-out of transactions of a run that is paused for longer, and the interval at which the broker looks for
/// those that exceed it.
const OUTLAST_MS: u64 = 3_000 + 10_000;

/// The servers of all scenarios, which stop and start them again.
pub(super) struct Servers {
    broker: Broker,
    postgres: OnceLock<Postgres>,
}

impl Servers {
    pub(super) fn start() -> Self {
        Servers { broker: Broker::own(), postgres: OnceLock::new() }
    }

    fn postgres(&self) -> &Postgres {
        self.postgres.get_or_init(Postgres::own)
    }
}

/// A seed that is being carried out.
pub(super) struct Scenario<'a> {
    servers: &'a Servers,
    plan: Plan,
    random: Random,
    place: Place,
    from: Address,
    to: Address,
    totals: Address,
    dead_letters: Address,
    feed: TopicFeed,
    packets: std::vec::IntoIter<Packet>,
    limits: Limits,
    /// A paused run whose state another one takes over, and whether it wakes only after the end of that one.
    paused: Option<(Live, bool)>,
    /// Whether the next run has to skip a damaged checkpoint.
    expects_damage: bool,
    ends: u64,
    log: String,
}

impl Drop for Scenario<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let path = log_path(self.plan.seed);
            let _ = fs::write(&path, &self.log);
            println!("the log of all runs is in {}", path.display());
        }
    }
}

fn log_path(seed: u64) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kills-{seed}.log"))
}

/// Returns packets in order of time, but for some that come late.
fn packets(random: &mut Random, count: usize) -> Vec<Packet> {
    let mut packets = traffic::packets(random, count, SPAN_MS);
    for (number, packet) in packets.iter_mut().enumerate() {
        let (number, count) = (number as u64, count as u64);
        let ms = number * SPAN_MS / count + number * 3 / count * SILENCE_MS;
        let back = if random.percent(10) { random.below(JITTER_MS) } else { 0 };
        packet.ms = BEGIN_MS + ms.saturating_sub(back);
    }
    packets
}

/// All packets of a pair are in one partition, as those of a capture.
fn partition(packet: &Packet) -> i32 {
    let pair = format!("{} {}", packet.source, packet.destination);
    (pair.bytes().map(u64::from).sum::<u64>() % PARTITIONS) as i32
}

/// A message that can't be counted.
fn letter(number: usize) -> String {
    format!("letter {number}")
}

fn sleep(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

impl<'a> Scenario<'a> {
    pub(super) fn new(servers: &'a Servers, plan: Plan) -> Self {
        let mut random = Random::new(plan.seed);
        let place = Place::new();
        let packets = packets(&mut random, plan.records);
        place.write("made.pcap", pcap(&packets));
        place.fifo("panic");
        let table = plan.has_table.then(|| servers.postgres().database());
        let limits = Limits::new(&mut random, SPAN_MS, table);
        limits.write(&place);
        let broker = &servers.broker;
        let from = broker.topic("flows", PARTITIONS as i32);
        let new = |prefix: &str| broker.address(&random_name(prefix));
        Scenario {
            servers,
            random,
            from: from.clone(),
            to: new("alerts"),
            totals: new("totals"),
            dead_letters: new("dead"),
            feed: TopicFeed::to(&from),
            packets: packets.into_iter(),
            limits,
            paused: None,
            expects_damage: false,
            ends: 0,
            log: String::new(),
            place,
            plan,
        }
    }

    /// Carries out all steps, and returns the number of ends of runs.
    pub(super) fn run(mut self) -> u64 {
        let chunk = self.plan.records.div_ceil(2 * self.plan.steps.len());
        let began = Instant::now();
        for (number, step) in self.plan.steps.clone().into_iter().enumerate() {
            println!("seed {} {:.1?} step {number}: {step:?}", self.plan.seed, began.elapsed());
            let _ = writeln!(self.log, "---- step {number}: {step:?}");
            self.send(chunk);
            self.feed.flush();
            self.step(&step, chunk);
        }
        println!("seed {} {:.1?} end", self.plan.seed, began.elapsed());
        self.send(usize::MAX);
        self.feed.flush();
        self.finish();
        self.ends
    }

    fn send(&mut self, count: usize) {
        for packet in self.packets.by_ref().take(count) {
            let sent = self.feed.sent().len();
            if sent.is_multiple_of(LETTER_INTERVAL) {
                self.feed.send_raw(partition(&packet), None, letter(sent).as_bytes(), packet.ms);
            }
            self.feed.send(partition(&packet), packet);
        }
    }

    fn state(&self) -> PathBuf {
        self.place.path("state")
    }

    fn line(&self, shape: Shape, options: &str) -> String {
        let Scenario { from, to, totals, dead_letters, .. } = self;
        format!(
            "run --from {from} --to {to} --publish {totals} --dead-letter {dead_letters} --limits {} {OPTIONS} {} \
             {options} {}",
            self.limits.uri(),
            self.plan.options,
            shape.options()
        )
    }

    fn step(&mut self, step: &Step, chunk: usize) {
        if step.edit == EditTime::Before {
            self.edit();
        }
        let before = newest(&self.state());
        let short =
            if step.action == Action::Outlast { "-X transaction.timeout.ms=3000" } else { "" };
        let line = self.line(step.shape, &format!("{} {} {short}", step.options, step.rules));
        let run = self.place.floodmark(&line);
        let mut run = match step.action {
            Action::Panic => {
                let worker =
                    ["0", "1", "2", "3"][step.victim % (step.shape.processes * step.shape.workers)];
                run.env("FLOODMARK_PANIC_WORKER", worker).env("FLOODMARK_PANIC_WHEN", "panic")
            }
            _ => run,
        }
        .start();
        self.send(chunk);
        if step.event != Event::Start {
            run.wait_for("continuing from the state");
            if let Some((run, _)) = self.paused.take_if(|(_, is_late)| !*is_late) {
                self.wake(run);
            }
        }
        match step.event {
            Event::Read => drop(run.wait_for("reading a partition")),
            Event::Checkpoint => self.wait_for_checkpoint(&mut run, before),
            Event::Start | Event::Claim => {}
        }
        if step.edit == EditTime::During {
            self.edit();
        }
        sleep(step.moment_ms);
        let taken_over = self.paused.take();
        self.act(run, step);
        if let Some((run, _)) = taken_over {
            self.wake(run);
        }
    }

    fn edit(&mut self) {
        self.limits.edit(&mut self.random);
        self.limits.write(&self.place);
    }

    /// Waits for a checkpoint newer than this one.
    fn wait_for_checkpoint(&self, run: &mut Live, before: Option<String>) {
        let before = before.unwrap_or_default();
        let began = Instant::now();
        // The first checkpoint of a state has nothing.
        let is_new = |name: String| name > before && !name.ends_with("00000000.json");
        while !newest(&self.state()).is_some_and(is_new) && !run.has_ended() {
            assert!(began.elapsed() < STUCK_AFTER, "no checkpoint after {before:?}");
            sleep(5);
        }
    }

    /// Wakes a paused run whose state was taken over: it ends, and publishes nothing.
    fn wake(&mut self, run: Live) {
        run.signal("CONT", SignalTarget::Group);
        self.ended(run, &[69, 76]);
    }

    /// Notes the end of a run, which must have one of these exit codes.
    fn ended(&mut self, run: Live, codes: &[i32]) {
        let done = run.finish_killed();
        self.note(&done, codes);
    }

    fn note(&mut self, done: &Done, codes: &[i32]) {
        self.ends += 1;
        let _ = writeln!(
            self.log,
            "$ {}\n{}-- exit code {}",
            done.command_line(),
            done.stderr,
            done.code()
        );
        // The folder was taken away while the run continued from it.
        let is_broken = done.stderr.contains("Not a directory") && done.code() == 69;
        if !codes.contains(&done.code()) && !is_broken {
            done.fail(&format!("expected one of the exit codes {codes:?}"));
        }
        let panics = done.stderr.matches("panicked at").count();
        if panics > done.stderr.matches("because FLOODMARK_PANIC_WORKER is set").count() {
            done.fail("a thread panicked by itself");
        }
        for never in
            ["came after their window had settled", "do not continue the checkpoint of the state"]
        {
            if done.stderr.contains(never) {
                done.fail(&format!("logged: {never}"));
            }
        }
    }

    fn kill(&mut self, run: Live) {
        run.signal("KILL", SignalTarget::Group);
        self.ended(run, &[-1]);
    }

    fn request_end(&mut self, run: Live, signal: &str, target: SignalTarget) {
        run.signal(signal, target);
        // A run that has not begun to read ends with another code.
        self.ended(run, &[0, 130]);
    }

    /// Ends a run after a fault that is over.
    fn end(&mut self, run: Live, step: &Step) {
        match step.is_orderly {
            true => self.request_end(run, "TERM", SignalTarget::Parent),
            false => self.kill(run),
        }
    }

    /// Waits for the end, or for the restart, of a run that has lost a process.
    fn lost(&mut self, mut run: Live, step: &Step) {
        if !step.shape.restarts {
            return self.ended(run, &[1]);
        }
        run.wait_for("starting all processes again");
        self.ends += 1;
        sleep(step.moment_ms + step.pause_ms);
        self.kill(run);
    }

    fn act(&mut self, run: Live, step: &Step) {
        let is_alone = step.shape.processes == 1;
        let damaged = std::mem::take(&mut self.expects_damage);
        let logged = self.log.len();
        match step.action {
            Action::KillAll => self.kill(run),
            Action::KillOne | Action::Hang | Action::KillParent if is_alone => self.kill(run),
            Action::KillOne => {
                run.signal("KILL", SignalTarget::Child(step.victim % 2));
                self.lost(run, step);
            }
            Action::KillParent => {
                run.signal("KILL", SignalTarget::Parent);
                self.ended(run, &[-1]);
            }
            Action::Terminate => self.request_end(run, "TERM", SignalTarget::Parent),
            Action::Interrupt => self.request_end(run, "INT", SignalTarget::Group),
            Action::Panic => self.panic(run, step),
            Action::Pause => self.pause(run, step),
            Action::Outlast => {
                run.signal("STOP", SignalTarget::Group);
                sleep(OUTLAST_MS);
                run.signal("CONT", SignalTarget::Group);
                sleep(step.pause_ms);
                run.signal("KILL", SignalTarget::Group);
                // A run whose transaction the broker has ended ends by itself.
                self.ended(run, &[-1, 69]);
            }
            Action::Hang => {
                run.signal("STOP", SignalTarget::Child(step.victim % 2));
                self.lost(run, step);
            }
            Action::TakeOver => {
                run.signal("STOP", SignalTarget::Group);
                // A lock of another machine has no effect here.
                fs::remove_file(self.place.path("state/lock"))
                    .expect("the run has locked its state");
                self.paused = Some((run, step.heals));
            }
            Action::KillBroker => self.kill_broker(run, step),
            Action::KillDatabase => {
                self.servers.postgres().kill();
                sleep(step.pause_ms);
                self.end(run, step);
                self.servers.postgres().start();
            }
            Action::BreakTotals => self.break_folder(run, step, "totals"),
            Action::BreakCheckpoints => self.break_folder(run, step, "checkpoints"),
            Action::FillDisk => self.fail_store(run, step, |run, fails| {
                bound_files(run, if fails { "64" } else { "unlimited" });
            }),
            Action::LosePower => {
                self.kill(run);
                self.expects_damage = lose_writes(&self.state(), &mut self.random);
            }
        }
        let log = &self.log[logged..];
        let skipped = log.contains("a checkpoint is damaged: the one before it is used");
        // A paused run has no log yet.
        assert!(
            !damaged || skipped || self.paused.is_some(),
            "a damaged checkpoint is not reported:\n{log}"
        );
    }

    fn panic(&mut self, run: Live, step: &Step) {
        let pipe = fs::File::options()
            .write(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(self.place.path("panic"));
        if pipe.is_err() {
            // The worker does not read the pipe yet. A panic ends in an abort.
            let victim = if step.shape.processes == 1 {
                SignalTarget::Parent
            } else {
                SignalTarget::Child(step.victim % 2)
            };
            run.signal("ABRT", victim);
        }
        match step.shape.processes {
            1 => self.ended(run, &[-1]),
            _ => self.lost(run, step),
        }
    }

    fn pause(&mut self, run: Live, step: &Step) {
        run.signal("STOP", SignalTarget::Group);
        self.rejected_start(step).assert_stderr(&["uses it: stop that run"]);
        sleep(step.pause_ms);
        run.signal("CONT", SignalTarget::Group);
        sleep(step.pause_ms);
        self.end(run, step);
    }

    /// Starts a run that can't use the state.
    fn rejected_start(&self, step: &Step) -> Done {
        let options = format!("{} {}", step.options, step.rules);
        let line = self.line(step.shape.without_restart(), &options);
        self.place.floodmark(&line).run().expect(69)
    }

    fn kill_broker(&mut self, run: Live, step: &Step) {
        self.feed.flush();
        self.servers.broker.kill();
        sleep(step.pause_ms);
        if step.heals {
            self.servers.broker.start();
            sleep(step.pause_ms);
            self.end(run, step);
        } else {
            self.kill(run);
            self.servers.broker.start();
        }
    }

    fn break_folder(&mut self, run: Live, step: &Step, folder: &str) {
        let state = self.state();
        self.fail_store(run, step, |_, _| exchange(&state, folder));
        if !step.heals {
            self.rejected_start(step);
            exchange(&state, folder);
        }
    }

    /// Has the store fail, for some time or until the run has ended. `switch` makes it fail, or ends that.
    fn fail_store(&mut self, mut run: Live, step: &Step, switch: impl Fn(&Live, bool)) {
        // A checkpoint without new totals needs no folder of totals.
        let is_noticed = step.event == Event::Checkpoint && step.action != Action::BreakTotals;
        switch(&run, true);
        if is_noticed {
            run.wait_for("cannot write a checkpoint");
        }
        sleep(step.pause_ms);
        if step.heals {
            switch(&run, false);
            if is_noticed {
                run.wait_for("checkpoints are written again");
            }
            sleep(step.pause_ms);
        }
        self.end(run, step);
    }

    /// Runs to the end of the topic, and compares all outputs with a replay.
    fn finish(&mut self) {
        let line = format!("{} --until-end", self.line(self.plan.last, "--lateness 10m"));
        let done = self.place.floodmark(&line).run();
        self.note(&done, &[0]);
        self.limits.export(&self.place);
        check(&self.place, &self.to, "made.pcap --totals totals.csv");
        assert_same(&self.place.read("totals.csv"), &csv(&self.totals), || "totals".into());
        let kept = read_all(&self.dead_letters);
        let mut kept: Vec<_> = kept.iter().map(|letter| letter.text().to_owned()).collect();
        let sent = (0..self.feed.sent().len()).step_by(LETTER_INTERVAL).map(letter);
        let mut sent: Vec<_> = sent.collect();
        kept.sort();
        sent.sort();
        assert_eq!(kept, sent, "dead letters");
    }
}
