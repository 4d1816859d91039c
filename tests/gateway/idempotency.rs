//! One idempotency key is one job: what is answered to a request that comes again, at once or later.

use crate::PATIENCE;
use crate::harness::{Edge, PNG, SCOPE, Sends, problem};
use bulkhead::gateway::Limits;
use bulkhead_actors::log::LogError;
use bulkhead_core::ids::Round;
use bulkhead_core::job_id::Scope;
use bulkhead_core::jobs::{JobName, JobOutcome, Sighting};
use bulkhead_core::ledger::fingerprint;
use bulkhead_core::time::WallMs;
use reqwest::blocking::{Client, Response, multipart};
use serde_json::Value;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// Posts a payment under a key.
fn pay(edge: &Edge, key: &str, body: &str) -> Response {
    let request = Client::new().post(edge.url("/payments/")).header("Idempotency-Key", key);
    request.body(body.to_owned()).send().expect("answered")
}

/// What tells one answer from another, and whether it says that it is a repetition.
fn told(response: Response) -> ((u16, Option<String>, String), bool) {
    let header = |name| response.headers().get(name).and_then(|value| Some(value.to_str().ok()?.to_owned()));
    let (location, is_replay) = (header("location"), header("idempotency-replayed"));
    assert_eq!(header("idempotency-key-ttl").as_deref(), Some("3600"), "the time to live is published");
    ((response.status().as_u16(), location, response.text().expect("a body")), is_replay.as_deref() == Some("true"))
}

fn code(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    (status, problem(response)["type"].as_str().unwrap_or_default().replace("urn:bulkhead:problem:", ""))
}

#[test]
fn a_repeated_request_gets_the_first_answer_and_is_sent_once() {
    let edge = Edge::start();
    let (first, was_replay) = told(pay(&edge, "order-1", "10 EUR"));
    assert_eq!((first.0, was_replay), (202, false));
    for form in ["order-1", "\"order-1\"", " order-1 "] {
        assert_eq!(told(pay(&edge, form, "10 EUR")), (first.clone(), true), "{form:?}");
    }
    let [sent] = &edge.sent()[..] else { panic!("one record") };
    let print = format!("{:016x}", fingerprint(b"10 EUR"));
    assert_eq!(sent.record.header("__bulkhead.fingerprint").expect("set"), print.as_bytes());
    assert_eq!(sent.record.header("idempotency-key").expect("set"), "order-1");
}

#[test]
fn the_same_key_names_another_job_on_another_route() {
    let edge = Edge::start();
    let id = |response: Response| response.json::<Value>().expect("JSON")["jobId"].to_string();
    let here = id(pay(&edge, "k", "x"));
    let there = Client::new().post(edge.url("/orders/")).header("Idempotency-Key", "k").header("customer", "c7");
    assert_ne!(id(there.body("x").send().expect("answered")), here);
    assert_ne!(id(pay(&edge, "k2", "x")), here);
    assert_eq!(edge.sent().len(), 3);
}

#[test]
fn a_key_is_for_one_payload() {
    let edge = Edge::start();
    assert_eq!(pay(&edge, "order-1", "10 EUR").status(), 202);
    assert_eq!(code(pay(&edge, "order-1", "1000 EUR")), (422, "idempotency-key-reused".into()));
    // A form's boundary is another each time; its file is what counts.
    let upload = |file: &[u8]| {
        let form = multipart::Form::new().part("file", multipart::Part::bytes(file.to_vec()));
        let request = Client::new().post(edge.url("/api/classify")).header("Idempotency-Key", "picture");
        request.multipart(form).send().expect("answered").status().as_u16()
    };
    let other = [PNG, b"!"].concat();
    assert_eq!([upload(PNG), upload(PNG), upload(&other)], [202, 202, 422]);
    assert_eq!(edge.sent().len(), 2);
}

#[test]
fn keys_that_are_none_are_refused_and_required_ones_are_missed() {
    let edge = Edge::start();
    let post = |keys: &[&str]| {
        let mut request = Client::new().post(edge.url("/payments/"));
        for key in keys {
            request = request.header("Idempotency-Key", *key);
        }
        request.body("x").send().expect("answered")
    };
    assert_eq!(code(post(&[])), (400, "missing-idempotency-key".into()));
    let (long, longest) = ("k".repeat(256), "k".repeat(255));
    for bad in [&["" as &str] as &[&str], &["\"\""], &[&long], &["a b"], &["\"a"], &["a,b"], &["a", "a"]] {
        assert_eq!(code(post(bad)), (400, "bad-idempotency-key".into()), "{bad:?}");
    }
    assert_eq!(edge.sent().len(), 0);
    assert_eq!(post(&[&longest]).status(), 202);
    let unkeyed = Client::new().post(edge.url("/orders/")).header("customer", "c7").body("x").send().expect("answered");
    assert_eq!((unkeyed.status().as_u16(), unkeyed.headers().get("idempotency-key-ttl")), (202, None));
}

#[test]
fn what_was_not_accepted_is_not_remembered() {
    let edge = Edge::limited(Limits { workers: 1, ack_timeout: Duration::from_millis(50), ..Limits::default() });
    for sends in [Sends::Fail(LogError::Unavailable("away".into())), Sends::Hang] {
        *edge.producer.sends.lock() = sends;
        assert_eq!(pay(&edge, "k", "x").status(), 503);
    }
    *edge.producer.sends.lock() = Sends::Acknowledge;
    assert!(!told(pay(&edge, "k", "y")).1, "the next request is the first");
}

#[test]
fn two_at_once_are_one_record_and_one_answer() {
    let edge = Edge::start();
    let (held, holds) = mpsc::channel();
    *edge.producer.sends.lock() = Sends::Hold(Arc::new(held.into()));
    let post = |key: &'static str, path: &str, body: &'static str| {
        let request = Client::new().post(edge.url(path)).header("customer", "c7").header("Idempotency-Key", key);
        request.body(body).send().expect("answered")
    };
    std::thread::scope(|scope| {
        let first = scope.spawn(|| told(post("k", "/orders/", "x")));
        let release = holds.recv_timeout(PATIENCE).expect("the first request reaches the producer");
        assert_eq!(code(post("k", "/orders/", "y")), (422, "idempotency-key-reused".into()), "without waiting");
        let second = scope.spawn(|| told(post("k", "/orders/", "x")));
        release.send(()).expect("the first request waits");
        let (first, second) = (first.join().expect("no panic"), second.join().expect("no panic"));
        assert_eq!((first.1, second.1), (false, true));
        assert_eq!(first.0, second.0);

        // A strict route does not let the second one wait, and does not read it.
        let first = scope.spawn(|| told(post("s", "/payments/", "x")));
        let release = holds.recv_timeout(PATIENCE).expect("the first request reaches the producer");
        let second = post("s", "/payments/", "x");
        assert!(second.headers().contains_key("retry-after"));
        assert_eq!(code(second), (409, "request-in-progress".into()));
        release.send(()).expect("the first request waits");
        assert_eq!(told(post("s", "/payments/", "x")).0, first.join().expect("no panic").0);
    });
    assert_eq!(edge.sent().len(), 2);
}

/// Another gateway took the request: all that is known here is how its job ended.
#[test]
fn a_jobs_outcome_tells_of_a_key_that_was_taken_elsewhere() {
    let edge = Edge::start();
    let see = |key: &str, payload: &[u8]| {
        let id = edge.ids.from_key(SCOPE, "/payments/", key);
        let (fingerprint, outcome) = (Some(fingerprint(payload)), JobOutcome::Completed("1".into()));
        let (round, at) = (Round(0), WallMs(4_000_000_000_000));
        edge.jobs.see(vec![Sighting { name: JobName::Id(id), round, accepted: None, ended: at, fingerprint, outcome }]);
        id.to_string()
    };
    let id = see("k", b"x");
    let ((status, location, body), is_replay) = told(pay(&edge, "k", "x"));
    assert_eq!((status, location, is_replay), (202, Some(format!("/api/results/{id}")), true));
    assert!(body.contains(&id));
    assert_eq!(code(pay(&edge, "k", "y")), (422, "idempotency-key-reused".into()));
    assert_eq!(edge.sent().len(), 0);
    // Both gateways took the key, each with its own payload: the ledger knows which was the first.
    assert_eq!(pay(&edge, "two", "mine").status(), 202);
    see("two", b"theirs");
    assert_eq!(code(pay(&edge, "two", "mine")), (422, "idempotency-key-reused".into()));
    assert!(told(pay(&edge, "two", "theirs")).1);
}

#[test]
fn tenants_do_not_share_keys_or_jobs() {
    let edge = Edge::with_tenants("x-tenant");
    let pay = |tenant: Option<&str>| {
        let mut request = Client::new().post(edge.url("/payments/")).header("Idempotency-Key", "k");
        if let Some(tenant) = tenant {
            request = request.header("x-tenant", tenant);
        }
        request.body("x").send().expect("answered")
    };
    let id = |response: Response| response.json::<Value>().expect("JSON")["jobId"].as_str().map(str::to_owned);
    assert_eq!(code(pay(None)), (400, "missing-tenant".into()));
    let (acme, zeta) = (id(pay(Some("acme"))).expect("an id"), id(pay(Some("zeta"))).expect("an id"));
    assert_ne!(acme, zeta);
    let tenants: Vec<_> = edge.sent().iter().map(|sent| sent.record.header("__bulkhead.tenant").cloned()).collect();
    assert_eq!(tenants, [Some("acme".into()), Some("zeta".into())]);
    let get = |tenant: &str| {
        let request = Client::new().get(edge.url(&format!("/api/results/{acme}"))).header("x-tenant", tenant);
        request.send().expect("answered").status().as_u16()
    };
    assert_eq!((get("acme"), get("zeta")), (200, 404));
    let keyed = edge.ids.from_key(Scope { tenant: "acme", ..SCOPE }, "/payments/", "k");
    assert_eq!(keyed.to_string(), acme);
}
