//! How fast records go from one topic to another through the log port, beside a bare rdkafka loop in the same run.
//! Never asserts: it prints. `cargo bench -p bulkhead-actors --bench kafka_throughput [-- RECORDS ROUNDS]`.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]

use bulkhead_actors::io::kafka::{KafkaConfig, KafkaLog};
use bulkhead_actors::log::{AssignmentListener, Closing, Delivery, Fetched, GroupSpec, Log, Outgoing, Publisher};
use bulkhead_core::ids::Partition;
use bulkhead_core::record::Record;
use bulkhead_testkit::kafka::{Kafka, KafkaSpec};
use bulkhead_testkit::topics::Isolation;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

const PARTITIONS: i32 = 4;
const LANES: usize = 2;
const SPAN: Duration = Duration::from_millis(100);
const VALUE_BYTES: usize = 480;

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|text| text.parse::<usize>().ok());
    let records = numbers.next().unwrap_or(400_000);
    let rounds = numbers.next().unwrap_or(3);
    let kafka = Kafka::start_with(KafkaSpec::bench());
    kafka.create_topic("in", PARTITIONS);
    let value = bytes::Bytes::from(vec![b'x'; VALUE_BYTES]);
    let partition = |i: usize| Some(i32::try_from(i).unwrap() % PARTITIONS);
    let record = || Record { value: Some(value.clone()), ..Record::default() };
    assert_eq!(kafka.produce("in", (0..records).map(|i| (partition(i), record()))), records as u64);
    for round in 0..rounds {
        let (bare, port) = (format!("bare-{round}"), format!("port-{round}"));
        kafka.create_topic(&bare, PARTITIONS);
        kafka.create_topic(&port, PARTITIONS);
        let limit = rate(records, || copy_bare(&kafka, &bare, records));
        let ours = rate(records, || copy_port(&kafka, &port, records));
        for topic in [&bare, &port] {
            assert_eq!(kafka.read_topic(topic, Isolation::Committed).len(), records, "{topic}");
        }
        println!("round {round}: bare {limit:.0}/s, port {ours:.0}/s, ratio {:.2}", ours / limit);
    }
}

fn rate(records: usize, run: impl FnOnce()) -> f64 {
    let began = Instant::now();
    run();
    records as f64 / began.elapsed().as_secs_f64()
}

struct Silent;

impl AssignmentListener for Silent {
    fn assigned(&self, _: &[Partition]) {}
    fn revoked(&self, _: &[Partition], _: bool) {}
}

/// One polling thread, two lanes with two partitions each, as the engine has them.
fn copy_port(kafka: &Kafka, output: &str, records: usize) {
    let log = KafkaLog::new(KafkaConfig::new(kafka.bootstrap(), output)).unwrap();
    let spec = GroupSpec {
        group: output.to_owned(),
        topic: "in".to_owned(),
        instance: "bench".to_owned(),
        session_timeout: Duration::from_secs(10),
    };
    let group = log.join(&spec, Arc::new(Silent)).unwrap();
    let topic: Arc<str> = output.into();
    std::thread::scope(|scope| {
        let mut links = Vec::new();
        for lane in 0..LANES {
            let (link, batches) = sync_channel::<Fetched>(64);
            links.push(link);
            let mut publisher = group.publisher(u32::try_from(lane).unwrap(), Delivery::ExactlyOnce).unwrap();
            let topic = Arc::clone(&topic);
            scope.spawn(move || {
                publisher.rebuild().unwrap();
                run_lane(&mut *publisher, &topic, &batches);
            });
        }
        let mut taken = 0;
        while taken < records {
            for fetched in group.poll(&|_| true, 512, Duration::from_millis(50)).unwrap() {
                taken += fetched.records.len();
                links[usize::try_from(fetched.partition.0).unwrap() % LANES].send(fetched).unwrap();
            }
        }
    });
    group.leave().unwrap();
}

fn run_lane(publisher: &mut dyn Publisher, topic: &Arc<str>, batches: &Receiver<Fetched>) {
    let mut open = true;
    while open {
        publisher.begin().unwrap();
        let until = Instant::now() + SPAN;
        let mut ends = BTreeMap::new();
        loop {
            match batches.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(fetched) => {
                    ends.insert(fetched.partition, fetched.records.last().unwrap().offset.next());
                    for source in fetched.records {
                        let partition = Some(fetched.partition);
                        let outgoing = Outgoing { topic: Arc::clone(topic), partition, record: source.record };
                        publisher.produce(&outgoing).unwrap();
                    }
                    if Instant::now() >= until {
                        break;
                    }
                }
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => {
                    open = false;
                    break;
                }
            }
        }
        publisher.commit(&Closing { segments: Vec::new(), positions: ends.into_iter().collect() }).unwrap();
    }
}

/// The limit: two threads, each with a consumer, a producer and half of the partitions, and nothing else.
fn copy_bare(kafka: &Kafka, output: &str, records: usize) {
    std::thread::scope(|scope| {
        for worker in 0..LANES {
            scope.spawn(move || bare_worker(kafka, output, worker, records / LANES));
        }
    });
}

fn bare_client(kafka: &Kafka) -> ClientConfig {
    let mut config = kafka.client();
    config.set("fetch.queue.backoff.ms", "5").set("fetch.message.max.bytes", "4194304").set("fetch.wait.max.ms", "10");
    config.set("linger.ms", "1").set("batch.size", "262144").set("delivery.report.only.error", "true");
    config
}

fn bare_worker(kafka: &Kafka, output: &str, worker: usize, records: usize) {
    let mut config = bare_client(kafka);
    config.set("group.id", output).set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut mine = TopicPartitionList::new();
    for partition in (0..PARTITIONS).filter(|p| usize::try_from(*p).unwrap() % LANES == worker) {
        mine.add_partition_offset("in", partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&mine).unwrap();
    let mut config = bare_client(kafka);
    config.set("transactional.id", format!("{output}-{worker}"));
    let producer: BaseProducer = config.create().unwrap();
    producer.init_transactions(Duration::from_secs(30)).unwrap();
    let mut copied = 0;
    while copied < records {
        producer.begin_transaction().unwrap();
        let until = Instant::now() + SPAN;
        let mut ends = BTreeMap::new();
        while copied < records && Instant::now() < until {
            let Some(message) = consumer.poll(Duration::from_millis(1)) else { continue };
            let message = message.unwrap();
            let mut record = BaseRecord::<[u8], [u8]>::to(output).partition(message.partition());
            record.payload = message.payload();
            producer.send(record).map_err(|(e, _)| e).unwrap();
            ends.insert(message.partition(), message.offset() + 1);
            copied += 1;
        }
        while producer.in_flight_count() > 0 {
            producer.poll(Duration::from_micros(200));
        }
        let mut offsets = TopicPartitionList::new();
        for (partition, end) in ends {
            offsets.add_partition_offset("in", partition, Offset::Offset(end)).unwrap();
        }
        let metadata = consumer.group_metadata().unwrap();
        producer.send_offsets_to_transaction(&offsets, &metadata, Duration::from_secs(30)).unwrap();
        producer.commit_transaction(Duration::from_secs(30)).unwrap();
    }
}
