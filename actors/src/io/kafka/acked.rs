//! The at-least-once publisher: outputs acknowledged, then segments acknowledged, then the position.
//! Never commits a position before what it stands for is durable.

use super::Shared;
use super::admin::position_list;
use super::errors::publish_error;
use super::membership::Membership;
use super::sender::{Batching, Sender};
use crate::log::{Closing, Outgoing, PublishError, Publisher};
use bulkhead_core::ids::{Partition, Position};
use rdkafka::consumer::{CommitMode, Consumer};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A lane's idempotent producer.
pub(super) struct AckedPublisher {
    shared: Arc<Shared>,
    membership: Arc<Membership>,
    topic: String,
    name: String,
    sender: Option<Sender>,
    batching: Batching,
    /// The producer in use sends record by record, which is needed no more.
    relaxed: bool,
}

impl AckedPublisher {
    pub(super) fn new(shared: Arc<Shared>, membership: Arc<Membership>, topic: String, name: String) -> Self {
        Self { shared, membership, topic, name, sender: None, batching: Batching::default(), relaxed: false }
    }

    fn sender(&mut self) -> Result<(&mut Sender, &mut Batching), PublishError> {
        match &mut self.sender {
            Some(sender) => Ok((sender, &mut self.batching)),
            None => Err(PublishError::Unknown("no producer: rebuild first".into())),
        }
    }

    fn settle<T>(&mut self, outcome: Result<T, PublishError>) -> Result<T, PublishError> {
        if let Err(PublishError::Unknown(why)) = &outcome {
            tracing::warn!(publisher = self.name, why, "producer is given up");
            self.retire();
        }
        outcome
    }

    fn retire(&mut self) {
        if let Some(sender) = self.sender.take() {
            sender.retire();
        }
    }

    fn publish(&mut self, closing: &Closing, ours: &dyn Fn() -> bool) -> Result<(), PublishError> {
        let (sender, batching) = self.sender()?;
        sender.drain(batching)?;
        for segment in &closing.segments {
            sender.send(segment, batching)?;
        }
        sender.drain(batching)?;
        if closing.positions.is_empty() {
            return Ok(());
        }
        if !ours() {
            return Err(PublishError::not_ours());
        }
        let list = position_list(&self.topic, &closing.positions).map_err(|e| publish_error("positions", &e))?;
        let answer = self.membership.with(|member| member.client().commit(&list, CommitMode::Sync));
        answer
            .ok_or_else(|| PublishError::Void("no consumer in use".into()))?
            .map_err(|e| publish_error("commit positions", &e))
    }
}

impl Publisher for AckedPublisher {
    fn rebuild(&mut self) -> Result<(), PublishError> {
        self.retire();
        self.shared.counters.rebuilds.fetch_add(1, Ordering::Relaxed);
        self.sender = Some(Sender::create(&self.shared, &self.name, None, &self.batching)?);
        Ok(())
    }

    fn begin(&mut self) -> Result<(), PublishError> {
        if self.relaxed {
            self.relaxed = false;
            self.rebuild()?;
        }
        self.sender()?.0.start();
        Ok(())
    }

    fn produce(&mut self, outgoing: &Outgoing) -> Result<(), PublishError> {
        let sent = self.sender().and_then(|(sender, batching)| sender.send(outgoing, batching));
        self.settle(sent)
    }

    fn commit(&mut self, closing: &Closing) -> Result<(), PublishError> {
        self.commit_if(closing, &|| true)
    }

    fn commit_if(&mut self, closing: &Closing, ours: &dyn Fn() -> bool) -> Result<(), PublishError> {
        let outcome = self.publish(closing, ours);
        if outcome.is_ok() {
            self.relaxed = self.batching.is_singly();
            self.batching.relax();
            self.shared.connectivity.up();
        }
        self.settle(outcome)
    }

    fn abort(&mut self) -> Result<(), PublishError> {
        // What is on its way may arrive or not: at least once, and the next attempt sends it again.
        let outcome = match self.sender() {
            Ok((sender, batching)) => sender.drain(batching),
            Err(_) => Ok(()),
        };
        match self.settle(outcome) {
            Err(unknown @ (PublishError::Unknown(_) | PublishError::Fatal(_))) => Err(unknown),
            _ => Ok(()),
        }
    }

    fn committed(&mut self, partitions: &[Partition]) -> Result<Vec<Option<Position>>, PublishError> {
        self.membership.committed(&self.topic, partitions, self.shared.config.call_timeout)
    }

    fn record_bytes_max(&self, topic: &str) -> usize {
        self.batching.record_bytes_max(&self.shared, topic)
    }
}

impl Drop for AckedPublisher {
    fn drop(&mut self) {
        self.retire();
    }
}
