//! A log inside the process: groups, transactions, readers and producers over a [`store::Store`]. Never names a store.

mod broker;
mod catalog;
mod group;
mod membership;
mod producer;
mod publisher;
mod queue;
mod reader;
pub(super) mod store;
#[cfg(test)]
mod tests;

use crate::log::{
    AssignmentListener, Extent, Group, GroupSpec, Log, LogError, Producer, Reader, Tail, TopicInfo, TopicSpec,
};
use broker::{Broker, Limits};
use bulkhead_core::ids::{Partition, Position};
use bulkhead_core::time::WallMs;
use group::LocalGroup;
use producer::LocalProducer;
use queue::{Queue, QueueLimits};
use reader::LocalReader;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use store::{GroupKey, Store};

/// What a log inside the process may use.
#[derive(Clone, Debug)]
pub(super) struct LocalOptions {
    /// What people know the store by, to be said in errors.
    pub(super) name: String,
    pub(super) record_bytes_max: usize,
    pub(super) read_bytes_max: usize,
    pub(super) transaction_bytes_max: usize,
    /// How long a store that failed is left alone before it is opened again.
    pub(super) reopen_after: Duration,
    /// A thread that gathers writes; without it each caller writes for itself.
    pub(super) writer: Option<WriterOptions>,
}

/// What the writing thread may use.
#[derive(Clone, Debug)]
pub(super) struct WriterOptions {
    pub(super) waiting_max: usize,
    pub(super) waiting_bytes_max: usize,
    pub(super) retain_every: Duration,
}

/// The log; closed when it is dropped, whoever still holds a group, publisher, producer or reader of it.
pub(super) struct LocalLog {
    broker: Arc<Broker>,
    writer: Option<JoinHandle<()>>,
}

impl LocalLog {
    pub(super) fn open(
        opener: impl Fn() -> Result<Box<dyn Store>, LogError> + Send + Sync + 'static,
        options: &LocalOptions,
    ) -> Result<Self, LogError> {
        let limits = Limits {
            record_bytes_max: options.record_bytes_max,
            read_bytes_max: options.read_bytes_max,
            transaction_bytes_max: options.transaction_bytes_max,
            reopen_after: options.reopen_after,
        };
        let queue = options
            .writer
            .as_ref()
            .map(|writer| Queue::new(QueueLimits { requests: writer.waiting_max, bytes: writer.waiting_bytes_max }));
        let broker = Arc::new(Broker::open(options.name.clone(), Box::new(opener), queue, limits, wall_clock)?);
        let spawn = |writer: &WriterOptions| queue::spawn_writer(broker.clone(), writer.retain_every);
        let writer = options.writer.as_ref().map(spawn).transpose();
        let writer = writer.map_err(|e| LogError::Unavailable(format!("no thread for the log's writer: {e}")))?;
        Ok(Self { broker, writer })
    }

    /// Deletes what is past its topic's retention at `now`, a bounded part of it; whether there may be more.
    pub(super) fn retain(&self, now: WallMs) -> Result<bool, LogError> {
        self.broker.retain(now)
    }
}

impl Drop for LocalLog {
    fn drop(&mut self) {
        if let Some(queue) = &self.broker.queue {
            queue.close();
        }
        if self.writer.take().is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the log's writing thread had panicked");
        }
        self.broker.close();
    }
}

fn wall_clock() -> WallMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

impl Log for LocalLog {
    fn join(&self, spec: &GroupSpec, listener: Arc<dyn AssignmentListener>) -> Result<Arc<dyn Group>, LogError> {
        Ok(Arc::new(LocalGroup::join(self.broker.clone(), spec, listener)?))
    }

    fn producer(&self) -> Result<Arc<dyn Producer>, LogError> {
        Ok(Arc::new(LocalProducer { broker: self.broker.clone() }))
    }

    fn reader(&self, tails: &[Tail]) -> Result<Box<dyn Reader>, LogError> {
        Ok(Box::new(LocalReader::new(self.broker.clone(), tails)?))
    }

    fn topic(&self, name: &str) -> Result<Option<TopicInfo>, LogError> {
        Ok(self.broker.catalog().find(name).map(|topic| TopicInfo { partitions: topic.meta.partitions }))
    }

    fn create_topics(&self, specs: &[TopicSpec]) -> Result<(), LogError> {
        self.broker.create_topics(specs)
    }

    fn retention(&self, topic: &str) -> Result<Option<Duration>, LogError> {
        Ok(self.broker.catalog().topic(topic)?.meta.retention)
    }

    fn set_retention(&self, topic: &str, retention: Duration) -> Result<(), LogError> {
        self.broker.set_retention(topic, retention)
    }

    fn extent(&self, topic: &str, partition: Partition) -> Result<Extent, LogError> {
        let catalog = self.broker.catalog();
        let span = catalog.span(catalog.slot(topic, partition)?);
        Ok(Extent { start: Position(span.start), end: Position(span.end) })
    }

    fn committed(
        &self,
        group: &str,
        topic: &str,
        partitions: &[Partition],
        wait: Duration,
    ) -> Result<Vec<Option<Position>>, LogError> {
        publisher::committed(&self.broker, &GroupKey { group: group.into(), topic: topic.into() }, partitions, wait)
    }

    fn ping(&self, _wait: Duration) -> Result<(), LogError> {
        self.broker.check()
    }
}
