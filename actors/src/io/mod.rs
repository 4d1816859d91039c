//! The log adapters, and the only place that names what keeps a log. Never decides what the engine does with it.

pub mod embedded;
pub mod kafka;
mod local;
#[cfg(any(test, feature = "memory-log"))]
pub mod memory;
pub mod segment_cache;
