//! bulkhead-core: the state machines, decisions and codecs of bulkhead.
//!
//! Nothing here performs I/O, reads a clock, starts a thread or draws a random number: time and randomness are
//! arguments, what is to be done is a returned effect. So every interleaving can be simulated from a seed.

pub mod batch;
pub mod fault;
pub mod ids;
pub mod job_id;
pub mod jobs;
pub mod machine;
pub mod record;
pub mod time;
pub mod verdict;
