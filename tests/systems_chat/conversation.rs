//! Queries and answers: without a model and with one, remembered within a session, through a SIGKILL.

use crate::openai::{Mode, OpenAi};
use crate::rig::{On, Rig, ask, ended};
use serde_json::json;

fn answers_from_the_documents_and_says_so(on: On) {
    let rig = Rig::new(on, &[]);
    let daemon = rig.start();
    let asked = ask(&daemon, None, "What does a lane do with finished batches?");
    let job = ended(&daemon, &asked);
    assert_eq!(job["status"], "completed", "{job}");
    let result = &job["result"];
    let answer = result["answer"].as_str().expect("an answer");
    assert!(answer.starts_with("No language model is configured") && answer.contains("[engine.md]"), "{answer}");
    assert_eq!((&result["extractive"], &result["sources"][0]), (&json!(true), &json!("engine.md")));
}

#[test]
fn answers_from_the_documents_on_the_embedded_log() {
    answers_from_the_documents_and_says_so(On::Embedded);
}

#[test]
fn answers_from_the_documents_on_kafka() {
    answers_from_the_documents_and_says_so(On::Kafka);
}

/// The model is told what was said before, in this session alone, and what was answered survives the daemon.
#[test]
fn a_model_is_told_the_conversation_and_it_survives_a_sigkill() {
    let server = OpenAi::start(Mode::Words(&["It", " commits."]));
    let env = [
        ("BULKHEAD_CHAT_ENDPOINT", server.endpoint()),
        ("BULKHEAD_CHAT_MODEL", "small"),
        ("BULKHEAD_CHAT_KEY", "sesame"),
    ];
    let rig = Rig::new(On::Embedded, &[]);
    let daemon = rig.start_as("data", &env);
    let first = ask(&daemon, None, "What does a lane do?");
    let job = ended(&daemon, &first);
    assert_eq!((&job["result"]["answer"], &job["result"]["model"]), (&json!("It commits."), &json!("small")), "{job}");
    let session = first["session"].as_str().expect("a session");
    daemon.sigkill();

    let daemon = rig.start_as("data", &env);
    ended(&daemon, &ask(&daemon, Some(session), "And then?"));
    ended(&daemon, &ask(&daemon, None, "Hello?"));
    let asked = server.asked();
    let said = |at: usize| {
        let messages = asked[at].body["messages"].as_array().expect("messages").clone();
        let said = messages.iter().skip(1).map(|message| message["content"].as_str().expect("text").to_owned());
        said.collect::<Vec<_>>()
    };
    assert_eq!(said(1), ["What does a lane do?", "It commits.", "And then?"]);
    assert_eq!(said(2), ["Hello?"], "another session knows nothing of it");
    assert_eq!(asked[0].authorization.as_deref(), Some("Bearer sesame"));
    assert!(!daemon.output().contains("sesame"));
}

/// A model that fails is tried again, in order; nothing is lost.
#[test]
fn a_query_outlives_a_model_that_is_away() {
    let server = OpenAi::start(Mode::Status(503));
    let rig = Rig::new(On::Embedded, &[("retry   = {", "retry   = { initial = \"50ms\", max = \"200ms\",")]);
    let env = [("BULKHEAD_CHAT_ENDPOINT", server.endpoint()), ("BULKHEAD_CHAT_MODEL", "small")];
    let daemon = rig.start_as("data", &env);
    let asked = ask(&daemon, None, "Are you there?");
    bulkhead_testkit::process::eventually("the model was asked twice", crate::rig::PATIENCE, || {
        let count = server.asked().len();
        if count >= 2 { Ok(()) } else { Err(format!("{count} times")) }
    });
    server.set(Mode::Cut);
    bulkhead_testkit::process::eventually("a stream broke off", crate::rig::PATIENCE, || {
        if daemon.output().contains("generate_") { Ok(()) } else { Err("not yet".to_owned()) }
    });
    server.set(Mode::Words(&["Yes."]));
    let job = ended(&daemon, &asked);
    assert_eq!(job["result"]["answer"], json!("Yes."), "{job}");
}
