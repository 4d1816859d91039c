//! What a test does with topics: make them, fill them, read them to their end. Never joins a consumer group.

use crate::kafka::Kafka;
use bulkhead_core::ids::{Offset, Partition};
use bulkhead_core::record::{Header, Record};
use bulkhead_core::time::WallMs;
use bytes::Bytes;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Header as KafkaHeader, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{ClientContext, Offset as At, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// What a reader may see of transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Committed records alone, as the daemon's users read.
    Committed,
    /// Everything, also what was aborted.
    Uncommitted,
}

impl Isolation {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "read_committed",
            Self::Uncommitted => "read_uncommitted",
        }
    }
}

/// A record as it lies in a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its partition.
    pub partition: Partition,
    /// Its place there.
    pub offset: Offset,
    /// What it holds.
    pub record: Record,
}

/// A record that a test produces: to this partition, or to the one that its key decides (murmur2, as in Java).
pub type Produced = (Option<i32>, Record);

/// A record of text, without headers.
#[must_use]
pub fn text(key: &str, value: &str) -> Record {
    let bytes = |text: &str| Some(Bytes::copy_from_slice(text.as_bytes()));
    Record { key: bytes(key), value: bytes(value), ..Record::default() }
}

/// Where each record of a produce call came to lie, in no order; and what was refused.
#[derive(Clone, Default)]
struct Deliveries(Arc<Mutex<(u64, Vec<KafkaError>)>>);

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(_) => seen.0 += 1,
            Err((error, _)) => seen.1.push(error.clone()),
        }
    }
}

/// Asks for a group's positions in one topic; never joins the group.
pub struct GroupPositions {
    consumer: BaseConsumer,
    asked: TopicPartitionList,
}

impl GroupPositions {
    /// Per partition, the position that is committed now; partitions without one are left out.
    ///
    /// # Panics
    /// When the group's coordinator does not answer.
    #[must_use]
    pub fn committed(&self) -> BTreeMap<i32, i64> {
        let positions = self.consumer.committed_offsets(self.asked.clone(), PATIENCE);
        let positions = positions.expect("the group's positions can be read");
        let known = positions.elements().into_iter().filter_map(|e| match e.offset() {
            At::Offset(position) => Some((e.partition(), position)),
            _ => None,
        });
        known.collect()
    }
}

impl Kafka {
    /// Makes a topic with the cluster's replication.
    pub fn create_topic(&self, name: &str, partitions: i32) {
        self.create_topic_with(name, partitions, i32::from(self.nodes().min(3)), &[]);
    }

    /// Makes a topic with this replication and these settings, and waits until every partition has a leader.
    ///
    /// # Panics
    /// When the cluster refuses it.
    pub fn create_topic_with(&self, name: &str, partitions: i32, replication: i32, settings: &[(&str, &str)]) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().expect("a client can be made");
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replication));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
        let answer = futures::executor::block_on(admin.create_topics([&topic], &options));
        let answers = answer.unwrap_or_else(|e| panic!("create topic {name}: {e}"));
        for answer in answers {
            answer.unwrap_or_else(|(topic, code)| panic!("create topic {topic}: {code}"));
        }
        crate::process::eventually(&format!("topic {name} has its leaders"), PATIENCE, || {
            let found = self.partitions(name)?;
            if found == partitions { Ok(()) } else { Err(format!("{found} of {partitions} partitions")) }
        });
    }

    /// Raises a topic's partition count.
    ///
    /// # Panics
    /// When the cluster refuses it.
    pub fn add_partitions(&self, name: &str, partitions: usize) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().expect("a client can be made");
        let change = rdkafka::admin::NewPartitions::new(name, partitions);
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
        let answer = futures::executor::block_on(admin.create_partitions([&change], &options));
        for answer in answer.unwrap_or_else(|e| panic!("add partitions to {name}: {e}")) {
            answer.unwrap_or_else(|(topic, code)| panic!("add partitions to {topic}: {code}"));
        }
    }

    /// How many partitions of a topic have a leader.
    fn partitions(&self, topic: &str) -> Result<i32, String> {
        let consumer: BaseConsumer = self.client().create().expect("a client can be made");
        let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(5)).map_err(|e| e.to_string())?;
        let found = metadata.topics().first().ok_or("not in the metadata")?;
        if let Some(error) = found.error() {
            return Err(format!("{:?}", RDKafkaErrorCode::from(error)));
        }
        let led = found.partitions().iter().filter(|p| p.leader() >= 0 && p.error().is_none()).count();
        i32::try_from(led).map_err(|e| e.to_string())
    }

    /// Produces records, idempotent and acknowledged by all, in order within a partition. Returns when all are in.
    ///
    /// # Panics
    /// When one is refused.
    pub fn produce(&self, topic: &str, records: impl IntoIterator<Item = Produced>) -> u64 {
        let deliveries = Deliveries::default();
        let mut config = self.client();
        config.set("enable.idempotence", "true").set("partitioner", "murmur2_random");
        config.set("linger.ms", "2").set("batch.size", "262144").set("message.max.bytes", "100000000");
        config.set("queue.buffering.max.kbytes", "262144");
        let producer: BaseProducer<Deliveries> =
            config.create_with_context(deliveries.clone()).expect("a producer can be made");
        let mut sent = 0;
        for (partition, record) in records {
            send(&producer, topic, partition, &record);
            sent += 1;
            producer.poll(Duration::ZERO);
        }
        let end = Instant::now() + PATIENCE;
        while producer.in_flight_count() > 0 && Instant::now() < end {
            producer.poll(Duration::from_millis(1));
        }
        let seen = deliveries.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(seen.1.is_empty(), "produce to {topic}: {} refused, first: {}", seen.1.len(), seen.1[0]);
        assert_eq!(seen.0, sent, "produce to {topic}: not all acknowledged within {PATIENCE:?}");
        sent
    }

    /// Every record of a topic up to the end it has now, in order within a partition, partitions interleaved as read.
    ///
    /// # Panics
    /// When the end is not reached in time; under an open transaction `Committed` ends where that begins.
    #[must_use]
    pub fn read_topic(&self, topic: &str, isolation: Isolation) -> Vec<Stored> {
        let mut records = Vec::new();
        self.visit_topic(topic, isolation, |message| records.push(stored(message)));
        records
    }

    /// Shows `visit` every record of a topic up to the end it has now, without keeping one.
    ///
    /// # Panics
    /// As [`Kafka::read_topic`].
    pub fn visit_topic(&self, topic: &str, isolation: Isolation, mut visit: impl FnMut(&BorrowedMessage<'_>)) {
        let consumer = self.reader(isolation);
        let mut ends = self.ends(&consumer, topic);
        let mut assignment = TopicPartitionList::new();
        for partition in ends.keys() {
            assignment.add_partition_offset(topic, *partition, At::Beginning).expect("a beginning is an offset");
        }
        consumer.assign(&assignment).expect("partitions that exist can be assigned");
        ends.retain(|_, end| *end > 0);
        let mut deadline = Instant::now() + PATIENCE;
        while !ends.is_empty() {
            assert!(Instant::now() < deadline, "{topic}: nothing read for {PATIENCE:?}; open: {ends:?}");
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    deadline = Instant::now() + PATIENCE;
                    let end = ends.get(&message.partition()).copied();
                    // A record past the end that was asked for came later and is left to the next reader.
                    if end.is_some_and(|end| message.offset() < end) {
                        visit(&message);
                    }
                    if end.is_some_and(|end| message.offset() + 1 >= end) {
                        ends.remove(&message.partition());
                    }
                }
                // The end of a partition may be a transaction's marker, which no reader ever sees.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    ends.remove(&partition);
                }
                Some(Err(error)) => eprintln!("{topic}: {error}"),
                None => {}
            }
        }
    }

    /// Per partition, where a reader of this isolation finds the end now.
    #[must_use]
    pub fn end_offsets(&self, topic: &str, isolation: Isolation) -> BTreeMap<i32, i64> {
        self.ends(&self.reader(isolation), topic)
    }

    /// Per partition, the position that a group has committed; partitions without one are left out.
    #[must_use]
    pub fn committed(&self, group: &str, topic: &str) -> BTreeMap<i32, i64> {
        self.positions(group, topic).committed()
    }

    /// A client for a group's positions, for asking again and again.
    ///
    /// # Panics
    /// When there is no such topic.
    #[must_use]
    pub fn positions(&self, group: &str, topic: &str) -> GroupPositions {
        let consumer: BaseConsumer = self.client().set("group.id", group).create().expect("a client can be made");
        let mut asked = TopicPartitionList::new();
        for partition in self.ends(&consumer, topic).keys() {
            asked.add_partition(topic, *partition);
        }
        GroupPositions { consumer, asked }
    }

    /// A consumer for partitions that are assigned by hand.
    ///
    /// # Panics
    /// When librdkafka refuses its settings.
    #[must_use]
    pub fn reader(&self, isolation: Isolation) -> BaseConsumer {
        let mut config = self.client();
        // The group is never joined: partitions are assigned by hand. librdkafka wants the name all the same.
        config.set("group.id", "bulkhead-testkit").set("enable.auto.commit", "false");
        config.set("isolation.level", isolation.as_str()).set("enable.partition.eof", "true");
        config.set("fetch.wait.max.ms", "20").set("fetch.queue.backoff.ms", "5");
        config.create().expect("a consumer can be made")
    }

    pub(crate) fn ends(&self, consumer: &BaseConsumer, topic: &str) -> BTreeMap<i32, i64> {
        let count = crate::process::eventually(&format!("topic {topic} is known"), PATIENCE, || self.partitions(topic));
        let end = |partition| {
            crate::process::eventually(&format!("the end of {topic}/{partition}"), PATIENCE, || {
                let marks = consumer.fetch_watermarks(topic, partition, Duration::from_secs(5));
                marks.map(|(_, end)| (partition, end)).map_err(|e| e.to_string())
            })
        };
        (0..count).map(end).collect()
    }
}

fn send(producer: &BaseProducer<Deliveries>, topic: &str, partition: Option<i32>, record: &Record) {
    let mut next = BaseRecord::<[u8], [u8]>::to(topic);
    next.key = record.key.as_deref();
    next.payload = record.value.as_deref();
    next.partition = partition;
    next.timestamp = (record.timestamp != WallMs::default()).then_some(record.timestamp.0);
    if !record.headers.is_empty() {
        let headers = record.headers.iter().fold(OwnedHeaders::new(), |headers, h| {
            let key = std::str::from_utf8(&h.name).expect("a test names headers in UTF-8");
            headers.insert(KafkaHeader { key, value: Some(&h.value[..]) })
        });
        next.headers = Some(headers);
    }
    while let Err((error, refused)) = producer.send(next) {
        let full = matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull));
        assert!(full, "produce to {topic}: {error}");
        producer.poll(Duration::from_millis(5));
        next = refused;
    }
}

/// A message with bytes of its own.
pub(crate) fn stored(message: &BorrowedMessage<'_>) -> Stored {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        headers.iter().map(|h| Header::new(h.key, Bytes::copy_from_slice(h.value.unwrap_or_default()))).collect()
    });
    let record = Record {
        key: message.key().map(Bytes::copy_from_slice),
        value: message.payload().map(Bytes::copy_from_slice),
        headers,
        timestamp: WallMs(message.timestamp().to_millis().unwrap_or_default()),
    };
    Stored { partition: Partition(message.partition()), offset: Offset(message.offset()), record }
}
