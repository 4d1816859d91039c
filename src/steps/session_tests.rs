//! Conversations in the data directory: in order, bounded, once a record, each session by itself.

use super::super::CallLimits;
use super::super::testing::context_in;
use super::*;
use bulkhead_core::ids::{Offset, Partition};
use bulkhead_core::record::{Header, ID_HEADER};
use bulkhead_core::time::WallMs;
use std::path::Path;
use std::time::Duration;

fn config(action: SessionAction, turns_max: u32) -> SessionConfig {
    SessionConfig {
        action,
        redis: None,
        history: history(),
        query: query(),
        answer: answer(),
        turns_max,
        text_max: Size(16),
        ttl: ttl(),
        sessions_max: 100,
    }
}

fn step(data: &Path, action: SessionAction) -> Box<dyn Step> {
    let call = CallLimits { run_records_max: 1, timeout: Duration::from_secs(30), emit_max: 100 };
    let context = StepContext { call, pipeline: "chat", source: "query", data, ..context_in(data) };
    config(action, 2).factory(context).build().expect("the store opens")
}

fn record(session: &str, n: i64, value: Value) -> Record {
    Record {
        key: Some(session.to_owned().into()),
        value: Some(value.to_string().into()),
        headers: vec![Header::new(ID_HEADER, format!("{session}-{n}"))],
        timestamp: WallMs(n),
    }
}

fn run(step: &mut dyn Step, record: &Record) -> Result<Value, Fault> {
    let origin = Origin { partition: Partition(0), offset: Offset(record.timestamp.0), attempt: 1 };
    match step.run(std::slice::from_ref(record), Some(&[origin])).expect("the store is there").remove(0) {
        Verdict::Emit(records) => Ok(document(&records[0]).expect("JSON")),
        Verdict::Reject(fault) => Err(fault),
        Verdict::Drop(why) => panic!("dropped: {why}"),
    }
}

#[test]
fn a_conversation_is_read_as_it_was_appended_and_no_longer_than_it_may_be() {
    let data = tempfile::tempdir().expect("a folder");
    let (mut read, mut append) = (step(data.path(), SessionAction::Read), step(data.path(), SessionAction::Append));
    let turn = |n: i64, answer: &str| record("a", n, json!({ "text": format!("q{n}"), "answer": answer }));
    run(&mut *append, &turn(1, "one")).expect("kept");
    run(&mut *append, &turn(2, "two")).expect("kept");
    // Worked on again, with another answer: the later one counts, once.
    run(&mut *append, &turn(2, "two again")).expect("kept");
    let seen = run(&mut *read, &record("a", 3, json!({ "text": "q3" }))).expect("read");
    let history = json!([{ "query": "q1", "answer": "one" }, { "query": "q2", "answer": "two again" }]);
    assert_eq!(seen, json!({ "text": "q3", "history": history }));
    run(&mut *append, &turn(3, "a very long answer")).expect("kept");
    let seen = run(&mut *read, &record("a", 4, json!({ "text": "q4" }))).expect("read");
    let history = json!([{ "query": "q2", "answer": "two again" }, { "query": "q3", "answer": "a very long answ" }]);
    assert_eq!(seen["history"], history, "the oldest is gone, the long one is cut");
    let seen = run(&mut *read, &turn(3, "")).expect("read");
    assert_eq!(seen["history"].as_array().map(Vec::len), Some(1), "a record does not see its own turn");
    let other = run(&mut *read, &record("b", 1, json!({ "text": "q" }))).expect("read");
    assert_eq!(other["history"], json!([]), "another session sees nothing of it");
}

#[test]
fn it_is_there_after_a_restart() {
    let data = tempfile::tempdir().expect("a folder");
    run(&mut *step(data.path(), SessionAction::Append), &record("a", 1, json!({ "text": "q", "answer": "r" })))
        .expect("kept");
    let seen = run(&mut *step(data.path(), SessionAction::Read), &record("a", 2, json!({}))).expect("read");
    assert_eq!(seen["history"], json!([{ "query": "q", "answer": "r" }]));
}

#[test]
fn what_belongs_to_no_conversation_is_rejected_by_name() {
    let data = tempfile::tempdir().expect("a folder");
    let mut append = step(data.path(), SessionAction::Append);
    let no_key = Record { key: None, ..record("a", 1, json!({})) };
    assert_eq!(run(&mut *append, &no_key).expect_err("no session").code, "no_session");
    assert_eq!(
        run(&mut *append, &record("a", 1, json!({ "text": "q" }))).expect_err("no answer").code,
        "field_missing"
    );
    let no_json = Record { value: Some("x".into()), ..record("a", 1, json!({})) };
    assert_eq!(run(&mut *append, &no_json).expect_err("no JSON").code, "not_json");
}

#[test]
fn a_config_that_cannot_be_is_told() {
    let data = Path::new(".");
    let call = CallLimits { run_records_max: 1, timeout: Duration::from_secs(30), emit_max: 100 };
    let context = StepContext { call, pipeline: "chat", source: "query", data, ..context_in(data) };
    let server: RedisServer =
        toml::from_str("address = \"nowhere\"\ntimeout = \"0s\"\ntls = { ca = \"no.pem\" }").expect("TOML");
    let wrong = SessionConfig {
        redis: Some(server),
        turns_max: 0,
        text_max: Size(0),
        ttl: Period::secs(0),
        ..config(SessionAction::Read, 1)
    };
    let problems = wrong.check(context).join("\n");
    for part in [
        "redis.address: \"nowhere\" is no HOST:PORT",
        "redis.timeout",
        "redis.tls.ca: \"no.pem\" cannot be read",
        "turns_max: 0",
        "text_max",
        "ttl",
    ] {
        assert!(problems.contains(part), "{part}: {problems}");
    }
}
