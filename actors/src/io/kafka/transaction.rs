//! The exactly-once publisher: outputs, segments and positions in one Kafka transaction.
//! Never trusts the result of ending a transaction alone: how long it took decides, too (`notes/kafka-measured.md` E6).

use super::Shared;
use super::admin::position_list;
use super::errors::{Verdict, publish_error, transaction};
use super::membership::Membership;
use super::sender::{Batching, Sender};
use crate::log::{Closing, Outgoing, PublishError, Publisher};
use bulkhead_core::ids::{Partition, Position};
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaResult;
use rdkafka::producer::Producer;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A lane's transactional producer.
pub(super) struct TransactionalPublisher {
    shared: Arc<Shared>,
    membership: Arc<Membership>,
    topic: String,
    id: String,
    /// `None` before the first rebuild and from an unknown outcome to the next.
    sender: Option<Sender>,
    batching: Batching,
    open: bool,
    /// The producer in use sends record by record, which is needed no more.
    relaxed: bool,
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Commit,
    Abort,
}

/// What a call may take beyond the limit that librdkafka was given for it.
const SURPLUS: Duration = Duration::from_secs(3);

fn no_producer() -> PublishError {
    PublishError::Unknown("no producer: rebuild first".into())
}

impl TransactionalPublisher {
    pub(super) fn new(shared: Arc<Shared>, membership: Arc<Membership>, topic: String, id: String) -> Self {
        Self { shared, membership, topic, id, sender: None, batching: Batching::default(), open: false, relaxed: false }
    }

    fn sender(&self) -> Result<&Sender, PublishError> {
        self.sender.as_ref().ok_or_else(no_producer)
    }

    /// Drops the producer where the outcome says that it must not be used again.
    fn settle<T>(&mut self, outcome: Result<T, PublishError>) -> Result<T, PublishError> {
        if let Err(PublishError::Unknown(why)) = &outcome {
            tracing::warn!(id = self.id, why, "transactional producer is given up");
            self.retire();
        }
        outcome
    }

    fn retire(&mut self) {
        self.open = false;
        if let Some(sender) = self.sender.take() {
            sender.retire();
        }
    }

    fn prepare(&mut self, closing: &Closing, ours: &dyn Fn() -> bool) -> Result<(), PublishError> {
        for segment in &closing.segments {
            self.produce(segment)?;
        }
        self.sender.as_ref().ok_or_else(no_producer)?.drain(&mut self.batching)?;
        if closing.positions.is_empty() { Ok(()) } else { self.send_offsets(&closing.positions, ours) }
    }

    /// Adds the positions, under the membership as it is now: an older generation would be refused though we still own
    /// the partitions. That they are still ours is the caller's to know (rule 4), and is asked once the membership was
    /// taken: if they are lost after that, it is too old to be accepted.
    fn send_offsets(&self, positions: &[(Partition, Position)], ours: &dyn Fn() -> bool) -> Result<(), PublishError> {
        let list = position_list(&self.topic, positions).map_err(|e| publish_error("positions", &e))?;
        let member = self.membership.with(|member| member.client().group_metadata()).flatten();
        let metadata = member.ok_or_else(|| PublishError::Void("no consumer in use".into()))?;
        if !ours() {
            return Err(PublishError::not_ours());
        }
        let (wait, patience) = (self.call_wait(), self.shared.config.transaction_timeout);
        let (list, metadata) = (Arc::new(list), Arc::new(metadata));
        let sender = self.sender()?;
        let started = Instant::now();
        loop {
            let (list, metadata) = (Arc::clone(&list), Arc::clone(&metadata));
            // librdkafka waits for this one without a limit of its own (`RD_POLL_INFINITE`), and an answer that a dying
            // broker took along never comes: the third death in a cluster of three left a lane there for good.
            let answer = sender.within("send positions", wait + SURPLUS, move |producer| {
                producer.send_offsets_to_transaction(&list, &metadata, wait)
            })?;
            match answer.map_err(|e| transaction("send positions", &e)) {
                Ok(()) => return Ok(()),
                Err(Verdict::Failed(error)) => return Err(error),
                // Nothing was asked to be committed yet: what was added is void with its transaction.
                Err(Verdict::Again(why)) if started.elapsed() >= patience => return Err(PublishError::Void(why)),
                Err(Verdict::Again(why)) => tracing::debug!(id = self.id, why, "sends positions again"),
            }
        }
    }

    /// Ends the transaction. An end that took a second call, or so long that librdkafka may have sent its request
    /// twice, leaves a late twin under way that would end the *next* transaction of this producer: its outcome is
    /// unknown.
    fn end(&self, how: End) -> Result<(), PublishError> {
        let (wait, patience) = (self.call_wait(), self.shared.config.transaction_timeout);
        let suspect = self.shared.config.socket_timeout * 9 / 10;
        let producer = self.sender()?.producer();
        let started = Instant::now();
        let mut calls = 0_u32;
        let mut reason = String::new();
        loop {
            calls += 1;
            let answer: KafkaResult<()> = match how {
                End::Commit => producer.commit_transaction(wait),
                End::Abort => producer.abort_transaction(wait),
            };
            match answer.map_err(|e| transaction("end transaction", &e)) {
                Ok(()) if calls == 1 && started.elapsed() < suspect => return Ok(()),
                Err(Verdict::Failed(error)) if calls == 1 && started.elapsed() < suspect => return Err(error),
                Err(Verdict::Again(why)) if started.elapsed() < patience => {
                    tracing::debug!(id = self.id, why, "ends the transaction again");
                    reason = why;
                }
                late => {
                    let took = started.elapsed().as_millis();
                    let text = format!("{how:?} took {calls} calls and {took} ms, ending in {late:?} {reason}");
                    return Err(match late {
                        Err(Verdict::Failed(fatal @ PublishError::Fatal(_))) => fatal,
                        _ => PublishError::Unknown(text),
                    });
                }
            }
        }
    }

    /// One call waits longer than librdkafka's own request does.
    fn call_wait(&self) -> Duration {
        self.shared.config.socket_timeout + Duration::from_secs(2)
    }
}

impl Publisher for TransactionalPublisher {
    fn rebuild(&mut self) -> Result<(), PublishError> {
        self.retire();
        self.shared.counters.rebuilds.fetch_add(1, Ordering::Relaxed);
        self.sender = Some(ready(&self.shared, &self.id, &self.batching)?);
        Ok(())
    }

    fn begin(&mut self) -> Result<(), PublishError> {
        if self.relaxed {
            self.relaxed = false;
            self.rebuild()?;
        }
        let sender = self.sender.as_mut().ok_or_else(no_producer)?;
        sender.start();
        let begun = sender.producer().begin_transaction().map_err(|e| match transaction("begin", &e) {
            Verdict::Failed(error) => error,
            Verdict::Again(why) => PublishError::Unknown(why),
        });
        self.open = begun.is_ok();
        self.settle(begun)
    }

    fn produce(&mut self, outgoing: &Outgoing) -> Result<(), PublishError> {
        let sent = match &mut self.sender {
            Some(sender) => sender.send(outgoing, &mut self.batching),
            None => Err(no_producer()),
        };
        self.settle(sent)
    }

    fn commit(&mut self, closing: &Closing) -> Result<(), PublishError> {
        self.commit_if(closing, &|| true)
    }

    fn commit_if(&mut self, closing: &Closing, ours: &dyn Fn() -> bool) -> Result<(), PublishError> {
        let outcome = self.prepare(closing, ours).and_then(|()| self.end(End::Commit));
        if outcome.is_ok() {
            self.open = false;
            self.relaxed = self.batching.is_singly();
            self.batching.relax();
            self.shared.connectivity.up();
        }
        self.settle(outcome)
    }

    fn abort(&mut self) -> Result<(), PublishError> {
        let Some(sender) = self.sender.as_ref().filter(|_| self.open) else { return Ok(()) };
        if sender.is_spoilt() {
            // librdkafka takes 7 s and more to abort over a gap in the numbering (measured); a successor's start does
            // the same within one.
            return self.rebuild();
        }
        let outcome = sender.served(|_| self.end(End::Abort)).and_then(|ended| ended);
        self.open = false;
        // An abort that failed has no other way out than a new producer, whose start aborts the same transaction.
        let outcome = outcome.map_err(|error| match error {
            PublishError::Fatal(_) => error,
            other => PublishError::Unknown(other.to_string()),
        });
        self.settle(outcome)
    }

    fn committed(&mut self, partitions: &[Partition]) -> Result<Vec<Option<Position>>, PublishError> {
        self.membership.committed(&self.topic, partitions, self.shared.config.call_timeout)
    }

    fn record_bytes_max(&self, topic: &str) -> usize {
        self.batching.record_bytes_max(&self.shared, topic)
    }
}

impl Drop for TransactionalPublisher {
    fn drop(&mut self) {
        self.retire();
    }
}

/// A producer that is ready for transactions: its earlier selves are fenced, what they left open is settled.
pub(super) fn ready(shared: &Arc<Shared>, id: &str, batching: &Batching) -> Result<Sender, PublishError> {
    let sender = Sender::create(shared, id, Some(id), batching)?;
    let wait = shared.config.socket_timeout + Duration::from_secs(2);
    let deadline = Instant::now() + shared.config.transaction_timeout;
    loop {
        match sender.producer().init_transactions(wait).map_err(|e| transaction("init transactions", &e)) {
            Ok(()) => {
                shared.connectivity.up();
                return Ok(sender);
            }
            Err(Verdict::Again(_)) if Instant::now() < deadline => {}
            Err(Verdict::Again(why)) => {
                sender.retire();
                return Err(PublishError::Unknown(why));
            }
            Err(Verdict::Failed(error)) => {
                sender.retire();
                return Err(match error {
                    PublishError::Fatal(_) => error,
                    other => PublishError::Unknown(other.to_string()),
                });
            }
        }
    }
}
