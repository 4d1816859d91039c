//! bulkhead-actors: shells that drive the core's machines, their supervisor, and the log adapters.
//!
//! Never parses configuration, serves HTTP or knows a concrete step.

pub mod clock;
pub mod feed;
pub mod fifo;
pub mod hints;
pub mod io;
pub mod log;
pub mod metrics;
pub mod outbox;
pub mod pipeline;
pub mod results;
pub mod shell;
pub mod step;
pub mod supervisor;
pub mod worker;
