//! With an Airflow that the test plays: every way for it to be down, slow or wrong, and every wrong upload.

use crate::rig::{Answer, On, PATIENCE, PICTURE, Played, Uploads, for_airflow_2, form, queued};
use bulkhead_core::record::{Header, ID_HEADER, Record};
use bulkhead_testkit::kafka::Kafka;
use bulkhead_testkit::process::eventually;
use bulkhead_testkit::topics::{Isolation, Stored};
use bulkhead_testkit::web::{Reply, WebServer};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// A short wait for results that never come.
const SHORT: (&str, &str) = ("wait_max = \"30s\"", "wait_max = \"1s\"");

fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    format!("http://{}", listener.local_addr().expect("it is bound"))
}

fn text<'a>(record: &'a Record, header: &str) -> &'a str {
    std::str::from_utf8(record.header(header).unwrap_or_else(|| panic!("no header {header}"))).expect("it is text")
}

/// Airflow is down: told within seconds, then at once; the job has failed.
fn down(on: On) -> (Uploads, String) {
    let uploads = Uploads::start(on, &nowhere(), &[]);
    let first = uploads.upload(PICTURE, &[]);
    assert_eq!(first.status, 503, "{first:?}");
    assert!(first.detail().contains("refused"), "the reason is told: {first:?}");
    let job = uploads.job(first.job());
    assert_eq!(job["status"], "failed", "{job}");
    // The breaker has opened by now, or does with one of these: they are told at once.
    let second = uploads.upload(PICTURE, &[]);
    let begun = Instant::now();
    let third = uploads.upload(PICTURE, &[]);
    assert_eq!((second.status, third.status), (503, 503), "{second:?} {third:?}");
    assert_eq!(third.body["code"], "circuit_open", "{third:?}");
    assert!(third.detail().contains("refused"), "{third:?}");
    assert!(begun.elapsed() < Duration::from_secs(3), "an outage makes nobody wait: {:?}", begun.elapsed());
    let id = first.job().to_owned();
    (uploads, id)
}

#[test]
fn airflow_that_is_down_is_told_on_the_embedded_log() {
    drop(down(On::Embedded));
}

#[test]
fn airflow_that_is_down_is_told_on_kafka_and_the_picture_is_a_dead_letter() {
    let (_uploads, id) = down(On::Kafka("down"));
    let letter = eventually("the picture is a dead letter", PATIENCE, || {
        let letters = Kafka::shared().read_topic("down.failed", Isolation::Committed);
        letters.into_iter().find(|letter| text(&letter.record, ID_HEADER) == id).ok_or("it is not there".to_owned())
    });
    assert_eq!(&letter.record.payload()[..3], b"\xff\xd8\xff", "the picture as it was sent on");
    assert_eq!(text(&letter.record, "content-type"), "image/jpeg");
    assert_eq!(text(&letter.record, "__bulkhead.errors.class"), "transient");
    assert_eq!(text(&letter.record, "__bulkhead.errors.stage"), "trigger");
    assert_eq!(text(&letter.record, "dag_id"), "object_detection_single_task");
}

#[test]
fn airflow_that_hangs_is_told_as_a_bad_gateway() {
    let airflow = Played::start(|_| Reply::Hang);
    let quicker = [("timeout = \"5s\"", "timeout = \"300ms\"")];
    let uploads = Uploads::start(On::Embedded, &airflow.server.url(), &quicker);
    let answer = uploads.upload(PICTURE, &[]);
    assert!([502, 503].contains(&answer.status), "{answer:?}");
    assert!(answer.detail().contains("no answer in time"), "{answer:?}");
}

#[test]
fn airflow_is_asked_once_for_a_run_that_locates_the_picture() {
    let airflow = Played::start(queued);
    let uploads = Uploads::start(On::Embedded, &airflow.server.url(), &[SHORT]);
    let late = uploads.upload(PICTURE, &[("dag_id", "my_dag.v2")]);
    assert_eq!(late.status, 504, "nobody answers: {late:?}");
    assert!(late.detail().contains("embedded log"), "why no DAG can answer is told: {late:?}");
    assert_eq!(late.location, format!("/uploads/{}", late.job()));
    assert_eq!(uploads.job(late.job())["status"], "pending", "the job goes on");
    let runs = airflow.runs();
    assert_eq!(runs.len(), 1, "{runs:?}");
    assert_eq!(runs[0].path, "/api/v2/dags/my_dag.v2/dagRuns");
    let asked = runs[0].json();
    assert_eq!((asked["dag_run_id"].as_str(), &asked["logical_date"]), (Some(late.job()), &Value::Null));
    let conf = &asked["conf"];
    assert_eq!((conf["job_id"].as_str(), conf["topic"].as_str()), (Some(late.job()), Some("images")));
    assert!(conf["partition"].is_u64() && conf["offset"].is_u64(), "{conf}");
    assert_eq!(runs[0].header("idempotency-key"), late.job());
}

#[test]
fn a_client_that_does_not_want_to_wait_is_answered_at_once() {
    let airflow = Played::start(queued);
    let uploads = Uploads::start(On::Embedded, &airflow.server.url(), &[]);
    let request = uploads.post("/upload/?dag_id=by_query").header("Prefer", "respond-async");
    let answer = Answer::of(request.multipart(form(PICTURE, &[])).send().expect("it is answered"));
    assert_eq!(
        (answer.status, answer.location),
        (202, format!("/uploads/{}", answer.body["jobId"].as_str().unwrap_or("?")))
    );
    eventually("the run is asked for", PATIENCE, || match &airflow.runs()[..] {
        [run] if run.path == "/api/v2/dags/by_query/dagRuns" => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn a_run_that_is_there_already_is_this_one_and_a_token_that_ran_out_is_renewed() {
    let airflow = Played::start(|asked| match asked.header("authorization") {
        "Bearer t1" => Reply::json(403, &json!({ "detail": "Invalid JWT token" })),
        _ => Reply::json(409, &json!({ "detail": "it exists" })),
    });
    let uploads = Uploads::start(On::Embedded, &airflow.server.url(), &[SHORT]);
    let late = uploads.upload(PICTURE, &[]);
    assert_eq!(late.status, 504, "409 is a success, so the result is waited for: {late:?}");
    assert_eq!((airflow.logins(), airflow.runs().len()), (2, 2), "one token ran out and was renewed");
}

#[test]
fn a_dag_that_airflow_does_not_know_is_the_clients_fault() {
    let airflow = Played::start(|_| Reply::json(404, &json!({ "detail": "Dag with dag_id: 'nodag' not found" })));
    let uploads = Uploads::start(On::Embedded, &airflow.server.url(), &[]);
    let answer = uploads.upload(PICTURE, &[("dag_id", "nodag")]);
    assert_eq!((answer.status, answer.body["code"].as_str()), (422, Some("http_404")), "{answer:?}");
    assert!(answer.detail().contains("'nodag' not found"), "{answer:?}");
}

#[test]
fn a_wrong_upload_is_refused_with_what_is_wrong_and_nothing_is_asked_of_airflow() {
    let airflow = Played::start(queued);
    let uploads = Uploads::start(On::Embedded, &airflow.server.url(), &[]);
    let half = &PICTURE[..PICTURE.len() / 2];
    let long = "x".repeat(201);
    for (file, fields, status, told) in [
        (b"GIF89a".as_slice(), vec![], 415, "image/jpeg, image/png"),
        (b"".as_slice(), vec![], 400, "0 bytes"),
        (half, vec![], 422, "Png"),
        (PICTURE, vec![("dag_id", "../../users")], 400, "dag_id"),
        (PICTURE, vec![("dag_id", "")], 400, "dag_id"),
        (PICTURE, vec![("dag_id", long.as_str())], 400, "dag_id"),
        (PICTURE, vec![("dag_id", "a"), ("dag_id", "b")], 400, "more than once"),
    ] {
        let answer = uploads.upload(file, &fields);
        assert_eq!(answer.status, status, "{fields:?}: {answer:?}");
        assert!(answer.detail().contains(told), "{fields:?}: {answer:?}");
    }
    let request = uploads.post("/upload/").multipart(reqwest::blocking::multipart::Form::new().text("photo", "x"));
    let answer = Answer::of(request.send().expect("it is answered"));
    assert!(answer.status == 400 && answer.detail().contains("\"file\""), "{answer:?}");
    assert!(airflow.server.asked().is_empty(), "{:?}", airflow.server.asked());
}

#[test]
fn airflow_2_is_asked_in_its_own_way() {
    let basic = WebServer::start(queued);
    let (from, to) = for_airflow_2();
    let uploads = Uploads::start(On::Embedded, &basic.url(), &[(&from, &to), SHORT]);
    let late = uploads.upload(PICTURE, &[]);
    assert_eq!(late.status, 504, "{late:?}");
    let asked = basic.asked();
    assert_eq!((asked.len(), asked[0].path.as_str()), (1, "/api/v1/dags/object_detection_single_task/dagRuns"));
    assert_eq!(asked[0].header("authorization"), "Basic YWlyZmxvdzphaXJmbG93");
    assert!(asked[0].json().get("logical_date").is_none());
}

/// A record in the topic of results, as a DAG writes it.
fn report(id: &str, errors: &[(&str, &str)], value: &Value) -> Record {
    let mut headers = vec![Header::new(ID_HEADER, id.to_owned())];
    headers.extend(
        errors.iter().map(|(name, text)| Header::new(&format!("__bulkhead.errors.{name}"), (*text).to_owned())),
    );
    Record { value: Some(value.to_string().into()), headers, ..Record::default() }
}

/// What a DAG would read: the record that a run's `conf` locates.
fn located(conf: &Value) -> Stored {
    let stored = Kafka::shared().read_topic("told", Isolation::Committed);
    let is_it = |stored: &Stored| {
        (i64::from(stored.partition.0), stored.offset.0)
            == (conf["partition"].as_i64().unwrap_or(-1), conf["offset"].as_i64().unwrap_or(-1))
    };
    stored.into_iter().find(is_it).expect("the conf locates a record")
}

#[test]
fn what_is_reported_on_the_topic_of_results_is_the_answer() {
    let airflow = Played::start(|asked| {
        let conf = asked.json()["conf"].clone();
        let (id, stored) = (conf["job_id"].as_str().unwrap_or_default().to_owned(), located(&conf));
        assert_eq!(text(&stored.record, ID_HEADER), id);
        let errors: &[(&str, &str)] = match text(&stored.record, "dag_id") {
            "fails" => &[("code", "dag_failed"), ("message", "the task ended with 1"), ("class", "fatal")],
            "refuses" => &[("code", "too_dark"), ("message", "nothing can be seen"), ("class", "poison")],
            _ => &[],
        };
        let value = json!({ "objects": [], "bytes": stored.record.payload().len() });
        // Told twice, and the second time otherwise: the first counts.
        let second = report(&id, &[], &json!("late"));
        Kafka::shared().produce("told.results", [(Some(0), report(&id, errors, &value)), (Some(0), second)]);
        queued(asked)
    });
    let longer = [("wait_max = \"30s\"", "wait_max = \"90s\""), ("timeout = \"5s\"", "timeout = \"25s\"")];
    let uploads = Uploads::start(On::Kafka("told"), &airflow.server.url(), &longer);
    let done = uploads.upload(PICTURE, &[("dag_id", "fine")]);
    assert_eq!(done.status, 200, "{done:?}");
    let bytes = done.body["bytes"].as_u64().expect("it was counted");
    assert!(bytes > 0 && bytes < PICTURE.len() as u64, "the picture was made smaller on the way");
    let failed = uploads.upload(PICTURE, &[("dag_id", "fails")]);
    assert_eq!((failed.status, failed.detail()), (502, "the task ended with 1"), "{failed:?}");
    assert_eq!(uploads.job(failed.job())["status"], "failed");
    let refused = uploads.upload(PICTURE, &[("dag_id", "refuses")]);
    assert_eq!((refused.status, refused.body["code"].as_str()), (422, Some("too_dark")), "{refused:?}");
}
