//! The clock that shells read for their machines. Never sleeps and never wakes anybody.

use bulkhead_core::time::{Now, WallMs};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// Monotonic and wall time; clones read the same clock. `Now` counts from the clock's creation.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    /// Tokio's clock: in a task of a paused runtime it stands still with it, on any other thread it runs.
    Real(Instant),
    /// Milliseconds that a test sets, the same on every thread.
    Manual(Arc<AtomicU64>),
}

/// The hand that moves a manual clock.
#[derive(Clone, Debug)]
pub struct ClockHand(Arc<AtomicU64>);

impl Clock {
    /// The clock of a running daemon.
    #[must_use]
    pub fn real() -> Self {
        Self(Source::Real(Instant::now()))
    }

    /// A clock that stands still until its hand is moved; its wall time is its `Now`.
    #[must_use]
    pub fn manual() -> (Self, ClockHand) {
        let now = Arc::new(AtomicU64::new(0));
        (Self(Source::Manual(Arc::clone(&now))), ClockHand(now))
    }

    /// Monotonic time.
    #[must_use]
    pub fn now(&self) -> Now {
        match &self.0 {
            Source::Real(start) => Now(0) + start.elapsed(),
            Source::Manual(now) => Now(now.load(Ordering::SeqCst)),
        }
    }

    /// Time since the Unix epoch; 0 where the system's clock is set before it.
    #[must_use]
    pub fn wall(&self) -> WallMs {
        let since_epoch = match &self.0 {
            Source::Real(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis(),
            Source::Manual(now) => u128::from(now.load(Ordering::SeqCst)),
        };
        WallMs(i64::try_from(since_epoch).unwrap_or(i64::MAX))
    }
}

impl ClockHand {
    /// Moves the clock forward, by whole milliseconds.
    pub fn advance(&self, span: Duration) {
        let span_ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        self.0.fetch_add(span_ms, Ordering::SeqCst);
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({} ms)", self.now().0)
    }
}
