//! The Kafka adapter on a real broker: the log's contract, what it leaves open, and DESIGN §6. Never asserts a speed.

#![allow(clippy::unwrap_used, reason = "a check that cannot go on has failed")]

mod backpressure;
mod commits;
#[macro_use]
#[path = "../contract/mod.rs"]
mod contract;
mod faults;
mod fencing;
mod harness;
mod limits;
mod membership;
mod proxy;
mod rebalance;

mod kept {
    use bulkhead_actors::log::Log;
    use bulkhead_testkit::kafka::Kafka;
    use std::sync::Arc;

    fn make() -> Arc<dyn Log> {
        Arc::new(crate::harness::log(Kafka::shared()))
    }

    log_contract!(make);
}
