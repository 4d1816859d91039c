//! The log adapters, and the only place that names what keeps a log. Never decides what the engine does with it.

pub mod embedded;
pub mod kafka;
mod local;
#[cfg(any(test, feature = "memory-log"))]
pub mod memory;
pub mod segment_cache;
//! The log's adapters: the only places that name the stores and clients behind them. Never hold a decision of the engine.

pub mod kafka;
