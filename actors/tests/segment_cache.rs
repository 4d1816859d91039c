//! The segment cache: what is put in comes back in order, damage never brings back anything else, and a store that
//! fails is moved aside.

use bulkhead_actors::io::segment_cache::{BAD_STORES_KEPT, CacheError, SegmentCache, SegmentStore};
use bulkhead_core::batch::{Batch, Claim, KeyHash};
use bulkhead_core::ids::{Assignment, BatchSeq, Generation, Offset, Partition, Round, SegmentSeq, Ticket};
use bulkhead_core::ledger::{
    Effect, Event, Placed, PositionCheck, SEGMENT_BYTES_MAX, Segment, SegmentHead, Shard, ShardSpec, Start,
};
use bulkhead_core::machine::Machine;
use bulkhead_core::record::{Record, SourceRecord};
use bulkhead_core::time::{Now, WallMs};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::path::Path;
use std::time::Duration;

const PARTITION: Partition = Partition(3);

fn segment(seq: u64, expired_below: u64, rng: &mut StdRng) -> Placed {
    let assignment = Assignment { partition: PARTITION, generation: Generation(0) };
    let records = (0..rng.random_range(1..400))
        .map(|n| SourceRecord { offset: Offset(seq as i64 * 1_000 + n), record: Record::default() });
    let mut batch = Batch::new(Ticket { assignment, seq: BatchSeq(seq) }, records.collect());
    let claim = |_| Claim { key: KeyHash(rng.random()), fingerprint: rng.random(), round: Round(0) };
    batch.claims = (0..batch.records.len()).map(claim).collect();
    let head = SegmentHead { next: SegmentSeq(seq), expired_below: SegmentSeq(expired_below) };
    let segment = Segment::build(&[&batch], head, WallMs(seq as i64), SEGMENT_BYTES_MAX).remove(0);
    Placed { at: Offset(2 * seq as i64), segment }
}

fn segments(count: u64) -> Vec<Placed> {
    let mut rng = StdRng::seed_from_u64(7);
    (0..count).map(|seq| segment(seq, 0, &mut rng)).collect()
}

fn load(cache: &mut impl SegmentCache) -> Result<Vec<Placed>, CacheError> {
    let mut all = Vec::new();
    cache.load(&mut |chunk| all.extend(chunk))?;
    Ok(all)
}

/// A store in `dir` that holds `segments`, closed.
fn fill(dir: &Path, segments: &[Placed]) {
    let mut cache = SegmentStore::new(dir.to_owned()).partition(PARTITION);
    for commit in segments.chunks(3) {
        cache.append(commit).expect("a fresh store takes segments");
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("the store") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("the store") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.metadata().expect("its length").len() > 0 {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn segments_come_back_in_order_after_it_was_closed() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("ledger");
    let mut segments = segments(300);
    fill(&dir, &segments);
    let store = SegmentStore::new(dir);
    let mut cache = store.partition(PARTITION);
    assert_eq!(load(&mut cache), Ok(segments.clone()));
    assert_eq!(load(&mut store.partition(Partition(4))), Ok(Vec::new()), "another partition has a tree of its own");
    assert_eq!(cache.truncate(SegmentSeq(100), 64), Ok(true));
    assert_eq!(cache.truncate(SegmentSeq(100), 64), Ok(false));
    segments.drain(..100);
    assert_eq!(load(&mut cache), Ok(segments));
    assert_eq!(store.rebuilds(), 0);
}

#[test]
fn a_store_that_is_moved_aside_ends_the_caches_of_all_until_they_load_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let segments = segments(6);
    let store = SegmentStore::new(dir.path().join("ledger"));
    let (mut ours, mut theirs) = (store.partition(PARTITION), store.partition(Partition(4)));
    ours.append(&segments[..3]).expect("room");
    ours.rebuild("test").expect("it moves");
    theirs.rebuild("test").expect("it has moved");
    assert_eq!(store.rebuilds(), 1, "both complained of the same store");
    ours.append(&segments[3..5]).expect("room");
    let mut late = store.partition(Partition(4));
    ours.rebuild("test").expect("it moves");
    late.append(&segments[5..]).expect("left out");
    assert_eq!(load(&mut late), Ok(Vec::new()), "a tree that would not be whole is not begun");
    for _ in 0..5 {
        ours.append(&segments).expect("room");
        ours.rebuild("test").expect("it moves");
    }
    let bad = std::fs::read_dir(dir.path()).expect("the parent").count();
    assert_eq!(bad, BAD_STORES_KEPT, "only the newest are kept");
}

#[test]
fn a_store_that_cannot_be_made_is_an_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    std::fs::write(&file, b"not a directory").expect("a file");
    let mut cache = SegmentStore::new(file.join("ledger")).partition(PARTITION);
    assert!(load(&mut cache).is_err());
    assert!(cache.append(&segments(1)).is_err());
}

/// 16 bytes damaged at a random place, 120 times: an error, or exactly what was written, perhaps without its end.
#[test]
fn damage_is_an_error_or_harmless() {
    let dir = tempfile::tempdir().expect("a directory");
    let segments = segments(40);
    let whole = dir.path().join("whole");
    fill(&whole, &segments);
    let (mut intact, mut shorter, mut errors) = (0, 0, 0);
    for seed in 0..120 {
        let mut rng = StdRng::seed_from_u64(seed);
        let damaged = dir.path().join("ledger");
        copy(&whole, &damaged);
        let files = files(&damaged);
        let file = &files[rng.random_range(0..files.len())];
        let mut bytes = std::fs::read(file).expect("its bytes");
        let at = rng.random_range(0..bytes.len());
        bytes.iter_mut().skip(at).take(16).for_each(|byte| *byte = rng.random());
        std::fs::write(file, bytes).expect("damage");
        let store = SegmentStore::new(damaged.clone());
        let mut cache = store.partition(PARTITION);
        match load(&mut cache) {
            Ok(found) if found == segments => intact += 1,
            Ok(found) => {
                assert!(found.iter().all(|placed| segments.contains(placed)), "seed {seed}: a segment nobody wrote");
                assert!(found.is_sorted_by_key(|placed| placed.segment.seq()), "seed {seed}: out of order");
                shorter += 1;
            }
            Err(_) => {
                errors += 1;
                cache.rebuild("damaged").expect("it moves");
                assert_eq!(load(&mut cache), Ok(Vec::new()), "seed {seed}");
                cache.append(&segments).expect("a fresh store takes segments");
                assert_eq!(load(&mut cache), Ok(segments.clone()), "seed {seed}");
            }
        }
        drop((cache, store));
        std::fs::remove_dir_all(&damaged).expect("it is ours");
    }
    println!("120 damaged stores: {intact} intact, {shorter} shorter, {errors} refused");
    assert!(errors > 0, "damage must have been met");
}

/// Runs a shard on the cache and a changelog until it is ready; says what it asked for in between.
fn start(cache: &mut impl SegmentCache, changelog: &[Placed]) -> Vec<String> {
    let check = PositionCheck::Exact;
    let (ttl, wait) = (Duration::from_secs(3_600), Duration::from_secs(1));
    let mut shard = Shard::new(ShardSpec { partition: PARTITION, ttl, keys_max: 100_000, check, wait });
    let mut log = Vec::new();
    let mut events = vec![Event::Start(Start::Assigned)];
    while let Some(event) = events.pop() {
        for effect in shard.step(event, Now(0)) {
            match effect {
                Effect::LoadCache => {
                    let mut read = Vec::new();
                    let done = cache.load(&mut |chunk| read.push(Event::Cached(chunk)));
                    log.push(format!("cached {}", read.len()));
                    read.push(done.map_or_else(|error| Event::CacheFailed(error.to_string()), |()| Event::CacheRead));
                    events.extend(read.into_iter().rev());
                }
                Effect::CatchUp { pass, from, .. } => {
                    let tail = changelog.iter().filter(|placed| from.is_none_or(|from| placed.at >= from));
                    let segments: Vec<Placed> = tail.cloned().collect();
                    log.push(format!("read {}", segments.len()));
                    let position = changelog.last().map(|placed| placed.segment.position());
                    events.clear();
                    events.push(Event::CaughtUp { pass, position });
                    events.push(Event::Segments { pass, segments });
                }
                Effect::RebuildCache { reason } => {
                    cache.rebuild(&reason).expect("it moves");
                    log.push("rebuilt".to_owned());
                }
                Effect::Store(segments) => cache.append(&segments).expect("room"),
                Effect::Ready { head, .. } => log.push(format!("ready {}", head.next)),
                other => panic!("{other:?}"),
            }
        }
    }
    log
}

#[test]
fn an_old_a_deleted_and_a_damaged_directory_end_in_the_same_ledger() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("ledger");
    let changelog = segments(40);
    let store = || SegmentStore::new(dir.clone()).partition(PARTITION);
    assert_eq!(start(&mut store(), &changelog[..30]), ["cached 1", "read 30", "ready 30"]);
    assert_eq!(start(&mut store(), &changelog), ["cached 1", "read 11", "ready 40"], "old: the rest is read");
    assert_eq!(start(&mut store(), &changelog), ["cached 1", "read 1", "ready 40"]);
    std::fs::remove_dir_all(&dir).expect("it is there");
    assert_eq!(start(&mut store(), &changelog), ["cached 1", "read 40", "ready 40"], "deleted: all is read");
    std::fs::remove_file(dir.join("db")).expect("sled's log");
    std::fs::create_dir(dir.join("db")).expect("something else in its place");
    let log = start(&mut store(), &changelog);
    assert_eq!(log[1..], ["rebuilt", "read 40", "ready 40"], "damaged: all is read");
    // Ahead of a changelog that was made anew: not believed.
    assert_eq!(start(&mut store(), &changelog[..5]), ["cached 1", "read 0", "rebuilt", "read 5", "ready 5"]);
    assert_eq!(load(&mut store()), Ok(changelog[..5].to_vec()));
}
