//! One partition's records handed to one group, one at a time: which may be given now, under which lease, and what an
//! acknowledgement means. Never gives a record while the one before it is not done, and never gives one again without saying
//! so. Performs nothing: its shell commits positions and notes leases before it gives what this allows.

use crate::ids::{Offset, Position};
use crate::time::WallMs;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A record that was given to somebody who is to acknowledge it. Noted in the log before it is given, so that whoever serves
/// the group next knows of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Names it; nobody guesses it.
    pub id: String,
    /// The record.
    pub offset: Offset,
    /// Until when nobody else is given the record.
    pub until: WallMs,
    /// How often the record has been given, from 1.
    pub deliveries: u32,
}

/// What is to be done for somebody who asks for the next record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// There is none now.
    Empty,
    /// Somebody has it, for so long at most.
    Leased(Duration),
    /// Commit the position after it, then give it.
    Commit {
        /// The record.
        offset: Offset,
        /// Whether somebody was given it before.
        redelivered: bool,
    },
    /// Note the lease, then give its record.
    Note(Lease),
}

/// What is to be done for somebody who acknowledges a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// Commit the position after this record.
    Commit(Offset),
    /// It was acknowledged before.
    Done,
    /// It ran out, and the record was given to another, or the lease never was.
    Unknown,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Fifo {
    /// The position committed last, as far as that is known.
    position: Option<Position>,
    /// The record that is next.
    front: Option<Offset>,
    /// The lease that was noted last.
    lease: Option<Lease>,
    /// The lease that was acknowledged last.
    acked: Option<String>,
}

impl Fifo {
    /// Takes over: from this committed position, where there is one, and with the lease that was noted last.
    #[must_use]
    pub fn begin(position: Option<Position>, lease: Option<Lease>) -> Self {
        let is_done = |lease: &Lease| position.is_some_and(|position| position > Position(lease.offset.0));
        let acked = lease.as_ref().filter(|lease| is_done(lease)).map(|lease| lease.id.clone());
        Self { position, front: None, lease, acked }
    }

    /// Whether a record is wanted at the front.
    #[must_use]
    pub const fn wants(&self) -> bool {
        self.front.is_none()
    }

    /// Puts a record that was read at the front; false where it is done already.
    pub fn offer(&mut self, offset: Offset) -> bool {
        let is_done = self.position.is_some_and(|position| Position(offset.0) < position);
        if !is_done {
            self.front = Some(offset);
        }
        !is_done
    }

    /// Somebody asks for the next record: to have it at once, or (`lease`: an id and how long) to acknowledge it.
    #[must_use]
    pub fn next(&self, now: WallMs, lease: Option<(String, Duration)>) -> Next {
        let Some(offset) = self.front else { return Next::Empty };
        let given = self.lease.as_ref().filter(|lease| lease.offset == offset);
        if let Some(left) =
            given.map(|lease| lease.until.0 - now.0).and_then(|ms| u64::try_from(ms).ok()).filter(|ms| *ms > 0)
        {
            return Next::Leased(Duration::from_millis(left));
        }
        let before = given.map_or(0, |lease| lease.deliveries);
        match lease {
            None => Next::Commit { offset, redelivered: before > 0 },
            Some((id, span)) => {
                let until = WallMs(now.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)));
                Next::Note(Lease { id, offset, until, deliveries: before.saturating_add(1) })
            }
        }
    }

    /// The lease is in the log.
    pub fn noted(&mut self, lease: Lease) {
        self.lease = Some(lease);
    }

    /// Somebody acknowledges a lease. One that has run out counts as long as nobody else was given its record.
    #[must_use]
    pub fn ack(&self, id: &str) -> Ack {
        if self.acked.as_deref() == Some(id) {
            return Ack::Done;
        }
        match &self.lease {
            Some(lease) if lease.id == id => Ack::Commit(lease.offset),
            _ => Ack::Unknown,
        }
    }

    /// The position after this record is committed.
    pub fn committed(&mut self, offset: Offset) {
        self.position = Some(offset.next());
        if self.front.is_some_and(|front| front <= offset) {
            self.front = None;
        }
        if let Some(lease) = self.lease.as_ref().filter(|lease| lease.offset == offset) {
            self.acked = Some(lease.id.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const SPAN: Duration = Duration::from_millis(10);

    #[derive(Clone, Debug)]
    enum Act {
        Take,
        Lease,
        AckLast,
        AckOlder,
        Wait(i64),
        /// Another takes over, knowing what is in the log.
        TakeOver,
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            3 => Just(Act::Take),
            4 => Just(Act::Lease),
            3 => Just(Act::AckLast),
            1 => Just(Act::AckOlder),
            2 => (0..15_i64).prop_map(Act::Wait),
            1 => Just(Act::TakeOver),
        ];
        prop::collection::vec(act, 0..120)
    }

    /// The log as the shell would have it: records with gaps between them, the committed position, the noted lease.
    #[derive(Default)]
    struct World {
        fifo: Fifo,
        committed: Option<Position>,
        noted: Option<Lease>,
        given: BTreeMap<i64, u32>,
        leases: Vec<Lease>,
        now: i64,
    }

    impl World {
        fn fill(&mut self) {
            // Every third offset is a transaction's marker.
            let from = self.committed.map_or(0, |position| position.0);
            if self.fifo.wants() {
                let next = (from..).find(|offset| offset % 3 != 2).expect("there are more");
                assert!(self.fifo.offer(Offset(next)));
            }
        }

        fn commit(&mut self, offset: Offset) {
            assert!(self.committed.is_none_or(|position| position.0 <= offset.0), "a position never goes back");
            self.committed = Some(offset.next());
            self.fifo.committed(offset);
        }

        fn give(&mut self, offset: Offset, redelivered: bool) {
            let skipped = (0..offset.0).filter(|o| o % 3 != 2).find(|o| !self.given.contains_key(o));
            assert_eq!(skipped, None, "a record before {offset} was never given");
            let count = self.given.entry(offset.0).or_insert(0);
            assert_eq!(redelivered, *count > 0, "{offset} was given {count} times");
            *count += 1;
        }

        fn act(&mut self, act: Act) {
            match act {
                Act::Wait(ms) => self.now += ms,
                Act::TakeOver => self.fifo = Fifo::begin(self.committed, self.noted.clone()),
                Act::Take => match self.fifo.next(WallMs(self.now), None) {
                    Next::Commit { offset, redelivered } => {
                        self.commit(offset);
                        self.give(offset, redelivered);
                    }
                    Next::Leased(left) => assert!(!left.is_zero() && left <= SPAN),
                    other => panic!("{other:?}"),
                },
                Act::Lease => {
                    let id = self.leases.len().to_string();
                    match self.fifo.next(WallMs(self.now), Some((id, SPAN))) {
                        Next::Note(lease) => {
                            self.noted = Some(lease.clone());
                            self.fifo.noted(lease.clone());
                            self.give(lease.offset, lease.deliveries > 1);
                            self.leases.push(lease);
                        }
                        Next::Leased(_) => {}
                        other => panic!("{other:?}"),
                    }
                }
                Act::AckLast | Act::AckOlder => {
                    let back = if matches!(act, Act::AckLast) { 1 } else { 2 };
                    let Some(lease) = self.leases.len().checked_sub(back).map(|at| self.leases[at].clone()) else {
                        return;
                    };
                    let is_done = self.committed.is_some_and(|position| position.0 > lease.offset.0);
                    match self.fifo.ack(&lease.id) {
                        Ack::Commit(offset) => {
                            assert_eq!(offset, lease.offset);
                            if !is_done {
                                self.commit(offset);
                            }
                        }
                        Ack::Done => assert!(is_done),
                        Ack::Unknown => assert!(back == 2, "the last lease is known"),
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn in_order_none_skipped_and_none_twice_in_silence(acts in acts()) {
            let mut world = World::default();
            for act in acts {
                world.fill();
                world.act(act);
            }
        }
    }

    #[test]
    fn a_lease_keeps_others_away_until_it_runs_out() {
        let mut fifo = Fifo::begin(None, None);
        assert_eq!(fifo.next(WallMs(0), None), Next::Empty);
        assert!(fifo.offer(Offset(7)));
        let Next::Note(lease) = fifo.next(WallMs(0), Some(("a".into(), SPAN))) else { panic!("it is free") };
        fifo.noted(lease);
        assert_eq!(fifo.next(WallMs(4), None), Next::Leased(Duration::from_millis(6)));
        assert_eq!(fifo.next(WallMs(10), None), Next::Commit { offset: Offset(7), redelivered: true });
        assert_eq!((fifo.ack("b"), fifo.ack("a")), (Ack::Unknown, Ack::Commit(Offset(7))));
        fifo.committed(Offset(7));
        assert_eq!((fifo.ack("a"), fifo.next(WallMs(10), None)), (Ack::Done, Next::Empty));
        assert!(!fifo.offer(Offset(7)) && fifo.offer(Offset(9)));
    }
}
