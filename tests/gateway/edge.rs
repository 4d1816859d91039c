//! Steps at the edge: what they let in, what they refuse and how it is told, and that no step harms another request.

use crate::PATIENCE;
use crate::harness::{Edge, problem};
use bulkhead::gateway::Limits;
use bulkhead::steps::chaos;
use bulkhead_core::ledger::fingerprint;
use reqwest::blocking::{Client, Response};
use serde_json::{Value, json};
use std::time::Duration;

/// A pipeline whose route runs the step `chaos`, told by `traceparent`, which travels with the record.
fn pipeline(label: &str) -> String {
    format!(
        r#"version = 1
[pipeline]
name   = "orders"
source = {{ topic = "orders", partitions = 1 }}
ledger = {{ key = "header:__bulkhead.id" }}
output = {{ topic = "orders.done" }}

[[stage]]
name  = "work"
steps = [{{ pass = {{}} }}]

[[route]]
path        = "/orders/"
method      = "POST"
produce     = {{}}
idempotency = {{ }}
steps       = [{{ pass = {{}} }}, {{ chaos = {{ label = "{label}", header = "x-request-id" }} }}]
"#
    )
}

fn limits(threads: usize, timeout: Duration) -> Limits {
    Limits { workers: 1, steps_threads: threads, steps_timeout: timeout, ..Limits::default() }
}

fn order(edge: &Edge, wish: &str, key: Option<&str>) -> Response {
    let mut request = Client::new().post(edge.url("/orders/")).header("x-request-id", wish).body("an order");
    if let Some(key) = key {
        request = request.header("Idempotency-Key", key);
    }
    request.send().expect("answered")
}

/// Status, code of the problem, and whether it says when to come again.
fn told(response: Response) -> (u16, String, bool) {
    let (status, later) = (response.status().as_u16(), response.headers().contains_key("retry-after"));
    (status, problem(response)["type"].as_str().unwrap_or_default().replace("urn:bulkhead:problem:", ""), later)
}

#[test]
fn what_the_steps_let_through_is_stored_as_the_engines_own() {
    let edge = Edge::configured(&pipeline("through"), limits(2, PATIENCE));
    assert_eq!(order(&edge, "slow:1", Some("k")).status(), 202);
    let [sent] = &edge.sent()[..] else { panic!("one record") };
    assert_eq!(sent.record.payload(), b"an order");
    let names: Vec<&str> = sent.record.headers.iter().map(|h| std::str::from_utf8(&h.name).expect("UTF-8")).collect();
    let own = ["__bulkhead.id", "__bulkhead.accepted", "__bulkhead.fingerprint"];
    assert_eq!(names, [&own[..], &["content-type", "idempotency-key", "x-request-id"]].concat());
    let print = format!("{:016x}", fingerprint(b"an order"));
    assert_eq!(sent.record.header("__bulkhead.fingerprint").expect("set"), print.as_bytes());
}

#[test]
fn what_a_step_rejects_is_answered_and_not_stored() {
    let edge = Edge::configured(&pipeline("rejects"), limits(2, PATIENCE));
    let document = problem(order(&edge, "poison", None));
    let expected = json!({
        "type": "urn:bulkhead:problem:rejected",
        "title": "Rejected",
        "status": 422,
        "detail": "the record asked for it.",
        "instance": "/orders/",
        "code": "chaos_poison",
        "step": "chaos",
    });
    assert_eq!(document, expected);
    assert_eq!(edge.sent().len(), 0);
}

#[test]
fn a_step_that_fails_costs_its_request_alone() {
    let edge = Edge::configured(&pipeline("fails"), limits(1, PATIENCE));
    for (wish, expected) in [
        ("panic", (500, "step-crashed", false)),
        ("error", (503, "steps-unavailable", true)),
        ("fatal", (500, "steps-failed", false)),
    ] {
        let (status, code, later) = told(order(&edge, wish, None));
        assert_eq!((status, code.as_str(), later), expected, "{wish}");
        assert_eq!(order(&edge, "slow:1", None).status(), 202, "after {wish}");
    }
    assert_eq!(edge.sent().len(), 3);
}

#[test]
fn steps_that_never_end_are_given_up_and_no_more_threads_are_taken() {
    let edge = Edge::configured(&pipeline("hangs"), limits(1, Duration::from_millis(100)));
    assert_eq!(told(order(&edge, "hang", None)), (503, "steps-timeout".into(), true));
    assert_eq!(told(order(&edge, "slow:1", None)), (503, "overloaded".into(), true));
    let other = Client::new().get(edge.url("/nowhere")).send().expect("answered");
    assert_eq!(other.status(), 404, "requests without steps are served");
}

#[test]
fn a_key_is_not_used_up_by_what_was_refused_and_a_replay_runs_no_step() {
    let edge = Edge::configured(&pipeline("keys"), limits(2, PATIENCE));
    assert_eq!(told(order(&edge, "poison", Some("k"))).0, 422);
    let first = order(&edge, "slow:1", Some("k"));
    assert!(!first.headers().contains_key("idempotency-replayed"));
    let first: Value = first.json().expect("JSON");
    let again = order(&edge, "panic", Some("k"));
    assert_eq!(
        (again.status().as_u16(), &again.headers()["idempotency-replayed"]),
        (202, &"true".parse().expect("a value"))
    );
    assert_eq!(again.json::<Value>().expect("JSON"), first);
    let id = first["jobId"].as_str().expect("an id");
    assert_eq!(chaos::runs().steps["keys"][id], 2, "once refused, once taken");
    assert_eq!(edge.sent().len(), 1);
}

/// A pipeline whose route names its requests by a field, and its records' partitions by another.
const KEYED: &str = r#"version = 1
[pipeline]
name   = "orders"
source = { topic = "orders", partitions = 4 }
ledger = { key = "header:__bulkhead.id" }
output = { topic = "orders.done" }

[[stage]]
name  = "work"
steps = [{ pass = {} }]

[[route]]
path        = "/demanded/"
method      = "POST"
produce     = { key = ".customer" }
idempotency = { field = ".key", required = true }

[[route]]
path        = "/same/"
method      = "POST"
produce     = { key = ".customer | ascii_downcase" }
idempotency = { derive = "payload" }
steps       = [{ map = { value = '. + { seen: $now }' } }]
"#;

fn send(edge: &Edge, path: &str, body: &str) -> Response {
    let request = Client::new().post(edge.url(path)).header("Content-Type", "application/json");
    request.body(body.to_owned()).send().expect("answered")
}

#[test]
fn a_key_that_is_demanded_may_stand_in_the_body() {
    let edge = Edge::configured(KEYED, limits(2, PATIENCE));
    let body = r#"{"customer":"ada","key":"k"}"#;
    assert_eq!(send(&edge, "/demanded/", body).status(), 202);
    assert!(send(&edge, "/demanded/", body).headers().contains_key("idempotency-replayed"));
    assert_eq!(told(send(&edge, "/demanded/", r#"{"customer":"bob","key":"k"}"#)).1, "idempotency-key-reused");
    assert_eq!(
        told(send(&edge, "/demanded/", r#"{"customer":"ada"}"#)),
        (400, "missing-idempotency-key".into(), false)
    );
    assert_eq!(told(send(&edge, "/demanded/", r#"{"customer":"ada","key":null}"#)).1, "missing-idempotency-key");
    let [sent] = &edge.sent()[..] else { panic!("one record") };
    assert_eq!(sent.record.key.as_deref(), Some(b"ada".as_slice()));
    assert_eq!(sent.record.header("idempotency-key").expect("set"), "k");
}

#[test]
fn what_has_no_text_for_its_key_is_refused() {
    let edge = Edge::configured(KEYED, limits(2, PATIENCE));
    for (customer, code) in
        [("null", "no_key"), ("\"\"", "no_key"), ("[1]", "expression_failed"), ("{}", "expression_failed")]
    {
        let document = problem(send(&edge, "/demanded/", &format!(r#"{{"customer":{customer},"key":"k"}}"#)));
        assert_eq!((&document["status"], &document["code"]), (&422.into(), &code.into()), "{document}");
    }
    assert_eq!(send(&edge, "/demanded/", r#"{"customer":7,"key":"k"}"#).status(), 202);
    assert_eq!(edge.sent()[0].record.key.as_deref(), Some(b"7".as_slice()));
}

/// A step that looks at the clock makes another record each time; the request is the same one all the same.
#[test]
fn one_payload_is_one_job_where_its_key_is_made_of_it() {
    let edge = Edge::configured(KEYED, limits(2, PATIENCE));
    let body = r#"{"customer":"Ada"}"#;
    let first = send(&edge, "/same/", body);
    assert!(!first.headers().contains_key("idempotency-replayed"));
    let key = first.headers()["idempotency-key"].to_str().expect("ASCII").trim_matches('"').to_owned();
    let first: Value = first.json().expect("JSON");
    assert_eq!(first["idempotencyKey"], *key);
    let again = send(&edge, "/same/", body);
    assert!(again.headers().contains_key("idempotency-replayed"));
    assert_eq!(again.json::<Value>().expect("JSON"), first);
    assert_eq!(send(&edge, "/same/", r#"{"customer":"ada"}"#).status(), 202, "another payload is another job");
    let [sent, other] = &edge.sent()[..] else { panic!("two records") };
    assert_eq!((sent.record.key.as_deref(), other.record.key.as_deref()), (Some(&b"ada"[..]), Some(&b"ada"[..])));
    let value: Value = serde_json::from_slice(sent.record.payload()).expect("JSON");
    assert!(value["seen"].is_i64(), "{value}");
    let print = format!("{:016x}", fingerprint(body.as_bytes()));
    assert_eq!(sent.record.header("__bulkhead.fingerprint").expect("set"), print.as_bytes());
}
