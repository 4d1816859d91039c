//! Holds a pipeline's topics against what it was built for. Never changes a topic that exists.

use super::slots::Slots;
use crate::log::LogError;

impl Slots {
    /// Creates the topics that do not exist; blocks.
    pub(crate) fn create_topics(&self) -> Result<(), LogError> {
        self.log.create_topics(&self.spec.topics)?;
        self.report_retentions()?;
        self.check_topics()
    }

    /// Says which topics keep their records longer or shorter than the pipeline was built for: nothing rests on that, and
    /// somebody may have meant it.
    fn report_retentions(&self) -> Result<(), LogError> {
        for topic in &self.spec.topics {
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

    /// Stops the pipeline where a topic has another number of partitions than it was built for, and lets it go on once
    /// that is mended: order and dedupe rest on that number. Blocks.
    pub(crate) fn check_topics(&self) -> Result<(), LogError> {
        let mut wrong = None;
        for topic in &self.spec.topics {
            let found = self.log.topic(&topic.name)?.map(|info| info.partitions);
            if found != Some(topic.partitions) {
                let found =
                    found.map_or_else(|| "does not exist".to_owned(), |found| format!("has {found} partitions"));
                let output = self.spec.outputs.iter().find(|(_, output)| *output.topic == *topic.name);
                let key = output.map_or("source".to_owned(), |(name, _)| format!("outputs.{name}"));
                wrong = Some(format!(
                    "topic {} {found}, the config says {} ({key}.partitions)",
                    topic.name, topic.partitions
                ));
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
