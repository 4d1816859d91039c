//! The source's actor: serves the group, starts and stops partitions, fetches. Never goes on while a fence waits.

use crate::ctx::{Ctx, Mutant};
use crate::group::Served;
use crate::slots::Slots;
use bulkhead_core::ids::{Assignment, Partition, Position};
use bulkhead_core::machine::Machine;
use bulkhead_core::source::{SourceEffect, SourceEvent};
use std::collections::BTreeSet;

/// What the listener was told; what it has to do about it lies in its slot.
struct Callback {
    revoked: Vec<Partition>,
    lost: bool,
}

#[derive(Default)]
pub(crate) struct Source {
    callback: Option<Callback>,
}

impl Source {
    /// Whether a callback is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.callback.is_some()
    }

    /// It dies. In the middle of a callback the group takes this for its end: no gate may be open then that was to be
    /// fenced; the rest is the next incarnation's.
    pub(crate) fn kill(&mut self, slots: &mut Slots, ctx: &mut Ctx) {
        let Some(Callback { revoked, lost }) = self.callback.take() else { return ctx.saw("source: killed") };
        let rest = if slots.rebalance.is_empty() {
            "source: killed at the end of a callback"
        } else {
            "source: killed in a callback"
        };
        ctx.saw(rest);
        if ctx.mutant == Mutant::ForgottenCallback {
            slots.rebalance.clear();
        }
        for effect in slots.rebalance.clone() {
            if let SourceEffect::Fence(over) = effect {
                slots.partition(over.partition).gate.fence(over.generation);
            }
        }
        ctx.broker.group.gave_up(slots.daemon, &mut ctx.clients[slots.daemon], &revoked, lost);
    }

    /// Says which partitions' actors are to stop.
    pub(crate) fn turn(&mut self, slots: &mut Slots, ctx: &mut Ctx) -> BTreeSet<Partition> {
        let mut stops = BTreeSet::new();
        if self.callback.is_some() || !slots.rebalance.is_empty() {
            self.go_on(slots, ctx, &mut stops);
        } else if ctx.fault("source: client dead", 2) {
            let revoked = ctx.clients[slots.daemon].told.keys().copied().collect();
            self.begin(SourceEvent::ClientDead, revoked, true, slots, ctx);
        } else if let Some((assignment, position)) = slots.begins.pop_front() {
            begin(assignment, position, slots, ctx);
        } else {
            self.poll(slots, ctx);
        }
        stops
    }

    fn begin(&mut self, event: SourceEvent, revoked: Vec<Partition>, lost: bool, slots: &mut Slots, ctx: &Ctx) {
        slots.rebalance.extend(slots.source.step(event, ctx.now));
        self.callback = Some(Callback { revoked, lost });
    }

    fn poll(&mut self, slots: &mut Slots, ctx: &mut Ctx) {
        let client = &mut ctx.clients[slots.daemon];
        let (event, revoked, lost) = match ctx.broker.group.poll(slots.daemon, client, &mut ctx.rng) {
            Served::Nothing => return fetch(slots, ctx),
            Served::Joined => return ctx.saw("group: joined"),
            Served::Assigned(partitions) => {
                ctx.saw("group: assigned");
                (SourceEvent::Assigned(partitions), Vec::new(), false)
            }
            Served::Revoked { partitions, lost } => {
                ctx.saw(if lost { "group: lost" } else { "group: revoked" });
                (SourceEvent::Revoked(partitions.clone()), partitions, lost)
            }
        };
        self.begin(event, revoked, lost, slots, ctx);
    }

    /// One effect a turn; what an earlier incarnation left is not waited for.
    fn go_on(&mut self, slots: &mut Slots, ctx: &mut Ctx, stops: &mut BTreeSet<Partition>) {
        let waits = self.callback.as_ref().is_some_and(|callback| !callback.lost);
        match slots.rebalance.front().cloned() {
            Some(SourceEffect::Start(assignment)) => {
                ctx.saw("source: start");
                slots.open(assignment);
                slots.starting.insert(assignment.partition);
            }
            Some(SourceEffect::Fence(over)) => {
                if waits && slots.fence_waits(over, ctx) {
                    return;
                }
                ctx.saw("source: fence");
                slots.fence(over, ctx);
            }
            Some(SourceEffect::Stop(partition)) => {
                ctx.saw("source: stop");
                slots.starting.remove(&partition);
                stops.insert(partition);
            }
            Some(SourceEffect::Rejoin) => {
                ctx.saw("source: rejoin");
                ctx.clients[slots.daemon].member = None;
            }
            Some(SourceEffect::Seek(..) | SourceEffect::Deliver(_) | SourceEffect::Discard(_)) => {}
            None => {
                if let Some(Callback { revoked, lost }) = self.callback.take() {
                    ctx.broker.group.gave_up(slots.daemon, &mut ctx.clients[slots.daemon], &revoked, lost);
                }
            }
        }
        slots.rebalance.pop_front();
    }
}

fn begin(assignment: Assignment, position: Position, slots: &mut Slots, ctx: &mut Ctx) {
    for effect in slots.source.step(SourceEvent::Begin(assignment, position), ctx.now) {
        let SourceEffect::Seek(partition, position) = effect else { continue };
        let fails = ctx.fault("source: seek failed", 100);
        if let Some(cursor) = ctx.clients[slots.daemon].told.get_mut(&partition).filter(|_| !fails) {
            *cursor = Some(position.0);
            ctx.saw("source: seek");
            continue;
        }
        slots.begins.push_front((assignment, position));
        slots.source.step(SourceEvent::SeekFailed(partition), ctx.now);
        return;
    }
    let inbox = &mut slots.partition(assignment.partition).inbox;
    if inbox.generation == assignment.generation {
        inbox.fetched.clear();
        inbox.begun = Some(position);
    }
}

/// Takes some records of one partition that has room.
fn fetch(slots: &mut Slots, ctx: &mut Ctx) {
    let told: Vec<(Partition, Option<i64>)> =
        ctx.clients[slots.daemon].told.iter().map(|(partition, cursor)| (*partition, *cursor)).collect();
    let wanted: Vec<_> = told.into_iter().filter(|(partition, _)| slots.partition(*partition).room).collect();
    if wanted.is_empty() {
        return;
    }
    let (partition, cursor) = wanted[ctx.rng.below(wanted.len())];
    let from = match (cursor, ctx.broker.stable_position(partition)) {
        (Some(cursor), _) => cursor,
        // The client asks for the position itself, a stable one.
        (None, Ok(position)) => position.unwrap_or_default().0,
        (None, Err(())) => return,
    };
    let records = ctx.broker.source.fetch(partition, from, 1 + ctx.rng.below(6));
    let end = records.last().map(|last| last.offset.next());
    ctx.clients[slots.daemon].told.insert(partition, Some(end.map_or(from, |end| end.0)));
    let Some(end) = end else { return };
    for effect in slots.source.step(SourceEvent::Fetched(partition, end), ctx.now) {
        match effect {
            SourceEffect::Deliver(assignment) => {
                ctx.saw("source: deliver");
                let inbox = &mut slots.partition(partition).inbox;
                if inbox.generation == assignment.generation {
                    inbox.fetched.push_back(records.clone());
                }
            }
            _ => ctx.saw("source: discard"),
        }
    }
}
