//! Windows that have retired leave memory, without any change.
//!
//! Hundreds of windows pass through one worker, of which a few are held at a time. Live entries
//! are counted (totals, rollups, IPv6 addresses) and, since that leaves out all that
//! differential dataflow keeps, also the bytes on the heap. Only the thread of the test is counted: the
//! other tests of this binary run at the same time.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::combine::Combiner;
use floodmark_dataflows::graph::{self, Inputs, Options};
use floodmark_dataflows::reads::{Chunk, EmitTotals, Read, RequestId, Response};
use floodmark_dataflows::time::{END_OF_INPUT, Phase, Time, Window, Windows};
use floodmark_dataflows::types::{
    Bound, Change, Event, LimitId, Pair, Per, Scope, Version, VersionId, Volume,
};
use timely::dataflow::operators::Inspect;

thread_local! {
    /// Bytes that this thread has allocated and not freed.
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, counting by thread.
struct Counting;

fn count(bytes: isize) {
    // The last deallocations of a thread come after its counter is gone.
    let _ = LIVE.try_with(|live| live.set(live.get() + bytes));
}

// SAFETY: each call is passed on as it is; counting neither allocates nor panics.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's obligations are those of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const WINDOWS: u64 = 200;
/// Half of them IPv6.
const PAIRS: u64 = 2000;
const WIDTH_MS: u64 = 10_000;

/// A window ends, accepts late records for half a width, and is held for two more.
const RULES: Windows = Windows {
    width_secs: WIDTH_MS / 1000,
    lateness_ms: Some(WIDTH_MS / 2),
    retention_ms: Some(2 * WIDTH_MS),
    max_gap_secs: 0,
};

/// A record; the addresses of no window are those of another.
fn record(window: u64, n: u64) -> (Window, Pair, Volume) {
    let host = window * PAIRS + n;
    let pair = match n % 2 {
        0 => Pair::V4(Ipv4Addr::from_bits(host as u32), Ipv4Addr::from_bits(!host as u32)),
        _ => {
            Pair::V6(Ipv6Addr::from_bits(u128::from(host)), Ipv6Addr::from_bits(!u128::from(host)))
        }
    };
    (Window(window * RULES.width_secs), pair, Volume::new(n as i64 + 1, 1))
}

/// Checks that the row of a pair is the record that entered.
fn check_row(window: Window, (pair, volume): (Pair, Volume)) {
    let host = match pair {
        Pair::V4(source, _) => source.to_bits().into(),
        Pair::V6(source, _) => source.to_bits() as u64,
    };
    assert_eq!(
        record(host / PAIRS, host % PAIRS),
        (window, pair, volume),
        "not the record that entered"
    );
}

fn row(limit: u32, bound: Bound, per: Per, value: i64) -> Version {
    Version {
        limit: LimitId(limit),
        id: VersionId(limit),
        bound,
        scope: Scope { per, ..Scope::default() },
        value: Some(value),
        ..Version::default()
    }
}

/// Ten pairs of each window are over the first, five sources over the second, and two pairs under the
/// third.
fn rows() -> [Version; 3] {
    [
        row(1, Bound::Max, Per::Pair, PAIRS as i64 - 10),
        row(2, Bound::Max, Per::Source, PAIRS as i64 - 5),
        row(3, Bound::Min, Per::Pair, 3),
    ]
}

/// The outputs of the run. Rows are only counted, so that this record does not grow.
struct Recorded {
    changes: Vec<(u64, Change)>,
    /// The tick at which each window retired, and the number of its pairs.
    retired: BTreeMap<Window, (u64, u64)>,
    /// Totals of pairs and of rollups, and addresses, after each tick.
    held: BTreeMap<u64, [u64; 3]>,
}

/// Runs the windows. Returns the outputs, and the bytes of the computation after each window and at the end.
fn run() -> (Recorded, Vec<isize>) {
    timely::execute_directly(|worker| {
        let recorded = Rc::new(RefCell::new(Recorded {
            changes: Vec::with_capacity(100 * WINDOWS as usize),
            retired: BTreeMap::new(),
            held: BTreeMap::new(),
        }));
        let options = Options {
            windows: RULES,
            emit_totals: Some(EmitTotals::OnRetire),
            ..Options::default()
        };
        let (mut inputs, probe) = worker.dataflow(|scope| {
            let (inputs, outputs, probe) = graph::build(scope, options);
            let to = recorded.clone();
            outputs.changes.inspect(move |(change, time)| {
                to.borrow_mut().changes.push((time.tick, *change));
            });
            let to = recorded.clone();
            outputs.responses.inspect(move |(Response { chunk, .. }, time)| {
                let mut to = to.borrow_mut();
                match chunk {
                    Chunk::Rows { window, rows } => {
                        assert_eq!(time.phase, Phase::Retire, "nobody requested rows");
                        for row in rows {
                            check_row(*window, *row);
                        }
                        let retired = to.retired.entry(*window).or_insert((time.tick, 0));
                        retired.1 += rows.len() as u64;
                    }
                    Chunk::Held { pairs, rollups, addresses } => {
                        let held = to.held.entry(time.tick).or_default();
                        held[0] += pairs;
                        held[1] += rollups;
                        held[2] += addresses;
                    }
                    Chunk::Amount { .. } => panic!("nobody requested an amount"),
                }
            });
            (inputs, probe)
        });
        let empty = LIVE.get();
        for row in rows() {
            inputs.edit(row, 1);
        }
        let mut combiner = Combiner::new(1);
        let mut bytes = Vec::new();
        let mut tick = |inputs: &mut Inputs, at: u64| {
            inputs.read(RequestId(at), Read::Held);
            inputs.advance_to(at + 1);
            worker.step_while(|| probe.less_than(&Time::start(at + 1)));
        };
        for window in 0..WINDOWS {
            // Each window comes in four ticks.
            for quarter in 0..4 {
                let at = window * WIDTH_MS + (quarter + 1) * WIDTH_MS / 5;
                inputs.advance_to(at);
                for n in (quarter..PAIRS).step_by(4) {
                    let (window, pair, volume) = record(window, n);
                    combiner.add(window, pair, volume);
                }
                inputs.batches(combiner.take());
                inputs.mark(SourceProgress::Seen(record(window, 0).0));
                inputs.mark(SourceProgress::Watermark(at));
                tick(&mut inputs, at);
            }
            bytes.push(LIVE.get() - empty);
        }
        // The end of the input settles the last windows, and the tick after it retires them.
        for _ in 0..10 {
            let at = inputs.tick() + 1;
            inputs.advance_to(at);
            inputs.mark(SourceProgress::Watermark(END_OF_INPUT));
            tick(&mut inputs, at);
        }
        drop(combiner);
        bytes.push(LIVE.get() - empty);
        assert_eq!(recorded.borrow().changes.capacity(), 100 * WINDOWS as usize);
        let nothing =
            Recorded { changes: Vec::new(), retired: BTreeMap::new(), held: BTreeMap::new() };
        (recorded.replace(nothing), bytes)
    })
}

#[test]
fn retired_windows_free_their_memory_and_emit_no_change() {
    let (recorded, bytes) = run();

    // Every total was emitted when its window retired.
    let retired: Vec<_> =
        recorded.retired.iter().map(|(window, (_, rows))| (*window, *rows)).collect();
    let entered: Vec<_> = (0..WINDOWS).map(|window| (record(window, 0).0, PAIRS)).collect();
    assert_eq!(retired, entered);

    // All changes of a window precede its retirement, and none is `cleared`. By window: raised, and settled.
    let mut counts = BTreeMap::<Window, [u64; 2]>::new();
    for (tick, change) in &recorded.changes {
        let window = change.violation.window;
        assert!(*tick < recorded.retired[&window].0, "{change:?} at {tick}");
        assert_ne!(change.event, Event::Cleared, "{change:?} at {tick}");
        let counts = counts.entry(window).or_default();
        counts[0] += u64::from(change.event == Event::Raised);
        counts[1] += u64::from(change.settled);
    }
    assert_eq!(counts.len() as u64, WINDOWS);
    assert!(counts.values().all(|counts| *counts == [17, 17]), "{counts:?}");

    // Windows are held for 37 s of the ticks, and the addresses of one until the tick after.
    for (tick, [pairs, rollups, addresses]) in &recorded.held {
        assert!(*pairs <= 4 * PAIRS, "{pairs} pairs at {tick}");
        assert!(*rollups <= 4 * PAIRS, "{rollups} sources at {tick}");
        assert!(*addresses <= 5 * PAIRS, "{addresses} addresses at {tick}");
    }
    assert_eq!(recorded.held.values().next_back(), Some(&[0; 3]));

    // Bytes do not grow with the windows that pass. Buffers and the record of this test
    // remain at the end; a kilobyte for each window would be too much.
    let most = |of: &[isize]| of.iter().copied().max().expect("there are some");
    let (early, late) = (most(&bytes[10..100]), most(&bytes[100..]));
    assert!(late < early * 3 / 2, "{early} bytes became {late}");
    assert!(bytes[bytes.len() - 1] < 400_000, "{:?} bytes are left", bytes.last());
}
