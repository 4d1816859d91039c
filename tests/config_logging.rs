//! The log file holds what was logged, with the fields that a record is followed by, and panics. In a process of its own:
//! logging is started once a process.

use bulkhead::config::daemon::Log;
use bulkhead::logging;
use serde_json::Value as Json;

#[test]
fn lines_are_json_and_a_record_can_be_followed_by_its_id() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = Log { level: "info,quiet=off".to_owned(), ..Log::default() };
    let running = logging::start(&log, dir.path()).expect("it starts");
    assert!(logging::start(&log, dir.path()).is_err(), "once a process");
    tracing::info!(target: "bulkhead", id = "job-1", partition = 3, offset = 42, "settled");
    tracing::debug!("not at this level");
    tracing::error!(target: "quiet", "not from there");
    let died = std::thread::Builder::new().name("infer-0".to_owned()).spawn(|| panic!("index 7 is out of range"));
    assert!(died.expect("a thread").join().is_err());
    let losses = running.losses();
    assert_eq!((losses.lines_dropped(), losses.lines_failed()), (0, 0));
    drop(running);
    let text = std::fs::read_to_string(dir.path().join(logging::FILE)).expect("there is a file");
    let lines: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let [settled, panicked] = &lines[..] else { panic!("two lines: {text}") };
    assert_eq!(settled["message"], "settled");
    assert_eq!((&settled["id"], &settled["partition"], &settled["offset"]), (&"job-1".into(), &3.into(), &42.into()));
    assert_eq!((&panicked["level"], &panicked["thread"]), (&"ERROR".into(), &"infer-0".into()));
    assert_eq!(panicked["message"], "index 7 is out of range");
}
