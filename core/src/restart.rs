//! When a dead child comes back: restart policy, restart budget (intensity in a period) and backoff, as in OTP.
//! Draws no random number and reads no clock: both are arguments.

use crate::time::Now;
use std::collections::VecDeque;
use std::time::Duration;

/// Which exits bring a child back, as OTP's `restart` of a child spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// It always comes back.
    Permanent,
    /// It comes back unless it ended by itself, without a fault.
    Transient,
    /// It never comes back, and is forgotten when it ends.
    Temporary,
}

impl RestartPolicy {
    /// Whether a child comes back; `normal` says that it ended by itself, without a fault.
    #[must_use]
    pub const fn restarts(self, normal: bool) -> bool {
        match self {
            Self::Permanent => true,
            Self::Transient => !normal,
            Self::Temporary => false,
        }
    }
}

/// How many crashes a supervisor bears: more than `restarts` within `period` and it fails itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intensity {
    /// Crashes borne within the period.
    pub restarts: u32,
    /// The length of the sliding window.
    pub period: Duration,
}

impl Default for Intensity {
    /// 5 in 30 s, the worked example of OTP's design principles (`sup_princ`).
    fn default() -> Self {
        Self { restarts: 5, period: Duration::from_secs(30) }
    }
}

/// What is left of an [`Intensity`]: at most `restarts + 1` points in time.
#[derive(Clone, Debug)]
pub struct RestartBudget {
    intensity: Intensity,
    crashes: VecDeque<Now>,
}

impl RestartBudget {
    /// A budget of which nothing is spent.
    #[must_use]
    pub const fn new(intensity: Intensity) -> Self {
        Self { intensity, crashes: VecDeque::new() }
    }

    /// Charges a crash at `now`. Answers whether the budget still holds; once it does not, the supervisor fails.
    #[must_use]
    pub fn charge(&mut self, now: Now) -> bool {
        while self.crashes.front().is_some_and(|crash| now - *crash >= self.intensity.period) {
            self.crashes.pop_front();
        }
        if self.crashes.len() as u64 > u64::from(self.intensity.restarts) {
            return false;
        }
        self.crashes.push_back(now);
        self.crashes.len() as u64 <= u64::from(self.intensity.restarts)
    }

    /// Forgets what was spent.
    pub fn reset(&mut self) {
        self.crashes.clear();
    }
}

/// How long a crashed child waits: not at all the first time, then `base` × 2 for each further crash up to `max`.
/// Half of each wait is certain and half is drawn, so that children felled by one cause do not come back as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The wait before the second restart.
    pub base: Duration,
    /// The longest wait.
    pub max: Duration,
    /// An incarnation that lived this long was healthy: the next crash counts as a first one.
    pub healthy: Duration,
}

impl Default for Backoff {
    /// 100 ms × 2 up to 10 s (DESIGN §4); forgiven after 30 s, three times the longest wait.
    fn default() -> Self {
        Self { base: Duration::from_millis(100), max: Duration::from_secs(10), healthy: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// The wait before restart number `crashes` in a row (from 1); `draw` is any random number.
    #[must_use]
    pub fn delay(&self, crashes: u32, draw: u32) -> Duration {
        if crashes <= 1 {
            return Duration::ZERO;
        }
        let doubled = 2_u32.checked_pow(crashes - 2).and_then(|factor| self.base.checked_mul(factor));
        let full = doubled.map_or(self.max, |wait| wait.min(self.max));
        let half = full / 2;
        half + half.mul_f64(f64::from(draw) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn policies_are_otps() {
        assert!(RestartPolicy::Permanent.restarts(true) && RestartPolicy::Permanent.restarts(false));
        assert!(!RestartPolicy::Transient.restarts(true) && RestartPolicy::Transient.restarts(false));
        assert!(!RestartPolicy::Temporary.restarts(true) && !RestartPolicy::Temporary.restarts(false));
    }

    #[test]
    fn no_restart_is_borne_with_an_intensity_of_zero() {
        let mut budget = RestartBudget::new(Intensity { restarts: 0, period: Duration::from_secs(5) });
        assert!(!budget.charge(Now(0)));
    }

    #[test]
    fn waits_double_from_none_to_the_longest() {
        let waits: Vec<u128> = (1..=10).map(|n| Backoff::default().delay(n, u32::MAX).as_millis()).collect();
        assert_eq!(waits, [0, 100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
        assert_eq!(Backoff::default().delay(u32::MAX, 0), Duration::from_secs(5), "half of the longest is certain");
    }

    proptest! {
        /// The naive model keeps every crash for ever and counts those in the window. A budget that failed once
        /// belongs to a supervisor that is gone, so the comparison ends there.
        #[test]
        fn the_budget_is_a_sliding_window(
            gaps in prop::collection::vec(0_u64..40, 1..60), restarts in 0_u32..6, period_ms in 1_u64..100,
        ) {
            let period = Duration::from_millis(period_ms);
            let mut budget = RestartBudget::new(Intensity { restarts, period });
            let mut all: Vec<u64> = Vec::new();
            let mut at = 0;
            for gap in gaps {
                at += gap;
                all.push(at);
                let in_window = all.iter().filter(|crash| at - **crash < period_ms).count();
                let holds = in_window <= restarts as usize;
                prop_assert_eq!(budget.charge(Now(at)), holds);
                if !holds {
                    break;
                }
            }
        }

        #[test]
        fn waits_stay_between_half_and_whole(crashes in 2_u32..40, draw: u32) {
            let backoff = Backoff::default();
            let whole = backoff.delay(crashes, u32::MAX);
            let wait = backoff.delay(crashes, draw);
            prop_assert!(wait <= whole && wait >= whole / 2 && whole <= backoff.max);
        }
    }
}
