//! What the admin port tells, gathered from the tree, the pipelines and the monitor. Never blocks and never guesses.

use super::monitor::Seen;
use crate::admin::source::{AdminSource, PartitionProgress, Status};
use crate::gateway::chat::Chats;
use crate::steps::chaos;
use bulkhead_actors::outbox::Outbox;
use bulkhead_actors::pipeline::Pipeline;
use bulkhead_actors::results::JobStore;
use bulkhead_actors::supervisor::RootHandle;
use parking_lot::Mutex;
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// How old the tree's last sign of life may be.
const LIVE: Duration = Duration::from_secs(5);
/// What a batch that is between stages may take: a lane's commit with its retries, a ledger's reading.
const BETWEEN_STAGES: Duration = Duration::from_secs(15);

/// See the module.
pub(super) struct Health {
    pub(super) root: Arc<OnceLock<RootHandle>>,
    pub(super) pipelines: Arc<[Pipeline]>,
    pub(super) outbox: Option<Arc<Outbox>>,
    pub(super) chats: Arc<Chats>,
    pub(super) jobs: Arc<JobStore>,
    pub(super) seen: Arc<Mutex<Seen>>,
    pub(super) pulse: Arc<Mutex<Instant>>,
    pub(super) draining: Arc<AtomicBool>,
}

impl Health {
    fn log_status(&self) -> Status {
        let seen = self.seen.lock().clone();
        match (seen.looked, seen.log) {
            (false, _) => Status::failed("log reachable", "not asked yet"),
            (true, Some(why)) => Status::failed("log reachable", why),
            (true, None) => Status::ok("log reachable"),
        }
    }

    /// Whether records may be sent all the same while the log is away: every outbox has room. What is read from the log
    /// (results, groups) does not count then.
    fn outbox_status(&self) -> Option<Status> {
        let outbox = self.outbox.as_ref()?;
        self.seen.lock().log.as_ref()?;
        let label = "outbox has room";
        let mut served = outbox.queues().filter(|queue| queue.is_served()).peekable();
        served.peek()?;
        let full = served.find_map(|queue| Some((queue.name(), queue.check().err()?)));
        Some(match full {
            Some((route, full)) => Status::failed(label, format!("{route}: {full}")),
            None => Status::ok(format!("{label}: the log is away, routes without one answer 503")),
        })
    }

    /// Whether a pipeline can work at all, however slowly.
    fn pipeline_status(&self, pipeline: &Pipeline) -> Status {
        let label = format!("pipeline {}", pipeline.name());
        if let Some(why) = pipeline.halted() {
            return Status::failed(label, why);
        }
        if !pipeline.joined() {
            return Status::failed(label, "has not joined its consumer group yet");
        }
        let stopped = pipeline
            .health()
            .into_iter()
            .find_map(|health| health.stopped.map(|why| format!("partition {} stands still: {why}", health.partition)));
        match stopped {
            Some(why) => Status::failed(label, why),
            None => Status::ok(label),
        }
    }

    fn draining_status(&self) -> Status {
        if self.draining.load(Ordering::Acquire) {
            Status::failed("not draining", "the daemon is stopping")
        } else {
            Status::ok("not draining")
        }
    }

    /// A stage without a running worker cannot have its models loaded.
    fn workers_missing(&self, pipeline: &Pipeline) -> Option<String> {
        let idle = pipeline.stages_without_worker();
        (!idle.is_empty()).then(|| format!("no worker of stage {} is ready", idle.join(", ")))
    }
}

impl AdminSource for Health {
    fn live(&self) -> bool {
        self.pulse.lock().elapsed() < LIVE
    }

    fn ready(&self) -> Vec<Status> {
        if let Some(outbox) = self.outbox_status() {
            let (log, missing) =
                (self.log_status(), self.pipelines.iter().filter_map(|of| Some((of, self.workers_missing(of)?))));
            let missing = missing.map(|(of, why)| Status::failed(format!("pipeline {}", of.name()), why));
            // Without room the log's absence is the reason.
            let log = (!outbox.ok).then_some(log);
            return [outbox].into_iter().chain(log).chain([self.draining_status()]).chain(missing).collect();
        }
        let results = match self.jobs.caught_up() {
            Ok(()) => Status::ok("results read"),
            Err(why) => Status::failed("results read", why),
        };
        let mut statuses = vec![self.log_status(), results, self.draining_status()];
        statuses.extend(self.chats.feeds.iter().map(|(name, feed)| match feed.caught_up() {
            Ok(()) => Status::ok(format!("answers of {name} read")),
            Err(why) => Status::failed(format!("answers of {name} read"), why),
        }));
        statuses.extend(self.pipelines.iter().map(|pipeline| {
            match (self.pipeline_status(pipeline), self.workers_missing(pipeline)) {
                (Status { ok: true, label, .. }, Some(why)) => Status::failed(label, why),
                (status, _) => status,
            }
        }));
        statuses
    }

    fn standstill(&self) -> Vec<Status> {
        let pipelines = self.pipelines.iter().map(|pipeline| self.pipeline_status(pipeline));
        std::iter::once(self.log_status()).chain(pipelines).filter(|status| !status.ok).collect()
    }

    fn progress(&self) -> Vec<PartitionProgress> {
        let of = |pipeline: &Pipeline| {
            let name = pipeline.name().to_string();
            let partitions = pipeline.health().into_iter().map(|health| {
                let allowed = pipeline.patience(health.at_stage.as_deref()).unwrap_or(BETWEEN_STAGES);
                let at = health.at_stage.map_or_else(|| "lane".to_owned(), |stage| stage.to_string());
                PartitionProgress {
                    pipeline: name.clone(),
                    partition: health.partition.0,
                    stage: health.oldest.map(|_| at),
                    oldest_unfinished_ms: health.oldest.map_or(0, |(age, _)| millis(age)),
                    allowed_ms: millis(allowed),
                }
            });
            partitions.collect::<Vec<_>>()
        };
        self.pipelines.iter().flat_map(of).collect()
    }

    fn actors(&self) -> Value {
        self.root.get().map_or(Value::Null, RootHandle::tree)
    }

    fn kill(&self, actor: &str) -> Result<(), String> {
        let root = self.root.get().ok_or("the tree has not started")?;
        root.kill(actor).map_err(|error| error.to_string())
    }

    fn runs(&self) -> Value {
        serde_json::to_value(chaos::runs()).unwrap_or(Value::Null)
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
