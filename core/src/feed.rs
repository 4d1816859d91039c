//! The latest records of a partition, kept so that whoever was away can be told what it missed. Never says that nothing was
//! missed where that cannot be known: a partition that was made anew, or records that are kept no more, are a gap.

use crate::ids::{Offset, Position};
use crate::record::SourceRecord;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowLimits {
    /// Records, at least 1.
    pub records_max: usize,
    /// Bytes of records; one is always kept.
    pub bytes_max: usize,
}

/// How far somebody has come: the last record of the partition at that time, whosever it was, and what tells it from another
/// record at the same offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The record's offset; one below the partition's start where there was none.
    pub offset: Offset,
    /// A digest of the record; 0 where there was none.
    pub digest: u64,
}

/// What was missed cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap;

/// A record that is kept.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its place and digest.
    pub mark: Mark,
    /// The record.
    pub record: Arc<SourceRecord>,
}

impl Kept {
    fn is_for(&self, key: &[u8]) -> bool {
        self.record.record.key.as_ref().is_some_and(|own: &Bytes| own == key)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Window {
    limits: WindowLimits,
    kept: VecDeque<Kept>,
    bytes: usize,
    /// The mark before the first record kept: everything after it is here.
    before: Mark,
}

impl Window {
    /// Of a partition that is read from here on.
    #[must_use]
    pub fn new(limits: WindowLimits, start: Position) -> Self {
        let before = Mark { offset: Offset(start.0 - 1), digest: 0 };
        Self { limits, kept: VecDeque::new(), bytes: 0, before }
    }

    /// Adds the next record; `digest` is not 0. The oldest make room.
    pub fn push(&mut self, record: SourceRecord, digest: u64) -> Kept {
        let mark = Mark { offset: record.offset, digest: digest.max(1) };
        self.bytes += record.record.size();
        let kept = Kept { mark, record: Arc::new(record) };
        self.kept.push_back(kept.clone());
        while self.kept.len() > self.limits.records_max.max(1)
            || (self.bytes > self.limits.bytes_max && self.kept.len() > 1)
        {
            let Some(gone) = self.kept.pop_front() else { break };
            self.bytes -= gone.record.record.size();
            self.before = gone.mark;
        }
        kept
    }

    /// How far the partition has come.
    #[must_use]
    pub fn head(&self) -> Mark {
        self.kept.back().map_or(self.before, |kept| kept.mark)
    }

    /// The records with this key that came after the mark.
    ///
    /// # Errors
    /// It cannot be known which those are.
    pub fn since(&self, key: &[u8], mark: Mark) -> Result<Vec<Kept>, Gap> {
        let from = if mark == self.before || (mark.digest == 0 && mark.offset >= self.before.offset) {
            // Nothing that came after it has gone. Where the mark has no digest, there is nothing to tell it by.
            self.kept.partition_point(|kept| kept.mark.offset <= mark.offset)
        } else {
            let at = self.kept.binary_search_by_key(&mark.offset, |kept| kept.mark.offset).map_err(|_| Gap)?;
            if self.kept[at].mark != mark {
                return Err(Gap);
            }
            at + 1
        };
        if mark.offset > self.head().offset {
            return Err(Gap);
        }
        Ok(self.kept.range(from..).filter(|kept| kept.is_for(key)).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;
    use proptest::prelude::*;

    fn record(offset: i64, key: u8) -> SourceRecord {
        SourceRecord { offset: Offset(offset), record: Record { key: Some(vec![key].into()), ..Record::default() } }
    }

    fn offsets(kept: &[Kept]) -> Vec<i64> {
        kept.iter().map(|kept| kept.mark.offset.0).collect()
    }

    #[test]
    fn a_partition_made_anew_is_a_gap() {
        let limits = WindowLimits { records_max: 10, bytes_max: 1 << 20 };
        let (mut old, mut new) = (Window::new(limits, Position(0)), Window::new(limits, Position(0)));
        for offset in 0..5 {
            old.push(record(offset, 1), 100 + offset as u64);
            new.push(record(offset, 1), 200 + offset as u64);
        }
        let mark = old.head();
        assert_eq!(old.since(&[1], mark).map(|kept| kept.len()), Ok(0));
        assert_eq!(new.since(&[1], mark).map(|kept| kept.len()), Err(Gap));
        let ahead = Mark { offset: Offset(9), digest: 0 };
        assert_eq!(new.since(&[1], ahead).map(|kept| kept.len()), Err(Gap));
    }

    proptest! {
        /// Against a list that forgets nothing: what is told is all that came, or it is a gap, and that only where something
        /// after the mark has gone.
        #[test]
        fn all_that_was_missed_or_a_gap(
            steps in prop::collection::vec((1..3_i64, 0..3_u8), 0..60), records_max in 1..12_usize,
            start in 0..5_i64, at in 0..60_usize, key in 0..3_u8,
        ) {
            let mut window = Window::new(WindowLimits { records_max, bytes_max: 1 << 20 }, Position(start));
            let (mut all, mut offset, mut marks) = (Vec::new(), start - 1, vec![window.head()]);
            for (step, key) in steps {
                offset += step;
                window.push(record(offset, key), offset as u64 + 1_000);
                all.push((offset, key));
                marks.push(window.head());
            }
            let mark = marks[at.min(marks.len() - 1)];
            let missed: Vec<_> = all.iter().filter(|(o, _)| *o > mark.offset.0).collect();
            let wanted: Vec<_> = missed.iter().filter(|(_, k)| *k == key).map(|(o, _)| *o).collect();
            match window.since(&[key], mark) {
                Ok(kept) => prop_assert_eq!(offsets(&kept), wanted),
                Err(Gap) => prop_assert!(missed.len() > records_max.saturating_sub(1), "{:?}", mark),
            }
        }
    }
}
