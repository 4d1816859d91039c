//! A pipeline as the daemon holds it: what to supervise, what its health is, how it ends. Never runs a part of it.

use super::slots::Slots;
use super::source::SourceSeat;
use super::spec::PipelineSpec;
use super::tree;
use crate::clock::Clock;
use crate::log::{Log, LogError};
use crate::metrics::Metrics;
use crate::supervisor::{ChildSpec, RootHandle};
use bulkhead_core::ids::{Partition, Position};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// A pipeline and what outlives its actors. Clones hold the same one.
#[derive(Clone)]
pub struct Pipeline {
    source: SourceSeat,
}

/// What health says of one assigned partition.
#[derive(Clone, Debug)]
pub struct PartitionHealth {
    /// The partition.
    pub partition: Partition,
    /// The lowest unsettled position; `None` while it starts.
    pub watermark: Option<Position>,
    /// How long its oldest unsettled batch has been in flight, and that batch's first offset.
    pub oldest: Option<(Duration, i64)>,
    /// The stage that holds a batch of it, the one furthest behind; `None` where none does.
    pub at_stage: Option<Arc<str>>,
    /// Why it stands still, where it says so itself.
    pub stopped: Option<String>,
}

impl Pipeline {
    /// A pipeline on this log; `instance` tells its clients from those of other daemons.
    #[must_use]
    pub fn new(spec: PipelineSpec, log: Arc<dyn Log>, instance: &str, clock: Clock, metrics: Arc<Metrics>) -> Self {
        let slots = Slots::new(spec, log, clock, metrics);
        Self { source: SourceSeat { slots, instance: Arc::from(instance), root: Arc::new(OnceLock::new()) } }
    }

    fn slots(&self) -> &Slots {
        &self.source.slots
    }

    /// The pipeline's supervisor, to be added to the root.
    #[must_use]
    pub fn supervise(&self) -> ChildSpec {
        tree::pipeline(&self.source)
    }

    /// Tells the pipeline the tree that its partitions are added to. Once, before the root starts it or right after.
    pub fn attach(&self, root: RootHandle) {
        self.source.root.get_or_init(|| root);
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.slots().spec.name
    }

    /// What it was built from.
    #[must_use]
    pub fn spec(&self) -> &PipelineSpec {
        &self.slots().spec
    }

    /// Why it takes no records, where it does not.
    #[must_use]
    pub fn halted(&self) -> Option<String> {
        let (halted, mismatch) = (self.slots().halted.lock().clone(), self.slots().mismatch.lock().clone());
        mismatch.or(halted)
    }

    /// Waits until it has spent its restart budget.
    pub async fn gave_up(&self) {
        self.slots().gave_up.notified().await;
    }

    /// Whether it is a member of its group.
    #[must_use]
    pub fn joined(&self) -> bool {
        self.slots().group.lock().is_some()
    }

    /// The partitions that are assigned to it, each with its health.
    #[must_use]
    pub fn health(&self) -> Vec<PartitionHealth> {
        let slots = self.slots();
        let assigned: Vec<_> = slots.source.lock().assignments().collect();
        let health = assigned.into_iter().filter_map(|assignment| {
            let progress = slots.partition(assignment.partition)?.progress.lock().clone();
            let oldest = progress.oldest.map(|(offset, since)| (slots.clock.now() - since, offset));
            Some(PartitionHealth {
                partition: assignment.partition,
                watermark: progress.watermark,
                oldest,
                at_stage: self.stage_of(assignment.partition),
                stopped: progress.stopped,
            })
        });
        health.collect()
    }

    fn stage_of(&self, partition: Partition) -> Option<Arc<str>> {
        let holds = |link: &bulkhead_core::stage::StageLink| {
            link.batches().any(|batch| batch.ticket.assignment.partition == partition)
        };
        let last =
            self.slots().stages.iter().zip(&self.slots().spec.stages).rev().find(|(slot, _)| holds(&slot.lock()));
        last.map(|(_, spec)| Arc::clone(&spec.name))
    }

    /// Looks whether the topics still have the partitions that the pipeline was built for, and stops it where not; blocks.
    ///
    /// # Errors
    /// If the log does not answer.
    pub fn check_topics(&self) -> Result<(), LogError> {
        if self.joined() { self.slots().check_topics() } else { Ok(()) }
    }

    /// Keeps the membership alive while the pipeline has failed and nobody polls: takes no records. Blocks briefly.
    ///
    /// # Errors
    /// If the log does not answer.
    pub fn keep_membership(&self) -> Result<(), LogError> {
        let Some(_polling) = self.slots().polling.try_lock() else { return Ok(()) };
        let group = self.slots().group.lock().clone();
        let Some(group) = group else { return Ok(()) };
        group.poll(&|_| false, 0, Duration::ZERO).map(drop)
    }

    /// The stages none of whose workers has built its steps.
    #[must_use]
    pub fn stages_without_worker(&self) -> Vec<String> {
        let stages = self.slots().spec.stages.iter().zip(&self.slots().ready_workers);
        let idle = stages.filter(|(_, ready)| ready.load(Ordering::Acquire) == 0);
        idle.map(|(stage, _)| stage.name.to_string()).collect()
    }

    /// How long a batch may be at this stage before something is wrong; `None` where there is no such stage.
    #[must_use]
    pub fn patience(&self, stage: Option<&str>) -> Option<Duration> {
        let spec = self.slots().spec.stages.iter().find(|spec| Some(&*spec.name) == stage)?;
        Some(spec.timeout + spec.retry.max)
    }

    /// Records between the watermark and the end of each assigned partition; blocks.
    ///
    /// # Errors
    /// If the log does not answer.
    pub fn lag(&self) -> Result<Vec<(Partition, i64)>, LogError> {
        let health = self.health().into_iter();
        let lag = health.map(|health| {
            let extent = self.slots().source_extent(health.partition)?;
            let position = health.watermark.unwrap_or(extent.start).max(extent.start);
            Ok((health.partition, (extent.end.0 - position.0).max(0)))
        });
        lag.collect()
    }

    /// Publishes the gauges that nothing else sets: links, what is in flight, ages.
    pub fn observe(&self) {
        let (slots, name) = (self.slots(), &*self.slots().spec.name);
        let gauge = |link: &str, depth: usize| {
            let depth = i64::try_from(depth).unwrap_or(i64::MAX);
            slots.metrics.link_depth.with([name, link]).set(depth);
        };
        for (stage, slot) in slots.spec.stages.iter().zip(&slots.stages) {
            gauge(&format!("stage/{}", stage.name), slot.lock().depth());
        }
        gauge("dlq", slots.dlq.lock().depth());
        for (lane, slot) in slots.lanes.iter().enumerate() {
            gauge(&format!("lane/{lane}"), slot.lock().depth());
        }
        for health in self.health() {
            let labels = [name, &health.partition.to_string()];
            let age = health.oldest.map_or(0.0, |(age, _)| age.as_secs_f64());
            slots.metrics.oldest_unfinished_seconds.with(labels).set(age);
            let unsettled = slots.partition(health.partition).map_or(0, |slot| slot.account.lock().unsettled);
            slots.metrics.in_flight_batches.with(labels).set(i64::try_from(unsettled).unwrap_or(i64::MAX));
        }
    }

    /// Batches that are not settled.
    #[must_use]
    pub fn open_tickets(&self) -> usize {
        self.slots().partitions.iter().map(|slot| slot.account.lock().unsettled).sum()
    }

    /// Leaves the group, once the actors have ended; blocks.
    ///
    /// # Errors
    /// If the log did not take it in time: the group will find out by itself.
    pub fn leave(&self) -> Result<(), LogError> {
        let group = self.slots().group.lock().take();
        group.map_or(Ok(()), |group| group.leave())
    }
}
