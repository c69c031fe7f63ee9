//! Responses to requests, as they travel.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use floodmark_dataflows::combine::Combiner;
use floodmark_dataflows::graph::{self, Options};
use floodmark_dataflows::reads::{Chunk, Read, RequestId, Response};
use floodmark_dataflows::time::{Time, Window};
use floodmark_dataflows::types::{Pair, Volume};
use timely::dataflow::operators::Inspect;

/// The bound that `ARCHITECTURE.md` names.
const ROWS_MAX: usize = 16 * 1024;

#[test]
fn rows_of_a_window_are_sent_in_messages_of_bounded_size() {
    const PAIRS: u32 = 50_000;
    let chunks = timely::execute_directly(|worker| {
        let chunks = Rc::new(RefCell::new(Vec::new()));
        let to = chunks.clone();
        let mut inputs = worker.dataflow(|scope| {
            let (inputs, outputs, _) = graph::build(scope, Options::default());
            outputs
                .responses
                .inspect(move |(response, _)| to.borrow_mut().push(response.chunk.clone()));
            inputs
        });
        let mut combiner = Combiner::new(1);
        for host in 0..PAIRS {
            let pair = Pair::V4(host.into(), [192, 0, 2, 1].into());
            combiner.add(Window(0), pair, Volume::new(1, 1));
        }
        inputs.advance_to(1);
        inputs.batches(combiner.take());
        inputs.read(RequestId(1), Read::Rows { from: Window(0), until: Window(1) });
        drop(inputs);
        while worker.step() {}
        chunks.take()
    });
    let sizes: Vec<usize> = chunks
        .into_iter()
        .map(|chunk| match chunk {
            Chunk::Rows { rows, .. } => rows.len(),
            chunk => panic!("nobody requested {chunk:?}"),
        })
        .collect();
    assert_eq!(sizes.iter().sum::<usize>(), PAIRS as usize);
    assert!(sizes.iter().all(|size| *size <= ROWS_MAX), "{sizes:?}");
    assert!(sizes.len() <= 5, "{sizes:?}");
}

/// The tick closes all the same, and the responses to its other requests are complete.
#[test]
fn response_to_a_cancelled_request_is_cut_off() {
    const PAIRS: u32 = 400_000;
    let [cancelled, other] = [RequestId(1), RequestId(2)];
    let counts = timely::execute_directly(move |worker| {
        let rows = Rc::new(RefCell::new(BTreeMap::<_, usize>::new()));
        let to = rows.clone();
        let (mut inputs, probe) = worker.dataflow(|scope| {
            let (inputs, outputs, probe) = graph::build(scope, Options::default());
            outputs.responses.inspect(move |(Response { request, chunk, .. }, _)| {
                let Chunk::Rows { rows, .. } = chunk else { panic!("nobody requested this") };
                *to.borrow_mut().entry(request.expect("a request")).or_default() += rows.len();
            });
            (inputs, probe)
        });
        let mut combiner = Combiner::new(1);
        for host in 0..PAIRS {
            let pair = Pair::V4(host.into(), [192, 0, 2, 1].into());
            combiner.add(Window(0), pair, Volume::new(1, 1));
        }
        inputs.advance_to(1);
        inputs.batches(combiner.take());
        for request in [cancelled, other] {
            inputs.read(request, Read::Rows { from: Window(0), until: Window(1) });
        }
        inputs.advance_to(2);
        while rows.borrow().is_empty() {
            worker.step();
        }
        inputs.cancel(cancelled);
        worker.step_while(|| probe.less_than(&Time::start(2)));
        // The number is free again.
        inputs.forget_cancelled(cancelled);
        let before = rows.borrow()[&cancelled];
        inputs.read(cancelled, Read::Rows { from: Window(0), until: Window(1) });
        inputs.advance_to(3);
        worker.step_while(|| probe.less_than(&Time::start(3)));
        [before, rows.borrow()[&other], rows.borrow()[&cancelled] - before]
    });
    let all = PAIRS as usize;
    assert!(counts[0] > 0 && counts[0] < all, "{counts:?}");
    assert_eq!(counts[1..], [all, all]);
}
