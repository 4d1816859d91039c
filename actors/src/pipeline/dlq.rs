//! The shell of a pipeline's dlq: hands finished batches to the dlq machine and on to their lanes.
//! Never publishes a dead letter itself.

use super::slots::Slots;
use crate::shell::Lifeline;
use bulkhead_core::dlq::{Dlq, Effect, Event};
use bulkhead_core::limit::Exceeded;
use bulkhead_core::link::{Borrower, LinkEffect, LinkEvent};
use bulkhead_core::machine::Machine;
use bulkhead_core::supervisor::{Charge, Exit, Signal};
use std::sync::Arc;

/// The dlq is the only borrower of its link.
const DLQ: Borrower = Borrower(0);

/// The place of a pipeline's dlq; it outlives the incarnations that fill it.
#[derive(Clone)]
pub(crate) struct DlqSeat {
    pub(crate) slots: Arc<Slots>,
}

impl DlqSeat {
    fn machine(&self) -> Dlq {
        Dlq::new(self.slots.letter_spec(), self.slots.spec.dlq.stop_above)
    }

    pub(crate) fn down(&self, exit: &Exit) -> Charge {
        self.slots.dlq.lock().step(LinkEvent::Down(DLQ), self.slots.clock.now());
        self.slots.ended("dlq", exit)
    }

    pub(crate) async fn run(self, lifeline: Lifeline) -> Exit {
        let mut machine = self.machine();
        loop {
            if let Err(exceeded) = self.turn(&mut machine) {
                tokio::select! {
                    signal = lifeline.changed() => return ended(signal),
                    () = self.halt(exceeded) => machine = self.machine(),
                }
                continue;
            }
            tokio::select! {
                signal = lifeline.changed() => return ended(signal),
                () = self.slots.dlq.woken() => {}
            }
        }
    }

    /// Too much is rejected: nothing passes for a while, then it is tried again with a fresh count.
    async fn halt(&self, exceeded: Exceeded) {
        let why = format!("dlq.stop_above: {} of {} records were rejected", exceeded.failed, exceeded.records);
        let retry = self.slots.spec.failed_retry;
        tracing::error!(pipeline = %self.slots.spec.name, why, ?retry, "pipeline stopped");
        self.slots.halt(Some(why));
        self.slots.dlq.lock().step(LinkEvent::Down(DLQ), self.slots.clock.now());
        tokio::time::sleep(retry).await;
        self.slots.halt(None);
    }

    /// Hands on all that waits.
    fn turn(&self, machine: &mut Dlq) -> Result<(), Exceeded> {
        let now = self.slots.clock.now();
        loop {
            let Some(LinkEffect::Lend(lent)) = self.slots.dlq.lock().step(LinkEvent::Ask(DLQ), now).pop() else {
                return Ok(());
            };
            let batch = Box::new((*lent.item).clone());
            drop(lent.item);
            for effect in machine.step(Event::Batch { batch, wall: self.slots.clock.wall() }, now) {
                match effect {
                    Effect::Forward(batch) => {
                        let released = self.slots.dlq.lock().step(LinkEvent::Settle(lent.loan), now).pop();
                        // A batch that was fenced meanwhile is not ours to hand on.
                        if matches!(released, Some(LinkEffect::Release(_))) {
                            self.slots.enter_lane(*batch);
                        }
                    }
                    Effect::Stop(exceeded) => return Err(exceeded),
                }
            }
        }
    }
}

fn ended(signal: Signal) -> Exit {
    if signal == Signal::Kill { Exit::Killed } else { Exit::Done }
}
