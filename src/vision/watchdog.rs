//! Ends what takes too long: a thread that calls back once a deadline has passed, unless it was called off before.
//! Never calls back for a deadline that was called off, and never late ones of an earlier run.

use parking_lot::{Condvar, Mutex};
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// Watches over one run after another.
pub struct Watchdog {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    deadline: Option<Instant>,
    fired: bool,
    over: bool,
}

impl Watchdog {
    /// A watchdog with a thread of its own, which ends with it. `end` must be quick.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(end: impl Fn() + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let watched = Arc::clone(&shared);
        std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || watched.watch(&end))?;
        Ok(Self { shared })
    }

    /// A run begins, to be ended at `deadline`.
    pub fn arm(&self, deadline: Instant) {
        let mut state = self.shared.state.lock();
        let slept_without_end = state.deadline.is_none();
        *state = State { deadline: Some(deadline), fired: false, over: false };
        // A thread that waits for an earlier deadline looks again by itself: most runs wake nobody.
        if slept_without_end {
            self.shared.changed.notify_one();
        }
    }

    /// The run is over; whether it was ended.
    pub fn disarm(&self) -> bool {
        let mut state = self.shared.state.lock();
        state.deadline = None;
        state.fired
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.state.lock().over = true;
        self.shared.changed.notify_one();
    }
}

impl Shared {
    fn watch(&self, end: &dyn Fn()) {
        let mut state = self.state.lock();
        while !state.over {
            match state.deadline {
                None => self.changed.wait(&mut state),
                Some(deadline) if Instant::now() < deadline => drop(self.changed.wait_until(&mut state, deadline)),
                Some(_) => {
                    // Under the lock, so that it cannot hit the next run.
                    end();
                    state.fired = true;
                    state.deadline = None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    const SOON: Duration = Duration::from_millis(20);

    fn watched() -> (Watchdog, mpsc::Receiver<()>) {
        let (tell, told) = mpsc::channel();
        (Watchdog::start(move || tell.send(()).expect("the test listens")).expect("a thread"), told)
    }

    #[test]
    fn a_run_past_its_deadline_is_ended_once_and_the_next_one_is_not() {
        let (dog, told) = watched();
        dog.arm(Instant::now() + SOON);
        told.recv_timeout(Duration::from_secs(10)).expect("it is ended");
        assert!(dog.disarm());
        dog.arm(Instant::now() + Duration::from_secs(60));
        assert!(!dog.disarm());
        assert!(told.try_recv().is_err());
    }

    #[test]
    fn a_run_that_is_over_in_time_is_not_ended_and_does_not_shorten_the_next() {
        let (dog, told) = watched();
        dog.arm(Instant::now() + SOON);
        assert!(!dog.disarm());
        dog.arm(Instant::now() + 5 * SOON);
        let begun = Instant::now();
        told.recv_timeout(Duration::from_secs(10)).expect("it is ended");
        assert!(begun.elapsed() > 3 * SOON, "by its own deadline");
    }

    #[test]
    fn its_thread_ends_with_it() {
        let (dog, told) = watched();
        drop(dog);
        assert!(told.recv_timeout(Duration::from_secs(10)).is_err(), "the thread let go of its end");
    }
}
