//! Answers with a model (a server of the test's own) and without one; what goes wrong with it is told by whose fault it is.

#[allow(dead_code, reason = "it is shared with the tests of the whole system")]
#[path = "../../../tests/systems_chat/openai.rs"]
mod openai;

use super::super::CallLimits;
use super::super::testing::context_in;
use super::*;
use bulkhead_actors::io::embedded::{EmbeddedLog, EmbeddedOptions};
use bulkhead_actors::log::{Log, TopicSpec};
use bulkhead_core::ids::{Offset, Partition};
use openai::{Mode, OpenAi};
use prometheus_client::metrics::counter::Counter;
use std::path::Path;

fn config(server: &OpenAi, stream: bool) -> GenerateConfig {
    GenerateConfig {
        endpoint: server.endpoint().to_owned(),
        model: "small".into(),
        api_key: Some(Secret::new("sesame".into())),
        stream,
        idle_timeout: Period::ms(500),
        timeout: Period::secs(10),
        answer_max: Size::kib(16),
        ..GenerateConfig::default()
    }
}

fn step(config: &GenerateConfig, hints: Option<&Hints>) -> Box<dyn Step> {
    let call = CallLimits { run_records_max: 1, timeout: Duration::from_secs(30), emit_max: 100 };
    let dir = Path::new(".");
    let context = StepContext { call, pipeline: "chat", source: "query", data: dir, hints, ..context_in(dir) };
    assert_eq!(config.check(context), Vec::<String>::new());
    config.factory(context).build().expect("it needs nothing else")
}

fn query() -> Record {
    let document = json!({
        "text": "What keeps a ship afloat?",
        "history": [{ "query": "Hi", "answer": "Hello" }],
        "passages": [{ "source": "ships.md", "heading": "", "text": "Bulkheads keep a ship afloat. Sails move it.", "score": 1.5 }],
    });
    let headers = vec![Header::new(ID_HEADER, "job-1")];
    Record { key: Some("session".into()), value: Some(document.to_string().into()), headers, ..Record::default() }
}

fn run(step: &mut dyn Step, attempt: u32) -> Result<Value, Fault> {
    let origin = Origin { partition: Partition(0), offset: Offset(0), attempt };
    match step.run(&[query()], Some(&[origin]))?.remove(0) {
        Verdict::Emit(records) => document(&records[0]),
        Verdict::Reject(fault) => Err(fault),
        Verdict::Drop(why) => panic!("dropped: {why}"),
    }
}

#[test]
fn a_model_is_told_everything_and_answers_streamed_or_whole() {
    for stream in [true, false] {
        let server = OpenAi::start(Mode::Words(&["Bulkheads", " do", "."]));
        let answer = run(&mut *step(&config(&server, stream), None), 1).expect("answered");
        assert_eq!((&answer["answer"], &answer["model"]), (&json!("Bulkheads do."), &json!("small")));
        assert_eq!((&answer["sources"], &answer["extractive"]), (&json!(["ships.md"]), &json!(false)));
        let asked = server.asked().remove(0);
        assert_eq!(asked.authorization.as_deref(), Some("Bearer sesame"));
        let messages = asked.body["messages"].as_array().expect("messages").clone();
        assert_eq!(answer["prompt"], asked.body["messages"]);
        let roles: Vec<_> = messages.iter().map(|message| message["role"].as_str().expect("text")).collect();
        assert_eq!(roles, ["system", "user", "assistant", "user"]);
        assert!(messages[0]["content"].as_str().is_some_and(|told| told.contains("[ships.md]\nBulkheads keep")));
        assert_eq!(messages[3]["content"], "What keeps a ship afloat?");
        assert_eq!(asked.body["stream"], json!(stream));
    }
}

#[test]
fn words_are_told_as_they_come_with_attempt_and_index() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = EmbeddedLog::open(folder.path(), &EmbeddedOptions::default()).expect("it opens");
    let topic = bulkhead_actors::hints::topic("chat");
    log.create_topics(&[TopicSpec { name: topic.clone(), partitions: 1, replicas: 1, retention: None }]).expect("made");
    let hints = Hints::new(log.producer().expect("a producer"), "chat", Counter::default());
    let server = OpenAi::start(Mode::Words(&["One", " two"]));
    run(&mut *step(&config(&server, true), Some(&hints)), 3).expect("answered");
    let tail = bulkhead_actors::log::Tail { topic: topic.into(), partition: Partition(0), from: None };
    let mut reader = log.reader(&[tail]).expect("a reader");
    let (mut words, mut last) = (String::new(), None);
    for read in reader.read(100, Duration::from_secs(1)).expect("read") {
        let bulkhead_actors::log::Read::Record { record, .. } = read else { continue };
        let header = |name| record.record.header(name).map(|value| String::from_utf8_lossy(value).into_owned());
        assert_eq!(header(bulkhead_actors::hints::ATTEMPT_HEADER).as_deref(), Some("3"));
        assert_eq!((header(ID_HEADER).as_deref(), &record.record.key), (Some("job-1"), &Some("session".into())));
        let index: u32 = header(bulkhead_actors::hints::INDEX_HEADER).expect("an index").parse().expect("a number");
        assert_eq!(index, last.map_or(0, |last| last + 1));
        last = Some(index);
        words += &String::from_utf8_lossy(record.record.payload());
    }
    assert_eq!(words, "One two");
}

#[test]
fn what_goes_wrong_is_told_by_whose_fault_it_is() {
    let table = [
        (Mode::Cut, FaultClass::Transient, "generate_"),
        (Mode::Silent, FaultClass::Transient, "generate_slow"),
        (Mode::Garbage, FaultClass::Transient, "generate_garbled"),
        (Mode::Words(&[]), FaultClass::Transient, "generate_garbled"),
        (Mode::Endless, FaultClass::Poison, "answer_too_large"),
        (Mode::Status(429), FaultClass::Transient, "generate_busy"),
        (Mode::Status(503), FaultClass::Transient, "generate_away"),
        (Mode::Status(302), FaultClass::Transient, "generate_away"),
        (Mode::Status(400), FaultClass::Poison, "generate_refused"),
        (Mode::Status(401), FaultClass::Fatal, "generate_refuses_us"),
    ];
    let server = OpenAi::start(Mode::Garbage);
    let mut step = step(&config(&server, true), None);
    for (mode, class, code) in table {
        server.set(mode.clone());
        let fault = run(&mut *step, 1).expect_err("it fails");
        assert!(fault.class == class && fault.code.starts_with(code), "{mode:?}: {fault:?}");
        assert!(!fault.message.contains("sesame"), "{fault}");
    }
    server.set(Mode::Words(&["Fine."]));
    assert_eq!(run(&mut *step, 2).expect("it goes on")["answer"], json!("Fine."));
    let whole = GenerateConfig { stream: false, ..config(&server, false) };
    server.set(Mode::Garbage);
    assert_eq!(run(&mut *self::step(&whole, None), 1).expect_err("no JSON").code, "generate_garbled");
    drop(server);
    assert_eq!(run(&mut *step, 1).expect_err("nobody is there").code, "generate_away");
}

#[test]
fn without_an_endpoint_the_passages_speak_and_it_says_so() {
    let answer = run(&mut *step(&GenerateConfig::default(), None), 1).expect("answered");
    let text = answer["answer"].as_str().expect("text");
    assert!(
        text.starts_with("No language model is configured")
            && text.contains("- Bulkheads keep a ship afloat. [ships.md]"),
        "{text}"
    );
    assert_eq!((&answer["extractive"], &answer["model"]), (&json!(true), &json!("extractive")));
    let record = Record { value: Some("{\"text\": \"Anything?\"}".into()), ..Record::default() };
    let verdict = step(&GenerateConfig::default(), None).run(&[record], None).expect("answered").remove(0);
    let Verdict::Emit(records) = verdict else { panic!("{verdict:?}") };
    let answer = document(&records[0]).expect("JSON");
    assert!(answer["answer"].as_str().is_some_and(|text| text.contains("say nothing about this")), "{answer}");
}

#[test]
fn a_config_that_cannot_be_is_told() {
    let call = CallLimits { run_records_max: 1, timeout: Duration::from_secs(30), emit_max: 100 };
    let dir = Path::new(".");
    let context = StepContext { call, pipeline: "chat", source: "query", data: dir, ..context_in(dir) };
    let wrong = GenerateConfig {
        endpoint: "ftp://x".into(),
        timeout: Period::secs(28),
        answer_max: Size(0),
        ..GenerateConfig::default()
    };
    let problems = wrong.check(context).join("\n");
    for part in
        ["endpoint: \"ftp://x\" is no URL", "model: is empty", "nine tenths of the stage's timeout", "answer_max"]
    {
        assert!(problems.contains(part), "{part}: {problems}");
    }
}
