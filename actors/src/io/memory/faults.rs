//! Faults on demand or from a seed, around any log. Never invents a result that a real log could not give.

use super::faulty_group::FaultyGroup;
use crate::log::{
    AssignmentListener, Extent, Group, GroupSpec, Log, LogError, Outgoing, Producer, Read, Reader, Tail, TopicInfo,
    TopicSpec,
};
use bulkhead_core::ids::{Offset, Partition, Position};
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use parking_lot::{Condvar, Mutex};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// What becomes of one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitFault {
    /// `Void`: nothing of it is seen.
    Void,
    /// `Unknown`, and it was committed.
    UnknownCommitted,
    /// `Unknown`, and nothing of it was written.
    UnknownAborted,
}

/// How often faults are drawn, each between 0 and 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// Of commits that are void.
    pub void: f64,
    /// Of commits that are unknown but were committed.
    pub unknown_committed: f64,
    /// Of commits that are unknown and were not.
    pub unknown_aborted: f64,
    /// Of polls, reads and sends that find the log unavailable.
    pub unavailable: f64,
}

/// Partitions that go or come, without the group being told by another member.
#[derive(Clone, Debug)]
pub(super) enum Rebalance {
    Revoke { group: String, partitions: Vec<Partition>, lost: bool },
    Assign { group: String, partitions: Vec<Partition> },
}

type Refuses = Arc<dyn Fn(&Outgoing) -> bool + Send + Sync>;

#[derive(Default)]
struct Plan {
    commits: VecDeque<CommitFault>,
    random: Option<(SmallRng, Rates)>,
    away: bool,
    refuses: Option<Refuses>,
    rebalances: Vec<Rebalance>,
    dead_members: u64,
    /// Whether commits wait, before or after they are made, and how many do.
    holding: Option<Moment>,
    held: usize,
}

/// When a commit is held up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before anything of it is written.
    Before,
    /// After it was committed, before its caller knows.
    After,
}

#[derive(Default)]
struct Shared {
    plan: Mutex<Plan>,
    changed: Condvar,
}

/// The handle that hurts a log. Its clones are one.
#[derive(Clone, Default)]
pub struct Faults(Arc<Shared>);

impl Faults {
    /// From now on faults are drawn at these rates, the same ones for the same seed and the same calls.
    pub fn draw(&self, seed: u64, rates: Rates) {
        self.0.plan.lock().random = Some((SmallRng::seed_from_u64(seed), rates));
    }

    /// The next commit that nothing else was planned for ends so.
    pub fn on_commit(&self, fault: CommitFault) {
        self.0.plan.lock().commits.push_back(fault);
    }

    /// Whether the log can be reached: while it is away every call that needs it is `Unavailable`, a commit `Unknown`.
    pub fn away(&self, away: bool) {
        self.0.plan.lock().away = away;
    }

    /// Records that `refuses` says yes to are refused for good, at the commit, as a broker does.
    pub fn refuse(&self, refuses: impl Fn(&Outgoing) -> bool + Send + Sync + 'static) {
        self.0.plan.lock().refuses = Some(Arc::new(refuses));
    }

    /// The group's member loses these partitions at its next poll; `lost`: they are another's already.
    pub fn revoke(&self, group: &str, partitions: &[Partition], lost: bool) {
        let rebalance = Rebalance::Revoke { group: group.to_owned(), partitions: partitions.to_vec(), lost };
        self.0.plan.lock().rebalances.push(rebalance);
    }

    /// The group's member is given these partitions at its next poll, to read on from their committed positions.
    pub fn assign(&self, group: &str, partitions: &[Partition]) {
        let rebalance = Rebalance::Assign { group: group.to_owned(), partitions: partitions.to_vec() };
        self.0.plan.lock().rebalances.push(rebalance);
    }

    /// Every client that is a group's member now is dead: its polls fail until it rejoins.
    pub fn kill_members(&self) {
        self.0.plan.lock().dead_members += 1;
    }

    /// Commits wait until what is returned is dropped: a log that is slow for exactly as long as a test wants.
    #[must_use]
    pub fn hold_commits(&self, moment: Moment) -> Held {
        self.0.plan.lock().holding = Some(moment);
        Held(self.clone())
    }

    /// Nothing goes wrong from now on; what was planned is forgotten.
    pub fn heal(&self) {
        let mut plan = self.0.plan.lock();
        *plan = Plan {
            rebalances: std::mem::take(&mut plan.rebalances),
            dead_members: plan.dead_members,
            held: plan.held,
            ..Plan::default()
        };
        self.0.changed.notify_all();
    }

    pub(super) fn next_commit(&self) -> Option<CommitFault> {
        let mut plan = self.0.plan.lock();
        if plan.away {
            return Some(CommitFault::UnknownAborted);
        }
        if let Some(fault) = plan.commits.pop_front() {
            return Some(fault);
        }
        let (rng, rates) = plan.random.as_mut()?;
        let drawn: f64 = rng.random();
        let steps = [
            (rates.void, CommitFault::Void),
            (rates.unknown_committed, CommitFault::UnknownCommitted),
            (rates.unknown_aborted, CommitFault::UnknownAborted),
        ];
        let mut below = 0.0;
        steps.into_iter().find_map(|(rate, fault)| {
            below += rate;
            (drawn < below).then_some(fault)
        })
    }

    pub(super) fn refuses(&self, outgoing: &Outgoing) -> bool {
        let refuses = self.0.plan.lock().refuses.clone();
        refuses.is_some_and(|refuses| refuses(outgoing))
    }

    /// Fails while the log is away.
    pub(super) fn reach(&self) -> Result<(), LogError> {
        let away = self.0.plan.lock().away;
        if away { Err(LogError::Unavailable("injected: the log is away".to_owned())) } else { Ok(()) }
    }

    /// Fails while the log is away, and as often as is drawn.
    pub(super) fn reach_or_draw(&self) -> Result<(), LogError> {
        self.reach()?;
        let mut plan = self.0.plan.lock();
        let drawn = plan.random.as_mut().is_some_and(|(rng, rates)| rng.random::<f64>() < rates.unavailable);
        if drawn { Err(LogError::Unavailable("injected: the log is away for a moment".to_owned())) } else { Ok(()) }
    }

    pub(super) fn rebalances_since(&self, seen: usize) -> Vec<Rebalance> {
        self.0.plan.lock().rebalances.get(seen..).unwrap_or_default().to_vec()
    }

    pub(super) fn deaths(&self) -> u64 {
        self.0.plan.lock().dead_members
    }

    /// Waits while commits are held at this moment.
    pub(super) fn pass(&self, moment: Moment) {
        let mut plan = self.0.plan.lock();
        if plan.holding != Some(moment) {
            return;
        }
        plan.held += 1;
        self.0.changed.notify_all();
        self.0.changed.wait_while(&mut plan, |plan| plan.holding == Some(moment));
        plan.held -= 1;
    }
}

/// Commits wait for as long as this lives.
pub struct Held(Faults);

impl Held {
    /// Waits until this many commits wait; whether they did within `wait`.
    #[must_use]
    pub fn wait_for(&self, commits: usize, wait: Duration) -> bool {
        let shared = &self.0.0;
        let mut plan = shared.plan.lock();
        !shared.changed.wait_while_for(&mut plan, |plan| plan.held < commits, wait).timed_out()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.plan.lock().holding = None;
        self.0.0.changed.notify_all();
    }
}

/// A log that suffers what its [`Faults`] say.
pub struct FaultyLog {
    inner: Arc<dyn Log>,
    faults: Faults,
}

impl FaultyLog {
    /// Puts faults around a log.
    #[must_use]
    pub fn new(inner: Arc<dyn Log>, faults: Faults) -> Self {
        Self { inner, faults }
    }
}

impl Log for FaultyLog {
    fn join(&self, spec: &GroupSpec, listener: Arc<dyn AssignmentListener>) -> Result<Arc<dyn Group>, LogError> {
        self.faults.reach()?;
        Ok(Arc::new(FaultyGroup::join(self.inner.clone(), self.faults.clone(), spec, listener)?))
    }

    fn producer(&self) -> Result<Arc<dyn Producer>, LogError> {
        Ok(Arc::new(FaultyProducer { inner: self.inner.producer()?, faults: self.faults.clone() }))
    }

    fn reader(&self, tails: &[Tail]) -> Result<Box<dyn Reader>, LogError> {
        self.faults.reach()?;
        Ok(Box::new(FaultyReader { inner: self.inner.reader(tails)?, faults: self.faults.clone() }))
    }

    fn topic(&self, name: &str) -> Result<Option<TopicInfo>, LogError> {
        self.faults.reach()?;
        self.inner.topic(name)
    }

    fn create_topics(&self, specs: &[TopicSpec]) -> Result<(), LogError> {
        self.faults.reach()?;
        self.inner.create_topics(specs)
    }

    fn retention(&self, topic: &str) -> Result<Option<Duration>, LogError> {
        self.faults.reach()?;
        self.inner.retention(topic)
    }

    fn set_retention(&self, topic: &str, retention: Duration) -> Result<(), LogError> {
        self.faults.reach()?;
        self.inner.set_retention(topic, retention)
    }

    fn extent(&self, topic: &str, partition: Partition) -> Result<Extent, LogError> {
        self.faults.reach()?;
        self.inner.extent(topic, partition)
    }

    fn committed(
        &self,
        group: &str,
        topic: &str,
        partitions: &[Partition],
        wait: Duration,
    ) -> Result<Vec<Option<Position>>, LogError> {
        self.faults.reach()?;
        self.inner.committed(group, topic, partitions, wait)
    }

    fn ping(&self, wait: Duration) -> Result<(), LogError> {
        self.faults.reach()?;
        self.inner.ping(wait)
    }
}

struct FaultyProducer {
    inner: Arc<dyn Producer>,
    faults: Faults,
}

impl Producer for FaultyProducer {
    fn send(&self, outgoing: Outgoing) -> BoxFuture<'static, Result<(Partition, Offset), LogError>> {
        match self.faults.reach_or_draw() {
            Ok(()) => self.inner.send(outgoing),
            Err(e) => ready(Err(e)).boxed(),
        }
    }

    fn record_bytes_max(&self, topic: &str) -> usize {
        self.inner.record_bytes_max(topic)
    }
}

struct FaultyReader {
    inner: Box<dyn Reader>,
    faults: Faults,
}

impl Reader for FaultyReader {
    fn read(&mut self, max: usize, wait: Duration) -> Result<Vec<Read>, LogError> {
        self.faults.reach_or_draw()?;
        self.inner.read(max, wait)
    }
}
