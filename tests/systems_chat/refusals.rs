//! Bad input of each route, by name; and topics with another retention than the config's.

use crate::rig::{On, PATIENCE, Rig, ask, client, ended, post};
use crate::socket::Socket;
use bulkhead_testkit::daemon::Daemon;
use bulkhead_testkit::process::eventually;
use serde_json::{Value, json};
use std::process::{Command, Output};

fn refused(response: reqwest::blocking::Response, status: u16, code: &str) {
    let is = response.status().as_u16();
    let problem: Value = response.json().expect("a problem document");
    assert_eq!((is, problem["type"].as_str()), (status, Some(&*format!("urn:bulkhead:problem:{code}"))), "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{problem}");
}

fn get(daemon: &Daemon, path: &str) -> reqwest::blocking::Response {
    client().get(daemon.url(path)).send().expect("answered")
}

fn send(daemon: &Daemon, path: &str, body: &str) -> reqwest::blocking::Response {
    client().post(daemon.url(path)).body(body.to_owned()).send().expect("answered")
}

#[test]
fn bad_input_is_refused_by_name() {
    let rig = Rig::new(On::Embedded, &[("messages = { types", "messages = { groups_max = 1, types")]);
    let daemon = rig.start();
    refused(send(&daemon, "/messages", "no JSON"), 400, "bad-query");
    refused(send(&daemon, "/messages", "{}"), 400, "bad-query");
    refused(send(&daemon, "/messages", "{\"text\": 7}"), 400, "bad-query");
    refused(send(&daemon, "/messages", "{\"text\": \"x\", \"role\": \"system\"}"), 400, "bad-query");
    refused(post(&daemon, None, " \n"), 400, "empty-query");
    refused(post(&daemon, None, &"x".repeat(8 * 1024 + 1)), 413, "query-too-long");
    refused(post(&daemon, None, &"x".repeat(64 * 1024)), 413, "body-too-large");
    refused(post(&daemon, Some("forged"), "Hello"), 403, "unknown-session");
    refused(get(&daemon, "/messages"), 400, "bad-message-request");
    refused(get(&daemon, "/messages?type=secret"), 400, "bad-message-request");
    refused(get(&daemon, "/messages?type=query&group=a%20b"), 400, "bad-message-request");
    refused(get(&daemon, "/messages?type=query&ack=never"), 400, "bad-message-request");
    refused(get(&daemon, "/messages?type=query&ack=manual&lease=0"), 400, "bad-message-request");
    refused(get(&daemon, "/messages?type=query&ack=manual&lease=99999"), 400, "bad-message-request");
    refused(send(&daemon, "/messages/ack", "{}"), 400, "bad-message-request");
    refused(send(&daemon, "/messages/ack", "{\"lease\": \"x\"}"), 404, "unknown-lease");
    refused(send(&daemon, "/messages/ack", &"x".repeat(2_000)), 413, "body-too-large");
    refused(get(&daemon, "/messages/forged"), 404, "unknown-job");
    refused(client().put(daemon.url("/messages")).send().expect("answered"), 405, "method-not-allowed");
    refused(get(&daemon, "/ws/chat"), 426, "websocket-needed");
    assert_eq!(get(&daemon, "/messages?type=query&group=one").status(), 204);
    refused(get(&daemon, "/messages?type=query&group=two"), 503, "overloaded");
    for (query, headers, status, code) in [
        ("?session=forged", &[][..], 403, "unknown-session"),
        ("?epoch=x&offset=y", &[], 400, "bad-position"),
        ("?offset=1", &[], 400, "bad-position"),
        ("", &[("Origin", "https://elsewhere.example")], 403, "foreign-origin"),
    ] {
        let answer = Socket::try_open(&daemon.url(&format!("/ws/chat{query}")), headers);
        let (is, problem) = answer.err().expect("refused");
        assert!(is == status && problem.contains(code), "{query}: {is} {problem}");
    }
    let own = daemon.url("").trim_end_matches('/').to_owned();
    eventually("a page of the gateway's own opens a socket", PATIENCE, || {
        Socket::try_open(&daemon.url("/ws/chat"), &[("Origin", &own)]).map(drop).map_err(|(_, text)| text)
    });
}

#[test]
fn bad_words_are_refused_and_the_reason_does_not_repeat_them() {
    let rig = Rig::new(On::Embedded, &[]);
    let daemon = rig.start();
    let job = ended(&daemon, &ask(&daemon, None, "what the f.u.c.k is a lane"));
    assert_eq!((&job["status"], &job["error"]["code"]), (&json!("failed"), &json!("profanity")), "{job}");
    assert!(
        job["error"]["message"].as_str().is_some_and(|message| !message.contains('f') || !message.contains("f.u")),
        "{job}"
    );
}

#[test]
fn messages_are_for_those_who_know_the_token() {
    let rig = Rig::new(On::Embedded, &[("messages = { types", "messages = { token = \"${MESSAGES_TOKEN}\", types")]);
    let daemon = rig.start_as("data", &[("MESSAGES_TOKEN", "a token of this test")]);
    refused(get(&daemon, "/messages?type=query"), 403, "token-needed");
    let with = |token: &str| {
        let request = client().get(daemon.url("/messages?type=query")).bearer_auth(token);
        request.send().expect("answered").status().as_u16()
    };
    assert_eq!((with("another token of it"), with("a token of this test")), (403, 204));
    let (_, api) = daemon.get_json(&daemon.url("/openapi.json"));
    assert_eq!(api["components"]["securitySchemes"]["token"]["scheme"], json!("bearer"));
    assert!(api["paths"]["/messages"]["get"]["security"][0].get("token").is_some(), "{api}");
    assert!(api["paths"]["/messages"]["post"].get("security").is_none(), "queries are for everybody");
}

fn topics(rig: &Rig, apply: bool) -> Output {
    let spec = rig.spec("data");
    let mut command = Command::new(&spec.binary);
    command.arg("topics").arg("--config").arg(&spec.config).arg("--data").arg(&spec.data);
    if let Some(brokers) = &spec.kafka {
        command.args(["--kafka", brokers]);
    }
    if apply {
        command.arg("--apply");
    }
    command.output().expect("it runs")
}

/// A topic with another retention is told at the start, by `check --connect` and by `topics`, and changed only by `--apply`.
fn a_topic_with_another_retention_is_told_and_changed_only_on_demand(on: On) {
    let rig = Rig::new(on, &[]);
    let daemon = rig.start();
    daemon.sigterm();
    assert!(daemon.wait_exit(PATIENCE).success());
    let file = rig.config().join("pipelines/chat.toml");
    let text = std::fs::read_to_string(&file).expect("it is there");
    let query = format!("topic = \"{}\", partitions = 1", rig.topic("query"));
    assert!(text.contains(&query), "{text}");
    let changed = text.replacen("retention = \"2m\"", "retention = \"5m\"", 1);
    std::fs::write(&file, changed).expect("written");

    let daemon = rig.start();
    assert!(daemon.output().contains("bulkhead topics --apply"), "it is told at the start: {}", daemon.output());
    daemon.sigterm();
    assert!(daemon.wait_exit(PATIENCE).success());
    let told = |apply| String::from_utf8_lossy(&topics(&rig, apply).stdout).into_owned();
    let line = format!("{}: 1 partitions, keeps records for 2m; the config says 5m", rig.topic("query"));
    assert!(told(false).contains(&line), "{}", told(false));
    assert!(told(true).contains("changed to 5m"));
    let line = format!("{}: 1 partitions, keeps records for 5m\n", rig.topic("query"));
    assert!(told(false).contains(&line), "{}", told(false));
    let line = format!("{}: 1 partitions, keeps records for 2m\n", rig.topic("answer"));
    assert!(told(false).contains(&line), "the others are as they were: {}", told(false));
}

#[test]
fn retentions_on_the_embedded_log() {
    a_topic_with_another_retention_is_told_and_changed_only_on_demand(On::Embedded);
}

#[test]
fn retentions_on_kafka() {
    a_topic_with_another_retention_is_told_and_changed_only_on_demand(On::Kafka);
}
