//! librdkafka properties in the config: which are refused because the guarantees rest on them, and which are secret.
//! Never hands them to librdkafka.

use super::daemon::Property;
use super::document::Document;
use super::secret;
use super::shape::join;
use bulkhead_actors::io::kafka::{owned_properties, refused};
use std::collections::BTreeMap;
use std::path::Path;

/// What to do instead of setting a property that the daemon owns, where there is something.
const INSTEAD: &[(&str, &str)] = &[
    ("acks", "every write waits for all in-sync replicas"),
    ("auto.offset.reset", "a new group begins at the log's start; see pipeline.source.on_gap"),
    ("bootstrap.servers", "use kafka.brokers"),
    ("enable.auto.commit", "positions are committed with the results"),
    ("enable.auto.offset.store", "positions are committed with the results"),
    ("enable.idempotence", "every producer is idempotent"),
    ("group.id", "use pipeline.source.group"),
    ("isolation.level", "only committed records are read"),
    ("metadata.broker.list", "use kafka.brokers"),
    ("partition.assignment.strategy", "cooperative-sticky is used"),
    ("partitioner", "murmur2_random is used, so that keys land where Java clients put them"),
    ("request.required.acks", "every write waits for all in-sync replicas"),
    ("session.timeout.ms", "use kafka.session_timeout"),
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
        if let Err(why) = check_one(name, value, &path, raw, dir) {
            wrong.push((path, why));
        }
    }
    wrong
}

fn check_one(name: &str, value: &mut Property, path: &str, raw: &Document, dir: &Path) -> Result<(), String> {
    let lower = name.to_ascii_lowercase();
    if owned_properties().contains(&lower.as_str()) {
        let instead = INSTEAD.iter().find(|(owned, _)| *owned == lower);
        let why = instead.map_or("what it promises rests on it", |(_, why)| why);
        return Err(format!("the daemon sets this property itself: {why}"));
    }
    if !is_secret(path) {
        return refused(name, &value.0).map_or(Ok(()), |why| Err(format!("librdkafka refuses it: {why}")));
    }
    value.0 = secret::fetch(&value.0, raw.is_varied(path), dir)?;
    // What librdkafka says may hold the value.
    refused(name, &value.0).map_or(Ok(()), |_| Err("librdkafka refuses it; its words are kept back".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_advice_is_for_a_property_that_is_refused() {
        let unowned: Vec<_> = INSTEAD.iter().filter(|(name, _)| !owned_properties().contains(name)).collect();
        assert!(unowned.is_empty(), "{unowned:?}");
    }

    #[test]
    fn passwords_and_keys_are_secret_and_names_are_not() {
        let secret = |name: &str| is_secret(&join(TABLE, name));
        for name in ["sasl.password", "ssl.key.pem", "ssl.keystore.password", "sasl.oauthbearer.client.secret"] {
            assert!(secret(name), "{name}");
        }
        for name in ["sasl.username", "ssl.key.location", "ssl.ca.pem", "security.protocol", "debug"] {
            assert!(!secret(name), "{name}");
        }
    }
}
