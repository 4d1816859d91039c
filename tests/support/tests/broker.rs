//! The test broker itself: what every Kafka test relies on. Never tests the daemon.

use bulkhead_core::record::Header;
use bulkhead_testkit::kafka::Kafka;
use bulkhead_testkit::topics::{Isolation, text};

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
