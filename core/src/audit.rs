//! The auditor: says whether what came out of a pipeline keeps the promise of DESIGN §1, record by record.
//! Never reads a topic; simulations and broker tests hand it what they saw.

use crate::batch::Claim;
use crate::ids::{Offset, Partition, Position, Round};
use crate::ledger::Recorded;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fmt::Debug;
use std::sync::Arc;

/// What the pipeline promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// All of it.
    ExactlyOnce,
    /// All but P2: an outcome may be seen again, from a position that was committed before, and recorded again.
    AtLeastOnce,
}

/// A record of the source topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent<I> {
    /// Its partition.
    pub partition: Partition,
    /// Its place there.
    pub offset: Offset,
    /// What its outcomes are known by. Records that share an id (a client's retries) make the same number of outputs.
    pub id: I,
    /// What it claims, where the pipeline has a ledger.
    pub claim: Option<Claim>,
    /// How many outputs it makes, unless it is rejected: 1 mostly, 0 for a record that is to be dropped.
    pub outputs: u32,
}

/// Which kind of outcome a reader saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A result.
    Output,
    /// A dead letter.
    DeadLetter,
}

/// An outcome as a `read_committed` reader saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visible<I> {
    /// The topic it was read from.
    pub topic: Arc<str>,
    /// The partition of that topic.
    pub partition: Partition,
    /// Whose outcome it is.
    pub id: I,
    /// What it is.
    pub kind: Kind,
}

/// One entry of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The source partition.
    pub partition: Partition,
    /// The source record.
    pub offset: Offset,
    /// What became of it.
    pub recorded: Recorded,
}

/// What went in.
#[derive(Clone, Debug)]
pub struct History<I> {
    /// The source records, in any order.
    pub source: Vec<Sent<I>>,
    /// Where each source partition ends: past its last record, and past a transaction's marker if one follows it.
    pub ends: BTreeMap<Partition, Position>,
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Evidence<I> {
    /// The outcomes, in the order in which they were read from each topic-partition.
    pub visible: Vec<Visible<I>>,
    /// The ledger's entries; `None` where the pipeline has none.
    pub ledger: Option<Vec<Entry>>,
    /// The positions committed in the end.
    pub positions: BTreeMap<Partition, Position>,
}

/// A broken promise, and the record that shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields hold what their names say; each variant says what they show")]
pub enum Violation<I> {
    /// P1: fewer outcomes than there should be.
    Lost { id: I, partition: Partition, offset: Offset, expected: u32, seen: u32 },
    /// P2: more outcomes than there should be.
    Doubled { id: I, partition: Partition, offset: Offset, expected: u32, seen: u32 },
    /// P2: a key was emitted or dropped, and a later record with the same key was worked on again.
    KeyTwice { partition: Partition, first: Offset, second: Offset },
    /// P3: of two outcomes of one source partition, the later one in a topic-partition is of the earlier record.
    OutOfOrder { topic: Arc<str>, partition: Partition, source: Partition, after: Offset, offset: Offset },
    /// An outcome of a record that was never sent.
    Spurious { topic: Arc<str>, partition: Partition, id: I },
    /// P1: the ledger says nothing of a record.
    Unrecorded { partition: Partition, offset: Offset },
    /// P2: the ledger says twice what became of a record, or speaks of a record that does not exist.
    Overrecorded { partition: Partition, offset: Offset, entries: u32 },
    /// The ledger says one thing of a record, the topics or the claims another.
    Disagreement { partition: Partition, offset: Offset, recorded: Recorded, found: String },
    /// P1: the committed position is not at the end.
    Position { partition: Partition, position: Option<Position>, end: Position },
}

impl<I: Debug> fmt::Display for Violation<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let promise = match self {
            Self::Lost { .. } | Self::Unrecorded { .. } | Self::Position { .. } => "P1",
            Self::Doubled { .. } | Self::KeyTwice { .. } | Self::Overrecorded { .. } | Self::Spurious { .. } => "P2",
            Self::OutOfOrder { .. } => "P3",
            Self::Disagreement { .. } => "P1/P2",
        };
        write!(f, "{promise}: {self:?}")
    }
}

/// Checks P1 to P3. Empty where all is well. The order of the answer is that of the source, then of the topics.
#[must_use]
pub fn audit<I: Ord + Clone + Debug>(
    history: &History<I>,
    evidence: &Evidence<I>,
    delivery: Delivery,
) -> Vec<Violation<I>> {
    let places = Places::new(history, evidence.ledger.as_deref(), delivery);
    let mut violations = Vec::new();
    if evidence.ledger.is_some() {
        violations.extend(places.entries());
        violations.extend(places.keys());
    }
    violations.extend(counts(&places, &evidence.visible, delivery));
    violations.extend(order(&places, &evidence.visible, delivery));
    violations.extend(positions(history, &evidence.positions));
    violations
}

/// A reader that was there all the time must have seen the beginning of what a reader sees in the end, in the same
/// order. Returns, for the topic-partitions where that is not so, how many outcomes the two have in common.
#[must_use]
pub fn not_a_prefix<I: Eq>(during: &[Visible<I>], after: &[Visible<I>]) -> Vec<(Arc<str>, Partition, usize)> {
    fn by_partition<I>(visible: &[Visible<I>]) -> BTreeMap<(&Arc<str>, Partition), Vec<&Visible<I>>> {
        visible.iter().fold(BTreeMap::new(), |mut map, v| {
            map.entry((&v.topic, v.partition)).or_insert_with(Vec::new).push(v);
            map
        })
    }
    let after = by_partition(after);
    let broken = by_partition(during).into_iter().filter_map(|(place, seen)| {
        let last = after.get(&place).map_or(&[][..], Vec::as_slice);
        let common = seen.iter().zip(last).take_while(|(a, b)| a == b).count();
        (common < seen.len()).then(|| (Arc::clone(place.0), place.1, common))
    });
    broken.collect()
}

/// A source record and the ledger's entries for it.
type Known<'a, I> = (&'a Sent<I>, Vec<Recorded>);

/// The source records, by place and by id.
struct Places<'a, I> {
    by_place: BTreeMap<(Partition, Offset), Known<'a, I>>,
    by_id: BTreeMap<&'a I, Vec<&'a Sent<I>>>,
    strangers: BTreeMap<(Partition, Offset), u32>,
    has_ledger: bool,
    delivery: Delivery,
}

impl<'a, I: Ord + Clone> Places<'a, I> {
    fn new(history: &'a History<I>, ledger: Option<&[Entry]>, delivery: Delivery) -> Self {
        let mut by_place: BTreeMap<_, _> =
            history.source.iter().map(|s| ((s.partition, s.offset), (s, Vec::new()))).collect();
        let mut by_id: BTreeMap<&I, Vec<&Sent<I>>> = BTreeMap::new();
        for (sent, _) in by_place.values() {
            by_id.entry(&sent.id).or_default().push(sent);
        }
        let mut strangers = BTreeMap::new();
        for entry in ledger.unwrap_or_default() {
            match by_place.get_mut(&(entry.partition, entry.offset)) {
                Some((_, entries)) => entries.push(entry.recorded),
                None => *strangers.entry((entry.partition, entry.offset)).or_default() += 1,
            }
        }
        Self { by_place, by_id, strangers, has_ledger: ledger.is_some(), delivery }
    }

    fn recorded(&self, sent: &Sent<I>) -> &[Recorded] {
        self.by_place.get(&(sent.partition, sent.offset)).map_or(&[], |(_, entries)| entries)
    }

    /// Outputs and dead letters that a record should have according to the ledger.
    fn expected(&self, sent: &Sent<I>) -> (u32, u32) {
        let entries = self.recorded(sent);
        (entries.iter().map(outputs).sum(), entries.iter().map(dead_letters).sum())
    }

    /// One entry a record, and one that can be true of it; at least once there may be more, and those that tell of the
    /// record must be true.
    fn entries(&self) -> Vec<Violation<I>> {
        let mut violations = Vec::new();
        for (&(partition, offset), (sent, entries)) in &self.by_place {
            if entries.is_empty() {
                violations.push(Violation::Unrecorded { partition, offset });
            }
            if entries.len() > 1 && self.delivery == Delivery::ExactlyOnce {
                violations.push(Violation::Overrecorded { partition, offset, entries: entries.len() as u32 });
                continue;
            }
            let untrue = |recorded: Recorded| Some((recorded, self.untrue(sent, recorded)?));
            let disagreement = |(recorded, found)| Violation::Disagreement { partition, offset, recorded, found };
            violations.extend(telling(entries).filter_map(untrue).map(disagreement));
        }
        let strange = |(&(partition, offset), &entries): (&(Partition, Offset), &u32)| Violation::Overrecorded {
            partition,
            offset,
            entries,
        };
        violations.extend(self.strangers.iter().map(strange));
        violations
    }

    /// Why an entry cannot be true of a record, where it cannot.
    fn untrue(&self, sent: &Sent<I>, recorded: Recorded) -> Option<String> {
        let (of, conflict) = match recorded {
            Recorded::Emitted(n) => return (n != sent.outputs).then(|| format!("it makes {} outputs", sent.outputs)),
            Recorded::Dropped => return (sent.outputs != 0).then(|| format!("it makes {} outputs", sent.outputs)),
            Recorded::Rejected => return None,
            Recorded::Duplicate(of) => (of, false),
            Recorded::Conflict(of) => (of, true),
        };
        let Some((first, entries)) = self.by_place.get(&(sent.partition, of)) else {
            return Some("there is no such record".into());
        };
        let (Some(mine), Some(theirs)) = (sent.claim, first.claim) else {
            return Some("one of the two claims nothing".into());
        };
        let chained = !entries.is_empty() && entries.iter().all(is_anothers);
        let why = match () {
            () if of >= sent.offset => "it is not later than that record",
            () if mine.key != theirs.key => "the two have different keys",
            () if !conflict && mine.round == theirs.round && mine.fingerprint != theirs.fingerprint => {
                "the two have different payloads"
            }
            () if conflict && mine.round != theirs.round => "the two are of different rounds",
            () if conflict && mine.fingerprint == theirs.fingerprint => "the two have the same payload",
            () if chained => "that record did not hold the key itself",
            () => return None,
        };
        Some(why.into())
    }

    /// A key that was emitted or dropped is never worked on again, one that was rejected only in a higher round.
    fn keys(&self) -> Vec<Violation<I>> {
        let mut done: BTreeMap<_, (Offset, Option<Round>)> = BTreeMap::new();
        let mut violations = Vec::new();
        for (&(partition, offset), (sent, entries)) in &self.by_place {
            // Owners that overlapped, at least once, may have decided differently.
            let ([recorded], Some(claim)) = (&entries[..], sent.claim) else { continue };
            if is_anothers(recorded) {
                continue;
            }
            if let Some(&(first, rejected_in)) = done.get(&(partition, claim.key))
                && rejected_in.is_none_or(|round| claim.round <= round)
            {
                violations.push(Violation::KeyTwice { partition, first, second: offset });
            }
            let rejected_in = matches!(recorded, Recorded::Rejected).then_some(claim.round);
            done.insert((partition, claim.key), (offset, rejected_in));
        }
        violations
    }
}

/// Whether the key was another record's.
const fn is_anothers(recorded: &Recorded) -> bool {
    matches!(recorded, Recorded::Duplicate(_) | Recorded::Conflict(_))
}

/// The entries that tell what became of a record. One that was worked on and is read again, because the position was not
/// committed, finds its own key, or that of a later round: this says nothing of it.
fn telling(entries: &[Recorded]) -> impl Iterator<Item = Recorded> {
    let worked_on = entries.iter().any(|entry| !is_anothers(entry));
    let first = usize::from(!worked_on);
    let own = entries.iter().filter(|entry| !is_anothers(entry));
    own.chain(entries.iter().take(first)).copied()
}

/// How many outputs an entry speaks of.
const fn outputs(recorded: &Recorded) -> u32 {
    if let Recorded::Emitted(n) = recorded { *n } else { 0 }
}

/// How many dead letters an entry speaks of.
const fn dead_letters(recorded: &Recorded) -> u32 {
    matches!(recorded, Recorded::Rejected | Recorded::Conflict(_)) as u32
}

/// As many outcomes as there should be, no more, no fewer, none of strangers.
fn counts<I: Ord + Clone>(places: &Places<'_, I>, visible: &[Visible<I>], delivery: Delivery) -> Vec<Violation<I>> {
    let mut violations = Vec::new();
    let mut seen: BTreeMap<&I, (u32, u32)> = BTreeMap::new();
    for outcome in visible {
        if !places.by_id.contains_key(&outcome.id) {
            let Visible { topic, partition, id, .. } = outcome.clone();
            violations.push(Violation::Spurious { topic, partition, id });
        }
        let (outputs, letters) = seen.entry(&outcome.id).or_default();
        *(if outcome.kind == Kind::Output { outputs } else { letters }) += 1;
    }
    for (id, sent) in &places.by_id {
        let (outputs, letters) = seen.get(id).copied().unwrap_or_default();
        let each = sent[0].outputs;
        let pairs = if places.has_ledger {
            let expected = sent.iter().map(|s| places.expected(s)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
            vec![(expected.0, outputs), (expected.1, letters)]
        } else if each == 0 {
            // Dropped records leave nothing; each may have become a dead letter instead.
            vec![(0, outputs), (letters.min(sent.len() as u32), letters)]
        } else {
            // A dead letter stands in for all outputs of its record.
            vec![(each * sent.len() as u32, outputs + each * letters)]
        };
        let (partition, offset) = (sent[0].partition, sent[0].offset);
        for (expected, seen) in pairs {
            let id = (*id).clone();
            if seen < expected {
                violations.push(Violation::Lost { id, partition, offset, expected, seen });
            } else if seen > expected && delivery == Delivery::ExactlyOnce {
                violations.push(Violation::Doubled { id, partition, offset, expected, seen });
            }
        }
    }
    violations
}

/// Within a topic-partition, the outcomes of one source partition never go back.
fn order<I: Ord + Clone>(places: &Places<'_, I>, visible: &[Visible<I>], delivery: Delivery) -> Vec<Violation<I>> {
    let mut violations = Vec::new();
    let mut reached: BTreeMap<(&Arc<str>, Partition, Partition), Offset> = BTreeMap::new();
    let mut replayed: BTreeSet<(&Arc<str>, Partition, &I)> = BTreeSet::new();
    for outcome in visible {
        let Some(sent) = places.by_id.get(&outcome.id) else { continue };
        let again = !replayed.insert((&outcome.topic, outcome.partition, &outcome.id));
        if again && delivery == Delivery::AtLeastOnce {
            continue;
        }
        // Records may share an id: the outcome is of the first of them that was published and fits.
        let published = |s: &&&Sent<I>| !places.has_ledger || places.expected(s) != (0, 0);
        // One that should not have been published at all is counted elsewhere.
        let Some(source) = sent.iter().find(published).map(|s| s.partition) else { continue };
        let publishers = sent.iter().filter(published).filter(|s| s.partition == source);
        let offsets: Vec<Offset> = publishers.map(|s| s.offset).collect();
        let last = reached.entry((&outcome.topic, outcome.partition, source)).or_insert(Offset(i64::MIN));
        match offsets.iter().find(|offset| **offset >= *last) {
            Some(offset) => *last = *offset,
            None => violations.push(Violation::OutOfOrder {
                topic: Arc::clone(&outcome.topic),
                partition: outcome.partition,
                source,
                after: *last,
                offset: offsets[offsets.len() - 1],
            }),
        }
    }
    violations
}

/// The committed position lies behind the last record, and not behind the end.
fn positions<I>(history: &History<I>, positions: &BTreeMap<Partition, Position>) -> Vec<Violation<I>> {
    let mut least: BTreeMap<Partition, Position> = BTreeMap::new();
    for sent in &history.source {
        let end = least.entry(sent.partition).or_insert(Position(0));
        *end = (*end).max(sent.offset.next());
    }
    let partitions = least.keys().chain(history.ends.keys()).chain(positions.keys());
    let partitions: BTreeSet<Partition> = partitions.copied().collect();
    let wrong = partitions.into_iter().filter_map(|partition| {
        let (position, least) = (positions.get(&partition).copied(), least.get(&partition).copied());
        let end = history.ends.get(&partition).copied().or(least).unwrap_or_default();
        let right = match (position, least) {
            (Some(position), _) => least.is_none_or(|least| position >= least) && position <= end,
            // A partition without records need not have a position.
            (None, least) => least.is_none(),
        };
        (!right).then_some(Violation::Position { partition, position, end })
    });
    wrong.collect()
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
