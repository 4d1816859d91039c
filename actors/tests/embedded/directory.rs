//! The directory: who holds it, and what is said where it cannot be used.

use super::{child, child_dir, open};
use crate::contract::{fill, outgoing, read_all, send, texts};
use bulkhead_actors::log::{Log, LogError, TopicSpec};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;

fn refusal(dir: &Path) -> String {
    match open(dir).err() {
        Some(e @ (LogError::Refused(_) | LogError::Unavailable(_))) => {
            let text = e.to_string();
            assert!(text.contains(&dir.display().to_string()), "{text:?} does not name {}", dir.display());
            text
        }
        other => panic!("it must refuse, but: {other:?}"),
    }
}

#[test]
fn a_second_process_is_refused() {
    if let Some(dir) = child_dir() {
        let _log = open(&dir).unwrap();
        println!("open");
        // Held until the parent closes our input.
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut holder = child("embedded::directory::a_second_process_is_refused", dir.path(), None).spawn().unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    // libtest says "test … ... " before it, on the same line.
    assert!(lines.any(|line| line.unwrap().ends_with("open")), "the holder opens it");
    let text = refusal(dir.path());
    assert!(text.contains("is in use") && text.contains("stop that one"), "{text}");
    assert!(text.contains(&holder.id().to_string()), "{text} names the process");
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
    open(dir.path()).unwrap();
}

#[test]
fn the_same_process_is_refused_until_the_log_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    let producer = log.producer().unwrap();
    assert!(refusal(dir.path()).contains("is in use"));
    drop(log);
    let sent = futures::executor::block_on(producer.send(outgoing(&"t".into(), 0, "late")));
    assert!(sent.is_err(), "a client of a closed log cannot send");
    open(dir.path()).unwrap();
}

#[test]
fn what_cannot_hold_a_log_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::File::create(&file).unwrap().write_all(b"not a directory").unwrap();
    refusal(&file);
    refusal(&file.join("below"));
    refusal(Path::new("/proc/bulkhead"));
}

#[test]
fn a_full_disk_is_named() {
    if let Some(dir) = child_dir() {
        let text = refusal(&dir);
        assert!(text.contains("no room"), "{text}");
        return;
    }
    // A limit on the size of files stands for a disk without room; the signal is ignored so that writes fail instead.
    let limit = r#"trap '' XFSZ; ulimit -f 1000; exec "$@""#;
    let dir = tempfile::tempdir().unwrap();
    let status = child("embedded::directory::a_full_disk_is_named", dir.path(), Some(limit)).status().unwrap();
    assert!(status.success(), "see the test run with the variable set");
    // What was cut short there is no hindrance here.
    open(dir.path()).unwrap();
}

#[test]
fn what_was_written_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let spec = TopicSpec { name: "kept".to_owned(), partitions: 2, replicas: 1, retention: None };
    for round in 0..3 {
        let log = open(dir.path()).unwrap();
        log.create_topics(std::slice::from_ref(&spec)).unwrap();
        let offsets = fill(&log, &"kept".into(), 1, &["a", "b"]);
        assert_eq!(offsets[0].0, round * 2, "offsets go on where they ended");
        let expected = ["a", "b"].repeat(usize::try_from(round).unwrap() + 1);
        assert_eq!(texts(&read_all(&log, &"kept".into(), 1)), expected);
        assert!(read_all(&log, &"kept".into(), 0).is_empty());
        send(&log, outgoing(&"missing".into(), 0, "x")).unwrap_err();
    }
}
