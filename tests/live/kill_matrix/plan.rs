//! The steps of a seed: each starts a run, and ends it at a random moment.

use crate::replay::traffic::Random;

/// A fault, or a request to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// SIGKILL for all processes.
    KillAll,
    /// SIGKILL for one of two processes.
    KillOne,
    /// SIGKILL for the supervisor of two processes.
    KillParent,
    /// SIGTERM.
    Terminate,
    /// SIGINT for all processes, as from a terminal.
    Interrupt,
    /// A panic of one worker.
    Panic,
    /// A pause of all processes, during which another start is rejected.
    Pause,
    /// A pause of all processes that exceeds the time-out of transactions.
    Outlast,
    /// A pause of one of two processes that exceeds `--hang-timeout`.
    Hang,
    /// A pause of all processes, during which another run takes over the state.
    TakeOver,
    /// SIGKILL for the broker.
    KillBroker,
    /// SIGKILL for the database of limits.
    KillDatabase,
    /// A file in the place of the folder of totals.
    BreakTotals,
    /// A file in the place of the folder of checkpoints.
    BreakCheckpoints,
    /// No space for files of the state.
    FillDisk,
    /// SIGKILL for all processes, and damage to the newest checkpoint.
    LosePower,
}

impl Action {
    pub(super) const ALL: [Action; 16] = [
        Action::KillAll,
        Action::KillOne,
        Action::KillParent,
        Action::Terminate,
        Action::Interrupt,
        Action::Panic,
        Action::Pause,
        Action::Outlast,
        Action::Hang,
        Action::TakeOver,
        Action::KillBroker,
        Action::KillDatabase,
        Action::BreakTotals,
        Action::BreakCheckpoints,
        Action::FillDisk,
        Action::LosePower,
    ];

    /// Whether the action waits for time-outs of a server.
    pub(super) fn is_slow(self) -> bool {
        matches!(self, Action::Outlast | Action::KillBroker | Action::KillDatabase)
    }

    /// Whether the store of the state fails.
    pub(super) fn is_of_store(self) -> bool {
        matches!(self, Action::BreakTotals | Action::BreakCheckpoints | Action::FillDisk)
    }

    /// Whether the action suits a run that may not have claimed its state yet.
    fn suits_any_time(self) -> bool {
        matches!(self, Action::KillAll | Action::LosePower)
    }
}

/// The event that the moment of an action is counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Start,
    /// The run has claimed its state.
    Claim,
    /// The run begins to read, or to recover.
    Read,
    /// The run has written a checkpoint.
    Checkpoint,
}

/// Processes and workers of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) processes: usize,
    pub(super) workers: usize,
    /// Whether a failed process makes all processes start again.
    pub(super) restarts: bool,
}

impl Shape {
    fn draw(random: &mut Random) -> Self {
        let (processes, workers) = random.pick(&[(1, 1), (1, 2), (2, 1), (2, 2)]);
        Shape { processes, workers, restarts: processes > 1 && random.percent(30) }
    }

    /// Returns the shape of a run that ends by its first failure.
    pub(super) fn without_restart(self) -> Self {
        Shape { restarts: false, ..self }
    }

    /// Returns the options of a run.
    pub(super) fn options(self) -> String {
        let Shape { processes, workers, restarts } = self;
        let restart = if restarts { "--restart" } else { "" };
        format!("-n{processes} -w{workers} {restart}")
    }
}

/// An edit of limits, relative to the start of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EditTime {
    Before,
    During,
    Never,
}

/// One start of a run, and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) shape: Shape,
    pub(super) options: &'static str,
    /// Options that hold from the first new tick on.
    pub(super) rules: &'static str,
    pub(super) edit: EditTime,
    pub(super) event: Event,
    /// Time from the event to the action.
    pub(super) moment_ms: u64,
    pub(super) action: Action,
    /// Time from the action to the next one, such as the end of an outage.
    pub(super) pause_ms: u64,
    /// Whether a fault ends before the run does.
    pub(super) heals: bool,
    /// Whether the run ends by SIGTERM after a fault that healed.
    pub(super) is_orderly: bool,
    /// The number of a process or worker.
    pub(super) victim: usize,
}

/// Everything that a seed decides about a scenario, but for records and limits.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) steps: Vec<Step>,
    pub(super) records: usize,
    /// Whether the limits are in a table of a database.
    pub(super) has_table: bool,
    /// Options that all runs have.
    pub(super) options: &'static str,
    /// The shape of the run that reads the topic to its end.
    pub(super) last: Shape,
}

impl Plan {
    /// Draws the steps of a seed, which deal the actions in random order.
    pub(super) fn draw(
        seed: u64,
        actions: &[Action],
        restarts: usize,
        records: usize,
        has_table: bool,
    ) -> Self {
        let random = &mut Random::new(seed);
        let options = random.pick(&["--updates settled", "--updates limit", "--updates tick"]);
        let mut deck = Vec::new();
        let mut steps: Vec<Step> = Vec::new();
        while steps.len() < restarts {
            if deck.is_empty() {
                deck = actions.to_vec();
            }
            let mut action = deck.swap_remove(random.below(deck.len() as u64) as usize);
            let is_last = steps.len() + 1 == restarts;
            match action {
                Action::KillDatabase if !has_table => continue,
                // Another run must follow.
                Action::TakeOver if is_last => action = Action::KillAll,
                _ => {}
            }
            let before = steps.last().map(|step| step.action);
            steps.push(draw_step(random, action, before));
        }
        Plan {
            seed,
            steps,
            records,
            has_table,
            options,
            last: Shape::draw(random).without_restart(),
        }
    }
}

fn draw_step(random: &mut Random, action: Action, before: Option<Action>) -> Step {
    let must_claim = matches!(before, Some(Action::TakeOver | Action::LosePower));
    let event = match random.below(6) {
        0 if action.suits_any_time() && !must_claim => Event::Start,
        0 | 1 => Event::Claim,
        2 => Event::Checkpoint,
        3 if action.is_of_store() => Event::Checkpoint,
        _ => Event::Read,
    };
    let most = match event {
        Event::Checkpoint => 60,
        Event::Start | Event::Claim => random.pick(&[30, 200, 1000]),
        Event::Read => random.pick(&[30, 300, 1500]),
    };
    let shape = Shape::draw(random);
    Step {
        // A supervisor would start processes again that another run has replaced.
        shape: if action == Action::TakeOver { shape.without_restart() } else { shape },
        options: random.pick(&[
            "--checkpoint-interval 50ms --tick 50ms",
            "--checkpoint-interval 200ms --tick 20ms",
            "--checkpoint-interval 200ms --tick 200ms",
            "--checkpoint-interval 700ms --tick 50ms",
        ]),
        rules: random.pick(&[
            "--lateness 10m",
            "--lateness 10m",
            "--lateness 12m --max-gap 48h",
            "--lateness 1h --max-behind 2h --max-ahead 1m",
        ]),
        edit: random.pick(&[EditTime::Before, EditTime::During, EditTime::Never]),
        event,
        moment_ms: random.below(most),
        action,
        pause_ms: 10 + random.below(400),
        heals: random.percent(60),
        is_orderly: random.percent(50),
        victim: random.below(4) as usize,
    }
}
