//! The shell of a partition's actor: finds out where to begin, then turns what comes into the machine's events.
//! Never reads a record, and never goes on under a generation that is over.

use super::slots::{Inbox, PartitionSlot, Slots};
use super::spec::OnGap;
use crate::log::LogError;
use crate::shell::Lifeline;
use bulkhead_core::fault::Fault;
use bulkhead_core::ids::{Assignment, Generation, Partition, Position};
use bulkhead_core::machine::Machine;
use bulkhead_core::partition::{PartitionEffect, PartitionEvent, PartitionMachine};
use bulkhead_core::source::{SourceEffect, SourceEvent};
use bulkhead_core::supervisor::{Charge, Exit, Signal};
use bulkhead_core::time::Now;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often a log that is away is asked again while a partition starts.
const RETRY: Duration = Duration::from_millis(500);

/// One place for a partition's actor; it outlives the incarnations that fill it.
#[derive(Clone)]
pub(crate) struct PartitionSeat {
    pub(crate) slots: Arc<Slots>,
    pub(crate) partition: Partition,
}

/// Why there is nothing to do for this incarnation.
enum NoStart {
    Told(Signal),
    Fault(Fault),
    /// The partition stands still until somebody decides; said aloud.
    Stopped(String),
}

impl PartitionSeat {
    fn slot(&self) -> &PartitionSlot {
        &self.slots.partitions[usize::try_from(self.partition.0).unwrap_or(0)]
    }

    /// Before a new incarnation: whoever shares its generation must wait for it.
    pub(crate) fn detach(&self) {
        *self.slot().attached.lock() = None;
    }

    pub(crate) fn down(&self, exit: &Exit) -> Charge {
        self.slot().room.store(false, Ordering::Release);
        // A shard that drains waits for this.
        self.detach();
        self.slot().attached.wake();
        self.slots.ended(&format!("partitions/p{}/partition", self.partition), exit)
    }

    pub(crate) async fn run(self, lifeline: Lifeline) -> Exit {
        let started = tokio::select! {
            started = self.start() => started,
            signal = lifeline.changed() => Err(NoStart::Told(signal)),
        };
        match started {
            Ok((assignment, position)) => self.work(&lifeline, assignment, position).await,
            Err(NoStart::Told(Signal::Kill)) => Exit::Killed,
            Err(NoStart::Told(_)) => Exit::Done,
            Err(NoStart::Fault(fault)) => Exit::Failed(fault),
            Err(NoStart::Stopped(why)) => {
                tracing::error!(pipeline = %self.slots.spec.name, partition = %self.partition, why, "partition stopped");
                self.slot().progress.lock().stopped = Some(why);
                if lifeline.changed().await == Signal::Kill { Exit::Killed } else { Exit::Done }
            }
        }
    }

    /// Finds the assignment and the position to begin at, and has the source read from there.
    async fn start(&self) -> Result<(Assignment, Position), NoStart> {
        let assignment = self.attach().await?;
        let generation = assignment.generation;
        let committed = match self.slots.spec.ledger {
            // The shard reads the committed position first and the ledger's end after it.
            Some(_) => self.slot().ledger.until_ready(generation).await.position,
            None => self.ask(Slots::committed_position).await?,
        };
        let position = self.check_gap(committed).await?;
        self.slots.begins.lock().push_back((assignment, position));
        loop {
            let begun = { self.slot().inbox.lock().begun };
            match begun {
                Some(begun) if begun == position => return Ok((assignment, position)),
                _ => self.slot().inbox.woken().await,
            }
        }
    }

    /// The first incarnation of an assignment takes its generation; a later one gets a generation of its own, for what
    /// the dead one had in flight is void.
    async fn attach(&self) -> Result<Assignment, NoStart> {
        let seat = self.clone();
        let attached = tokio::task::spawn_blocking(move || seat.claim_generation()).await;
        let generation = attached.map_err(|panic| NoStart::Fault(Fault::fatal("attach", panic)))?;
        let Some(generation) = generation else {
            return Err(NoStart::Fault(Fault::transient("not_assigned", "the partition is not ours any more")));
        };
        *self.slot().attached.lock() = Some(generation);
        self.slot().attached.wake();
        Ok(Assignment { partition: self.partition, generation })
    }

    fn claim_generation(&self) -> Option<Generation> {
        let mut claimed = self.slot().claimed.lock();
        let assignment = self.slots.source.lock().assignment(self.partition)?;
        if *claimed < assignment.generation {
            *claimed = assignment.generation;
            return Some(assignment.generation);
        }
        let effects = self.slots.source.lock().step(SourceEvent::Died(self.partition), self.slots.clock.now());
        for effect in effects {
            if let SourceEffect::Fence(over) = effect {
                self.slots.fence(over, false);
            }
        }
        let assignment = self.slots.source.lock().assignment(self.partition)?;
        self.slots.open(assignment);
        *claimed = assignment.generation;
        Some(assignment.generation)
    }

    /// Asks the log something that blocks, until it answers.
    async fn ask<R: Send + 'static>(
        &self,
        question: fn(&Slots, Partition) -> Result<R, LogError>,
    ) -> Result<R, NoStart> {
        loop {
            let (slots, partition) = (Arc::clone(&self.slots), self.partition);
            let answer = tokio::task::spawn_blocking(move || question(&slots, partition)).await;
            match answer.map_err(|panic| NoStart::Fault(Fault::fatal("log_call", panic)))? {
                Ok(answer) => return Ok(answer),
                Err(LogError::Unavailable(why)) => {
                    tracing::warn!(pipeline = %self.slots.spec.name, partition = %self.partition, why, "the log is away, asked again");
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => return Err(NoStart::Fault(Fault::fatal("log_call", error))),
            }
        }
    }

    /// Where to begin: the committed position, unless records after it are gone.
    async fn check_gap(&self, committed: Option<Position>) -> Result<Position, NoStart> {
        let extent = self.ask(Slots::source_extent).await?;
        let Some(position) = committed else { return Ok(extent.start) };
        if position >= extent.start {
            return Ok(position);
        }
        let name = &self.slots.spec.name;
        self.slots.metrics.source_gap.with([name, &self.partition.to_string()]).inc();
        let gone = format!(
            "records {position} to {} of {} partition {} were deleted before they were read",
            extent.start.0 - 1,
            self.slots.spec.source.topic,
            self.partition
        );
        match self.slots.spec.source.on_gap {
            OnGap::Stop => Err(NoStart::Stopped(format!("{gone}; on_gap = \"skip\" goes on from {}", extent.start))),
            OnGap::Skip => {
                tracing::error!(pipeline = %name, gone, "gap skipped");
                Ok(extent.start)
            }
        }
    }

    async fn work(&self, lifeline: &Lifeline, assignment: Assignment, position: Position) -> Exit {
        let slot = self.slot();
        let mut machine = PartitionMachine::new(assignment, self.slots.spec.limits);
        let mut wake_at = self.step(&mut machine, PartitionEvent::Open(position)).unwrap_or(None);
        tracing::info!(pipeline = %self.slots.spec.name, %assignment, %position, "partition open");
        let mut draining = false;
        loop {
            let due = async {
                match wake_at {
                    Some(at) => tokio::time::sleep(at - self.slots.clock.now()).await,
                    None => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                biased;
                signal = lifeline.changed(), if !draining => match signal {
                    Signal::Kill => return Exit::Killed,
                    _ => { draining = true; Some(PartitionEvent::Drain) }
                },
                () = slot.inbox.woken() => None,
                () = due => Some(PartitionEvent::Tick),
            };
            let Some(events) = self.events(assignment.generation, event) else { return Exit::Killed };
            for event in events {
                match self.step(&mut machine, event) {
                    Some(at) => wake_at = at,
                    None => return Exit::Done,
                }
            }
        }
    }

    /// What happened, in order: settlements first, for they make room. `None` where the generation is over.
    fn events(&self, generation: Generation, event: Option<PartitionEvent>) -> Option<Vec<PartitionEvent>> {
        let mut inbox = self.slot().inbox.lock();
        if inbox.generation != generation {
            return None;
        }
        let Inbox { fetched, settled, .. } = &mut *inbox;
        let mut events: Vec<PartitionEvent> =
            settled.drain(..).map(|(seq, end)| PartitionEvent::Settled(seq, end)).collect();
        events.extend(fetched.drain(..).map(PartitionEvent::Records));
        events.extend(event);
        Some(events)
    }

    /// Steps the machine and performs. `None` once it is drained, else when to wake it.
    fn step(&self, machine: &mut PartitionMachine, event: PartitionEvent) -> Option<Option<Now>> {
        let mut wake_at = None;
        let mut drained = false;
        for effect in machine.step(event, self.slots.clock.now()) {
            match effect {
                PartitionEffect::Cut(batch) => self.slots.set_off(batch),
                PartitionEffect::Room(room) => self.room(room),
                PartitionEffect::WakeAt(at) => wake_at = Some(at),
                PartitionEffect::Drained => drained = true,
                PartitionEffect::OutOfOrder(offset) => {
                    self.sentinel(&format!("record {offset} came out of order"));
                }
                PartitionEffect::SettledTwice(seq) => self.sentinel(&format!("batch {seq} was settled twice")),
            }
        }
        let oldest = machine.oldest().map(|(offset, since)| (offset.0, since));
        let mut progress = self.slot().progress.lock();
        progress.oldest = oldest;
        progress.watermark = machine.watermark();
        (!drained).then_some(wake_at)
    }

    /// The source fetches, or leaves the records where they are; how long it does not is counted.
    fn room(&self, room: bool) {
        self.slot().room.store(room, Ordering::Release);
        let now = self.slots.clock.now();
        let full_since = std::mem::replace(&mut self.slot().progress.lock().full_since, (!room).then_some(now));
        if let Some(since) = full_since.filter(|_| room) {
            let labels = [&*self.slots.spec.name, &self.partition.to_string()];
            self.slots.metrics.backpressure_seconds.with(labels).inc_by((now - since).as_secs_f64());
        }
    }

    fn sentinel(&self, what: &str) {
        tracing::error!(pipeline = %self.slots.spec.name, partition = %self.partition, what, "sentinel");
        self.slots.metrics.order_violation.with([&self.slots.spec.name]).inc();
    }
}
