//! The log port's contract, held by the adapters that need nothing but this process. Kafka's is held by its own test file.

#[macro_use]
mod contract;

mod memory {
    use bulkhead_actors::io::memory::{MemoryLog, MemoryOptions};
    use bulkhead_actors::log::Log;
    use std::sync::Arc;

    fn make() -> Arc<dyn Log> {
        MemoryLog::open(&MemoryOptions::default()).expect("a log in memory opens").0
    }

    log_contract!(make);
}
