//! The chat as a whole: the shipped pipeline on both logs, by HTTP and by socket, with a model and without, with Redis and
//! without; what it keeps through kills, and what it refuses by name.

mod conversation;
mod fifo;
mod keys;
#[allow(dead_code, reason = "the unit tests of the step use the rest")]
mod openai;
mod page;
mod refusals;
mod rig;
mod socket;
mod sockets;
mod stores;
