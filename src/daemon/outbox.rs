//! The daemon's outbox: the queues that routes of the config have, and the actors that empty them. Never sends a record itself.

use crate::config::Config;
use crate::config::route::RouteKind;
use crate::gateway::table;
use bulkhead_actors::log::{Log, LogError};
use bulkhead_actors::metrics::Metrics;
use bulkhead_actors::outbox::{self, Outbox, Queue};
use bulkhead_actors::shell::Body;
use bulkhead_actors::supervisor::ChildSpec;
use bulkhead_core::outbox::OutboxLimits;
use std::path::Path;
use std::sync::Arc;

/// The outbox's folder in the data directory.
const OUTBOX_DIR: &str = "outbox";

/// Opens the outbox where a route has one, or an earlier config left records in it. On the embedded log there is none.
pub(super) fn open(config: &Config, data: &Path, metrics: &Arc<Metrics>) -> Result<Option<Arc<Outbox>>, LogError> {
    let path = data.join(OUTBOX_DIR);
    let queues = queues(config);
    let was_used = Outbox::exists(&path);
    if config.daemon.kafka.brokers.is_empty() {
        for (name, _) in &queues {
            tracing::info!(route = %name, "its outbox is not used: the embedded log is on this disk, too");
        }
        if was_used {
            tracing::warn!(path = %path.display(), "an outbox of earlier runs on Kafka is left as it is");
        }
        return Ok(None);
    }
    if queues.is_empty() && !was_used {
        return Ok(None);
    }
    let outbox = Outbox::open(&path, &queues, metrics)?;
    for queue in outbox.queues().filter(|queue| !queue.is_empty()) {
        let records = queue.held().records;
        tracing::info!(route = %queue.name(), records, "records wait in the outbox; they are sent first");
    }
    Ok(Some(Arc::new(outbox)))
}

fn queues(config: &Config) -> Vec<(Arc<str>, OutboxLimits)> {
    let routes = config.pipelines.iter().flat_map(|pipeline| &pipeline.routes);
    let queue = routes.filter_map(|route| match &route.does {
        RouteKind::Produce(produce) => {
            let outbox = produce.outbox?;
            let limits = OutboxLimits { records_max: outbox.records_max, bytes_max: outbox.bytes_max.0 };
            Some((table::queue(route), limits))
        }
        _ => None,
    });
    queue.collect()
}

/// The actors that empty the queues. They share a producer that outlives them.
pub(super) fn specs(outbox: &Outbox, log: &dyn Log) -> Result<Vec<ChildSpec>, LogError> {
    let producer = log.patient_producer()?;
    let spec = |queue: &Arc<Queue>| {
        let (queue, producer) = (Arc::clone(queue), Arc::clone(&producer));
        ChildSpec::body(actor(queue.name()), move |_| {
            let (queue, producer) = (Arc::clone(&queue), Arc::clone(&producer));
            Body::thread(move |lifeline| outbox::run(&lifeline, &queue, &*producer))
        })
    };
    Ok(outbox.queues().map(spec).collect())
}

/// `POST /a/b` is emptied by `outbox/post/a/b`.
fn actor(queue: &str) -> String {
    let (method, path) = queue.split_once(' ').unwrap_or(("", queue));
    format!("outbox/{}{path}", method.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actors_are_named_after_their_routes() {
        assert_eq!(actor("POST /register_event"), "outbox/post/register_event");
        assert_eq!(actor("PUT /a/B/"), "outbox/put/a/B/");
    }
}
