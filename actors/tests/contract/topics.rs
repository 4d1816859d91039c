//! Topics and extents.

use super::{PATIENCE, fill, topic, unique};
use bulkhead_actors::log::{Log, LogError, Tail, TopicInfo, TopicSpec};
use bulkhead_core::ids::Partition;
use std::time::Duration;

pub(crate) fn creates_topics_once(log: &dyn Log) {
    let name = unique("once");
    let spec = |partitions| TopicSpec { name: name.clone(), partitions, replicas: 1, retention: None };
    log.create_topics(&[spec(3)]).unwrap();
    assert_eq!(log.topic(&name).unwrap(), Some(TopicInfo { partitions: 3 }));
    log.create_topics(&[spec(5)]).unwrap();
    assert_eq!(log.topic(&name).unwrap(), Some(TopicInfo { partitions: 3 }), "an existing topic is left as it is");
}

pub(crate) fn keeps_records_as_long_as_it_is_told(log: &dyn Log) {
    let name = unique("retention");
    let retention = Some(Duration::from_secs(120));
    log.create_topics(&[TopicSpec { name: name.clone(), partitions: 1, replicas: 1, retention }]).unwrap();
    assert_eq!(log.retention(&name).unwrap(), retention);
    log.set_retention(&name, Duration::from_secs(300)).unwrap();
    assert_eq!(log.retention(&name).unwrap(), Some(Duration::from_secs(300)));
    assert_eq!(log.topic(&name).unwrap(), Some(TopicInfo { partitions: 1 }), "nothing else has changed");
    let asked = log.retention(&unique("missing"));
    assert!(matches!(asked, Err(LogError::Refused(_))), "{asked:?}");
    let changed = log.set_retention(&unique("missing"), Duration::from_secs(1));
    assert!(matches!(changed, Err(LogError::Refused(_))), "{changed:?}");
}

pub(crate) fn tells_of_missing_topics(log: &dyn Log) {
    let name = unique("missing");
    assert_eq!(log.topic(&name).unwrap(), None);
    assert!(log.extent(&name, Partition(0)).is_err());
    let there = topic(log, 1);
    assert!(log.extent(&there, Partition(1)).is_err());
    assert!(matches!(log.extent(&there, Partition(-1)), Err(LogError::Refused(_))));
}

pub(crate) fn begins_empty(log: &dyn Log) {
    let topic = topic(log, 2);
    let empty = log.extent(&topic, Partition(1)).unwrap();
    assert_eq!(empty.start, empty.end);
    let offsets = fill(log, &topic, 1, &["a", "b"]);
    let filled = log.extent(&topic, Partition(1)).unwrap();
    assert_eq!((filled.start, filled.end), (empty.start, offsets[1].next()));
    let other = log.extent(&topic, Partition(0)).unwrap();
    assert_eq!(other.start, other.end, "the other partition has nothing");
    assert!(log.reader(&[Tail { topic, partition: Partition(0), from: None }]).is_ok());
}

pub(crate) fn pings(log: &dyn Log) {
    log.ping(PATIENCE).unwrap();
}
