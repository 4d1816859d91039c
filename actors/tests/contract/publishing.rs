//! Single records: what comes back, where keys go, many at once.

use super::{header, now, outgoing, read_all, record, send, text, topic};
use bulkhead_actors::log::{Log, LogError, Outgoing};
use bulkhead_core::ids::Partition;
use bulkhead_core::partitioner::partition_of;
use bulkhead_core::record::Record;
use bulkhead_core::time::WallMs;
use bytes::Bytes;
use futures::future::join_all;
use std::collections::BTreeSet;

pub(crate) fn keeps_records_whole(log: &dyn Log) {
    let topic = topic(log, 1);
    let at = WallMs(now().0 - 5_000);
    let headers = vec![header("a", "1"), header("b", ""), header("a", "2")];
    let binary = Bytes::from_static(&[0, 255, 13, 10, 0]);
    let records = [
        Record { key: Some("k".into()), value: Some("v".into()), headers, timestamp: at },
        Record { key: Some("k".into()), value: None, headers: Vec::new(), timestamp: at },
        Record { key: None, value: Some(Bytes::new()), headers: Vec::new(), timestamp: WallMs(at.0 + 1) },
        Record { key: Some(binary.clone()), value: Some(binary), headers: Vec::new(), timestamp: at },
    ];
    for record in &records {
        let outgoing = Outgoing { topic: topic.clone(), partition: Some(Partition(0)), record: record.clone() };
        send(log, outgoing).unwrap();
    }
    let read = read_all(log, &topic, 0);
    assert_eq!(read.iter().map(|r| r.record.clone()).collect::<Vec<_>>(), records);
    assert!(read.windows(2).all(|pair| pair[0].offset < pair[1].offset));
}

pub(crate) fn keys_keep_their_partition(log: &dyn Log) {
    let topic = topic(log, 7);
    for key in ["21", "foobar", "a-little-bit-long-string", "a-little-bit-longer-string", "abc", "", "ключ"] {
        for _ in 0..2 {
            let record = Record { key: Some(key.into()), ..record(key) };
            let (partition, _) = send(log, Outgoing { topic: topic.clone(), partition: None, record }).unwrap();
            assert_eq!(partition, partition_of(key.as_bytes(), 7), "{key:?} goes where Java clients put it");
        }
    }
}

pub(crate) fn keyless_records_land_somewhere(log: &dyn Log) {
    let topic = topic(log, 3);
    for i in 0..6 {
        let outgoing = Outgoing { topic: topic.clone(), partition: None, record: record(&i.to_string()) };
        let (partition, offset) = send(log, outgoing).unwrap();
        let found = read_all(log, &topic, partition.0).into_iter().find(|r| r.offset == offset).unwrap();
        assert_eq!(text(&found), i.to_string());
    }
}

pub(crate) fn answers_many_at_once(log: &dyn Log) {
    let topic = topic(log, 4);
    let producer = log.producer().unwrap();
    let sends = (0..1_000).map(|i| {
        let answer = producer.send(outgoing(&topic, i % 4, &i.to_string()));
        async move { (answer.await.unwrap(), i) }
    });
    let answers = futures::executor::block_on(join_all(sends));
    let places: BTreeSet<_> = answers.iter().map(|(place, _)| *place).collect();
    assert_eq!(places.len(), 1_000, "every record has a place of its own");
    for partition in 0..4 {
        let read = read_all(log, &topic, partition);
        let sent = answers.iter().filter(|((p, _), _)| p.0 == partition);
        let mut sent: Vec<_> = sent.map(|((_, offset), i)| (*offset, i.to_string())).collect();
        sent.sort();
        assert_eq!(read.iter().map(|r| (r.offset, text(r))).collect::<Vec<_>>(), sent);
        let order: Vec<i32> = read.iter().map(|r| text(r).parse().unwrap()).collect();
        assert!(order.is_sorted(), "sends of one producer to one partition keep their order");
    }
}

pub(crate) fn refuses_what_is_too_large(log: &dyn Log) {
    let topic = topic(log, 1);
    let mut large = outgoing(&topic, 0, "");
    large.record.value = Some(vec![7_u8; 64 * 1024 * 1024].into());
    assert!(matches!(send(log, large), Err(LogError::Refused(_))));
    send(log, outgoing(&topic, 0, "small")).unwrap();
    assert_eq!(read_all(log, &topic, 0).len(), 1);
}
