//! Answers to reads, as they travel.

use std::cell::RefCell;
use std::rc::Rc;

use floodmark_dataflows::combine::Combiner;
use floodmark_dataflows::graph::{self, Options};
use floodmark_dataflows::reads::{Answer, Read};
use floodmark_dataflows::time::Window;
use floodmark_dataflows::types::{Pair, Volume};
use timely::dataflow::operators::Inspect;

/// The bound that `ARCHITECTURE.md` names.
const ROWS_MAX: usize = 16 * 1024;

#[test]
fn rows_of_a_window_travel_in_messages_of_bounded_size() {
    const PAIRS: u32 = 50_000;
    let answers = timely::execute_directly(|worker| {
        let answers = Rc::new(RefCell::new(Vec::new()));
        let to = answers.clone();
        let mut inputs = worker.dataflow(|scope| {
            let (inputs, outputs, _) = graph::build(scope, Options::default());
            outputs.answers.inspect(move |(answer, _)| to.borrow_mut().push(answer.clone()));
            inputs
        });
        let mut combiner = Combiner::new(1);
        for host in 0..PAIRS {
            let pair = Pair::V4(host.into(), [192, 0, 2, 1].into());
            combiner.add(Window(0), pair, Volume::new(1, 1));
        }
        inputs.advance_to(1);
        inputs.batches(combiner.take());
        inputs.read(Read::Rows { from: Window(0), until: Window(1) });
        drop(inputs);
        while worker.step() {}
        answers.take()
    });
    let sizes: Vec<usize> = answers
        .into_iter()
        .map(|answer| match answer {
            Answer::Rows { rows, .. } => rows.len(),
            answer => panic!("nobody asked for {answer:?}"),
        })
        .collect();
    assert_eq!(sizes.iter().sum::<usize>(), PAIRS as usize);
    assert!(sizes.iter().all(|size| *size <= ROWS_MAX), "{sizes:?}");
    assert!(sizes.len() <= 5, "{sizes:?}");
}
