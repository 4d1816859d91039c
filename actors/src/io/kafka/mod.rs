//! The log port on Apache Kafka, by librdkafka (rdkafka). The rules that make it exactly-once are DESIGN §6, each
//! beside the code that keeps it. Never coordinates daemons by itself: groups, transactions and partitions are Kafka's.

mod acked;
mod admin;
mod config;
mod disposal;
mod errors;
mod events;
mod group;
mod limits;
mod member;
mod membership;
mod producer;
mod reader;
mod retention;
mod sender;
mod transaction;
mod wire;

pub use config::{KafkaConfig, Membership, owned_properties, refused};

use crate::log::{
    AssignmentListener, Extent, Group, GroupSpec, Log, LogError, Producer, PublishError, Reader, Tail, TopicInfo,
    TopicSpec,
};
use bulkhead_core::ids::{Partition, Position};
use config::Isolation;
use disposal::Disposal;
use events::{Connectivity, Events};
use limits::Limits;
use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer};
use sender::{Batching, IdleProducers};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A Kafka cluster as a log.
pub struct KafkaLog {
    shared: Arc<Shared>,
}

/// What all clients of one log share.
struct Shared {
    config: KafkaConfig,
    connectivity: Arc<Connectivity>,
    disposal: Arc<Disposal>,
    limits: Limits,
    probe: Mutex<Option<Arc<BaseConsumer<Events>>>>,
    /// Sees where partitions end for those who read everything.
    high_probe: Mutex<Option<Arc<BaseConsumer<Events>>>>,
    idle: Mutex<IdleProducers>,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    callback_panics: AtomicU64,
    failed_assigns: AtomicU64,
    rebuilds: AtomicU64,
    strays: AtomicU64,
    unreadable_headers: AtomicU64,
}

/// What has happened inside the adapter so far. All but the last two only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KafkaStats {
    /// Rebalance callbacks that panicked; the rebalances went on.
    pub callback_panics_total: u64,
    /// Assignments that librdkafka did not take.
    pub failed_assigns_total: u64,
    /// Publishers' producers that were built, the first ones among them.
    pub producers_built_total: u64,
    /// Records that came by the main queue instead of their partition's (measured: none).
    pub stray_records_total: u64,
    /// Headers left out because their name is not UTF-8.
    pub unreadable_headers_total: u64,
    /// How often the last broker was lost.
    pub disconnects_total: u64,
    /// Clients whose drop takes or took longer than a healthy one's ever does; each holds some threads. Past a few, the
    /// process should be restarted.
    pub client_drop_stuck_total: u64,
    /// Clients that are being dropped now.
    pub client_drops_pending: usize,
    /// For how long no broker has been reachable, `None` while one is.
    pub down_for: Option<Duration>,
}

impl KafkaLog {
    /// For a cluster, which is not asked anything yet.
    ///
    /// # Errors
    /// `Refused`, naming every property that the daemon owns, librdkafka does not know, or has a value it does not
    /// take.
    pub fn new(config: KafkaConfig) -> Result<Self, LogError> {
        config.check()?;
        let shared = Shared {
            config,
            connectivity: Arc::default(),
            disposal: Arc::default(),
            limits: Limits::default(),
            probe: Mutex::default(),
            high_probe: Mutex::default(),
            idle: Mutex::default(),
            counters: Counters::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What has happened inside the adapter so far.
    #[must_use]
    pub fn stats(&self) -> KafkaStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Shared { counters, connectivity, disposal, .. } = &*self.shared;
        KafkaStats {
            callback_panics_total: read(&counters.callback_panics),
            failed_assigns_total: read(&counters.failed_assigns),
            producers_built_total: read(&counters.rebuilds),
            stray_records_total: read(&counters.strays),
            unreadable_headers_total: read(&counters.unreadable_headers),
            disconnects_total: connectivity.downs(),
            client_drop_stuck_total: disposal.stuck_total(),
            client_drops_pending: disposal.pending(),
            down_for: connectivity.down_for(),
        }
    }

    /// Initialises the transactional ids of lanes that the configuration no longer has, once at start: what they left
    /// open is aborted now, not after the transaction timeout, and nothing of theirs can be committed any more.
    ///
    /// # Errors
    /// As of any call; the ids before the one that failed are done.
    pub fn fence_leftovers(&self, group: &str, instance: &str, lanes: Range<u32>) -> Result<(), LogError> {
        for lane in lanes {
            let id = transactional_id(group, instance, lane);
            match transaction::ready(&self.shared, &id, &Batching::default()) {
                Ok(sender) => sender.retire(),
                Err(PublishError::Fatal(why)) => return Err(LogError::Refused(format!("fence {id}: {why}"))),
                Err(error) => return Err(LogError::Unavailable(format!("fence {id}: {error}"))),
            }
        }
        Ok(())
    }
}

/// Stable, so that the next incarnation fences the one before it (DESIGN §6, rule 3).
fn transactional_id(group: &str, instance: &str, lane: u32) -> String {
    format!("{group}.{instance}.{lane}")
}

impl Shared {
    fn events(&self, client: &str) -> Events {
        Events::new(client, Arc::clone(&self.connectivity))
    }
}

impl Log for KafkaLog {
    fn join(&self, spec: &GroupSpec, listener: Arc<dyn AssignmentListener>) -> Result<Arc<dyn Group>, LogError> {
        Ok(Arc::new(group::KafkaGroup::join(Arc::clone(&self.shared), spec.clone(), listener)?))
    }

    fn producer(&self) -> Result<Arc<dyn Producer>, LogError> {
        Ok(Arc::new(producer::KafkaProducer::new(Arc::clone(&self.shared), Some(self.shared.config.send_timeout))?))
    }

    fn patient_producer(&self) -> Result<Arc<dyn Producer>, LogError> {
        Ok(Arc::new(producer::KafkaProducer::new(Arc::clone(&self.shared), None)?))
    }

    fn reader(&self, tails: &[Tail]) -> Result<Box<dyn Reader>, LogError> {
        Ok(Box::new(reader::KafkaReader::new(Arc::clone(&self.shared), tails)?))
    }

    fn topic(&self, name: &str) -> Result<Option<TopicInfo>, LogError> {
        self.shared.topic_info(name, self.shared.config.call_timeout)
    }

    fn record_bytes_max(&self, topic: &str) -> Result<usize, LogError> {
        Ok(limits::record_bytes(self.shared.topic_limit(&topic.into())?))
    }

    fn create_topics(&self, specs: &[TopicSpec]) -> Result<(), LogError> {
        self.shared.create(specs)
    }

    fn retention(&self, topic: &str) -> Result<Option<Duration>, LogError> {
        self.shared.retention_of(topic)
    }

    fn set_retention(&self, topic: &str, retention: Duration) -> Result<(), LogError> {
        self.shared.keep_for(topic, retention)
    }

    fn extent(&self, topic: &str, partition: Partition) -> Result<Extent, LogError> {
        self.shared.extent_of(topic, partition, Isolation::Committed)
    }

    fn committed(
        &self,
        group: &str,
        topic: &str,
        partitions: &[Partition],
        wait: Duration,
    ) -> Result<Vec<Option<Position>>, LogError> {
        self.shared.committed_by(group, topic, partitions, wait)
    }

    fn ping(&self, wait: Duration) -> Result<(), LogError> {
        let answer = self.shared.probe()?.fetch_metadata(None, wait);
        let why = match self.shared.asked("ping", answer) {
            Err(LogError::Unavailable(why)) => why,
            other => {
                self.shared.connectivity.welcomed();
                return other.map(|_| ());
            }
        };
        // What the client was told meanwhile is heard when it is looked at again.
        drop(self.shared.probe()?);
        Err(LogError::Unavailable(match self.shared.connectivity.refused() {
            Some(reason) => format!("{why}; {reason}"),
            None => why,
        }))
    }
}
