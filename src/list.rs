//! What a config holds, for people. Never judges it.

use crate::config::route::chat::ChatFile;
use crate::config::route::{Route, RouteKind};
use crate::config::text::{ContentFrom, KeyFrom, RecordKey, RouteKeyFrom};
use crate::config::{Config, Pipeline};
use bulkhead_actors::log::Delivery;
use std::fmt::Write;

/// Every pipeline with its topics, stages, steps and routes.
#[must_use]
pub fn list(config: &Config) -> String {
    let mut text = String::new();
    for pipeline in &config.pipelines {
        one(pipeline, &mut text).expect("writing to a String never fails");
    }
    text
}

/// How many of each there are.
#[must_use]
pub fn summary(config: &Config) -> String {
    let stages = config.pipelines.iter().map(|pipeline| pipeline.stages.len()).sum();
    let routes = config.pipelines.iter().map(|pipeline| pipeline.routes.len()).sum();
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let pipelines = config.pipelines.len();
    format!("no problems: {}, {}, {}", count(pipelines, "pipeline"), count(stages, "stage"), count(routes, "route"))
}

fn one(pipeline: &Pipeline, text: &mut String) -> std::fmt::Result {
    let delivery = match pipeline.delivery {
        Delivery::ExactlyOnce => "exactly once",
        Delivery::AtLeastOnce => "at least once",
    };
    let source = &pipeline.source;
    writeln!(text, "pipeline {} ({delivery})", pipeline.name)?;
    writeln!(text, "  source {} · {} partitions · group {}", source.topic, source.partitions, source.group)?;
    if let Some(ledger) = &pipeline.ledger {
        writeln!(text, "  ledger {} · {} for {}", pipeline.ledger_topic(), ledger.key, ledger.ttl)?;
    }
    for stage in &pipeline.stages {
        let steps: Vec<_> = stage.steps.iter().map(|step| step.name()).collect();
        let workers = if stage.workers == 1 { "1 worker".to_owned() } else { format!("{} workers", stage.workers) };
        writeln!(text, "  stage  {} · {workers} · {}", stage.name, steps.join(" → "))?;
    }
    let key = |key: &RecordKey| match &key.0 {
        KeyFrom::Key => "the source record's key".to_owned(),
        KeyFrom::Header(name) => format!("the header {name}"),
    };
    writeln!(text, "  output {} · keyed by {}", pipeline.output.topic, key(&pipeline.output.key))?;
    for (name, output) in &pipeline.outputs {
        writeln!(text, "  output {name}: {} · keyed by {}", output.topic, key(&output.key))?;
    }
    writeln!(text, "  dlq    {}", pipeline.dlq.topic)?;
    pipeline.routes.iter().try_for_each(|one| route(one, text))
}

fn route(route: &Route, text: &mut String) -> std::fmt::Result {
    let does = match &route.does {
        RouteKind::Events(events) => format!("news of {} by {{{}}}", events.pipeline, events.variable),
        RouteKind::Chat(chat) => match chat {
            ChatFile::Ask(ask) => format!("a text, at most {}, becomes a session's query", ask.text_max),
            ChatFile::Socket(_) => "a session's socket".to_owned(),
            ChatFile::Messages(messages) => {
                let types: Vec<_> = messages.types.keys().map(|name| name.0.as_str()).collect();
                format!("the next message of {}", types.join(", "))
            }
            ChatFile::Acks(_) => "acknowledgements of messages".to_owned(),
        },
        RouteKind::Results(results) => format!("results of {} by {{{}}}", results.pipeline, results.variable),
        RouteKind::Page(page) => format!("the page {}", page.file),
        RouteKind::Produce(produce) => {
            let content = match &produce.content {
                ContentFrom::Body => "the body".to_owned(),
                ContentFrom::Field(name) => format!("the field {name}"),
                ContentFrom::Fields => "its fields".to_owned(),
                ContentFrom::Events => format!("each of at most {} events", produce.events_max),
            };
            let key = match &produce.key {
                RouteKeyFrom::Id => "the job id".to_owned(),
                RouteKeyFrom::Header(name) => format!("the header {name}"),
                RouteKeyFrom::Jq(text) => format!("`{text}`"),
            };
            format!("{content}, at most {}, keyed by {key}, becomes a record", produce.body_max)
        }
    };
    writeln!(text, "  route  {} {} · {does}", route.method.as_str(), route.path)
}
