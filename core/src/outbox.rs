//! What an outbox may hold, and how many of its records are on their way at once. Never stores or sends one.

/// What one queue of an outbox may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxLimits {
    /// How many records; 0 takes none, for a queue that is only emptied.
    pub records_max: u64,
    /// How many bytes, as they are stored.
    pub bytes_max: u64,
}

/// What a queue holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Records.
    pub records: u64,
    /// Their bytes, as they are stored.
    pub bytes: u64,
}

/// There is no room; nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} records of {} bytes wait, at most {} of {} may", .held.records, .held.bytes, .limits.records_max, .limits.bytes_max)]
pub struct Full {
    /// What is there.
    pub held: Held,
    /// What may be.
    pub limits: OutboxLimits,
}

/// The room of one queue.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    limits: OutboxLimits,
    held: Held,
}

impl Room {
    /// A queue that holds this already, which may be more than its limits: they can have been lowered.
    #[must_use]
    pub const fn new(limits: OutboxLimits, held: Held) -> Self {
        Self { limits, held }
    }

    /// Takes room for all of these records or for none.
    ///
    /// # Errors
    /// They do not fit.
    pub fn take(&mut self, wanted: Held) -> Result<(), Full> {
        let fits = |held: u64, wanted: u64, max: u64| held.checked_add(wanted).filter(|sum| *sum <= max);
        let records = fits(self.held.records, wanted.records, self.limits.records_max);
        let bytes = fits(self.held.bytes, wanted.bytes, self.limits.bytes_max);
        let (Some(records), Some(bytes)) = (records, bytes) else {
            return Err(Full { held: self.held, limits: self.limits });
        };
        self.held = Held { records, bytes };
        Ok(())
    }

    /// Gives the room of records back that have left.
    pub fn give_back(&mut self, left: Held) {
        let Held { records, bytes } = self.held;
        self.held = Held { records: records.saturating_sub(left.records), bytes: bytes.saturating_sub(left.bytes) };
    }

    /// What may be held.
    #[must_use]
    pub const fn limits(&self) -> OutboxLimits {
        self.limits
    }

    /// What is held.
    #[must_use]
    pub const fn held(&self) -> Held {
        self.held
    }

    /// Whether nothing waits: the next record need not wait either.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.held.records == 0
    }

    /// Whether not even the smallest record fits.
    ///
    /// # Errors
    /// It does not.
    pub const fn check(&self) -> Result<(), Full> {
        if self.held.records < self.limits.records_max && self.held.bytes < self.limits.bytes_max {
            return Ok(());
        }
        Err(Full { held: self.held, limits: self.limits })
    }
}

/// How many records are on their way at once: one after a failure, so that none overtakes the one that failed, twice as
/// many after each success.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    records: usize,
    records_max: usize,
}

impl Window {
    /// Wide open; `records_max` is at least 1.
    #[must_use]
    pub fn new(records_max: usize) -> Self {
        Self { records: records_max.max(1), records_max: records_max.max(1) }
    }

    /// How many may be on their way.
    #[must_use]
    pub const fn records(&self) -> usize {
        self.records
    }

    /// All that were on their way have arrived.
    pub fn arrived(&mut self) {
        self.records = self.records.saturating_mul(2).min(self.records_max);
    }

    /// One has not.
    pub const fn failed(&mut self) {
        self.records = 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: OutboxLimits = OutboxLimits { records_max: 5, bytes_max: 100 };

    proptest! {
        /// Against a naive list: what is let in fits, what is refused would not have, and what left counts no more.
        #[test]
        fn a_queue_never_holds_more_than_it_may(steps in prop::collection::vec((any::<bool>(), 0_u64..40), 0..60)) {
            let (mut room, mut list) = (Room::new(LIMITS, Held::default()), Vec::new());
            for (is_put, bytes) in steps {
                if is_put {
                    let fits = list.len() < 5 && list.iter().sum::<u64>() + bytes <= 100;
                    prop_assert_eq!(room.take(Held { records: 1, bytes }).is_ok(), fits);
                    list.extend(fits.then_some(bytes));
                } else if !list.is_empty() {
                    room.give_back(Held { records: 1, bytes: list.remove(0) });
                }
                prop_assert_eq!(room.held(), Held { records: list.len() as u64, bytes: list.iter().sum() });
                prop_assert_eq!(room.is_empty(), list.is_empty());
                prop_assert_eq!(room.check().is_err(), list.len() == 5 || list.iter().sum::<u64>() == 100);
            }
        }

        #[test]
        fn a_window_stays_within_its_bounds(max in 0_usize..600, outcomes in prop::collection::vec(any::<bool>(), 0..40)) {
            let mut window = Window::new(max);
            for has_arrived in outcomes {
                if has_arrived { window.arrived() } else { window.failed() }
                prop_assert!((1..=max.max(1)).contains(&window.records()));
                prop_assert!(has_arrived || window.records() == 1);
            }
        }
    }

    #[test]
    fn records_are_taken_all_or_none_and_a_lowered_limit_keeps_what_is_there() {
        let mut room = Room::new(LIMITS, Held { records: 4, bytes: 10 });
        let full = room.take(Held { records: 2, bytes: 2 }).expect_err("one of two fits");
        assert_eq!(full.to_string(), "4 records of 10 bytes wait, at most 5 of 100 may");
        assert_eq!(room.held(), Held { records: 4, bytes: 10 });
        let mut room = Room::new(OutboxLimits { records_max: 0, bytes_max: 0 }, Held { records: 9, bytes: 900 });
        assert!(room.check().is_err() && room.take(Held { records: 1, bytes: 1 }).is_err());
        room.give_back(Held { records: 9, bytes: 900 });
        assert!(room.is_empty());
    }
}
