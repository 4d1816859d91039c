//! A lane's native producer: hands records over, waits for their acknowledgements, and knows which one was refused.
//! Never calls rdkafka's `flush`, which waits in slots of 100 ms (`notes/performance.md`).

use super::Shared;
use super::errors::{Class, class, log_error};
use super::events::Events;
use super::{limits, wire};
use crate::log::{LogError, Outgoing, PublishError};
use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks whether all is acknowledged. rdkafka's own `poll` cannot wait for less than 1 ms: it would spin.
const DRAIN_POLL: Duration = Duration::from_micros(200);
/// What a drain may take beyond the time after which librdkafka gives a record up by itself.
const DRAIN_MARGIN: Duration = Duration::from_secs(2);

/// How often idle producers are served.
const IDLE_SERVED_EVERY: Duration = Duration::from_secs(1);
/// How many events each may give then; more than librdkafka makes in that time.
const IDLE_EVENTS_MAX: usize = 16;

/// What went wrong with deliveries since the last look.
#[derive(Default)]
struct Failures {
    /// The first record that was refused, and why.
    refused: Option<(usize, Code)>,
    /// How many were.
    refusals: usize,
    /// A failure that is no record's fault.
    other: Option<Code>,
}

/// The producer's context: only failures are reported (`delivery.report.only.error`), with the record's ordinal.
pub(super) struct Reports {
    events: Events,
    failures: Mutex<Failures>,
    failed: AtomicBool,
    /// Whether any delivery has failed since the start, looked at or not.
    spoilt: AtomicBool,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        self.events.log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.events.error(error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, ordinal: usize) {
        let Err((error, _)) = result else { return };
        let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
        if matches!(code, Code::PurgeQueue | Code::PurgeInflight) {
            return;
        }
        self.failures.lock().add(ordinal, code);
        self.failed.store(true, Ordering::Release);
        self.spoilt.store(true, Ordering::Release);
    }
}

impl Failures {
    fn add(&mut self, ordinal: usize, code: Code) {
        if code == Code::InvalidDifferentRecord || class(code) != Class::Record {
            // Another record of its batch is to blame, or none.
            self.other.get_or_insert(code);
            return;
        }
        self.refusals += 1;
        if self.refused.is_none_or(|(first, _)| ordinal < first) {
            self.refused = Some((ordinal, code));
        }
    }

    /// What the caller is told. A batch is refused as a whole, and brokers rarely say which record it was: `batching`
    /// then asks for a producer that sends each record in a batch of its own.
    fn into_error(self, batching: &mut Batching) -> Option<PublishError> {
        if let Some((index, code)) = self.refused {
            if self.refusals == 1 || batching.singly {
                return Some(PublishError::Refused { index, reason: code.to_string() });
            }
            batching.singly = true;
            return Some(PublishError::Unknown(format!("a batch was refused ({code}): to be sent record by record")));
        }
        let code = self.other?;
        let text = format!("delivery: {code}");
        Some(match class(code) {
            Class::Dead => PublishError::Unknown(text),
            Class::Final if code != Code::InvalidDifferentRecord => PublishError::Fatal(text),
            _ => PublishError::Void(text),
        })
    }
}

/// How this publisher's producers may build batches. Outlives them.
#[derive(Default)]
pub(super) struct Batching {
    /// One record a batch: the transaction that comes holds a record that the broker refuses, and this names it.
    singly: bool,
    /// What the topics that this publisher has met take.
    bytes: HashMap<Arc<str>, usize>,
    /// The topic of the record before: mostly that of the next one, too.
    last: Option<(Arc<str>, usize)>,
}

impl Batching {
    /// The size of the largest record that the topic takes; what brokers take by default where it was never met.
    pub(super) fn record_bytes_max(&self, shared: &Shared, topic: &str) -> usize {
        let known = self.bytes.get(topic).copied().or_else(|| shared.limits.known(topic));
        limits::record_bytes(known.unwrap_or_else(|| shared.base_limit()))
    }

    fn of(&mut self, shared: &Shared, topic: &Arc<str>) -> Result<usize, LogError> {
        if let Some((last, limit)) = &self.last
            && Arc::ptr_eq(last, topic)
        {
            return Ok(*limit);
        }
        let limit = match self.bytes.get(topic) {
            Some(limit) => *limit,
            None => {
                let limit = shared.topic_limit(topic)?;
                self.bytes.insert(Arc::clone(topic), limit);
                limit
            }
        };
        self.last = Some((Arc::clone(topic), limit));
        Ok(limit)
    }

    /// Whether the next producer is to be another than the one in use.
    pub(super) fn is_singly(&self) -> bool {
        self.singly
    }

    /// The troublesome transaction is over.
    pub(super) fn relax(&mut self) {
        self.singly = false;
    }

    /// What we believed of the topics' limits may be stale.
    fn forget(&mut self, shared: &Shared) {
        for topic in self.bytes.keys() {
            shared.limits.forget(topic);
        }
        self.bytes.clear();
        self.last = None;
    }
}

/// The producers there are, so that what librdkafka tells of an idle one (log lines, lost connections) is taken from
/// its queue, which has no bound: nobody else polls a lane that has nothing to publish.
#[derive(Default)]
pub(super) struct IdleProducers {
    producers: Vec<Weak<BaseProducer<Reports>>>,
    served: Option<Instant>,
}

impl IdleProducers {
    fn add(&mut self, producer: &Arc<BaseProducer<Reports>>) {
        self.producers.retain(|known| known.strong_count() > 0);
        self.producers.push(Arc::downgrade(producer));
    }
}

impl Shared {
    /// Serves every producer a little, at most once a second; a group's polling thread calls this.
    pub(super) fn serve_idle(&self) {
        let Some(mut idle) = self.idle.try_lock() else { return };
        if idle.served.is_some_and(|at| at.elapsed() < IDLE_SERVED_EVERY) {
            return;
        }
        idle.served = Some(Instant::now());
        for producer in idle.producers.iter().filter_map(Weak::upgrade) {
            for _ in 0..IDLE_EVENTS_MAX {
                producer.poll(Duration::ZERO);
            }
            if Arc::strong_count(&producer) == 1 {
                self.disposal.drop_elsewhere("producer", producer);
            }
        }
    }
}

/// Sets a flag when it goes.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// A producer and what it has been given since the last [`Sender::start`].
pub(super) struct Sender {
    shared: Arc<Shared>,
    producer: Arc<BaseProducer<Reports>>,
    batch_bytes: usize,
    next: usize,
}

impl Sender {
    /// Creates the producer; `id` is its `transactional.id`, where it has one.
    pub(super) fn create(
        shared: &Arc<Shared>,
        name: &str,
        id: Option<&str>,
        batching: &Batching,
    ) -> Result<Self, PublishError> {
        let batch_bytes = shared.limits.batch_bytes();
        let context = Reports {
            events: shared.events(name),
            failures: Mutex::default(),
            failed: AtomicBool::new(false),
            spoilt: AtomicBool::new(false),
        };
        let mut config = shared.config.lane(id, batch_bytes);
        if batching.singly {
            config.set("batch.num.messages", "1");
        }
        let producer = BaseProducer::from_config_and_context(&config, context)
            .map_err(|e| PublishError::Fatal(log_error("create producer", &e).to_string()))?;
        let producer = Arc::new(producer);
        shared.idle.lock().add(&producer);
        Ok(Self { shared: Arc::clone(shared), producer, batch_bytes, next: 0 })
    }

    /// The native producer, for transaction calls.
    pub(super) fn producer(&self) -> &BaseProducer<Reports> {
        &self.producer
    }

    /// Counts records from 0 again.
    pub(super) fn start(&mut self) {
        self.next = 0;
        *self.reports().failures.lock() = Failures::default();
        self.reports().failed.store(false, Ordering::Release);
        self.reports().spoilt.store(false, Ordering::Release);
        self.producer.poll(Duration::ZERO);
    }

    /// Hands one record over. Waits while librdkafka's queue is full.
    pub(super) fn send(&mut self, outgoing: &Outgoing, batching: &mut Batching) -> Result<(), PublishError> {
        let index = self.next;
        self.next += 1;
        self.check(index, outgoing, batching)?;
        let record = &outgoing.record;
        let mut message =
            BaseRecord::<[u8], [u8], usize>::with_opaque_to(&outgoing.topic, index).timestamp(record.timestamp.0);
        message.partition = outgoing.partition.map(|p| p.0);
        message.key = record.key.as_deref();
        message.payload = record.value.as_deref();
        message.headers = wire::headers(record).map_err(|reason| PublishError::Refused { index, reason })?;
        let mut deadline = None;
        loop {
            match self.producer.send(message) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(Code::QueueFull), back)) => {
                    let until = *deadline.get_or_insert_with(|| Instant::now() + self.patience());
                    if Instant::now() >= until {
                        return Err(PublishError::Void("produce: queue full for too long".into()));
                    }
                    self.pause();
                    self.failure(batching)?;
                    message = back;
                }
                Err((error, _)) => return Err(self.not_sent(index, &error, batching)),
            }
        }
    }

    fn check(&self, index: usize, outgoing: &Outgoing, batching: &mut Batching) -> Result<(), PublishError> {
        let limit = batching.of(&self.shared, &outgoing.topic).map_err(|error| match error {
            LogError::Refused(_) => PublishError::Fatal(error.to_string()),
            _ => PublishError::Void(error.to_string()),
        })?;
        if limit < self.batch_bytes {
            // Batches of small records would be refused as a whole: the next producer builds smaller ones.
            let topic = &outgoing.topic;
            return Err(PublishError::Unknown(format!(
                "{topic} takes {limit} bytes a batch: the producer must be rebuilt"
            )));
        }
        let (size, most) = (outgoing.record.size(), limits::record_bytes(limit));
        if size > most {
            let reason = format!("{size} bytes, {} takes {most}", outgoing.topic);
            return Err(PublishError::Refused { index, reason });
        }
        Ok(())
    }

    /// Why librdkafka would not take a record.
    fn not_sent(&self, index: usize, error: &KafkaError, batching: &mut Batching) -> PublishError {
        if let Err(earlier) = self.failure(batching) {
            return earlier;
        }
        let text = format!("produce: {error}");
        match error.rdkafka_error_code() {
            // The transaction has failed meanwhile, or none is open.
            Some(Code::State) => PublishError::Void(text),
            Some(code) => match class(code) {
                Class::Record => PublishError::Refused { index, reason: code.to_string() },
                Class::Dead => PublishError::Unknown(text),
                Class::Passing | Class::Moved => PublishError::Void(text),
                Class::Final => PublishError::Fatal(text),
            },
            None => PublishError::Refused { index, reason: text },
        }
    }

    /// Waits until every record is acknowledged or has failed.
    pub(super) fn drain(&self, batching: &mut Batching) -> Result<(), PublishError> {
        let deadline = Instant::now() + self.patience();
        while self.producer.in_flight_count() > 0 {
            if Instant::now() >= deadline {
                return Err(PublishError::Unknown("deliveries neither acknowledged nor given up".into()));
            }
            self.pause();
            // One that failed makes the rest useless.
            self.failure(batching)?;
        }
        let outcome = self.failure(batching);
        if let Err(PublishError::Refused { .. }) = outcome {
            batching.forget(&self.shared);
        }
        outcome
    }

    /// Runs a call that waits for deliveries but does not serve their reports, while another thread serves them.
    /// (librdkafka's abort throws the queue away itself; if we did, the numbering of the records would have gaps.)
    pub(super) fn served<T>(&self, call: impl FnOnce(&BaseProducer<Reports>) -> T) -> Result<T, PublishError> {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let serve = || {
                while !done.load(Ordering::Acquire) {
                    self.pause();
                }
            };
            let spawned = thread::Builder::new().name("kafka-reports".into()).spawn_scoped(scope, serve);
            spawned.map_err(|e| PublishError::Unknown(format!("no thread to serve deliveries: {e}")))?;
            // Also where the call panics: the scope waits for its thread.
            let _ends = Ends(&done);
            Ok(call(&self.producer))
        })
    }

    /// Runs a call on a thread of its own and gives it up past `limit`: for calls that may wait for ever. One that was
    /// given up keeps its thread and its part in the producer until it ends, and counts as stuck; the producer must not
    /// be used again.
    pub(super) fn within<T: Send + 'static>(
        &self,
        doing: &'static str,
        limit: Duration,
        call: impl FnOnce(&BaseProducer<Reports>) -> T + Send + 'static,
    ) -> Result<T, PublishError> {
        let (tell, answer) = channel();
        let (producer, disposal) = (Arc::clone(&self.producer), Arc::clone(&self.shared.disposal));
        let id = disposal.begin();
        let made = thread::Builder::new().name("kafka-call".into()).spawn(move || {
            let unheard = tell.send(call(&producer)).is_err();
            disposal.finished(id, doing);
            if unheard {
                disposal.drop_elsewhere("producer", producer);
            }
        });
        made.map_err(|e| {
            self.shared.disposal.finished(id, doing);
            PublishError::Void(format!("{doing}: no thread: {e}"))
        })?;
        answer.recv_timeout(limit).map_err(|e| PublishError::Unknown(format!("{doing}: {e}, given up after {limit:?}")))
    }

    /// Drops the producer elsewhere.
    pub(super) fn retire(self) {
        let disposal = Arc::clone(&self.shared.disposal);
        disposal.drop_elsewhere("producer", self.producer);
    }

    /// Whether a delivery has failed since the start: the numbering of the records has a gap.
    pub(super) fn is_spoilt(&self) -> bool {
        self.reports().spoilt.load(Ordering::Acquire)
    }

    fn failure(&self, batching: &mut Batching) -> Result<(), PublishError> {
        let reports = self.reports();
        if !reports.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        // Not all of a failed batch has been reported yet, and the record to blame may be among the rest.
        self.producer.poll(Duration::ZERO);
        reports.failed.store(false, Ordering::Release);
        std::mem::take(&mut *reports.failures.lock()).into_error(batching).map_or(Ok(()), Err)
    }

    fn pause(&self) {
        self.producer.poll(Duration::ZERO);
        thread::sleep(DRAIN_POLL);
    }

    fn patience(&self) -> Duration {
        self.shared.config.transaction_timeout + DRAIN_MARGIN
    }

    fn reports(&self) -> &Reports {
        self.producer.client().context()
    }
}
