//! librdkafka properties in the config: which are refused because the guarantees rest on them, and which are secret.
//! Never hands them to librdkafka.

use super::daemon::Property;
use super::document::Document;
use super::secret;
use super::shape::join;
use std::collections::BTreeMap;
use std::path::Path;

/// Properties that the daemon sets itself, and what to do instead (DESIGN §6).
const OWNED: &[(&str, &str)] = &[
    ("acks", "every write waits for all in-sync replicas"),
    (
        "auto.offset.reset",
        "a new group begins at the log's start; see source.on_gap for records deleted before they were read",
    ),
    ("bootstrap.servers", "use kafka.brokers"),
    ("enable.auto.commit", "positions are committed with the results"),
    ("enable.auto.offset.store", "positions are committed with the results"),
    ("enable.idempotence", "every producer is idempotent"),
    ("enable.partition.eof", "the engine reads ends from the broker"),
    ("group.id", "use pipeline.source.group"),
    ("group.instance.id", "membership is dynamic, so that a stopped daemon hands over at once"),
    ("group.protocol", "the classic protocol is used"),
    ("group.remote.assignor", "cooperative-sticky is used"),
    ("heartbeat.interval.ms", "it follows from kafka.session_timeout"),
    ("isolation.level", "only committed records are read"),
    ("max.in.flight", "order and idempotence rest on it"),
    ("max.in.flight.requests.per.connection", "order and idempotence rest on it"),
    ("max.poll.interval.ms", "the engine never stops polling"),
    ("metadata.broker.list", "use kafka.brokers"),
    ("partition.assignment.strategy", "cooperative-sticky is used"),
    ("partitioner", "murmur2_random is used, so that keys land where Java clients put them"),
    ("request.required.acks", "every write waits for all in-sync replicas"),
    ("session.timeout.ms", "use kafka.session_timeout"),
    ("socket.timeout.ms", "the engine tells torn transactions by it"),
    ("transaction.timeout.ms", "use kafka.transaction_timeout"),
    ("transactional.id", "it is made of the pipeline's name, the instance and the lane"),
];

/// The path of the table that holds properties.
const TABLE: &str = "kafka.properties";

/// Whether a path is a property whose value must not be shown or written into the config.
pub(super) fn is_secret(path: &str) -> bool {
    let Some(name) = path.strip_prefix(TABLE) else { return false };
    ["password", "secret", "key.pem", "oauthbearer.config"].iter().any(|word| name.contains(word))
}

/// Fetches the secret ones, and says what is wrong with any of them.
pub(super) fn check(properties: &mut BTreeMap<String, Property>, raw: &Document, dir: &Path) -> Vec<(String, String)> {
    let mut wrong = Vec::new();
    for (name, value) in properties {
        let path = join(TABLE, name);
        if let Some((_, why)) = OWNED.iter().find(|(owned, _)| *owned == name.to_ascii_lowercase()) {
            wrong.push((path, format!("the daemon sets this property itself: {why}")));
            continue;
        }
        if !is_secret(&path) {
            continue;
        }
        match secret::fetch(&value.0, raw.is_varied(&path), dir) {
            Ok(fetched) => value.0 = fetched,
            Err(why) => wrong.push((path, why)),
        }
    }
    wrong
}
