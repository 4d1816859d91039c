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

mod embedded {
    use bulkhead_actors::io::embedded::{EmbeddedLog, EmbeddedOptions};
    use std::ops::Deref;

    /// A log and its directory, which goes with it.
    struct Kept {
        log: EmbeddedLog,
        _dir: tempfile::TempDir,
    }

    impl Deref for Kept {
        type Target = EmbeddedLog;
        fn deref(&self) -> &EmbeddedLog {
            &self.log
        }
    }

    fn make() -> Kept {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let log = EmbeddedLog::open(dir.path(), &EmbeddedOptions::default()).expect("it opens");
        Kept { log, _dir: dir }
    }

    log_contract!(make);
}
