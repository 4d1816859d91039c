//! What users and machines do wrong, to the daemon as a newcomer runs it: the shipped config on the embedded log. Each is
//! told clearly, the daemon is up where it should be, and nothing that it accepted is lost.

use bulkhead_testkit::daemon::{Daemon, DaemonSpec};
use bulkhead_testkit::process::eventually;
use bulkhead_testkit::small_disk::SmallDisk;
use reqwest::blocking::multipart::{Form, Part};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_bulkhead");
const PATIENCE: Duration = Duration::from_secs(60);

/// What is shipped.
fn config() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config")
}

fn sample() -> Vec<u8> {
    std::fs::read(config().join("models/samples/7-scan.png")).expect("the sample is shipped")
}

fn scratch() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Uploads a file under this field's name: the status and the answer.
fn upload(daemon: &Daemon, field: &'static str, file: Vec<u8>) -> (u16, Value) {
    let form = Form::new().part(field, Part::bytes(file).file_name("picture.png"));
    let answer = daemon.client().post(daemon.url("/api/classify")).multipart(form).send().expect("an answer");
    (answer.status().as_u16(), answer.json().expect("JSON"))
}

/// What became of an accepted job.
fn outcome(daemon: &Daemon, accepted: &Value, path: &str) -> Value {
    let url = daemon.url(&format!("{path}{}", accepted["jobId"].as_str().expect("a job id")));
    eventually("the job ends", PATIENCE, || match daemon.get_json(&url) {
        (200, job) if job["status"] != "pending" => Ok(job),
        other => Err(format!("{other:?}")),
    })
}

/// The header of a picture that would have so many pixels, and no pixel.
fn bomb(width: u32, height: u32) -> Vec<u8> {
    let mut chunk = b"IHDR".to_vec();
    chunk.extend(width.to_be_bytes());
    chunk.extend(height.to_be_bytes());
    chunk.extend([8, 2, 0, 0, 0]);
    let sum = chunk.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg()))
    });
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    png.extend(chunk);
    png.extend((!sum).to_be_bytes());
    png.extend(b"\0\0\x10\0IDAT\x78\x9c");
    png
}

fn incarnations(daemon: &Daemon) -> BTreeMap<String, u64> {
    daemon.actors().into_iter().map(|(id, actor)| (id, actor.incarnation)).collect()
}

#[test]
fn what_is_no_picture_is_told_and_the_next_picture_is_read() {
    let data = scratch();
    let daemon = Daemon::start(&DaemonSpec::new(BINARY, config(), data.path()));
    daemon.wait_ready(PATIENCE);
    let (status, accepted) = upload(&daemon, "file", sample());
    assert_eq!(status, 202, "{accepted}");
    assert_eq!(outcome(&daemon, &accepted, "/api/results/")["result"]["label"], "7");
    let before = incarnations(&daemon);

    let mut photo = std::fs::read(config().join("models/samples/2-drawn-1.jpg")).expect("the sample is shipped");
    photo.truncate(photo.len() / 2);
    for (what, picture, told) in [
        ("no picture behind a picture's first bytes", b"\x89PNG\r\n\x1a\nnone".to_vec(), ""),
        ("half a JPEG", photo, ""),
        ("50,000 x 50,000 pixels", bomb(50_000, 50_000), "50000"),
    ] {
        let (status, accepted) = upload(&daemon, "file", picture);
        assert_eq!(status, 202, "{what}: {accepted}");
        let job = outcome(&daemon, &accepted, "/api/results/");
        let error = job["error"].to_string();
        assert!(job["status"] == "failed" && error.len() > 10 && error.contains(told), "{what}: {job}");
    }
    for (what, field, file, expected) in [
        ("text", "file", b"hello".to_vec(), 415),
        ("nothing", "file", Vec::new(), 400),
        ("the wrong field", "image", sample(), 400),
    ] {
        let (status, problem) = upload(&daemon, field, file);
        assert_eq!(status, expected, "{what}: {problem}");
        assert!(!problem["detail"].as_str().unwrap_or_default().is_empty(), "{what}: {problem}");
    }
    assert_eq!(daemon.get_json(&daemon.url("/api/results/AAAAAAAAAAAAAAAAAAAAAAAAAA")).0, 404);
    assert_eq!(gigabyte(&daemon), 413);

    let (status, accepted) = upload(&daemon, "file", sample());
    assert_eq!(status, 202, "{accepted}");
    assert_eq!(outcome(&daemon, &accepted, "/api/results/")["result"]["label"], "7");
    assert_eq!(incarnations(&daemon), before, "nobody fell over any of it");
}

/// Announces a body of a gigabyte, and is answered before it sends one.
fn gigabyte(daemon: &Daemon) -> u16 {
    let url = daemon.url("");
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(address).expect("it listens");
    let head = format!(
        "POST /api/classify HTTP/1.1\r\nHost: {address}\r\nContent-Type: multipart/form-data; boundary=x\r\n\
         Content-Length: {}\r\n\r\n--x\r\n",
        1 << 30
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("answered");
    String::from_utf8_lossy(&answer[9..]).parse().expect("a status")
}

/// Runs the daemon until it ends by itself.
fn run(binary: &[&str], config: &Path, data: &Path, listen: &str) -> Output {
    let mut command = Command::new(binary[0]);
    command.args(&binary[1..]).args(["run", "--admin", "127.0.0.1:0", "--listen", listen]);
    command.arg("--config").arg(config).arg("--data").arg(data).output().expect("it runs")
}

fn assert_refused(output: &Output, code: i32, told: &[&str]) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text);
    assert_eq!(output.status.code(), Some(code), "{text}");
    told.iter().for_each(|part| assert!(text.contains(part), "{part} in {text}"));
}

#[test]
fn a_port_in_use_is_named() {
    let (data, taken) = (scratch(), TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let address = taken.local_addr().expect("bound").to_string();
    assert_refused(&run(&[BINARY], &config(), data.path(), &address), 3, &[&address, "in use"]);
}

#[test]
fn a_model_that_is_missing_or_another_is_named() {
    let (data, folder) = (scratch(), scratch());
    let copied = Command::new("cp").arg("-r").arg(config()).arg(folder.path()).status().expect("cp runs");
    assert!(copied.success());
    let copy = folder.path().join("config");
    let model = copy.join("models/digits.onnx");
    std::fs::OpenOptions::new().append(true).open(&model).and_then(|mut file| file.write_all(b"x")).expect("changed");
    assert_refused(&run(&[BINARY], &copy, data.path(), "127.0.0.1:0"), 1, &["digits.onnx", "sha256"]);
    std::fs::remove_file(&model).expect("there");
    assert_refused(&run(&[BINARY], &copy, data.path(), "127.0.0.1:0"), 1, &["digits.onnx"]);
}

#[test]
fn a_data_directory_in_use_is_named() {
    let data = scratch();
    let _first = Daemon::start(&DaemonSpec::new(BINARY, config(), data.path()));
    let told = ["in use by another bulkhead", data.path().to_str().expect("a plain path")];
    assert_refused(&run(&[BINARY], &config(), data.path(), "127.0.0.1:0"), 3, &told);
}

#[test]
fn a_data_directory_that_cannot_be_written_is_named() {
    let data = scratch();
    std::fs::set_permissions(data.path(), PermissionsExt::from_mode(0o555)).expect("ours");
    // Permissions bind root, too, without the capability to override them.
    let bound = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", BINARY];
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|of| of.uid() == 0);
    let binary = if is_root { &bound[..] } else { &bound[2..] };
    let told = ["cannot be used", "Permission denied", data.path().to_str().expect("a plain path")];
    assert_refused(&run(binary, &config(), data.path(), "127.0.0.1:0"), 3, &told);
}

const ORDERS: &str = r#"version = 1
[pipeline]
name   = "orders"
source = { topic = "orders", partitions = 1 }
ledger = { key = "header:__bulkhead.id" }
output = { topic = "orders.done" }

[[stage]]
name  = "work"
steps = [{ pass = {} }]

[[route]]
path    = "/orders/"
method  = "POST"
produce = {}

[[route]]
path    = "/orders/{id}"
method  = "GET"
results = {}
"#;

fn order(daemon: &Daemon) -> (u16, Value) {
    let answer = daemon.client().post(daemon.url("/orders/")).body(vec![b'x'; 256 << 10]).send().expect("an answer");
    (answer.status().as_u16(), answer.json().expect("JSON"))
}

#[test]
fn a_full_disk_refuses_loses_nothing_and_goes_on_once_there_is_room() {
    let folder = scratch();
    let (pipelines, data) = (folder.path().join("config/pipelines"), folder.path().join("data"));
    let log = data.join("log");
    std::fs::create_dir_all(&pipelines).expect("a folder");
    std::fs::write(pipelines.join("orders.toml"), ORDERS).expect("written");
    let disk = SmallDisk::new(&log, BINARY, folder.path());
    let daemon = Daemon::start(&DaemonSpec::new(&disk.program, folder.path().join("config"), data));
    daemon.wait_ready(PATIENCE);

    let mut accepted = Vec::new();
    let refused = loop {
        match order(&daemon) {
            (202, job) => accepted.push(job),
            refused => break refused,
        }
        assert!(accepted.len() < 2_000, "the disk is never full");
    };
    assert_eq!(refused.0, 503, "{refused:?}");
    assert!(!accepted.is_empty() && daemon.is_running(), "{}", daemon.output());

    disk.make_room(daemon.pid());
    let job = eventually("there is room again", PATIENCE, || match order(&daemon) {
        (202, job) => Ok(job),
        refused => Err(format!("{refused:?}")),
    });
    accepted.push(job);
    for job in &accepted {
        assert_eq!(outcome(&daemon, job, "/orders/")["status"], "completed");
    }
    daemon.sigterm();
    assert_eq!(daemon.wait_exit(PATIENCE).code(), Some(0), "{}", daemon.output());
}
