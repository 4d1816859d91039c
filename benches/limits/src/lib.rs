//! What both limit programs share: arguments, client settings and the transaction loop. Never a crate of the project:
//! a limit that used what it is to judge would prove nothing.

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Message, Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a transaction stays open.
const SPAN: Duration = Duration::from_millis(100);
/// How many records are taken between two looks at the clock.
const BURST: u32 = 256;
const PATIENCE: Duration = Duration::from_secs(60);

/// The command line: `BOOTSTRAP SOURCE OUTPUT LEDGER GROUP PARTITIONS WORKERS`, all of them.
#[derive(Clone, Debug)]
pub struct Args {
    /// Where the broker is.
    pub bootstrap: String,
    /// The topic that is read from its beginning to the end it has at the start.
    pub source: String,
    /// The topic that is written.
    pub output: String,
    /// The topic of the packed ledger records.
    pub ledger: String,
    /// The group whose positions are committed.
    pub group: String,
    /// How many partitions each of the three topics has.
    pub partitions: i32,
    /// How many threads share them.
    pub workers: i32,
}

impl Args {
    /// From the process' command line.
    ///
    /// # Panics
    /// When it is not complete.
    #[must_use]
    pub fn parse() -> Self {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let [bootstrap, source, output, ledger, group, partitions, workers] = &args[..] else {
            panic!("usage: BOOTSTRAP SOURCE OUTPUT LEDGER GROUP PARTITIONS WORKERS")
        };
        let number = |text: &str| text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
        Self {
            bootstrap: bootstrap.clone(),
            source: source.clone(),
            output: output.clone(),
            ledger: ledger.clone(),
            group: group.clone(),
            partitions: number(partitions),
            workers: number(workers),
        }
    }

    fn consumer(&self) -> BaseConsumer {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap).set("group.id", &self.group);
        config.set("enable.auto.commit", "false").set("isolation.level", "read_committed");
        config.set("fetch.queue.backoff.ms", "5").set("fetch.message.max.bytes", "4194304");
        config.set("queued.min.messages", "100000").set("fetch.wait.max.ms", "10");
        config.create().expect("a consumer can be made")
    }

    fn producer(&self, worker: i32) -> BaseProducer {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config.set("transactional.id", format!("{}.{worker}", self.group));
        config.set("linger.ms", "1").set("batch.size", "262144").set("delivery.report.only.error", "true");
        config.set("queue.buffering.max.messages", "1000000").set("queue.buffering.max.kbytes", "1048576");
        let producer: BaseProducer = config.create().expect("a producer can be made");
        producer.init_transactions(PATIENCE).expect("the coordinator answers");
        producer
    }
}

/// Copies every partition, each worker on a thread with a consumer and a transactional producer of its own. `each` says
/// what is sent for a record, `last` what is sent before a transaction ends.
///
/// # Panics
/// At the first error of the broker: a limit does not recover.
pub fn run<S: Default + Send>(
    args: &Args,
    each: impl Fn(&mut S, &BaseProducer, &BorrowedMessage<'_>) + Sync,
    last: impl Fn(&mut S, &BaseProducer) + Sync,
) {
    std::thread::scope(|scope| {
        for worker in 0..args.workers {
            let (each, last) = (&each, &last);
            scope.spawn(move || copy(args, worker, each, last));
        }
    });
}

fn copy<S: Default>(
    args: &Args,
    worker: i32,
    each: impl Fn(&mut S, &BaseProducer, &BorrowedMessage<'_>),
    last: impl Fn(&mut S, &BaseProducer),
) {
    let (consumer, producer, mut state) = (args.consumer(), args.producer(worker), S::default());
    let mut ends = BTreeMap::new();
    let mut assignment = TopicPartitionList::new();
    for partition in (0..args.partitions).filter(|p| p % args.workers == worker) {
        let (_, end) = consumer.fetch_watermarks(&args.source, partition, PATIENCE).expect("the source has an end");
        ends.insert(partition, end);
        assignment.add_partition_offset(&args.source, partition, Offset::Beginning).expect("a beginning is an offset");
    }
    consumer.assign(&assignment).expect("the source's partitions can be assigned");
    let metadata = consumer.group_metadata().expect("a consumer with a group has metadata");
    let mut positions: BTreeMap<i32, i64> = ends.keys().map(|p| (*p, 0)).collect();
    while positions.iter().any(|(p, position)| *position < ends[p]) {
        producer.begin_transaction().expect("no transaction is open");
        let began = Instant::now();
        let mut seen = 0_u32;
        while began.elapsed() < SPAN && positions.iter().any(|(p, position)| *position < ends[p]) {
            // The clock is looked at once a burst: reading it for every record took a third of the processor time here.
            let mut wait = Duration::from_millis(1);
            for _ in 0..BURST {
                let Some(message) = consumer.poll(wait) else { break };
                let message = message.expect("the source can be read");
                each(&mut state, &producer, &message);
                positions.insert(message.partition(), message.offset() + 1);
                (seen, wait) = (seen + 1, Duration::ZERO);
            }
        }
        if seen > 0 {
            last(&mut state, &producer);
            let mut offsets = TopicPartitionList::new();
            for (partition, position) in &positions {
                let position = Offset::Offset(*position);
                offsets.add_partition_offset(&args.source, *partition, position).expect("a position is an offset");
            }
            // rdkafka's flush, which the commit calls, waits in slots of 100 ms while anything is outstanding; its poll
            // counts whole milliseconds and spins below one, which takes a core from the broker.
            while producer.in_flight_count() > 0 {
                producer.poll(Duration::ZERO);
                std::thread::park_timeout(Duration::from_micros(200));
            }
            producer.send_offsets_to_transaction(&offsets, &metadata, PATIENCE).expect("the positions are taken");
        }
        producer.commit_transaction(PATIENCE).expect("the transaction commits");
    }
}

/// Hands a record to the producer; when its queue is full, serves it until there is room.
///
/// # Panics
/// When the record is refused for another reason.
pub fn send(producer: &BaseProducer, record: BaseRecord<'_, [u8], [u8]>) {
    let mut next = record;
    while let Err((error, refused)) = producer.send(next) {
        let full = matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull));
        assert!(full, "the producer refuses a record: {error}");
        producer.poll(Duration::from_micros(200));
        next = refused;
    }
}

/// The copy of a record for another topic: the same partition, key and payload.
#[must_use]
pub fn copied<'a>(message: &'a BorrowedMessage<'_>, topic: &'a str) -> BaseRecord<'a, [u8], [u8]> {
    let mut record = BaseRecord::to(topic).partition(message.partition());
    record.key = message.key();
    record.payload = message.payload();
    record
}
