//! Queries' own keys: the same query again is the same job and says so; another under its key is refused.

use crate::rig::{On, PATIENCE, Rig, client, ended};
use crate::socket::Socket;
use bulkhead_testkit::daemon::Daemon;
use bulkhead_testkit::process::eventually;
use reqwest::blocking::Response;
use serde_json::{Value, json};

fn keyed(daemon: &Daemon, session: Option<&str>, text: &str) -> Response {
    let request =
        client().post(daemon.url("/messages")).json(&json!({ "text": text })).header("Idempotency-Key", "k-1");
    session.iter().fold(request, |request, session| request.header("x-session", *session)).send().expect("answered")
}

/// Whether it is an earlier answer again, and the answer.
fn taken(response: Response) -> (bool, Value) {
    let header = |name: &str| response.headers().get(name).map(|value| value.to_str().expect("text").to_owned());
    assert_eq!(header("Idempotency-Key-TTL").as_deref(), Some("3600"), "as long as the ledger knows it");
    let (is_replay, status) = (header("Idempotency-Replayed").as_deref() == Some("true"), response.status());
    let body: Value = response.json().expect("JSON");
    assert_eq!(status, 202, "{body}");
    (is_replay, body)
}

fn reused(response: Response) {
    let (status, problem) = (response.status(), response.json::<Value>().expect("a problem document"));
    assert_eq!((status.as_u16(), &problem["type"]), (422, &json!("urn:bulkhead:problem:idempotency-key-reused")));
}

fn a_key_is_one_query_of_its_session(on: On) {
    let rig = Rig::new(on, &[]);
    let daemon = rig.start();
    let (is_replay, first) = taken(keyed(&daemon, None, "What is a lane?"));
    assert!(!is_replay);
    let session = first["session"].as_str();
    assert_eq!(taken(keyed(&daemon, session, "What is a lane?")), (true, first.clone()));
    reused(keyed(&daemon, session, "What is a ledger?"));
    let (is_replay, other) = taken(keyed(&daemon, None, "What is a ledger?"));
    assert!(!is_replay && other["jobId"] != first["jobId"], "a key is its session's: {other}");
    ended(&daemon, &first);
    daemon.sigkill();

    let daemon = rig.start();
    assert_eq!(taken(keyed(&daemon, session, "What is a lane?")), (true, first.clone()), "its outcome is known");
    reused(keyed(&daemon, session, "What is a ledger?"));
}

#[test]
fn a_key_is_one_query_on_the_embedded_log() {
    a_key_is_one_query_of_its_session(On::Embedded);
}

#[test]
fn a_key_is_one_query_on_kafka() {
    a_key_is_one_query_of_its_session(On::Kafka);
}

#[test]
fn an_id_of_a_socket_is_one_query() {
    let rig = Rig::new(On::Embedded, &[]);
    let daemon = rig.start();
    // Ready means that answers are read, so that a socket opens at once.
    let mut socket = Socket::try_open(&daemon.url("/ws/chat"), &[]).map_err(|(_, why)| why).expect("it opens");
    socket.ask("What is a lane?", "q");
    let first = socket.wait_for("accepted");
    socket.ask("What is a ledger?", "q");
    let refused = socket.wait_for("error");
    assert_eq!((&refused["id"], &refused["code"]), (&json!("q"), &json!("idempotency-key-reused")), "{refused}");
    socket.ask("What is a lane?", "q");
    assert_eq!(socket.wait_for("accepted")["jobId"], first["jobId"]);
    let open = || daemon.metrics().get("bulkhead_sockets_open{pipeline=\"chat\"}").copied();
    assert_eq!(open(), Some(1.0));
    drop(socket);
    eventually("its end is counted", PATIENCE, || match open() {
        Some(0.0) => Ok(()),
        other => Err(format!("{other:?} are open")),
    });
}
