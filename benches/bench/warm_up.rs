//! Has the broker's JVM compile what a slow workload makes it do, and so not while that is measured. Never measured itself.

use bulkhead_testkit::kafka::Kafka;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use std::thread;
use std::time::{Duration, Instant};

const TOPIC: &str = "warm_up";
const PARTITIONS: i32 = 4;
const CLIENTS: usize = 4;
/// Of each client: small ones, as a pipeline of pictures makes them.
const TRANSACTIONS: usize = 500;
const PATIENCE: Duration = Duration::from_secs(60);

/// Commits small transactions from several clients at once, and reads them back.
pub(crate) fn run(kafka: &Kafka) {
    kafka.create_topic(TOPIC, PARTITIONS);
    let began = Instant::now();
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            scope.spawn(move || transactions(kafka, client));
        }
    });
    println!("warm-up: {} transactions in {:.0?}", CLIENTS * TRANSACTIONS, began.elapsed());
}

fn transactions(kafka: &Kafka, client: usize) {
    let name = format!("{TOPIC}.{client}");
    let mut settings = kafka.client();
    settings.set("transactional.id", &name).set("linger.ms", "1");
    let producer: BaseProducer = settings.create().expect("a producer can be made");
    producer.init_transactions(PATIENCE).expect("the coordinator answers");
    let mut settings = kafka.client();
    settings.set("group.id", &name).set("isolation.level", "read_committed").set("fetch.wait.max.ms", "50");
    let consumer: BaseConsumer = settings.create().expect("a consumer can be made");
    let mut assignment = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        assignment.add_partition_offset(TOPIC, partition, Offset::Beginning).expect("a beginning is an offset");
    }
    consumer.assign(&assignment).expect("the partitions can be assigned");
    let metadata = consumer.group_metadata().expect("a consumer with a group has metadata");
    for transaction in 0..TRANSACTIONS {
        producer.begin_transaction().expect("no transaction is open");
        for partition in 0..PARTITIONS {
            let record = BaseRecord::<[u8], [u8]>::to(TOPIC).partition(partition).payload(&[0; 200]);
            producer.send(record).map_err(|(error, _)| error).expect("the queue has room");
        }
        while producer.in_flight_count() > 0 {
            producer.poll(Duration::ZERO);
            thread::park_timeout(Duration::from_micros(200));
        }
        let mut offsets = TopicPartitionList::new();
        let position = Offset::Offset(i64::try_from(transaction).expect("a small number"));
        offsets.add_partition_offset(TOPIC, 0, position).expect("a position is an offset");
        producer.send_offsets_to_transaction(&offsets, &metadata, PATIENCE).expect("the position is taken");
        producer.commit_transaction(PATIENCE).expect("the transaction commits");
        while let Some(read) = consumer.poll(Duration::ZERO) {
            drop(read.expect("the topic can be read"));
        }
    }
}
