//! Every real actor of a flow, and every way for it to end: on a clock that stands still, each ending with no actor left,
//! no thread and no ticket open, and every record out once. Never waits on real time for something to be due.
//!
//! | | drained | killed | panic | error | hung | past the budget | culprit |
//! |---|---|---|---|---|---|---|---|
//! | source, lane | x | x | x | lane | x | x | – |
//! | worker | x | x | x | x | x | x | x |
//! | dlq, partition, ledger | x | x | x | – | – | x | – |
//! | results | x | x | x | – | x | root | – |
//!
//! Not in the table: tasks cannot hang (they run on their supervisor's thread and only ever await); the dlq and results have
//! no error of their own, those of source, partition and ledger are a log that refuses for good, which the log in memory
//! never does; only a worker has records to be guilty of a crash; past the root's budget the process ends. Threads run on
//! their own time; what is *due* is so by the clock that the test moves.

mod rig;

use bulkhead_actors::clock::{Clock, ClockHand};
use bulkhead_actors::pipeline::PipelineSpec;
use bulkhead_actors::shell::Fall;
use bulkhead_actors::supervisor::{ControlError, RootHandle};
use rig::{Act, Outcomes, PATIENCE, Plan, Rig};
use std::sync::{Arc, mpsc};
use std::time::Duration;

const SOURCE: &str = "pipeline/flow/source";
const LANE: &str = "pipeline/flow/lane/0";
const DLQ: &str = "pipeline/flow/dlq";
const WORKER: &str = "pipeline/flow/stage/work/worker-0";
const PARTITION: &str = "pipeline/flow/partitions/p0/partition";
const LEDGER: &str = "pipeline/flow/partitions/p0/ledger";
const RESULTS: &str = "results";
const ALL: [&str; 7] = [SOURCE, LANE, DLQ, WORKER, PARTITION, LEDGER, RESULTS];
const RECORDS: u32 = 200;
/// What no test takes, in real time.
const TOO_LONG: Duration = Duration::from_secs(180);
/// Longer than any test moves the clock, but where somebody hangs.
const AN_HOUR: Duration = Duration::from_secs(3_600);

fn ids(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|i| format!("r{i:05}")).collect()
}

/// Tokio's clock and the shells', both standing still. Tokio's would run ahead as soon as all tasks wait, but for a
/// blocking call that is out; it comes back after `TOO_LONG`, and then the tests' own time limits end them.
struct Time {
    clock: Clock,
    hand: ClockHand,
    _still: mpsc::Sender<()>,
}

impl Time {
    fn stop() -> Self {
        tokio::time::pause();
        let (still, released) = mpsc::channel::<()>();
        drop(tokio::task::spawn_blocking(move || released.recv_timeout(TOO_LONG).is_err()));
        let (clock, hand) = Clock::manual();
        Self { clock, hand, _still: still }
    }

    /// Moves the time on, a millisecond after the other, until this is so. Between two of them another thread has had its
    /// turn: those that live give their signs of life, however fast this goes.
    async fn until(&self, what: &str, so: impl Fn() -> bool) {
        let started = std::time::Instant::now();
        while !so() {
            assert!(started.elapsed() < PATIENCE, "never came: {what}");
            self.hand.advance(Duration::from_millis(1));
            tokio::time::advance(Duration::from_millis(1)).await;
            tokio::task::spawn_blocking(|| ()).await.expect("nothing to panic over");
        }
    }

    async fn outcomes(&self, rig: &Rig, count: u32) -> Outcomes {
        let reading = rig.reading(count as usize);
        self.until("the outcomes", || reading.is_finished()).await;
        reading.await.expect("no panic")
    }

    /// Half of the records flow, `hurt` happens, the other half flows; then all must have come out once.
    async fn flow(&self, rig: &Rig, hurt: impl AsyncFnOnce(&Rig)) {
        rig.send(ids(0..RECORDS / 2)).await;
        let some = self.outcomes(rig, RECORDS / 4).await.out.len();
        assert!(some >= RECORDS as usize / 4, "{some} records flowed");
        hurt(rig).await;
        rig.send(ids(RECORDS / 2..RECORDS)).await;
        assert_eq!(self.outcomes(rig, RECORDS).await.results(), ids(0..RECORDS));
    }

    /// Waits until the actor has fallen and is there again, and says why it fell.
    async fn reborn(&self, rig: &Rig, path: &str, before: u32) -> String {
        let again = || rig.root.actor(path).is_some_and(|a| a.incarnation.0 > before && a.state == "running");
        self.until(&format!("{path} again"), again).await;
        rig.root.actor(path).and_then(|actor| actor.last_restart).unwrap_or_default()
    }

    /// The same for an actor that is to be there again at once: no time passes.
    async fn reborn_at_once(&self, rig: &Rig, path: &str, before: u32) -> String {
        rig.root.until(path, |actor| actor.is_some_and(|a| a.incarnation.0 > before && a.state == "running")).await;
        rig.root.actor(path).and_then(|actor| actor.last_restart).unwrap_or_default()
    }

    /// Drains, for which no time need pass: nobody is left, in the tree or out of it, and no ticket is open.
    async fn end(&self, rig: Rig) {
        let root = rig.root.clone();
        rig.finish().await;
        self.until("the last thread", || root.live_actors() + root.threads() == 0).await;
    }
}

fn plan(time: &Time) -> Plan {
    let tune = |spec: &mut PipelineSpec| spec.source.session_timeout = AN_HOUR;
    Plan { partitions: 2, timeout: AN_HOUR, clock: time.clock.clone(), tune, ..Plan::default() }
}

fn incarnation(root: &RootHandle, path: &str) -> u32 {
    root.actor(path).map_or(0, |actor| actor.incarnation.0)
}

#[actix_rt::test]
async fn drained_while_records_flow() {
    let time = Time::stop();
    let mut plan = plan(&time);
    plan.tune = |spec| {
        spec.source.session_timeout = AN_HOUR;
        // What a partition still holds back would wait for time to pass.
        spec.limits.cut.linger = Duration::ZERO;
    };
    let rig = Rig::start(plan);
    rig.send(ids(0..RECORDS)).await;
    assert!(!time.outcomes(&rig, 1).await.out.is_empty(), "it flows");
    time.end(rig).await;
}

/// Each of them is hurt while records flow, and is there again at once.
async fn each(hurt: fn(&RootHandle, &str) -> Result<(), ControlError>, why: &str) {
    let time = Time::stop();
    for victim in ALL {
        let rig = Rig::start(plan(&time));
        time.flow(&rig, async |rig| {
            let before = incarnation(&rig.root, victim);
            hurt(&rig.root, victim).expect("it lives");
            let found = time.reborn_at_once(rig, victim, before).await;
            assert!(found.starts_with(why), "{victim}: {found}");
        })
        .await;
        time.end(rig).await;
    }
}

#[actix_rt::test]
async fn killed() {
    each(RootHandle::kill, "killed").await;
}

#[actix_rt::test]
async fn panicked() {
    each(|root, victim| root.fall(victim, Fall::Panic), "panic: ").await;
}

#[actix_rt::test]
async fn hung() {
    let time = Time::stop();
    for victim in [SOURCE, LANE, WORKER, RESULTS] {
        let mut plan = plan(&time);
        match victim {
            SOURCE => plan.tune = |_| {},
            WORKER => plan.timeout = Duration::from_secs(1),
            _ => {}
        }
        let rig = Rig::start(plan);
        time.flow(&rig, async |rig| {
            let before = incarnation(&rig.root, victim);
            rig.root.fall(victim, Fall::Hang).expect("it lives");
            let why = time.reborn(rig, victim, before).await;
            assert_eq!(why, "hung", "{victim}");
            assert_eq!(rig.root.abandoned().1, 1, "{victim} was given up, once");
        })
        .await;
        time.end(rig).await;
    }
}

/// A worker whose step says that it cannot go on.
#[actix_rt::test]
async fn failed_worker() {
    let time = Time::stop();
    let behaviour = Arc::new(|id: &str, run| if id == "r00007" && run == 1 { Act::Fatal } else { Act::Pass });
    let rig = Rig::start(Plan { behaviour, workers: 1, ..plan(&time) });
    time.flow(&rig, async |rig| {
        let why = time.reborn(rig, WORKER, 1).await;
        assert!(why.contains("told"), "{why}");
    })
    .await;
    time.end(rig).await;
}

/// A lane that the log refuses a dead letter which cannot be cut any more: it gives up rather than drop it.
#[actix_rt::test]
async fn failed_lane() {
    let time = Time::stop();
    let behaviour = Arc::new(|id: &str, _| if id == "r00006" { Act::Poison } else { Act::Pass });
    let rig = Rig::start(Plan { behaviour, ..plan(&time) });
    rig.faults.refuse(|outgoing| &*outgoing.topic == "flow.dlq");
    rig.send(ids(0..RECORDS / 2)).await;
    let why = time.reborn(&rig, LANE, 1).await;
    assert!(why.contains("dead_letter_refused"), "{why}");
    rig.faults.heal();
    rig.send(ids(RECORDS / 2..RECORDS)).await;
    let outcomes = time.outcomes(&rig, RECORDS).await;
    assert_eq!((outcomes.out.len(), outcomes.dlq.len()), (RECORDS as usize - 1, 1));
    assert_eq!(outcomes.dlq[0].1, "r00006");
    time.end(rig).await;
}

/// The pipeline takes no records and says so, then is tried again; the rest of the tree lives.
#[actix_rt::test]
async fn past_the_budget() {
    let time = Time::stop();
    for victim in [SOURCE, LANE, DLQ, WORKER, PARTITION, LEDGER] {
        let mut plan = plan(&time);
        plan.tune = |spec| {
            spec.limits.cut.linger = Duration::ZERO;
            spec.source.session_timeout = Duration::from_secs(3_600);
            (spec.restart.intensity, spec.stages[0].restart.intensity) = (1, 1);
        };
        let rig = Rig::start(plan);
        time.flow(&rig, async |rig| {
            let is = |path: &str, state: &str| rig.root.actor(path).is_some_and(|actor| actor.state == state);
            let failed = || is("pipeline/flow", "failed");
            while !failed() {
                // Nobody may be there to be hurt just now.
                if rig.root.fall(victim, Fall::Panic).is_ok() {
                    let before = incarnation(&rig.root, victim);
                    time.until(victim, || incarnation(&rig.root, victim) != before || failed()).await;
                }
                time.until(victim, || is(victim, "running") || failed()).await;
            }
            assert_eq!(incarnation(&rig.root, RESULTS), 1, "{victim}: others live");
            time.until("tried again", || is("pipeline/flow", "running") && is(victim, "running")).await;
        })
        .await;
        time.end(rig).await;
    }
}

/// A record that crashes whoever works on it is a dead letter alone.
#[actix_rt::test]
async fn culprit() {
    let time = Time::stop();
    let behaviour = Arc::new(|id: &str, _| if id == "r00007" { Act::Panic } else { Act::Pass });
    let rig = Rig::start(Plan { behaviour, ..plan(&time) });
    rig.send(ids(0..RECORDS)).await;
    let dead = rig.metrics.dlq_published.with(["flow", "work", "poison"]);
    time.until("its dead letter", || dead.get() == 1).await;
    let outcomes = time.outcomes(&rig, RECORDS).await;
    assert_eq!((outcomes.out.len(), outcomes.dlq[0].1.as_str()), (RECORDS as usize - 1, "r00007"));
    time.end(rig).await;
}
