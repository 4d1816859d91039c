//! What people and machines send wrong to the routes of classification and to the page, one row each: the status, the
//! problem's type, and what is said of it. Never a 5xx, and the next picture is classified.

use super::{BINARY, config, outcome, ready, sample, upload};
use bulkhead_testkit::daemon::{Daemon, DaemonSpec};
use reqwest::Method;
use reqwest::blocking::RequestBuilder;
use reqwest::blocking::multipart::{Form, Part};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

type Asks = fn(&Daemon) -> RequestBuilder;

fn ask(daemon: &Daemon, method: Method, path: &str) -> RequestBuilder {
    daemon.client().request(method, daemon.url(path))
}

fn classify(daemon: &Daemon) -> RequestBuilder {
    ask(daemon, Method::POST, "/api/classify")
}

fn file(field: &'static str, content: &[u8]) -> Form {
    Form::new().part(field, Part::bytes(content.to_vec()).file_name("x"))
}

/// What is wrong, the request, the status, the end of the problem's type, and a part of its detail.
const CASES: &[(&str, Asks, u16, &str, &str)] = &[
    ("no body", |d| classify(d), 415, "unsupported-media-type", "multipart/form-data"),
    (
        "a form without a boundary",
        |d| classify(d).header("Content-Type", "multipart/form-data").body("x"),
        400,
        "bad-multipart",
        "boundary",
    ),
    (
        "a form that is cut short",
        |d| {
            classify(d)
                .header("Content-Type", "multipart/form-data; boundary=b")
                .body("--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nabc")
        },
        400,
        "incomplete-body",
        "complete",
    ),
    (
        "an empty form",
        |d| classify(d).header("Content-Type", "multipart/form-data; boundary=b").body("--b--\r\n"),
        400,
        "missing-field",
        "\"file\"",
    ),
    ("another field", |d| classify(d).multipart(file("image", b"x")), 400, "missing-field", "image"),
    ("an empty file", |d| classify(d).multipart(file("file", b"")), 400, "empty-file", "0 bytes"),
    (
        "two files",
        |d| classify(d).multipart(file("file", b"a").part("file", Part::bytes(b"b".to_vec()))),
        400,
        "too-many-files",
        "one file",
    ),
    (
        "nine parts",
        |d| classify(d).multipart((0..9).fold(Form::new(), |form, n| form.text(format!("f{n}"), "x"))),
        400,
        "too-many-parts",
        "8",
    ),
    (
        "text that is called a PNG",
        |d| classify(d).header("Content-Type", "image/png").body("hello"),
        415,
        "unsupported-media-type",
        "none of them",
    ),
    ("a GIF", |d| classify(d).multipart(file("file", b"GIF89a......")), 415, "unsupported-media-type", "image/jpeg"),
    (
        "JSON",
        |d| classify(d).header("Content-Type", "application/json").body("{}"),
        415,
        "unsupported-media-type",
        "multipart/form-data",
    ),
    ("an empty picture", |d| classify(d).header("Content-Type", "image/png").body(""), 400, "empty-body", "0 bytes"),
    (
        "a compressed body",
        |d| classify(d).header("Content-Encoding", "gzip").body("x"),
        415,
        "unsupported-media-type",
        "Content-Encoding",
    ),
    (
        "a key that is none",
        |d| classify(d).header("Idempotency-Key", "\"").multipart(file("file", b"x")),
        400,
        "bad-idempotency-key",
        "Idempotency-Key",
    ),
    ("a GET of what takes pictures", |d| ask(d, Method::GET, "/api/classify"), 405, "method-not-allowed", "POST"),
    ("a POST of a result", |d| ask(d, Method::POST, "/api/results/x"), 405, "method-not-allowed", "GET"),
    (
        "a job that was never accepted",
        |d| ask(d, Method::GET, "/api/results/AQGhAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
        404,
        "unknown-job",
        "ever accepted",
    ),
    ("an id that is none", |d| ask(d, Method::GET, "/api/results/%00"), 404, "unknown-job", "ever accepted"),
    ("the events of such a job", |d| ask(d, Method::GET, "/api/results/x/events"), 404, "unknown-job", "ever accepted"),
    ("a POST of the page", |d| ask(d, Method::POST, "/"), 405, "method-not-allowed", "GET"),
    ("a file beside the page", |d| ask(d, Method::GET, "/pages/classify.html"), 404, "not-found", "classify.html"),
    (
        "the config through the page's folder",
        |d| ask(d, Method::GET, "/pages/..%2fbulkhead.toml"),
        404,
        "not-found",
        "bulkhead.toml",
    ),
    ("the config by its name", |d| ask(d, Method::GET, "/pipelines/classify.toml"), 404, "not-found", "classify.toml"),
    (
        "a compressed file unpacked",
        |d| ask(d, Method::GET, "/redoc/redoc.standalone.js").header("Accept-Encoding", "br"),
        406,
        "not-acceptable",
        "gzip",
    ),
];

/// The status that a body of this length gets before a byte of it is sent: a client that sends on may not see the answer.
fn announced(daemon: &Daemon, length: usize) -> String {
    let url = daemon.url("");
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).expect("it listens");
    let head = format!(
        "POST /api/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("answered");
    String::from_utf8_lossy(&answer[9..]).into_owned()
}

#[test]
fn every_mistake_is_told_and_the_next_picture_is_classified() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let daemon = ready(&DaemonSpec::new(BINARY, config(), data.path()));
    for (what, asks, status, kind, detail) in CASES {
        let answer = asks(&daemon).send().unwrap_or_else(|error| panic!("{what}: {error}"));
        let (told, media) = (answer.status().as_u16(), answer.headers().get("content-type").cloned());
        let problem: serde_json::Value = answer.json().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(
            (told, &problem["type"]),
            (*status, &format!("urn:bulkhead:problem:{kind}").into()),
            "{what}: {problem}"
        );
        assert_eq!(media.expect("a type"), "application/problem+json", "{what}");
        assert!(problem["detail"].as_str().is_some_and(|told| told.contains(detail)), "{what}: {problem}");
    }
    assert_eq!(announced(&daemon, (16 << 20) + 1), "413", "a body that is too large, before it is sent");
    let (status, accepted) = upload(&daemon, std::fs::read(sample("3-scan.png")).expect("it is shipped"));
    assert_eq!(status, 202, "{accepted}");
    let ended = outcome(&daemon, accepted["jobId"].as_str().expect("an id"));
    assert_eq!(ended["result"]["label"], "3", "{ended}");
}

#[test]
fn a_page_is_kept_by_its_tag_and_guarded_by_its_policy() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let daemon = ready(&DaemonSpec::new(BINARY, config(), data.path()));
    for (path, media) in [
        ("/", "text/html; charset=utf-8"),
        ("/pages/classify.css", "text/css; charset=utf-8"),
        ("/pages/classify.js", "text/javascript; charset=utf-8"),
        ("/pages/classify.svg", "image/svg+xml"),
        ("/openapi.json", "application/json"),
    ] {
        let first = ask(&daemon, Method::GET, path).send().expect("an answer");
        assert_eq!(
            (first.status().as_u16(), &first.headers()["content-type"]),
            (200, &media.parse().expect("a value"))
        );
        assert_eq!(first.headers()["cache-control"], "no-cache", "{path}");
        assert_eq!(first.headers()["x-content-type-options"], "nosniff", "{path}");
        let policy = first.headers()["content-security-policy"].to_str().expect("text");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{path}: {policy}");
        let tag = first.headers()["etag"].clone();
        let again = ask(&daemon, Method::GET, path).header("If-None-Match", &tag).send().expect("an answer");
        assert_eq!((again.status().as_u16(), &again.headers()["etag"]), (304, &tag), "{path}");
        assert!(again.bytes().expect("no body").is_empty(), "{path}");
        let head = ask(&daemon, Method::HEAD, path).send().expect("an answer");
        assert_eq!((head.status().as_u16(), &head.headers()["etag"]), (200, &tag), "{path}");
    }
}
