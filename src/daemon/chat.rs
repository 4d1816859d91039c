//! The actors behind conversations: a feed for each pipeline with sockets, queues for each with messages. Never serves a client:
//! the gateway does.

use super::Opened;
use crate::config::route::RouteKind;
use crate::config::route::chat::{ChatFile, MessagesFile, SocketFile};
use crate::config::{Config, Pipeline};
use crate::daemon::assemble;
use crate::gateway::chat::Chats;
use bulkhead_actors::feed::{self, Feed, FeedLimits, FeedTopic};
use bulkhead_actors::fifo::{self, QueueLimits, Queues, QueuesSpec};
use bulkhead_actors::hints;
use bulkhead_actors::log::{Log, TopicSpec};
use bulkhead_actors::metrics::Metrics;
use bulkhead_actors::shell::Body;
use bulkhead_actors::supervisor::ChildSpec;
use bulkhead_core::feed::WindowLimits;
use prometheus_client::metrics::counter::Counter;
use std::sync::Arc;
use std::time::Duration;

/// How much longer leases are kept than the messages that they are of.
const LEASES_MARGIN: Duration = Duration::from_secs(3_600);
/// How long queues may take to leave their groups.
const LEAVE: Duration = Duration::from_secs(10);

/// The parts of a pipeline's conversation.
fn parts(pipeline: &Pipeline) -> impl Iterator<Item = &ChatFile> {
    pipeline.routes.iter().filter_map(|route| match &route.does {
        RouteKind::Chat(chat) => Some(chat),
        _ => None,
    })
}

/// What the config's conversations need.
pub(super) fn chats(opened: &Opened, metrics: &Metrics) -> Chats {
    let config = &opened.config;
    let mut chats = Chats::default();
    for pipeline in &config.pipelines {
        let name: Arc<str> = pipeline.name.0.as_str().into();
        for part in parts(pipeline) {
            match part {
                ChatFile::Socket(socket) => {
                    let feed = feed_of(pipeline, socket, metrics.sockets_cut.with([&*name]));
                    drop(chats.feeds.insert(Arc::clone(&name), Arc::new(feed)));
                }
                ChatFile::Messages(messages) => {
                    let queues = Queues::new(queues_of(config, pipeline, messages, &opened.instance));
                    drop(chats.queues.insert(Arc::clone(&name), Arc::new(queues)));
                }
                ChatFile::Ask(_) | ChatFile::Acks(_) => {}
            }
        }
    }
    chats
}

fn feed_of(pipeline: &Pipeline, socket: &SocketFile, cut: Counter) -> Feed {
    // In the order of gateway::chat::socket's ANSWERS, FAILURES and TOKENS.
    let topic = |name: &str, is_kept| FeedTopic { topic: name.into(), is_kept };
    let mut topics = vec![topic(&pipeline.output.topic.0, true), topic(&pipeline.dlq.topic.0, true)];
    if assemble::tells_hints(pipeline) {
        topics.push(topic(&hints::topic(&pipeline.name.0), false));
    }
    let window = WindowLimits { records_max: socket.history_max as usize, bytes_max: socket.history_bytes_max.bytes() };
    Feed::new(topics, FeedLimits { window, waiting_max: socket.waiting_max as usize }, cut)
}

fn queues_of(config: &Config, pipeline: &Pipeline, messages: &MessagesFile, instance: &str) -> QueuesSpec {
    let kept = |topic: &str| {
        let specs = assemble::topics(config, pipeline);
        specs.into_iter().find(|of| of.spec.name == topic).and_then(|of| of.spec.retention)
    };
    // A lease outlives its message; one whose message is kept for as long as the log likes is, too.
    let longest = messages.types.values().map(|topic| kept(&topic.0)).reduce(|a, b| Some(a?.max(b?))).flatten();
    QueuesSpec {
        pipeline: pipeline.name.0.as_str().into(),
        topics: messages.types.values().map(|topic| topic.0.as_str().into()).collect(),
        leases: TopicSpec {
            name: format!("{}.leases", pipeline.name),
            partitions: 1,
            replicas: config.daemon.kafka.replicas,
            retention: longest.map(|kept| kept + messages.lease_max.0 + LEASES_MARGIN),
        },
        instance: instance.to_owned(),
        session_timeout: config.daemon.kafka.session_timeout.0,
        limits: QueueLimits {
            queues_max: messages.groups_max as usize,
            idle: messages.idle.0,
            waiting_max: messages.waiting_max as usize,
            assign_wait: messages.assign_wait.0,
        },
    }
}

/// Their actors.
pub(super) fn specs(chats: &Chats, log: &Arc<dyn Log>) -> Vec<ChildSpec> {
    let feeds = chats.feeds.iter().map(|(name, feed)| {
        let (feed, log) = (Arc::clone(feed), Arc::clone(log));
        ChildSpec::body(format!("feed/{name}"), move |_| {
            let (feed, log) = (Arc::clone(&feed), Arc::clone(&log));
            Body::thread(move |lifeline| feed::run(&lifeline, &log, &feed))
        })
    });
    let queues = chats.queues.iter().map(|(name, queues)| {
        let (queues, log) = (Arc::clone(queues), Arc::clone(log));
        let mut spec = ChildSpec::body(format!("messages/{name}"), move |_| {
            let (queues, log) = (Arc::clone(&queues), Arc::clone(&log));
            Body::thread(move |lifeline| fifo::run(&lifeline, &log, &queues))
        });
        spec.shutdown = LEAVE;
        spec
    });
    feeds.chain(queues).collect()
}
