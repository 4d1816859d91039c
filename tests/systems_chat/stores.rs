//! A real Redis behind the chat: conversations and results in it, stopped and started in the middle.

use crate::openai::{Mode, OpenAi};
use crate::rig::{On, PATIENCE, Rig, ask, ended};
use bulkhead_testkit::process::eventually;
use bulkhead_testkit::redis::Redis;

/// The step as it is shipped.
fn shipped(action: &str) -> String {
    format!("session = {{ action = \"{action}\", redis = {{ address = \"${{BULKHEAD_CHAT_REDIS:-}}\" }} }}")
}

/// The shipped pipeline with its conversations in Redis, and each answer, too.
fn rig(redis: &Redis, on: On) -> Rig {
    let server = format!("{{ address = \"{}\", timeout = \"1s\" }}", redis.address());
    let read = format!("session = {{ action = \"read\", redis = {server} }}");
    let append = format!("session = {{ action = \"append\", redis = {server}, turns_max = 2 }}");
    let results = format!("{{ {append} }},\n  {{ redis = {{ server = {server}, key = \"answer:\", ttl = \"1h\" }} }}");
    let retry = "retry   = { initial = \"50ms\", max = \"500ms\",";
    Rig::new(
        on,
        &[
            (&shipped("read"), &read),
            (&format!("{{ {} }}", shipped("append")), &results),
            ("retry   = {", retry),
            ("name  = \"context\"", "name  = \"context\"\nretry = { initial = \"50ms\", max = \"500ms\" }"),
        ],
    )
}

fn conversations_and_answers_lie_in_redis_and_outlive_its_outage(on: On) {
    let redis = Redis::start();
    let server = OpenAi::start(Mode::Words(&["Fine."]));
    let rig = rig(&redis, on);
    let env = [("BULKHEAD_CHAT_ENDPOINT", server.endpoint()), ("BULKHEAD_CHAT_MODEL", "small")];
    let daemon = rig.start_as("data", &env);
    let first = ask(&daemon, None, "How are you?");
    assert_eq!(ended(&daemon, &first)["status"], "completed");
    let id = first["jobId"].as_str().expect("an id");
    assert!(redis.ask(&["GET", &format!("answer:{id}")]).contains("Fine."));
    let ttl = redis.ask(&["PTTL", &format!("answer:{id}")]);
    assert!(ttl.trim_start_matches(':').trim().parse::<i64>().is_ok_and(|ms| (1..=3_600_000).contains(&ms)), "{ttl}");

    redis.stop();
    let session = first["session"].as_str();
    let asked: Vec<_> = ["One?", "Two?"].map(|text| ask(&daemon, session, text)).to_vec();
    eventually("the outage is noticed", PATIENCE, || {
        if daemon.output().contains("redis_away") { Ok(()) } else { Err("not yet".to_owned()) }
    });
    assert_eq!(server.asked().len(), 1, "nobody is asked without the conversation");
    redis.start_again();
    for asked in &asked {
        assert_eq!(ended(&daemon, asked)["status"], "completed", "nothing is lost");
    }
    // The history is bounded: of three turns the last two are left.
    let keys = redis.ask(&["KEYS", "bulkhead:*:session:*"]);
    let key = keys.lines().find(|line| line.starts_with("bulkhead:")).expect("the session's key").trim();
    assert_eq!(redis.ask(&["HLEN", key]), ":2\r\n");
    assert!(!keys.contains(session.expect("a session")), "the token is not in it");
}

#[test]
fn redis_behind_the_embedded_log() {
    conversations_and_answers_lie_in_redis_and_outlive_its_outage(On::Embedded);
}

#[test]
fn redis_behind_kafka() {
    conversations_and_answers_lie_in_redis_and_outlive_its_outage(On::Kafka);
}

/// A key of another type is one record's bad luck, not its neighbours'.
#[test]
fn what_redis_refuses_is_rejected_alone() {
    let redis = Redis::start();
    let append = shipped("append");
    let results = format!(
        "{{ {append} }},\n  {{ redis = {{ server = {{ address = \"{}\" }}, key = \"answers\", kind = \"hash\" }} }}",
        redis.address()
    );
    let rig = Rig::new(On::Embedded, &[(&format!("{{ {append} }}"), &results)]);
    let daemon = rig.start();
    assert_eq!(redis.ask(&["SET", "answers", "no hash"]), "+OK\r\n");
    let job = ended(&daemon, &ask(&daemon, None, "What is a lane?"));
    assert_eq!(
        (job["status"].as_str(), job["error"]["code"].as_str()),
        (Some("failed"), Some("redis_refuses")),
        "{job}"
    );
    assert_eq!(redis.ask(&["DEL", "answers"]), ":1\r\n");
    let asked = ask(&daemon, None, "What is a lane?");
    assert_eq!(ended(&daemon, &asked)["status"], "completed");
    assert!(redis.ask(&["HGET", "answers", asked["jobId"].as_str().expect("an id")]).contains("engine.md"));
}
