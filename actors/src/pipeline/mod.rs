//! A pipeline: its spec, its shells and its supervision tree (DESIGN §3, §4). Never knows a concrete step or log.

mod dlq;
mod gate;
mod handle;
mod journal;
mod lane;
mod ledger;
mod ledger_cache;
mod ledger_reads;
mod ledger_slot;
mod outputs;
mod partition;
mod rehearsal;
mod slots;
mod source;
mod spec;
mod stage;
mod steps;
mod topics;
mod trace;
mod tree;
mod wake;

pub use handle::{PartitionHealth, Pipeline};
pub use rehearsal::{Ending, Injected, Injection, Rehearsal, Unended};
pub use spec::{
    DlqSpec, LedgerSpec, Needs, OnGap, OutputSpec, PipelineSpec, PipelineTopic, RestartSpec, SourceSpec, StageSpec,
};
