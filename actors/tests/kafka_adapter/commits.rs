//! What a commit costs, and what it makes visible.

use crate::harness::{closing, committed_texts, fill, join, log, outgoing, position, ready, topic, unique};
use bulkhead_actors::log::{Delivery, PublishError};
use bulkhead_core::ids::Partition;
use bulkhead_testkit::kafka::Kafka;
use std::time::{Duration, Instant};

/// rdkafka's own flush waits in slots of 100 ms: without the drain every commit would take at least that long.
#[test]
fn a_commit_of_one_record_has_no_plateau() {
    let log = log(Kafka::shared());
    let (source, output) = (topic(&log, "in", 1), topic(&log, "out", 1));
    let name = unique("group");
    let (group, _) = join(&log, &name, &source, 1);
    let mut publisher = ready(&*group, 0);
    let mut spans: Vec<Duration> = (1..=40)
        .map(|i| {
            let began = Instant::now();
            publisher.begin().unwrap();
            publisher.produce(&outgoing(&output, 0, i.to_string())).unwrap();
            publisher.commit(&closing(0, i)).unwrap();
            began.elapsed()
        })
        .collect();
    spans.sort();
    println!("commit of one record: p10 {:?}, p50 {:?}, p90 {:?}", spans[4], spans[20], spans[36]);
    assert!(spans[10] < Duration::from_millis(90), "three of four commits take {:?} and more", spans[10]);
    assert_eq!(position(&log, &name, &source, 0), Some(40));
    assert_eq!(committed_texts(&log, &output, 0).len(), 40);
    group.leave().unwrap();
}

/// Nothing may end a transaction but its own commit: what was not drained, refused or aborted leaves no trace.
#[test]
fn an_aborted_transaction_can_be_published_again() {
    let log = log(Kafka::shared());
    let (source, output) = (topic(&log, "in", 1), topic(&log, "out", 1));
    let name = unique("group");
    let (group, _) = join(&log, &name, &source, 1);
    let mut publisher = ready(&*group, 0);
    for round in 0..3 {
        publisher.begin().unwrap();
        for i in 0..1000 {
            publisher.produce(&outgoing(&output, 0, format!("{round}-{i}"))).unwrap();
        }
        publisher.abort().unwrap();
    }
    publisher.begin().unwrap();
    publisher.produce(&outgoing(&output, 0, "kept")).unwrap();
    publisher.commit(&closing(0, 7)).unwrap();
    assert_eq!(committed_texts(&log, &output, 0), ["kept"]);
    assert_eq!(publisher.committed(&[Partition(0)]).unwrap()[0].map(|p| p.0), Some(7));
    group.leave().unwrap();
}

/// A topic that is not there is no record's fault, and no new producer helps.
#[test]
fn a_missing_topic_is_fatal() {
    let log = log(Kafka::shared());
    let source = topic(&log, "in", 1);
    let (group, _) = join(&log, &unique("group"), &source, 1);
    let mut publisher = ready(&*group, 0);
    publisher.begin().unwrap();
    let missing = unique("missing").into();
    let sent = publisher.produce(&outgoing(&missing, 0, "x")).and_then(|()| publisher.commit(&closing(0, 1)));
    assert!(matches!(sent, Err(PublishError::Fatal(_))), "{sent:?}");
    group.leave().unwrap();
}

#[test]
fn at_least_once_commits_the_position_last() {
    let log = log(Kafka::shared());
    let (source, output) = (topic(&log, "in", 1), topic(&log, "out", 1));
    let name = unique("group");
    fill(&log, &source, 1, 10);
    let (group, _) = join(&log, &name, &source, 1);
    let mut publisher = group.publisher(0, Delivery::AtLeastOnce).unwrap();
    publisher.rebuild().unwrap();
    publisher.begin().unwrap();
    publisher.produce(&outgoing(&output, 0, "a")).unwrap();
    let mut end = closing(0, 10);
    end.segments.push(outgoing(&output, 0, "segment"));
    publisher.commit(&end).unwrap();
    assert_eq!(committed_texts(&log, &output, 0), ["a", "segment"]);
    assert_eq!(position(&log, &name, &source, 0), Some(10));
    group.leave().unwrap();
}
