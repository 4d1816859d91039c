//! A machine behind a lock with the means to wait for it, from a thread or from a task. Never holds the lock while waiting.

use crate::shell::{Lifeline, Signal};
use bulkhead_core::time::Now;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// A thread looks at its lifeline at least this often, whatever it waits for: signals wake it, this is the net below them.
const WAIT_MAX: Duration = Duration::from_millis(250);

/// A value that outlives the actors that share it.
#[derive(Debug, Default)]
pub(crate) struct Slot<T> {
    value: Mutex<T>,
    changed: Condvar,
    notify: tokio::sync::Notify,
}

impl<T> Slot<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { value: Mutex::new(value), changed: Condvar::new(), notify: tokio::sync::Notify::new() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock()
    }

    /// Wakes whoever waits, all of them: threads and the one task.
    pub(crate) fn wake(&self) {
        // The lock orders this after the check of a thread that is about to wait.
        drop(self.value.lock());
        self.changed.notify_all();
        self.notify.notify_one();
    }

    /// Waits as a task; a wake-up that came before is not lost.
    pub(crate) async fn woken(&self) {
        self.notify.notified().await;
    }

    /// Waits on a thread for a wake-up, at most `wait`, whatever the lifeline says.
    pub(crate) fn pause(&self, wait: Duration) {
        self.changed.wait_for(&mut self.value.lock(), wait);
    }

    /// Waits on a thread until `take` gives something, or the lifeline says something else than `Run`.
    /// `take` returns when to look again even without a wake-up.
    pub(crate) fn wait_for<R>(
        &self,
        lifeline: &Lifeline,
        mut take: impl FnMut(&mut T) -> Result<R, Option<Now>>,
    ) -> Result<R, Signal> {
        let mut value = self.value.lock();
        loop {
            let until = match take(&mut value) {
                Ok(taken) => return Ok(taken),
                Err(until) => until,
            };
            if lifeline.is_to_fall() {
                drop(value);
                return Err(lifeline.signal());
            }
            match lifeline.signal() {
                Signal::Run => {}
                other => return Err(other),
            }
            let wait = until.map_or(WAIT_MAX, |until| (until - lifeline.clock().now()).min(WAIT_MAX));
            self.changed.wait_for(&mut value, wait.max(Duration::from_micros(200)));
        }
    }
}
