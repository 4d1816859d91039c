//! What the routes of a conversation need of each other and of their pipeline. Never serves one.

use super::At;
use crate::config::pipeline::PipelineFile;
use crate::config::route::RouteFile;
use crate::config::route::chat::{ChatFile, MessagesFile, SocketFile};
use crate::config::units::Size;

/// Longer texts are no queries.
const TEXT_MAX: Size = Size::mib(1);

/// Checks a route that has `chat`.
pub(super) fn check(at: &mut At<'_>, path: &str, route: &RouteFile, file: &PipelineFile) {
    let Some(chat) = &route.chat else { return };
    if !route.path.variables().is_empty() {
        at.at(&format!("{path}.path"), "a conversation's route has no variables: sessions are named by their tokens");
    }
    if route.method != chat.method() {
        let why = format_args!("this part of a conversation is a {}", chat.method().as_str());
        at.at(&format!("{path}.method"), why);
    }
    for (key, is_there) in [("reply", route.reply.is_some()), ("idempotency", route.idempotency.is_some())] {
        if is_there {
            at.at(&format!("{path}.{key}"), "only a route that produces has one");
        }
    }
    let partitions = file.pipeline.source.partitions;
    if partitions != 1 {
        let why = format_args!(
            "a conversation's topics have one partition, so that there is one order of messages; source.partitions is {partitions}"
        );
        at.at(&format!("{path}.chat"), why);
    }
    match chat {
        ChatFile::Ask(ask) => text_max(at, &format!("{path}.chat.ask.text_max"), ask.text_max),
        ChatFile::Socket(socket) => self::socket(at, &format!("{path}.chat.socket"), socket, file),
        ChatFile::Messages(messages) => self::messages(at, &format!("{path}.chat.messages"), messages, file),
        ChatFile::Acks(_) => {
            if one_of(file, |chat| matches!(chat, ChatFile::Messages(_))) == 0 {
                at.at(
                    &format!("{path}.chat.acks"),
                    "there is nothing to acknowledge: the pipeline has no chat.messages",
                );
            }
        }
    }
}

fn one_of(file: &PipelineFile, is_one: impl Fn(&ChatFile) -> bool) -> usize {
    file.route.iter().filter_map(|route| route.chat.as_ref()).filter(|chat| is_one(chat)).count()
}

fn text_max(at: &mut At<'_>, path: &str, size: Size) {
    if !(1..=TEXT_MAX.0).contains(&size.0) {
        at.at(path, format_args!("must be \"1B\" to \"{TEXT_MAX}\""));
    }
}

fn socket(at: &mut At<'_>, path: &str, socket: &SocketFile, file: &PipelineFile) {
    text_max(at, &format!("{path}.text_max"), socket.text_max);
    for (key, period) in [("ping", socket.ping), ("send_timeout", socket.send_timeout), ("lifetime", socket.lifetime)] {
        at.some(&format!("{path}.{key}"), period);
    }
    for (index, origin) in socket.origins.iter().enumerate() {
        let is_origin = origin.split_once("://").is_some_and(|(scheme, host)| {
            matches!(scheme, "http" | "https") && !host.is_empty() && !host.contains(['/', ' ', '*'])
        });
        if !is_origin {
            at.at(
                &format!("{path}.origins[{index}]"),
                "an origin is SCHEME://HOST[:PORT], e.g. \"https://chat.example\"",
            );
        }
    }
    if one_of(file, |chat| matches!(chat, ChatFile::Socket(_))) > 1 {
        at.at(path, "a pipeline has one route for sockets: they share what is kept for clients that come again");
    }
}

fn messages(at: &mut At<'_>, path: &str, messages: &MessagesFile, file: &PipelineFile) {
    for (key, period) in [("lease", messages.lease), ("idle", messages.idle), ("assign_wait", messages.assign_wait)] {
        at.some(&format!("{path}.{key}"), period);
    }
    if messages.lease_max.0 < messages.lease.0 {
        at.at(&format!("{path}.lease_max"), format_args!("must be at least lease ({})", messages.lease));
    }
    let section = &file.pipeline;
    let mut known = vec![&section.source.topic, &section.output.topic];
    known.extend(section.outputs.values().map(|output| &output.topic));
    for (name, topic) in &messages.types {
        if !known.contains(&topic) && section.dlq.topic.as_ref().is_none_or(|dlq| dlq != topic) {
            let known: Vec<_> = known.iter().map(|topic| topic.0.as_str()).collect();
            let why = format_args!("{topic} is no topic of this pipeline; its topics are {}", known.join(", "));
            at.at(&format!("{path}.types.{name}"), why);
        }
    }
    if one_of(file, |chat| matches!(chat, ChatFile::Messages(_))) > 1 {
        at.at(path, "a pipeline has one route for messages: it owns the groups");
    }
}
