//! bulkhead-core: the state machines, decisions and codecs of bulkhead.
//!
//! Nothing here performs I/O, reads a clock, starts a thread or draws a random number: time and randomness are
//! arguments, what is to be done is a returned effect. So every interleaving can be simulated from a seed.

pub mod audit;
pub mod batch;
pub mod breaker;
pub mod cents;
pub mod cut;
pub mod deadline;
pub mod dlq;
pub mod extract;
pub mod fault;
pub mod feed;
pub mod fifo;
pub mod gather;
pub mod idempotency;
pub mod ids;
pub mod job_id;
pub mod jobs;
pub mod lane;
pub mod ledger;
pub mod letter;
pub mod limit;
pub mod link;
pub mod machine;
pub mod outbox;
pub mod partition;
pub mod partitioner;
pub mod passages;
pub mod phases;
pub mod prefer;
pub mod rate;
pub mod record;
pub mod restart;
pub mod retry;
pub mod source;
pub mod sse;
pub mod stage;
pub mod supervisor;
pub mod time;
pub mod trial;
pub mod unexplained;
pub mod verdict;
pub mod watermark;
pub mod wire;
pub mod worker;
