//! What librdkafka tells beside the results of calls: log lines and whether brokers are reachable.
//! Never decides anything.

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Whether any client of this log reaches a broker, as the clients last saw it.
#[derive(Debug, Default)]
pub(super) struct Connectivity {
    down_since: Mutex<Option<Instant>>,
    downs: AtomicU64,
    /// Why a broker that was reached did not talk to us.
    refused: Mutex<Option<String>>,
}

impl Connectivity {
    /// A client lost its last broker.
    fn down(&self, client: &str) {
        let mut since = self.down_since.lock();
        if since.is_none() {
            tracing::warn!(client, "no kafka broker is reachable");
            *since = Some(Instant::now());
            self.downs.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A broker was reached and will not talk to us: it does not know us, or we do not believe that it is it.
    fn refuse(&self, reason: &str) {
        *self.refused.lock() = Some(reason.to_owned());
    }

    /// Why that was, until one is heard to talk to us.
    pub(super) fn refused(&self) -> Option<String> {
        self.refused.lock().clone()
    }

    /// A broker that was asked for nothing else talks to us.
    pub(super) fn welcomed(&self) {
        *self.refused.lock() = None;
    }

    /// A broker answered.
    pub(super) fn up(&self) {
        let mut since = self.down_since.lock();
        if let Some(at) = since.take() {
            tracing::info!(down_ms = at.elapsed().as_millis() as u64, "kafka answers again");
        }
    }

    /// For how long no broker has been reachable, `None` while one is.
    pub(super) fn down_for(&self) -> Option<Duration> {
        self.down_since.lock().map(|at| at.elapsed())
    }

    /// How often the last broker was lost.
    pub(super) fn downs(&self) -> u64 {
        self.downs.load(Ordering::Relaxed)
    }
}

/// The context of every client: routes its log lines, follows its connections.
#[derive(Clone)]
pub(super) struct Events {
    client: Arc<str>,
    connectivity: Arc<Connectivity>,
}

impl Events {
    /// For a client that log lines are to call `client`.
    pub(super) fn new(client: impl Into<Arc<str>>, connectivity: Arc<Connectivity>) -> Self {
        Self { client: client.into(), connectivity }
    }

    /// What connections are followed in.
    pub(super) fn connectivity(&self) -> &Connectivity {
        &self.connectivity
    }
}

impl ClientContext for Events {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        let client = &*self.client;
        // A property that does not concern this kind of client is librdkafka's warning, not ours: all share one list.
        if fac == "CONFWARN" {
            tracing::debug!(target: "librdkafka", client, fac, message);
            return;
        }
        match level {
            // What it calls an error is mostly a lost connection that it makes anew by itself.
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(target: "librdkafka", client, fac, message);
            }
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
                tracing::warn!(target: "librdkafka", client, fac, message);
            }
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(target: "librdkafka", client, fac, message);
            }
            RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", client, fac, message),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let client = &*self.client;
        match error.rdkafka_error_code() {
            // Every reader comes to the end of its partition: that is how it knows that it caught up.
            Some(RDKafkaErrorCode::PartitionEOF) => {}
            Some(RDKafkaErrorCode::AllBrokersDown) => self.connectivity.down(client),
            Some(
                RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL | RDKafkaErrorCode::SaslAuthenticationFailed,
            ) => {
                tracing::warn!(target: "librdkafka", client, %error, reason);
                self.connectivity.refuse(reason);
            }
            // Its log line says the same.
            Some(RDKafkaErrorCode::BrokerTransportFailure) => {
                tracing::debug!(target: "librdkafka", client, %error, reason);
            }
            _ => tracing::warn!(target: "librdkafka", client, %error, reason),
        }
    }
}

impl ConsumerContext for Events {}
