//! Reads partitions without a group. Never tells twice that a tail is caught up.

use super::broker::Broker;
use super::store::Slot;
use crate::log::{LogError, Read, Reader, Tail};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) struct LocalReader {
    broker: Arc<Broker>,
    tails: Vec<Cursor>,
    /// The tail that is read first next time, so that none starves.
    first: usize,
}

struct Cursor {
    slot: Slot,
    next: i64,
    /// The end when the reader was made, until it was told that this was reached.
    goal: Option<i64>,
}

impl LocalReader {
    pub(super) fn new(broker: Arc<Broker>, tails: &[Tail]) -> Result<Self, LogError> {
        let catalog = broker.catalog();
        let cursor = |tail: &Tail| {
            let slot = catalog.slot(&tail.topic, tail.partition)?;
            let span = catalog.span(slot);
            Ok(Cursor { slot, next: tail.from.map_or(span.start, |from| from.0), goal: Some(span.end) })
        };
        let tails = tails.iter().map(cursor).collect::<Result<_, LogError>>()?;
        drop(catalog);
        Ok(Self { broker, tails, first: 0 })
    }

    fn take(&mut self, max: usize) -> Result<Vec<Read>, LogError> {
        let mut seen = Vec::new();
        let count = self.tails.len();
        for step in 0..count {
            let tail = (self.first + step) % count;
            let cursor = &mut self.tails[tail];
            let records = self.broker.read(cursor.slot, cursor.next, max.saturating_sub(seen.len()))?;
            if let Some(last) = records.last() {
                cursor.next = last.offset.next().0;
            }
            seen.extend(records.into_iter().map(|record| Read::Record { tail, record }));
            let room = seen.len() < max;
            if room && cursor.goal.take_if(|goal| cursor.next >= *goal).is_some() {
                seen.push(Read::CaughtUp { tail });
            }
        }
        self.first = (self.first + 1) % count.max(1);
        Ok(seen)
    }
}

impl Reader for LocalReader {
    fn read(&mut self, max: usize, wait: Duration) -> Result<Vec<Read>, LogError> {
        let deadline = Instant::now() + wait;
        loop {
            self.broker.check()?;
            let seen = self.take(max)?;
            if !seen.is_empty() || Instant::now() >= deadline {
                return Ok(seen);
            }
            let slots: Vec<_> = self.tails.iter().map(|cursor| (cursor.slot, cursor.next)).collect();
            let broker = &self.broker;
            broker.wait(&slots, deadline, || broker.check().is_err());
        }
    }
}
