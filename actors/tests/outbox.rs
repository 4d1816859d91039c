//! The outbox on a real disk, its real actor and the log in memory, which goes away and comes back.

use bulkhead_actors::clock::Clock;
use bulkhead_actors::io::memory::{Faults, MemoryLog, MemoryOptions};
use bulkhead_actors::log::{Log, Outgoing, Producer, Read, Tail, TopicSpec};
use bulkhead_actors::metrics::Metrics;
use bulkhead_actors::outbox::{self, NotTaken, Outbox, Queue};
use bulkhead_actors::shell::{Body, Lifeline};
use bulkhead_actors::supervisor::{ChildSpec, Root, SupervisorSpec};
use bulkhead_core::ids::Partition;
use bulkhead_core::outbox::{Held, OutboxLimits};
use bulkhead_core::record::{Header, ID_HEADER, Record};
use bulkhead_testkit::process::eventually;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
const ROUTE: &str = "POST /events";
const LIMITS: OutboxLimits = OutboxLimits { records_max: 5_000, bytes_max: 64 << 20 };

/// A log with one topic of one partition, and how it fails.
struct Setup {
    log: Arc<dyn Log>,
    faults: Faults,
    metrics: Arc<Metrics>,
    folder: TempDir,
}

impl Setup {
    fn new() -> Self {
        let (log, faults) = MemoryLog::open(&MemoryOptions::default()).expect("memory is there");
        let topic = TopicSpec { name: "events".into(), partitions: 1, replicas: 1, retention: None };
        log.create_topics(&[topic]).expect("made");
        let folder = tempfile::tempdir().expect("a directory");
        Self { log, faults, metrics: Arc::new(Metrics::new()), folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn open(&self, limits: OutboxLimits) -> Outbox {
        Outbox::open(self.path(), &[(ROUTE.into(), limits)], &self.metrics).expect("it opens")
    }

    /// Once the one before it is closed: its last writer may just be going.
    fn open_again(&self, route: &str) -> Outbox {
        eventually("the outbox is closed", PATIENCE, || {
            Outbox::open(self.path(), &[(route.into(), LIMITS)], &self.metrics).map_err(|why| why.to_string())
        })
    }

    fn producer(&self) -> Arc<dyn Producer> {
        self.log.patient_producer().expect("made")
    }

    /// The ids in the topic, in order, each as often as it is there.
    fn ids(&self) -> Vec<String> {
        let tail = Tail { topic: "events".into(), partition: Partition(0), from: None };
        let mut reader = self.log.reader(&[tail]).expect("a reader");
        let mut ids = Vec::new();
        loop {
            for read in reader.read(1_000, Duration::from_millis(10)).expect("read") {
                match read {
                    Read::Record { record, .. } => ids.push(id(&record.record)),
                    Read::CaughtUp { .. } => return ids,
                }
            }
        }
    }
}

fn id(record: &Record) -> String {
    String::from_utf8_lossy(record.header(ID_HEADER).expect("an id")).into_owned()
}

fn outgoing(n: usize) -> Outgoing {
    let headers = vec![Header::new(ID_HEADER, format!("{n:05}"))];
    let record = Record { value: Some(format!("{{\"n\":{n}}}").into()), headers, ..Record::default() };
    Outgoing { topic: "events".into(), partition: None, record }
}

fn put(queue: &Arc<Queue>, numbers: std::ops::Range<usize>) -> Result<(), NotTaken> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let records: Vec<_> = numbers.map(outgoing).collect();
    runtime.block_on(queue.put(&records))
}

fn expected(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|n| format!("{n:05}")).collect()
}

/// The first time that each id is there: what the ledger lets through.
fn once(ids: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    ids.into_iter().filter(|id| seen.insert(id.clone())).collect()
}

#[test]
fn what_waited_leaves_in_order_once_the_log_is_back() {
    let setup = Setup::new();
    setup.faults.away(true);
    let outbox = setup.open(LIMITS);
    let queue = Arc::clone(outbox.queue(ROUTE).expect("it is named"));
    let (emptied, producer) = (Arc::clone(&queue), setup.producer());
    let spec = ChildSpec::body("outbox", move |_| {
        let (queue, producer) = (Arc::clone(&emptied), Arc::clone(&producer));
        Body::thread(move |lifeline| outbox::run(&lifeline, &queue, &*producer))
    });
    let system = actix_rt::System::new();
    system.block_on(async {
        let root = Root::start(SupervisorSpec::new("root", vec![spec]));
        let records: Vec<_> = (0..1_200).map(outgoing).collect();
        for records in records.chunks(100) {
            queue.put(records).await.expect("there is room");
        }
        assert_eq!(queue.held().records, 1_200, "the log is away");
        setup.faults.away(false);
        let (killed, emptied) = (root.clone(), Arc::clone(&queue));
        let waiting = tokio::task::spawn_blocking(move || {
            killed.kill("outbox").expect("it is there");
            eventually("the outbox is empty", PATIENCE, || {
                if emptied.is_empty() { Ok(()) } else { Err(format!("{:?}", emptied.held())) }
            });
        });
        waiting.await.expect("no panic");
        root.drain().await;
    });
    assert_eq!(once(setup.ids()), expected(0..1_200));
    assert_eq!(queue.held(), Held::default());
    drop((outbox, queue, system));
    assert!(setup.open_again(ROUTE).queues().all(|queue| queue.is_empty()), "nothing is left on the disk");
}

#[test]
fn a_full_queue_takes_nothing_and_a_request_is_taken_whole() {
    let setup = Setup::new();
    let outbox = setup.open(OutboxLimits { records_max: 10, ..LIMITS });
    let queue = outbox.queue(ROUTE).expect("it is named");
    put(queue, 0..8).expect("there is room");
    let full = put(queue, 8..11).expect_err("there is room for two of three");
    assert!(matches!(full, NotTaken::Full(full) if full.held.records == 8), "{full}");
    put(queue, 8..10).expect("there is room for two");
    assert!(queue.check().is_err());
}

#[test]
fn a_restart_finds_what_waits_and_a_route_that_is_gone_is_emptied_too() {
    let setup = Setup::new();
    let outbox = setup.open(LIMITS);
    put(outbox.queue(ROUTE).expect("named"), 0..3).expect("room");
    drop(outbox);
    let outbox = setup.open_again("PUT /other");
    let queue = Arc::clone(outbox.queue(ROUTE).expect("it was found"));
    assert_eq!((queue.held().records, queue.is_served()), (3, false));
    assert!(matches!(put(&queue, 3..4), Err(NotTaken::Full(_))), "nobody serves it");
    let (lifeline, emptied, producer) = (Lifeline::detached(Clock::real()), Arc::clone(&queue), setup.producer());
    let actor = std::thread::spawn({
        let lifeline = lifeline.clone();
        move || outbox::run(&lifeline, &emptied, &*producer)
    });
    eventually("it is empty", PATIENCE, || if queue.is_empty() { Ok(()) } else { Err("not yet".into()) });
    assert_eq!(setup.ids(), expected(0..3));
    drop((actor, lifeline));
}

#[test]
fn writers_are_served_together_and_in_the_order_of_their_numbers() {
    let setup = Setup::new();
    let outbox = setup.open(LIMITS);
    let queue = outbox.queue(ROUTE).expect("named");
    std::thread::scope(|scope| {
        for writer in 0..8 {
            scope
                .spawn(move || (0..20).for_each(|n| put(queue, writer * 100 + n..writer * 100 + n + 1).expect("room")));
        }
    });
    assert_eq!(queue.held().records, 160);
}
