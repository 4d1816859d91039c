//! Damaged files: an error that says so, or nothing lost. Never a panic, never a silent loss.

use crate::contract::{fill, outgoing};
use bulkhead_actors::io::embedded::{EmbeddedLog, EmbeddedOptions};
use bulkhead_actors::log::{Log, LogError, Read, Tail, TopicSpec};
use bulkhead_core::ids::Partition;
use futures::executor::block_on;
use futures::future::join_all;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const RECORDS: usize = 1_500;
const TRIALS: u64 = 100;

/// Small memtables, so that there are tables on the disk and not only a journal.
fn options() -> EmbeddedOptions {
    EmbeddedOptions { memtable_bytes: 64 * 1024, ..EmbeddedOptions::default() }
}

fn content(i: usize) -> String {
    format!("{i:0200}")
}

fn make(dir: &Path) {
    let log = EmbeddedLog::open(dir, &options()).unwrap();
    let spec = TopicSpec { name: "t".to_owned(), partitions: 1, replicas: 1, retention: None };
    log.create_topics(&[spec]).unwrap();
    let producer = log.producer().unwrap();
    for chunk in (0..RECORDS).collect::<Vec<_>>().chunks(50) {
        let sends = chunk.iter().map(|i| producer.send(outgoing(&"t".into(), 0, &content(*i))));
        assert!(block_on(join_all(sends)).iter().all(Result::is_ok));
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Every file with something in it, with the bytes of it that are in use.
fn files(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let content = std::fs::read(&path).unwrap();
            let used = content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
            found.extend((used > 0 && !path.ends_with("lock")).then_some((path, used)));
        }
    }
    found.sort();
    found
}

/// How many records are there, all of them whole; or what the log says.
fn read(dir: &Path) -> Result<usize, LogError> {
    let log = EmbeddedLog::open(dir, &options())?;
    let mut reader = log.reader(&[Tail { topic: "t".into(), partition: Partition(0), from: None }])?;
    let mut count = 0;
    loop {
        for seen in reader.read(200, Duration::from_secs(1))? {
            match seen {
                Read::Record { record, .. } => {
                    assert_eq!(record.record.payload(), content(count).as_bytes(), "a record was changed silently");
                    count += 1;
                }
                Read::CaughtUp { .. } => return Ok(count),
            }
        }
    }
}

#[test]
fn damage_is_told_or_harmless() {
    let origin = tempfile::tempdir().unwrap();
    make(origin.path());
    assert_eq!(read(origin.path()).unwrap(), RECORDS);
    let files = files(origin.path());
    assert!(files.iter().any(|(path, _)| path.components().any(|c| c.as_os_str() == "tables")), "{files:?}");
    let mut told = 0;
    for trial in 0..TRIALS {
        let mut rng = SmallRng::seed_from_u64(trial);
        let dir = tempfile::tempdir().unwrap();
        copy(origin.path(), dir.path());
        let (path, used) = &files[rng.random_range(0..files.len())];
        let path = dir.path().join(path.strip_prefix(origin.path()).unwrap());
        let bytes: [u8; 16] = rng.random();
        let at = rng.random_range(0..*used);
        OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&bytes, at).unwrap();
        match read(dir.path()) {
            Ok(count) => assert_eq!(count, RECORDS, "trial {trial}: {} at {at}: lost in silence", path.display()),
            Err(e) => {
                told += 1;
                let text = e.to_string();
                assert!(text.contains(&format!("the log in {} is damaged", dir.path().display())), "{text}");
            }
        }
    }
    assert!(told > 0, "no damage was ever noticed");
}

#[test]
fn missing_files_are_told() {
    let origin = tempfile::tempdir().unwrap();
    make(origin.path());
    for (path, _) in files(origin.path()) {
        let name = path.strip_prefix(origin.path()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        copy(origin.path(), dir.path());
        std::fs::remove_file(dir.path().join(name)).unwrap();
        match read(dir.path()) {
            Ok(count) => assert_eq!(count, RECORDS, "without {}: lost in silence", name.display()),
            Err(e) => assert!(e.to_string().contains("is damaged"), "without {}: {e}", name.display()),
        }
    }
}

/// fjall opens a journal up to its first damage; the count of acknowledged commits shows that something is missing.
#[test]
fn a_journal_that_was_cut_is_told_and_can_be_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(dir.path(), &EmbeddedOptions::default()).unwrap();
    let spec = TopicSpec { name: "t".to_owned(), partitions: 1, replicas: 1, retention: None };
    log.create_topics(&[spec]).unwrap();
    for i in 0..20 {
        fill(&log, &"t".into(), 0, &[&content(i)]);
    }
    drop(log);
    let journal = dir.path().join("store").join("0.jnl");
    let used = files(dir.path()).into_iter().find(|(path, _)| *path == journal).unwrap().1;
    OpenOptions::new().write(true).open(&journal).unwrap().set_len(used / 2).unwrap();
    let told = read(dir.path()).unwrap_err().to_string();
    let mark = dir.path().join("acknowledged");
    assert!(told.contains("20 commits were acknowledged") && told.contains(&mark.display().to_string()), "{told}");
    std::fs::remove_file(mark).unwrap();
    let left = read(dir.path()).unwrap();
    assert!((1..20).contains(&left), "{left} of 20 are left");
}
