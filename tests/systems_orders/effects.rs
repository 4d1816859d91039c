//! Effects of orders on a real Kafka: through SIGKILL of the daemon and repeated requests, the auditor counts one for each
//! order, in its customer's partition, and each failed one has its whole story in its dead letter.

use crate::{Orders, PATIENCE, ended, order, post, try_post};
use bulkhead_core::ledger::KeySource;
use bulkhead_core::letter::ERRORS_PREFIX;
use bulkhead_core::partitioner::partition_of;
use bulkhead_core::record::{ID_HEADER, Record};
use bulkhead_testkit::audit::{Audited, id_header};
use bulkhead_testkit::daemon::Daemon;
use bulkhead_testkit::kafka::Kafka;
use bulkhead_testkit::process::eventually;
use bulkhead_testkit::topics::Isolation;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;

const PARTITIONS: i32 = 6;
const ORDERS: usize = 120;
/// After how many accepted orders the daemon is killed.
const KILL_AFTER: usize = 50;

/// A customer for each order; every tenth ends in `f`.
fn customer(number: usize) -> String {
    let ending = if number.is_multiple_of(10) { "f" } else { "" };
    format!("customer-{}{ending}", number % 23)
}

fn key(number: usize) -> String {
    format!("order-{number}")
}

fn header(record: &Record, name: &str) -> String {
    record.header(name).map(|value| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
}

/// Posts all orders, one after the other, until nobody answers.
fn pour(daemon: &Daemon) {
    let (tell, told) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for number in 0..ORDERS {
                match try_post(daemon, &order(&customer(number)).to_string(), Some(&key(number))) {
                    Ok(answer) => assert_eq!(answer.status, 202, "{answer:?}"),
                    Err(_) => return,
                }
                if tell.send(()).is_err() {
                    return;
                }
            }
        });
        for _ in 0..KILL_AFTER {
            told.recv_timeout(PATIENCE).expect("orders are accepted");
        }
        daemon.sigkill();
    });
}

/// Waits until no transaction is open: what a killed daemon left hides what was committed after it.
fn wait_stable(kafka: &Kafka, topic: &str) {
    eventually(&format!("no transaction is open in {topic}"), PATIENCE, || {
        let [all, stable] = [Isolation::Uncommitted, Isolation::Committed].map(|i| kafka.end_offsets(topic, i));
        if all == stable { Ok(()) } else { Err(format!("ends {all:?}, stable {stable:?}")) }
    });
}

#[test]
fn orders_sent_again_after_a_sigkill_have_one_effect_each() {
    let kafka = Kafka::shared();
    let orders = Orders::new("effects");
    let [source, done, dead] = ["", ".processed", ".dlq"].map(|end| format!("{}{end}", orders.name));
    pour(&orders.start(Some(kafka)));

    let daemon = orders.start(Some(kafka));
    let ids: Vec<String> =
        (0..ORDERS).map(|number| post(&daemon, &order(&customer(number)), Some(&key(number))).id()).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ORDERS, "one job for each key");
    for id in &ids {
        ended(&daemon, id);
    }
    let group = format!("{}-group", orders.name);
    let audited = Audited::new(&source, &group, &done, &dead);
    let audited = audited.with_ledger(orders.name, KeySource::Header(ID_HEADER.into()));
    kafka.wait_done(&audited, PATIENCE);
    wait_stable(kafka, &done);
    wait_stable(kafka, &dead);
    kafka.assert_clean(&audited, Vec::new());

    let ids_in = |topic: &str| -> Vec<String> {
        let read = kafka.read_topic(topic, Isolation::Committed);
        let mut ids: Vec<_> = read.iter().map(|stored| id_header(&stored.record).expect("an id")).collect();
        ids.sort_unstable();
        ids
    };
    let expected = |is_failure: bool| -> Vec<String> {
        let of = ids.iter().enumerate().filter(|(number, _)| number.is_multiple_of(10) == is_failure);
        let mut ids: Vec<_> = of.map(|(_, id)| id.clone()).collect();
        ids.sort_unstable();
        ids
    };
    assert_eq!(ids_in(&done), expected(false), "one result an order");
    assert_eq!(ids_in(&dead), expected(true), "one dead letter a failure");
    for stored in kafka.read_topic(&source, Isolation::Committed) {
        let key = stored.record.key.expect("the customer");
        assert_eq!(stored.partition, partition_of(&key, PARTITIONS), "where every Kafka client puts this customer");
    }
    daemon.sigterm();
    assert!(daemon.wait_exit(PATIENCE).success());
}

#[test]
fn a_dead_letter_is_the_order_as_it_came_with_its_whole_story() {
    let kafka = Kafka::shared();
    let orders = Orders::new("letters");
    let daemon = orders.start(Some(kafka));
    let id = post(&daemon, &order("jeff"), Some("k")).id();
    assert_eq!(ended(&daemon, &id)["error"]["code"], "simulated_failure");
    let letters = kafka.read_topic("letters.dlq", Isolation::Committed);
    let [letter] = &letters[..] else { panic!("one dead letter: {letters:?}") };
    let sent = kafka.read_topic("letters", Isolation::Committed);
    let [sent] = &sent[..] else { panic!("one order: {sent:?}") };
    assert_eq!((&letter.record.key, &letter.record.value), (&sent.record.key, &sent.record.value));
    for kept in &sent.record.headers {
        assert!(letter.record.headers.contains(kept), "{kept:?}");
    }
    let names: BTreeMap<&str, String> = [
        ("topic", "letters".to_owned()),
        ("partition", sent.partition.to_string()),
        ("offset", sent.offset.to_string()),
        ("timestamp", sent.record.timestamp.0.to_string()),
        ("group", "letters-group".to_owned()),
        ("pipeline", "letters".to_owned()),
        ("stage", "process".to_owned()),
        ("step", "reject".to_owned()),
        ("class", "poison".to_owned()),
        ("code", "simulated_failure".to_owned()),
        ("message", "simulated failure: the customer's id ends in f".to_owned()),
        ("attempts", "1".to_owned()),
        ("redrive.count", "0".to_owned()),
    ]
    .into();
    for (name, value) in names {
        assert_eq!(header(&letter.record, &format!("{ERRORS_PREFIX}{name}")), value, "{name}");
    }
    for name in ["first.failure.ts", "last.failure.ts", "incarnation"] {
        let text = header(&letter.record, &format!("{ERRORS_PREFIX}{name}"));
        assert!(text.parse::<u64>().is_ok(), "{name}: {text:?}");
    }
    assert_eq!(header(&letter.record, "idempotency-key"), "k");
    let order: Value = serde_json::from_slice(letter.record.payload()).expect("the order");
    assert_eq!(order["customer_id"], "jeff");
}
