//! The shape of every state machine here. Never performs an effect.

use crate::time::Now;

/// A state machine: the logic of one actor, driven by its shell or by a simulation.
pub trait Machine {
    /// What can happen to it: closed, so that all of it can be read in one place.
    type Event;
    /// What it asks its shell to do, in this order.
    type Effect;

    /// Takes what happened at `now` and says what to do about it.
    fn step(&mut self, event: Self::Event, now: Now) -> Vec<Self::Effect>;
}
