//! When too many records fail for it to be the records' fault. Never stops anything itself.

use crate::time::Now;
use std::time::Duration;

/// Into how many buckets the window is divided: what is forgotten at once.
const BUCKETS: usize = 16;

/// When to stop: `stop_above` in the config.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StopAbove {
    /// The share of failed records, above which to stop; from 0 to 1.
    pub ratio: f64,
    /// The time over which it is taken.
    pub window: Duration,
    /// How many records the window must hold before the share means anything.
    pub records_min: u64,
}

/// What the window holds once the share is too high.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{failed} of the last {records} records failed")]
pub struct Exceeded {
    /// Records that failed.
    pub failed: u64,
    /// All records.
    pub records: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// Which slice of time it counts, from the clock's zero.
    slice: u64,
    records: u64,
    failed: u64,
}

/// Counts records over a sliding window, in constant memory.
#[derive(Clone, Debug)]
pub struct Limit {
    stop_above: StopAbove,
    slice_ms: u64,
    buckets: [Bucket; BUCKETS],
}

impl Limit {
    /// A limit that has seen nothing.
    #[must_use]
    pub fn new(stop_above: StopAbove) -> Self {
        let window_ms = u64::try_from(stop_above.window.as_millis()).unwrap_or(u64::MAX);
        let slice_ms = window_ms.div_ceil(BUCKETS as u64).max(1);
        Self { stop_above, slice_ms, buckets: [Bucket::default(); BUCKETS] }
    }

    /// Counts `records`, of which `failed` failed.
    ///
    /// # Errors
    /// What the window holds, where its share of failed ones is above the limit.
    pub fn note(&mut self, records: u64, failed: u64, now: Now) -> Result<(), Exceeded> {
        let slice = now.0 / self.slice_ms;
        let bucket = &mut self.buckets[(slice % BUCKETS as u64) as usize];
        if bucket.slice != slice {
            *bucket = Bucket { slice, ..Bucket::default() };
        }
        bucket.records += records;
        bucket.failed += failed;
        let oldest = (slice + 1).saturating_sub(BUCKETS as u64);
        let mut sum = Exceeded { failed: 0, records: 0 };
        for bucket in self.buckets.iter().filter(|bucket| bucket.slice >= oldest) {
            sum.records += bucket.records;
            sum.failed += bucket.failed;
        }
        let above = sum.failed as f64 > self.stop_above.ratio * sum.records as f64;
        if above && sum.records >= self.stop_above.records_min { Err(sum) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limit(records_min: u64) -> Limit {
        Limit::new(StopAbove { ratio: 0.5, window: Duration::from_secs(16), records_min })
    }

    #[test]
    fn few_records_prove_nothing() {
        let mut limit = limit(100);
        assert_eq!(limit.note(99, 99, Now(0)), Ok(()));
        assert_eq!(limit.note(1, 0, Now(0)), Err(Exceeded { failed: 99, records: 100 }));
    }

    #[test]
    fn the_share_itself_is_allowed() {
        let mut limit = limit(1);
        assert_eq!(limit.note(10, 5, Now(0)), Ok(()));
        assert!(limit.note(1, 1, Now(0)).is_err());
    }

    #[test]
    fn what_left_the_window_is_forgotten() {
        let mut limit = limit(10);
        assert!(limit.note(10, 10, Now(0)).is_err());
        assert!(limit.note(0, 0, Now(15_999)).is_err(), "still in the window");
        assert_eq!(limit.note(10, 0, Now(16_000)), Ok(()));
    }

    proptest! {
        #[test]
        fn it_decides_as_one_that_keeps_every_count(
            steps in prop::collection::vec((0u64..3_000, 0u64..20, 0u64..20), 1..80),
            records_min in 0u64..60,
        ) {
            let mut limit = limit(records_min);
            let mut kept: Vec<(u64, u64, u64)> = Vec::new();
            let mut now = 0;
            for (after, records, failed) in steps {
                now += after;
                let failed = failed.min(records);
                kept.push((now / 1_000, records, failed));
                let window = kept.iter().filter(|(second, ..)| second + 16 > now / 1_000);
                let (records_all, failed_all) = window.fold((0, 0), |sum, (_, r, f)| (sum.0 + r, sum.1 + f));
                let stop = records_all >= records_min && failed_all * 2 > records_all;
                prop_assert_eq!(limit.note(records, failed, Now(now)).is_err(), stop);
            }
        }
    }
}
