//! The gate of one partition: a commit passes only under the current generation, and a fence waits for it.
//! This is the only fence there is: a broker accepts a lost partition's commit, given fresh group metadata.

use bulkhead_core::ids::Generation;
use parking_lot::{Condvar, Mutex};
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
struct State {
    open: Option<Generation>,
    committing: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    left: Condvar,
}

/// A commit in progress; the gate cannot be fenced while it lives.
#[derive(Debug)]
pub(crate) struct Pass<'gate>(&'gate Gate);

impl Gate {
    /// Lets commits of this generation through, and of no other.
    pub(crate) fn open(&self, generation: Generation) {
        self.state.lock().open = Some(generation);
    }

    /// The generation that may commit.
    pub(crate) fn generation(&self) -> Option<Generation> {
        self.state.lock().open
    }

    /// Begins a commit; `None` where the generation is not current.
    pub(crate) fn enter(&self, generation: Generation) -> Option<Pass<'_>> {
        let mut state = self.state.lock();
        if state.open != Some(generation) || state.committing {
            return None;
        }
        state.committing = true;
        Some(Pass(self))
    }

    /// Closes the gate for this generation, after the commit in progress or after `wait`. False where it did not end in time.
    pub(crate) fn fence(&self, generation: Generation, wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        let mut state = self.state.lock();
        if state.open != Some(generation) {
            return true;
        }
        let mut in_time = true;
        while state.committing && in_time {
            in_time = !self.left.wait_until(&mut state, deadline).timed_out();
        }
        state.open = None;
        in_time
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.state.lock().committing = false;
        self.0.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn only_the_open_generation_passes_and_only_once_at_a_time() {
        let gate = Gate::default();
        assert!(gate.enter(Generation(1)).is_none(), "closed at first");
        gate.open(Generation(2));
        assert!(gate.enter(Generation(1)).is_none(), "an older generation");
        let pass = gate.enter(Generation(2)).expect("the open one");
        assert!(gate.enter(Generation(2)).is_none(), "one commit at a time");
        drop(pass);
        assert!(gate.fence(Generation(2), Duration::ZERO));
        assert!(gate.enter(Generation(2)).is_none(), "fenced");
    }

    #[test]
    fn a_fence_waits_for_the_commit_in_progress() {
        let gate = Arc::new(Gate::default());
        gate.open(Generation(1));
        let pass = gate.enter(Generation(1)).expect("open");
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
    fn a_fence_does_not_wait_for_ever() {
        let gate = Gate::default();
        gate.open(Generation(1));
        let _pass = gate.enter(Generation(1)).expect("open");
        assert!(!gate.fence(Generation(1), Duration::from_millis(1)));
        assert_eq!(gate.generation(), None, "closed all the same");
    }
}
