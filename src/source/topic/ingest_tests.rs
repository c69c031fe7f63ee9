use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use floodmark_dataflows::types::{Pair, Prefix, Volume};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::super::set_aside::SET_ASIDE_BYTES;
use super::*;
use crate::kafka::{
    Address, ClientOptions, Outgoing, Producer, Sent, SourceOptions, Start, Topic, Tuning,
};
use crate::record::Packer;

/// The time that messages may take to arrive. None comes near it, however busy the machine.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// A topic within this process.
struct Mock {
    address: Address,
    _cluster: MockCluster<'static, DefaultProducerContext>,
}

impl Mock {
    /// A topic with these messages.
    fn of(payloads: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let cluster = MockCluster::new(1).expect("a mock cluster");
        cluster.create_topic("flows", 1, 1).expect("a topic");
        let address = Address { brokers: cluster.bootstrap_servers(), topic: "flows".into() };
        let options = ClientOptions::default();
        let producer = Producer::open(&address, &options, Tuning::for_throughput());
        let producer = producer.unwrap_or_else(|failure| panic!("{:#}", failure.error));
        for payload in payloads {
            let message = Outgoing { payload: Some(&payload), ..Outgoing::default() };
            let sent =
                producer.send(&message).unwrap_or_else(|failure| panic!("{:#}", failure.error));
            assert_ne!(sent, Sent::Full);
        }
        let finished = producer.finish(&mut || false);
        finished.unwrap_or_else(|failure| panic!("{:#}", failure.error));
        Mock { address, _cluster: cluster }
    }

    fn ingest(&self, filter: Filter) -> Ingest {
        self.ingest_with(filter, SetAside::None)
    }

    fn ingest_with(&self, filter: Filter, set_aside: SetAside) -> Ingest {
        let options = SourceOptions {
            start: Start::Earliest,
            idle_timeout: Duration::from_secs(1),
            max_skew_ms: u64::MAX,
            group: "tests".into(),
            max_transaction: Duration::MAX,
            skip_open_transactions: false,
        };
        let topic = Topic::open(&self.address, &ClientOptions::default(), options);
        let topic = topic.unwrap_or_else(|failure| panic!("{:#}", failure.error));
        let source = TopicReader::open(topic.into(), 0, 1, std::sync::Arc::new(|| ()), None);
        let source = source.unwrap_or_else(|failure| panic!("{:#}", failure.error));
        let windows = Windows { width_secs: 1, ..Windows::default() };
        let rules = Rules {
            windows,
            filter,
            reading: ReadingRules {
                max_ahead_ms: 0,
                max_behind_ms: u64::MAX,
                input_timezone: "UTC".to_owned(),
            },
            tick: Duration::from_secs(3600),
        };
        let ingest = Ingest::new(source, rules, 1, set_aside);
        let mut ingest = ingest.unwrap_or_else(|failure| panic!("{:#}", failure.error));
        ingest.set_time(LeaderTime { now: 0, horizon: u64::MAX, undecided: false });
        ingest
    }
}

/// A packed message of records of different pairs, each `apart_ms` after the one before.
fn message(first: u32, apart_ms: u64) -> Vec<u8> {
    let mut packer = Packer::new();
    for number in first..first + Packer::RECORDS_MAX as u32 {
        let pair = Pair::V4(Ipv4Addr::from_bits(number), Ipv4Addr::LOCALHOST);
        let time_ms = 1_000_000_000_000 + u64::from(number) * apart_ms;
        let record = Record { time_ms, pair, volume: Volume::new(100, 1) };
        packer.push(&record).expect("a volume that a record may have");
    }
    packer.take().expect("there are records").payload
}

/// The sizes of the ticks into which all messages go; `measure` is the size of what is gathered.
fn ticks(ingest: &mut Ingest, messages: usize, measure: impl Fn(&Gathered) -> usize) -> Vec<usize> {
    let (mut sizes, mut taken, began) = (Vec::new(), 0, Instant::now());
    while taken < messages || measure(&ingest.gathered) > 0 {
        assert!(began.elapsed() < STUCK_AFTER, "stuck after {taken} messages");
        let took = ingest.read().unwrap_or_else(|failure| panic!("{:#}", failure.error));
        taken += took;
        if took == 0 && !ingest.is_full() && taken < messages {
            std::thread::sleep(Duration::from_millis(1));
        }
        if ingest.is_full() || taken == messages {
            sizes.push(measure(&ingest.gathered));
            ingest.gathered.combiner.take();
            ingest.gathered.seen.clear();
            ingest.gathered.last_seen = None;
        }
    }
    sizes
}

const MESSAGES: usize = 24;

fn messages(apart_ms: u64) -> Mock {
    let first = |number: usize| (number * Packer::RECORDS_MAX) as u32;
    Mock::of((0..MESSAGES).map(|number| message(first(number), apart_ms)))
}

/// The client gives all of them in one batch.
#[test]
fn batch_of_packed_messages_fills_a_tick_up_to_its_bound_and_one_message() {
    let (mock, bound) = (messages(0), TICK_UPDATES_MAX + Packer::RECORDS_MAX);
    let sizes =
        ticks(&mut mock.ingest(Filter::default()), MESSAGES, |gathered| gathered.combiner.len());
    assert!(sizes.iter().all(|size| *size <= bound), "{sizes:?}");
    assert_eq!(sizes.iter().sum::<usize>(), MESSAGES * Packer::RECORDS_MAX);
}

/// None of the records is counted, and each is in a window of its own.
#[test]
fn windows_of_records_that_are_filtered_out_fill_a_tick() {
    let (mock, bound) = (messages(1000), TICK_UPDATES_MAX + Packer::RECORDS_MAX);
    let nobody = Prefix::new(IpAddr::from(Ipv4Addr::BROADCAST).into());
    let filter = Filter { sources: vec![nobody], destinations: Vec::new() };
    let sizes = ticks(&mut mock.ingest(filter), MESSAGES, |gathered| gathered.seen.len());
    assert!(sizes.iter().all(|size| *size <= bound), "{sizes:?}");
    assert_eq!(sizes.iter().sum::<usize>(), MESSAGES * Packer::RECORDS_MAX);
}

/// All are in one batch of the client, and none can be read.
#[test]
fn dead_letters_of_a_batch_are_set_aside_up_to_the_bound_and_one_message() {
    const BYTES: usize = 100_000;
    let mock = Mock::of((0..MESSAGES).map(|_| vec![b'x'; BYTES]));
    let aside = Mock::of([]);
    let options = ClientOptions::default();
    let letters = BufferedProducer::open(&aside.address, &options, Tuning::for_latency());
    let letters = letters.unwrap_or_else(|failure| panic!("{:#}", failure.error));
    let most = SET_ASIDE_BYTES.div_ceil(BYTES);
    for (set_aside, of_ticks) in
        [(SetAside::Sent(Box::new(letters)), 0), (SetAside::of_tick(), MESSAGES)]
    {
        let mut ingest = mock.ingest_with(Filter::default(), set_aside);
        let (mut taken, mut of_tick, began) = (0, 0, Instant::now());
        while taken < MESSAGES {
            assert!(began.elapsed() < STUCK_AFTER, "stuck after {taken} messages");
            let took = ingest.read().unwrap_or_else(|failure| panic!("{:#}", failure.error));
            assert!(took <= most, "{took} letters at once");
            taken += took;
            if took == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            if ingest.is_full() || taken == MESSAGES {
                let letters = ingest.take_gathered().dead_letters.len();
                assert!(letters <= most, "{letters} letters of a tick");
                of_tick += letters;
            }
        }
        assert_eq!((taken, of_tick), (MESSAGES, of_ticks));
    }
}
