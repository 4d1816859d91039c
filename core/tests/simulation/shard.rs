//! A ledger shard's actor: drives the shard machine, one effect or one read a turn. Never answers a claim itself.

use crate::ctx::{Ctx, Mutant};
use crate::ledger_slot::Head;
use crate::slots::Slots;
use crate::source_log::claimer;
use bulkhead_core::audit::Delivery;
use bulkhead_core::ids::{Assignment, Generation, LoanId, Offset, Partition, Position, SegmentSeq, Ticket};
use bulkhead_core::ledger::{
    Claimed, Effect, Entry, Event, Open, Placed, PositionCheck, Recorded, Shard, ShardSpec, Standing, Start, settle,
};
use bulkhead_core::link::{Borrower, LinkEffect, LinkEvent};
use bulkhead_core::machine::Machine;
use bulkhead_core::time::{Now, WallMs};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

const SHARD: Borrower = Borrower(0);

/// A pass over the changelog: the position first, then the end, then what lies below it.
struct Pass {
    pass: u32,
    from: Option<Offset>,
    due: Now,
    read: Read,
}

enum Read {
    Nothing,
    Position(Option<Position>),
    Segments { position: Option<Position>, left: VecDeque<Placed> },
}

/// An incarnation that knows its generation.
struct Life {
    generation: Generation,
    machine: Shard,
    effects: VecDeque<Effect>,
    events: VecDeque<Event>,
    pass: Option<Pass>,
    asked: BTreeMap<Ticket, (LoanId, Vec<Claimed>)>,
}

pub(crate) struct ShardActor {
    partition: Partition,
    life: Option<Life>,
}

impl ShardActor {
    pub(crate) fn new(partition: Partition) -> Self {
        Self { partition, life: None }
    }

    pub(crate) fn unsettled(&self) -> usize {
        self.life.as_ref().map_or(0, |life| life.machine.unsettled())
    }

    pub(crate) fn describe(&self) -> String {
        let Some(life) = &self.life else { return "waits for its generation".into() };
        let (ready, asked) = (life.machine.is_ready(), life.asked.len());
        format!("g{}, ready {ready}, {asked} asked, reads {}", life.generation, life.pass.is_some())
    }

    pub(crate) fn down(&self, slots: &mut Slots, ctx: &Ctx) {
        slots.partition(self.partition).ledger.link.step(LinkEvent::Down(SHARD), ctx.now);
    }

    pub(crate) fn turn(&mut self, slots: &mut Slots, ctx: &mut Ctx) {
        if let Some(life) = &mut self.life {
            return life.turn(self.partition, slots, ctx);
        }
        let slot = slots.partition(self.partition);
        let Some(generation) = slot.attached else { return };
        let (restarted, standing) = slot.ledger.begin();
        let assignment = Assignment { partition: self.partition, generation };
        let forgets = ctx.mutant == Mutant::ForgottenClaims;
        let open = standing.into_iter().filter(|_| !forgets);
        let open: Vec<Open> = open.map(|(seq, fresh)| Open { ticket: Ticket { assignment, seq }, fresh }).collect();
        ctx.saw(match (restarted, open.is_empty()) {
            (true, false) => "shard: restarted with open claims",
            (true, true) => "shard: restarted",
            (false, _) => "shard: assigned",
        });
        let start = if restarted { Start::Restarted(open) } else { Start::Assigned };
        let spec = ShardSpec {
            partition: self.partition,
            ttl: ctx.ttl,
            keys_max: 10_000,
            check: match ctx.delivery {
                Delivery::ExactlyOnce => PositionCheck::Exact,
                Delivery::AtLeastOnce => PositionCheck::AtLeast,
            },
            wait: Duration::from_secs(15),
        };
        self.life = Some(Life {
            generation,
            machine: Shard::new(spec),
            effects: VecDeque::new(),
            events: VecDeque::from([Event::Start(start)]),
            pass: None,
            asked: BTreeMap::new(),
        });
    }
}

impl Life {
    fn turn(&mut self, partition: Partition, slots: &mut Slots, ctx: &mut Ctx) {
        if let Some(effect) = self.effects.pop_front() {
            return self.perform(effect, partition, slots, ctx);
        }
        if let Some(event) = self.events.pop_front() {
            self.effects.extend(self.machine.step(event, ctx.now));
            return;
        }
        let ledger = &mut slots.partition(partition).ledger;
        if !ledger.committed.is_empty() || ledger.resync {
            self.events.extend(ledger.committed.drain(..).map(Event::Committed));
            if std::mem::take(&mut ledger.resync) {
                ctx.saw("shard: resync");
                self.events.push_back(Event::Resync);
            }
            return;
        }
        if self.machine.is_ready() && self.take_batch(partition, slots, ctx) {
            return;
        }
        self.read(partition, ctx);
    }

    fn take_batch(&mut self, partition: Partition, slots: &mut Slots, ctx: &Ctx) -> bool {
        let link = &mut slots.partition(partition).ledger.link;
        let Some(LinkEffect::Lend(lent)) = link.step(LinkEvent::Ask(SHARD), ctx.now).pop() else { return false };
        let claims = claimer().claims(partition, &lent.item.records);
        let claimed = lent.item.records.iter().zip(claims);
        let claims: Vec<Claimed> = claimed.map(|(record, claim)| Claimed { offset: record.offset, claim }).collect();
        let ticket = lent.item.ticket;
        self.asked.insert(ticket, (lent.loan, claims.clone()));
        self.events.push_back(Event::Claim { ticket, claims, wall: ctx.wall(slots.daemon) });
        true
    }

    fn perform(&mut self, effect: Effect, partition: Partition, slots: &mut Slots, ctx: &mut Ctx) {
        let cache = &mut slots.caches[partition.0 as usize];
        match effect {
            Effect::LoadCache => {
                let cached: Vec<Placed> = cache.values().cloned().collect();
                ctx.saw(if cached.is_empty() { "shard: no cache" } else { "shard: cache loaded" });
                self.events.extend(cached.chunks(3).map(|chunk| Event::Cached(chunk.to_vec())));
                let fails = ctx.fault("shard: cache failed", 30);
                let ends = if fails { Event::CacheFailed("unreadable".into()) } else { Event::CacheRead };
                self.events.push_back(ends);
            }
            Effect::CatchUp { pass, from, after } => {
                ctx.saw("shard: pass");
                self.pass = Some(Pass { pass, from, due: ctx.now + after, read: Read::Nothing });
            }
            Effect::RebuildCache { .. } => {
                ctx.saw("shard: cache rebuilt");
                cache.clear();
            }
            Effect::Store(segments) => {
                ctx.saw("shard: stored");
                if ctx.fault("shard: store failed", 20) {
                    self.events.push_back(Event::CacheFailed("disk full".into()));
                } else {
                    cache.extend(segments.into_iter().map(|placed| (placed.segment.seq(), placed)));
                }
            }
            Effect::Trim(below) => cache.retain(|seq, _| *seq >= below),
            Effect::Ready { position, mut head } => {
                if ctx.mutant == Mutant::OwnClock {
                    head.expired_below = SegmentSeq(0);
                }
                ctx.saw("shard: ready");
                let generation = self.generation;
                slots.partition(partition).ledger.ready(Head { generation, position, head });
            }
            Effect::Expire(_) if ctx.mutant == Mutant::OwnClock => {}
            Effect::Expire(below) => {
                ctx.saw("shard: expired");
                slots.partition(partition).ledger.expire(self.generation, below);
            }
            Effect::Answer { ticket, standings } => self.answer(ticket, &standings, slots, ctx),
            Effect::Evicted(evicted) => ctx.broke(format!("ledger {partition}: there was room: {evicted:?}")),
            Effect::Anomaly(anomaly) => ctx.broke(format!("ledger {partition}: {anomaly}")),
            Effect::Stop(reason) => ctx.broke(format!("ledger {partition}: {reason}")),
        }
    }

    fn answer(&mut self, ticket: Ticket, standings: &[Standing], slots: &mut Slots, ctx: &mut Ctx) {
        let Some((loan, claims)) = self.asked.remove(&ticket) else { return };
        for standing in standings {
            ctx.saw(match standing {
                Standing::Fresh => "claim: fresh",
                Standing::Duplicate(_) => "claim: duplicate",
                Standing::Conflict(_) => "claim: conflict",
            });
        }
        let (partition, wall) = (ticket.assignment.partition, ctx.wall(slots.daemon));
        for (claimed, _) in claims.iter().zip(standings).filter(|(_, standing)| **standing == Standing::Fresh) {
            see_expired(partition, claimed, wall, ctx);
        }
        let ledger = &mut slots.partition(partition).ledger;
        let fresh = claims.iter().zip(standings).filter(|(_, standing)| **standing == Standing::Fresh);
        ledger.answered(self.generation, ticket.seq, fresh.map(|(claimed, _)| *claimed).collect());
        let Some(LinkEffect::Release(batch)) = ledger.link.step(LinkEvent::Settle(loan), ctx.now).pop() else {
            ctx.saw("shard: answered what was fenced");
            return ledger.settled(self.generation, ticket.seq);
        };
        let mut batch = Arc::unwrap_or_clone(batch);
        batch.claims = claims.iter().map(|claimed| claimed.claim).collect();
        settle(&mut batch, standings);
        slots.enter(0, batch);
    }

    fn read(&mut self, partition: Partition, ctx: &mut Ctx) {
        let Some(pass) = self.pass.as_mut().filter(|pass| pass.due <= ctx.now) else { return };
        if ctx.fault("shard: pass failed", 20) {
            pass.read = Read::Nothing;
            return;
        }
        match &mut pass.read {
            Read::Nothing => match ctx.broker.stable_position(partition) {
                Ok(position) => pass.read = Read::Position(position),
                Err(()) => ctx.saw("shard: waits for a stable position"),
            },
            Read::Position(position) => {
                let (from, end) = (pass.from.map_or(0, |from| from.0 as usize), ctx.broker.ledger_end(partition));
                let left = ctx.broker.ledger(partition, from, end).into();
                pass.read = Read::Segments { position: *position, left };
            }
            Read::Segments { position, left } => {
                let (pass, position) = (pass.pass, *position);
                let segments: Vec<Placed> = left.drain(..left.len().min(2)).collect();
                if segments.is_empty() {
                    self.pass = None;
                    self.events.push_back(Event::CaughtUp { pass, position });
                } else {
                    self.events.push_back(Event::Segments { pass, segments });
                }
            }
        }
    }
}

/// Notes where a key is fresh because it expired, and whether this owner's own clock says so, too.
fn see_expired(partition: Partition, fresh: &Claimed, wall: WallMs, ctx: &mut Ctx) {
    let done = |entry: &Entry| {
        let same = entry.claim.key == fresh.claim.key && entry.offset < fresh.offset;
        same && matches!(entry.recorded, Recorded::Emitted(_) | Recorded::Dropped)
    };
    let known = ctx.broker.recorded(partition).filter(|(_, entry)| done(entry)).last();
    let Some(at) = known.map(|(segment, _)| segment.committed_at()) else { return };
    ctx.saw("claim: fresh again, its key had expired");
    if wall.0 - at.0 < ctx.ttl.as_millis() as i64 {
        ctx.saw("claim: expired by another owner's clock");
    }
}
