//! Single records, each acknowledged by itself (acks=all, idempotent). Never blocks its caller, never sends a record
//! twice by itself.

use super::Shared;
use super::errors::log_error;
use super::events::Events;
use super::{limits, wire};
use crate::log::{LogError, Outgoing, Producer};
use bulkhead_core::ids::{Offset, Partition};
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use parking_lot::RwLock;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::producer::future_producer::OwnedDeliveryResult;
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer as _};
use rdkafka::util::DefaultRuntime;
use std::sync::Arc;
use std::time::Duration;

type Native = FutureProducer<Events, DefaultRuntime>;

/// The client in use, and how many there were before it.
struct Current {
    native: Native,
    number: u64,
}

pub(super) struct KafkaProducer {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    /// How long a record may wait for its acknowledgement; `None`: as long as it takes.
    timeout: Option<Duration>,
    current: RwLock<Current>,
}

impl KafkaProducer {
    pub(super) fn new(shared: Arc<Shared>, timeout: Option<Duration>) -> Result<Self, LogError> {
        let native = create(&shared, timeout)?;
        let current = RwLock::new(Current { native, number: 0 });
        Ok(Self { inner: Arc::new(Inner { shared, timeout, current }) })
    }
}

fn create(shared: &Shared, timeout: Option<Duration>) -> Result<Native, LogError> {
    let config = shared.config.single(shared.limits.batch_bytes(), timeout);
    Native::from_config_and_context(&config, shared.events("producer")).map_err(|e| log_error("create producer", &e))
}

impl Producer for KafkaProducer {
    fn send(&self, outgoing: Outgoing) -> BoxFuture<'static, Result<(Partition, Offset), LogError>> {
        match self.inner.enqueue(&outgoing) {
            Ok((delivery, number)) => {
                let inner = Arc::clone(&self.inner);
                async move { inner.answer(delivery.await, number) }.boxed()
            }
            Err(error) => ready(Err(error)).boxed(),
        }
    }

    fn record_bytes_max(&self, topic: &str) -> usize {
        self.inner.shared.limits.known(topic).map_or(usize::MAX, limits::record_bytes)
    }
}

impl Inner {
    fn enqueue(&self, outgoing: &Outgoing) -> Result<(DeliveryFuture, u64), LogError> {
        let record = &outgoing.record;
        if let Some(limit) = self.shared.limits.known(&outgoing.topic) {
            let (size, most) = (record.size(), limits::record_bytes(limit));
            if size > most {
                let topic = &outgoing.topic;
                return Err(LogError::Refused(format!("record of {size} bytes: {topic} takes {most}")));
            }
        }
        let mut message = FutureRecord::<[u8], [u8]>::to(&outgoing.topic).timestamp(record.timestamp.0);
        message.partition = outgoing.partition.map(|p| p.0);
        message.key = record.key.as_deref();
        message.payload = record.value.as_deref();
        message.headers = wire::headers(record).map_err(LogError::Refused)?;
        let current = self.current.read();
        let number = current.number;
        match current.native.send_result(message) {
            Ok(delivery) => Ok((delivery, number)),
            Err((error, _)) => {
                drop(current);
                Err(self.failed("produce", &error, number))
            }
        }
    }

    fn answer(
        &self,
        delivery: Result<OwnedDeliveryResult, futures::channel::oneshot::Canceled>,
        number: u64,
    ) -> Result<(Partition, Offset), LogError> {
        match delivery {
            Ok(Ok(delivered)) => {
                self.shared.connectivity.up();
                Ok((Partition(delivered.partition), Offset(delivered.offset)))
            }
            Ok(Err((error, _))) => Err(self.failed("deliver", &error, number)),
            Err(_) => Err(LogError::Unavailable("the producer was replaced before the record was acknowledged".into())),
        }
    }

    /// Sorts an error. A client that is dead is replaced at once: its caller can do nothing but call again.
    fn failed(&self, doing: &str, error: &rdkafka::error::KafkaError, number: u64) -> LogError {
        let sorted = log_error(doing, error);
        let dead = matches!(sorted, LogError::ClientDead(_));
        if !dead && self.current.read().native.client().fatal_error().is_none() {
            return sorted;
        }
        let mut current = self.current.write();
        if current.number == number {
            match create(&self.shared, self.timeout) {
                Ok(native) => {
                    let old = std::mem::replace(&mut current.native, native);
                    current.number += 1;
                    self.shared.disposal.drop_elsewhere("producer", old);
                }
                Err(refused) => return refused,
            }
        }
        LogError::Unavailable(format!("{sorted}; the producer was replaced"))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Its last reference joins a thread and waits for what is unsent.
        let native = self.current.get_mut().native.clone();
        self.shared.disposal.drop_elsewhere("producer", native);
    }
}
