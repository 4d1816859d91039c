//! How long to wait before the same batch is tried again, and when to give up. Never draws its own jitter.

use std::time::Duration;

/// Exponential backoff with full jitter.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// The first ceiling.
    pub initial: Duration,
    /// What each next ceiling is multiplied by, at least 1.
    pub factor: f64,
    /// The highest ceiling.
    pub max: Duration,
    /// Give up after this many attempts; `None`: never for their number.
    pub attempts_max: Option<u32>,
    /// Give up once this long has passed since the first attempt failed; `None`: never for time.
    pub elapsed_max: Option<Duration>,
}

impl Default for RetryPolicy {
    /// 250 ms × 2 up to 30 s, without an end: what is transient never becomes a dead letter unless config says so.
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(250),
            factor: 2.0,
            max: Duration::from_secs(30),
            attempts_max: None,
            elapsed_max: None,
        }
    }
}

impl RetryPolicy {
    /// The ceiling of the wait after attempt number `attempt` (from 1) failed.
    #[must_use]
    pub fn ceiling(&self, attempt: u32) -> Duration {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.initial.as_secs_f64() * self.factor.powi(exponent);
        if seconds < self.max.as_secs_f64() { Duration::from_secs_f64(seconds) } else { self.max }
    }

    /// How long to wait after attempt `attempt` (from 1) failed, `elapsed` after the first failure; `None`: give up.
    /// `jitter` is any number, uniformly drawn: the wait is that part of the ceiling.
    #[must_use]
    pub fn wait(&self, attempt: u32, elapsed: Duration, jitter: u32) -> Option<Duration> {
        let spent =
            self.attempts_max.is_some_and(|max| attempt >= max) || self.elapsed_max.is_some_and(|max| elapsed >= max);
        (!spent).then(|| self.ceiling(attempt).mul_f64(f64::from(jitter) / f64::from(u32::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn waits_stay_below_the_ceiling_and_ceilings_grow(attempt in 1u32..5_000, jitter: u32) {
            let policy = RetryPolicy::default();
            let wait = policy.wait(attempt, Duration::ZERO, jitter).expect("no limit is set");
            prop_assert!(wait <= policy.ceiling(attempt) && policy.ceiling(attempt) <= policy.max);
            prop_assert!(policy.ceiling(attempt) <= policy.ceiling(attempt + 1));
        }
    }

    #[test]
    fn gives_up_by_number_and_by_time() {
        let policy =
            RetryPolicy { attempts_max: Some(3), elapsed_max: Some(Duration::from_secs(3)), ..RetryPolicy::default() };
        assert!(policy.wait(2, Duration::ZERO, 0).is_some());
        assert_eq!(policy.wait(3, Duration::ZERO, 0), None);
        assert_eq!(policy.wait(1, Duration::from_secs(3), 0), None);
    }
}
