//! Holds a config against the log it names: reachable, and the topics as the config says. Never changes anything there.

use crate::config::route::RouteKind;
use crate::config::units::Period;
use crate::config::{Config, Pipeline};
use crate::daemon;
use bulkhead_actors::log::{Log, LogError, TopicSpec};
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
        for topic in daemon::topics(config, pipeline) {
            let (name, partitions) = (&topic.spec.name, topic.spec.partitions);
            match log.topic(name) {
                Ok(Some(info)) => match topic.mismatch(info.partitions) {
                    Some(why) => findings.problems.push(format!(
                        "pipeline {}: topic {name} {why}: change the config, or drain and recreate the topic",
                        pipeline.name
                    )),
                    None => findings.notes.extend(retention(log, pipeline, &topic.spec)),
                },
                Ok(None) => findings.notes.push(format!(
                    "note: pipeline {}: `bulkhead run` creates topic {name} with {partitions} partitions",
                    pipeline.name
                )),
                Err(why) => findings.problems.push(said(pipeline, name, &why)),
            }
        }
    }
    findings
}

/// Whether a topic that exists keeps its records as long as the config says.
fn retention(log: &dyn Log, pipeline: &Pipeline, topic: &TopicSpec) -> Option<String> {
    let (topic, wanted) = (&topic.name, topic.retention?);
    // What cannot be asked is told where the topic itself is looked at.
    let found = log.retention(topic).ok()?;
    let is_right = found == Some(wanted);
    let kept = found.map_or_else(|| "for ever".to_owned(), |found| format!("for {}", Period(found)));
    (!is_right).then(|| {
        format!(
            "note: pipeline {}: topic {topic} keeps its records {kept}, the config says {}; `bulkhead topics --apply` \
             changes it",
            pipeline.name,
            Period(wanted)
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

fn said(pipeline: &Pipeline, topic: &str, why: &LogError) -> String {
    format!("pipeline {}: topic {topic}: {why}", pipeline.name)
}
