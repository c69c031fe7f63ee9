//! The last operator of the computation: it collects the outputs of each tick for the runner.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use floodmark_dataflows::clock::WindowEvent;
use floodmark_dataflows::graph::Outputs;
use floodmark_dataflows::reads::{Chunk, RequestId, Response};
use floodmark_dataflows::reports::Late;
use floodmark_dataflows::time::{Time, Timed};
use floodmark_dataflows::types::Change;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::{Exchange, Probe, probe};
use timely::dataflow::{Scope, StreamVec};

use super::outputs::{EventTimeReached, TickOutputs, WindowChanges};
use crate::kafka::OwnedMessage;

/// Changes that the runner has not consumed yet, with their ticks.
pub(super) type Changes = Rc<RefCell<VecDeque<(u64, Vec<Change>)>>>;

/// Outputs that the runner has not consumed yet, by tick.
pub(super) type ByTick<O> = Rc<RefCell<BTreeMap<u64, O>>>;

/// The operator, while its inputs are connected. There is one for all outputs, since all workers agree on the
/// progress of each operator.
struct Collecting<'scope> {
    builder: OperatorBuilder<'scope, Time>,
    inputs: Vec<Box<dyn FnMut()>>,
}

impl<'scope> Collecting<'scope> {
    fn new(scope: Scope<'scope, Time>) -> Self {
        let builder = OperatorBuilder::new("Collect".into(), scope);
        Collecting { builder, inputs: Vec::new() }
    }

    /// Calls `collect` with each batch of a stream.
    fn each<T: Clone + 'static>(
        &mut self,
        stream: StreamVec<'scope, Time, T>,
        mut collect: impl FnMut(&mut Vec<T>) + 'static,
    ) {
        let mut input = self.builder.new_input(stream, Pipeline);
        self.inputs.push(Box::new(move || input.for_each(|_, data| collect(data))));
    }

    /// Adds the items of a stream to the outputs of their ticks.
    fn collect<T: Clone + 'static, O: Default + 'static>(
        &mut self,
        stream: StreamVec<'scope, Time, Timed<T>>,
        outputs: &ByTick<O>,
        add: impl Fn(&mut O, T) + 'static,
    ) {
        let outputs = outputs.clone();
        self.each(stream, move |data| {
            let mut outputs = outputs.borrow_mut();
            for (item, time) in data.drain(..) {
                add(outputs.entry(time.tick).or_default(), item);
            }
        });
    }

    /// Lets a probe pass a tick only when all its outputs are collected, in any order of scheduling: the probe follows
    /// an output of this operator, on which nothing is ever sent.
    fn probe_with(self, probe: &probe::Handle<Time>) {
        let Collecting { mut builder, mut inputs } = self;
        let (_, collected) = builder.new_output::<Vec<()>>();
        builder.build(move |_| move |_| inputs.iter_mut().for_each(|collect| collect()));
        collected.probe_with(probe);
    }
}

/// Collects all outputs on this worker, and dead letters on the first one. The probe passes a tick when all its outputs
/// are collected.
pub(super) fn collect<'scope>(
    scope: Scope<'scope, Time>,
    outputs: Outputs<'scope>,
    dead_letters: Option<StreamVec<'scope, Time, Timed<OwnedMessage>>>,
    probe: &probe::Handle<Time>,
    into: &Collected,
) {
    let mut collecting = Collecting::new(scope);
    let first = scope.index() == 0;
    let by_tick = first.then(|| (into.passed.clone(), into.outputs.clone()));
    collect_clock(&mut collecting, outputs.clock.clone(), into.event_time.clone(), by_tick);
    collect_others(&mut collecting, outputs, into);
    if let Some(dead_letters) = dead_letters {
        collecting.collect(
            dead_letters.exchange(|_| 0),
            &into.outputs,
            |outputs: &mut TickOutputs, letter| {
                outputs.dead_letters.push(letter);
            },
        );
    }
    collecting.probe_with(probe);
}

/// The outputs that the runner has not consumed yet.
#[derive(Default)]
pub(super) struct Collected {
    pub(super) outputs: ByTick<TickOutputs>,
    pub(super) changes: Changes,
    /// Chunks of responses, in no order: operators work through several ticks before they send.
    pub(super) responses: ByTick<VecDeque<(RequestId, Chunk)>>,
    pub(super) passed: ByTick<WindowChanges>,
    pub(super) event_time: Rc<Cell<EventTimeReached>>,
}

/// Collects the progress of event time, on all workers, and of windows, by tick, on the first worker alone: the
/// others may never consume the outputs of a tick.
fn collect_clock<'scope>(
    collecting: &mut Collecting<'scope>,
    clock: StreamVec<'scope, Time, Timed<WindowEvent>>,
    event_time: Rc<Cell<EventTimeReached>>,
    by_tick: Option<(ByTick<WindowChanges>, ByTick<TickOutputs>)>,
) {
    collecting.each(clock, move |events| {
        for (event, Time { tick, .. }) in events.drain(..) {
            match (event, &by_tick) {
                (
                    WindowEvent::EventTime {
                        at,
                        slowest,
                        held_by,
                        slowest_in,
                        front,
                        whole_from,
                        open,
                    },
                    by_tick,
                ) => {
                    event_time.set(EventTimeReached {
                        watermark: at,
                        slowest,
                        held_by,
                        slowest_in,
                        front,
                        open_windows: open,
                    });
                    if let Some((passed, _)) = by_tick {
                        let mut passed = passed.borrow_mut();
                        passed.entry(tick).or_default().moved = Some((at, whole_from));
                    }
                }
                (WindowEvent::Bounds(bounds), Some((passed, _))) => {
                    passed.borrow_mut().entry(tick).or_default().bounds = Some(bounds);
                }
                (WindowEvent::Retired(windows), Some((_, outputs))) => {
                    outputs.borrow_mut().entry(tick).or_default().retired.push(windows);
                }
                (
                    WindowEvent::Bounds(_)
                    | WindowEvent::Partial { .. }
                    | WindowEvent::Observed(_)
                    | WindowEvent::Silent(_)
                    | WindowEvent::Retired(_)
                    | WindowEvent::Settled(_),
                    _,
                ) => {}
            }
        }
    });
}

/// Collects all other outputs.
fn collect_others<'scope>(
    collecting: &mut Collecting<'scope>,
    outputs: Outputs<'scope>,
    Collected { outputs: by_tick, changes: all_changes, responses: chunks, passed, .. }: &Collected,
) {
    let Outputs { changes, top, responses, late, saturated, existing, marks, clock_states, .. } =
        outputs;
    let passed = passed.clone();
    collecting.each(existing.inner, move |changes| {
        let mut passed = passed.borrow_mut();
        for (windows, time, diff) in changes.drain(..) {
            *passed.entry(time.tick).or_default().windows.entry(windows).or_default() += diff;
        }
    });
    let all_changes = all_changes.clone();
    collecting.each(changes, move |changes| {
        let of_ticks = changes.chunk_by(|(_, one), (_, other)| one.tick == other.tick);
        all_changes.borrow_mut().extend(of_ticks.map(|changes| {
            let tick = changes[0].1.tick;
            (tick, changes.iter().map(|(change, _)| *change).collect())
        }));
    });
    collecting.collect(marks, by_tick, |to, mark| to.marks.push(mark));
    collecting.collect(clock_states, by_tick, |to, state| to.clock_state = Some(state));
    let rank = |to: &mut TickOutputs, ranked| to.top.push(ranked);
    collecting.collect(top, by_tick, rank);
    let add_late = |to: &mut TickOutputs, late: Late| {
        to.late.counted += late.counted;
        to.late.dropped += late.dropped;
    };
    collecting.collect(late, by_tick, add_late);
    let saturate = |to: &mut TickOutputs, total| to.saturated.push(total);
    collecting.collect(saturated, by_tick, saturate);
    let (chunks, by_tick) = (chunks.clone(), by_tick.clone());
    collecting.each(responses, move |responses| {
        for (Response { request, chunk, .. }, Time { tick, .. }) in responses.drain(..) {
            match request {
                Some(request) => {
                    chunks.borrow_mut().entry(tick).or_default().push_back((request, chunk));
                }
                None => by_tick.borrow_mut().entry(tick).or_default().add(chunk),
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use floodmark_dataflows::time::Phase;
    use timely::container::CapacityContainerBuilder;
    use timely::dataflow::operators::vec::Map;
    use timely::dataflow::operators::{Input, Operator};

    use super::*;

    /// An operator before the collecting one keeps each batch for many schedulings, like an operator that is scheduled
    /// late. A probe before it passes the tick long before.
    #[test]
    fn tick_is_done_only_when_its_outputs_are_collected() {
        timely::execute_directly(|worker| {
            let outputs = ByTick::<Vec<u64>>::default();
            let (mut input, beside, done) = worker.dataflow::<Time, _, _>(|scope| {
                let (input, stream) = scope.new_input::<Vec<u64>>();
                let (beside, stream) = stream.probe();
                let slow = stream.unary::<CapacityContainerBuilder<Vec<u64>>, _, _, _>(
                    Pipeline,
                    "Slow",
                    |_, info| {
                        let again = scope.activator_for(info.address);
                        let mut kept = VecDeque::new();
                        let mut schedulings = 0;
                        move |input, output| {
                            input.for_each_time(|time, data| {
                                let data: Vec<u64> = data.flat_map(std::mem::take).collect();
                                kept.push_back((time.retain(0), data));
                            });
                            schedulings += 1;
                            if schedulings % 20 == 0
                                && let Some((time, mut data)) = kept.pop_front()
                            {
                                output.session(&time).give_container(&mut data);
                            }
                            if !kept.is_empty() {
                                again.activate();
                            }
                        }
                    },
                );
                let done = probe::Handle::new();
                let mut collecting = Collecting::new(scope);
                let slow = slow.map(|item| (item, Time::start(item / 10)));
                collecting.collect(slow, &outputs, |to, item| to.push(item));
                collecting.probe_with(&done);
                (input, beside, done)
            });
            let mut waited = 0;
            for tick in 0..5 {
                input.advance_to(Time { phase: Phase::Data, ..Time::start(tick) });
                input.send(tick * 10);
                let next = Time::start(tick + 1);
                input.advance_to(next);
                while done.less_than(&next) {
                    worker.step();
                    waited += usize::from(!beside.less_than(&next));
                }
                assert_eq!(outputs.borrow_mut().remove(&tick), Some(vec![tick * 10]));
            }
            assert!(waited > 5, "the operator has kept nothing");
        });
    }
}
