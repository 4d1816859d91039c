//! A consumer group with one member: whoever joins last has all partitions. Never reads past what is committed.

use super::broker::Broker;
use super::catalog::Epoch;
use super::membership::Membership;
use super::publisher::{LocalPublisher, STABLE_WAIT};
use super::store::GroupKey;
use crate::log::{AssignmentListener, Delivery, Fetched, Group, GroupSpec, LogError, Publisher};
use bulkhead_core::ids::{Partition, Position};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub(super) struct LocalGroup {
    broker: Arc<Broker>,
    spec: GroupSpec,
    listener: Arc<dyn AssignmentListener>,
    membership: Arc<Membership>,
    /// Held by whoever tells the listener; what it was told last is ours.
    told: Mutex<Told>,
    /// The next offset to read of each assigned partition.
    cursors: Mutex<BTreeMap<Partition, i64>>,
    left: AtomicBool,
    /// Counts what a waiting poll must look at at once: seeks, rejoins, leaving.
    signals: AtomicU64,
}

#[derive(Default)]
struct Told {
    assigned: Vec<Partition>,
    /// The membership under which it was assigned.
    epoch: Epoch,
}

impl LocalGroup {
    pub(super) fn join(
        broker: Arc<Broker>,
        spec: &GroupSpec,
        listener: Arc<dyn AssignmentListener>,
    ) -> Result<Self, LogError> {
        let key = GroupKey { group: spec.group.as_str().into(), topic: spec.topic.as_str().into() };
        broker.catalog().topic(&spec.topic)?;
        let epoch = broker.between_writes(|catalog| catalog.join(&key));
        Ok(Self {
            broker,
            spec: spec.clone(),
            listener,
            membership: Arc::new(Membership::new(key, epoch)),
            told: Mutex::default(),
            cursors: Mutex::default(),
            left: AtomicBool::new(false),
            signals: AtomicU64::new(0),
        })
    }

    /// Tells the listener what changed since the last poll.
    fn serve(&self) -> Result<(), LogError> {
        let mut told = self.told.lock();
        if self.left.load(Ordering::Acquire) {
            return Err(LogError::ClientDead(format!("the group {} was left", self.spec.group)));
        }
        let epoch = self.membership.epoch();
        let ours = self.broker.catalog().is_member(&self.membership.key, epoch);
        if !told.assigned.is_empty() && (!ours || told.epoch != epoch) {
            let lost = std::mem::take(&mut told.assigned);
            self.cursors.lock().clear();
            self.listener.revoked(&lost, true);
        }
        if !ours {
            return Err(LogError::ClientDead(format!("another member of group {} took over", self.spec.group)));
        }
        if told.assigned.is_empty() {
            self.broker.barrier(STABLE_WAIT)?;
            let cursors = self.committed_or_start()?;
            told.assigned = cursors.keys().copied().collect();
            told.epoch = epoch;
            *self.cursors.lock() = cursors;
            self.listener.assigned(&told.assigned);
        }
        Ok(())
    }

    fn committed_or_start(&self) -> Result<BTreeMap<Partition, i64>, LogError> {
        let catalog = self.broker.catalog();
        let topic = catalog.topic(&self.spec.topic)?;
        let from = |partition, start| catalog.position(&self.membership.key, partition).map_or(start, |p| p.0);
        Ok((0..).map(Partition).zip(&topic.spans).map(|(p, span)| (p, from(p, span.start))).collect())
    }

    /// Makes a waiting poll look again.
    fn signal(&self) {
        self.signals.fetch_add(1, Ordering::AcqRel);
        self.broker.wake();
    }

    fn fetch(&self, partition: Partition, from: i64, max: usize) -> Result<Option<Fetched>, LogError> {
        let slot = self.broker.catalog().slot(&self.spec.topic, partition)?;
        let records = self.broker.read(slot, from, max)?;
        let Some(last) = records.last() else { return Ok(None) };
        let mut cursors = self.cursors.lock();
        // A seek or a revoke came in between: what was read is not what is wanted now.
        let Some(cursor) = cursors.get_mut(&partition).filter(|cursor| **cursor == from) else { return Ok(None) };
        *cursor = last.offset.next().0;
        Ok(Some(Fetched { partition, records }))
    }
}

impl Group for LocalGroup {
    fn poll(&self, wanted: &dyn Fn(Partition) -> bool, max: usize, wait: Duration) -> Result<Vec<Fetched>, LogError> {
        let deadline = Instant::now() + wait;
        loop {
            let signals = self.signals.load(Ordering::Acquire);
            self.broker.check()?;
            self.serve()?;
            let cursors: Vec<_> = self.cursors.lock().iter().map(|(p, at)| (*p, *at)).collect();
            let wanted: Vec<_> = cursors.into_iter().filter(|(p, _)| wanted(*p)).collect();
            let mut fetched = Vec::new();
            for (partition, from) in &wanted {
                fetched.extend(self.fetch(*partition, *from, max)?);
            }
            if !fetched.is_empty() || Instant::now() >= deadline {
                return Ok(fetched);
            }
            let slots: Result<Vec<_>, _> = {
                let catalog = self.broker.catalog();
                wanted.iter().map(|(p, at)| catalog.slot(&self.spec.topic, *p).map(|slot| (slot, *at))).collect()
            };
            self.broker.wait(&slots?, deadline, || self.signals.load(Ordering::Acquire) != signals);
        }
    }

    fn seek(&self, partition: Partition, position: Position) -> Result<(), LogError> {
        let mut cursors = self.cursors.lock();
        let cursor = cursors.get_mut(&partition);
        *cursor.ok_or_else(|| LogError::Refused(format!("partition {partition} is not assigned")))? = position.0;
        drop(cursors);
        self.signal();
        Ok(())
    }

    fn publisher(&self, lane: u32, _delivery: Delivery) -> Result<Box<dyn Publisher>, LogError> {
        let lane = format!("{}.{}.{lane}", self.spec.group, self.spec.instance);
        Ok(Box::new(LocalPublisher::new(self.broker.clone(), self.membership.clone(), lane)))
    }

    fn rejoin(&self) -> Result<(), LogError> {
        let key = &self.membership.key;
        let epoch = self.broker.between_writes(|catalog| catalog.join(key));
        self.membership.renew(epoch);
        self.signal();
        Ok(())
    }

    fn leave(&self) -> Result<(), LogError> {
        let mut told = self.told.lock();
        if self.left.load(Ordering::Acquire) {
            return Ok(());
        }
        let assigned = std::mem::take(&mut told.assigned);
        if !assigned.is_empty() {
            self.listener.revoked(&assigned, false);
        }
        self.left.store(true, Ordering::Release);
        self.cursors.lock().clear();
        let epoch = self.membership.epoch();
        self.broker.between_writes(|catalog| catalog.leave(&self.membership.key, epoch));
        self.signal();
        Ok(())
    }
}
