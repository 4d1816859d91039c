//! Tests of the results actor against a reader that follows a script: what real logs do rarely is played on purpose.

use super::*;
use crate::log::{AssignmentListener, Extent, Group, GroupSpec, Producer, TopicInfo, TopicSpec};
use bulkhead_core::ids::Offset;
use bulkhead_core::job_id::{JobIds, Scope};
use bulkhead_core::jobs::JobOutcome;
use bulkhead_core::record::{Header, ID_HEADER, SourceRecord};
use bytes::Bytes;
use std::collections::VecDeque;

type Turn = Result<Vec<Read>, LogError>;

/// A log with the topics `out` (2 partitions) and `dead` (1) whose readers play what the script says.
#[derive(Default)]
struct Script {
    turns: Mutex<VecDeque<Turn>>,
    readers: Mutex<Vec<Vec<Option<i64>>>>,
}

struct Played(Arc<Script>);

impl Reader for Played {
    fn read(&mut self, _: usize, _: Duration) -> Turn {
        self.0.turns.lock().pop_front().unwrap_or(Ok(Vec::new()))
    }
}

struct ScriptedLog(Arc<Script>);

fn unused<T>() -> Result<T, LogError> {
    Err(LogError::Refused("the results actor has no use for this".into()))
}

impl Log for ScriptedLog {
    fn join(&self, _: &GroupSpec, _: Arc<dyn AssignmentListener>) -> Result<Arc<dyn Group>, LogError> {
        unused()
    }
    fn producer(&self) -> Result<Arc<dyn Producer>, LogError> {
        unused()
    }
    fn reader(&self, tails: &[Tail]) -> Result<Box<dyn Reader>, LogError> {
        self.0.readers.lock().push(tails.iter().map(|tail| tail.from.map(|position| position.0)).collect());
        Ok(Box::new(Played(Arc::clone(&self.0))))
    }
    fn topic(&self, name: &str) -> Result<Option<TopicInfo>, LogError> {
        Ok(match name {
            "out" => Some(TopicInfo { partitions: 2 }),
            "dead" => Some(TopicInfo { partitions: 1 }),
            _ => None,
        })
    }
    fn create_topics(&self, _: &[TopicSpec]) -> Result<(), LogError> {
        unused()
    }
    fn retention(&self, _: &str) -> Result<Option<Duration>, LogError> {
        unused()
    }
    fn set_retention(&self, _: &str, _: Duration) -> Result<(), LogError> {
        unused()
    }
    fn extent(&self, _: &str, _: Partition) -> Result<Extent, LogError> {
        unused()
    }
    fn committed(&self, _: &str, _: &str, _: &[Partition], _: Duration) -> Result<Vec<Option<Position>>, LogError> {
        unused()
    }
    fn ping(&self, _: Duration) -> Result<(), LogError> {
        unused()
    }
}

fn store() -> Arc<JobStore> {
    let limits = Limits { jobs_max: 100, bytes_max: 1 << 20, ttl: Duration::from_secs(60) };
    Arc::new(JobStore::new(limits, Arc::new(Metrics::new())))
}

fn start(script: &Arc<Script>, store: &Arc<JobStore>) -> Results {
    let topics = [(Arc::from("out"), Source::Results), (Arc::from("dead"), Source::DeadLetters)];
    Results::start(Arc::new(ScriptedLog(Arc::clone(script))), &topics, Arc::clone(store)).expect("topics exist")
}

fn id(n: u8) -> JobId {
    JobIds::new(b"secret").random(Scope { tenant: "", pipeline: "digits" }, WallMs(1_000), [n; 10])
}

fn read(tail: usize, offset: i64, n: u8) -> Read {
    let mut headers = vec![Header::new(ID_HEADER, id(n).to_string())];
    if tail == 2 {
        headers.push(Header::new("__bulkhead.errors.code", "bad"));
    }
    let record = Record { key: None, value: Some(Bytes::from_static(b"{}")), headers, timestamp: WallMs(2_000) };
    Read::Record { tail, record: SourceRecord { offset: Offset(offset), record } }
}

fn turn(results: &mut Results) -> Result<usize, LogError> {
    results.turn(Duration::ZERO, WallMs(2_000))
}

#[test]
fn outcomes_of_both_topics_are_found() {
    let (script, store) = (Arc::new(Script::default()), store());
    script.turns.lock().push_back(Ok(vec![read(1, 0, 1), read(2, 0, 2)]));
    let mut results = start(&script, &store);
    assert_eq!(turn(&mut results).expect("played"), 2);
    assert!(matches!(store.get(id(1), None).expect("seen").outcome, JobOutcome::Completed(_)));
    assert!(matches!(store.get(id(2), None).expect("seen").outcome, JobOutcome::Failed(error) if error.code == "bad"));
    assert_eq!(store.get(id(3), None), None);
}

#[test]
fn caught_up_only_when_every_partition_is() {
    let (script, store) = (Arc::new(Script::default()), store());
    let caught_up = |tail| Read::CaughtUp { tail };
    script.turns.lock().extend([Ok(vec![caught_up(0), caught_up(2)]), Ok(vec![caught_up(1)])]);
    let mut results = start(&script, &store);
    let mut seen = vec![store.caught_up().is_ok()];
    for _ in 0..2 {
        turn(&mut results).expect("played");
        seen.push(store.caught_up().is_ok());
    }
    assert_eq!(seen, [false, false, true]);
}

#[test]
fn the_next_incarnation_reads_on() {
    let (script, store) = (Arc::new(Script::default()), store());
    script.turns.lock().push_back(Ok(vec![read(0, 6, 1), read(2, 3, 2)]));
    let mut first = start(&script, &store);
    turn(&mut first).expect("played");
    drop(first);
    drop(start(&script, &store));
    assert_eq!(*script.readers.lock(), [vec![None, None, None], vec![Some(7), None, Some(4)]]);
    assert!(store.get(id(1), None).is_some(), "the store outlives its actor");
}

#[test]
fn a_dead_reader_is_replaced_and_an_unavailable_log_is_told() {
    let (script, store) = (Arc::new(Script::default()), store());
    script.turns.lock().extend([
        Ok(vec![read(0, 6, 1)]),
        Err(LogError::Unavailable("away".into())),
        Err(LogError::ClientDead("fatal".into())),
        Ok(vec![read(0, 7, 2)]),
    ]);
    let mut results = start(&script, &store);
    assert_eq!(turn(&mut results).expect("played"), 1);
    assert!(matches!(turn(&mut results), Err(LogError::Unavailable(_))));
    assert_eq!(turn(&mut results).expect("renewed"), 0);
    assert_eq!(turn(&mut results).expect("played"), 1);
    assert_eq!(script.readers.lock()[1], [Some(7), None, None]);
    assert!(store.get(id(2), None).is_some());
}

#[test]
fn a_topic_that_does_not_exist_is_refused() {
    let log = Arc::new(ScriptedLog(Arc::default()));
    let refused = Results::start(log, &[(Arc::from("nowhere"), Source::Results)], store());
    assert!(matches!(refused.map(drop), Err(LogError::Refused(reason)) if reason.contains("nowhere")));
}

#[test]
fn the_actor_outlasts_a_log_that_fails_and_says_so_meanwhile() {
    let (script, store) = (Arc::new(Script::default()), store());
    script.turns.lock().extend([
        Err(LogError::Unavailable("away".into())),
        Ok(vec![read(0, 6, 1), Read::CaughtUp { tail: 0 }, Read::CaughtUp { tail: 1 }, Read::CaughtUp { tail: 2 }]),
    ]);
    let mut waiter = store.wait(JobName::Id(id(1)));
    let lifeline = Lifeline::detached(crate::clock::Clock::manual().0);
    let topics = vec![(Arc::from("out"), Source::Results), (Arc::from("dead"), Source::DeadLetters)];
    let log: Arc<dyn Log> = Arc::new(ScriptedLog(Arc::clone(&script)));
    let actor = thread::spawn({
        let (lifeline, store) = (lifeline.clone(), Arc::clone(&store));
        move || run(&lifeline, &log, &topics, &store)
    });
    futures::executor::block_on(waiter.news());
    assert!(store.get(id(1), None).is_some());
    lifeline.raise(Signal::Drain);
    assert_eq!(actor.join().expect("no panic"), Exit::Done);
    assert_eq!(store.caught_up(), Ok(()));
    assert_eq!(script.readers.lock().len(), 2, "a new reader after the failure");
}

#[test]
fn segments_tell_of_dropped_records() {
    use bulkhead_core::batch::{Batch, Claim, Outcome};
    use bulkhead_core::ids::{Assignment, BatchSeq, Generation, Round, SegmentSeq, Ticket};
    use bulkhead_core::ledger::{SEGMENT_BYTES_MAX, SegmentHead};
    let ticket =
        Ticket { assignment: Assignment { partition: Partition(0), generation: Generation(1) }, seq: BatchSeq(0) };
    let source = |offset| SourceRecord { offset: Offset(offset), record: Record::default() };
    let mut batch = Batch::new(ticket, vec![source(4), source(5)]);
    batch.outcomes = vec![Outcome::Dropped("not wanted".into()), Outcome::Pending];
    batch.claims = [7, 8].map(|key| Claim { key: KeyHash(key), fingerprint: 0, round: Round(0) }).to_vec();
    let head = SegmentHead { next: SegmentSeq(0), expired_below: SegmentSeq(0) };
    let segments = Segment::build(&[&batch], head, WallMs(2_000), SEGMENT_BYTES_MAX);
    let mut sightings = Vec::new();
    for value in [segments[0].wire().clone(), Bytes::from_static(b"damaged")] {
        Source::Ledger.see(&Record { value: Some(value), ..Record::default() }, &mut sightings);
    }
    let [dropped] = &sightings[..] else { panic!("one record was dropped: {sightings:?}") };
    assert_eq!((dropped.name, dropped.ended), (JobName::Key(KeyHash(7)), WallMs(2_000)));
    assert_eq!(dropped.outcome, JobOutcome::Dropped);
}

#[tokio::test]
async fn who_waits_is_woken_by_that_job_alone() {
    let (script, store) = (Arc::new(Script::default()), store());
    script.turns.lock().push_back(Ok(vec![read(0, 0, 1)]));
    let mut results = start(&script, &store);
    let (mut one, mut other) = (store.wait(JobName::Id(id(1))), store.wait(JobName::Id(id(2))));
    turn(&mut results).expect("played");
    one.news().await;
    let still = tokio::select! { biased; () = other.news() => false, () = std::future::ready(()) => true };
    assert!(still, "nothing happened to the other job");
    drop((one, other));
    assert!(store.waiting.lock().is_empty(), "nobody waits, nothing is kept");
}
