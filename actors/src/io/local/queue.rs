//! Group commit: requests wait here while the batch before them is made durable, then go together. Never reorders them.

use super::broker::{Broker, Request, closed};
use crate::log::LogError;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What may wait at most before bounded requests are refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueLimits {
    pub(super) requests: usize,
    pub(super) bytes: usize,
}

#[derive(Default)]
struct Waiting {
    requests: Vec<Request>,
    bytes: usize,
    closed: bool,
}

pub(super) struct Queue {
    limits: QueueLimits,
    waiting: Mutex<Waiting>,
    filled: Condvar,
}

impl Queue {
    pub(super) fn new(limits: QueueLimits) -> Self {
        Self { limits, waiting: Mutex::default(), filled: Condvar::new() }
    }

    /// Adds a request. An unbounded one is never refused for room: its caller waits for the answer, so there are no
    /// more of them than callers.
    pub(super) fn push(&self, request: Request, bounded: bool) -> Result<(), LogError> {
        let bytes = request.unit.bytes();
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(closed());
        }
        let full = waiting.requests.len() >= self.limits.requests || waiting.bytes + bytes > self.limits.bytes;
        if bounded && full && !waiting.requests.is_empty() {
            let (count, bytes) = (waiting.requests.len(), waiting.bytes);
            return Err(LogError::Unavailable(format!("{count} writes of {bytes} bytes are waiting already")));
        }
        waiting.bytes += bytes;
        waiting.requests.push(request);
        self.filled.notify_one();
        Ok(())
    }

    /// All that waits, once something does or at the deadline; `None` when the queue is closed and empty.
    fn take(&self, deadline: Instant) -> Option<Vec<Request>> {
        let mut waiting = self.waiting.lock();
        while waiting.requests.is_empty() {
            if waiting.closed {
                return None;
            }
            if self.filled.wait_until(&mut waiting, deadline).timed_out() {
                break;
            }
        }
        waiting.bytes = 0;
        Some(std::mem::take(&mut waiting.requests))
    }

    /// Refuses what comes from now on; what waits is still written.
    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.filled.notify_one();
    }
}

/// How long to the next turn of retention where the last one left something over.
const RETAIN_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// Starts the thread that writes what `broker`'s queue holds and, every `retain_every`, deletes what is past its retention.
pub(super) fn spawn_writer(broker: Arc<Broker>, retain_every: Duration) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("log-writer".to_owned()).spawn(move || {
        let Some(queue) = &broker.queue else { return };
        let mut retain_at = Instant::now() + retain_every;
        let mut heal_at = None;
        while let Some(requests) = queue.take(heal_at.unwrap_or(retain_at).min(retain_at)) {
            if !requests.is_empty() {
                broker.apply(requests);
            }
            heal_at = broker.heal();
            if Instant::now() >= retain_at {
                let more = broker.retain(broker.now()).unwrap_or_else(|e| {
                    tracing::warn!(error = %e, "records past their retention could not be deleted");
                    false
                });
                retain_at = Instant::now() + if more { RETAIN_AGAIN_AFTER } else { retain_every };
            }
        }
    })
}
