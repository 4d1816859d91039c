//! The ledger: which keys were claimed, and what became of them (DESIGN §5). Truth is the changelog topic; what is
//! here answers from it and never writes it.

mod hash;
mod index;
mod overlay;
mod protocol;
mod segment;
mod shard;

pub use hash::{Claimer, KeySource, ROUND_MAX, TENANT_HEADER, fingerprint, noted_fingerprint, round_of};
pub use index::{Evicted, Index};
pub use protocol::{
    Anomaly, Claimed, Effect, Event, Open, Placed, PositionCheck, ShardSpec, Standing, Start, StopReason, settle,
};
pub use segment::{Entry, Recorded, SEGMENT_BYTES_MAX, Segment, SegmentHead};
pub use shard::Shard;
