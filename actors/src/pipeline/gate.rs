//! The gate of one partition: a commit passes only under the current generation, and a fence waits for it.
//! This is the only fence there is: a broker accepts a lost partition's commit, given fresh group metadata.

use bulkhead_core::ids::{Generation, Incarnation};
use parking_lot::{Condvar, Mutex};
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
struct State {
    open: Option<Generation>,
    /// The lane's incarnation that commits.
    committing: Option<Incarnation>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    left: Condvar,
}

/// A commit in progress; the gate cannot be fenced while it lives.
#[derive(Debug)]
pub(crate) struct Pass<'gate>(&'gate Gate, Incarnation);

impl Gate {
    /// Lets commits of this generation through, and of no other.
    pub(crate) fn open(&self, generation: Generation) {
        self.state.lock().open = Some(generation);
    }

    /// The generation that may commit.
    pub(crate) fn generation(&self) -> Option<Generation> {
        self.state.lock().open
    }

    /// Begins a commit; `None` where the generation is not current, or a commit of the same incarnation or a later one
    /// runs. An earlier incarnation that still holds the gate hangs in a call: its successor has fenced its producer
    /// before it got here, so nothing can come of that call any more.
    pub(crate) fn enter(&self, generation: Generation, by: Incarnation) -> Option<Pass<'_>> {
        let mut state = self.state.lock();
        if state.open != Some(generation) || state.committing.is_some_and(|holder| holder >= by) {
            return None;
        }
        state.committing = Some(by);
        Some(Pass(self, by))
    }

    /// Closes the gate for this generation, after the commit in progress or after `wait`. False where it did not end in time.
    pub(crate) fn fence(&self, generation: Generation, wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        let mut state = self.state.lock();
        if state.open != Some(generation) {
            return true;
        }
        let mut in_time = true;
        while state.committing.is_some() && in_time {
            in_time = !self.left.wait_until(&mut state, deadline).timed_out();
        }
        state.open = None;
        in_time
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        if state.committing == Some(self.1) {
            state.committing = None;
            self.0.left.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn only_the_open_generation_passes_and_only_once_at_a_time() {
        let gate = Gate::default();
        assert!(gate.enter(Generation(1), Incarnation::FIRST).is_none(), "closed at first");
        gate.open(Generation(2));
        assert!(gate.enter(Generation(1), Incarnation::FIRST).is_none(), "an older generation");
        let pass = gate.enter(Generation(2), Incarnation::FIRST).expect("the open one");
        assert!(gate.enter(Generation(2), Incarnation::FIRST).is_none(), "one commit at a time");
        drop(pass);
        assert!(gate.fence(Generation(2), Duration::ZERO));
        assert!(gate.enter(Generation(2), Incarnation::FIRST).is_none(), "fenced");
    }

    #[test]
    fn a_fence_waits_for_the_commit_in_progress() {
        let gate = Arc::new(Gate::default());
        gate.open(Generation(1));
        let pass = gate.enter(Generation(1), Incarnation::FIRST).expect("open");
        let fencing = std::thread::spawn({
            let gate = Arc::clone(&gate);
            move || gate.fence(Generation(1), Duration::from_secs(60))
        });
        assert_eq!(gate.generation(), Some(Generation(1)), "still open: the commit is running");
        drop(pass);
        assert!(fencing.join().expect("the fence ends"));
        assert_eq!(gate.generation(), None);
    }

    #[test]
    fn a_successor_takes_the_gate_from_a_hung_lane_and_keeps_it() {
        let gate = Gate::default();
        gate.open(Generation(1));
        let hung = gate.enter(Generation(1), Incarnation::FIRST).expect("open");
        let next = gate.enter(Generation(1), Incarnation(2)).expect("its successor");
        drop(hung);
        assert!(gate.enter(Generation(1), Incarnation(2)).is_none(), "the late one opens nothing");
        drop(next);
        assert!(gate.enter(Generation(1), Incarnation(2)).is_some());
    }

    #[test]
    fn a_fence_does_not_wait_for_ever() {
        let gate = Gate::default();
        gate.open(Generation(1));
        let _pass = gate.enter(Generation(1), Incarnation::FIRST).expect("open");
        assert!(!gate.fence(Generation(1), Duration::from_millis(1)));
        assert_eq!(gate.generation(), None, "closed all the same");
    }
}
