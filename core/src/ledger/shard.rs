//! The ledger shard: the machine that answers the claims of one partition under one assignment. Never performs I/O.
//!
//! It loads its cache, catches up with the changelog, checks both against the committed position, applies the claims
//! that an earlier shard answered, and only then answers. The cache is believed only if its last segment is found
//! again in the changelog, byte for byte.

use crate::ids::{BatchSeq, Offset, Position, SegmentSeq, Ticket};
use crate::ledger::index::Known;
use crate::ledger::overlay::Overlay;
use crate::ledger::{
    Anomaly, Claimed, Effect, Event, Index, Open, Placed, PositionCheck, Segment, SegmentHead, ShardSpec, Standing,
    Start, StopReason,
};
use crate::machine::Machine;
use crate::time::{Now, WallMs};
use bytes::Bytes;
use std::collections::VecDeque;
use std::time::Duration;

/// How long to wait before a position that does not fit is read again.
const RECHECK: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    New,
    Loading,
    CatchingUp,
    Ready,
    Stopped,
}

/// The newest segment known.
#[derive(Clone, Debug)]
struct Tail {
    at: Offset,
    seq: SegmentSeq,
    position: Position,
    closes: bool,
    expired_below: SegmentSeq,
    wire: Bytes,
}

impl Tail {
    fn of(placed: &Placed) -> Self {
        let segment = &placed.segment;
        Self {
            at: placed.at,
            seq: segment.seq(),
            position: segment.position(),
            closes: segment.closes(),
            expired_below: segment.expired_below(),
            wire: segment.wire().clone(),
        }
    }
}

/// One partition's ledger, for one assignment.
pub struct Shard {
    spec: ShardSpec,
    phase: Phase,
    index: Index,
    overlay: Overlay,
    /// The newest segment known; `None` while there is none.
    tail: Option<Tail>,
    next: SegmentSeq,
    /// Numbers the passes over the changelog, so that events of an abandoned one are known.
    pass: u32,
    /// Whether this pass has found the tail again, or has none to find.
    anchored: bool,
    /// The oldest segment that the cache held.
    cached_from: Option<SegmentSeq>,
    /// Whether another pass must follow this one.
    again: bool,
    /// Whether the cache is written. One that failed once is left alone until the next shard: it would not be whole.
    caching: bool,
    /// When to give up on a position that does not fit.
    give_up_at: Option<Now>,
    restarted: bool,
    /// Answered batches of an earlier shard, until claims are answered again.
    open: Vec<Open>,
    /// Segments that were committed while this shard was catching up.
    early: Vec<Segment>,
    /// Batches whose claims are not answered yet, in order.
    waiting: VecDeque<(Ticket, Vec<Claimed>, WallMs)>,
    /// The `expired_below` that was told last.
    told: SegmentSeq,
    /// What the cache was last trimmed to.
    trimmed: SegmentSeq,
}

impl Shard {
    /// A shard that knows nothing yet.
    #[must_use]
    pub fn new(spec: ShardSpec) -> Self {
        Self {
            spec,
            phase: Phase::New,
            index: Index::new(spec.ttl, spec.keys_max),
            overlay: Overlay::default(),
            tail: None,
            next: SegmentSeq(0),
            pass: 0,
            anchored: true,
            cached_from: None,
            again: false,
            caching: true,
            give_up_at: None,
            restarted: false,
            open: Vec::new(),
            early: Vec::new(),
            waiting: VecDeque::new(),
            told: SegmentSeq(0),
            trimmed: SegmentSeq(0),
        }
    }

    /// Whether claims are answered.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// The recorded keys, for its metrics.
    #[must_use]
    pub const fn index(&self) -> &Index {
        &self.index
    }

    /// How many claims are unsettled, for metrics.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        self.overlay.len()
    }

    fn start(&mut self, start: Start, effects: &mut Vec<Effect>) {
        if let Start::Restarted(open) = start {
            self.restarted = true;
            self.open = open;
        }
        self.phase = Phase::Loading;
        effects.push(Effect::LoadCache);
    }

    fn cached(&mut self, segments: Vec<Placed>, effects: &mut Vec<Effect>) {
        for placed in segments {
            let segment = &placed.segment;
            if segment.partition() != self.spec.partition || self.tail.is_some() && segment.seq() != self.next {
                return self.distrust_cache("its segments are not in sequence", effects);
            }
            self.cached_from = self.cached_from.or(Some(segment.seq()));
            effects.extend(self.index.apply(segment).map(Effect::Evicted));
            self.advance(&placed);
        }
    }

    fn cache_read(&mut self, effects: &mut Vec<Effect>) {
        // A cache that was emptied in its middle age lacks segments that count.
        if self.cached_from.is_some_and(|from| from > self.index.floor()) {
            return self.distrust_cache("its oldest segments are missing", effects);
        }
        self.catch_up(Duration::ZERO, effects);
    }

    fn cache_failed(&mut self, reason: String, effects: &mut Vec<Effect>) {
        if self.phase == Phase::Loading {
            self.distrust_cache(&reason, effects);
        } else {
            self.abandon_cache(reason, effects);
        }
    }

    /// Forgets what came from the cache and reads the whole changelog.
    fn distrust_cache(&mut self, reason: &str, effects: &mut Vec<Effect>) {
        if self.caching {
            effects.push(Effect::RebuildCache { reason: reason.to_owned() });
        }
        self.index = Index::new(self.spec.ttl, self.spec.keys_max);
        self.tail = None;
        self.next = SegmentSeq(0);
        self.catch_up(Duration::ZERO, effects);
    }

    /// Goes on without a cache; the next shard makes a whole one.
    fn abandon_cache(&mut self, reason: String, effects: &mut Vec<Effect>) {
        if self.caching {
            self.caching = false;
            effects.push(Effect::RebuildCache { reason });
        }
    }

    fn catch_up(&mut self, after: Duration, effects: &mut Vec<Effect>) {
        self.phase = Phase::CatchingUp;
        self.pass += 1;
        self.anchored = self.tail.is_none();
        effects.push(Effect::CatchUp { pass: self.pass, from: self.tail.as_ref().map(|tail| tail.at), after });
    }

    fn segments(&mut self, segments: Vec<Placed>, effects: &mut Vec<Effect>) {
        let mut news = Vec::with_capacity(segments.len());
        for placed in segments {
            let (at, found, expected) = (placed.at, placed.segment.partition(), self.spec.partition);
            if found != expected {
                return self.stop(StopReason::Foreign { at, found, expected }, effects);
            }
            // A pass whose reading failed half-way is read again from its beginning.
            if self.anchored && self.tail.as_ref().is_some_and(|tail| at <= tail.at) {
                continue;
            }
            match self.tail.as_mut().filter(|_| !self.anchored) {
                None => {
                    self.accept(&placed, effects);
                    news.push(placed);
                }
                Some(tail) if placed.segment.seq() < tail.seq => {}
                Some(tail) if placed.segment.wire() == &tail.wire => {
                    tail.at = at;
                    self.anchored = true;
                }
                Some(_) => return self.distrust_cache("it does not agree with the changelog", effects),
            }
        }
        self.store(news, effects);
        self.tell_floor(effects);
    }

    /// Takes the segment that follows, whatever its number is.
    fn accept(&mut self, placed: &Placed, effects: &mut Vec<Effect>) {
        let (expected, found) = (self.next, placed.segment.seq());
        if self.tail.is_some() && found > expected {
            effects.push(Effect::Anomaly(Anomaly::Gap { expected, found }));
        }
        if self.tail.is_some() && found < expected {
            self.forked(expected, found, effects);
            self.abandon_cache("the ledger forked: one number would have to hold two segments".into(), effects);
        }
        effects.extend(self.index.apply(&placed.segment).map(Effect::Evicted));
        for entry in placed.segment.entries() {
            self.overlay.settle(entry);
        }
        self.advance(placed);
    }

    /// Two segments under one number. Nothing fences an owner that sends without transactions: at least once, this is how
    /// it must be, and what both say holds.
    fn forked(&self, expected: SegmentSeq, found: SegmentSeq, effects: &mut Vec<Effect>) {
        if self.spec.check == PositionCheck::Exact {
            effects.push(Effect::Anomaly(Anomaly::Fork { expected, found }));
        }
    }

    fn advance(&mut self, placed: &Placed) {
        self.next = self.next.max(placed.segment.seq().next());
        let mut tail = Tail::of(placed);
        if self.spec.check == PositionCheck::AtLeast {
            // One that comes late, from an earlier owner, takes nothing back.
            tail.position = tail.position.max(self.tail.as_ref().map_or(Position(0), |tail| tail.position));
        }
        self.tail = Some(tail);
    }

    fn store(&self, segments: Vec<Placed>, effects: &mut Vec<Effect>) {
        if self.caching && !segments.is_empty() {
            effects.push(Effect::Store(segments));
        }
    }

    fn tell_floor(&mut self, effects: &mut Vec<Effect>) {
        let floor = self.index.floor();
        if floor > self.told {
            self.told = floor;
            effects.push(Effect::Expire(floor));
        }
        // The cache follows what is recorded: a shard that loads it can tell what expired from what is missing.
        let recorded = self.tail.as_ref().map_or(SegmentSeq(0), |tail| tail.expired_below);
        if self.caching && recorded > self.trimmed {
            self.trimmed = recorded;
            effects.push(Effect::Trim(recorded));
        }
    }

    fn caught_up(&mut self, position: Option<Position>, now: Now, effects: &mut Vec<Effect>) {
        if !self.anchored {
            return self.distrust_cache("its newest segment is not in the changelog", effects);
        }
        if std::mem::take(&mut self.again) {
            return self.catch_up(Duration::ZERO, effects);
        }
        let Some(tail) = self.tail.as_ref().filter(|tail| !self.fits(tail, position)) else {
            return self.ready(position, effects);
        };
        let recorded = tail.position;
        if now >= *self.give_up_at.get_or_insert(now + self.spec.wait) {
            return self.stop(StopReason::Disagree { committed: position, recorded }, effects);
        }
        self.catch_up(RECHECK, effects);
    }

    fn fits(&self, tail: &Tail, position: Option<Position>) -> bool {
        // After a restart our own lane may commit between the two readings: then the ledger is ahead.
        if self.restarted || self.spec.check == PositionCheck::AtLeast {
            position.is_none_or(|position| tail.position >= position)
        } else {
            position == Some(tail.position) && tail.closes
        }
    }

    fn ready(&mut self, position: Option<Position>, effects: &mut Vec<Effect>) {
        self.phase = Phase::Ready;
        self.give_up_at = None;
        self.restarted = true;
        for Open { ticket, fresh } in std::mem::take(&mut self.open) {
            for Claimed { offset, claim } in fresh {
                // It may be committed, and only its settling still under way.
                if self.index.get(claim.key).is_none_or(|known| known.offset != offset) {
                    self.overlay.insert(ticket.seq, offset, claim);
                }
            }
        }
        let early = std::mem::take(&mut self.early);
        self.committed(early, effects);
        if self.phase == Phase::Ready {
            self.tell_floor(effects);
            let head = SegmentHead { next: self.next, expired_below: self.told };
            effects.push(Effect::Ready { position, head });
            self.answer_waiting(effects);
        }
    }

    fn committed(&mut self, segments: Vec<Segment>, effects: &mut Vec<Effect>) {
        if self.phase != Phase::Ready {
            self.early.extend(segments);
            return;
        }
        let mut news = Vec::with_capacity(segments.len());
        for segment in segments {
            let (expected, found) = (self.next, segment.seq());
            if found > expected {
                // An earlier shard was told of those between: the changelog has them.
                self.store(news, effects);
                return self.catch_up(Duration::ZERO, effects);
            }
            if found < expected {
                segment.entries().iter().for_each(|entry| self.overlay.settle(entry));
                let same = self.tail.as_ref().is_none_or(|tail| tail.seq != found || tail.wire == segment.wire());
                if same {
                    continue;
                }
                self.forked(expected, found, effects);
                if self.spec.check == PositionCheck::AtLeast {
                    // Another came under its number first, and this one was not read.
                    self.store(news, effects);
                    return self.catch_up(Duration::ZERO, effects);
                }
                continue;
            }
            let at = self.tail.as_ref().map_or(Offset(0), |tail| Offset(tail.at.0 + 1));
            let placed = Placed { at, segment };
            self.accept(&placed, effects);
            news.push(placed);
        }
        self.store(news, effects);
        self.tell_floor(effects);
    }

    /// Answers what can be answered, in order.
    fn answer_waiting(&mut self, effects: &mut Vec<Effect>) {
        while self.phase == Phase::Ready
            && let Some((ticket, claims, wall)) = self.waiting.pop_front()
        {
            if self.must_wait(ticket.seq, &claims) {
                return self.waiting.push_front((ticket, claims, wall));
            }
            self.index.expire_at(wall);
            self.tell_floor(effects);
            let standings = self.answer(ticket.seq, &claims);
            effects.push(Effect::Answer { ticket, standings });
        }
    }

    /// Whether a record came back in a higher round before its earlier one was settled here: what became of that one
    /// decides. It lies in an earlier batch, which is settled without this one.
    fn must_wait(&self, batch: BatchSeq, claims: &[Claimed]) -> bool {
        claims.iter().filter(|claimed| claimed.claim.round.0 > 0).any(|claimed| {
            self.overlay.get(claimed.claim.key).is_some_and(|unsettled| {
                unsettled.claim.round < claimed.claim.round
                    && unsettled.offset < claimed.offset
                    && unsettled.batch != batch
            })
        })
    }

    fn answer(&mut self, batch: BatchSeq, claims: &[Claimed]) -> Vec<Standing> {
        let mut standings = Vec::with_capacity(claims.len());
        for claimed in claims {
            let standing = self.standing(claimed);
            if standing == Standing::Fresh {
                self.overlay.insert(batch, claimed.offset, claimed.claim);
            }
            standings.push(standing);
        }
        standings
    }

    fn standing(&self, Claimed { offset, claim }: &Claimed) -> Standing {
        if let Some(unsettled) = self.overlay.get(claim.key) {
            let (holder, held) = (unsettled.offset, unsettled.claim);
            return match holder == *offset {
                true => Standing::Fresh,
                false if held.round == claim.round && held.fingerprint != claim.fingerprint => {
                    Standing::Conflict(holder)
                }
                false => Standing::Duplicate(holder),
            };
        }
        match self.index.get(claim.key) {
            None => Standing::Fresh,
            Some(Known { offset, round, fingerprint, .. })
                if round == claim.round && fingerprint != claim.fingerprint =>
            {
                Standing::Conflict(offset)
            }
            Some(known) if known.rejected && known.round < claim.round => Standing::Fresh,
            Some(known) => Standing::Duplicate(known.offset),
        }
    }

    fn dropped(&mut self, ticket: Ticket) {
        self.overlay.forget(ticket.seq);
        self.open.retain(|open| open.ticket != ticket);
        self.waiting.retain(|(waiting, ..)| *waiting != ticket);
    }

    fn stop(&mut self, reason: StopReason, effects: &mut Vec<Effect>) {
        self.phase = Phase::Stopped;
        effects.push(Effect::Stop(reason));
    }

    /// Whether an event belongs to the pass that is under way.
    fn reads(&self, pass: u32) -> bool {
        self.phase == Phase::CatchingUp && pass == self.pass
    }
}

impl Machine for Shard {
    type Event = Event;
    type Effect = Effect;

    fn step(&mut self, event: Event, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        let out = &mut effects;
        match event {
            _ if self.phase == Phase::Stopped => {}
            Event::Start(start) => self.start(start, out),
            Event::Cached(segments) if self.phase == Phase::Loading => self.cached(segments, out),
            Event::CacheRead if self.phase == Phase::Loading => self.cache_read(out),
            Event::CacheFailed(reason) => self.cache_failed(reason, out),
            Event::Segments { pass, segments } if self.reads(pass) => self.segments(segments, out),
            Event::Unreadable { pass, at, damage } if self.reads(pass) => {
                self.stop(StopReason::Unreadable { at, damage }, out);
            }
            Event::CaughtUp { pass, position } if self.reads(pass) => self.caught_up(position, now, out),
            // Answers to what was given up meanwhile.
            Event::Cached(_)
            | Event::CacheRead
            | Event::Segments { .. }
            | Event::Unreadable { .. }
            | Event::CaughtUp { .. } => {}
            Event::Claim { ticket, claims, wall } => self.waiting.push_back((ticket, claims, wall)),
            Event::Committed(segments) => self.committed(segments, out),
            Event::Resync if self.phase == Phase::Ready => self.catch_up(Duration::ZERO, out),
            // Under way already: this pass or the next one reads them, before any claim is answered.
            Event::Resync => self.again = true,
            Event::Dropped(ticket) => self.dropped(ticket),
        }
        self.answer_waiting(out);
        effects
    }
}
