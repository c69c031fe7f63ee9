//! Wires the inputs and outputs of operators that work through one complete time after another.
//!
//! An input adds what it brings to the work of its time; the work of a time is done when all inputs are complete for
//! it, and makes data in the state of the operator; each output sends the data of one kind.

use timely::dataflow::channels::pact::ParallelizationContract;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::{Capability, InputCapability};
use timely::dataflow::{Scope, StreamVec};

use crate::pending::{FueledOperator, PendingByTime, SteppedState, send};
use crate::time::Time;

/// An operator whose inputs and outputs are being connected. `W` is the work of one time, `S` the state.
pub(crate) struct Wiring<'scope, W, S> {
    scope: Scope<'scope, Time>,
    builder: OperatorBuilder<'scope, Time>,
    inputs: Vec<Box<Input<W, S>>>,
    outputs: Vec<Box<Output<S>>>,
    /// Inputs that a time must be complete on. They come first.
    awaited: usize,
}

type Input<W, S> = dyn FnMut(&mut PendingByTime<W>, &mut S);
type Output<S> = dyn FnMut(&Capability<Time>, &mut S);

/// The place of a message of an input among the pending work.
pub(crate) struct Place<'a, W> {
    pending: &'a mut PendingByTime<W>,
    capability: &'a InputCapability<Time>,
}

impl<W: Default> Place<'_, W> {
    /// The work at a time, which may be later than that of the message.
    pub(crate) fn at(&mut self, time: Time) -> &mut W {
        self.pending.at(self.capability, time)
    }

    /// The work of the whole tick of a time ([`PendingByTime::at_tick`]).
    pub(crate) fn at_tick(&mut self, time: Time) -> &mut W {
        self.pending.at_tick(self.capability, time)
    }
}

impl<'scope, W: Default + 'static, S: 'static> Wiring<'scope, W, S> {
    pub(crate) fn new(name: &str, scope: Scope<'scope, Time>) -> Self {
        Wiring {
            scope,
            builder: OperatorBuilder::new(name.to_owned(), scope),
            inputs: Vec::new(),
            outputs: Vec::new(),
            awaited: 0,
        }
    }

    /// Connects an input; `add` adds each datum to the work of its time.
    pub(crate) fn input<D: Clone + 'static>(
        &mut self,
        stream: StreamVec<'scope, Time, D>,
        pact: impl ParallelizationContract<Time, Vec<D>>,
        add: impl Fn(&mut Place<'_, W>, D) + 'static,
    ) {
        assert_eq!(self.awaited, self.inputs.len(), "inputs that nobody waits for come last");
        self.awaited += 1;
        let mut input = self.builder.new_input(stream, pact);
        self.inputs.push(Box::new(move |pending, _| {
            input.for_each(|capability, data| {
                let mut place = Place { pending: &mut *pending, capability: &capability };
                data.drain(..).for_each(|datum| add(&mut place, datum));
            });
        }));
    }

    /// Connects an input that belongs to no time: no output waits for it, and `accept` has each datum at once.
    pub(crate) fn untimed_input<D: Clone + 'static>(
        &mut self,
        stream: StreamVec<'scope, Time, D>,
        pact: impl ParallelizationContract<Time, Vec<D>>,
        accept: impl Fn(&mut S, D) + 'static,
    ) {
        let mut input = self.builder.new_input_connection(stream, pact, []);
        self.inputs.push(Box::new(move |_, state| {
            input.for_each(|_, data| data.drain(..).for_each(|datum| accept(state, datum)));
        }));
    }

    /// Connects an output, which sends the data that the work leaves in a part of the state.
    pub(crate) fn output<D: Clone + 'static>(
        &mut self,
        data: impl Fn(&mut S) -> &mut Vec<D> + 'static,
    ) -> StreamVec<'scope, Time, D> {
        let (mut output, stream) = self.builder.new_output::<Vec<D>>();
        self.outputs.push(Box::new(move |capability, state| {
            send(&mut output, capability, data(state));
        }));
        stream
    }

    /// Builds the operator; `work` does all work of a time at once.
    pub(crate) fn build(self, mut state: S, work: impl Fn(&mut S, Time, W) + 'static) {
        let Wiring { builder, mut inputs, mut outputs, awaited, .. } = self;
        builder.build(move |_| {
            let mut pending = PendingByTime::new(outputs.len());
            move |frontiers| {
                inputs.iter_mut().for_each(|input| input(&mut pending, &mut state));
                let mut worked = false;
                while let Some((time, of_time)) = pending.next(&frontiers[..awaited]) {
                    work(&mut state, time, of_time);
                    worked = true;
                }
                if worked {
                    let outputs = outputs.iter_mut().zip(pending.capabilities());
                    outputs.for_each(|(output, capability)| output(capability, &mut state));
                }
                pending.follow(None);
            }
        });
    }

    /// Builds the operator, which works in steps.
    pub(crate) fn build_in_steps(self, state: S)
    where
        S: SteppedState<Work = W>,
    {
        let Wiring { scope, builder, mut inputs, mut outputs, awaited } = self;
        let activator = scope.activator_for(builder.operator_info().address);
        builder.build(move |_| {
            let mut operator = FueledOperator::new(state, outputs.len());
            move |frontiers| {
                let FueledOperator { pending, state, .. } = &mut operator;
                inputs.iter_mut().for_each(|input| input(pending, state));
                let more = operator.run(&frontiers[..awaited], |capabilities, state| {
                    let outputs = outputs.iter_mut().zip(capabilities);
                    outputs.for_each(|(output, capability)| output(capability, state));
                });
                if more && operator.state.can_continue() {
                    activator.activate();
                }
            }
        });
    }
}
