//! A world for one ledger shard: its changelog, its cache, its lane and the group's position, and a naive model that
//! keeps every entry. Performs the shard's effects at once and checks each answer. Never uses the index it checks.

use bulkhead_core::batch::{Batch, Claim, KeyHash, Outcome, Rejection};
use bulkhead_core::fault::Fault;
use bulkhead_core::ids::{Assignment, BatchSeq, Generation, Offset, Partition, Position, Round, SegmentSeq, Ticket};
use bulkhead_core::ledger::{
    Claimed, Effect, Entry, Event, Open, Placed, PositionCheck, Recorded, SEGMENT_BYTES_MAX, Segment, SegmentHead,
    Shard, ShardSpec, Standing, Start, StopReason, settle,
};
use bulkhead_core::machine::Machine;
use bulkhead_core::record::{Record, SourceRecord};
use bulkhead_core::time::{Now, WallMs};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

const TTL: Duration = Duration::from_secs(10);
const WAIT: Duration = Duration::from_secs(15);
const PARTITION: Partition = Partition(3);

/// A record that is to come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want {
    pub(crate) key: u8,
    pub(crate) payload: u8,
    pub(crate) round: u32,
}

/// What happens to the cache while its shard is dead.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Harm {
    None,
    LoseTail(usize),
    LoseHead(usize),
    LoseAll,
    /// One in the middle is missing.
    LoseOne(usize),
    /// It fails after so many segments were read.
    FailAfter(usize),
    /// Its newest segment is one that never was committed.
    OtherHistory,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Claim { wants: Vec<Want>, later_ms: i64 },
    Commit { batches: usize, outcomes: Vec<u8>, split: bool, told: bool },
    Restart { harm: Harm },
    Reassign { harm: Harm },
    DropNewest,
    CacheFails,
    Pass { ms: i64 },
}

pub(crate) struct World {
    check: PositionCheck,
    shard: Shard,
    pub(crate) committed: Option<Position>,
    /// After so many passes the committed position becomes this.
    pub(crate) committed_after: Option<(u32, Option<Position>)>,
    changelog: Vec<Segment>,
    cache: BTreeMap<SegmentSeq, Placed>,
    cache_fails_after: Option<usize>,
    harmed: bool,
    assignment: Assignment,
    next_seq: u64,
    next_offset: i64,
    now: Now,
    wall: WallMs,
    floor: SegmentSeq,
    /// Batches asked for, and the answers where they were given; in order, unsettled.
    open: Vec<(Batch, Option<Vec<Standing>>)>,
    /// When they were asked for.
    asked_at: BTreeMap<Ticket, WallMs>,
    pub(crate) answered: usize,
    pub(crate) fresh: usize,
    pub(crate) passes: u32,
    pub(crate) stopped: Option<StopReason>,
    pub(crate) effects: Vec<Effect>,
}

impl World {
    pub(crate) fn new(check: PositionCheck) -> Self {
        let mut world = Self {
            check,
            shard: shard(check),
            committed: None,
            committed_after: None,
            changelog: Vec::new(),
            cache: BTreeMap::new(),
            cache_fails_after: None,
            harmed: false,
            assignment: Assignment { partition: PARTITION, generation: Generation(0) },
            next_seq: 0,
            next_offset: 0,
            now: Now(0),
            wall: WallMs(1_000_000),
            floor: SegmentSeq(0),
            open: Vec::new(),
            asked_at: BTreeMap::new(),
            answered: 0,
            fresh: 0,
            passes: 0,
            stopped: None,
            effects: Vec::new(),
        };
        world.send(Event::Start(Start::Assigned));
        world
    }

    pub(crate) fn head_next(&self) -> SegmentSeq {
        SegmentSeq(self.changelog.len() as u64)
    }

    pub(crate) fn perform(&mut self, op: Op) {
        match op {
            Op::Claim { wants, later_ms } => {
                self.wall.0 += later_ms;
                self.claim(&wants);
            }
            Op::Commit { batches, outcomes, split, told } => self.commit(batches, &outcomes, split, told),
            Op::Restart { harm } => self.restart(harm),
            Op::Reassign { harm } => self.reassign(harm),
            Op::DropNewest => self.drop_newest(),
            Op::CacheFails => {
                self.harmed = true;
                self.send(Event::CacheFailed("disk full".into()));
            }
            Op::Pass { ms } => self.wall.0 += ms,
        }
        assert!(self.stopped.is_some() || self.shard.is_ready(), "it answers again");
        assert!(self.shard.index().held() <= self.shard.index().len() + 1_000 / 8);
    }

    /// Everything is settled: nothing may wait for an answer then.
    pub(crate) fn finish(&mut self) {
        while !self.open.is_empty() {
            assert!(self.open[0].1.is_some(), "the oldest batch has its answer");
            self.commit(1, &[0], false, true);
        }
        assert_eq!(self.shard.unsettled(), 0, "no claim stays behind");
    }

    fn claim(&mut self, wants: &[Want]) {
        let records: Vec<SourceRecord> = (self.next_offset..)
            .zip(wants)
            .map(|(offset, _)| SourceRecord { offset: Offset(offset), record: Record::default() })
            .collect();
        self.next_offset += wants.len() as i64;
        let ticket = Ticket { assignment: self.assignment, seq: BatchSeq(self.next_seq) };
        self.next_seq += 1;
        let mut batch = Batch::new(ticket, records);
        batch.claims = wants.iter().map(Want::claim).collect();
        let claims = claimed(&batch);
        self.open.push((batch, None));
        self.asked_at.insert(ticket, self.wall);
        self.send(Event::Claim { ticket, claims, wall: self.wall });
    }

    /// Commits the oldest batches that have their answers.
    fn commit(&mut self, batches: usize, outcomes: &[u8], split: bool, told: bool) {
        let ready = self.open.iter().take_while(|(_, answer)| answer.is_some()).count();
        let mut done: Vec<Batch> = Vec::new();
        let mut outcomes = outcomes.iter().cycle();
        for (mut batch, answer) in self.open.drain(..ready.min(batches)) {
            settle(&mut batch, &answer.expect("only answered ones are taken"));
            let pending = batch.outcomes.iter_mut().filter(|outcome| **outcome == Outcome::Pending);
            pending.for_each(|outcome| *outcome = stage_says(*outcomes.next().expect("a cycle")));
            done.push(batch);
        }
        let Some(last) = done.last() else { return };
        let head = SegmentHead { next: self.head_next(), expired_below: self.floor };
        let bytes_max = if split { 0 } else { SEGMENT_BYTES_MAX };
        let end = last.end();
        let segments = Segment::build(&done.iter().collect::<Vec<_>>(), head, self.wall, bytes_max);
        self.changelog.extend(segments.iter().cloned());
        self.committed = Some(end);
        self.send(if told { Event::Committed(segments) } else { Event::Resync });
    }

    fn restart(&mut self, harm: Harm) {
        self.harm(harm);
        let open = self.open.iter().filter_map(|(batch, answer)| {
            let mut batch = batch.clone();
            settle(&mut batch, answer.as_ref()?);
            Some(Open::of(&batch))
        });
        let open = open.rev().collect();
        self.shard = shard(self.check);
        self.send(Event::Start(Start::Restarted(open)));
        let unanswered = self.open.iter().filter(|(_, answer)| answer.is_none());
        let asked_again: Vec<_> = unanswered.map(|(batch, _)| (batch.ticket, claimed(batch))).collect();
        for (ticket, claims) in asked_again {
            if self.open.iter().any(|(batch, answer)| batch.ticket == ticket && answer.is_none()) {
                self.asked_at.insert(ticket, self.wall);
                self.send(Event::Claim { ticket, claims, wall: self.wall });
            }
        }
    }

    fn reassign(&mut self, harm: Harm) {
        self.harm(harm);
        self.open.clear();
        self.next_offset = self.committed.map_or(0, |position| position.0);
        self.next_seq = 0;
        self.assignment.generation = self.assignment.generation.next();
        self.shard = shard(self.check);
        self.send(Event::Start(Start::Assigned));
    }

    fn drop_newest(&mut self) {
        let Some((batch, _)) = self.open.pop() else { return };
        self.next_offset = batch.first().0;
        self.send(Event::Dropped(batch.ticket));
    }

    fn harm(&mut self, harm: Harm) {
        let seqs: Vec<SegmentSeq> = self.cache.keys().copied().collect();
        // A lost tail is read again; only where the head was trimmed by what the tail said, the cache is not whole.
        let trimmed = self.floor > SegmentSeq(0);
        self.harmed |= match harm {
            Harm::None | Harm::LoseAll => false,
            Harm::LoseTail(_) => trimmed,
            Harm::LoseHead(_) | Harm::LoseOne(_) | Harm::FailAfter(_) | Harm::OtherHistory => true,
        };
        match harm {
            Harm::None => {}
            Harm::LoseTail(n) => seqs.iter().rev().take(n).for_each(|seq| drop(self.cache.remove(seq))),
            Harm::LoseHead(n) => seqs.iter().take(n).for_each(|seq| drop(self.cache.remove(seq))),
            Harm::LoseAll => self.cache.clear(),
            Harm::LoseOne(n) => seqs.iter().skip(n).take(1).for_each(|seq| drop(self.cache.remove(seq))),
            Harm::FailAfter(n) => self.cache_fails_after = Some(n),
            Harm::OtherHistory => {
                if let Some(mut newest) = self.cache.last_entry() {
                    let mut batch = Batch::new(
                        Ticket { assignment: self.assignment, seq: BatchSeq(0) },
                        vec![SourceRecord { offset: Offset(77), record: Record::default() }],
                    );
                    batch.claims = vec![Want { key: 200, payload: 9, round: 0 }.claim()];
                    let head = SegmentHead { next: *newest.key(), expired_below: SegmentSeq(0) };
                    let other = Segment::build(&[&batch], head, self.wall, SEGMENT_BYTES_MAX).remove(0);
                    newest.get_mut().segment = other;
                }
            }
        }
    }

    fn send(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for effect in self.shard.step(event, self.now) {
                self.effects.push(effect.clone());
                self.carry_out(effect, &mut events);
            }
        }
    }

    fn carry_out(&mut self, effect: Effect, events: &mut VecDeque<Event>) {
        match effect {
            Effect::LoadCache => self.load_cache(events),
            Effect::CatchUp { pass, from, after } => self.catch_up(pass, from, after, events),
            Effect::RebuildCache { reason } => {
                assert!(self.harmed, "no cache is moved aside without need: {reason}");
                self.cache.clear();
            }
            Effect::Store(segments) => {
                self.cache.extend(segments.into_iter().map(|placed| (placed.segment.seq(), placed)));
            }
            Effect::Trim(below) => self.cache.retain(|seq, _| *seq >= below),
            Effect::Ready { head, .. } => {
                assert_eq!(head, SegmentHead { next: self.head_next(), expired_below: head.expired_below });
                assert!(head.expired_below <= self.floor.max(head.expired_below));
            }
            Effect::Expire(below) => self.expire(below),
            Effect::Answer { ticket, standings } => self.judge(ticket, standings),
            Effect::Evicted(evicted) => panic!("there was room: {evicted:?}"),
            Effect::Anomaly(anomaly) => panic!("{anomaly}"),
            Effect::Stop(reason) => self.stopped = Some(reason),
        }
    }

    fn load_cache(&mut self, events: &mut VecDeque<Event>) {
        let fails_after = self.cache_fails_after.take();
        let cached: Vec<Placed> = self.cache.values().take(fails_after.unwrap_or(usize::MAX)).cloned().collect();
        events.extend(cached.chunks(3).map(|chunk| Event::Cached(chunk.to_vec())));
        events.push_back(match fails_after {
            Some(_) => Event::CacheFailed("a page is damaged".into()),
            None => Event::CacheRead,
        });
    }

    /// The changelog as Kafka lays it: each segment's transaction leaves a marker behind it.
    fn catch_up(&mut self, pass: u32, from: Option<Offset>, after: Duration, events: &mut VecDeque<Event>) {
        self.now = self.now + after;
        self.passes += 1;
        if let Some((passes, position)) = self.committed_after
            && self.passes >= passes
        {
            self.committed = position;
        }
        let segments = self.changelog.iter().enumerate();
        let placed = segments.map(|(n, segment)| Placed { at: Offset(2 * n as i64), segment: segment.clone() });
        let wanted: Vec<Placed> = placed.filter(|placed| from.is_none_or(|from| placed.at >= from)).collect();
        events.extend(wanted.chunks(3).map(|chunk| Event::Segments { pass, segments: chunk.to_vec() }));
        events.push_back(Event::CaughtUp { pass, position: self.committed });
    }

    /// Nothing leaves before its time.
    fn expire(&mut self, below: SegmentSeq) {
        for segment in self.changelog.iter().filter(|segment| segment.seq() < below) {
            assert!(segment.committed_at().0 + TTL.as_millis() as i64 <= self.wall.0, "{below} at {:?}", self.wall);
        }
        self.floor = self.floor.max(below);
    }

    /// Compares an answer with the model's.
    fn judge(&mut self, ticket: Ticket, standings: Vec<Standing>) {
        let at = self.open.iter().position(|(batch, _)| batch.ticket == ticket).expect("it was asked for");
        assert!(self.open[at].1.is_none(), "answered once");
        let due = self.asked_at[&ticket].0 - 11 * TTL.as_millis() as i64 / 10;
        let overdue = |segment: &&Segment| segment.committed_at().0 < due;
        assert!(self.changelog.iter().filter(overdue).all(|segment| segment.seq() < self.floor), "all expires in time");
        let mut unsettled: Vec<Claimed> = Vec::new();
        for (batch, answer) in self.open.iter().take(at) {
            let answer = answer.as_ref().expect("batches are answered in order");
            let fresh = claimed(batch).into_iter().zip(answer).filter(|(_, standing)| **standing == Standing::Fresh);
            unsettled.extend(fresh.map(|(claimed, _)| claimed));
        }
        let mut expected = Vec::new();
        let earlier = unsettled.len();
        for Claimed { offset, claim } in claimed(&self.open[at].0) {
            let undecided = unsettled[..earlier].iter().find(|other| other.claim.key == claim.key);
            assert!(
                undecided.is_none_or(|other| other.claim.round >= claim.round),
                "what became of it is not known yet"
            );
            let standing = self.model(&unsettled, claim);
            if standing == Standing::Fresh {
                unsettled.push(Claimed { offset, claim });
            }
            expected.push(standing);
        }
        assert_eq!(standings, expected, "{ticket} at floor {}", self.floor);
        self.answered += standings.len();
        self.fresh += standings.iter().filter(|standing| **standing == Standing::Fresh).count();
        self.open[at].1 = Some(standings);
    }

    /// DESIGN §5, word by word.
    fn model(&self, unsettled: &[Claimed], claim: Claim) -> Standing {
        if let Some(holder) = unsettled.iter().find(|other| other.claim.key == claim.key) {
            return if holder.claim.round == claim.round && holder.claim.fingerprint != claim.fingerprint {
                Standing::Conflict(holder.offset)
            } else {
                Standing::Duplicate(holder.offset)
            };
        }
        let counts = self.changelog.iter().rev().filter(|segment| segment.seq() >= self.floor);
        let newest = counts.flat_map(|segment| segment.entries().iter().rev()).find(|entry| {
            entry.claim.key == claim.key && !matches!(entry.recorded, Recorded::Duplicate(_) | Recorded::Conflict(_))
        });
        match newest {
            None => Standing::Fresh,
            Some(Entry { offset, claim: theirs, .. })
                if theirs.round == claim.round && theirs.fingerprint != claim.fingerprint =>
            {
                Standing::Conflict(*offset)
            }
            Some(Entry { recorded: Recorded::Rejected, claim: theirs, .. }) if theirs.round < claim.round => {
                Standing::Fresh
            }
            Some(Entry { offset, .. }) => Standing::Duplicate(*offset),
        }
    }
}

impl Want {
    fn claim(&self) -> Claim {
        let key = KeyHash(u128::from_le_bytes([self.key; 16]));
        Claim { key, fingerprint: u64::from(self.payload), round: Round(self.round) }
    }
}

fn shard(check: PositionCheck) -> Shard {
    Shard::new(ShardSpec { partition: PARTITION, ttl: TTL, keys_max: 1_000, check, wait: WAIT })
}

fn claimed(batch: &Batch) -> Vec<Claimed> {
    let claims = batch.records.iter().zip(&batch.claims);
    claims.map(|(record, claim)| Claimed { offset: record.offset, claim: *claim }).collect()
}

fn stage_says(outcome: u8) -> Outcome {
    match outcome {
        0 => Outcome::Emitted(vec![Record::default()].into()),
        1 => Outcome::Pending,
        2 => Outcome::Dropped("test".into()),
        _ => Outcome::Rejected(Box::new(Rejection {
            stage: "s".into(),
            step: None,
            fault: Fault::poison("bad", "bad"),
            attempts: 1,
            incarnation: 1,
        })),
    }
}
