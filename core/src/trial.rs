//! What a stage knows of one batch over all attempts at it: the verdicts given, the crashes and their culprits.
//! Never forgets a verdict, so that a retry handles the rest only.

use crate::batch::{Outcome, Rejection};
use crate::fault::{Fault, FaultClass};
use crate::retry::RetryPolicy;
use crate::time::Now;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How a worker is to go about a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// All records at once: the common case.
    Whole,
    /// Record by record, noting which: a crash or a fault then has a name.
    Single,
}

/// What a worker's death says of its batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Crash {
    /// It was not known which record it was at.
    Unnamed,
    /// It was at this record; `poison`: once too often, the record is rejected now.
    Named {
        /// The record's index in its batch.
        index: u32,
        /// Whether it was rejected for it.
        poison: bool,
    },
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    first: Now,
}

/// The limits of a stage's patience.
#[derive(Clone, Debug)]
pub struct Patience {
    /// The stage's name, for rejections.
    pub stage: Arc<str>,
    /// A record that crashed its worker this often is poison; at least 1.
    pub crashes_max: u32,
    /// For transient faults.
    pub retry: RetryPolicy,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Trial {
    verdicts: BTreeMap<u32, Outcome>,
    crashes: BTreeMap<u32, u32>,
    failures: BTreeMap<u32, Failures>,
    at: Option<u32>,
    single: bool,
}

impl Trial {
    /// How the next attempt goes about it.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        if self.single { Mode::Single } else { Mode::Whole }
    }

    /// Attempts go record by record from now on.
    pub fn suspect(&mut self) {
        self.single = true;
    }

    /// The record killed the process that many times, as the data directory says. Once too often: it is rejected now.
    pub fn remember(&mut self, patience: &Patience, index: u32, deaths: u32) {
        self.single = true;
        self.crashes.insert(index, deaths);
        if deaths >= patience.crashes_max {
            let message = format!("the process died {deaths} times while it worked on the record");
            self.reject(patience, index, Fault::poison("crashed_process", message), 1);
        }
    }

    /// The records of `outcomes` that still want a verdict.
    #[must_use]
    pub fn todo(&self, outcomes: &[Outcome]) -> Vec<u32> {
        let indices = (0u32..).zip(outcomes);
        indices.filter(|(i, o)| o.is_live() && !self.verdicts.contains_key(i)).map(|(i, _)| i).collect()
    }

    /// Notes that the worker begins with this record.
    pub fn begin(&mut self, index: u32) {
        self.at = Some(index);
    }

    /// Notes a verdict; the first one counts.
    pub fn give(&mut self, index: u32, outcome: Outcome) {
        self.at = None;
        self.verdicts.entry(index).or_insert(outcome);
    }

    /// The worker died in the middle of it.
    pub fn crashed(&mut self, patience: &Patience, incarnation: u32, reason: &str) -> Crash {
        self.single = true;
        let Some(index) = self.at.take() else { return Crash::Unnamed };
        let crashes = self.crashes.entry(index).or_default();
        *crashes += 1;
        let poison = *crashes >= patience.crashes_max;
        if poison {
            let message = format!("the record crashed its worker {crashes} times, the last time with: {reason}");
            self.reject(patience, index, Fault::poison("crashed_worker", message), incarnation);
        }
        Crash::Named { index, poison }
    }

    /// The worker failed with a transient fault; how long to wait before the next attempt. A record whose patience is
    /// spent is rejected with the fault.
    pub fn failed(
        &mut self,
        patience: &Patience,
        todo: &[u32],
        fault: &Fault,
        worker: u32,
        jitter: u32,
        now: Now,
    ) -> Duration {
        debug_assert_eq!(fault.class, FaultClass::Transient, "other faults are not waited for");
        self.single = true;
        let named = self.at.take();
        let mut wait = Duration::ZERO;
        for index in todo.iter().copied().filter(|index| named.is_none_or(|named| named == *index)) {
            let failures = self.failures.entry(index).or_insert(Failures { count: 0, first: now });
            failures.count += 1;
            let Failures { count, first } = *failures;
            match patience.retry.wait(count, now - first, jitter) {
                Some(longer) => wait = wait.max(longer),
                None => self.reject(patience, index, fault.clone(), worker),
            }
        }
        wait
    }

    fn reject(&mut self, patience: &Patience, index: u32, fault: Fault, incarnation: u32) {
        let attempts = self.attempts(index);
        let stage = Arc::clone(&patience.stage);
        self.give(index, Outcome::Rejected(Box::new(Rejection { stage, step: None, fault, attempts, incarnation })));
    }

    /// How often this record has been tried, the running attempt included where none of them failed.
    #[must_use]
    pub fn attempts(&self, index: u32) -> u32 {
        let crashes = self.crashes.get(&index).copied().unwrap_or(0);
        let failures = self.failures.get(&index).map_or(0, |f| f.count);
        (crashes + failures).max(1)
    }

    /// The verdicts, all in.
    #[must_use]
    pub fn into_verdicts(self) -> BTreeMap<u32, Outcome> {
        self.verdicts
    }
}
