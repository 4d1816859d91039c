//! Every limit of the edge: what is refused, how it is named, and that slow clients are cut.

use crate::harness::{BODY_MAX, Edge, PNG, RECORD_MAX, Sends, problem};
use crate::{PATIENCE, classify_problem};
use bulkhead::gateway::Limits;
use bulkhead::gateway::admission::Refusal;
use bulkhead_core::rate::RateSpec;
use reqwest::blocking::Client;
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

#[test]
fn a_gigabyte_is_refused_at_once_by_its_declared_length() {
    let edge = Edge::start();
    let head = "POST /api/classify HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n\
                Content-Length: 1073741824\r\n\r\n--x\r\n";
    let raw = edge.raw(std::iter::once(head.as_bytes().to_vec()));
    assert_eq!(raw.status(), "413", "{}", raw.answer);
    let detail = format!("The body is larger than the {BODY_MAX} bytes that this route takes.");
    assert_eq!(raw.problem(), classify_problem("body-too-large", "Body too large", 413, &detail));
    assert!(raw.answer.to_ascii_lowercase().contains("connection: close"), "{}", raw.answer);
}

#[test]
fn a_body_without_end_is_refused_at_the_limit_and_cut_off() {
    let edge = Edge::start();
    for (path, status, code) in [("/api/classify", "413", "body-too-large"), ("/nowhere", "404", "not-found")] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n\
             Transfer-Encoding: chunked\r\n\r\n"
        );
        let part = "--x\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n";
        let start = format!("{head}{:x}\r\n{part}\r\n", part.len()).into_bytes();
        let megabyte = [b"100000\r\n".as_slice(), &[0; 1 << 20], b"\r\n"].concat();
        // That this ends at all is the gateway's doing.
        let raw = edge.raw(std::iter::once(start).chain(std::iter::repeat(megabyte)));
        assert_eq!(raw.status(), status, "{}", raw.answer);
        assert_eq!(raw.problem()["type"], format!("urn:bulkhead:problem:{code}"));
    }
    assert_eq!(edge.sent().len(), 0);
    assert_eq!(edge.upload("file", PNG).status(), 202, "the gateway is as it was");
}

#[test]
fn a_body_of_the_whole_request_has_the_same_limits() {
    let edge = Edge::start();
    let post = |body: Vec<u8>, customer: Option<&str>| {
        let mut request = Client::new().post(edge.url("/orders/")).body(body);
        if let Some(customer) = customer {
            request = request.header("customer", customer);
        }
        request.send().expect("answered")
    };
    assert_eq!(post(vec![b'x'; 100], Some("c7")).status(), 202);
    let codes = [post(vec![b'x'; 101], Some("c7")), post(vec![], Some("c7")), post(vec![b'x'], None)]
        .map(|response| problem(response)["type"].as_str().map(|t| t.replace("urn:bulkhead:problem:", "")));
    assert_eq!(codes.map(Option::unwrap), ["body-too-large", "empty-body", "missing-header"]);
}

#[test]
fn a_record_that_the_log_would_refuse_is_refused_first() {
    let edge = Edge::start();
    let response = edge.upload("file", [PNG, &vec![0; RECORD_MAX]].concat());
    assert_eq!(response.status(), 413);
    let document = problem(response);
    assert_eq!(document["type"], "urn:bulkhead:problem:record-too-large");
    assert!(document["detail"].as_str().unwrap_or_default().ends_with(&format!("the log takes {RECORD_MAX}.")));
    assert_eq!(edge.sent().len(), 0);
}

#[test]
fn more_bodies_than_there_is_room_for_are_refused_before_they_are_read() {
    let limits = Limits { workers: 1, bodies_bytes_max: BODY_MAX, ..Limits::default() };
    let edge = Edge::limited(limits);
    let (held, holds) = mpsc::channel();
    *edge.producer.sends.lock() = Sends::Hold(Arc::new(held.into()));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| edge.upload("file", [PNG, &vec![0; BODY_MAX / 2]].concat()).status());
        let release = holds.recv_timeout(PATIENCE).expect("the first upload reaches the producer");
        let refused = edge.upload("file", [PNG, &vec![0; BODY_MAX / 2]].concat());
        assert_eq!((refused.status().as_u16(), refused.headers().contains_key("retry-after")), (503, true));
        assert_eq!(problem(refused)["type"], "urn:bulkhead:problem:overloaded");
        release.send(()).expect("the first upload waits");
        assert_eq!(first.join().expect("no panic"), 202);
    });
    *edge.producer.sends.lock() = Sends::Acknowledge;
    assert_eq!(edge.upload("file", PNG).status(), 202, "room is given back");
}

#[test]
fn a_body_that_does_not_come_is_given_up() {
    let edge = Edge::limited(Limits { workers: 1, body_timeout: Duration::from_millis(50), ..Limits::default() });
    let head = "POST /api/classify HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n\
                Content-Length: 1000\r\n\r\n--x\r\n";
    let raw = edge.raw(std::iter::once(head.as_bytes().to_vec()));
    assert_eq!((raw.status(), &raw.problem()["type"]), ("408", &json!("urn:bulkhead:problem:slow-body")));
}

/// A head that declares a body which never comes.
const HEAD: &str = "POST /api/classify HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n\
                    Content-Length: 1000\r\n\r\n";

#[test]
fn what_cannot_be_taken_is_refused_unread() {
    let edge = Edge::start();
    for (refusal, code, detail) in [
        (Refusal::LogAway, "log-unavailable", "Nothing was stored; try again."),
        (
            Refusal::Backlog { records: 12, records_max: 10 },
            "backlog-full",
            "About 12 records wait for this pipeline, which takes no more above 10.",
        ),
    ] {
        *edge.pressure.0.lock() = Some(refusal);
        // The body never comes, so an answer shows that nobody waited for it.
        let raw = edge.raw(std::iter::once(HEAD.as_bytes().to_vec()));
        assert_eq!((raw.status(), &raw.problem()["detail"]), ("503", &json!(detail)));
        assert_eq!(raw.problem()["type"], format!("urn:bulkhead:problem:{code}"));
        assert!(raw.answer.contains("retry-after: 1\r\n"), "{}", raw.answer);
    }
    *edge.pressure.0.lock() = None;
    assert_eq!(edge.upload("file", PNG).status(), 202);
}

#[test]
fn more_requests_at_once_than_may_be_are_refused_unread() {
    let edge = Edge::limited(Limits { workers: 1, requests_max: 1, ..Limits::default() });
    let (held, holds) = mpsc::channel();
    *edge.producer.sends.lock() = Sends::Hold(Arc::new(held.into()));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| edge.upload("file", PNG).status());
        let release = holds.recv_timeout(PATIENCE).expect("the first upload reaches the producer");
        let raw = edge.raw(std::iter::once(HEAD.as_bytes().to_vec()));
        assert_eq!((raw.status(), &raw.problem()["type"]), ("503", &json!("urn:bulkhead:problem:overloaded")));
        release.send(()).expect("the first upload waits");
        assert_eq!(first.join().expect("no panic"), 202);
    });
}

#[test]
fn a_client_that_comes_too_often_is_told_when_to_come_again() {
    let rate = Some(RateSpec { per_second: 1, burst: 2, clients_max: 10 });
    let edge = Edge::limited(Limits { workers: 1, rate, ..Limits::default() });
    let statuses: Vec<_> = (0..3).map(|_| edge.upload("file", PNG)).collect();
    assert_eq!(statuses.iter().map(|r| r.status().as_u16()).collect::<Vec<_>>(), [202, 202, 429]);
    let refused = statuses.into_iter().next_back().expect("three");
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(problem(refused)["type"], "urn:bulkhead:problem:too-many-requests");
    assert_eq!(edge.sent().len(), 2);
}

#[test]
fn tenants_have_a_rate_each() {
    let rate = Some(RateSpec { per_second: 1, burst: 1, clients_max: 10 });
    let edge = Edge::with(Limits { workers: 1, rate, ..Limits::default() }, Some("x-tenant".to_owned()));
    let post = |tenant| {
        let request = Client::new().post(edge.url("/payments/")).header("x-tenant", tenant);
        request.header("idempotency-key", "k").body("x").send().expect("answered").status().as_u16()
    };
    assert_eq!([post("acme"), post("acme"), post("zeta")], [202, 429, 202]);
}

#[test]
fn more_connections_than_may_be_open_wait_for_their_turn() {
    let idle = Duration::from_secs(1);
    let limits = Limits { connections_max: 1, head_timeout: idle, idle_timeout: idle, ..Limits::default() };
    let edge = Edge::limited(Limits { workers: 1, ..limits });
    let started = Instant::now();
    let silent = [(); 2].map(|()| TcpStream::connect(edge.address).expect("listens"));
    assert_eq!(edge.upload("file", PNG).status(), 202);
    // Each of those before it was accepted, said nothing, and was cut; actix's clock may be half a second ahead.
    assert!(started.elapsed() >= idle / 2, "{:?}", started.elapsed());
    drop(silent);
}

/// Writes pieces with a pause between them until the gateway closes, and tells how long that took and what it said.
fn trickle(edge: &Edge, first: &[u8], piece: &[u8], pause: Duration) -> (Duration, String) {
    let mut stream = TcpStream::connect(edge.address).expect("listens");
    stream.write_all(first).expect("the gateway reads");
    stream.set_read_timeout(Some(pause)).expect("a socket option");
    let (started, mut answer, mut buffer) = (Instant::now(), Vec::new(), [0; 4096]);
    loop {
        assert!(started.elapsed() < PATIENCE, "never cut");
        // The read is the pause: it ends when there is something to read, or the gateway closes.
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    (started.elapsed(), String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn slow_clients_are_cut_at_every_stage_of_a_request() {
    let short = Duration::from_secs(1);
    let limits = Limits { head_timeout: short, body_timeout: short, idle_timeout: short, ..Limits::default() };
    let edge = Edge::limited(Limits { workers: 1, ..limits });
    let pause = Duration::from_millis(100);
    let most = Duration::from_secs(15);

    let (took, answer) = trickle(&edge, b"GET /nowhere HTTP/1.1\r\n", b"X-A: b\r\n", pause);
    assert!(took < most && answer.starts_with("HTTP/1.1 408"), "a first head: {took:?} {answer}");
    let (took, answer) = trickle(&edge, HEAD.as_bytes(), b"-", pause);
    assert!(took < most && answer.starts_with("HTTP/1.1 408"), "a body: {took:?} {answer}");
    assert!(answer.contains("urn:bulkhead:problem:slow-body"), "{answer}");
    let head = b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n";
    // A byte at a time: neither the number of fields nor the size of the head ends it.
    let (took, answer) = trickle(&edge, &[head.as_slice(), b"GET / HTTP/1.1\r\nX-A: "].concat(), b"b", pause);
    assert!(took < most && answer.matches("HTTP/1.1").count() == 1, "a later head: {took:?} {answer}");
    let (took, _) = trickle(&edge, head, b"", pause);
    assert!(took < most, "a silent connection: {took:?}");
    assert_eq!(edge.upload("file", PNG).status(), 202, "the gateway is as it was");
}

#[test]
fn a_request_that_is_being_served_is_not_cut() {
    let short = Duration::from_secs(1);
    let edge = Edge::limited(Limits { workers: 1, head_timeout: short, idle_timeout: short, ..Limits::default() });
    let (held, holds) = mpsc::channel();
    *edge.producer.sends.lock() = Sends::Hold(Arc::new(held.into()));
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| edge.upload("file", PNG).status());
        let release = holds.recv_timeout(PATIENCE).expect("the upload reaches the producer");
        // Meanwhile another connection is cut for its silence: the time for it has passed.
        trickle(&edge, b"", b"", Duration::from_millis(20));
        trickle(&edge, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"", Duration::from_millis(20));
        release.send(()).expect("the upload waits");
        assert_eq!(slow.join().expect("no panic"), 202);
    });
}
