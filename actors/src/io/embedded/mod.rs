//! A log inside the daemon, on one machine: durable topics, positions and transactions in a directory of their own.
//! Never answers a write before it is on the disk, and never shares its directory.

mod codec;
mod directory;
mod integrity;
mod keys;
pub(crate) mod parcels;
mod store;
mod values;

use super::local::{LocalLog, LocalOptions, WriterOptions};
use crate::log::{
    AssignmentListener, Extent, Group, GroupSpec, Log, LogError, Producer, Reader, Tail, TopicInfo, TopicSpec,
};
use bulkhead_core::ids::{Partition, Position};
use bulkhead_core::time::WallMs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use store::FjallStore;
pub use values::{ValueLimits, ValueStore};

/// What an embedded log may use.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// The largest record, in the bytes of `Record::size`. Kafka's `max.message.bytes` is 1 MiB too.
    pub record_bytes_max: usize,
    /// How many bytes one read of one partition takes at most, but for its first record.
    pub read_bytes_max: usize,
    /// How many bytes one transaction may have: it is held in memory until it is committed.
    pub transaction_bytes_max: usize,
    /// How many sends may wait for the disk at most; more are `Unavailable`.
    pub waiting_max: usize,
    /// How many bytes may wait for the disk at most.
    pub waiting_bytes_max: usize,
    /// How often records past their topic's retention are looked for.
    pub retain_every: Duration,
    /// Memory for blocks that were read.
    pub cache_bytes: u64,
    /// Memory for records that are in the journal only; up to five times as much while the disk cannot keep up.
    pub memtable_bytes: u64,
    /// Disk space of the journals, at least 64 MiB.
    pub journal_bytes: u64,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        Self {
            record_bytes_max: MIB,
            read_bytes_max: 4 * MIB,
            transaction_bytes_max: 256 * MIB,
            waiting_max: 16_384,
            waiting_bytes_max: 64 * MIB,
            retain_every: Duration::from_secs(30),
            cache_bytes: 16 * 1024 * 1024,
            memtable_bytes: 16 * 1024 * 1024,
            journal_bytes: 64 * 1024 * 1024,
        }
    }
}

/// A log in a directory; closed when it is dropped, whoever still holds a client of it.
pub struct EmbeddedLog(LocalLog);

impl EmbeddedLog {
    /// Opens the log in `dir`, or makes it there.
    ///
    /// # Errors
    /// `Refused` where another process holds the directory, it cannot be written, or the log is damaged;
    /// `Unavailable` where there is no room. Each names the directory.
    pub fn open(dir: impl AsRef<Path>, options: &EmbeddedOptions) -> Result<Self, LogError> {
        let dir = dir.as_ref().to_owned();
        let local = LocalOptions {
            name: format!("the log in {}", dir.display()),
            record_bytes_max: options.record_bytes_max,
            read_bytes_max: options.read_bytes_max,
            transaction_bytes_max: options.transaction_bytes_max,
            reopen_after: Duration::from_secs(1),
            writer: Some(WriterOptions {
                waiting_max: options.waiting_max,
                waiting_bytes_max: options.waiting_bytes_max,
                retain_every: options.retain_every,
            }),
        };
        let options = options.clone();
        Ok(Self(LocalLog::open(move || Ok(Box::new(FjallStore::open(&dir, &options)?)), &local)?))
    }

    /// Deletes what is past its topic's retention at `now`, 2,000 records a partition at most. The log does this by
    /// itself; whether there may be more.
    ///
    /// # Errors
    /// What the store failed with.
    pub fn retain(&self, now: WallMs) -> Result<bool, LogError> {
        self.0.retain(now)
    }
}

impl Log for EmbeddedLog {
    fn join(&self, spec: &GroupSpec, listener: Arc<dyn AssignmentListener>) -> Result<Arc<dyn Group>, LogError> {
        self.0.join(spec, listener)
    }

    fn producer(&self) -> Result<Arc<dyn Producer>, LogError> {
        self.0.producer()
    }

    fn reader(&self, tails: &[Tail]) -> Result<Box<dyn Reader>, LogError> {
        self.0.reader(tails)
    }

    fn topic(&self, name: &str) -> Result<Option<TopicInfo>, LogError> {
        self.0.topic(name)
    }

    fn create_topics(&self, specs: &[TopicSpec]) -> Result<(), LogError> {
        self.0.create_topics(specs)
    }

    fn retention(&self, topic: &str) -> Result<Option<Duration>, LogError> {
        self.0.retention(topic)
    }

    fn set_retention(&self, topic: &str, retention: Duration) -> Result<(), LogError> {
        self.0.set_retention(topic, retention)
    }

    fn extent(&self, topic: &str, partition: Partition) -> Result<Extent, LogError> {
        self.0.extent(topic, partition)
    }

    fn committed(
        &self,
        group: &str,
        topic: &str,
        partitions: &[Partition],
        wait: Duration,
    ) -> Result<Vec<Option<Position>>, LogError> {
        self.0.committed(group, topic, partitions, wait)
    }

    fn ping(&self, wait: Duration) -> Result<(), LogError> {
        self.0.ping(wait)
    }
}
