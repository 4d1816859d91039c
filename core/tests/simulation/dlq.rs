//! The dlq's actor: one turn borrows a batch, the next hands it on. Never publishes.

use crate::ctx::Ctx;
use crate::slots::{STAGES, Slots, letter_spec};
use bulkhead_core::batch::Batch;
use bulkhead_core::dlq::{Dlq, Effect, Event};
use bulkhead_core::limit::StopAbove;
use bulkhead_core::link::{Borrower, Lent, LinkEffect, LinkEvent};
use bulkhead_core::machine::Machine;
use bulkhead_core::time::Now;
use std::time::Duration;

const DLQ: Borrower = Borrower(0);

/// Low enough to be met.
const STOP_ABOVE: StopAbove = StopAbove { ratio: 0.3, window: Duration::from_millis(200), records_min: 4 };
/// How long nothing passes then.
const RETRY: Duration = Duration::from_millis(50);

pub(crate) struct DlqActor {
    machine: Dlq,
    hand: Option<Lent<Batch>>,
    stopped_until: Now,
}

impl DlqActor {
    pub(crate) fn new(ctx: &Ctx) -> Self {
        let stop_above = (ctx.stops_above && ctx.hurt).then_some(STOP_ABOVE);
        Self { machine: Dlq::new(letter_spec(), stop_above), hand: None, stopped_until: Now(0) }
    }

    pub(crate) fn kill(&mut self, slots: &mut Slots, ctx: &mut Ctx) {
        ctx.saw(if self.hand.is_some() { "dlq: killed with a batch" } else { "dlq: killed" });
        slots.dlq.step(LinkEvent::Down(DLQ), ctx.now);
        *self = Self::new(ctx);
    }

    pub(crate) fn turn(&mut self, slots: &mut Slots, ctx: &mut Ctx) {
        if ctx.now < self.stopped_until {
            return;
        }
        let Some(lent) = self.hand.take() else {
            if let Some(LinkEffect::Lend(lent)) = slots.dlq.step(LinkEvent::Ask(DLQ), ctx.now).pop() {
                self.hand = Some(lent);
            }
            return;
        };
        let batch = Box::new((*lent.item).clone());
        for effect in self.machine.step(Event::Batch { batch, wall: ctx.wall(slots.daemon) }, ctx.now) {
            match effect {
                Effect::Forward(batch) => {
                    let released = slots.dlq.step(LinkEvent::Settle(lent.loan), ctx.now).pop();
                    if matches!(released, Some(LinkEffect::Release(_))) {
                        ctx.saw("dlq: forward");
                        slots.enter(STAGES + 1, *batch);
                    } else {
                        ctx.saw("dlq: worked on what was fenced");
                    }
                }
                Effect::Stop(_) => {
                    ctx.saw("dlq: stopped by its limit");
                    slots.dlq.step(LinkEvent::Down(DLQ), ctx.now);
                    *self = Self { stopped_until: ctx.now + RETRY, ..Self::new(ctx) };
                    return;
                }
            }
        }
    }
}
