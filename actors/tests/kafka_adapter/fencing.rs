//! Who may commit: a publisher that was replaced may not, and what it left open is settled.

use crate::harness::{
    PATIENCE, Told, closing, committed_texts, join, log, outgoing, position, ready, spec, topic, unique,
};
use bulkhead_actors::log::{Log, PublishError};
use bulkhead_core::ids::Partition;
use bulkhead_testkit::kafka::Kafka;
use bulkhead_testkit::process::eventually;
use bulkhead_testkit::topics::Isolation;
use std::sync::Arc;

/// As after a SIGKILL: the first publisher never ends its transaction; its successor has the same id.
#[test]
fn a_successor_fences_an_open_transaction() {
    let (old, new) = (log(Kafka::shared()), log(Kafka::shared()));
    let (source, output) = (topic(&old, "in", 1), topic(&old, "out", 1));
    let name = unique("group");
    let (group, _) = join(&old, &name, &source, 1);
    let mut zombie = ready(&*group, 0);
    zombie.begin().unwrap();
    zombie.produce(&outgoing(&output, 0, "zombie")).unwrap();

    let (other, _) = join(&new, &unique("other"), &source, 1);
    drop(other);
    let successor = new.join(&spec(&name, &source, "test"), Arc::new(Told::default()));
    let successor = successor.unwrap();
    let mut publisher = ready(&*successor, 0);
    let late = zombie.commit(&closing(0, 5));
    assert!(matches!(late, Err(PublishError::Unknown(_))), "{late:?}");
    assert_eq!(publisher.committed(&[Partition(0)]).unwrap(), [None]);
    publisher.begin().unwrap();
    publisher.produce(&outgoing(&output, 0, "successor")).unwrap();
    publisher.commit(&closing(0, 5)).unwrap();
    assert_eq!(committed_texts(&new, &output, 0), ["successor"]);
    assert_eq!(position(&new, &name, &source, 0), Some(5));
    successor.leave().unwrap();
    group.leave().unwrap();
}

/// What nobody may see yet does not count: `end` is the last stable offset, not the log's own end.
#[test]
fn an_extent_ends_before_an_open_transaction_and_leftovers_can_be_fenced() {
    let log = log(Kafka::shared());
    let (source, output) = (topic(&log, "in", 1), topic(&log, "out", 1));
    let name = unique("group");
    let (group, _) = join(&log, &name, &source, 1);
    let mut publisher = ready(&*group, 7);
    publisher.begin().unwrap();
    publisher.produce(&outgoing(&output, 0, "committed")).unwrap();
    publisher.commit(&closing(0, 1)).unwrap();
    // The mark of a transaction comes a little after its commit: one record, one mark.
    stable_end(&log, &output, 2);

    let mut leftover = ready(&*group, 8);
    leftover.begin().unwrap();
    leftover.produce(&outgoing(&output, 0, "open")).unwrap();
    // Its record is in the log once another transaction's, produced after it on the same connection set, is.
    publisher.begin().unwrap();
    publisher.produce(&outgoing(&output, 0, "later")).unwrap();
    publisher.commit(&closing(0, 2)).unwrap();
    eventually("the open record is in the log", PATIENCE, || {
        let ends = Kafka::shared().end_offsets(&output, Isolation::Uncommitted);
        if ends[&0] >= 5 { Ok(()) } else { Err(format!("{ends:?}")) }
    });
    let open = log.extent(&output, Partition(0)).unwrap();
    assert!(open.end.0 < 5, "{open:?}");

    log.fence_leftovers(&name, "test", 8..9).unwrap();
    stable_end(&log, &output, 6);
    assert_eq!(committed_texts(&log, &output, 0), ["committed", "later"]);
    let fenced = leftover.commit(&closing(0, 3));
    assert!(matches!(fenced, Err(PublishError::Unknown(_))), "{fenced:?}");
    group.leave().unwrap();
}

fn stable_end(log: &dyn Log, topic: &str, end: i64) {
    eventually("the stable end moves", PATIENCE, || {
        let extent = log.extent(topic, Partition(0)).unwrap();
        if extent.start.0 == 0 && extent.end.0 == end { Ok(()) } else { Err(format!("{extent:?}")) }
    });
}
