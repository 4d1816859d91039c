//! Tests of the step's settings and of what it does without a database; `tests/systems_events` has a real one.

use crate::steps::testing::{config, context, json, outputs, step, verdicts};
use bulkhead_core::record::Record;
use bulkhead_core::verdict::Verdict;

fn told(toml: &str) -> Vec<String> {
    config(&format!("{{ postgres = {toml} }}")).check(context(&outputs(&[])))
}

#[test]
fn settings_that_cannot_work_are_told_at_once_and_no_password_is_shown() {
    let right = r#"{ url = "postgres://u:hush@localhost/db", table = "events", columns = { user_id = ".user_id" } }"#;
    assert!(told(right).is_empty());
    let encrypted = right.replace("localhost/db", "localhost/db?sslmode=require");
    assert!(told(&encrypted).is_empty());
    for (settings, part) in [
        (r#"url = "postgres://u:hush hush@:x/", table = "t", columns = { a = "." }"#, "url is no connection string"),
        (r#"url = "user=u password=hush", table = "t", columns = { a = "." }"#, "url names no host"),
        (
            r#"url = "postgres://u:hush@h/db?sslmode=disable", tls = {}, table = "t", columns = { a = "." }"#,
            "the url says sslmode=disable",
        ),
        (
            r#"url = "postgres://u:hush@h/db", tls = { ca = "no.pem" }, table = "t", columns = { a = "." }"#,
            "tls.ca: \"no.pem\" cannot be read",
        ),
        (r#"url = "", table = "t", columns = { a = "." }"#, "url names no host"),
        (r#"url = "host=h", table = "a.b.c", columns = { a = "." }"#, "no NAME or SCHEMA.NAME"),
        (r#"url = "host=h", table = "t; drop", columns = { a = "." }"#, "no NAME or SCHEMA.NAME"),
        (r#"url = "host=h", table = "t", columns = { "a\"b" = "." }"#, "is no name of a column"),
        (r#"url = "host=h", table = "t", columns = { id = "." }"#, "which is the id's"),
        (r#"url = "host=h", table = "t", columns = { a = "." }, connect_timeout = "0s""#, "longer than nothing"),
        (
            r#"url = "host=h", table = "t", columns = { a = "." }, statement_timeout = "1m""#,
            "below the stage's timeout",
        ),
    ] {
        let problems = told(&format!("{{ {settings} }}"));
        assert!(problems.len() == 1 && problems[0].contains(part), "{settings}: {problems:?}");
        assert!(!problems[0].contains("hush"), "{problems:?}");
    }
}

#[test]
fn an_empty_url_stores_nothing_where_that_is_allowed() {
    let mut step = step(r#"{ postgres = { url = "", optional = true, table = "t", columns = { a = "." } } }"#);
    let record = json("{}");
    assert_eq!(verdicts(&mut *step, [record.clone()]), [Verdict::one(record)]);
}

#[test]
fn a_database_that_is_away_is_no_records_fault() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    let url = format!("postgres://u@127.0.0.1:{port}/db");
    let mut step = step(&format!(r#"{{ postgres = {{ url = "{url}", table = "t", columns = {{ a = ".a" }} }} }}"#));
    let fault = step.run(&[json("{}")], None).expect_err("nobody listens there");
    assert_eq!((fault.class.as_str(), &*fault.code), ("transient", "postgres_unavailable"), "{fault}");
}

#[test]
fn a_record_whose_row_cannot_be_made_needs_no_database() {
    let mut step =
        step(r#"{ postgres = { url = "host=nowhere.invalid", table = "t", id = ".id", columns = { a = ".a" } } }"#);
    let records: [Record; 3] = [json(r#"{"a": 1}"#), json(r#"{"id": {}, "a": 1}"#), json("no json")];
    let codes = verdicts(&mut *step, records).map(|verdict| match verdict {
        Verdict::Reject(fault) => fault.code.into_owned(),
        other => panic!("{other:?}"),
    });
    assert_eq!(codes, ["postgres_no_id", "expression_failed", "not_json"]);
}
