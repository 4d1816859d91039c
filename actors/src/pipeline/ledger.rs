//! The shell of a partition's ledger shard: feeds the shard machine from the cache, the changelog, the link and the lane.
//! Never decides what a claim is answered with.

use super::ledger_cache::Cache;
use super::ledger_reads::{Pass, Reads};
use super::ledger_slot::Head;
use super::slots::{PartitionSlot, Slots};
use super::spec::LedgerSpec;
use crate::log::Delivery;
use crate::shell::Lifeline;
use bulkhead_core::ids::{Assignment, Generation, LoanId, Partition, Ticket};
use bulkhead_core::ledger::{
    Claimed, Claimer, Effect, Event, Open, PositionCheck, Shard, ShardSpec, Standing, Start, settle,
};
use bulkhead_core::link::{Borrower, Lent, LinkEffect, LinkEvent};
use bulkhead_core::machine::Machine;
use bulkhead_core::supervisor::{Charge, Exit, Signal};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// The shard is the only borrower of its link.
const SHARD: Borrower = Borrower(0);

/// The place of a partition's ledger shard; it outlives the incarnations that fill it.
#[derive(Clone)]
pub(crate) struct ShardSeat {
    pub(crate) slots: Arc<Slots>,
    pub(crate) partition: Partition,
}

/// One incarnation, at work for one generation.
struct Shell<'seat> {
    seat: &'seat ShardSeat,
    generation: Generation,
    machine: Shard,
    claimer: Claimer,
    cache: Cache,
    reads: Reads,
    /// Batches whose claims were asked for and are not answered.
    asked: BTreeMap<Ticket, (LoanId, Vec<Claimed>)>,
    stopped: Option<String>,
}

impl ShardSeat {
    fn slot(&self) -> &PartitionSlot {
        &self.slots.partitions[usize::try_from(self.partition.0).unwrap_or(0)]
    }

    pub(crate) fn down(&self, exit: &Exit) -> Charge {
        self.slot().ledger.link.lock().step(LinkEvent::Down(SHARD), self.slots.clock.now());
        self.slots.ended(&format!("partitions/p{}/ledger", self.partition), exit)
    }

    pub(crate) async fn run(self, lifeline: Lifeline) -> Exit {
        let Some(spec) = self.slots.spec.ledger.clone() else { return Exit::Done };
        tokio::select! {
            exit = self.told(&lifeline) => exit,
            exit = self.work(&spec) => exit,
        }
    }

    /// Told to drain, the shard ends after the partition's actor: until then batches want their answers.
    async fn told(&self, lifeline: &Lifeline) -> Exit {
        if lifeline.changed().await == Signal::Kill {
            return Exit::Killed;
        }
        tokio::select! {
            _ = lifeline.raised(Signal::Drain) => Exit::Killed,
            () = self.partition_gone() => Exit::Done,
        }
    }

    async fn partition_gone(&self) {
        loop {
            let attached = *self.slot().attached.lock();
            if attached.is_none() {
                return;
            }
            self.slot().attached.woken().await;
        }
    }

    async fn work(&self, spec: &LedgerSpec) -> Exit {
        let generation = self.attached().await;
        let Some(segments) = &self.slots.segments else { return Exit::Done };
        let cache = Cache::new(segments.partition(self.partition));
        let check = match self.slots.spec.delivery {
            Delivery::ExactlyOnce => PositionCheck::Exact,
            Delivery::AtLeastOnce => PositionCheck::AtLeast,
        };
        let shard = ShardSpec {
            partition: self.partition,
            ttl: spec.ttl,
            keys_max: spec.keys_max,
            check,
            wait: spec.settle_wait,
        };
        let mut shell = Shell {
            seat: self,
            generation,
            machine: Shard::new(shard),
            claimer: Claimer::new(&self.slots.spec.name, &self.slots.spec.source.topic, spec.key.clone()),
            cache,
            reads: Reads::new(Arc::clone(&self.slots), self.partition),
            asked: BTreeMap::new(),
            stopped: None,
        };
        shell.live().await
    }

    /// Waits until the partition's actor knows under which generation it works.
    async fn attached(&self) -> Generation {
        loop {
            let attached = *self.slot().attached.lock();
            if let Some(generation) = attached {
                return generation;
            }
            self.slot().attached.woken().await;
        }
    }
}

impl Shell<'_> {
    fn slots(&self) -> &Slots {
        &self.seat.slots
    }

    async fn live(&mut self) -> Exit {
        let (restarted, standing) = self.seat.slot().ledger.begin();
        let assignment = Assignment { partition: self.seat.partition, generation: self.generation };
        let open = standing.into_iter().map(|(seq, fresh)| Open { ticket: Ticket { assignment, seq }, fresh });
        let start = if restarted { Start::Restarted(open.collect()) } else { Start::Assigned };
        self.step(Event::Start(start)).await;
        loop {
            self.take_news().await;
            if self.machine.is_ready() {
                self.take_batches().await;
            }
            if let Some(why) = &self.stopped {
                tracing::error!(pipeline = %self.slots().spec.name, partition = %self.seat.partition, why, "partition stopped");
                self.seat.slot().progress.lock().stopped = Some(why.clone());
                return std::future::pending().await;
            }
            tokio::select! {
                () = self.seat.slot().ledger.link.woken() => {}
                pass = self.reads.next() => self.take_pass(pass).await,
            }
        }
    }

    async fn take_pass(&mut self, pass: Pass) {
        match pass {
            Pass::Event(event) => self.step(event).await,
            Pass::Failed(why) => {
                tracing::warn!(pipeline = %self.slots().spec.name, partition = %self.seat.partition, why, "ledger not read, tried again");
                self.reads.again();
            }
        }
    }

    async fn take_news(&mut self) {
        let news = self.seat.slot().ledger.news();
        for segments in news.committed {
            self.step(Event::Committed(segments)).await;
        }
        if news.resync {
            self.step(Event::Resync).await;
        }
    }

    async fn take_batches(&mut self) {
        while self.machine.is_ready() {
            let now = self.slots().clock.now();
            let lent = self.seat.slot().ledger.link.lock().step(LinkEvent::Ask(SHARD), now).pop();
            let Some(LinkEffect::Lend(Lent { loan, item: batch, .. })) = lent else { return };
            let claims = self.claimer.claims(self.seat.partition, &batch.records);
            let claimed = batch.records.iter().zip(&claims);
            let claims: Vec<_> =
                claimed.map(|(record, claim)| Claimed { offset: record.offset, claim: *claim }).collect();
            let ticket = batch.ticket;
            self.asked.insert(ticket, (loan, claims.clone()));
            drop(batch);
            self.step(Event::Claim { ticket, claims, wall: self.slots().clock.wall() }).await;
        }
    }

    /// Steps the machine and performs, in order.
    async fn step(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for effect in self.machine.step(event, self.slots().clock.now()) {
                self.perform(effect, &mut events).await;
            }
        }
    }

    async fn perform(&mut self, effect: Effect, events: &mut VecDeque<Event>) {
        let name = Arc::clone(&self.slots().spec.name);
        match effect {
            Effect::LoadCache => events.extend(self.cache.load().await),
            Effect::CatchUp { pass, from, after } => self.reads.begin(pass, from, after),
            Effect::RebuildCache { reason } => {
                tracing::info!(pipeline = %name, partition = %self.seat.partition, reason, "ledger cache not believed, read from the topic");
                if self.cache.rebuild(reason).await {
                    self.slots().metrics.ledger_rebuilds.with([&name, "damaged"]).inc();
                }
            }
            Effect::Store(segments) => events.extend(self.cache.store(segments).await),
            Effect::Trim(below) => events.extend(self.cache.trim(below).await),
            Effect::Ready { position, head } => {
                self.seat.slot().ledger.ready(Head { generation: self.generation, position, head });
                let keys = i64::try_from(self.machine.index().len()).unwrap_or(i64::MAX);
                self.slots().metrics.ledger_keys.with([&name, &self.seat.partition.to_string()]).set(keys);
            }
            Effect::Expire(below) => self.seat.slot().ledger.expire(self.generation, below),
            Effect::Answer { ticket, standings } => self.answer(ticket, &standings),
            Effect::Evicted(evicted) => {
                tracing::error!(pipeline = %name, partition = %self.seat.partition, ?evicted, "ledger full: keys leave before their time");
                let labels = [&*name, &self.seat.partition.to_string()];
                self.slots().metrics.ledger_keys_evicted.with(labels).inc_by(evicted.keys as u64);
            }
            Effect::Anomaly(anomaly) => {
                tracing::error!(pipeline = %name, partition = %self.seat.partition, %anomaly, "sentinel");
                self.slots().metrics.segment_gap.with([&name]).inc();
            }
            Effect::Stop(reason) => self.stopped = Some(reason.to_string()),
        }
    }

    /// The batch goes on with its answers; its claims stand until it is settled.
    fn answer(&mut self, ticket: Ticket, standings: &[Standing]) {
        let Some((loan, claims)) = self.asked.remove(&ticket) else { return };
        self.count(standings);
        let slot = self.seat.slot();
        let made: Vec<_> = claims.iter().map(|claimed| claimed.claim).collect();
        let fresh = claims.iter().zip(standings).filter(|(_, standing)| **standing == Standing::Fresh);
        slot.ledger.answered(self.generation, ticket.seq, fresh.map(|(claimed, _)| *claimed).collect());
        let released = slot.ledger.link.lock().step(LinkEvent::Settle(loan), self.slots().clock.now()).pop();
        let Some(LinkEffect::Release(batch)) = released else {
            slot.ledger.settled(self.generation, ticket.seq);
            return;
        };
        let mut batch = Arc::unwrap_or_clone(batch);
        batch.claims = made;
        settle(&mut batch, standings);
        self.slots().enter_stage(0, batch);
    }

    fn count(&self, standings: &[Standing]) {
        let hits = |result: &str, is: fn(&Standing) -> bool| {
            let count = standings.iter().filter(|standing| is(standing)).count() as u64;
            if count > 0 {
                self.slots().metrics.ledger_hits.with([&self.slots().spec.name, result]).inc_by(count);
            }
        };
        hits("fresh", |standing| matches!(standing, Standing::Fresh));
        hits("duplicate", |standing| matches!(standing, Standing::Duplicate(_)));
        hits("conflict", |standing| matches!(standing, Standing::Conflict(_)));
    }
}
