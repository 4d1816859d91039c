//! Waiting for a job: long polls, answers that wait, streams of events and their resumption, raw pictures on the way.

use crate::PATIENCE;
use crate::harness::{Edge, PNG, SCOPE, Sends, WAIT_MAX, problem};
use bulkhead::gateway::Limits;
use bulkhead_core::ids::Round;
use bulkhead_core::job_id::JobId;
use bulkhead_core::jobs::{JobError, JobName, JobOutcome, Sighting};
use bulkhead_core::ledger::fingerprint;
use bulkhead_core::time::WallMs;
use bulkhead_testkit::process::eventually;
use reqwest::blocking::{Client, Response};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

fn end(edge: &Edge, id: JobId, round: u32, outcome: JobOutcome) {
    let name = JobName::Id(id);
    let ended = WallMs(4_000_000_000_000);
    edge.jobs.see(vec![Sighting { name, round: Round(round), accepted: None, ended, fingerprint: None, outcome }]);
}

fn completed() -> JobOutcome {
    JobOutcome::Completed(r#"{"label":"7"}"#.into())
}

fn failed(code: &str) -> JobOutcome {
    JobOutcome::Failed(JobError { code: code.into(), ..JobError::default() })
}

fn issued(edge: &Edge, n: u8) -> JobId {
    edge.ids.random(SCOPE, WallMs(i64::MAX), [n; 10])
}

/// Waits until so many requests wait for jobs.
fn until_waiting(edge: &Edge, count: i64) {
    eventually(&format!("{count} requests wait"), PATIENCE, || {
        let waiting = edge.metrics.http_waiting.with([]).get();
        if waiting == count { Ok(()) } else { Err(format!("{waiting} do")) }
    });
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

fn get(edge: &Edge, path: &str, prefer: &str) -> Response {
    Client::new().get(edge.url(path)).header("Prefer", prefer).send().expect("answered")
}

#[test]
fn a_long_poll_ends_with_its_job() {
    let edge = Edge::start();
    let id = issued(&edge, 1);
    let path = format!("/api/results/{id}");
    std::thread::scope(|scope| {
        let poll = scope.spawn(|| get(&edge, &path, "wait=3600"));
        until_waiting(&edge, 1);
        end(&edge, id, 0, completed());
        let response = poll.join().expect("no panic");
        assert_eq!(header(&response, "preference-applied"), Some(&*format!("wait={}", WAIT_MAX.as_secs())));
        assert_eq!(response.json::<Value>().expect("JSON")["status"], "completed");
    });
    until_waiting(&edge, 0);
    let again = get(&edge, &path, "wait=5");
    assert_eq!((header(&again, "preference-applied"), header(&again, "retry-after")), (Some("wait=5"), None));
}

#[test]
fn a_long_poll_ends_with_its_time() {
    let edge = Edge::start();
    let response = get(&edge, &format!("/api/results/{}", issued(&edge, 1)), "wait=1");
    assert_eq!((response.status().as_u16(), header(&response, "retry-after")), (200, Some("1")));
    assert_eq!(response.json::<Value>().expect("JSON")["status"], "pending");
}

#[test]
fn more_waits_than_may_be_are_answered_at_once_and_streams_refused() {
    let edge = Edge::limited(Limits { workers: 1, waiting_max: 1, ..Limits::default() });
    let (one, two) = (issued(&edge, 1), issued(&edge, 2));
    std::thread::scope(|scope| {
        let poll = scope.spawn(|| get(&edge, &format!("/api/results/{one}"), "wait=60").status());
        until_waiting(&edge, 1);
        let second = get(&edge, &format!("/api/results/{two}"), "wait=60");
        assert_eq!(second.json::<Value>().expect("JSON")["status"], "pending");
        let stream = edge.get(&format!("/api/results/{two}/events"));
        assert_eq!((stream.status().as_u16(), header(&stream, "retry-after")), (503, Some("1")));
        assert_eq!(problem(stream)["type"], "urn:bulkhead:problem:too-many-waiting");
        end(&edge, one, 0, completed());
        assert_eq!(poll.join().expect("no panic"), 200);
    });
}

/// Posts the picture as the body itself, and answers with the job's id once the record is in the log.
fn post(edge: &Edge, path: &str, prefer: Option<&str>) -> Response {
    let mut request = Client::new().post(edge.url(path)).header("Content-Type", "image/png").body(PNG);
    if let Some(prefer) = prefer {
        request = request.header("Prefer", prefer);
    }
    request.send().expect("answered")
}

#[test]
fn an_answer_waits_where_the_route_or_the_client_says_so() {
    let edge = Edge::start();
    for (path, prefer, applied) in [("/sync/classify", None, None), ("/api/classify", Some("wait=20"), Some("wait=20"))]
    {
        edge.producer.sent.lock().clear();
        std::thread::scope(|scope| {
            let posted = scope.spawn(|| post(&edge, path, prefer));
            until_waiting(&edge, 1);
            let id: JobId = {
                let sent = edge.sent();
                let id = sent[0].record.header("__bulkhead.id").expect("set");
                std::str::from_utf8(id).expect("text").parse().expect("an id")
            };
            end(&edge, id, 0, failed("undecodable_image"));
            let response = posted.join().expect("no panic");
            assert_eq!((response.status().as_u16(), header(&response, "preference-applied")), (200, applied));
            assert_eq!(header(&response, "content-location"), Some(&*format!("/api/results/{id}")));
            let job: Value = response.json().expect("JSON");
            assert_eq!((&job["status"], &job["error"]["code"]), (&json!("failed"), &json!("undecodable_image")));
        });
    }
    for (path, prefer, applied) in [
        ("/sync/classify", Some("respond-async"), Some("respond-async")),
        ("/sync/classify", Some("wait=1"), Some("wait=1")),
        ("/api/classify", Some("respond-async, wait=1"), Some("respond-async, wait=1")),
        ("/api/classify", None, None),
    ] {
        let response = post(&edge, path, prefer);
        assert_eq!((response.status().as_u16(), header(&response, "preference-applied")), (202, applied), "{prefer:?}");
        assert!(header(&response, "location").is_some() && header(&response, "retry-after") == Some("1"));
    }
}

#[test]
fn a_waiting_request_leaves_its_place_to_others_and_a_drain_does_not_wait_for_it() {
    let edge = Edge::limited(Limits { workers: 1, requests_max: 1, ..Limits::default() });
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| post(&edge, "/sync/classify", None).status());
        until_waiting(&edge, 1);
        assert_eq!(post(&edge, "/api/classify", None).status(), 202);
        let started = Instant::now();
        edge.handle.refuse();
        assert_eq!(waiting.join().expect("no panic"), 202);
        assert!(started.elapsed() < WAIT_MAX, "not the full wait");
    });
}

/// Two gateways took one key with two payloads, and the ledger had the other one first.
#[test]
fn a_waiting_request_is_told_that_its_key_was_for_another_payload() {
    let edge = Edge::start();
    std::thread::scope(|scope| {
        let posted = scope.spawn(|| {
            let request = Client::new().post(edge.url("/orders/")).header("customer", "c7").header("Prefer", "wait=20");
            request.header("Idempotency-Key", "k").body("mine").send().expect("answered")
        });
        until_waiting(&edge, 1);
        let id = edge.ids.from_key(SCOPE, "/orders/", "k");
        end(&edge, id, 0, failed("conflict"));
        let (name, ended, fingerprint) = (JobName::Id(id), WallMs(1), Some(fingerprint(b"theirs")));
        let outcome = completed();
        edge.jobs.see(vec![Sighting { name, round: Round(0), accepted: None, ended, fingerprint, outcome }]);
        let response = posted.join().expect("no panic");
        assert_eq!(response.status(), 422);
    });
}

#[test]
fn a_body_that_is_declared_a_picture_is_the_picture() {
    let edge = Edge::start();
    assert_eq!(post(&edge, "/api/classify", None).status(), 202);
    let [sent] = &edge.sent()[..] else { panic!("one record") };
    assert_eq!(
        (sent.record.payload(), &sent.record.header("content-type").expect("set")[..]),
        (PNG, &b"image/png"[..])
    );
    let send = |kind: &str, body: &'static [u8]| {
        let request = Client::new().post(edge.url("/api/classify")).header("Content-Type", kind).body(body);
        let response = request.send().expect("answered");
        let status = response.status().as_u16();
        (status, problem(response)["detail"].as_str().unwrap_or_default().to_owned())
    };
    let none = "This route takes image/png, image/jpeg; the content, whatever its name, is none of them.";
    assert_eq!(send("image/png", b"no picture"), (415, none.into()));
    let other = "This route takes multipart/form-data with the file in the field \"file\", or the file itself as \
                 image/png, image/jpeg.";
    assert_eq!(send("image/gif", b"GIF89a"), (415, other.into()));
    assert_eq!(send("image/png", b"").0, 400);
}

/// An open stream of events.
struct Events {
    lines: std::io::Lines<BufReader<Response>>,
}

impl Events {
    fn open(edge: &Edge, id: JobId, last: Option<&str>) -> Self {
        let mut request = Client::new().get(edge.url(&format!("/api/results/{id}/events")));
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let response = request.send().expect("answered");
        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, "content-type"), Some("text/event-stream"));
        assert_eq!(header(&response, "cache-control"), Some("no-store"));
        Self { lines: BufReader::new(response).lines() }
    }

    /// The next block of lines; `None` at the end.
    fn next(&mut self) -> Option<Vec<String>> {
        let lines: Vec<String> =
            self.lines.by_ref().map(|line| line.expect("text")).take_while(|line| !line.is_empty()).collect();
        (!lines.is_empty()).then_some(lines)
    }

    /// The next event's id, name and status.
    fn event(&mut self) -> Option<(String, String, Value)> {
        let lines = self.next()?;
        let [id, name, data] = &lines[..] else { panic!("no event: {lines:?}") };
        let field = |line: &str, name: &str| line.strip_prefix(name).expect("a field in its place").to_owned();
        let document: Value = serde_json::from_str(&field(data, "data: ")).expect("JSON");
        Some((field(id, "id: "), field(name, "event: "), document["status"].clone()))
    }
}

#[test]
fn a_stream_tells_a_jobs_news_and_ends() {
    let edge = Edge::start();
    let id = issued(&edge, 1);
    let mut events = Events::open(&edge, id, None);
    assert_eq!(events.next().expect("a first block"), ["retry: 1000"]);
    assert_eq!(events.event(), Some(("0".into(), "pending".into(), json!("pending"))));
    end(&edge, id, 0, failed("conflict"));
    end(&edge, id, 0, completed());
    assert_eq!(events.event(), Some(("1".into(), "completed".into(), json!("completed"))), "a conflict is no end");
    assert_eq!(events.next(), None, "the stream ends with the job");
    until_waiting(&edge, 0);
}

#[test]
fn a_client_that_comes_again_gets_what_it_missed() {
    let edge = Edge::start();
    let id = issued(&edge, 1);
    let mut cut = Events::open(&edge, id, None);
    cut.next();
    assert_eq!(cut.event().expect("the job is pending").0, "0");
    drop(cut);
    let mut waits = Events::open(&edge, id, Some("0"));
    waits.next();
    end(&edge, id, 0, failed("bad"));
    assert_eq!(waits.event().expect("no second pending").0, "1");
    let mut late = Events::open(&edge, id, Some("0"));
    late.next();
    assert_eq!(late.event(), Some(("1".into(), "failed".into(), json!("failed"))));
    let again = |last: &str| {
        let request = Client::new().get(edge.url(&format!("/api/results/{id}/events"))).header("Last-Event-ID", last);
        request.send().expect("answered").status().as_u16()
    };
    assert_eq!(again("1"), 204, "a browser that has it all is told not to come again");
    // A redrive brings another outcome.
    end(&edge, id, 1, completed());
    let mut redriven = Events::open(&edge, id, Some("1"));
    redriven.next();
    assert_eq!(redriven.event(), Some(("2".into(), "completed".into(), json!("completed"))));
    assert_eq!(edge.get("/api/results/garbage/events").status(), 404);
    let old = edge.ids.random(SCOPE, WallMs(1_000), [1; 10]);
    assert_eq!(edge.get(&format!("/api/results/{old}/events")).status(), 410);
}

#[test]
fn a_silent_stream_has_a_heart_and_an_end() {
    let limits =
        Limits { heartbeat: Duration::from_millis(50), stream_max: Duration::from_millis(500), ..Limits::default() };
    let edge = Edge::limited(Limits { workers: 1, ..limits });
    let mut events = Events::open(&edge, issued(&edge, 1), Some("0"));
    events.next();
    let mut beats = 0;
    while let Some(block) = events.next() {
        assert_eq!(block, [":"]);
        beats += 1;
    }
    assert!((1..=10).contains(&beats), "{beats}");
    until_waiting(&edge, 0);
}

#[test]
fn a_drain_ends_streams() {
    let edge = Edge::start();
    let mut events = Events::open(&edge, issued(&edge, 1), Some("0"));
    events.next();
    edge.handle.refuse();
    assert_eq!(events.next(), None);
}

#[test]
fn a_strict_route_says_that_the_first_request_still_waits() {
    let edge = Edge::start();
    let (held, holds) = mpsc::channel();
    *edge.producer.sends.lock() = Sends::Hold(Arc::new(held.into()));
    let pay = || {
        let request =
            Client::new().post(edge.url("/payments/")).header("Idempotency-Key", "k").header("Prefer", "wait=20");
        request.body("x").send().expect("answered")
    };
    std::thread::scope(|scope| {
        let first = scope.spawn(pay);
        holds.recv_timeout(PATIENCE).expect("it reaches the producer").send(()).expect("it waits");
        until_waiting(&edge, 1);
        assert_eq!(pay().status(), 409, "accepted, but not answered");
        let id = edge.ids.from_key(SCOPE, "/payments/", "k");
        end(&edge, id, 0, completed());
        assert_eq!(first.join().expect("no panic").status(), 200);
    });
    let again = pay();
    assert_eq!((again.status().as_u16(), header(&again, "idempotency-replayed")), (200, Some("true")));
}
