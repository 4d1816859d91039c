//! A group and its publishers that suffer what they are told to. Never loses a record that the log has taken.

use super::faults::{CommitFault, Faults, Moment, Rebalance};
use crate::log::{
    AssignmentListener, Closing, Delivery, Fetched, Group, GroupSpec, Log, LogError, Outgoing, PublishError, Publisher,
};
use bulkhead_core::ids::{Partition, Position};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long positions that are handed out again may wait for commits that are under way.
const STABLE_WAIT: Duration = Duration::from_secs(10);

/// Passes on what the log tells, but for partitions that were taken away here already.
struct Filter {
    listener: Arc<dyn AssignmentListener>,
    taken: Mutex<BTreeSet<Partition>>,
}

impl AssignmentListener for Filter {
    fn assigned(&self, partitions: &[Partition]) {
        self.taken.lock().clear();
        self.listener.assigned(partitions);
    }

    fn revoked(&self, partitions: &[Partition], lost: bool) {
        let taken = std::mem::take(&mut *self.taken.lock());
        let left: Vec<_> = partitions.iter().copied().filter(|p| !taken.contains(p)).collect();
        if !left.is_empty() {
            self.listener.revoked(&left, lost);
        }
    }
}

pub(super) struct FaultyGroup {
    log: Arc<dyn Log>,
    inner: Arc<dyn Group>,
    faults: Faults,
    spec: GroupSpec,
    filter: Arc<Filter>,
    /// How many of the planned rebalances this member has gone through.
    seen: Mutex<usize>,
    /// The deaths of clients before this one joined.
    deaths: AtomicU64,
}

impl FaultyGroup {
    pub(super) fn join(
        log: Arc<dyn Log>,
        faults: Faults,
        spec: &GroupSpec,
        listener: Arc<dyn AssignmentListener>,
    ) -> Result<Self, LogError> {
        let filter = Arc::new(Filter { listener, taken: Mutex::default() });
        let inner = log.join(spec, filter.clone())?;
        let seen = Mutex::new(faults.rebalances_since(0).len());
        let deaths = AtomicU64::new(faults.deaths());
        Ok(Self { log, inner, faults, spec: spec.clone(), filter, seen, deaths })
    }

    fn rebalance(&self) -> Result<(), LogError> {
        let mut seen = self.seen.lock();
        for rebalance in self.faults.rebalances_since(*seen) {
            match rebalance {
                Rebalance::Revoke { group, partitions, lost } if group == self.spec.group => {
                    self.filter.listener.revoked(&partitions, lost);
                    self.filter.taken.lock().extend(partitions);
                }
                Rebalance::Assign { group, partitions } if group == self.spec.group => self.give(&partitions)?,
                Rebalance::Revoke { .. } | Rebalance::Assign { .. } => {}
            }
            *seen += 1;
        }
        Ok(())
    }

    fn give(&self, partitions: &[Partition]) -> Result<(), LogError> {
        let (group, topic) = (&self.spec.group, &self.spec.topic);
        let committed = self.log.committed(group, topic, partitions, STABLE_WAIT)?;
        for (partition, position) in partitions.iter().zip(committed) {
            let start = self.log.extent(topic, *partition)?.start;
            self.inner.seek(*partition, position.unwrap_or(start))?;
        }
        let mut taken = self.filter.taken.lock();
        taken.retain(|partition| !partitions.contains(partition));
        drop(taken);
        self.filter.listener.assigned(partitions);
        Ok(())
    }
}

impl Group for FaultyGroup {
    fn poll(&self, wanted: &dyn Fn(Partition) -> bool, max: usize, wait: Duration) -> Result<Vec<Fetched>, LogError> {
        self.faults.reach_or_draw()?;
        if self.deaths.load(Ordering::Acquire) < self.faults.deaths() {
            return Err(LogError::ClientDead("injected: the client is dead".to_owned()));
        }
        self.rebalance()?;
        let taken = self.filter.taken.lock().clone();
        self.inner.poll(&|partition| !taken.contains(&partition) && wanted(partition), max, wait)
    }

    fn seek(&self, partition: Partition, position: Position) -> Result<(), LogError> {
        self.inner.seek(partition, position)
    }

    fn publisher(&self, lane: u32, delivery: Delivery) -> Result<Box<dyn Publisher>, LogError> {
        let inner = self.inner.publisher(lane, delivery)?;
        Ok(Box::new(FaultyPublisher { inner, faults: self.faults.clone(), produced: 0, refused: None, dead: false }))
    }

    fn rejoin(&self) -> Result<(), LogError> {
        self.faults.reach()?;
        self.deaths.store(self.faults.deaths(), Ordering::Release);
        self.inner.rejoin()
    }

    fn leave(&self) -> Result<(), LogError> {
        self.inner.leave()
    }
}

struct FaultyPublisher {
    inner: Box<dyn Publisher>,
    faults: Faults,
    produced: usize,
    /// The first record of the open transaction that is refused.
    refused: Option<usize>,
    /// An outcome was unknown: rebuild.
    dead: bool,
}

impl FaultyPublisher {
    fn alive(&self) -> Result<(), PublishError> {
        if self.dead {
            return Err(PublishError::Unknown("injected: this producer is dead".to_owned()));
        }
        Ok(())
    }

    fn note(&mut self, outgoing: &Outgoing) {
        if self.refused.is_none() && self.faults.refuses(outgoing) {
            self.refused = Some(self.produced);
        }
        self.produced += 1;
    }

    fn unknown(&mut self) -> PublishError {
        self.dead = true;
        PublishError::Unknown("injected: nobody knows whether it was committed".to_owned())
    }
}

impl Publisher for FaultyPublisher {
    fn rebuild(&mut self) -> Result<(), PublishError> {
        self.faults.reach().map_err(|e| PublishError::Unknown(e.to_string()))?;
        self.inner.rebuild()?;
        self.dead = false;
        Ok(())
    }

    fn begin(&mut self) -> Result<(), PublishError> {
        self.alive()?;
        self.produced = 0;
        self.refused = None;
        self.inner.begin()
    }

    fn produce(&mut self, outgoing: &Outgoing) -> Result<(), PublishError> {
        self.alive()?;
        self.note(outgoing);
        self.inner.produce(outgoing)
    }

    fn commit(&mut self, closing: &Closing) -> Result<(), PublishError> {
        self.alive()?;
        self.faults.pass(Moment::Before);
        closing.segments.iter().for_each(|segment| self.note(segment));
        if let Some(index) = self.refused {
            return Err(PublishError::Refused { index, reason: "injected: the log refuses this record".to_owned() });
        }
        match self.faults.next_commit() {
            None => {
                self.inner.commit(closing)?;
                self.faults.pass(Moment::After);
                Ok(())
            }
            Some(CommitFault::Void) => Err(PublishError::Void("injected".to_owned())),
            Some(CommitFault::UnknownCommitted) => {
                self.inner.commit(closing)?;
                self.faults.pass(Moment::After);
                Err(self.unknown())
            }
            Some(CommitFault::UnknownAborted) => {
                self.inner.abort()?;
                Err(self.unknown())
            }
        }
    }

    fn abort(&mut self) -> Result<(), PublishError> {
        self.alive()?;
        self.inner.abort()
    }

    fn committed(&mut self, partitions: &[Partition]) -> Result<Vec<Option<Position>>, PublishError> {
        self.faults.reach().map_err(|e| PublishError::Unknown(e.to_string()))?;
        self.inner.committed(partitions)
    }

    fn record_bytes_max(&self, topic: &str) -> usize {
        self.inner.record_bytes_max(topic)
    }
}
