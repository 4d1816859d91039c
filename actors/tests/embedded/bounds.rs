//! Retention, and what may wait for the disk.

use super::open;
use crate::contract::{PATIENCE, TURN, fill, join, now, outgoing, read_all, texts};
use bulkhead_actors::io::embedded::{EmbeddedLog, EmbeddedOptions};
use bulkhead_actors::log::{Closing, Extent, Log, LogError, PublishError, TopicSpec};
use bulkhead_core::ids::{Partition, Position};
use bulkhead_core::time::WallMs;
use futures::executor::block_on;
use futures::future::join_all;
use std::time::{Duration, Instant};

const HOUR: Duration = Duration::from_secs(3600);

fn create(log: &dyn Log, retention: Option<Duration>) {
    let spec = TopicSpec { name: "t".to_owned(), partitions: 1, replicas: 1, retention };
    log.create_topics(&[spec]).unwrap();
}

fn extent(log: &dyn Log) -> (i64, i64) {
    let Extent { start, end } = log.extent("t", Partition(0)).unwrap();
    (start.0, end.0)
}

fn in_hours(hours: i64) -> WallMs {
    WallMs(now().0 + hours * 3_600_000)
}

#[test]
fn what_is_past_its_retention_goes_and_offsets_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    create(&log, Some(3 * HOUR));
    let producer = log.producer().unwrap();
    let sends = (0..5_000).map(|i| producer.send(outgoing(&"t".into(), 0, &i.to_string())));
    assert!(block_on(join_all(sends)).iter().all(Result::is_ok));
    assert!(!log.retain(in_hours(2)).unwrap());
    assert_eq!(extent(&log), (0, 5_000), "nothing is old enough");
    assert!(log.retain(in_hours(4)).unwrap(), "a turn is bounded");
    assert_eq!(extent(&log), (2_000, 5_000));
    assert_eq!(read_all(&log, &"t".into(), 0)[0].offset.0, 2_000);
    let member = join(&log, "g", "t", 1);
    assert_eq!(member.take(&|_| true, 1)[0].1.offset.0, 2_000, "what is gone is passed over");
    while log.retain(in_hours(4)).unwrap() {}
    assert_eq!(extent(&log), (5_000, 5_000));
    drop(log);
    let log = open(dir.path()).unwrap();
    assert_eq!(extent(&log), (5_000, 5_000), "an empty partition still knows where it ends");
    fill(&log, &"t".into(), 0, &["new"]);
    assert_eq!(extent(&log), (5_000, 5_001));
    assert_eq!(texts(&read_all(&log, &"t".into(), 0)), ["new"]);
}

#[test]
fn without_a_retention_nothing_goes() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    create(&log, None);
    fill(&log, &"t".into(), 0, &["a"]);
    assert!(!log.retain(in_hours(1_000_000)).unwrap());
    assert_eq!(extent(&log), (0, 1));
}

#[test]
fn the_log_deletes_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions { retain_every: Duration::from_millis(5), ..EmbeddedOptions::default() };
    let log = EmbeddedLog::open(dir.path(), &options).unwrap();
    create(&log, Some(Duration::from_millis(1)));
    fill(&log, &"t".into(), 0, &["a", "b"]);
    let deadline = Instant::now() + PATIENCE;
    while extent(&log) != (2, 2) {
        assert!(Instant::now() < deadline, "{:?}", extent(&log));
        std::thread::yield_now();
    }
}

#[test]
fn too_many_waiting_sends_are_refused_and_the_others_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let log =
        EmbeddedLog::open(dir.path(), &EmbeddedOptions { waiting_max: 10, ..EmbeddedOptions::default() }).unwrap();
    create(&log, None);
    let producer = log.producer().unwrap();
    let sends: Vec<_> = (0..5_000).map(|i| producer.send(outgoing(&"t".into(), 0, &i.to_string()))).collect();
    let answers = block_on(join_all(sends));
    let taken: Vec<_> = (0..5_000).zip(&answers).filter(|(_, a)| a.is_ok()).map(|(i, _)| i.to_string()).collect();
    assert!(answers.iter().all(|a| matches!(a, Ok(_) | Err(LogError::Unavailable(_)))));
    assert!(taken.len() < 5_000, "the queue is bounded");
    assert_eq!(texts(&read_all(&log, &"t".into(), 0)), taken);
}

#[test]
fn a_transaction_past_its_bytes_is_void() {
    let dir = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions { transaction_bytes_max: 1_000, ..EmbeddedOptions::default() };
    let log = EmbeddedLog::open(dir.path(), &options).unwrap();
    create(&log, None);
    let member = join(&log, "g", "t", 1);
    let mut publisher = member.publisher(0);
    publisher.begin().unwrap();
    publisher.produce(&outgoing(&"t".into(), 0, &"x".repeat(600))).unwrap();
    let over = publisher.produce(&outgoing(&"t".into(), 0, &"x".repeat(600)));
    assert!(matches!(over, Err(PublishError::Void(_))), "{over:?}");
    assert!(matches!(publisher.commit(&Closing::default()), Err(PublishError::Void(_))), "spoilt until it is aborted");
    publisher.abort().unwrap();
    member.commit(0, Position(0));
    assert_eq!(extent(&log), (0, 0));
}

#[test]
fn a_read_takes_one_record_however_large_and_no_more_than_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(dir.path(), &EmbeddedOptions { read_bytes_max: 1_000, ..EmbeddedOptions::default() });
    let log = log.unwrap();
    create(&log, None);
    fill(&log, &"t".into(), 0, &["x".repeat(5_000).as_str(), "a", "b", "x".repeat(990).as_str()]);
    let member = join(&log, "g", "t", 1);
    let mut sizes = Vec::new();
    while sizes.iter().sum::<usize>() < 4 {
        sizes.extend(member.group.poll(&|_| true, 100, TURN).unwrap().iter().map(|f| f.records.len()));
    }
    assert_eq!(sizes, [1, 2, 1]);
}
