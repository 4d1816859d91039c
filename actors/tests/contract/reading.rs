//! Readers outside of any group.

use super::{PATIENCE, TURN, fill, read_until_caught_up, text, topic};
use bulkhead_actors::log::{Log, Read, Tail};
use bulkhead_core::ids::{Partition, Position};
use std::sync::Arc;
use std::time::Instant;

fn tail(topic: &Arc<str>, partition: i32, from: Option<Position>) -> Tail {
    Tail { topic: topic.clone(), partition: Partition(partition), from }
}

pub(crate) fn reads_from_the_start(log: &dyn Log) {
    let topic = topic(log, 2);
    let offsets = fill(log, &topic, 0, &["a", "b"]);
    fill(log, &topic, 1, &["x"]);
    let mut reader = log.reader(&[tail(&topic, 1, None), tail(&topic, 0, None)]).unwrap();
    let (records, mut caught_up) = read_until_caught_up(&mut *reader, 2);
    caught_up.sort_unstable();
    assert_eq!(caught_up, [0, 1]);
    let of = |t| records.iter().filter(|(u, _)| *u == t).map(|(_, r)| (r.offset, text(r))).collect::<Vec<_>>();
    assert_eq!(of(1), [(offsets[0], "a".to_owned()), (offsets[1], "b".to_owned())]);
    assert_eq!(of(0).len(), 1);
}

pub(crate) fn reads_from_a_position(log: &dyn Log) {
    let topic = topic(log, 1);
    let offsets = fill(log, &topic, 0, &["a", "b", "c"]);
    let mut reader = log.reader(&[tail(&topic, 0, Some(offsets[0].next()))]).unwrap();
    let (records, _) = read_until_caught_up(&mut *reader, 1);
    assert_eq!(records.iter().map(|(_, r)| text(r)).collect::<Vec<_>>(), ["b", "c"]);
    let mut at_end = log.reader(&[tail(&topic, 0, Some(offsets[2].next()))]).unwrap();
    assert_eq!(read_until_caught_up(&mut *at_end, 1), (Vec::new(), vec![0]));
}

pub(crate) fn catches_up_once_a_tail(log: &dyn Log) {
    let topic = topic(log, 3);
    fill(log, &topic, 1, &["a"]);
    let mut reader = log.reader(&[tail(&topic, 0, None), tail(&topic, 1, None), tail(&topic, 2, None)]).unwrap();
    let (records, mut caught_up) = read_until_caught_up(&mut *reader, 3);
    caught_up.sort_unstable();
    assert_eq!((records.len(), caught_up), (1, vec![0, 1, 2]), "empty tails too");
    fill(log, &topic, 0, &["later"]);
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline);
        match reader.read(10, TURN).unwrap().as_slice() {
            [] => {}
            [Read::Record { tail: 0, record }] => break assert_eq!(text(record), "later"),
            other => panic!("only the record that came later: {other:?}"),
        }
    }
}

pub(crate) fn sees_what_comes_later(log: &dyn Log) {
    let topic = topic(log, 1);
    let mut reader = log.reader(&[tail(&topic, 0, None)]).unwrap();
    read_until_caught_up(&mut *reader, 1);
    for round in 0..20 {
        fill(log, &topic, 0, &[&round.to_string()]);
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while seen.is_empty() {
            assert!(Instant::now() < deadline);
            seen = reader.read(10, PATIENCE).unwrap();
        }
        let [Read::Record { tail: 0, record }] = seen.as_slice() else { panic!("one record: {seen:?}") };
        assert_eq!(text(record), round.to_string());
    }
}
