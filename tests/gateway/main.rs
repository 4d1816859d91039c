//! The gateway at its HTTP boundary: what is accepted, what is refused and how, and that nothing is acknowledged early.

mod edge;
mod harness;
mod idempotency;
mod limits;
mod waiting;

use bulkhead::gateway::Limits;
use bulkhead_actors::log::LogError;
use bulkhead_core::deadline::DEADLINE_HEADER;
use bulkhead_core::ids::Round;
use bulkhead_core::job_id::Scope;
use bulkhead_core::jobs::{JobError, JobName, JobOutcome, Sighting};
use bulkhead_core::time::WallMs;
use harness::{DEADLINE, Edge, PNG, SCOPE, Sends, problem};
use reqwest::blocking::{Client, multipart};
use serde_json::{Value, json};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// Only a failing test waits this long.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn classify_problem(code: &str, title: &str, status: u16, detail: &str) -> Value {
    json!({
        "type": format!("urn:bulkhead:problem:{code}"),
        "title": title,
        "status": status,
        "detail": detail,
        "instance": "/api/classify",
    })
}

#[test]
fn a_file_becomes_a_record_and_a_job() {
    let edge = Edge::start();
    let response = edge.upload("file", PNG);
    assert_eq!(response.status(), 202);
    let location = response.headers()["location"].to_str().expect("text").to_owned();
    let body: Value = response.json().expect("JSON");
    let id = body["jobId"].as_str().expect("a job id").to_owned();
    assert_eq!(body, json!({ "jobId": id, "status": "accepted" }));
    assert_eq!(location, format!("/api/results/{id}"));

    let [sent] = &edge.sent()[..] else { panic!("one record") };
    assert_eq!((&*sent.topic, sent.partition), ("digits.in", None));
    assert_eq!(sent.record.payload(), PNG);
    assert_eq!(sent.record.key.as_deref(), Some(id.as_bytes()));
    let header = |name| sent.record.header(name).map(|value| String::from_utf8_lossy(value).into_owned());
    assert_eq!(header("__bulkhead.id"), Some(id.clone()));
    assert_eq!(header("content-type").as_deref(), Some("image/png"));
    assert_eq!(header("__bulkhead.accepted"), Some(sent.record.timestamp.0.to_string()));

    let pending: Value = edge.get(&location).json().expect("JSON");
    assert_eq!(pending["status"], "pending");
    assert_eq!((&pending["jobId"], &pending["result"], &pending["error"]), (&json!(id), &Value::Null, &Value::Null));
    assert_eq!(pending["timings"]["accepted_ms"], json!(sent.record.timestamp.0));
}

#[test]
fn reserved_and_other_headers_of_clients_stay_behind() {
    let edge = Edge::start();
    let response = Client::new()
        .post(edge.url("/orders/"))
        .header("customer", "c7")
        .header("__bulkhead.id", "forged")
        .header("__bulkhead.round", "9")
        .header("authorization", "Bearer secret")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .header("content-type", "application/json; charset=utf-8")
        .body("{}")
        .send()
        .expect("answered");
    assert_eq!(response.status(), 202);
    let [sent] = &edge.sent()[..] else { panic!("one record") };
    let names: Vec<&str> = sent.record.headers.iter().map(|h| std::str::from_utf8(&h.name).expect("UTF-8")).collect();
    assert_eq!(names, ["__bulkhead.id", "__bulkhead.accepted", "content-type", "traceparent", DEADLINE_HEADER]);
    let until = sent.record.timestamp.0 + i64::try_from(DEADLINE.as_millis()).expect("a short time");
    assert_eq!(sent.record.header(DEADLINE_HEADER).expect("set"), until.to_string().as_bytes());
    assert_eq!(sent.record.header("content-type").expect("set"), "application/json");
    assert_ne!(sent.record.header("__bulkhead.id").expect("set"), "forged");
    assert_eq!(sent.record.key.as_deref(), Some(b"c7".as_slice()));
}

#[test]
fn bad_uploads_are_refused_with_their_problem() {
    let edge = Edge::start();
    let part = |bytes: &'static [u8]| multipart::Part::bytes(bytes).file_name("x.png");
    let mut many = multipart::Form::new();
    for n in 0..9 {
        many = many.text(format!("f{n}"), "x");
    }
    let two = multipart::Form::new().part("file", part(PNG)).part("file", part(PNG));
    for (form, status, code, title, detail) in [
        (
            multipart::Form::new().part("file", part(b"")),
            400,
            "empty-file",
            "Empty file",
            "The file in the field \"file\" has 0 bytes.",
        ),
        (
            multipart::Form::new().part("image", part(PNG)),
            400,
            "missing-field",
            "Missing field",
            "The file must be in the field \"file\"; the fields that came: \"image\".",
        ),
        (
            two,
            400,
            "too-many-files",
            "More than one file",
            "The field \"file\" comes more than once; a request takes one file.",
        ),
        (many, 400, "too-many-parts", "Too many parts", "The body has more than 8 parts."),
        (
            multipart::Form::new().part("file", part(b"GIF89a")),
            415,
            "unsupported-media-type",
            "Unsupported media type",
            "This route takes image/png, image/jpeg; the content, whatever its name, is none of them.",
        ),
        (
            multipart::Form::new().part("file", part(b"RIFF\0\0\0\0WEBPVP8 ")),
            415,
            "unsupported-media-type",
            "Unsupported media type",
            "This route takes image/png, image/jpeg; the content, whatever its name, is image/webp.",
        ),
    ] {
        let response = edge.post_form(form);
        assert_eq!(response.status(), status, "{code}");
        assert_eq!(problem(response), classify_problem(code, title, status, detail));
    }
    assert_eq!(edge.sent().len(), 0);
    assert_eq!(edge.upload("file", PNG).status(), 202, "the gateway is as it was");
}

#[test]
fn what_is_no_multipart_body_is_refused() {
    let edge = Edge::start();
    let post = |kind: Option<&str>, body: &'static str| {
        let mut request = Client::new().post(edge.url("/api/classify")).body(body);
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let response = request.send().expect("answered");
        let status = response.status().as_u16();
        (status, problem(response)["type"].as_str().unwrap_or_default().replace("urn:bulkhead:problem:", ""))
    };
    let unsupported = (415, "unsupported-media-type".to_owned());
    assert_eq!(post(None, ""), unsupported);
    assert_eq!(post(Some("application/json"), "{}"), unsupported);
    assert_eq!(post(Some("multipart/mixed; boundary=x"), "--x--\r\n"), unsupported);
    assert_eq!(post(Some("multipart/form-data"), "--x--\r\n"), (400, "bad-multipart".into()));
    let form = "multipart/form-data; boundary=x";
    let cut = "--x\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nhalf of a fi";
    assert_eq!(post(Some(form), cut), (400, "incomplete-body".into()));
    assert_eq!(post(Some(form), ""), (400, "incomplete-body".into()));
    assert_eq!(post(Some(form), "--x\r\nContent-Type: image/png\r\n\r\nx\r\n--x--\r\n"), (400, "bad-multipart".into()));
    assert_eq!(edge.sent().len(), 0);
}

#[test]
fn unknown_jobs_paths_and_methods_are_told_apart() {
    let edge = Edge::start();
    let issued = edge.ids.random(SCOPE, WallMs(i64::MAX), [1; 10]).to_string();
    let elsewhere = edge.ids.random(Scope { pipeline: "other", ..SCOPE }, WallMs(i64::MAX), [1; 10]).to_string();
    let mut forged = issued.clone();
    forged.replace_range(39..40, if issued.ends_with('A') { "B" } else { "A" });
    assert_eq!(edge.get(&format!("/api/results/{issued}")).status(), 200);
    assert_eq!(edge.get(&format!("/api/other/{elsewhere}")).status(), 200);
    for id in [&*forged, "garbage", "%00", &elsewhere] {
        let response = edge.get(&format!("/api/results/{id}"));
        assert_eq!(response.status(), 404, "{id}");
        let document = problem(response);
        assert_eq!(document["type"], "urn:bulkhead:problem:unknown-job");
        assert_eq!(document["detail"], "No job with this id was ever accepted here.");
        assert_eq!(document["instance"], format!("/api/results/{id}"));
    }
    let nowhere = problem(edge.get("/nowhere"));
    assert_eq!((&nowhere["type"], &nowhere["status"]), (&json!("urn:bulkhead:problem:not-found"), &json!(404)));

    let wrong = edge.get("/api/classify");
    assert_eq!((wrong.status().as_u16(), wrong.headers()["allow"].to_str().ok()), (405, Some("POST")));
    let detail = "This path does not take GET; it takes POST.";
    assert_eq!(problem(wrong), classify_problem("method-not-allowed", "Method not allowed", 405, detail));
}

#[test]
fn what_became_of_a_job_is_told() {
    let edge = Edge::start();
    let seen = |n: u8, outcome| {
        let id = edge.ids.random(SCOPE, WallMs(4_000_000_000_000), [n; 10]);
        let ended = WallMs(4_000_000_000_250);
        let (name, accepted) = (JobName::Id(id), id.accepted());
        let sighting = Sighting { name, round: Round(0), accepted, ended, fingerprint: None, outcome };
        edge.jobs.see(vec![sighting]);
        let response = edge.get(&format!("/api/results/{id}"));
        assert_eq!(
            (response.status().as_u16(), response.headers()["cache-control"].to_str().ok()),
            (200, Some("no-store"))
        );
        let mut document: Value = response.json().expect("JSON");
        assert_eq!(document["jobId"].take(), json!(id.to_string()));
        document
    };
    let timings =
        json!({ "accepted_ms": 4_000_000_000_000_i64, "completed_ms": 4_000_000_000_250_i64, "total_ms": 250 });

    let result = r#"{"label":"7","score":0.99,"top":[{"label":"7","score":0.99}]}"#;
    let completed = seen(1, JobOutcome::Completed(result.into()));
    let result: Value = serde_json::from_str(result).expect("JSON");
    assert_eq!(
        completed,
        json!({ "jobId": null, "status": "completed", "result": result, "error": null, "timings": timings })
    );

    let error = JobError {
        code: "undecodable_image".into(),
        message: "not an image".into(),
        stage: "classify".into(),
        class: "poison".into(),
        attempts: "1".into(),
    };
    let failed = seen(2, JobOutcome::Failed(error));
    let error = json!({ "code": "undecodable_image", "message": "not an image", "stage": "classify", "class": "poison",
        "attempts": 1 });
    assert_eq!(
        failed,
        json!({ "jobId": null, "status": "failed", "result": null, "error": error, "timings": timings })
    );

    let dropped = seen(3, JobOutcome::Dropped);
    assert_eq!(
        (&dropped["status"], &dropped["result"], &dropped["dropped"]),
        (&json!("completed"), &Value::Null, &json!(true))
    );
}

#[test]
fn a_job_older_than_outcomes_are_kept_is_gone() {
    let edge = Edge::start();
    let old = edge.ids.random(SCOPE, WallMs(1_000), [1; 10]);
    let response = edge.get(&format!("/api/results/{old}"));
    assert_eq!(response.status(), 410);
    assert_eq!(problem(response)["type"], "urn:bulkhead:problem:forgotten-job");
}

#[test]
fn nothing_is_acknowledged_that_the_log_did_not_acknowledge() {
    let edge = Edge::limited(Limits { workers: 1, ack_timeout: Duration::from_millis(50), ..Limits::default() });
    for (sends, status, code, retry) in [
        (Sends::Fail(LogError::Unavailable("broker away".into())), 503, "log-unavailable", true),
        (Sends::Fail(LogError::ClientDead("fatal".into())), 503, "log-unavailable", true),
        (Sends::Fail(LogError::Refused("secret reason".into())), 500, "log-refused", false),
        (Sends::Hang, 503, "not-acknowledged", true),
    ] {
        *edge.producer.sends.lock() = sends;
        let response = edge.upload("file", PNG);
        assert_eq!(response.status(), status, "{code}");
        assert_eq!(response.headers().get("retry-after").is_some(), retry, "{code}");
        let document = problem(response);
        assert_eq!(document["type"], format!("urn:bulkhead:problem:{code}"));
        assert!(!document.to_string().contains("secret"), "operators' texts are not for clients: {document}");
    }
}

#[test]
fn draining_refuses_records_and_finishes_what_is_in_progress() {
    let edge = Edge::start();
    let (held, holds) = mpsc::channel();
    *edge.producer.sends.lock() = Sends::Hold(Arc::new(held.into()));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| edge.upload("file", PNG).status());
        let release = holds.recv_timeout(PATIENCE).expect("the upload reaches the producer");
        edge.handle.refuse();
        let refused = edge.upload("file", PNG);
        assert_eq!(refused.status(), 503);
        assert_eq!(problem(refused)["type"], "urn:bulkhead:problem:draining");
        let issued = edge.ids.random(SCOPE, WallMs(i64::MAX), [1; 10]);
        assert_eq!(edge.get(&format!("/api/results/{issued}")).status(), 200, "what became of jobs is still told");
        let drained = scope.spawn(|| {
            let handle = edge.handle.clone();
            actix_rt::System::new().block_on(async move { handle.drain().await });
        });
        release.send(()).expect("the upload waits");
        assert_eq!(first.join().expect("no panic"), 202);
        drained.join().expect("drains");
    });
    assert!(std::net::TcpStream::connect(edge.address).is_err(), "nothing listens any more");
    assert_eq!(edge.sent().len(), 1);
}

#[test]
fn requests_are_counted_by_route_and_never_by_what_clients_choose() {
    let edge = Edge::start();
    edge.upload("file", PNG);
    edge.upload("file", b"".as_slice());
    edge.get("/a/path/of/my/own");
    let text = edge.metrics.render();
    for series in [
        "bulkhead_http_requests_total{route=\"/api/classify\",status=\"202\"} 1",
        "bulkhead_http_requests_total{route=\"/api/classify\",status=\"400\"} 1",
        "bulkhead_http_requests_total{route=\"other\",status=\"404\"} 1",
        "bulkhead_http_in_flight{} 0",
    ] {
        assert!(text.contains(series), "no {series} in:\n{text}");
    }
}
