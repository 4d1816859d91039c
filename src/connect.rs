//! Holds a config against the log it names: reachable, and the topics as the config says. Never changes anything there.

use crate::config::route::RouteKind;
use crate::config::units::Period;
use crate::config::{Config, Pipeline};
use bulkhead_actors::log::{Log, LogError};
use std::time::Duration;

/// How long brokers may take to answer.
const PING: Duration = Duration::from_secs(10);

/// What the log said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What would keep a pipeline from running.
    pub problems: Vec<String>,
    /// What will be done at the first start, and what will be refused though the config allows it.
    pub notes: Vec<String>,
}

/// Asks the log for every topic of every pipeline.
#[must_use]
pub fn check(log: &dyn Log, config: &Config) -> Findings {
    let mut findings = Findings::default();
    if let Err(why) = log.ping(PING) {
        let brokers = &config.daemon.kafka.brokers;
        findings.problems.push(if brokers.is_empty() { why.to_string() } else { format!("{brokers}: {why}") });
        return findings;
    }
    for pipeline in &config.pipelines {
        bodies(log, pipeline, &mut findings);
        for (topic, partitions, is_fixed) in topics(pipeline) {
            match log.topic(&topic) {
                Ok(Some(info)) if is_fixed && info.partitions != partitions => findings.problems.push(format!(
                    "pipeline {}: topic {topic} has {} partitions, source.partitions says {partitions}; ledger and order \
                     rest on it: change the config, or drain and recreate the topic",
                    pipeline.name, info.partitions
                )),
                Ok(Some(_)) => findings.notes.extend(retention(log, pipeline, &topic)),
                Ok(None) => findings.notes.push(format!(
                    "note: pipeline {}: `bulkhead run` creates topic {topic} with {partitions} partitions",
                    pipeline.name
                )),
                Err(why) => findings.problems.push(said(pipeline, &topic, &why)),
            }
        }
    }
    findings
}

/// Whether a topic that exists keeps its records as long as the config says.
fn retention(log: &dyn Log, pipeline: &Pipeline, topic: &str) -> Option<String> {
    let (source, output, dlq) = (&pipeline.source, &pipeline.output, &pipeline.dlq);
    let own = [(&source.topic, source.retention), (&output.topic, output.retention), (&dlq.topic, dlq.retention)];
    let named = pipeline.outputs.values().map(|output| (&output.topic, output.retention));
    let wanted = own.into_iter().chain(named).find(|(name, _)| name.0 == topic)?.1?;
    // What cannot be asked is told where the topic itself is looked at.
    let found = log.retention(topic).ok()?;
    let is_right = found == Some(wanted.0);
    let kept = found.map_or_else(|| "for ever".to_owned(), |found| format!("for {}", Period(found)));
    (!is_right).then(|| {
        format!(
            "note: pipeline {}: topic {topic} keeps its records {kept}, the config says {wanted}; `bulkhead topics --apply` \
             changes it",
            pipeline.name
        )
    })
}

/// Whether the source topic takes what its routes do.
fn bodies(log: &dyn Log, pipeline: &Pipeline, findings: &mut Findings) {
    let topic = &pipeline.source.topic.0;
    // What cannot be asked is told where the topic itself is looked at.
    let Ok(Some(_)) = log.topic(topic) else { return };
    let Ok(takes) = log.record_bytes_max(topic) else { return };
    for route in &pipeline.routes {
        if let RouteKind::Produce(produce) = &route.does
            && produce.body_max.bytes() > takes
        {
            findings.notes.push(format!(
                "note: pipeline {}: topic {topic} takes records of {takes} bytes, route {} bodies of {}: those between are \
                 answered with 413; raise the topic's max.message.bytes, or lower body_max",
                pipeline.name, route.path, produce.body_max
            ));
        }
    }
}

/// A pipeline's topics, the partitions they get, and whether they must have as many.
fn topics(pipeline: &Pipeline) -> Vec<(String, i32, bool)> {
    let partitions = pipeline.source.partitions;
    let mut topics = vec![(pipeline.source.topic.0.clone(), partitions, true)];
    if pipeline.ledger.is_some() {
        topics.push((pipeline.ledger_topic(), partitions, true));
    }
    topics.push((pipeline.output.topic.0.clone(), partitions, false));
    for output in pipeline.outputs.values() {
        topics.push((output.topic.0.clone(), output.partitions.unwrap_or(partitions), false));
    }
    topics.push((pipeline.dlq.topic.0.clone(), partitions, false));
    topics
}

fn said(pipeline: &Pipeline, topic: &str, why: &LogError) -> String {
    format!("pipeline {}: topic {topic}: {why}", pipeline.name)
}
