//! The verdict: P1 to P3 by the auditor, and what only a simulation can know of every record. Never looks at a daemon.

use crate::broker::Place;
use crate::ctx::Ctx;
use crate::slots::CRASHES_MAX;
use crate::source_log::{Fate, Id, claimer, partitions};
use bulkhead_core::audit::{Delivery, Entry, Evidence, History, Sent, Violation, Visible, audit, not_a_prefix};
use bulkhead_core::ids::{Offset, Partition, Position};
use bulkhead_core::ledger::{Recorded, Segment};
use bulkhead_core::record::SourceRecord;
use std::collections::BTreeMap;

/// Records that are not committed yet, those that have not arrived among them.
pub(crate) fn lag(ctx: &Ctx) -> usize {
    let open = partitions().zip(&ctx.broker.source.records).map(|(partition, records)| {
        let position = ctx.broker.positions().get(&partition).copied().unwrap_or_default();
        records.iter().filter(|record| record.offset.0 >= position.0).count()
    });
    open.sum()
}

pub(crate) fn judge(ctx: &mut Ctx, seen: &[Visible<Id>]) {
    let (history, evidence) = (history(ctx), evidence(ctx));
    for violation in audit(&history, &evidence, ctx.delivery) {
        if !is_known(&violation, ctx) {
            ctx.broke(violation.to_string());
        }
    }
    attempts(ctx);
    expiry(ctx);
    for (topic, partition, common) in not_a_prefix(seen, &evidence.visible) {
        ctx.broke(format!("P2: {topic}/{partition} changed behind a reader at its outcome {common}"));
    }
    for entry in evidence.ledger.into_iter().flatten() {
        explain(&entry, ctx);
    }
    let letters: Vec<(Id, String)> = ctx.broker.letters().cloned().collect();
    for (id, code) in letters {
        let fate = ctx.broker.source.fate(id);
        let explained = match &*code {
            "poison" => fate == Fate::Poison,
            "refused_by_log" => fate.is_refused(),
            "crashed_worker" => ctx.culprits.get(&id).copied().unwrap_or_default() >= CRASHES_MAX,
            "conflict" => true,
            _ => false,
        };
        if !explained {
            ctx.broke(format!("{id:?}, {fate:?}, is a dead letter for {code}"));
        }
    }
}

/// At least once, an outcome may come behind those of later records that an attempt before had sent, where that attempt
/// had decided otherwise of it: its result was refused since, a crash that befell its key did not come again, another cut
/// put its earlier round into a batch of its own, or its key has expired.
fn is_known(violation: &Violation<Id>, ctx: &mut Ctx) -> bool {
    let (source, offset) = match violation {
        Violation::KeyTwice { partition, first, second } => return has_expired(*partition, *first, *second, ctx),
        Violation::OutOfOrder { source, offset, .. } => (source, offset),
        _ => return false,
    };
    let claim = |record: &SourceRecord| claimer().claim(*source, record);
    let records = &ctx.broker.source.records[source.0 as usize];
    let late = records.iter().find(|record| record.offset == *offset).map(claim);
    let fellows: Vec<_> =
        records.iter().filter(|record| Some(claim(record).key) == late.map(|claim| claim.key)).collect();
    let fickle = |id: Id| ctx.broker.source.fate(id).is_refused() || ctx.culprits.contains_key(&id);
    let expires = fellows.len() > 1 && ctx.broker.recorded(*source).any(|(segment, _)| segment.expired_below().0 > 0);
    let other = |record: &&SourceRecord| fickle((*source, record.offset)) || claim(record).round.0 > 0;
    let known = ctx.delivery == Delivery::AtLeastOnce && (expires || fellows.iter().any(other));
    if known {
        ctx.saw("outcome: another one than before, so late");
    }
    known
}

/// A key counts no more where the ledger itself says so, not where an owner's clock did.
fn has_expired(partition: Partition, first: Offset, second: Offset, ctx: &Ctx) -> bool {
    let segment = |offset: Offset| {
        ctx.broker.recorded(partition).find(|(_, entry)| entry.offset == offset).map(|(segment, _)| segment)
    };
    let (Some(first), Some(second)) = (segment(first), segment(second)) else { return false };
    first.seq() < second.expired_below()
}

/// What was expired was as old as the TTL for the owner that expired it, and is not taken back.
fn expiry(ctx: &mut Ctx) {
    let mut wrong = Vec::new();
    for partition in partitions().filter(|_| ctx.delivery == Delivery::ExactlyOnce) {
        let placed = ctx.broker.ledger(partition, 0, usize::MAX);
        let segments: Vec<_> = placed.iter().map(|placed| &placed.segment).collect();
        for (before, segment) in segments.iter().zip(segments.iter().skip(1)) {
            let (floor, horizon) = (segment.expired_below(), segment.committed_at().0 - ctx.ttl.as_millis() as i64);
            let young = |old: &&&Segment| old.seq() < floor && old.committed_at().0 > horizon;
            if floor < before.expired_below() {
                wrong.push(format!("ledger {partition}: segment {} takes an expiry back", segment.seq()));
            }
            if floor > before.expired_below() && segments.iter().any(|old| young(&old)) {
                wrong.push(format!("ledger {partition}: segment {} expires what still counts", segment.seq()));
            }
        }
    }
    wrong.into_iter().for_each(|what| ctx.broke(what));
}

/// P2 and P3, whatever is promised: an outcome is seen again only where an attempt that had sent it did not come to its end,
/// so of those that did one has it; and an attempt sends each once, in order.
fn attempts(ctx: &mut Ctx) {
    let mut copies: BTreeMap<(bool, Id), BTreeMap<(usize, bool), u32>> = BTreeMap::new();
    let mut last: BTreeMap<(usize, Place, Partition), Offset> = BTreeMap::new();
    let all: Vec<_> = ctx.broker.attempts().collect();
    for (place, id, attempt, committed) in all {
        let is_output = matches!(place, Place::Outputs(_));
        *copies.entry((is_output, id)).or_default().entry((attempt, committed)).or_default() += 1;
        let before = last.insert((attempt, place, id.0), id.1);
        if before.is_some_and(|before| before > id.1) {
            ctx.broke(format!("P3: attempt {attempt} sent {id:?} after {before:?}"));
        }
    }
    for ((is_output, id), copies) in copies {
        let each = if is_output { ctx.broker.source.fate(id).outputs() } else { 1 };
        if copies.len() > 1 {
            ctx.saw("outcome: seen again");
        }
        let ended = copies.keys().filter(|(_, committed)| *committed).count();
        if ended > 1 || copies.values().any(|copies| *copies > each) {
            ctx.broke(format!("P2: {id:?} was published again without need, by attempts {copies:?}"));
        }
    }
}

/// An outcome must be one that the record's fate allows.
fn explain(entry: &Entry, ctx: &mut Ctx) {
    let Some(fate) = ctx.broker.source.fates.get(&(entry.partition, entry.offset)).copied() else { return };
    let possible = match entry.recorded {
        Recorded::Emitted(_) => !matches!(fate, Fate::Poison | Fate::Crasher) && !fate.is_refused(),
        Recorded::Dropped => fate == Fate::Good(0),
        Recorded::Rejected | Recorded::Duplicate(_) | Recorded::Conflict(_) => true,
    };
    if !possible {
        ctx.broke(format!("{entry:?} cannot be of {fate:?}"));
    }
}

fn history(ctx: &Ctx) -> History<Id> {
    let mut source = Vec::new();
    let mut ends = BTreeMap::new();
    for (partition, records) in partitions().zip(&ctx.broker.source.records) {
        for record in records {
            let id: (Partition, Offset) = (partition, record.offset);
            let claim = Some(claimer().claim(partition, record));
            let outputs = ctx.broker.source.fate(id).outputs();
            source.push(Sent { partition, offset: record.offset, id, claim, outputs });
            ends.insert(partition, record.offset.next());
        }
    }
    History { source, ends }
}

fn evidence(ctx: &Ctx) -> Evidence<Id> {
    let mut ledger = Vec::new();
    for partition in partitions() {
        for placed in ctx.broker.ledger(partition, 0, usize::MAX) {
            let entries = placed.segment.entries().iter();
            ledger.extend(entries.map(|entry| Entry { partition, offset: entry.offset, recorded: entry.recorded }));
        }
    }
    let positions: &BTreeMap<Partition, Position> = ctx.broker.positions();
    Evidence { visible: ctx.broker.visible(), ledger: Some(ledger), positions: positions.clone() }
}
