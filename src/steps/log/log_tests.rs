//! Tests of the step `log` on a real disk.

use crate::steps::StepContext;
use crate::steps::testing::{config, context_in, json, verdicts};
use bulkhead_actors::step::Step;
use bulkhead_core::record::{Header, ID_HEADER, Record};
use bulkhead_core::verdict::Verdict;
use serde_json::{Value, json};
use std::path::Path;

fn in_data(data: &Path) -> StepContext<'_> {
    StepContext { data, ..context_in(Path::new("config")) }
}

fn step(toml: &str, data: &Path) -> Box<dyn Step> {
    let factory = config(toml).factory(in_data(data)).expect("its settings are right");
    factory.build().expect("it can be built")
}

fn lines(data: &Path, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(data.join(name)).expect("it is there");
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect()
}

#[test]
fn a_line_says_where_the_record_lay_and_what_it_holds() {
    let data = tempfile::tempdir().expect("a directory");
    let mut step = step("{ log = {} }", data.path());
    let mut first = json("{ \"price\":\n 12.30 }");
    first.headers.push(Header::new(ID_HEADER, "job-1"));
    first.key = Some("u-1".into());
    let records = [
        first.clone(),
        Record { value: Some("plain \"text\"".into()), ..Record::default() },
        Record { value: Some(vec![0xff, 0].into()), ..Record::default() },
    ];
    let told = verdicts(&mut *step, records.clone());
    assert_eq!(told, records.map(Verdict::one));
    let text = std::fs::read_to_string(data.path().join("consumer.log")).expect("it is there");
    assert!(text.lines().next().is_some_and(|line| line.ends_with("\"value\":{\"price\":12.30}}")), "{text}");
    let lines = lines(data.path(), "consumer.log");
    let place = ["id", "topic", "partition", "offset", "attempt", "key"].map(|key| lines[0][key].clone());
    assert_eq!(place, [json!("job-1"), json!("source"), json!(3), json!(0), json!(1), json!("u-1")]);
    assert_eq!((&lines[1]["value"], &lines[1]["offset"]), (&json!("plain \"text\""), &json!(1)));
    assert_eq!((&lines[2]["value"], &lines[2]["id"]), (&Value::Null, &Value::Null));
}

#[test]
fn an_expression_says_what_is_written_and_rejects_what_it_fails_on() {
    let data = tempfile::tempdir().expect("a directory");
    let mut step = step("{ log = { file = \"types.log\", value = \"{t: .event_type, n: (.n + 1)}\" } }", data.path());
    let [written, failed] =
        verdicts(&mut *step, [json(r#"{"event_type": "click", "n": 1}"#), json(r#"{"event_type": "click", "n": {}}"#)]);
    assert!(matches!(written, Verdict::Emit(_)));
    assert!(matches!(failed, Verdict::Reject(fault) if fault.code == "expression_failed"));
    let values: Vec<_> = lines(data.path(), "types.log").into_iter().map(|line| line["value"].clone()).collect();
    assert_eq!(values, [json!({"t": "click", "n": 2})]);
}

#[test]
fn names_that_are_no_log_in_the_data_directory_are_refused() {
    for name in ["", "../x.log", "/tmp/x.log", "x.txt", ".log", "bulkhead.log", "a b.log"] {
        let told = config(&format!("{{ log = {{ file = {name:?} }} }}")).check(in_data(Path::new("data")));
        assert!(told.len() == 1 && told[0].contains("the data directory"), "{name}: {told:?}");
    }
    let told = config("{ log = { bytes_max = \"1KiB\" } }").check(in_data(Path::new("data")));
    assert_eq!(told, ["bytes_max must be at least \"64KiB\""]);
    assert!(config("{ log = {} }").check(in_data(Path::new("data"))).is_empty());
}

#[test]
fn a_directory_that_is_not_there_is_the_stages_fault() {
    let factory = config("{ log = {} }").factory(in_data(Path::new("/nowhere/at/all"))).expect("right");
    let fault = factory.build().err().expect("it cannot write there");
    assert_eq!((&*fault.code, fault.class.as_str()), ("log_unusable", "fatal"));
}
