//! Where one batch ends and the next begins: by count, by bytes, by time. Never reorders and never splits a record.

use crate::record::SourceRecord;
use crate::time::Now;
use std::collections::VecDeque;
use std::time::Duration;

/// When a batch is full or old enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutLimits {
    /// At most this many records, at least 1.
    pub records_max: usize,
    /// At most this many bytes, unless a single record has more.
    pub bytes_max: usize,
    /// A batch that is not full waits this long for more.
    pub linger: Duration,
}

/// Records that wait to become batches.
#[derive(Debug)]
pub struct Cutter {
    limits: CutLimits,
    waiting: VecDeque<SourceRecord>,
    bytes: usize,
    oldest: Now,
}

impl Cutter {
    /// An empty cutter.
    #[must_use]
    pub fn new(limits: CutLimits) -> Self {
        Self { limits, waiting: VecDeque::new(), bytes: 0, oldest: Now::default() }
    }

    /// Adds a record behind the others.
    pub fn push(&mut self, record: SourceRecord, now: Now) {
        if self.waiting.is_empty() {
            self.oldest = now;
        }
        self.bytes += record.record.size();
        self.waiting.push_back(record);
    }

    /// Bytes that wait.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Records that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// When what waits becomes due even if nothing is added; `None` where nothing waits.
    #[must_use]
    pub fn due(&self) -> Option<Now> {
        (!self.is_empty()).then(|| self.oldest + self.limits.linger)
    }

    /// The next batch's records, where one is full or due.
    pub fn cut(&mut self, now: Now) -> Option<Vec<SourceRecord>> {
        let full = self.waiting.len() >= self.limits.records_max || self.bytes >= self.limits.bytes_max;
        if !full && self.due().is_none_or(|due| now < due) {
            return None;
        }
        let (mut count, mut bytes) = (0, 0);
        for waiting in self.waiting.iter().take(self.limits.records_max) {
            let size = waiting.record.size();
            if count > 0 && bytes + size > self.limits.bytes_max {
                break;
            }
            (count, bytes) = (count + 1, bytes + size);
        }
        self.bytes -= bytes;
        self.oldest = now;
        Some(self.waiting.drain(..count).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Offset;
    use crate::record::Record;
    use proptest::prelude::*;

    fn record(offset: i64, bytes: usize) -> SourceRecord {
        SourceRecord {
            offset: Offset(offset),
            record: Record { value: Some(vec![0; bytes].into()), ..Record::default() },
        }
    }

    proptest! {
        #[test]
        fn batches_concatenate_to_the_input_and_keep_the_limits(
            sizes in proptest::collection::vec(0usize..300, 1..200), records_max in 1usize..20, bytes_max in 1usize..1_000,
        ) {
            let limits = CutLimits { records_max, bytes_max, linger: Duration::ZERO };
            let mut cutter = Cutter::new(limits);
            let mut seen = Vec::new();
            for (offset, size) in sizes.iter().enumerate() {
                cutter.push(record(offset as i64, *size), Now(0));
            }
            while let Some(batch) = cutter.cut(Now(0)) {
                let bytes: usize = batch.iter().map(|r| r.record.size()).sum();
                prop_assert!(!batch.is_empty() && batch.len() <= records_max);
                prop_assert!(bytes <= bytes_max || batch.len() == 1);
                seen.extend(batch.into_iter().map(|r| r.offset.0));
            }
            prop_assert_eq!(seen, (0..sizes.len() as i64).collect::<Vec<_>>());
            prop_assert_eq!((cutter.bytes(), cutter.due()), (0, None));
        }
    }

    #[test]
    fn an_unfilled_batch_waits_for_its_linger() {
        let linger = Duration::from_millis(5);
        let mut cutter = Cutter::new(CutLimits { records_max: 10, bytes_max: 1_000, linger });
        cutter.push(record(0, 1), Now(100));
        assert_eq!(cutter.cut(Now(104)), None);
        assert_eq!(cutter.due(), Some(Now(105)));
        assert_eq!(cutter.cut(Now(105)).map(|b| b.len()), Some(1));
    }
}
