//! A partition's actor: finds out where to begin, has the source read from there, and drives the partition machine.
//! Never goes on under a generation that is over.

use crate::ctx::Ctx;
use crate::slots::{IN_FLIGHT_MAX, Slots};
use bulkhead_core::cut::CutLimits;
use bulkhead_core::ids::{Assignment, Generation, Partition, Position};
use bulkhead_core::machine::Machine;
use bulkhead_core::partition::{PartitionEffect, PartitionEvent, PartitionLimits, PartitionMachine};
use bulkhead_core::source::{SourceEffect, SourceEvent};
use std::time::Duration;

const LIMITS: PartitionLimits = PartitionLimits {
    cut: CutLimits { records_max: 4, bytes_max: 4_000, linger: Duration::from_millis(3) },
    in_flight_batches_max: IN_FLIGHT_MAX,
    in_flight_bytes_max: 16_000,
};

enum State {
    New,
    /// Waits for the shard to be ready.
    Attached(Assignment),
    /// Waits for the source to read from here.
    Begun(Assignment, Position),
    Open(Generation, Box<PartitionMachine>),
    /// Nothing is left to do for this incarnation.
    Ended,
}

pub(crate) struct PartitionActor {
    partition: Partition,
    state: State,
    draining: bool,
}

impl PartitionActor {
    /// A new incarnation: whoever shares its generation must wait for it.
    pub(crate) fn new(partition: Partition, slots: &mut Slots) -> Self {
        slots.partition(partition).attached = None;
        Self { partition, state: State::New, draining: false }
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    pub(crate) fn describe(&self) -> String {
        match &self.state {
            State::New => "new".into(),
            State::Attached(assignment) => format!("{assignment} waits for its shard"),
            State::Begun(assignment, position) => format!("{assignment} waits to read from {position}"),
            State::Open(_, machine) => format!("open at {:?}, {} in flight", machine.watermark(), machine.in_flight()),
            State::Ended => "ended".into(),
        }
    }

    pub(crate) fn down(&self, slots: &mut Slots) {
        slots.partition(self.partition).room = false;
    }

    /// Takes no more; ends once all it sent off is settled.
    pub(crate) fn drain(&mut self, slots: &mut Slots, ctx: &mut Ctx) {
        let drained = match &mut self.state {
            _ if self.draining => return,
            State::Open(_, machine) => {
                perform(machine.step(PartitionEvent::Drain, ctx.now), self.partition, slots, ctx)
            }
            _ => true,
        };
        self.draining = true;
        self.end_if(drained);
    }

    fn end_if(&mut self, drained: bool) {
        if drained {
            self.state = State::Ended;
        }
    }

    pub(crate) fn turn(&mut self, slots: &mut Slots, ctx: &mut Ctx) {
        match &mut self.state {
            State::New => self.attach(slots, ctx),
            State::Attached(assignment) => {
                let known = slots.partition(self.partition).ledger.head;
                let Some(head) = known.filter(|head| head.generation == assignment.generation) else { return };
                let position = head.position.unwrap_or_default();
                slots.begins.push_back((*assignment, position));
                self.state = State::Begun(*assignment, position);
            }
            State::Begun(assignment, position) => {
                if slots.partition(self.partition).inbox.begun == Some(*position) {
                    let (assignment, position) = (*assignment, *position);
                    let mut machine = Box::new(PartitionMachine::new(assignment, LIMITS));
                    perform(machine.step(PartitionEvent::Open(position), ctx.now), self.partition, slots, ctx);
                    self.state = State::Open(assignment.generation, machine);
                }
            }
            State::Open(generation, machine) => {
                let inbox = &mut slots.partition(self.partition).inbox;
                if inbox.generation != *generation {
                    self.state = State::Ended;
                    return;
                }
                let settled = inbox.settled.drain(..).map(|(seq, end)| PartitionEvent::Settled(seq, end));
                let mut events: Vec<PartitionEvent> = settled.collect();
                events.extend(inbox.fetched.drain(..).map(PartitionEvent::Records));
                events.push(PartitionEvent::Tick);
                let mut drained = false;
                for event in events {
                    drained |= perform(machine.step(event, ctx.now), self.partition, slots, ctx);
                }
                if drained && !self.draining {
                    ctx.broke(format!("partition {} drained though nobody asked", self.partition));
                }
                self.end_if(drained);
            }
            State::Ended => {}
        }
    }

    /// The first incarnation of an assignment takes its generation; a later one gets a generation of its own.
    fn attach(&mut self, slots: &mut Slots, ctx: &mut Ctx) {
        let Some(assignment) = slots.source.assignment(self.partition) else { return };
        if slots.partition(self.partition).claimed >= assignment.generation {
            if slots.fence_waits(assignment, ctx) {
                return;
            }
            ctx.saw("partition: a generation of its own");
            for effect in slots.source.step(SourceEvent::Died(self.partition), ctx.now) {
                if let SourceEffect::Fence(over) = effect {
                    slots.fence(over, ctx);
                }
            }
            let Some(assignment) = slots.source.assignment(self.partition) else { return };
            slots.open(assignment);
        }
        let Some(assignment) = slots.source.assignment(self.partition) else { return };
        let slot = slots.partition(self.partition);
        slot.claimed = assignment.generation;
        slot.attached = Some(assignment.generation);
        self.state = State::Attached(assignment);
    }
}

/// Whether it is drained.
fn perform(effects: Vec<PartitionEffect>, partition: Partition, slots: &mut Slots, ctx: &mut Ctx) -> bool {
    let mut drained = false;
    for effect in effects {
        match effect {
            PartitionEffect::Cut(batch) => {
                ctx.saw("partition: cut");
                slots.set_off(batch, ctx);
            }
            PartitionEffect::Room(room) => {
                ctx.saw(if room { "partition: room" } else { "partition: no room" });
                slots.partition(partition).room = room;
            }
            PartitionEffect::WakeAt(_) => ctx.saw("partition: wake later"),
            PartitionEffect::Drained => drained = true,
            PartitionEffect::OutOfOrder(offset) => ctx.broke(format!("partition {partition}: {offset} out of order")),
            PartitionEffect::SettledTwice(seq) => {
                ctx.broke(format!("partition {partition}: batch {seq} settled twice"))
            }
        }
    }
    drained
}
