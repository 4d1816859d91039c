//! How often a client may come: a token bucket for each, kept in one number as GCRA does it (ITU-T I.371). Never
//! remembers more clients than its limit, nor one whose bucket is full again.

use crate::time::Now;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// How often, and for how many clients at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateSpec {
    /// Requests a second, at least 1.
    pub per_second: u32,
    /// Requests at once after a rest, at least 1.
    pub burst: u32,
    /// Clients whose buckets are not full, at least 1; at the limit the fullest is forgotten, which makes it full.
    pub clients_max: usize,
}

/// The buckets. Time is in microseconds, so that a thousand requests a second have whole intervals.
#[derive(Debug)]
pub struct Rate {
    spec: RateSpec,
    /// When each client's bucket is full again.
    full_at: HashMap<String, u64>,
    /// The same, the fullest in front.
    by_time: BTreeSet<(u64, String)>,
}

const SECOND_US: u64 = 1_000_000;

impl Rate {
    /// All buckets are full.
    #[must_use]
    pub fn new(spec: RateSpec) -> Self {
        Self { spec, full_at: HashMap::new(), by_time: BTreeSet::new() }
    }

    /// Takes a token of the client's.
    ///
    /// # Errors
    /// It has none: when it will have one.
    pub fn admit(&mut self, client: &str, now: Now) -> Result<(), Duration> {
        let now = now.0.saturating_mul(1_000);
        self.forget_full(now);
        let interval = SECOND_US / u64::from(self.spec.per_second.max(1));
        let capacity = interval.saturating_mul(self.spec.burst.max(1).into());
        let known = self.full_at.get(client).copied();
        let full_at = known.unwrap_or(now).max(now).saturating_add(interval);
        if full_at - now > capacity {
            return Err(Duration::from_micros(full_at - now - capacity));
        }
        if let Some(known) = known {
            self.by_time.remove(&(known, client.to_owned()));
        } else if self.full_at.len() >= self.spec.clients_max.max(1) {
            self.forget_first();
        }
        self.full_at.insert(client.to_owned(), full_at);
        self.by_time.insert((full_at, client.to_owned()));
        Ok(())
    }

    /// How many clients' buckets are not full.
    #[must_use]
    pub fn len(&self) -> usize {
        self.full_at.len()
    }

    /// Whether all buckets are full.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.full_at.is_empty()
    }

    fn forget_full(&mut self, now: u64) {
        while self.by_time.first().is_some_and(|(full_at, _)| *full_at <= now) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, client)) = self.by_time.pop_first() {
            self.full_at.remove(&client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A bucket that is filled at every step, in token-microseconds.
    struct Bucket {
        tokens: u64,
        at: u64,
    }

    proptest! {
        #[test]
        fn admits_what_a_bucket_of_tokens_admits(
            per_second in prop::sample::select(vec![1_u32, 2, 10, 1_000]), burst in 1..5_u32,
            steps in prop::collection::vec((0..3_usize, 0..1_500_u64), 1..200),
        ) {
            let mut rate = Rate::new(RateSpec { per_second, burst, clients_max: 3 });
            let interval = SECOND_US / u64::from(per_second);
            let full = interval * u64::from(burst);
            let mut buckets = [(); 3].map(|()| Bucket { tokens: full, at: 0 });
            let mut now = 0;
            for (client, pause) in steps {
                now += pause;
                let bucket = &mut buckets[client];
                bucket.tokens = (bucket.tokens + (now - bucket.at) * 1_000).min(full);
                bucket.at = now;
                let admitted = rate.admit(&client.to_string(), Now(now));
                prop_assert_eq!(admitted.is_ok(), bucket.tokens >= interval);
                match admitted {
                    Ok(()) => bucket.tokens -= interval,
                    Err(after) => prop_assert_eq!(after, Duration::from_micros(interval - bucket.tokens)),
                }
            }
        }

        #[test]
        fn remembers_no_more_than_it_may(steps in prop::collection::vec((0..50_u8, 0..20_u64), 1..300), clients_max in 1..5_usize) {
            let mut rate = Rate::new(RateSpec { per_second: 10, burst: 2, clients_max });
            let (mut now, mut admitted) = (0, 0);
            for (client, pause) in steps {
                now += pause;
                admitted += u32::from(rate.admit(&client.to_string(), Now(now)).is_ok());
                prop_assert!(rate.len() <= clients_max && rate.len() == rate.by_time.len());
            }
            prop_assert!(admitted > 0);
            prop_assert_eq!(rate.admit("last", Now(now + 1_000)), Ok(()));
            prop_assert_eq!(rate.len(), 1, "full buckets are forgotten");
        }
    }

    #[test]
    fn a_refused_client_is_told_when_to_come_again() {
        let mut rate = Rate::new(RateSpec { per_second: 2, burst: 1, clients_max: 10 });
        assert_eq!(rate.admit("a", Now(0)), Ok(()));
        assert_eq!(rate.admit("a", Now(100)), Err(Duration::from_millis(400)));
        assert_eq!(rate.admit("b", Now(100)), Ok(()), "each has its own");
        assert_eq!(rate.admit("a", Now(500)), Ok(()));
    }
}
