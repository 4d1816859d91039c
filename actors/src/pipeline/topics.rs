//! Holds a pipeline's topics against what it was built for. Never changes a topic that exists.

use super::slots::Slots;
use crate::log::LogError;

impl Slots {
    /// Creates the topics that do not exist; blocks.
    pub(crate) fn create_topics(&self) -> Result<(), LogError> {
        let topics: Vec<_> = self.spec.topics.iter().map(|topic| topic.spec.clone()).collect();
        self.log.create_topics(&topics)?;
        self.report_retentions()?;
        self.check_topics()
    }

    /// Says which topics keep their records longer or shorter than the pipeline was built for: nothing rests on that, and
    /// somebody may have meant it.
    fn report_retentions(&self) -> Result<(), LogError> {
        for topic in self.spec.topics.iter().map(|topic| &topic.spec) {
            let Some(wanted) = topic.retention else { continue };
            let found = self.log.retention(&topic.name)?;
            if found != Some(wanted) {
                tracing::warn!(
                    pipeline = %self.spec.name, topic = %topic.name, ?found, ?wanted,
                    "this topic keeps its records for another time than the config says; left as it is \
                     (`bulkhead topics --apply` changes it)"
                );
            }
        }
        Ok(())
    }

    /// Stops the pipeline where a topic has not the partitions that it needs, and lets it go on once that is mended. Blocks.
    pub(crate) fn check_topics(&self) -> Result<(), LogError> {
        let mut wrong = None;
        for topic in &self.spec.topics {
            let name = &topic.spec.name;
            let why = match self.log.topic(name)? {
                Some(info) => topic.mismatch(info.partitions),
                None => Some("does not exist".to_owned()),
            };
            if let Some(why) = why {
                let output = self.spec.outputs.iter().find(|(_, output)| *output.topic == **name);
                let key = output.map_or("source".to_owned(), |(name, _)| format!("outputs.{name}"));
                wrong = Some(format!("topic {name} {why} ({key}.partitions)"));
            }
        }
        let mut mismatch = self.mismatch.lock();
        if *mismatch != wrong {
            match &wrong {
                Some(why) => tracing::error!(pipeline = %self.spec.name, why, "pipeline stopped"),
                None => tracing::info!(pipeline = %self.spec.name, "the topics are right again"),
            }
            *mismatch = wrong;
        }
        Ok(())
    }
}
