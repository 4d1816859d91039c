//! What every part of the simulation sees: the log, chance, the time, and what is noted for the verdict.
//! Never belongs to a daemon: it survives all of them.

use crate::broker::Broker;
use crate::group::{Client, Metadata};
use crate::rng::Rng;
use bulkhead_core::audit::Delivery;
use bulkhead_core::gather::Gather;
use bulkhead_core::ids::{Offset, Partition, Ticket};
use bulkhead_core::time::{Now, WallMs};
use std::collections::BTreeMap;
use std::time::Duration;

/// A fault built into the wiring on purpose, to see that the verdict finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    None,
    /// A commit passes whatever the generation.
    OpenGate,
    /// A fence does not wait for the commit in progress, and the commit does not look again.
    HastyFence,
    /// A lane takes its partitions' gates from an abandoned one that nothing stops: its producer is not fenced, and it does
    /// not see that it was replaced.
    UnfencedSuccessor,
    /// A commit looks at its gates once, before it takes the membership under which it will be accepted.
    OneLook,
    /// Batches are settled before their transaction is committed.
    EarlySettle,
    /// After an unknown outcome the committed positions are not looked at.
    BlindReplay,
    /// A restarted shard does not hear of the claims that were answered.
    ForgottenClaims,
    /// Verdicts given before a crash are lost.
    ForgottenVerdicts,
    /// A restarted lane does not hear what its batches' partitions wait for first.
    ForgottenOrder,
    /// What is left of a rebalance callback is lost with its source.
    ForgottenCallback,
    /// Each owner expires keys by its own clock, and writes nothing of it into the ledger.
    OwnClock,
    /// A dead letter that the log refuses though nothing of it can be cut is left out.
    DroppedLetter,
    /// At least once: segments are sent before outputs are acknowledged.
    RecordsFirst,
    /// At least once: positions are committed before outputs are acknowledged.
    PositionsFirst,
    /// At least once: positions are committed before segments are acknowledged.
    PositionsBeforeRecords,
}

/// A record at a stage of one process, in one batch.
pub(crate) type RunKey = (u64, usize, Ticket, u32);

pub(crate) struct Ctx {
    pub(crate) broker: Broker,
    pub(crate) rng: Rng,
    pub(crate) now: Now,
    pub(crate) mutant: Mutant,
    /// How stages gather batches; off for some seeds.
    pub(crate) gather: Gather,
    pub(crate) delivery: Delivery,
    /// How long a key counts.
    pub(crate) ttl: Duration,
    /// Whether the dlq stops where too much is rejected.
    pub(crate) stops_above: bool,
    /// How far each daemon's wall clock is ahead.
    pub(crate) skew_ms: Vec<i64>,
    /// Whether faults are drawn.
    pub(crate) hurt: bool,
    /// How often each thing happened.
    pub(crate) seen: BTreeMap<&'static str, u64>,
    pub(crate) broken: Vec<String>,
    /// How often a step ran over a record, and how many of these runs were lost with their worker or to a fault.
    pub(crate) runs: BTreeMap<RunKey, (u32, u32)>,
    /// How often a record was named as what crashed or hung its worker.
    pub(crate) culprits: BTreeMap<(Partition, Offset), u32>,
    /// Numbers the processes.
    pub(crate) processes: u64,
    /// Each daemon's client, as its current process has it.
    pub(crate) clients: Vec<Client>,
}

impl Ctx {
    pub(crate) fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// Whether a fault happens here; never while healing.
    pub(crate) fn fault(&mut self, what: &'static str, per_mille: u64) -> bool {
        let happens = self.hurt && self.rng.per_mille(per_mille);
        if happens {
            self.saw(what);
        }
        happens
    }

    /// The membership of a daemon as its client knows it.
    pub(crate) fn metadata(&self, daemon: usize) -> Option<Metadata> {
        let client = &self.clients[daemon];
        Some((client.member?, client.epoch))
    }

    /// The time by a daemon's own clock.
    pub(crate) fn wall(&self, daemon: usize) -> WallMs {
        WallMs(1_000_000 + self.now.0.cast_signed() + self.skew_ms[daemon])
    }

    pub(crate) fn broke(&mut self, what: String) {
        self.broken.push(what);
    }

    /// A step begins with a record: every earlier run must have been lost for a reason (P4).
    pub(crate) fn run(&mut self, key: RunKey) {
        let (runs, lost) = self.runs.entry(key).or_default();
        let again = *runs > *lost;
        *runs += 1;
        if again {
            self.broke(format!("P4: {key:?} ran again though nobody who held it died or failed"));
        }
    }

    /// The answers of these runs are lost with whoever held them.
    pub(crate) fn lost(&mut self, process: u64, stage: usize, ticket: Ticket, running: &[u32]) {
        for index in running {
            self.runs.entry((process, stage, ticket, *index)).or_default().1 += 1;
        }
    }
}
