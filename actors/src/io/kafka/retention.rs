//! How long a topic keeps its records: asked, and changed where somebody asks for it. Never touches another setting of the
//! topic.

use super::Shared;
use super::errors::code_error;
use super::limits::text;
use crate::log::LogError;
use futures::executor::block_on;
use rdkafka::admin::{AdminOptions, AlterConfig, ConfigResource, ConfigSource, ResourceSpecifier};
use std::collections::BTreeMap;
use std::time::Duration;

const RETENTION: &str = "retention.ms";
/// A segment is deleted whole, so one that is filled for longer than its records are kept keeps them longer.
const SEGMENT: &str = "segment.ms";
/// Shorter ones would be many files.
const SEGMENT_MIN: Duration = Duration::from_secs(60);
/// Kafka's own default is seven days; only topics with less are given one of their own.
const SEGMENT_DEFAULT: Duration = Duration::from_secs(7 * 24 * 3_600);

/// The settings that make a topic keep its records so long, and little longer: deletion itself is the brokers' turn
/// (`log.retention.check.interval.ms`, 5 minutes).
pub(super) fn settings(retention: Duration) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::from([(RETENTION.to_owned(), retention.as_millis().to_string())]);
    if retention < SEGMENT_DEFAULT {
        settings.insert(SEGMENT.to_owned(), retention.max(SEGMENT_MIN).as_millis().to_string());
    }
    settings
}

impl Shared {
    pub(super) fn retention_of(&self, topic: &str) -> Result<Option<Duration>, LogError> {
        let resource = self.topic_settings(topic)?;
        let told = text(&resource, RETENTION).and_then(|text| text.parse::<i64>().ok());
        // -1 is for ever.
        Ok(told.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis))
    }

    /// The request that this client has replaces all of a topic's settings: those that it has are sent along.
    pub(super) fn keep_for(&self, topic: &str, retention: Duration) -> Result<(), LogError> {
        let resource = self.topic_settings(topic)?;
        let own = resource.entries.iter().filter(|entry| entry.source == ConfigSource::DynamicTopic);
        let mut all: BTreeMap<_, _> =
            own.filter_map(|entry| Some((entry.name.clone(), entry.value.clone()?))).collect();
        all.extend(settings(retention));
        let change = all.iter().fold(AlterConfig::new(ResourceSpecifier::Topic(topic)), |c, (k, v)| c.set(k, v));
        let options = AdminOptions::new().request_timeout(Some(self.config.call_timeout));
        let admin = self.admin()?;
        let answers = self.asked("alter configs", block_on(admin.alter_configs([&change], &options)));
        self.disposal.drop_elsewhere("admin", admin);
        for answer in answers? {
            answer.map_err(|(_, code)| code_error(code, format!("retention of topic {topic}: {code}")))?;
        }
        Ok(())
    }

    /// Every topic has a retention: one without is not there, which this client tells neither here nor where it is asked to
    /// change it (librdkafka 2.12 on Kafka 4.1: no settings, and no error).
    fn topic_settings(&self, topic: &str) -> Result<ConfigResource, LogError> {
        let resource = self.describe(&[ResourceSpecifier::Topic(topic)])?.pop();
        let told = resource.filter(|resource| text(resource, RETENTION).is_some_and(|ms| ms.parse::<i64>().is_ok()));
        told.ok_or_else(|| LogError::Refused(format!("topic {topic}: no such topic, or its settings are not told")))
    }
}
