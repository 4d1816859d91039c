//! Questions to the cluster and topic creation: everything that needs neither group nor producer. Never changes a topic
//! that exists.

use super::Shared;
use super::config::Isolation;
use super::errors::{code_error, log_error};
use super::events::Events;
use super::retention;
use crate::log::{Extent, LogError, TopicInfo, TopicSpec};
use bulkhead_core::ids::{Partition, Position};
use futures::executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How often a new topic's metadata is asked for until all its partitions have leaders.
const READY_POLL: Duration = Duration::from_millis(20);
/// Events that one question takes from the probe's queue with it, so that they cannot pile up there.
const EVENTS_MAX: usize = 32;

impl Shared {
    /// The client that asks questions; made at the first one.
    pub(super) fn probe(&self) -> Result<Arc<BaseConsumer<Events>>, LogError> {
        self.probe_as(Isolation::Committed)
    }

    fn probe_as(&self, isolation: Isolation) -> Result<Arc<BaseConsumer<Events>>, LogError> {
        let mut slot = match isolation {
            Isolation::Committed => self.probe.lock(),
            Isolation::Uncommitted => self.high_probe.lock(),
        };
        if let Some(probe) = &*slot {
            for _ in 0..EVENTS_MAX {
                if let Some(Err(error)) = probe.poll(Duration::ZERO) {
                    tracing::debug!(%error, "kafka probe");
                }
            }
            return Ok(Arc::clone(probe));
        }
        let probe = BaseConsumer::from_config_and_context(&self.config.probe(isolation), self.events("probe"));
        Ok(Arc::clone(slot.insert(Arc::new(probe.map_err(|e| log_error("create client", &e))?))))
    }

    /// A client for administration. Made for each use: rdkafka's does not take its log lines from its queue, so that a
    /// lasting one would collect them.
    pub(super) fn admin(&self) -> Result<AdminClient<Events>, LogError> {
        AdminClient::from_config_and_context(&self.config.probe(Isolation::Committed), self.events("admin"))
            .map_err(|e| log_error("create client", &e))
    }

    /// Turns a client's answer into ours; any answer of the cluster shows that it can be reached.
    pub(super) fn asked<T>(&self, doing: &str, answer: KafkaResult<T>) -> Result<T, LogError> {
        let answer = answer.map_err(|e| log_error(doing, &e));
        if !matches!(answer, Err(LogError::Unavailable(_))) {
            self.connectivity.up();
        }
        answer
    }

    pub(super) fn topic_info(&self, name: &str, wait: Duration) -> Result<Option<TopicInfo>, LogError> {
        let metadata = self.asked("metadata", self.probe()?.fetch_metadata(Some(name), wait))?;
        let Some(topic) = metadata.topics().iter().find(|t| t.name() == name) else { return Ok(None) };
        match topic.error().map(RDKafkaErrorCode::from) {
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(None),
            // Leaders are being elected: it exists all the same.
            None | Some(RDKafkaErrorCode::LeaderNotAvailable) => {
                let count = i32::try_from(topic.partitions().len())
                    .map_err(|e| LogError::Refused(format!("topic {name}: {e}")))?;
                Ok(Some(TopicInfo { partitions: count }))
            }
            Some(code) => Err(code_error(code, format!("topic {name}: {code}"))),
        }
    }

    pub(super) fn create(&self, specs: &[TopicSpec]) -> Result<(), LogError> {
        let mut missing = Vec::new();
        for spec in specs {
            if self.topic_info(&spec.name, self.config.call_timeout)?.is_none() {
                missing.push(spec);
            }
        }
        if !missing.is_empty() {
            self.create_missing(&missing)?;
        }
        let deadline = Instant::now() + self.config.call_timeout;
        for spec in specs {
            self.await_leaders(&spec.name, deadline)?;
        }
        let names: Vec<&str> = specs.iter().map(|s| s.name.as_str()).collect();
        if names.is_empty() { Ok(()) } else { self.learn_limits(&names) }
    }

    fn create_missing(&self, specs: &[&TopicSpec]) -> Result<(), LogError> {
        let retentions: Vec<_> =
            specs.iter().map(|spec| spec.retention.map(retention::settings).unwrap_or_default()).collect();
        let bytes_max = self.config.message_bytes_max().to_string();
        let topics: Vec<_> = specs
            .iter()
            .zip(&retentions)
            .map(|(spec, retention)| {
                let topic = NewTopic::new(&spec.name, spec.partitions, TopicReplication::Fixed(spec.replicas));
                // Brokers take 1 MiB where nothing is said.
                let topic = topic.set("max.message.bytes", &bytes_max);
                retention.iter().fold(topic, |topic, (key, value)| topic.set(key, value))
            })
            .collect();
        let wait = Some(self.config.call_timeout);
        let options = AdminOptions::new().request_timeout(wait).operation_timeout(wait);
        let admin = self.admin()?;
        let answers = self.asked("create topics", block_on(admin.create_topics(&topics, &options)));
        self.disposal.drop_elsewhere("admin", admin);
        for answer in answers? {
            match answer {
                // Another daemon was faster.
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, code)) => return Err(code_error(code, format!("create topic {name}: {code}"))),
            }
        }
        Ok(())
    }

    fn await_leaders(&self, name: &str, deadline: Instant) -> Result<(), LogError> {
        let probe = self.probe()?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let metadata = self.asked("metadata", probe.fetch_metadata(Some(name), left.max(READY_POLL)))?;
            let ready = metadata.topics().iter().any(|topic| {
                topic.error().is_none()
                    && !topic.partitions().is_empty()
                    && topic.partitions().iter().all(|p| p.error().is_none() && p.leader() >= 0)
            });
            if ready {
                return Ok(());
            }
            if left.is_zero() {
                return Err(LogError::Unavailable(format!("topic {name} has no leaders yet")));
            }
            thread::sleep(READY_POLL);
        }
    }

    /// Where a partition's records of this kind begin and end.
    pub(super) fn extent_of(&self, topic: &str, partition: Partition, which: Isolation) -> Result<Extent, LogError> {
        let doing = format!("extent of {topic}/{partition}");
        let probe = self.probe_as(which)?;
        let answer = probe.fetch_watermarks(topic, partition.0, self.config.call_timeout);
        let answer = self.asked(&doing, answer);
        if matches!(answer, Err(LogError::Unavailable(_))) {
            self.forget_probe(which, &probe);
        }
        let (start, end) = answer?;
        Ok(Extent { start: Position(start), end: Position(end) })
    }

    /// A client without a subscription asks whom it knew as leader, for as long as it lives: where that broker is dead, only
    /// a new client finds the next one.
    fn forget_probe(&self, isolation: Isolation, old: &Arc<BaseConsumer<Events>>) {
        let mut slot = match isolation {
            Isolation::Committed => self.probe.lock(),
            Isolation::Uncommitted => self.high_probe.lock(),
        };
        if let Some(known) = slot.take_if(|known| Arc::ptr_eq(known, old)) {
            self.disposal.drop_elsewhere("probe", known);
        }
    }

    pub(super) fn committed_by(
        &self,
        group: &str,
        topic: &str,
        partitions: &[Partition],
        wait: Duration,
    ) -> Result<Vec<Option<Position>>, LogError> {
        let events = self.events("positions");
        let client = BaseConsumer::from_config_and_context(&self.config.positions(group), events)
            .map_err(|e| log_error("create client", &e))?;
        let answer = client.committed_offsets(partition_list(topic, partitions), wait);
        self.disposal.drop_elsewhere("positions", client);
        let answer = self.asked(&format!("positions of group {group}"), answer)?;
        positions(&answer, topic, partitions).map_err(|e| log_error(&format!("positions of group {group}"), &e))
    }
}

/// These partitions, without positions.
pub(super) fn partition_list(topic: &str, partitions: &[Partition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        list.add_partition(topic, partition.0);
    }
    list
}

/// These positions.
pub(super) fn position_list(topic: &str, positions: &[(Partition, Position)]) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(positions.len());
    for (partition, position) in positions {
        list.add_partition_offset(topic, partition.0, Offset::Offset(position.0))?;
    }
    Ok(list)
}

/// The positions in an answer, in the order of `partitions`.
pub(super) fn positions(
    answer: &TopicPartitionList,
    topic: &str,
    partitions: &[Partition],
) -> KafkaResult<Vec<Option<Position>>> {
    let mut found = Vec::with_capacity(partitions.len());
    for partition in partitions {
        found.push(match answer.find_partition(topic, partition.0) {
            Some(element) => {
                element.error()?;
                match element.offset() {
                    Offset::Offset(at) => Some(Position(at)),
                    _ => None,
                }
            }
            None => None,
        });
    }
    Ok(found)
}
