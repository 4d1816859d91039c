//! How the daemon's Kafka clients are configured. Never connects.

use super::limits::{self, DEFAULT_BYTES};
use crate::log::{GroupSpec, LogError};
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use std::collections::BTreeMap;
use std::time::Duration;

/// Properties that the daemon sets itself, because what it promises hangs on them; a configuration that names one is
/// refused.
const OWNED: &[&str] = &[
    "acks",
    "allow.auto.create.topics",
    "auto.commit.enable",
    "auto.commit.interval.ms",
    "auto.offset.reset",
    "bootstrap.servers",
    "delivery.report.only.error",
    "delivery.timeout.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "heartbeat.interval.ms",
    "isolation.level",
    "log.queue",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "max.poll.interval.ms",
    "message.send.max.retries",
    "message.timeout.ms",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "partitioner",
    "request.required.acks",
    "retries",
    "session.timeout.ms",
    "socket.timeout.ms",
    "transaction.timeout.ms",
    "transactional.id",
];

/// librdkafka properties that no configuration may set, in order.
#[must_use]
pub fn owned_properties() -> &'static [&'static str] {
    OWNED
}

/// What librdkafka says of a property that it refuses: its name or its value. May hold the value.
#[must_use]
pub fn refused(key: &str, value: &str) -> Option<String> {
    match ClientConfig::new().set(key, value).create_native_config() {
        Ok(_) => None,
        Err(KafkaError::ClientConfig(_, description, _, _)) => Some(description),
        Err(other) => Some(other.to_string()),
    }
}

/// How a daemon is a member of its groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Membership {
    /// The classic protocol, cooperative-sticky: a member that leaves hands over at once, a killed one is missed after
    /// the session timeout.
    #[default]
    Dynamic,
    /// The same, named after the instance: back within 1 s after a SIGKILL instead of 6-8 s, but a member that goes for
    /// good leaves its partitions unread for the session timeout.
    Static,
    /// KIP-848 (`group.protocol=consumer`), Kafka 4.0 or newer; the broker sets session timeout and heartbeat. Always
    /// dynamic: the broker turns a static member's successor away until the session has ended.
    Consumer,
}

/// Which records count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Isolation {
    /// Those of settled transactions, up to the last stable offset.
    Committed,
    /// All, up to the high watermark.
    Uncommitted,
}

impl Isolation {
    const fn name(self) -> &'static str {
        match self {
            Self::Committed => "read_committed",
            Self::Uncommitted => "read_uncommitted",
        }
    }
}

/// What the adapter needs to know.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// Where to find the cluster, `host:port` separated by commas.
    pub brokers: String,
    /// What tells this daemon's clients from another's.
    pub instance: String,
    /// librdkafka's own properties, passed on as they are; [`owned_properties`] are refused.
    pub properties: BTreeMap<String, String>,
    /// How it is a member of its groups.
    pub membership: Membership,
    /// How long one request may take on the wire; what takes longer when a transaction ends makes the producer suspect.
    pub socket_timeout: Duration,
    /// After how long the broker gives a silent producer's transaction up.
    pub transaction_timeout: Duration,
    /// How long a single record may wait for its acknowledgement.
    pub send_timeout: Duration,
    /// How long questions (metadata, positions, offsets) may take.
    pub call_timeout: Duration,
    /// The largest record that clients send, and that topics made here take.
    pub record_bytes_max: usize,
}

impl KafkaConfig {
    /// The defaults of `notes/kafka-measured.md` for this cluster and instance.
    #[must_use]
    pub fn new(brokers: impl Into<String>, instance: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            instance: instance.into(),
            properties: BTreeMap::new(),
            membership: Membership::Dynamic,
            socket_timeout: Duration::from_secs(5),
            transaction_timeout: Duration::from_secs(10),
            send_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(10),
            record_bytes_max: limits::record_bytes(DEFAULT_BYTES),
        }
    }

    /// Refuses what cannot work, each problem with its key.
    pub(super) fn check(&self) -> Result<(), LogError> {
        let mut problems: Vec<String> = Vec::new();
        for key in self.properties.keys() {
            if OWNED.contains(&key.as_str()) {
                problems.push(format!("{key}: the daemon sets this property itself"));
            }
        }
        if self.brokers.trim().is_empty() {
            problems.push("brokers: none named".into());
        }
        if problems.is_empty() {
            let refused = |(key, value): (&String, &String)| Some(format!("{key}: {}", refused(key, value)?));
            problems.extend(self.properties.iter().filter_map(refused));
        }
        if problems.is_empty() { Ok(()) } else { Err(LogError::Refused(problems.join("; "))) }
    }

    /// What every client has in common.
    pub(super) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", format!("bulkhead-{}", self.instance))
            .set("socket.timeout.ms", millis(self.socket_timeout))
            .set("socket.keepalive.enable", "true")
            // A broker that is back is found within a second, not ten.
            .set("reconnect.backoff.max.ms", "1000")
            .set("log.connection.close", "false")
            .set("allow.auto.create.topics", "false");
        config
    }

    /// A client that asks questions: no group, no records. Where a partition ends depends on who asks.
    pub(super) fn probe(&self, isolation: Isolation) -> ClientConfig {
        self.finish(self.client().set("isolation.level", isolation.name()))
    }

    fn consumer(&self, group: &str) -> ClientConfig {
        let mut config = self.client();
        config
            .set("group.id", group)
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("fetch.queue.backoff.ms", "5")
            // A client that has read everything asks so often; a partition that it left out (its queue was full) waits for
            // so long where all others have nothing. At 10 ms, asking in vain took the broker a tenth of a core of two.
            .set("fetch.wait.max.ms", "50")
            .set("fetch.message.max.bytes", "4194304")
            // Split queues: this counts for each partition.
            .set("queued.max.messages.kbytes", "4096")
            .set("queued.min.messages", "2000");
        config
    }

    /// A client that asks for the positions of `group`, without joining it.
    pub(super) fn positions(&self, group: &str) -> ClientConfig {
        self.finish(&mut self.consumer(group))
    }

    /// A client that reads by hand, in no group (the name is one that librdkafka wants and nobody joins).
    pub(super) fn reader(&self) -> ClientConfig {
        let mut config = self.consumer(&format!("bulkhead-reader-{}", self.instance));
        self.finish(config.set("enable.partition.eof", "true"))
    }

    /// A member of a group.
    pub(super) fn member(&self, spec: &GroupSpec) -> ClientConfig {
        let mut config = self.consumer(&spec.group);
        match self.membership {
            Membership::Dynamic | Membership::Static => {
                let session = spec.session_timeout;
                config
                    .set("group.protocol", "classic")
                    .set("partition.assignment.strategy", "cooperative-sticky")
                    .set("session.timeout.ms", millis(session))
                    .set("heartbeat.interval.ms", millis(session * 3 / 10))
                    // Only the source's thread polls, and it never stops but for a revoke: a small bound is enough.
                    .set("max.poll.interval.ms", millis((session * 3).max(Duration::from_secs(30))));
            }
            Membership::Consumer => {
                config.set("group.protocol", "consumer").set("max.poll.interval.ms", "30000");
            }
        }
        if self.membership == Membership::Static {
            config.set("group.instance.id", &spec.instance);
        }
        self.finish(&mut config)
    }

    /// `message.max.bytes` of clients, `max.message.bytes` of topics; never below Kafka's own default.
    pub(super) fn message_bytes_max(&self) -> usize {
        limits::batch_bytes(self.record_bytes_max).max(DEFAULT_BYTES)
    }

    fn producer(&self) -> ClientConfig {
        let mut config = self.client();
        config
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            .set("queue.buffering.max.kbytes", "131072")
            // A topic that does not exist is told soon, not after the record's own time is up; ours are awaited when
            // made.
            .set("topic.metadata.propagation.max.ms", "2000")
            .set("message.max.bytes", self.message_bytes_max().to_string());
        config
    }

    /// A lane's producer. `id` is its `transactional.id`, `None` for one without transactions.
    pub(super) fn lane(&self, id: Option<&str>, batch_bytes: usize) -> ClientConfig {
        let mut config = self.producer();
        config
            .set("linger.ms", "1")
            .set("batch.size", batch_bytes.to_string())
            .set("delivery.report.only.error", "true")
            // Longer than a transaction lives is no use.
            .set("message.timeout.ms", millis(self.transaction_timeout));
        if let Some(id) = id {
            config.set("transactional.id", id).set("transaction.timeout.ms", millis(self.transaction_timeout));
        }
        self.finish(&mut config)
    }

    /// A producer of single records, which wait for their acknowledgement at most so long; `None`: as long as it takes, so that
    /// none is given up while a later one arrives.
    pub(super) fn single(&self, batch_bytes: usize, timeout: Option<Duration>) -> ClientConfig {
        let mut config = self.producer();
        config
            .set("linger.ms", "1")
            .set("batch.size", batch_bytes.to_string())
            .set("queue.buffering.max.messages", "20000")
            .set("message.timeout.ms", timeout.map_or_else(|| "0".to_owned(), millis));
        self.finish(&mut config)
    }

    /// Lets the user's own properties override what the daemon does not own.
    fn finish(&self, config: &mut ClientConfig) -> ClientConfig {
        for (key, value) in &self.properties {
            config.set(key, value);
        }
        std::mem::replace(config, ClientConfig::new())
    }
}

fn millis(span: Duration) -> String {
    span.as_millis().to_string()
}

#[cfg(test)]
mod tests {
    use super::{KafkaConfig, Membership, owned_properties};
    use crate::log::GroupSpec;
    use std::time::Duration;

    fn spec() -> GroupSpec {
        GroupSpec {
            group: "g".into(),
            topic: "t".into(),
            instance: "i".into(),
            session_timeout: Duration::from_secs(10),
        }
    }

    #[test]
    fn owned_properties_are_sorted_and_refused_by_name() {
        assert!(owned_properties().is_sorted());
        for key in owned_properties() {
            let mut config = KafkaConfig::new("b:1", "i");
            config.properties.insert((*key).to_owned(), "1".into());
            let text = config.check().expect_err("is refused").to_string();
            assert!(text.contains(key), "{key}: {text}");
        }
    }

    #[test]
    fn an_unknown_property_and_a_bad_value_are_both_named() {
        let mut config = KafkaConfig::new("b:1", "i");
        config.properties.insert("linger.mss".into(), "1".into());
        config.properties.insert("batch.size".into(), "many".into());
        let text = config.check().expect_err("is refused").to_string();
        assert!(text.contains("linger.mss") && text.contains("batch.size"), "{text}");
    }

    #[test]
    fn what_the_daemon_sets_itself_is_a_property_it_owns_or_may_be_overridden() {
        let mut config = KafkaConfig::new("b:1", "i");
        config.properties.insert("linger.ms".into(), "7".into());
        assert_eq!(config.lane(Some("x"), 1).get("linger.ms"), Some("7"));
        assert_eq!(config.lane(Some("x"), 1).get("acks"), Some("all"));
    }

    #[test]
    fn kip_848_takes_no_client_side_timeouts() {
        let mut config = KafkaConfig::new("b:1", "i");
        config.membership = Membership::Consumer;
        let member = config.member(&spec());
        for key in ["session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy"] {
            assert_eq!(member.get(key), None, "{key}");
        }
        config.membership = Membership::Dynamic;
        assert_eq!(config.member(&spec()).get("heartbeat.interval.ms"), Some("3000"));
    }
}
