//! Crashes that no record has been found guilty of: whose fault they are shows as the batches concerned go on. Never
//! judges a record.

use crate::ids::{Assignment, Ticket};
use std::collections::{BTreeMap, BTreeSet};

/// For each set of batches that a worker held when it crashed without a name: how often that happened.
#[derive(Debug, Default)]
pub struct Unexplained {
    crashes: BTreeMap<BTreeSet<Ticket>, u32>,
}

impl Unexplained {
    /// A worker crashed with these batches in its hands.
    pub fn crashed(&mut self, held: BTreeSet<Ticket>) {
        if !held.is_empty() {
            *self.crashes.entry(held).or_default() += 1;
        }
    }

    /// A record of this batch turned out to crash workers: that explains the crashes in which it took part.
    pub fn explained_by(&mut self, ticket: Ticket) {
        self.crashes.retain(|held, _| !held.contains(&ticket));
    }

    /// The batch went well in the end. Gives the crashes that nobody is left for: they are the stage's own.
    pub fn cleared(&mut self, ticket: Ticket) -> u32 {
        self.without(|held| held == ticket)
    }

    /// The assignment is over; what its batches would have shown will not be known.
    pub fn fenced(&mut self, over: Assignment) {
        self.without(|held| held.assignment == over);
    }

    fn without(&mut self, gone: impl Fn(Ticket) -> bool) -> u32 {
        let mut nobodys = 0;
        for (mut held, times) in std::mem::take(&mut self.crashes) {
            held.retain(|ticket| !gone(*ticket));
            if held.is_empty() {
                nobodys += times;
            } else {
                *self.crashes.entry(held).or_default() += times;
            }
        }
        nobodys
    }
}
