//! The verdict: P1 to P3 by the auditor, and what only a simulation can know of every record. Never looks at a daemon.

use crate::ctx::Ctx;
use crate::slots::CRASHES_MAX;
use crate::source_log::{Fate, Id, claimer, partitions};
use bulkhead_core::audit::{Delivery, Entry, Evidence, History, Sent, Visible, audit, not_a_prefix};
use bulkhead_core::ids::{Offset, Partition, Position};
use bulkhead_core::ledger::Recorded;
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
    let violations = audit(&history, &evidence, Delivery::ExactlyOnce);
    ctx.broken.extend(violations.iter().map(ToString::to_string));
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
            "refused_by_log" => fate == Fate::Refused,
            "crashed_worker" => ctx.culprits.get(&id).copied().unwrap_or_default() >= CRASHES_MAX,
            "conflict" => true,
            _ => false,
        };
        if !explained {
            ctx.broke(format!("{id:?}, {fate:?}, is a dead letter for {code}"));
        }
    }
}

/// An outcome must be one that the record's fate allows.
fn explain(entry: &Entry, ctx: &mut Ctx) {
    let Some(fate) = ctx.broker.source.fates.get(&(entry.partition, entry.offset)).copied() else { return };
    let possible = match entry.recorded {
        Recorded::Emitted(_) => !matches!(fate, Fate::Poison | Fate::Crasher | Fate::Refused),
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
