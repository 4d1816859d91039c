//! Which output a record goes to, as what, and whether the output takes it. Never publishes it.

use super::spec::PipelineSpec;
use crate::log::{Outgoing, Publisher};
use bulkhead_core::batch::Outcome;
use bulkhead_core::ledger::KeySource;
use bulkhead_core::record::{Record, output_of, without_output};
use bulkhead_core::time::WallMs;
use std::sync::Arc;

impl PipelineSpec {
    /// The record as it is published to the output that a step sent it to, else to the pipeline's own; nothing where there is
    /// none.
    pub(crate) fn outgoing(&self, record: &Record, wall: WallMs) -> Option<Outgoing> {
        let output = output_of(record).map_or(self.output.as_ref(), |name| self.outputs.get(name))?;
        // A result's time is when it came to be; its source's is in the source.
        let mut record = Record { timestamp: wall, ..without_output(record.clone()) };
        if let KeySource::Header(name) = &output.key {
            record.key = record.header(name).cloned();
        }
        Some(Outgoing { topic: Arc::clone(&output.topic), partition: None, record })
    }

    /// Why an output does not take what a record became, where one does not. The pipeline's own takes `bytes_max`.
    pub(crate) fn unfit(&self, outcome: &Outcome, bytes_max: usize, publisher: &dyn Publisher) -> Option<String> {
        let Outcome::Emitted(records) = outcome else { return None };
        records.iter().find_map(|record| {
            let bytes_max = match output_of(record) {
                None => bytes_max,
                Some(name) => match self.outputs.get(name) {
                    Some(output) => publisher.record_bytes_max(&output.topic),
                    None => return Some(format!("a step sent it to the output {name}, which is not there")),
                },
            };
            let size = record.size();
            (size > bytes_max).then(|| format!("the result has {size} bytes, the log takes {bytes_max}"))
        })
    }
}
