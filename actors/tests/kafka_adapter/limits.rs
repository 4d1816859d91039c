//! Sizes: a topic's own limit is kept for records and for the batches that librdkafka builds of them.

use crate::harness::{closing, committed_texts, join, log, outgoing, ready, topic, unique};
use bulkhead_actors::log::{Log, LogError, PublishError};
use bulkhead_testkit::kafka::Kafka;
use std::sync::Arc;

/// 2,000 records make batches of 256 KiB; a topic that takes 20,000 bytes would refuse each as a whole.
#[test]
fn batches_fit_a_topic_that_takes_little() {
    let log = log(Kafka::shared());
    let source = topic(&log, "in", 1);
    let small: Arc<str> = unique("small").into();
    Kafka::shared().create_topic_with(&small, 1, 1, &[("max.message.bytes", "20000")]);
    let (group, _) = join(&log, &unique("group"), &source, 1);
    let mut publisher = ready(&*group, 0);
    publisher.begin().unwrap();
    // The adapter learns of the limit with the first record and asks for a producer that keeps it.
    let first = publisher.produce(&outgoing(&small, 0, "first"));
    assert!(matches!(first, Err(PublishError::Unknown(_))), "{first:?}");
    publisher.rebuild().unwrap();
    publisher.begin().unwrap();
    for i in 0..2000 {
        publisher.produce(&outgoing(&small, 0, format!("{i:0200}"))).unwrap();
    }
    publisher.commit(&closing(0, 1)).unwrap();
    assert_eq!(committed_texts(&log, &small, 0).len(), 2000);

    publisher.begin().unwrap();
    publisher.produce(&outgoing(&small, 0, "fits")).unwrap();
    let large = publisher.produce(&outgoing(&small, 0, "x".repeat(20_000)));
    assert!(matches!(large, Err(PublishError::Refused { index: 1, .. })), "{large:?}");
    publisher.abort().unwrap();
    let most = publisher.record_bytes_max(&small);
    assert!((19_000..20_000).contains(&most), "{most}");
    publisher.begin().unwrap();
    let full = outgoing(&small, 0, "x".repeat(most - 21));
    assert_eq!(full.record.size(), most);
    publisher.produce(&full).unwrap();
    publisher.commit(&closing(0, 2)).unwrap();
    group.leave().unwrap();
}

/// A limit that shrinks behind our back: the broker refuses, the record is named, the rest can be published again.
#[test]
fn a_record_that_the_broker_refuses_is_named() {
    let log = log(Kafka::shared());
    let source = topic(&log, "in", 1);
    let compacted: Arc<str> = unique("compacted").into();
    Kafka::shared().create_topic_with(&compacted, 1, 1, &[("cleanup.policy", "compact")]);
    let (group, _) = join(&log, &unique("group"), &source, 1);
    let mut publisher = ready(&*group, 0);
    publisher.begin().unwrap();
    let keyed = |key: &str| {
        let mut keyed = outgoing(&compacted, 0, "value");
        keyed.record.key = Some(key.to_owned().into());
        keyed
    };
    // A compacted topic takes no record without a key, and the broker refuses the whole batch.
    let records = [keyed("a"), keyed("b"), outgoing(&compacted, 0, "keyless"), keyed("c")];
    let mut publish = || -> Result<(), PublishError> {
        records.iter().try_for_each(|record| publisher.produce(record))?;
        publisher.commit(&closing(0, 1))
    };
    let mut refused = publish();
    if let Err(PublishError::Unknown(_)) = &refused {
        // Not told which one: the next producer sends them one by one.
        publisher.rebuild().unwrap();
        publisher.begin().unwrap();
        refused = records
            .iter()
            .try_for_each(|record| publisher.produce(record))
            .and_then(|()| publisher.commit(&closing(0, 1)));
    }
    assert!(matches!(refused, Err(PublishError::Refused { index: 2, .. })), "{refused:?}");
    publisher.abort().unwrap();
    publisher.begin().unwrap();
    ["a", "b", "c"].iter().for_each(|key| publisher.produce(&keyed(key)).unwrap());
    publisher.commit(&closing(0, 1)).unwrap();
    assert_eq!(committed_texts(&log, &compacted, 0).len(), 3);
    group.leave().unwrap();
}

#[test]
fn single_records_too_large_or_for_no_topic_are_refused() {
    let log = log(Kafka::shared());
    let output = topic(&log, "out", 1);
    let producer = log.producer().unwrap();
    let send = |o| futures::executor::block_on(producer.send(o));
    let large = send(outgoing(&output, 0, "x".repeat(2_000_000)));
    assert!(matches!(large, Err(LogError::Refused(_))), "{large:?}");
    let missing = send(outgoing(&unique("missing").into(), 0, "x"));
    assert!(matches!(missing, Err(LogError::Refused(_))), "{missing:?}");
    let (partition, offset) = send(outgoing(&output, 0, "fits")).unwrap();
    assert_eq!((partition.0, offset.0), (0, 0));
    assert!(log.topic(&unique("missing")).unwrap().is_none(), "asking creates nothing");
}
