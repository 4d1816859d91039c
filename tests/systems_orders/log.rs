//! What the log tells of an order, to a person who wants to see Kafka work.

use crate::{Orders, PATIENCE, ended, order, post};
use bulkhead_testkit::process::eventually;
use serde_json::Value;

/// The lines of `bulkhead.log` that tell of this record, in their order.
fn told(orders: &Orders, id: &str, last: &str) -> Vec<Value> {
    eventually("the log tells of the record's end", PATIENCE, || {
        let text = orders.log_file();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let lines: Vec<Value> = lines.filter(|line| line["id"] == id).collect();
        let messages: Vec<_> = lines.iter().filter_map(|line| line["message"].as_str()).collect();
        if messages.last() == Some(&last) { Ok(lines) } else { Err(format!("{messages:?}")) }
    })
}

/// Numbers and texts alike, as text.
fn field(line: &Value, name: &str) -> String {
    match &line[name] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[test]
fn each_orders_way_is_told_with_its_place_its_key_and_its_attempt() {
    let orders = Orders::new("logged");
    let daemon = orders.start(None);
    let good = post(&daemon, &order("ada"), None).id();
    let bad = post(&daemon, &order("jeff"), None).id();
    ended(&daemon, &good);
    ended(&daemon, &bad);

    let lines = told(&orders, &good, "result, committed");
    let messages: Vec<_> = lines.iter().map(|line| field(line, "message")).collect();
    assert_eq!(messages, ["produced", "consumed", "processing", "result, committed"]);
    for line in &lines {
        let place = (field(line, "partition"), field(line, "offset"), field(line, "key"));
        let first = (field(&lines[0], "partition"), "0".to_owned(), "ada".to_owned());
        assert_eq!(place, first, "the same record: {line}");
    }
    assert_eq!((field(&lines[0], "topic"), field(&lines[1], "group")), ("logged".into(), "logged-group".into()));
    assert_eq!((field(&lines[2], "stage"), field(&lines[2], "attempt")), ("process".into(), "1".into()));
    assert_eq!(field(&lines[3], "position"), "1", "the group goes on behind it");

    let lines = told(&orders, &bad, "dead letter, committed");
    let last = lines.last().expect("at least one");
    assert_eq!((field(last, "topic"), field(last, "key")), ("logged.dlq".into(), "jeff".into()));
    assert!(field(last, "fault").contains("simulated_failure"), "{last}");

    // The console tells the same, to people.
    let console = daemon.output();
    let shown = console.lines().filter(|line| line.contains(&good)).count();
    assert_eq!(shown, 4, "{console}");
}
