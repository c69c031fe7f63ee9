use std::sync::{Arc, Mutex};

use super::*;

/// Both clocks, set by hand.
#[derive(Clone)]
struct Hand(Arc<Mutex<Reading>>);

impl Clocks for Hand {
    fn read(&mut self) -> Reading {
        *self.0.lock().unwrap()
    }
}

/// The beginning of 2026, at which all clocks start.
const START: u64 = 1_767_225_600_000;
const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// A clock over clocks that a test sets. It is read each second, as ticks do.
struct Case {
    hand: Hand,
    clock: SteadyClock<Hand>,
    last: Moment,
}

impl Case {
    fn starting(wall_ms: u64) -> Self {
        let hand = Hand(Arc::new(Mutex::new(Reading { wall_ms, elapsed_ms: 1_000_000 })));
        let mut clock = SteadyClock::over(hand.clone(), 30_000);
        let last = clock.read();
        Case { hand, clock, last }
    }

    fn new() -> Self {
        let case = Case::starting(START);
        assert_eq!(case.last, Moment::steady(START, START - 30_000));
        case
    }

    /// The wall clock is set by so much, without a reading.
    fn set(&mut self, by_ms: i64) {
        let mut reading = self.hand.0.lock().unwrap();
        reading.wall_ms = reading.wall_ms.saturating_add_signed(by_ms);
    }

    /// So much time passes in one piece, and the clock is read.
    fn leap(&mut self, ms: u64) -> Moment {
        {
            let mut reading = self.hand.0.lock().unwrap();
            reading.wall_ms += ms;
            reading.elapsed_ms += ms;
        }
        let moment = self.clock.read();
        assert!(moment.now >= self.last.now, "{moment:?} after {:?}", self.last);
        assert!(moment.horizon >= moment.now && moment.undecided_until >= moment.horizon);
        self.last = moment;
        moment
    }

    /// Lets `ms` milliseconds pass on both clocks, second by second.
    fn pass(&mut self, ms: u64) -> Moment {
        for _ in 0..ms / 1000 {
            self.leap(1000);
        }
        self.leap(ms % 1000)
    }
}

#[test]
fn clock_without_steps_follows_the_wall_clock() {
    let mut case = Case::new();
    assert_eq!(case.pass(HOUR), Moment::steady(START + HOUR, START + HOUR - 30_000));
    // A process that was stopped, or a machine that was suspended.
    assert_eq!(case.leap(9 * HOUR).now, START + 10 * HOUR);
}

#[test]
fn clock_slewed_for_hours_is_followed_without_a_step() {
    for by in [50, -50, 83, -83] {
        let mut case = Case::new();
        for _ in 0..2 * HOUR / 1000 {
            case.set(by);
            let moment = case.leap(1000);
            assert_eq!(moment.unsteady, None, "{by}");
        }
        let wall = (START + 2 * HOUR).saturating_add_signed(by * 7200);
        assert_eq!((case.last.now, case.last.horizon), (wall, wall), "{by}");
    }
    // A leap second.
    let mut case = Case::new();
    case.set(-1000);
    assert_eq!(case.leap(10).unsteady, None);
    assert_eq!(case.pass(MINUTE), Moment::steady(START + 59_010, START + 29_010));
}

#[test]
fn clock_set_in_many_small_steps_is_not_taken_for_slewing() {
    let mut case = Case::new();
    for _ in 0..100 {
        case.set(900);
        case.leap(100);
    }
    // 90 s in 10 s: by slewing it is 2 s, and a tenth of the time.
    assert!(case.last.now <= START + 10_000 + 3_000, "{:?}", case.last);
    assert!(matches!(case.last.unsteady, Some(Unsteady::Forward { .. })));
}

#[test]
fn clock_set_back_goes_on_by_elapsed_time() {
    let mut case = Case::new();
    case.pass(HOUR);
    case.set(-20 * 60_000);
    let moment = case.pass(10_000);
    assert_eq!(moment.now, START + HOUR + 9_000 + 100);
    // All of a record that is as late as the elapsed time counts.
    assert_eq!((moment.horizon, moment.undecided_until), (START + HOUR + 10_000, moment.horizon));
    // Silence is judged by the earlier clock.
    assert_eq!(moment.silence, START + 40 * MINUTE + 10_000 - 30_000);
    let lasting = Duration::from_secs(9);
    let behind_ms = 20 * MINUTE - 900;
    assert_eq!(moment.unsteady, Some(Unsteady::Back { behind_ms, lasting }));
}

#[test]
fn clock_set_back_is_caught_up_with_at_a_tenth() {
    let mut case = Case::new();
    case.set(-20 * 60_000);
    let mut passed = 0;
    while case.leap(1000).unsteady.is_some() {
        passed += 1000;
    }
    assert!((200 * MINUTE - 5_000..200 * MINUTE + 30_000).contains(&passed), "{passed}");
    let now = case.hand.0.lock().unwrap().wall_ms;
    assert_eq!((case.last.now, case.last.silence), (now, now - 30_000));
    // Whether the wall clock is right now or was right before: records count.
    assert_eq!(case.last.horizon, now + 20 * MINUTE);
    // Set forward again, it was wrong in between, and nothing is undecided.
    case.set(20 * 60_000);
    let moment = case.leap(1000);
    assert_eq!(
        (moment.horizon, moment.undecided_until),
        (now + 20 * MINUTE + 1000, moment.horizon)
    );
    assert!(matches!(moment.unsteady, Some(Unsteady::Forward { .. })), "{moment:?}");
    let moment = case.pass(2 * MINUTE);
    assert_eq!((moment.now, moment.unsteady), (moment.horizon, None));
}

#[test]
fn clock_set_back_by_years_goes_on_at_full_rate() {
    let mut case = Case::new();
    // The GPS weeks begin anew.
    case.set(-(1024 * 7 * DAY as i64));
    let moment = case.pass(HOUR);
    assert_eq!((moment.now, moment.horizon), (START + HOUR, START + HOUR));
    assert!(matches!(moment.unsteady, Some(Unsteady::Back { .. })));
    // And it is set right again.
    case.set(1024 * 7 * DAY as i64);
    assert_eq!(case.leap(0), Moment::steady(START + HOUR, START + HOUR - 30_000));
}

#[test]
fn clock_set_before_1970_does_not_panic() {
    let mut case = Case::new();
    case.set(-(START as i64));
    assert_eq!(case.pass(MINUTE).now, START + MINUTE);
    assert_eq!(case.last.silence, 30_000);
}

#[test]
fn clock_set_forward_for_seconds_changes_nothing() {
    let mut case = Case::new();
    case.set(HOUR as i64);
    let moment = case.pass(4_000);
    assert_eq!((moment.now, moment.horizon), (START + 4_000, START + 4_000));
    assert_eq!(moment.silence, START + 4_000 - 30_000);
    assert_eq!(moment.undecided_until, START + HOUR + 4_000);
    case.set(-(HOUR as i64));
    assert_eq!(case.leap(1000), Moment::steady(START + 5_000, START + 5_000 - 30_000));
}

#[test]
fn clock_set_forward_is_believed_after_a_minute() {
    let mut case = Case::new();
    case.set(HOUR as i64);
    let moment = case.pass(60_000);
    assert_eq!(moment.now, START + 60_000);
    let believed_in = Duration::from_secs(1);
    let lasting = Duration::from_secs(59);
    assert_eq!(moment.unsteady, Some(Unsteady::Forward { ahead_ms: HOUR, lasting, believed_in }));
    let now = START + HOUR + 61_000;
    assert_eq!(case.leap(1000), Moment::steady(now, now - 30_000));
}

#[test]
fn clock_that_goes_on_stepping_forward_is_believed_at_last() {
    let mut case = Case::new();
    for _ in 0..12 {
        case.set(10 * 60_000);
        case.pass(10_000);
    }
    assert!(case.last.now >= START + HOUR, "{:?}", case.last);
}

#[test]
fn clock_set_forward_wrongly_and_back_after_it_was_believed_catches_up() {
    let mut case = Case::new();
    case.set(HOUR as i64);
    case.pass(2 * MINUTE);
    case.set(-(HOUR as i64));
    let moment = case.pass(10_000);
    assert!(matches!(moment.unsteady, Some(Unsteady::Back { .. })));
    assert!(moment.now > START + HOUR, "ticks do not go back");
    // Records have arrived since, so the partitions are not silent.
    assert_eq!(moment.silence, START + 2 * MINUTE + 10_000 - 30_000);
}

#[test]
fn clock_of_1970_is_waited_for() {
    let mut case = Case::starting(5_000);
    assert_eq!(case.last.unsteady, Some(Unsteady::Unset { wall_ms: 5_000 }));
    let moment = case.pass(HOUR);
    assert_eq!(moment.unsteady, Some(Unsteady::Unset { wall_ms: 5_000 + HOUR }));
    case.set(START as i64);
    let now = START + HOUR + 6_000;
    assert_eq!(case.leap(1000), Moment::steady(now, now - 30_000));
}

#[test]
fn clocks_of_this_machine_go_on() {
    let first = MachineClocks.read();
    let second = MachineClocks.read();
    assert!(second.elapsed_ms >= first.elapsed_ms && first.wall_ms > SET_SINCE_MS);
}

/// Between two readings the milliseconds of one clock may change, and those of the other one not yet.
#[test]
fn clocks_whose_milliseconds_change_at_different_moments_do_not_part() {
    let mut case = Case::new();
    for micros in (0..HOUR * 1000).step_by(3_100) {
        {
            let mut reading = case.hand.0.lock().unwrap();
            reading.wall_ms = START + (micros + 500) / 1000;
            reading.elapsed_ms = 1_000_000 + micros / 1000;
        }
        assert_eq!(case.leap(0).unsteady, None, "after {micros} us");
    }
}
