//! Turns the checked config into what the engine and the gateway are built from. Never starts anything.

use crate::config::route::RouteKind;
use crate::config::secret;
use crate::config::text::{KeyFrom, Topic};
use crate::config::units::Period;
use crate::config::{Config, Pipeline, daemon, pipeline};
use crate::steps::StepConfig;
use crate::worker::Start;
use bulkhead_actors::hints::{self, Hints};
use bulkhead_actors::io::kafka::{KafkaConfig, KafkaLog, Membership};
use bulkhead_actors::log::{Log, TopicSpec};
use bulkhead_actors::pipeline::{
    DlqSpec, LedgerSpec, Needs, OnGap, OutputSpec, PipelineSpec, PipelineTopic, RestartSpec, SourceSpec, StageSpec,
};
use bulkhead_actors::worker::ProcessSpec;
use bulkhead_core::cut::CutLimits;
use bulkhead_core::gather::Gather;
use bulkhead_core::lane::LaneLimits;
use bulkhead_core::ledger::KeySource;
use bulkhead_core::limit::StopAbove;
use bulkhead_core::partition::PartitionLimits;
use bulkhead_core::retry::RetryPolicy;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Lanes of a pipeline at most, where the config does not say: more commit no faster (`notes`: two reach the limit of a pair of cores).
const LANES_MAX: usize = 4;
/// The wait after a transaction that had to be given up twice in a row (measured: a rebalance settles within 50 to 500 ms).
const LANE_BACKOFF: Duration = Duration::from_millis(50);
/// The longest such wait.
const LANE_BACKOFF_MAX: Duration = Duration::from_secs(2);
/// What headers and key may add to a body.
const RECORD_MARGIN: usize = 64 * 1024;
/// From which round on a dead letter is parked.
const ROUNDS_MAX: u32 = 5;
/// How long ledger topics keep segments beyond the keys' time to live.
const LEDGER_MARGIN: Duration = Duration::from_secs(24 * 3_600);
/// How long hints are kept: nobody wants them once the answer is there.
const HINTS_KEPT: Duration = Duration::from_secs(120);

/// Where runs of chaos steps are counted, over all processes: in the data directory.
pub(super) const CHAOS_RUNS: &str = "chaos-runs";

/// The log of the brokers that the config names.
pub(super) fn kafka(config: &Config, instance: &str) -> Result<Arc<dyn Log>, String> {
    let kafka = &config.daemon.kafka;
    let mut settings = KafkaConfig::new(kafka.brokers.clone(), instance);
    settings.properties = kafka.properties.iter().map(|(key, value)| (key.clone(), value.0.clone())).collect();
    settings.transaction_timeout = kafka.transaction_timeout.0;
    settings.membership = match kafka.membership {
        daemon::Membership::Dynamic => Membership::Dynamic,
        daemon::Membership::Static => Membership::Static,
        daemon::Membership::Consumer => Membership::Consumer,
    };
    settings.record_bytes_max = record_bytes_max(config);
    let log = KafkaLog::new(settings).map_err(|why| format!("kafka.brokers = {}: {why}", kafka.brokers))?;
    Ok(Arc::new(log))
}

/// The largest record that the gateway may make of a body, and so the largest dead letter: what is let in must fit.
pub(super) fn record_bytes_max(config: &Config) -> usize {
    let routes = config.pipelines.iter().flat_map(|pipeline| &pipeline.routes);
    let bodies = routes.filter_map(|route| match &route.does {
        RouteKind::Produce(produce) => Some(produce.body_max.bytes()),
        RouteKind::Results(_) | RouteKind::Events(_) | RouteKind::Page(_) | RouteKind::Chat(_) => None,
    });
    bodies.fold(config.daemon.http.body_max.bytes(), usize::max).saturating_add(RECORD_MARGIN)
}

/// What the engine needs to know of a pipeline.
///
/// # Errors
/// What is wrong with a step, all of it: files can change after the check.
pub(super) fn pipeline(
    config: &Config,
    pipeline: &Pipeline,
    data: &Path,
    hints: Option<&Hints>,
) -> Result<PipelineSpec, String> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let partitions = pipeline.source.partitions;
    let most = cores.min(LANES_MAX).min(usize::try_from(partitions).unwrap_or(1)).max(1);
    let lanes = pipeline.lane.count.unwrap_or(u32::try_from(most).unwrap_or(1));
    let stages = pipeline.stages.iter().map(|stage| self::stage(config, pipeline, stage, data, hints));
    let stages = stages.collect::<Result<_, _>>()?;
    Ok(PipelineSpec {
        name: Arc::from(&*pipeline.name.0),
        delivery: pipeline.delivery,
        source: SourceSpec {
            topic: Arc::from(&*pipeline.source.topic.0),
            partitions,
            group: pipeline.source.group.0.clone(),
            session_timeout: config.daemon.kafka.session_timeout.0,
            on_gap: match pipeline.source.on_gap {
                pipeline::OnGap::Stop => OnGap::Stop,
                pipeline::OnGap::Skip => OnGap::Skip,
            },
        },
        limits: limits(pipeline),
        ledger: pipeline.ledger.as_ref().map(|ledger| self::ledger(config, pipeline, ledger, data)),
        stages,
        dlq: dlq(config, pipeline),
        output: Some(OutputSpec {
            topic: Arc::from(&*pipeline.output.topic.0),
            key: key_source(&pipeline.output.key.0),
            is_result: true,
        }),
        outputs: outputs(pipeline),
        lanes,
        commit: LaneLimits {
            commit_interval: pipeline.lane.commit_interval.0,
            commit_records_max: pipeline.lane.commit_records_max as usize,
            backoff_initial: LANE_BACKOFF,
            backoff_max: LANE_BACKOFF_MAX,
        },
        drain: pipeline.drain.0,
        restart: restart(&pipeline.restart),
        failed_retry: pipeline.failed_retry.0,
        log_records: pipeline.log_records,
        topics: topics(config, pipeline),
    })
}

fn outputs(pipeline: &Pipeline) -> BTreeMap<Arc<str>, OutputSpec> {
    let output = |(name, output): (&String, &pipeline::NamedOutput)| {
        let (topic, key) = (Arc::from(&*output.topic.0), key_source(&output.key.0));
        (Arc::from(&**name), OutputSpec { topic, key, is_result: output.result })
    };
    pipeline.outputs.iter().map(output).collect()
}

fn limits(pipeline: &Pipeline) -> PartitionLimits {
    PartitionLimits {
        cut: CutLimits {
            records_max: pipeline.batch.records_max as usize,
            bytes_max: pipeline.batch.bytes_max.bytes(),
            linger: pipeline.batch.linger.0,
        },
        in_flight_batches_max: pipeline.in_flight.batches_max as usize,
        in_flight_bytes_max: pipeline.in_flight.bytes_max.bytes(),
    }
}

fn restart(restart: &pipeline::Restart) -> RestartSpec {
    RestartSpec { intensity: restart.intensity, period: restart.period.0 }
}

fn key_source(key: &KeyFrom) -> KeySource {
    match key {
        KeyFrom::Key => KeySource::Key,
        KeyFrom::Header(name) => KeySource::Header(name.clone()),
    }
}

fn ledger(config: &Config, pipeline: &Pipeline, ledger: &pipeline::Ledger, data: &Path) -> LedgerSpec {
    LedgerSpec {
        topic: Arc::from(pipeline.ledger_topic()),
        key: key_source(&ledger.key.0),
        ttl: ledger.ttl.0,
        keys_max: ledger.keys_max as usize,
        segment_bytes_max: ledger.segment_bytes_max.bytes(),
        cache: data.join("ledger").join(&pipeline.name.0),
        settle_wait: config.daemon.kafka.transaction_timeout.0,
    }
}

fn dlq(config: &Config, pipeline: &Pipeline) -> DlqSpec {
    let stop = &pipeline.dlq.stop_above;
    DlqSpec {
        topic: Arc::from(&*pipeline.dlq.topic.0),
        stop_above: Some(StopAbove {
            ratio: stop.ratio,
            window: stop.window.0,
            records_min: u64::from(stop.records_min),
        }),
        partitions: pipeline.source.partitions,
        letter_bytes_max: record_bytes_max(config),
        rounds_max: ROUNDS_MAX,
    }
}

fn stage(
    config: &Config,
    pipeline: &Pipeline,
    stage: &pipeline::Stage,
    data: &Path,
    hints: Option<&Hints>,
) -> Result<StageSpec, String> {
    let steps = stage.steps.iter().map(|step| step.factory(config.step_context(pipeline, stage, hints)));
    let steps = steps
        .collect::<Result<_, _>>()
        .map_err(|problems| format!("pipeline {}, stage {}: {}", pipeline.name.0, stage.name.0, problems.join("; ")))?;
    Ok(StageSpec {
        name: Arc::from(&*stage.name.0),
        workers: stage.workers,
        steps,
        gather: gather(stage.batch),
        process: stage.is_isolated().then(|| process(config, pipeline, stage, data)).transpose()?,
        timeout: stage.timeout.0,
        crashes_max: stage.crashes_max,
        retry: RetryPolicy {
            initial: stage.retry.initial.0,
            factor: stage.retry.factor,
            max: stage.retry.max.0,
            attempts_max: stage.retry.attempts,
            elapsed_max: Some(stage.retry.max_elapsed.0),
        },
        restart: restart(&stage.restart),
        emit_max: stage.emit_max as usize,
        journal: data.join("work").join(&pipeline.name.0).join(&stage.name.0),
    })
}

fn gather(batch: Option<pipeline::StageBatch>) -> Gather {
    batch.map_or(Gather::OFF, |batch| Gather { records_max: batch.max, wait: batch.wait.0 })
}

/// The process of a worker's own: this program, which is there even where its file was replaced.
fn process(config: &Config, pipeline: &Pipeline, stage: &pipeline::Stage, data: &Path) -> Result<ProcessSpec, String> {
    let start = Start {
        stage: stage.clone(),
        chaos: config.chaos,
        chaos_runs: config.chaos.then(|| data.join(CHAOS_RUNS)),
        onnxruntime: config.daemon.onnxruntime.library.clone(),
        log_level: config.daemon.log.level.clone(),
        pipeline: pipeline.name.0.clone(),
        source: pipeline.source.topic.0.clone(),
        data: data.to_owned(),
        outputs: pipeline.outputs.clone(),
        expressions: config.daemon.limits.expressions(),
    };
    // Its steps' secrets reach the process over its own socket; files and variables are not read again there.
    let start = secret::confide(&start).map_err(|why| format!("stage {} cannot be told: {why}", stage.name))?;
    let args: [&OsStr; 7] = [
        "worker".as_ref(),
        "--config".as_ref(),
        config.dir.as_ref(),
        "--pipeline".as_ref(),
        pipeline.name.0.as_ref(),
        "--stage".as_ref(),
        stage.name.0.as_ref(),
    ];
    Ok(ProcessSpec {
        program: config.worker.clone().unwrap_or_else(|| PathBuf::from("/proc/self/exe")),
        name: "bulkhead".into(),
        args: args.into_iter().map(OsStr::to_owned).collect(),
        start: start.into(),
        start_timeout: stage.start_timeout.0,
        frame_bytes_max: stage.frame_max.bytes(),
    })
}

/// Whether a stage of the pipeline tells hints.
pub(super) fn tells_hints(pipeline: &Pipeline) -> bool {
    pipeline.stages.iter().flat_map(|stage| &stage.steps).any(StepConfig::tells_hints)
}

/// The topics of a pipeline, as they are created where they do not exist.
pub(super) fn topics(config: &Config, pipeline: &Pipeline) -> Vec<PipelineTopic> {
    let topic = |name: &str, partitions: i32, retention: Option<Duration>, needs: Needs| PipelineTopic {
        spec: TopicSpec { name: name.to_owned(), partitions, replicas: config.daemon.kafka.replicas, retention },
        needs,
    };
    let partitions = pipeline.source.partitions;
    // A conversation's feed and queues read partition 0 alone.
    let is_chat = pipeline.routes.iter().any(|route| matches!(route.does, RouteKind::Chat(_)));
    let or_exactly = |needs| if is_chat { Needs::Exactly } else { needs };
    let (source, output, dlq) = (&pipeline.source, &pipeline.output, &pipeline.dlq);
    let kept = |retention: Option<Period>| retention.map(|retention| retention.0);
    let mut topics = vec![
        topic(&source.topic.0, partitions, kept(source.retention), Needs::Exactly),
        topic(&output.topic.0, partitions, kept(output.retention), or_exactly(Needs::Any)),
        topic(&dlq.topic.0, partitions, kept(dlq.retention), or_exactly(Needs::AtLeast)),
    ];
    for output in pipeline.outputs.values() {
        let partitions = output.partitions.unwrap_or(partitions);
        topics.push(topic(&output.topic.0, partitions, kept(output.retention), or_exactly(Needs::Any)));
    }
    if let Some(results) = &pipeline.results {
        let of = |name: &Topic| topic(&name.0, results.partitions, kept(results.retention), Needs::Any);
        topics.extend(results.topics.iter().map(of));
    }
    if let Some(ledger) = &pipeline.ledger {
        let kept = ledger.ttl.0 + LEDGER_MARGIN;
        topics.push(topic(&pipeline.ledger_topic(), partitions, Some(kept), Needs::Exactly));
    }
    if tells_hints(pipeline) {
        topics.push(topic(&hints::topic(&pipeline.name.0), 1, Some(HINTS_KEPT), Needs::Exactly));
    }
    topics
}
