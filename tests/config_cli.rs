//! The command line from outside: exit codes, and what beats what.

use bulkhead::data_dir::DataDir;
use std::path::Path;
use std::process::{Command, Output};

const FINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/fine");

fn bulkhead(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bulkhead")).env_clear().args(arguments).output().expect("the binary runs")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it exits")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

#[test]
fn wrong_usage_is_two_and_names_what_is_wrong() {
    for (arguments, told) in [
        (&["run", "--listen", "8080"][..], "--listen"),
        (&["run", "--kafka", "kafka"][..], "HOST:PORT"),
        (&["run", "--instance", "West 1"][..], "lower-case"),
        (&["run", "--log-level", "loud"][..], "is no level"),
        (&["chekc"][..], "check"),
        (&[][..], "Usage"),
    ] {
        let output = bulkhead(arguments);
        assert_eq!(code(&output), 2, "{arguments:?}");
        assert!(stderr(&output).contains(told), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn a_flag_beats_the_file_before_it_is_checked() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join("pipelines")).expect("made");
    let pipeline = Path::new(FINE).join("pipelines/orders.toml");
    std::fs::copy(pipeline, dir.path().join("pipelines/orders.toml")).expect("copied");
    std::fs::write(dir.path().join("bulkhead.toml"), "version = 1\nhttp.listen = \"127.0.0.1:7001\"\n")
        .expect("written");
    let output = bulkhead(&["run", "--config", path(dir.path()), "--admin", "127.0.0.1:7001"]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("address too"), "{}", stderr(&output));
}

#[test]
fn a_file_that_is_no_text_is_told_and_the_others_are_checked() {
    let dir = tempfile::tempdir().expect("a directory");
    let pipelines = dir.path().join("pipelines");
    std::fs::create_dir(&pipelines).expect("made");
    std::fs::write(pipelines.join("a.toml"), b"version = 1\n# \xff\xfe\n").expect("written");
    std::fs::write(pipelines.join("b.toml"), "version = 2\n").expect("written");
    std::fs::write(pipelines.join("c.toml"), " ".repeat((1 << 20) + 1)).expect("written");
    let output = bulkhead(&["check", "--config", path(dir.path())]);
    assert_eq!(code(&output), 1);
    for part in ["a.toml: is no UTF-8 text", "b.toml:1:11: version = 2: must be 1", "c.toml: is larger than 1 MiB"] {
        assert!(stderr(&output).contains(part), "{part} in {}", stderr(&output));
    }
}

#[test]
fn a_data_directory_in_use_or_unusable_is_three() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = DataDir::open(dir.path()).expect("it opens");
    let output = bulkhead(&["run", "--config", FINE, "--data", path(data.path())]);
    assert_eq!(code(&output), 3);
    assert!(stderr(&output).contains("in use by another bulkhead"), "{}", stderr(&output));
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("written");
    let output = bulkhead(&["run", "--config", FINE, "--data", path(&file)]);
    assert_eq!(code(&output), 3);
    assert!(stderr(&output).contains("cannot be used"), "{}", stderr(&output));
}

#[test]
fn list_shows_topics_stages_and_steps() {
    let output = bulkhead(&["list", "--config", FINE]);
    let text = String::from_utf8(output.stdout.clone()).expect("text");
    assert_eq!(code(&output), 0);
    for part in ["pipeline orders (exactly once)", "source orders · 6 partitions", "stage  check", "dlq    orders.dlq"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
}
