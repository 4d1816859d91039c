//! What must fit together within one pipeline. Never looks at another one.

use super::{At, SESSION, outputs};
use crate::config::daemon::Daemon;
use crate::config::pipeline::{PipelineFile, Restart, Stage};
use crate::config::shape::join;
use crate::steps::StepContext;
use std::collections::BTreeSet;
use std::time::Duration;

/// A healthy commit can stall for a second (`notes`: librdkafka repeats TxnOffsetCommit after 500 ms); less would fence
/// it.
const DRAIN_MIN: Duration = Duration::from_millis(1_500);
/// Where few records come, each of them waits that long.
const GATHER_WAIT_MAX: Duration = Duration::from_secs(1);
/// Bounds of what crosses to a worker's process at once, in bytes.
const FRAME: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 30;
/// What a process takes before its steps are built, and then some, in bytes.
const MEMORY_MIN: u64 = 32 << 20;

pub(super) fn check<'a>(
    at: &mut At<'_>,
    file: &PipelineFile,
    daemon: &Daemon,
    context: &dyn Fn(&Stage) -> StepContext<'a>,
) {
    topics(at, file);
    outputs::check(at, file);
    times(at, file, daemon);
    sizes(at, file);
    restart(at, "pipeline.restart", &file.pipeline.restart);
    let mut names = BTreeSet::new();
    for (index, stage) in file.stage.iter().enumerate() {
        let path = format!("stage[{index}]");
        if !names.insert(&stage.name) {
            at.at(&format!("{path}.name"), "an earlier stage has this name too; every stage of a pipeline has its own");
        }
        check_stage(at, &path, stage, context(stage));
    }
}

/// No topic has two roles: results would be read as sources, dead letters as results.
fn topics(at: &mut At<'_>, file: &PipelineFile) {
    let section = &file.pipeline;
    let ledger = format!("{}.ledger", section.name);
    let mut roles = vec![("the source", section.source.topic.0.clone())];
    if section.ledger.is_some() {
        roles.push(("the ledger's topic, which its name makes", ledger));
    }
    let dlq = match &section.dlq.topic {
        Some(topic) => ("pipeline.dlq.topic", topic.0.clone()),
        None => ("pipeline.dlq", format!("{}.dlq", section.source.topic)),
    };
    let mut others = vec![
        ("pipeline.output.topic".to_owned(), "the output", section.output.topic.0.clone()),
        (dlq.0.to_owned(), "the dlq", dlq.1),
    ];
    for (name, output) in &section.outputs {
        others.push((format!("{}.topic", join("pipeline.outputs", name)), "another output", output.topic.0.clone()));
    }
    for (path, role, topic) in others {
        if let Some((other, _)) = roles.iter().find(|(_, taken)| *taken == topic) {
            at.at(&path, format_args!("topic {topic} is {other} already; a pipeline's topics differ from one another"));
        }
        roles.push((role, topic));
    }
    for (index, topic) in section.results.iter().flat_map(|results| &results.topics).enumerate() {
        let path = format!("pipeline.results.topics[{index}]");
        if let Some((other, _)) = roles.iter().find(|(_, taken)| *taken == topic.0) {
            at.at(&path, format_args!("topic {topic} is {other} already; only what is outside writes to it"));
        }
        roles.push(("one of the results'", topic.0.clone()));
    }
    if section.ledger.is_some() && section.source.topic.0 == roles[1].1 {
        at.at("pipeline.source.topic", "is the topic of this pipeline's ledger, <name>.ledger; read another one");
    }
}

fn times(at: &mut At<'_>, file: &PipelineFile, daemon: &Daemon) {
    let section = &file.pipeline;
    let (drain, session) = (section.drain.0, daemon.kafka.session_timeout);
    let is_session_right = session.0 >= SESSION[0];
    if drain < DRAIN_MIN {
        at.at(
            "pipeline.drain",
            "must be at least \"1.5s\": healthy commits can stall for a second, and would be fenced",
        );
    } else if is_session_right && drain * 2 >= session.0 {
        let why =
            format_args!("must be below half of kafka.session_timeout ({session}), or a drain costs the membership");
        at.at("pipeline.drain", why);
    } else if drain > daemon.limits.drain.0 {
        let why = format_args!("must not be above limits.drain ({}), which the whole daemon has", daemon.limits.drain);
        at.at("pipeline.drain", why);
    }
    let transaction = daemon.kafka.transaction_timeout;
    if section.lane.commit_interval.0 * 2 > transaction.0 {
        let why = format_args!("must be at most half of kafka.transaction_timeout ({transaction})");
        at.at("pipeline.lane.commit_interval", why);
    }
    if section.drain.0 >= transaction.0 {
        at.at("pipeline.drain", format_args!("must be below kafka.transaction_timeout ({transaction})"));
    }
    for (path, retention) in [
        ("pipeline.source.retention", section.source.retention),
        ("pipeline.output.retention", section.output.retention),
        ("pipeline.dlq.retention", section.dlq.retention),
    ] {
        if let Some(retention) = retention {
            at.some(path, retention);
        }
    }
    at.some("pipeline.failed_retry", section.failed_retry);
    at.some("pipeline.dlq.stop_above.window", section.dlq.stop_above.window);
    at.some("pipeline.lane.commit_interval", section.lane.commit_interval);
    if let Some(ledger) = &section.ledger {
        at.some("pipeline.ledger.ttl", ledger.ttl);
    }
    if let Some(retention) = section.results.as_ref().and_then(|results| results.retention) {
        at.some("pipeline.results.retention", retention);
    }
}

fn sizes(at: &mut At<'_>, file: &PipelineFile) {
    let section = &file.pipeline;
    let (batch, in_flight) = (section.batch.bytes_max, section.in_flight.bytes_max);
    if batch.0 == 0 {
        at.at("pipeline.batch.bytes_max", "must be at least \"1B\"");
    }
    if in_flight.0 < batch.0 {
        let why = format_args!("must be at least batch.bytes_max ({batch}), or no full batch would ever be cut");
        at.at("pipeline.in_flight.bytes_max", why);
    }
    if section.lane.commit_records_max < section.batch.records_max {
        let why =
            format_args!("must be at least batch.records_max ({}): a batch is never split", section.batch.records_max);
        at.at("pipeline.lane.commit_records_max", why);
    }
    let partitions = u32::try_from(section.source.partitions).unwrap_or(0);
    if section.lane.count.is_some_and(|count| count > partitions) {
        at.at(
            "pipeline.lane.count",
            format_args!("is above source.partitions ({partitions}): the rest would have none"),
        );
    }
    if section.ledger.as_ref().is_some_and(|ledger| !(4 << 10..=1 << 20).contains(&ledger.segment_bytes_max.0)) {
        at.at("pipeline.ledger.segment_bytes_max", "must be \"4KiB\" to \"1MiB\", which brokers take by default");
    }
}

fn restart(at: &mut At<'_>, path: &str, restart: &Restart) {
    at.some(&format!("{path}.period"), restart.period);
}

fn check_stage(at: &mut At<'_>, path: &str, stage: &Stage, context: StepContext<'_>) {
    let retry = &stage.retry;
    at.some(&format!("{path}.timeout"), stage.timeout);
    at.some(&format!("{path}.retry.initial"), retry.initial);
    if stage.batch.is_some_and(|batch| batch.wait.0 > GATHER_WAIT_MAX) {
        at.at(&format!("{path}.batch.wait"), "must be at most \"1s\": where few records come, each waits that long");
    }
    restart(at, &format!("{path}.restart"), &stage.restart);
    if retry.initial.0 > retry.max.0 {
        at.at(&format!("{path}.retry.max"), format_args!("must be at least retry.initial ({})", retry.initial));
    }
    process(at, path, stage);
    for (index, step) in stage.steps.iter().enumerate() {
        let path = format!("{path}.steps[{index}].{}", step.name());
        for why in step.check(context) {
            at.at(&path, why);
        }
        if let Some(why) = step.must_stay().filter(|_| stage.is_isolated()) {
            at.at(&path, why);
        }
    }
}

/// What concerns a worker's process.
fn process(at: &mut At<'_>, path: &str, stage: &Stage) {
    at.some(&format!("{path}.start_timeout"), stage.start_timeout);
    if !FRAME.contains(&stage.frame_max.0) {
        at.at(&format!("{path}.frame_max"), "must be \"1MiB\" to \"1GiB\"");
    }
    let path = format!("{path}.memory_max");
    match stage.memory_max {
        Some(_) if !stage.is_isolated() => {
            at.at(&path, "limits a worker's process, and this stage's workers are threads; isolation = \"process\" gives them one");
        }
        Some(most) if most.0 < MEMORY_MIN => at.at(&path, "must be at least \"32MiB\", or no worker would start"),
        _ => {}
    }
}
