//! A log in memory for simulations and actor tests, with faults on demand. In no release, and it never keeps anything.

mod faults;
mod faulty_group;
mod store;

pub use faults::{CommitFault, Faults, FaultyLog, Held, Moment, Rates};

use super::local::{LocalLog, LocalOptions};
use crate::log::LogError;
use std::sync::Arc;
use std::time::Duration;
pub(super) use store::MemoryStore;

/// What a memory log may use.
#[derive(Clone, Debug)]
pub struct MemoryOptions {
    /// The largest record it takes, in the bytes of `Record::size`.
    pub record_bytes_max: usize,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self { record_bytes_max: 1024 * 1024 }
    }
}

/// A log in memory.
pub struct MemoryLog;

impl MemoryLog {
    /// An empty log, and the handle that hurts it. Writes happen on the caller's thread: a send is answered when its
    /// future is made, so a paused clock does not run ahead of it.
    ///
    /// # Errors
    /// None that is known; opening is the same code as for logs that can fail.
    pub fn open(options: &MemoryOptions) -> Result<(Arc<FaultyLog>, Faults), LogError> {
        let options = LocalOptions {
            name: "the log in memory".to_owned(),
            record_bytes_max: options.record_bytes_max,
            read_bytes_max: 16 * 1024 * 1024,
            transaction_bytes_max: 256 * 1024 * 1024,
            reopen_after: Duration::ZERO,
            writer: None,
        };
        let store = MemoryStore::default();
        let log = LocalLog::open(move || Ok(Box::new(store.clone())), &options)?;
        let faults = Faults::default();
        Ok((Arc::new(FaultyLog::new(Arc::new(log), faults.clone())), faults))
    }
}
