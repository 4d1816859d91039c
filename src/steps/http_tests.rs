//! The step against a real server that answers well, wrongly, late, never, or is not there.

use super::*;
use crate::steps::testing::context_in;
use bulkhead_actors::step::{Step, StepFactory as _};
use bulkhead_core::fault::{Fault, FaultClass};
use bulkhead_core::ids::{Offset, Partition};
use bulkhead_core::record::{Header, ID_HEADER, Origin, Record};
use bulkhead_core::verdict::Verdict;
use bulkhead_testkit::web::{Asked, Reply, WebServer};
use futures::FutureExt as _;
use futures::channel::oneshot;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn context() -> StepContext<'static> {
    StepContext { source: "things", ..context_in(Path::new(".")) }
}

fn config(url: &str, more: &str) -> HttpConfig {
    toml::from_str(&format!("url = '\"{url}/things/\\(.name | @uri)\"'\n{more}")).expect("settings of a test are right")
}

fn step(url: &str, more: &str) -> Box<dyn Step> {
    config(url, more).factory(context()).expect("settings are right").build().expect("it needs nothing")
}

fn record(name: &str) -> Record {
    let headers = vec![Header::new(ID_HEADER, format!("id-{name}")), Header::new("content-type", "application/json")];
    Record { value: Some(json!({ "name": name }).to_string().into()), headers, ..Record::default() }
}

fn origin(offset: i64) -> Origin {
    Origin { partition: Partition(3), offset: Offset(offset), attempt: 1 }
}

/// One record through the step.
fn one(step: &mut dyn Step, name: &str) -> Result<Verdict, Fault> {
    step.run(&[record(name)], Some(&[origin(7)])).map(|mut verdicts| verdicts.remove(0))
}

fn emitted(verdict: Result<Verdict, Fault>) -> Record {
    match verdict {
        Ok(Verdict::Emit(mut records)) => records.remove(0),
        other => panic!("{other:?}"),
    }
}

fn value(record: &Record) -> Value {
    serde_json::from_slice(record.payload()).expect("it is JSON")
}

fn rejected(verdict: Result<Verdict, Fault>) -> Fault {
    match verdict {
        Ok(Verdict::Reject(fault)) => fault,
        other => panic!("{other:?}"),
    }
}

fn transient(verdict: Result<Verdict, Fault>) -> Fault {
    let fault = verdict.expect_err("it may pass");
    assert_eq!(fault.class, FaultClass::Transient, "{fault}");
    fault
}

/// Where nobody listens.
fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    format!("http://{}", listener.local_addr().expect("it is bound"))
}

#[test]
fn a_call_is_what_the_config_makes_of_a_record_and_so_is_its_answer() {
    let server = WebServer::start(|asked| Reply::json(201, &json!({ "got": asked.json(), "n": 1.10 })));
    let more = "method = \"PUT\"\nbody = '{name, at: $origin.offset, id: $id}'\nheaders = { \"x-tenant\" = \"t\" }\n\
                response = '{status, got: .body.got, kind: .headers[\"content-type\"], topic: $origin.topic}'";
    let record = emitted(one(&mut *step(&server.url(), more), "a b/?x"));
    let got = json!({ "name": "a b/?x", "at": 7, "id": "id-a b/?x" });
    assert_eq!(value(&record), json!({ "status": 201, "got": got, "kind": "application/json", "topic": "things" }));
    assert_eq!(record.header("http-status").map(|status| &**status), Some(b"201".as_slice()));
    assert_eq!(record.header(ID_HEADER).map(|id| &**id), Some(b"id-a b/?x".as_slice()));
    let asked = server.asked();
    let Asked { method, path, .. } = &asked[0];
    assert_eq!((method.as_str(), path.as_str()), ("PUT", "/things/a%20b%2F%3Fx"));
    assert_eq!((asked[0].header("x-tenant"), asked[0].header("content-type")), ("t", "application/json"));
    assert_eq!(asked[0].header("idempotency-key"), "things/3/7", "an id that no header can carry is replaced");
}

#[test]
fn headers_are_made_of_the_record_where_they_can_be() {
    let server = WebServer::start(|_| Reply::bare(204));
    let more = "record_headers = { x-name = '.name', x-at = '$origin.offset', x-none = '.missing' }";
    let mut step = step(&server.url(), more);
    emitted(one(&mut *step, "plain"));
    let asked = &server.asked()[0];
    assert_eq!((asked.header("x-name"), asked.header("x-at")), ("plain", "7"));
    assert!(!asked.headers.contains_key("x-none"), "null is no header");
    let fault = rejected(one(&mut *step, "two\nlines"));
    assert_eq!(fault.code, "http_header");
    assert!(fault.message.contains("x-name") && !fault.message.contains("two"), "{fault}");
    assert_eq!(server.asked().len(), 1, "no call was made of it");
}

#[test]
fn without_more_settings_the_record_goes_on_as_it_is() {
    let server = WebServer::start(|_| Reply::bare(204));
    let record = emitted(one(&mut *step(&server.url(), ""), "plain"));
    assert_eq!(value(&record), json!({ "name": "plain" }));
    assert_eq!(server.asked()[0].header("idempotency-key"), "id-plain");
    assert!(server.asked()[0].body.is_empty());
    let sent = emitted(one(&mut *step(&server.url(), "send_value = true\nidempotency_key = false"), "raw"));
    assert_eq!(server.asked()[1].body, sent.payload());
    assert_eq!(server.asked()[1].header("idempotency-key"), "");
}

#[test]
fn a_status_says_whose_fault_it_is() {
    let server = WebServer::start(|asked| {
        let status = asked.path.rsplit('/').next().and_then(|last| last.parse().ok()).expect("it is a status");
        Reply::json(status, &json!({ "detail": "because" }))
    });
    let mut step = step(&server.url(), "success = [409]\nbreaker = { failures = 100 }");
    for status in ["200", "409"] {
        assert_eq!(value(&emitted(one(&mut *step, status))), json!({ "name": status }));
    }
    for status in ["302", "400", "401", "404"] {
        let fault = rejected(one(&mut *step, status));
        assert_eq!(fault.code, format!("http_{status}"));
        assert!(fault.message.ends_with(&format!("answered {status}: {{\"detail\":\"because\"}}")), "{fault}");
    }
    for status in ["408", "429", "500", "503"] {
        assert_eq!(transient(one(&mut *step, status)).code, format!("http_{status}"));
    }
}

#[test]
fn a_host_that_is_down_slow_or_talks_nonsense_is_transient_and_says_why() {
    let down = nowhere();
    let fault = transient(one(&mut *step(&down, ""), "a"));
    assert_eq!(fault.code, "http_unreachable");
    assert!(fault.message.contains(down.trim_start_matches("http://")) && fault.message.contains("refused"), "{fault}");
    let hanging = WebServer::start(|_| Reply::Hang);
    let fault = transient(one(&mut *step(&hanging.url(), "timeout = \"100ms\""), "a"));
    assert_eq!(fault.code, "http_timeout");
    let garbage = WebServer::raw(b"\x00\x01 what is this?\r\n\r\n");
    assert_eq!(transient(one(&mut *step(&garbage, ""), "a")).code, "http_unreachable");
    let short = WebServer::raw(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nless");
    assert_eq!(transient(one(&mut *step(&short, ""), "a")).code, "http_unreachable");
}

#[test]
fn an_answer_that_is_too_large_or_no_json_rejects_the_record_where_that_matters() {
    let server = WebServer::start(|_| Reply::Whole(200, Vec::new(), b"<html>hello</html>".to_vec()));
    let large = rejected(one(&mut *step(&server.url(), "response_max = \"10B\""), "a"));
    assert_eq!(large.code, "http_response_too_large");
    let text = emitted(one(&mut *step(&server.url(), "response = '.body'"), "a"));
    assert_eq!(value(&text), json!("<html>hello</html>"));
    let fault = rejected(one(&mut *step(&server.url(), "response = '.body.id + 1'"), "a"));
    assert_eq!(fault.code, "expression_failed", "{fault}");
}

#[test]
fn a_record_without_a_url_or_a_value_is_its_own_fault() {
    let server = WebServer::start(|_| Reply::bare(200));
    let url = |text: &str| toml::from_str::<HttpConfig>(&format!("url = '{text}'")).expect("settings are right");
    for (expression, code) in
        [("\"nonsense\"", "http_url"), ("\"ftp://h/\"", "http_url"), (".name", "http_url"), ("[]", "expression_failed")]
    {
        let mut step = url(expression).factory(context()).expect("it is checked by record").build().expect("it builds");
        assert_eq!(rejected(one(&mut *step, "a")).code, code, "{expression}");
    }
    let mut broken = record("a");
    broken.value = Some("{no json".into());
    let verdicts = step(&server.url(), "").run(&[broken], Some(&[origin(0)])).expect("it is the record's fault");
    assert!(matches!(&verdicts[0], Verdict::Reject(fault) if fault.code == "not_json"), "{verdicts:?}");
    assert!(server.asked().is_empty());
}

#[test]
fn a_token_is_fetched_once_and_anew_when_it_is_refused() {
    let (tokens, valid) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(1)));
    let (issued, taken) = (Arc::clone(&tokens), Arc::clone(&valid));
    let server = WebServer::start(move |asked| match asked.path.as_str() {
        "/auth/token" if asked.json() == json!({ "username": "u", "password": "hunter2" }) => {
            let token = format!("t{}", issued.fetch_add(1, Ordering::SeqCst) + 1);
            Reply::json(201, &json!({ "access_token": token }))
        }
        "/auth/token" => Reply::bare(401),
        _ if asked.header("authorization") == format!("Bearer t{}", taken.load(Ordering::SeqCst)) => Reply::bare(200),
        _ => Reply::bare(403),
    });
    let login = |password: &str| {
        let url = server.url();
        format!(
            "auth = {{ login = {{ url = \"{url}/auth/token\", username = \"u\", password = \"{password}\", renew_on = [401, 403] }} }}"
        )
    };
    let mut good = step(&server.url(), &login("hunter2"));
    let records: Vec<Record> = (0..4).map(|n| record(&n.to_string())).collect();
    let origins: Vec<Origin> = (0..4).map(origin).collect();
    assert_eq!(good.run(&records, Some(&origins)).expect("all go").len(), 4);
    assert_eq!(tokens.load(Ordering::SeqCst), 1, "calls under way at once fetch one token");
    valid.store(2, Ordering::SeqCst);
    assert_eq!(good.run(&records, Some(&origins)).expect("all go").len(), 4);
    assert_eq!(tokens.load(Ordering::SeqCst), 2, "one new token for all of them");
    valid.store(9, Ordering::SeqCst);
    let asked = server.asked().len();
    assert_eq!(rejected(one(&mut *good, "a")).code, "http_403", "a new token was not taken either");
    assert_eq!(server.asked().len(), asked + 3, "call, token, call");
    let fault = transient(one(&mut *step(&server.url(), &login("secret-but-wrong")), "a"));
    assert_eq!(fault.code, "http_login");
    assert!(fault.message.contains("answered 401") && !fault.message.contains("secret"), "{fault}");
}

#[test]
fn basic_and_bearer_credentials_are_sent_and_never_shown() {
    let server = WebServer::start(|_| Reply::bare(200));
    for (auth, sent) in [
        ("auth = { basic = { username = \"u\", password = \"p\" } }", "Basic dTpw"),
        ("auth = { bearer = { token = \"abc\" } }", "Bearer abc"),
    ] {
        emitted(one(&mut *step(&server.url(), auth), "a"));
        assert_eq!(server.asked().last().expect("it was asked").header("authorization"), sent);
        let shown = format!("{:?}", config(&server.url(), auth));
        assert!(shown.contains("hidden") && !shown.contains("abc") && !shown.contains("\"p\""), "{shown}");
    }
}

#[test]
fn records_of_a_batch_are_called_for_at_once_and_leave_in_order() {
    // The first answer waits until the second record is asked for, too.
    let (second, came) = oneshot::channel::<()>();
    let (second, came) = (Mutex::new(Some(second)), came.map(drop).boxed().shared());
    let server = WebServer::start(move |asked| {
        let reply = Reply::json(200, &asked.json());
        match asked.path.as_str() {
            "/things/0" => return Reply::When(came.clone(), Box::new(reply)),
            "/things/1" => drop(second.lock().take()),
            _ => {}
        }
        reply
    });
    let mut step = step(&server.url(), "body = '.'\nresponse = '.body.name'\nconcurrency = 2");
    let records: Vec<Record> = (0..9).map(|n| record(&n.to_string())).collect();
    let origins: Vec<Origin> = (0..9).map(origin).collect();
    let verdicts = step.run(&records, Some(&origins)).expect("all go");
    let names: Vec<Value> = verdicts.into_iter().map(|verdict| value(&emitted(Ok(verdict)))).collect();
    assert_eq!(names, (0..9).map(|n| json!(n.to_string())).collect::<Vec<_>>());
}

#[test]
fn what_went_well_is_not_called_again_when_the_batch_is() {
    let healed = Arc::new(AtomicUsize::new(0));
    let state = Arc::clone(&healed);
    let server = WebServer::start(move |asked| match asked.path.as_str() {
        "/things/bad" if state.load(Ordering::SeqCst) == 0 => Reply::bare(503),
        _ => Reply::bare(200),
    });
    let mut step = step(&server.url(), "");
    let records = [record("a"), record("bad"), record("b")];
    let origins = [origin(0), origin(1), origin(2)];
    assert_eq!(step.run(&records, Some(&origins)).expect_err("one may pass").code, "http_503");
    healed.store(1, Ordering::SeqCst);
    for at in 0..3 {
        let verdicts = step.run(&records[at..=at], Some(&origins[at..=at])).expect("one by one they go");
        assert!(matches!(verdicts[0], Verdict::Emit(_)));
    }
    let asked: Vec<String> = server.asked().into_iter().map(|asked| asked.path).collect();
    let count = |path: &str| asked.iter().filter(|asked| *asked == path).count();
    assert_eq!([count("/things/a"), count("/things/bad"), count("/things/b")], [1, 2, 1], "{asked:?}");
}

#[test]
fn an_open_breaker_calls_nobody_and_rejects_where_it_is_told_to() {
    let down = nowhere();
    let breaker = |open: &str| format!("breaker = {{ failures = 2, rest = \"1h\", open = \"{open}\" }}");
    let mut waits = step(&down, &breaker("retry"));
    for _ in 0..2 {
        assert_eq!(transient(one(&mut *waits, "a")).code, "http_unreachable");
    }
    let fault = transient(one(&mut *waits, "a"));
    assert!(fault.code == "circuit_open" && fault.message.contains("refused"), "{fault}");
    let mut rejects = step(&down, &breaker("reject"));
    for _ in 0..2 {
        assert_eq!(transient(one(&mut *rejects, "a")).code, "http_unreachable");
    }
    let fault = rejected(one(&mut *rejects, "a"));
    assert_eq!((&*fault.code, fault.class), ("circuit_open", FaultClass::Transient));
}

#[test]
fn a_host_that_asks_to_be_left_alone_is() {
    let server = WebServer::start(|_| Reply::Whole(429, vec![("retry-after".into(), "3600".into())], Vec::new()));
    let mut step = step(&server.url(), "breaker = { failures = 1, open = \"reject\" }\nretry_after_max = \"1h\"");
    assert_eq!(transient(one(&mut *step, "a")).code, "http_429");
    assert_eq!(transient(one(&mut *step, "a")).code, "http_retry_later", "that is no outage: nothing is rejected");
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn settings_that_cannot_work_are_told() {
    for (more, problem) in [
        ("body = '.'\nsend_value = true", "send_value: is given beside body"),
        ("headers = { \"a b\" = \"x\" }", "headers.a b: is no name"),
        ("headers = { Authorization = \"x\" }", "headers.Authorization: is set by the call itself"),
        ("record_headers = { host = '.h' }", "record_headers.host: is set by the call itself"),
        ("headers = { x-a = \"1\" }\nrecord_headers = { X-A = '.a' }", "record_headers.X-A: is given in headers, too"),
        ("timeout = \"28s\"", "timeout: must be above nothing and at most \"27000ms\""),
        ("connect_timeout = \"0s\"", "connect_timeout:"),
        ("concurrency = 0", "concurrency:"),
        ("response_max = \"65MiB\"", "response_max: must be \"1B\" to \"64MiB\""),
        ("success = [99]", "success: 99 is no status"),
        ("success = [409]\npoison = [409]", "poison: 409 is in success already"),
        ("breaker = { rest = \"0s\" }", "breaker:"),
        ("auth = { bearer = { token = \"\" } }", "auth.bearer.token:"),
        ("auth = { login = { url = \"x\", username = \"u\", password = \"p\" } }", "auth.login.url: is no URL"),
        (
            "auth = { login = { url = \"http://h/\", username = \"u\", password = \"p\", renew_on = [200] } }",
            "auth.login.renew_on:",
        ),
    ] {
        let problems = config("http://h", more).check(context());
        assert!(problems.len() == 1 && problems[0].starts_with(problem), "{more}: {problems:?}");
    }
    assert!(toml::from_str::<HttpConfig>("url = '\"http://'").is_err(), "an expression is compiled when it is read");
}
