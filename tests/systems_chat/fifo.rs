//! The topics as queues: strictly in order, none skipped, none twice in silence; through kills, on both logs.

use crate::rig::{On, Rig, ack, ask, client, ended, next, next_one};
use bulkhead_testkit::process::eventually;
use serde_json::{Value, json};

fn texts(daemon: &bulkhead_testkit::daemon::Daemon, query: &str) -> Vec<String> {
    std::iter::from_fn(|| next(daemon, query))
        .map(|message| message["value"]["text"].as_str().expect("text").to_owned())
        .collect()
}

fn in_order_once_a_group_and_through_a_sigkill(on: On) {
    let rig = Rig::new(on, &[]);
    let daemon = rig.start();
    let asked: Vec<Value> = (0..4).map(|n| ask(&daemon, None, &format!("Question {n}"))).collect();
    asked.iter().for_each(|asked| drop(ended(&daemon, asked)));
    assert_eq!(next_one(&daemon, "type=query")["value"]["text"], "Question 0");
    let second = next_one(&daemon, "type=query&group=default&ack=auto");
    assert_eq!((&second["value"]["text"], &second["redelivered"]), (&json!("Question 1"), &json!(false)));
    daemon.sigkill();

    let daemon = rig.start();
    assert_eq!(next_one(&daemon, "type=query")["value"]["text"], "Question 2", "what was given is not given again");
    assert_eq!(texts(&daemon, "type=query"), ["Question 3"]);
    assert_eq!(next(&daemon, "type=query"), None, "204");
    let other = std::iter::from_fn(|| next(&daemon, "type=query&group=other"));
    let first = next_one(&daemon, "type=query&group=other");
    let rest: Vec<_> = other.map(|message| message["value"]["text"].clone()).collect();
    assert_eq!((&first["value"]["text"], rest.len()), (&json!("Question 0"), 3), "each group has all of them");
    let answer = next_one(&daemon, "type=answer");
    assert_eq!(answer["id"], asked[0]["jobId"], "answers come in the order of their queries");
}

#[test]
fn queues_keep_order_on_the_embedded_log() {
    in_order_once_a_group_and_through_a_sigkill(On::Embedded);
}

#[test]
fn queues_keep_order_on_kafka() {
    in_order_once_a_group_and_through_a_sigkill(On::Kafka);
}

fn a_lease_loses_nothing_and_tells_of_a_second_delivery(on: On) {
    let rig = Rig::new(on, &[]);
    let daemon = rig.start();
    for n in 0..2 {
        ask(&daemon, None, &format!("Question {n}"));
    }
    let lease = |seconds: u32| format!("type=query&ack=manual&lease={seconds}");
    let first = next_one(&daemon, &lease(1));
    assert_eq!((&first["value"]["text"], &first["redelivered"]), (&json!("Question 0"), &json!(false)));
    let refused = client().get(daemon.url("/messages?type=query")).send().expect("answered");
    assert_eq!(refused.status(), 409, "nobody else is given it, nor the one after it");
    assert!(refused.headers().contains_key("retry-after"));
    // Its reader has crashed: it is given again, and says so.
    let again = eventually("the lease runs out", crate::rig::PATIENCE, || {
        let answer =
            client().get(daemon.url(&format!("/messages?{}", lease(600)))).send().map_err(|e| e.to_string())?;
        if answer.status() == 200 { Ok(answer) } else { Err(answer.status().to_string()) }
    });
    assert_eq!(again.headers()["redelivered"], "true");
    let again: Value = again.json().expect("JSON");
    assert_eq!((&again["value"]["text"], &again["redelivered"]), (&json!("Question 0"), &json!(true)));
    assert_eq!(ack(&daemon, &first), 404, "the first lease is over");
    daemon.sigkill();

    // The daemon knows the lease that another process gave: the reader that still works may acknowledge it.
    let daemon = rig.start();
    eventually("the lease is known", crate::rig::PATIENCE, || match ack(&daemon, &again) {
        204 => Ok(()),
        503 => Err("not served yet".to_owned()),
        status => panic!("{status}"),
    });
    assert_eq!(ack(&daemon, &again), 204, "twice is once");
    let second = next_one(&daemon, &lease(600));
    assert_eq!((&second["value"]["text"], &second["redelivered"]), (&json!("Question 1"), &json!(false)));
    assert_eq!(ack(&daemon, &second), 204);
    assert_eq!(next(&daemon, "type=query"), None);
}

#[test]
fn leases_on_the_embedded_log() {
    a_lease_loses_nothing_and_tells_of_a_second_delivery(On::Embedded);
}

#[test]
fn leases_on_kafka() {
    a_lease_loses_nothing_and_tells_of_a_second_delivery(On::Kafka);
}

/// One daemon of a group serves it; the other says so, and takes over when the first one goes.
#[test]
fn another_daemon_says_that_it_does_not_serve_and_takes_over() {
    let rig = Rig::new(On::Kafka, &[("chat   = { messages = {", "chat   = { messages = { assign_wait = \"1s\",")]);
    let first = rig.start_as("first", &[]);
    for n in 0..3 {
        ask(&first, None, &format!("Question {n}"));
    }
    assert_eq!(next_one(&first, "type=query")["value"]["text"], "Question 0");
    let second = rig.start_as("second", &[]);
    let refused = client().get(second.url("/messages?type=query")).send().expect("answered");
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(refused.json::<Value>().expect("JSON")["type"], "urn:bulkhead:problem:served-elsewhere");
    assert_eq!(next_one(&first, "type=query")["value"]["text"], "Question 1", "the first one goes on");
    first.sigterm();
    assert!(first.wait_exit(crate::rig::PATIENCE).success());
    assert_eq!(next_one(&second, "type=query")["value"]["text"], "Question 2", "where the first one stopped");
}
