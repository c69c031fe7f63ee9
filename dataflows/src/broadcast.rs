//! One stream for every worker.

use timely::ExchangeData;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Operator;
use timely::dataflow::operators::vec::Map;

use crate::time::Time;

/// Each item of a stream, on every worker.
///
/// As timely's operator of this name, with two operators instead of three, or none for one worker: all workers
/// agree on the progress of each.
pub(crate) fn broadcast<'scope, D: ExchangeData + Clone>(
    stream: StreamVec<'scope, Time, D>,
) -> StreamVec<'scope, Time, D> {
    let peers = stream.scope().peers() as u64;
    if peers == 1 {
        return stream;
    }
    let copies = stream.flat_map(move |item| (0..peers).map(move |to| (to, item.clone())));
    let to_worker = Exchange::new(|(to, _): &(u64, D)| *to);
    copies.unary::<CapacityContainerBuilder<Vec<D>>, _, _, _>(to_worker, "Broadcast", |_, _| {
        |input, output| {
            input.for_each(|capability, data| {
                output.session(&capability).give_iterator(data.drain(..).map(|(_, item)| item));
            });
        }
    })
}
