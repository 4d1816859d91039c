//! Consumer groups: assignment, positions, backpressure.

use super::{Assignments, PATIENCE, TURN, committed, fill, join, text, texts, topic, unique};
use bulkhead_actors::log::{GroupSpec, Log, LogError};
use bulkhead_core::ids::{Partition, Position};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) fn assigns_all_to_one_member(log: &dyn Log) {
    let topic = topic(log, 3);
    fill(log, &topic, 0, &["a0", "a1"]);
    fill(log, &topic, 2, &["c0"]);
    let member = join(log, &unique("group"), &topic, 3);
    let mut taken: Vec<_> = member.take(&|_| true, 3).iter().map(|(p, r)| (*p, text(r))).collect();
    taken.sort();
    assert_eq!(taken, [(0, "a0".to_owned()), (0, "a1".to_owned()), (2, "c0".to_owned())]);
    assert_eq!(committed(log, &member.name, &topic, 3), [None, None, None], "reading commits nothing");
    member.group.leave().unwrap();
}

pub(crate) fn resumes_at_the_committed_position(log: &dyn Log) {
    let topic = topic(log, 2);
    let offsets = fill(log, &topic, 0, &["a", "b", "c", "d"]);
    fill(log, &topic, 1, &["x"]);
    let name = unique("group");
    let member = join(log, &name, &topic, 2);
    member.take(&|p| p.0 == 0, 4);
    member.commit(0, offsets[1].next());
    member.group.leave().unwrap();
    assert_eq!(committed(log, &name, &topic, 2), [Some(offsets[1].next()), None]);
    let next = join(log, &name, &topic, 2);
    let taken = next.take(&|_| true, 3);
    let of = |p| taken.iter().filter(|(q, _)| *q == p).map(|(_, r)| text(r)).collect::<Vec<_>>();
    assert_eq!(of(0), ["c", "d"], "never below the committed position");
    assert_eq!(of(1), ["x"], "without a position: from the start");
    next.group.leave().unwrap();
}

pub(crate) fn leaves_unwanted_partitions_alone(log: &dyn Log) {
    let topic = topic(log, 2);
    fill(log, &topic, 0, &["a", "b", "c"]);
    fill(log, &topic, 1, &["x", "y"]);
    let member = join(log, &unique("group"), &topic, 2);
    let flowing = member.take(&|p| p.0 == 1, 2);
    assert!(flowing.iter().all(|(p, _)| *p == 1), "only what is wanted");
    fill(log, &topic, 1, &["z"]);
    assert_eq!(text(&member.take(&|p| p.0 == 1, 1)[0].1), "z", "the others flow on");
    let held: Vec<_> = member.take(&|p| p.0 == 0, 3).into_iter().map(|(_, r)| r).collect();
    assert_eq!(texts(&held), ["a", "b", "c"], "what was left is all there, in order");
    member.group.leave().unwrap();
}

pub(crate) fn takes_at_most_max(log: &dyn Log) {
    let topic = topic(log, 1);
    fill(log, &topic, 0, &["a", "b", "c", "d", "e"]);
    let member = join(log, &unique("group"), &topic, 1);
    let deadline = Instant::now() + PATIENCE;
    let mut all = Vec::new();
    while all.len() < 5 {
        assert!(Instant::now() < deadline);
        for fetched in member.group.poll(&|_| true, 2, TURN).unwrap() {
            assert!((1..=2).contains(&fetched.records.len()));
            all.extend(texts(&fetched.records));
        }
    }
    assert_eq!(all, ["a", "b", "c", "d", "e"]);
    let waited = Instant::now();
    assert!(member.group.poll(&|_| true, 2, Duration::from_millis(1)).unwrap().is_empty());
    assert!(waited.elapsed() < PATIENCE, "an empty poll ends");
    member.group.leave().unwrap();
}

pub(crate) fn seeks_back(log: &dyn Log) {
    let topic = topic(log, 1);
    let offsets = fill(log, &topic, 0, &["a", "b", "c"]);
    let member = join(log, &unique("group"), &topic, 1);
    member.take(&|_| true, 3);
    member.group.seek(Partition(0), Position(offsets[1].0)).unwrap();
    let again: Vec<_> = member.take(&|_| true, 2).into_iter().map(|(_, r)| r).collect();
    assert_eq!(texts(&again), ["b", "c"]);
    member.group.leave().unwrap();
}

pub(crate) fn leaving_revokes(log: &dyn Log) {
    let topic = topic(log, 2);
    let member = join(log, &unique("group"), &topic, 2);
    member.group.leave().unwrap();
    assert!(member.told.now().is_empty());
    let revokes = member.told.revokes.lock().unwrap();
    assert!(revokes.iter().all(|(_, lost)| !lost), "what is left is not lost: {revokes:?}");
}

pub(crate) fn rejoining_reads_from_the_committed_position(log: &dyn Log) {
    let topic = topic(log, 1);
    let offsets = fill(log, &topic, 0, &["a", "b", "c"]);
    let member = join(log, &unique("group"), &topic, 1);
    member.take(&|_| true, 3);
    let mut before = member.publisher(0);
    member.commit(0, offsets[0].next());
    member.group.rejoin().unwrap();
    let again: Vec<_> = member.take(&|_| true, 2).into_iter().map(|(_, r)| r).collect();
    assert_eq!(texts(&again), ["b", "c"]);
    assert_eq!(member.told.now(), [0]);
    // A publisher made before the rejoin goes on with the new membership.
    before.rebuild().unwrap();
    before.begin().unwrap();
    let positions = vec![(Partition(0), offsets[2].next())];
    before.commit(&bulkhead_actors::log::Closing { segments: Vec::new(), positions }).unwrap();
    assert_eq!(committed(log, &member.name, &topic, 1), [Some(offsets[2].next())]);
    member.group.leave().unwrap();
}

/// Two members: whatever the log does about it, no partition is both's at once.
pub(crate) fn a_second_member_is_never_ours_at_once(log: &dyn Log) {
    let topic = topic(log, 4);
    let first = join(log, &unique("group"), &topic, 4);
    let told = Arc::new(Assignments::default());
    let spec = GroupSpec {
        group: first.name.clone(),
        topic: topic.to_string(),
        instance: "second".to_owned(),
        session_timeout: Duration::from_secs(6),
    };
    let second = log.join(&spec, told.clone()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while told.now().is_empty() {
        assert!(Instant::now() < deadline, "the second member got nothing");
        // The first may be told that it is a member no more: then it is dead, and says so.
        if let Err(e) = first.group.poll(&|_| false, 10, TURN) {
            assert!(matches!(e, LogError::ClientDead(_)), "{e}");
        }
        second.poll(&|_| false, 10, TURN).unwrap();
    }
    let both: Vec<_> = first.told.now().into_iter().filter(|p| told.now().contains(p)).collect();
    assert!(both.is_empty(), "{both:?} are both's");
    second.leave().unwrap();
    first.group.leave().unwrap();
}
