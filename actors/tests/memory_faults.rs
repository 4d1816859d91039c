//! The memory log's faults: each gives what a real log could give, and heals.

#![allow(clippy::unwrap_used, reason = "a check that cannot go on has failed")]

#[macro_use]
mod contract;

use bulkhead_actors::io::memory::{CommitFault, Faults, MemoryLog, MemoryOptions, Moment, Rates};
use bulkhead_actors::log::{Closing, Log, LogError, PublishError, Publisher};
use bulkhead_core::ids::{Partition, Position};
use contract::{PATIENCE, committed, fill, join, outgoing, read_all, send, text, texts, topic};
use std::sync::Arc;

fn make() -> (Arc<dyn Log>, Faults) {
    let (log, faults) = MemoryLog::open(&MemoryOptions::default()).unwrap();
    (log, faults)
}

fn publish(publisher: &mut dyn Publisher, topic: &Arc<str>, text: &str, position: i64) -> Result<(), PublishError> {
    publisher.begin()?;
    publisher.produce(&outgoing(topic, 0, text))?;
    publisher.commit(&Closing { segments: Vec::new(), positions: vec![(Partition(0), Position(position))] })
}

#[test]
fn a_void_commit_leaves_nothing_and_can_be_repeated() {
    let (log, faults) = make();
    let (source, target) = (topic(&*log, 1), topic(&*log, 1));
    let member = join(&*log, "g", &source, 1);
    let mut publisher = member.publisher(0);
    faults.on_commit(CommitFault::Void);
    assert!(matches!(publish(&mut *publisher, &target, "a", 1), Err(PublishError::Void(_))));
    publisher.abort().unwrap();
    assert!(read_all(&*log, &target, 0).is_empty());
    publish(&mut *publisher, &target, "a", 1).unwrap();
    assert_eq!(texts(&read_all(&*log, &target, 0)), ["a"]);
}

#[test]
fn an_unknown_outcome_is_one_or_the_other_and_the_positions_tell() {
    for (fault, position) in [(CommitFault::UnknownCommitted, Some(Position(1))), (CommitFault::UnknownAborted, None)] {
        let (log, faults) = make();
        let (source, target) = (topic(&*log, 1), topic(&*log, 1));
        let member = join(&*log, "g", &source, 1);
        let mut publisher = member.publisher(0);
        faults.on_commit(fault);
        assert!(matches!(publish(&mut *publisher, &target, "a", 1), Err(PublishError::Unknown(_))));
        assert!(matches!(publisher.begin(), Err(PublishError::Unknown(_))), "dead until it is rebuilt");
        publisher.rebuild().unwrap();
        assert_eq!(publisher.committed(&[Partition(0)]).unwrap(), [position]);
        assert_eq!(read_all(&*log, &target, 0).len(), usize::from(position.is_some()));
    }
}

#[test]
fn a_refused_record_is_named_at_the_commit() {
    let (log, faults) = make();
    let (source, target) = (topic(&*log, 1), topic(&*log, 1));
    let member = join(&*log, "g", &source, 1);
    let mut publisher = member.publisher(0);
    faults.refuse(|outgoing| outgoing.record.payload() == b"bad");
    publisher.begin().unwrap();
    publisher.produce(&outgoing(&target, 0, "good")).unwrap();
    publisher.produce(&outgoing(&target, 0, "bad")).unwrap();
    let refused = publisher.commit(&Closing::default());
    assert!(matches!(refused, Err(PublishError::Refused { index: 1, .. })), "{refused:?}");
    publisher.abort().unwrap();
    publish(&mut *publisher, &target, "good", 1).unwrap();
}

#[test]
fn a_log_that_is_away_comes_back() {
    let (log, faults) = make();
    let source = topic(&*log, 1);
    let member = join(&*log, "g", &source, 1);
    faults.away(true);
    assert!(matches!(log.ping(PATIENCE), Err(LogError::Unavailable(_))));
    assert!(matches!(send(&*log, outgoing(&source, 0, "a")), Err(LogError::Unavailable(_))));
    assert!(matches!(member.group.poll(&|_| true, 1, PATIENCE), Err(LogError::Unavailable(_))));
    faults.heal();
    send(&*log, outgoing(&source, 0, "a")).unwrap();
    assert_eq!(text(&member.take(&|_| true, 1)[0].1), "a");
}

#[test]
fn commits_wait_while_they_are_held() {
    let (log, faults) = make();
    let (source, target) = (topic(&*log, 1), topic(&*log, 1));
    let member = join(&*log, "g", &source, 1);
    for (moment, seen_while_held) in [(Moment::Before, 0), (Moment::After, 2)] {
        let mut publisher = member.publisher(0);
        let held = faults.hold_commits(moment);
        let to = target.clone();
        let commit = std::thread::spawn(move || publish(&mut *publisher, &to, "a", 1));
        assert!(held.wait_for(1, PATIENCE), "the commit waits");
        assert_eq!(read_all(&*log, &target, 0).len(), seen_while_held);
        drop(held);
        commit.join().unwrap().unwrap();
    }
}

#[test]
fn partitions_go_and_come_back_to_their_committed_position() {
    let (log, faults) = make();
    let source = topic(&*log, 2);
    fill(&*log, &source, 0, &["a", "b"]);
    fill(&*log, &source, 1, &["x"]);
    let member = join(&*log, "g", &source, 2);
    member.take(&|_| true, 3);
    member.commit(0, Position(1));
    faults.revoke("g", &[Partition(0)], true);
    fill(&*log, &source, 1, &["y"]);
    let flowing = member.take(&|_| true, 1);
    assert_eq!((member.told.now(), text(&flowing[0].1)), (vec![1], "y".to_owned()));
    faults.assign("g", &[Partition(0)]);
    assert_eq!(text(&member.take(&|_| true, 1)[0].1), "b");
    assert_eq!(member.told.now(), [0, 1]);
}

#[test]
fn a_dead_client_rejoins() {
    let (log, faults) = make();
    let source = topic(&*log, 1);
    fill(&*log, &source, 0, &["a"]);
    let member = join(&*log, "g", &source, 1);
    member.take(&|_| true, 1);
    faults.kill_members();
    assert!(matches!(member.group.poll(&|_| true, 1, PATIENCE), Err(LogError::ClientDead(_))));
    member.group.rejoin().unwrap();
    assert_eq!(text(&member.take(&|_| true, 1)[0].1), "a", "nothing was committed");
    assert_eq!(*member.told.revokes.lock().unwrap(), [(vec![Partition(0)], true)]);
}

/// A publisher that follows the rules of the port loses and doubles nothing, whatever is drawn; the same seed draws the same.
#[test]
fn random_faults_lose_and_double_nothing() {
    let run = |seed| {
        let (log, faults) = make();
        let (source, target) = (topic(&*log, 1), topic(&*log, 1));
        let member = join(&*log, "g", &source, 1);
        let mut publisher = member.publisher(0);
        faults.draw(seed, Rates { void: 0.2, unknown_committed: 0.2, unknown_aborted: 0.2, unavailable: 0.0 });
        let (mut next, mut failures) = (0, Vec::new());
        while next < 50 {
            match publish(&mut *publisher, &target, &next.to_string(), next + 1) {
                Ok(()) => next += 1,
                Err(PublishError::Void(_)) => {
                    failures.push((next, "void"));
                    publisher.abort().unwrap();
                }
                Err(PublishError::Unknown(_)) => {
                    failures.push((next, "unknown"));
                    publisher.rebuild().unwrap();
                    next = publisher.committed(&[Partition(0)]).unwrap()[0].map_or(0, |p| p.0);
                }
                Err(e) => panic!("{e}"),
            }
        }
        let expected: Vec<_> = (0..50).map(|i| i.to_string()).collect();
        assert_eq!(texts(&read_all(&*log, &target, 0)), expected);
        assert_eq!(committed(&*log, "g", &source, 1), [Some(Position(50))]);
        failures
    };
    let failures = run(7);
    assert!(failures.iter().any(|(_, kind)| *kind == "void") && failures.iter().any(|(_, kind)| *kind == "unknown"));
    assert_eq!(failures, run(7));
    assert_ne!(failures, run(8));
}
