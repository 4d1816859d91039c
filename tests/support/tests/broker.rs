//! The test broker itself: what every Kafka test relies on. Never tests the daemon.

use bulkhead_core::audit::Violation;
use bulkhead_core::record::{Header, ID_HEADER};
use bulkhead_testkit::audit::Audited;
use bulkhead_testkit::kafka::Kafka;
use bulkhead_testkit::topics::{Isolation, text};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header as KafkaHeader, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use std::time::Duration;

#[test]
fn a_topic_holds_what_was_produced_and_survives_a_stop_and_a_kill() {
    let kafka = Kafka::start(1);
    kafka.create_topic("t", 3);
    let records = (0..1_000).map(|n| {
        let mut record = text(&format!("key-{}", n % 7), &format!("value-{n}"));
        record.headers.push(Header::new("n", n.to_string()));
        (Some(n % 3), record)
    });
    assert_eq!(kafka.produce("t", records), 1_000);
    let before = kafka.read_topic("t", Isolation::Committed);
    assert_eq!(before.len(), 1_000);
    let first = before.iter().find(|s| s.partition.0 == 1).expect("partition 1 has records");
    assert_eq!((first.record.payload(), first.record.header("n").map(|v| &v[..])), (&b"value-1"[..], Some(&b"1"[..])));

    let bootstrap = kafka.bootstrap();
    kafka.stop();
    kafka.start_again();
    kafka.kill();
    kafka.start_again();
    assert_eq!(kafka.bootstrap(), bootstrap);
    let by_place = |mut records: Vec<_>| {
        records.sort_by_key(|s: &bulkhead_testkit::topics::Stored| (s.partition, s.offset));
        records
    };
    assert_eq!(by_place(kafka.read_topic("t", Isolation::Uncommitted)), by_place(before));
    assert!(kafka.committed("nobody", "t").is_empty());
}

#[test]
fn three_nodes_go_on_without_one() {
    let kafka = Kafka::start(3);
    kafka.create_topic("t", 3);
    kafka.kill_node(1);
    assert_eq!(kafka.produce("t", (0..100).map(|n| (Some(n % 3), text("k", "v")))), 100);
    kafka.start_node(1);
    assert_eq!(kafka.read_topic("t", Isolation::Committed).len(), 100);
}

/// Copies `in` to `out` in one transaction with the group's positions, as a pipeline would.
fn copy(kafka: &Kafka, group: &str, letters: &[usize]) {
    let producer: BaseProducer =
        kafka.client().set("transactional.id", "copy").create().expect("a producer can be made");
    let consumer: BaseConsumer = kafka.client().set("group.id", group).create().expect("a consumer can be made");
    producer.init_transactions(Duration::from_secs(30)).expect("a coordinator");
    producer.begin_transaction().expect("no transaction is open");
    let mut positions = TopicPartitionList::new();
    for (n, stored) in kafka.read_topic("in", Isolation::Committed).iter().enumerate() {
        let topic = if letters.contains(&n) { "dlq" } else { "out" };
        let id = stored.record.header(ID_HEADER).expect("every source record has an id").clone();
        let headers = OwnedHeaders::new().insert(KafkaHeader { key: ID_HEADER, value: Some(&id[..]) });
        let record = BaseRecord::to(topic).partition(0).key("k").payload(stored.record.payload()).headers(headers);
        producer.send(record).map_err(|(e, _)| e).expect("the queue has room");
        let (partition, position) = (stored.partition.0, Offset::Offset(stored.offset.0 + 1));
        match positions.find_partition("in", partition) {
            Some(mut entry) => entry.set_offset(position).expect("a position is an offset"),
            None => positions.add_partition_offset("in", partition, position).expect("a position is an offset"),
        }
    }
    let metadata = consumer.group_metadata().expect("a consumer with a group has metadata");
    let patience = Duration::from_secs(30);
    producer.send_offsets_to_transaction(&positions, &metadata, patience).expect("positions are taken");
    producer.commit_transaction(patience).expect("the transaction commits");
}

#[test]
fn the_auditor_passes_a_copy_and_finds_what_is_done_to_it() {
    let kafka = Kafka::start(1);
    for (topic, partitions) in [("in", 2), ("out", 1), ("dlq", 1)] {
        kafka.create_topic(topic, partitions);
    }
    let record = |n: i32| {
        let mut record = text("k", &n.to_string());
        record.headers.push(Header::new(ID_HEADER, format!("id-{n}")));
        record
    };
    kafka.produce("in", (0..50).map(|n| (Some(n % 2), record(n))));
    let audited = Audited::new("in", "g", "out", "dlq");
    let lost = kafka.audit(&audited, Vec::new());
    assert_eq!(lost.iter().filter(|v| matches!(v, Violation::Lost { .. })).count(), 50);
    assert_eq!(lost.iter().filter(|v| matches!(v, Violation::Position { .. })).count(), 2);

    let follower = kafka.follow(&["out", "dlq"]);
    copy(&kafka, "g", &[3, 4]);
    kafka.wait_done(&audited, Duration::from_secs(30));
    kafka.assert_clean(&audited, vec![follower]);
    let rows = kafka.describe_group("g");
    assert_eq!(rows.iter().map(|r| (r.position, r.lag)).collect::<Vec<_>>(), [(Some(25), Some(0)); 2]);

    kafka.produce("out", [(Some(0), record(0)), (Some(0), record(99))]);
    let found = kafka.audit(&audited, Vec::new());
    assert!(found.iter().any(|v| matches!(v, Violation::Doubled { .. })), "{found:?}");
    assert!(found.iter().any(|v| matches!(v, Violation::Spurious { .. })), "{found:?}");
    assert!(found.iter().any(|v| matches!(v, Violation::OutOfOrder { .. })), "{found:?}");
}
