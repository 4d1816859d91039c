//! What keeps records from coming in, as the monitor saw it last. Never asks the log.

use super::monitor::Seen;
use crate::config::Pipeline;
use crate::gateway::admission::{Pressure, Refusal};
use bulkhead_core::ids::Partition;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// See the module.
pub(super) struct LastSeen {
    seen: Arc<Mutex<Seen>>,
    backlogs: HashMap<String, Mutex<Backlog>>,
}

/// The records of one pipeline that wait in its source topic.
#[derive(Debug)]
struct Backlog {
    records: u64,
    records_max: u64,
    partitions: u64,
}

impl LastSeen {
    /// Nothing waits yet.
    pub(super) fn new(seen: Arc<Mutex<Seen>>, pipelines: &[Pipeline]) -> Self {
        let backlog = |pipeline: &Pipeline| Backlog {
            records: 0,
            records_max: pipeline.source.backlog_max,
            partitions: u64::try_from(pipeline.source.partitions).unwrap_or(0),
        };
        let backlogs = pipelines.iter().map(|pipeline| (pipeline.name.0.clone(), Mutex::new(backlog(pipeline))));
        Self { seen, backlogs: backlogs.collect() }
    }

    /// Takes the lag of the partitions that this daemon works on; the others are taken to be as far behind.
    pub(super) fn note(&self, pipeline: &str, lags: &[(Partition, i64)]) {
        let Some(backlog) = self.backlogs.get(pipeline) else { return };
        let sum: u64 = lags.iter().map(|(_, lag)| u64::try_from(*lag).unwrap_or(0)).sum();
        let mut backlog = backlog.lock();
        // No partition, no opinion.
        let mean = |count: u64| u128::from(sum) * u128::from(backlog.partitions) / u128::from(count);
        let records = u64::try_from(lags.len()).ok().filter(|count| *count > 0).map_or(0, mean);
        backlog.records = u64::try_from(records).unwrap_or(u64::MAX);
    }
}

impl Pressure for LastSeen {
    fn refuses(&self, pipeline: &str) -> Option<Refusal> {
        if self.seen.lock().log.is_some() {
            return Some(Refusal::LogAway);
        }
        let Backlog { records, records_max, .. } = *self.backlogs.get(pipeline)?.lock();
        (records > records_max).then_some(Refusal::Backlog { records, records_max })
    }
}
