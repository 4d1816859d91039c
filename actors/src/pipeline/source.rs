//! The shell of a pipeline's source: one thread that polls the group and never stops while the pipeline lives.
//! Never waits for room, and never holds a lock while it polls.

use super::slots::Slots;
use super::tree;
use crate::log::{AssignmentListener, Fetched, Group, GroupSpec, LogError};
use crate::shell::Lifeline;
use crate::supervisor::RootHandle;
use bulkhead_core::fault::Fault;
use bulkhead_core::ids::{Assignment, Partition};
use bulkhead_core::machine::Machine;
use bulkhead_core::source::{SourceEffect, SourceEvent};
use bulkhead_core::supervisor::{Charge, Exit, Signal};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How long a poll waits when nothing comes: what a partition that just found room waits at most.
const POLL: Duration = Duration::from_millis(5);
/// Records taken from one partition in one turn: enough to amortise the turn, few enough to be fair.
const TURN: usize = 256;
/// How long to let a log that is away rest before it is asked again.
const AWAY: Duration = Duration::from_millis(200);
/// How often to look whether topics that do not fit the pipeline have been mended, before it joins.
const MISFIT: Duration = Duration::from_secs(1);

/// The place of a pipeline's source; it outlives the incarnations that fill it.
#[derive(Clone)]
pub(crate) struct SourceSeat {
    pub(crate) slots: Arc<Slots>,
    pub(crate) instance: Arc<str>,
    /// The tree that partitions are added to.
    pub(crate) root: Arc<OnceLock<RootHandle>>,
}

impl SourceSeat {
    pub(crate) fn down(&self, exit: &Exit) -> Charge {
        self.slots.ended("source", exit)
    }

    pub(crate) fn run(&self, lifeline: &Lifeline) -> Exit {
        let _polling = self.slots.polling.lock();
        match self.prepare(lifeline) {
            Ok(Signal::Run) => {}
            Ok(Signal::Drain) => return Exit::Done,
            Ok(Signal::Kill) => return Exit::Killed,
            Err(fault) => return Exit::Failed(fault),
        }
        loop {
            match lifeline.signal() {
                Signal::Run => {}
                // Told last: partitions, which took no more, and lanes have ended.
                Signal::Drain => return Exit::Done,
                Signal::Kill => return Exit::Killed,
            }
            lifeline.beat();
            let Some(group) = self.slots.group.lock().clone() else {
                return Exit::Failed(Fault::transient("no_membership", "the membership ended"));
            };
            if let Err(error) = self.turn(&*group)
                && let Err(fault) = self.recover(error, &*group)
            {
                return Exit::Failed(fault);
            }
        }
    }

    /// Makes the topics and joins the group, as soon as the log can be reached; or says what it was told instead.
    fn prepare(&self, lifeline: &Lifeline) -> Result<Signal, Fault> {
        // The log may take its time to answer, or to come.
        lifeline.idle();
        while lifeline.signal() == Signal::Run {
            match self.enter() {
                Ok(true) => return Ok(Signal::Run),
                Ok(false) => std::thread::park_timeout(MISFIT),
                Err(LogError::Unavailable(why)) => {
                    tracing::warn!(pipeline = %self.slots.spec.name, why, "the log cannot be reached, tried again");
                    std::thread::park_timeout(AWAY);
                }
                Err(error) => return Err(Fault::fatal("source_refused", error)),
            }
        }
        Ok(lifeline.signal())
    }

    /// Makes the topics and joins the group. `false` where the topics do not fit: a member would take partitions from those
    /// that do fit. Whoever is a member already goes on polling and takes no records.
    fn enter(&self) -> Result<bool, LogError> {
        self.slots.create_topics()?;
        let (member, fits) = (self.slots.group.lock().is_some(), self.slots.mismatch.lock().is_none());
        if !member && !fits {
            return Ok(false);
        }
        self.join().map(|()| true)
    }

    /// Joins the group, once: the membership outlives this actor.
    fn join(&self) -> Result<(), LogError> {
        let mut group = self.slots.group.lock();
        if group.is_some() {
            return Ok(());
        }
        let source = &self.slots.spec.source;
        let spec = GroupSpec {
            group: source.group.clone(),
            topic: source.topic.to_string(),
            instance: self.instance.to_string(),
            session_timeout: source.session_timeout,
        };
        *group = Some(self.slots.log.join(&spec, Arc::new(self.clone()))?);
        drop(group);
        self.slots.group.wake();
        Ok(())
    }

    fn turn(&self, group: &dyn Group) -> Result<(), LogError> {
        // Left over where an incarnation died in the middle of a callback.
        self.perform_rest(true);
        self.start_partitions();
        self.begin_partitions(group)?;
        let halted = self.slots.is_halted();
        let has_room =
            |partition| self.slots.partition(partition).is_some_and(|slot| slot.room.load(Ordering::Acquire));
        let wanted = |partition| !halted && has_room(partition);
        for fetched in group.poll(&wanted, TURN, POLL)? {
            self.deliver(fetched);
        }
        Ok(())
    }

    /// Partition actors that are ready: their partition is read from where they say.
    fn begin_partitions(&self, group: &dyn Group) -> Result<(), LogError> {
        loop {
            let Some((assignment, position)) = self.slots.begins.lock().pop_front() else { return Ok(()) };
            let effects = self.step(SourceEvent::Begin(assignment, position));
            for effect in effects {
                if let SourceEffect::Seek(partition, position) = effect
                    && let Err(error) = group.seek(partition, position)
                {
                    self.slots.begins.lock().push_front((assignment, position));
                    self.step(SourceEvent::SeekFailed(partition));
                    return Err(error);
                }
            }
            let Some(slot) = self.slots.partition(assignment.partition) else { continue };
            let mut inbox = slot.inbox.lock();
            if inbox.generation == assignment.generation {
                inbox.fetched.clear();
                inbox.begun = Some(position);
            }
            drop(inbox);
            slot.inbox.wake();
        }
    }

    fn deliver(&self, fetched: Fetched) {
        let Fetched { partition, records } = fetched;
        let Some(last) = records.last() else { return };
        let effects = self.step(SourceEvent::Fetched(partition, last.offset.next()));
        let Some(slot) = self.slots.partition(partition) else { return };
        for effect in effects {
            let SourceEffect::Deliver(Assignment { generation, .. }) = effect else { continue };
            let labels = [&*self.slots.spec.name, &partition.to_string()];
            self.slots.metrics.records_in.with(labels).inc_by(records.len() as u64);
            let mut inbox = slot.inbox.lock();
            if inbox.generation == generation {
                inbox.fetched.push_back(records);
            }
            drop(inbox);
            slot.inbox.wake();
            return;
        }
    }

    fn recover(&self, error: LogError, group: &dyn Group) -> Result<(), Fault> {
        let pipeline = &*self.slots.spec.name;
        match error {
            LogError::Unavailable(why) => {
                tracing::warn!(pipeline, why, "the log is away");
                std::thread::park_timeout(AWAY);
                Ok(())
            }
            LogError::ClientDead(why) => {
                tracing::error!(pipeline, why, "the group's client is dead, a new one joins");
                let effects = self.step(SourceEvent::ClientDead);
                self.perform(effects, true);
                group.rejoin().map_err(|error| Fault::transient("rejoin", error))
            }
            LogError::Refused(why) => Err(Fault::fatal("source_refused", why)),
        }
    }

    fn step(&self, event: SourceEvent) -> Vec<SourceEffect> {
        self.slots.source.lock().step(event, self.slots.clock.now())
    }

    /// Performs what an assignment or its end asks for. `lost`: no commit in progress is waited for.
    fn perform(&self, effects: Vec<SourceEffect>, lost: bool) {
        self.slots.rebalance.lock().extend(effects);
        let closes = CloseGates(&self.slots);
        self.perform_rest(lost);
        drop(closes);
    }

    /// Performs what is left of it. Each effect leaves the list once it is done, so an incarnation that dies over one
    /// loses none; all of them can be done twice.
    fn perform_rest(&self, lost: bool) {
        loop {
            let Some(effect) = self.slots.rebalance.lock().front().cloned() else { return };
            match effect {
                SourceEffect::Start(assignment) => {
                    self.slots.open(assignment);
                    self.add(assignment.partition);
                }
                SourceEffect::Fence(over) => self.slots.fence(over, lost),
                SourceEffect::Stop(partition) => self.remove(partition),
                SourceEffect::Seek(..) | SourceEffect::Deliver(_) | SourceEffect::Discard(_) | SourceEffect::Rejoin => {
                }
            }
            self.slots.rebalance.lock().pop_front();
        }
    }

    /// Starts the actors of partitions that are ours; those whose earlier actors still end are tried again next turn.
    fn start_partitions(&self) {
        let (Some(root), mut starting) = (self.root.get(), self.slots.starting.lock()) else { return };
        starting.retain(|partition| {
            let (parent, spec) = tree::partition(&self.slots, *partition);
            match root.add(&parent, spec) {
                Ok(()) => false,
                Err(error) => {
                    tracing::debug!(pipeline = %self.slots.spec.name, %partition, %error, "partition not started yet");
                    true
                }
            }
        });
    }

    fn add(&self, partition: Partition) {
        if self.slots.partition(partition).is_some() {
            self.slots.starting.lock().insert(partition);
            return;
        }
        // More partitions than the config says: the monitor stops the pipeline and names both counts.
        tracing::error!(pipeline = %self.slots.spec.name, %partition, "assigned a partition that the config does not know");
    }

    fn remove(&self, partition: Partition) {
        self.slots.starting.lock().remove(&partition);
        let Some(root) = self.root.get() else { return };
        let path = tree::partition_path(&self.slots, partition);
        if let Err(error) = root.remove(&path, Signal::Kill) {
            tracing::debug!(pipeline = %self.slots.spec.name, %partition, %error, "partition was not running");
        }
    }
}

/// Closes the gates of all that is still to be fenced, where a callback ends before it is done: the group takes its end for
/// an answer, and gives the partitions to another.
struct CloseGates<'a>(&'a Slots);

impl Drop for CloseGates<'_> {
    fn drop(&mut self) {
        let rest = self.0.rebalance.lock().clone();
        for effect in rest {
            if let SourceEffect::Fence(over) = effect
                && let Some(slot) = self.0.partition(over.partition)
            {
                slot.gate.fence(over.generation, Duration::ZERO);
            }
        }
    }
}

impl AssignmentListener for SourceSeat {
    fn assigned(&self, partitions: &[Partition]) {
        tracing::info!(pipeline = %self.slots.spec.name, ?partitions, "assigned");
        let effects = self.step(SourceEvent::Assigned(partitions.to_vec()));
        self.perform(effects, false);
    }

    fn revoked(&self, partitions: &[Partition], lost: bool) {
        tracing::info!(pipeline = %self.slots.spec.name, ?partitions, lost, "revoked");
        let effects = self.step(SourceEvent::Revoked(partitions.to_vec()));
        self.perform(effects, lost);
    }
}
