//! How large records and batches may be, as the cluster's own configuration says. Never guesses where it can ask.

use super::Shared;
use crate::log::LogError;
use futures::executor::block_on;
use parking_lot::Mutex;
use rdkafka::admin::{AdminOptions, ConfigResource, OwnedResourceSpecifier, ResourceSpecifier};
use rdkafka::consumer::Consumer;
use rdkafka::error::RDKafkaErrorCode;
use std::collections::HashMap;
use std::sync::Arc;

/// librdkafka fills a batch up to this; less where a topic takes less (`notes/performance.md`: 16 KiB halves the rate).
const BATCH_BYTES: usize = 256 * 1024;
/// What a batch adds to a record: its own head (61 bytes) and, with room to spare, the record's lengths and counts.
const OVERHEAD_BYTES: usize = 512;
/// Kafka's default, taken where the cluster does not let us look.
pub(super) const DEFAULT_BYTES: usize = 1_048_588;

/// What is known of the cluster's limits.
#[derive(Debug, Default)]
pub(super) struct Limits {
    base: Mutex<Option<usize>>,
    topics: Mutex<HashMap<Arc<str>, usize>>,
}

impl Limits {
    /// The largest batch that librdkafka should build, with what is known now.
    pub(super) fn batch_bytes(&self) -> usize {
        let topics = self.topics.lock();
        let smallest = topics.values().copied().min().unwrap_or(BATCH_BYTES);
        // Below 1 KiB librdkafka would refuse the setting, and Kafka would refuse about any record.
        smallest.saturating_sub(OVERHEAD_BYTES).clamp(1024, BATCH_BYTES)
    }

    /// The topic's limit if it is known.
    pub(super) fn known(&self, topic: &str) -> Option<usize> {
        self.topics.lock().get(topic).copied()
    }

    /// Forgets the topic's limit: the broker said that it is another.
    pub(super) fn forget(&self, topic: &str) {
        self.topics.lock().remove(topic);
    }
}

/// The largest [`bulkhead_core::record::Record::size`] that fits a batch of this many bytes.
pub(super) const fn record_bytes(batch_bytes: usize) -> usize {
    batch_bytes.saturating_sub(OVERHEAD_BYTES)
}

/// The bytes of the batch that a record of this size needs.
pub(super) const fn batch_bytes(record_bytes: usize) -> usize {
    record_bytes.saturating_add(OVERHEAD_BYTES)
}

impl Shared {
    /// The brokers' own limit; asks once.
    pub(super) fn base_limit(&self) -> usize {
        if let Some(known) = *self.limits.base.lock() {
            return known;
        }
        match self.ask_base() {
            Ok(limit) => *self.limits.base.lock().insert(limit.min(self.client_limit())),
            Err(error) => {
                tracing::warn!(%error, "cannot ask for message.max.bytes; taking Kafka's default");
                DEFAULT_BYTES.min(self.client_limit())
            }
        }
    }

    /// A topic's limit; asks once.
    pub(super) fn topic_limit(&self, topic: &Arc<str>) -> Result<usize, LogError> {
        if let Some(known) = self.limits.known(topic) {
            return Ok(known);
        }
        self.learn_limits(&[topic.as_ref()])?;
        Ok(self.limits.known(topic).unwrap_or_else(|| self.base_limit()))
    }

    /// Asks for the limits of these topics, all in one request. A topic whose configuration may not be read is taken to
    /// have the brokers' limit.
    pub(super) fn learn_limits(&self, topics: &[&str]) -> Result<(), LogError> {
        let wanted: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        for resource in self.describe(&wanted)? {
            if let OwnedResourceSpecifier::Topic(name) = &resource.specifier
                && let Some(limit) = number(&resource, "max.message.bytes")
            {
                self.limits.topics.lock().insert(name.as_str().into(), limit.min(self.client_limit()));
            }
        }
        let base = self.base_limit();
        let mut known = self.limits.topics.lock();
        for topic in topics {
            known.entry((*topic).into()).or_insert(base);
        }
        Ok(())
    }

    fn ask_base(&self) -> Result<usize, LogError> {
        let probe = self.probe()?;
        let metadata = self.asked("metadata", probe.fetch_metadata(None, self.config.call_timeout))?;
        let broker = metadata.brokers().first().ok_or_else(|| LogError::Unavailable("no broker known".into()))?;
        let resources = self.describe(&[ResourceSpecifier::Broker(broker.id())])?;
        Ok(resources.first().and_then(|r| number(r, "message.max.bytes")).unwrap_or(DEFAULT_BYTES))
    }

    pub(super) fn describe(&self, wanted: &[ResourceSpecifier<'_>]) -> Result<Vec<ConfigResource>, LogError> {
        let admin = self.admin()?;
        let options = AdminOptions::new().request_timeout(Some(self.config.call_timeout));
        let answers = self.asked("describe configs", block_on(admin.describe_configs(wanted, &options)));
        self.disposal.drop_elsewhere("admin", admin);
        let mut resources = Vec::new();
        for answer in answers? {
            match answer {
                Ok(resource) => resources.push(resource),
                Err(RDKafkaErrorCode::UnknownTopicOrPartition) => {
                    return Err(LogError::Refused(format!("{wanted:?}: no such topic")));
                }
                Err(code) => tracing::warn!(%code, "kafka does not tell a configuration"),
            }
        }
        Ok(resources)
    }

    /// What librdkafka itself was told to allow.
    fn client_limit(&self) -> usize {
        let config = self.config.single(BATCH_BYTES, None);
        config.get("message.max.bytes").and_then(|text| text.parse().ok()).unwrap_or(DEFAULT_BYTES)
    }
}

fn number(resource: &ConfigResource, name: &str) -> Option<usize> {
    text(resource, name)?.parse().ok()
}

/// A setting's value.
pub(super) fn text<'a>(resource: &'a ConfigResource, name: &str) -> Option<&'a str> {
    resource.get(name)?.value.as_deref()
}
