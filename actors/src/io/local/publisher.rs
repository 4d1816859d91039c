//! A transactional producer: holds a transaction in memory and hands it over whole. Never shows a part of it.

use super::broker::{Broker, Commit, Denied, Unit};
use super::catalog::Epoch;
use super::membership::Membership;
use super::store::{GroupKey, Slot};
use crate::log::{Closing, LogError, Outgoing, PublishError, Publisher};
use bulkhead_core::ids::{Partition, Position};
use bulkhead_core::record::Record;
use std::sync::Arc;
use std::time::Duration;

/// How long a lane waits for writes that are under way before it takes the positions for unknown.
pub(super) const STABLE_WAIT: Duration = Duration::from_secs(10);

pub(super) struct LocalPublisher {
    broker: Arc<Broker>,
    membership: Arc<Membership>,
    lane: String,
    /// Which self of the lane this is; `None` until it is rebuilt.
    epoch: Option<Epoch>,
    open: Option<Transaction>,
}

#[derive(Default)]
struct Transaction {
    records: Vec<(Slot, Record)>,
    bytes: usize,
    produced: usize,
    /// Something of it was refused: it can only be aborted.
    spoilt: bool,
}

impl LocalPublisher {
    pub(super) fn new(broker: Arc<Broker>, membership: Arc<Membership>, lane: String) -> Self {
        Self { broker, membership, lane, epoch: None, open: None }
    }

    fn epoch(&self) -> Result<Epoch, PublishError> {
        let lane = &self.lane;
        let epoch = self.epoch.ok_or_else(|| PublishError::Unknown(format!("lane {lane} must be rebuilt first")))?;
        if self.broker.catalog().holds_lane(lane, epoch) {
            Ok(epoch)
        } else {
            Err(PublishError::Unknown(format!("lane {lane} was taken over by a later publisher")))
        }
    }

    fn add(&mut self, outgoing: &Outgoing) -> Result<(), PublishError> {
        let Some(transaction) = &mut self.open else { return Err(no_transaction()) };
        let index = transaction.produced;
        transaction.produced += 1;
        let size = outgoing.record.size();
        let limits = self.broker.limits;
        if size > limits.record_bytes_max {
            let reason = format!("{size} bytes, more than the {} that a record may have", limits.record_bytes_max);
            return Err(PublishError::Refused { index, reason });
        }
        transaction.bytes += size;
        if transaction.bytes > limits.transaction_bytes_max {
            let (bytes, max) = (transaction.bytes, limits.transaction_bytes_max);
            return Err(PublishError::Void(format!("{bytes} bytes, more than the {max} that a transaction may have")));
        }
        let mut catalog = self.broker.catalog();
        // A missing topic is a matter of configuration; a partition that its topic has not is this record's.
        catalog.topic(&outgoing.topic).map_err(|e| PublishError::Fatal(e.to_string()))?;
        let slot = catalog.place(outgoing).map_err(|e| PublishError::Refused { index, reason: e.to_string() })?;
        transaction.records.push((slot, outgoing.record.clone()));
        Ok(())
    }

    /// Adds a record; a failure leaves a transaction that can only be aborted.
    fn take(&mut self, outgoing: &Outgoing) -> Result<(), PublishError> {
        self.add(outgoing).inspect_err(|_| {
            if let Some(transaction) = &mut self.open {
                transaction.spoilt = true;
            }
        })
    }
}

fn no_transaction() -> PublishError {
    PublishError::Void("no transaction is open".to_owned())
}

impl Publisher for LocalPublisher {
    fn rebuild(&mut self) -> Result<(), PublishError> {
        self.open = None;
        self.epoch = None;
        self.broker.check().map_err(|e| PublishError::Unknown(e.to_string()))?;
        // Between writes: nothing of an earlier self is under way, and nothing of it can be written after.
        self.epoch = Some(self.broker.between_writes(|catalog| catalog.take_lane(&self.lane)));
        Ok(())
    }

    fn begin(&mut self) -> Result<(), PublishError> {
        self.epoch()?;
        if self.open.is_some() {
            return Err(PublishError::Void("a transaction is open already: abort it".to_owned()));
        }
        self.open = Some(Transaction::default());
        Ok(())
    }

    fn produce(&mut self, outgoing: &Outgoing) -> Result<(), PublishError> {
        self.epoch()?;
        self.take(outgoing)
    }

    fn commit(&mut self, closing: &Closing) -> Result<(), PublishError> {
        let epoch = self.epoch()?;
        for segment in &closing.segments {
            self.take(segment)?;
        }
        let Some(transaction) = self.open.take_if(|open| !open.spoilt) else {
            return Err(self.open.as_ref().map_or_else(no_transaction, |_| {
                PublishError::Void("a record of the transaction was refused: abort it".to_owned())
            }));
        };
        let key = self.membership.key.clone();
        let commit = Commit { key, member: self.membership.epoch(), positions: closing.positions.clone() };
        let lane = Some((self.lane.clone(), epoch));
        let unit = Unit { records: transaction.records, commit: Some(commit), lane };
        match self.broker.call(unit) {
            Ok(_) => Ok(()),
            Err(Denied::NotMember(why)) => {
                // As with Kafka, what failed this way is still to be aborted.
                self.open = Some(Transaction { spoilt: true, ..Transaction::default() });
                Err(PublishError::Void(why))
            }
            Err(Denied::NotWritten(why)) => {
                self.open = Some(Transaction { spoilt: true, ..Transaction::default() });
                Err(PublishError::Void(why.to_string()))
            }
            Err(Denied::Fenced(why)) => Err(PublishError::Unknown(why)),
            Err(Denied::Failed(why)) => {
                self.epoch = None;
                Err(PublishError::Unknown(why.to_string()))
            }
        }
    }

    fn abort(&mut self) -> Result<(), PublishError> {
        self.epoch()?;
        self.open = None;
        Ok(())
    }

    fn committed(&mut self, partitions: &[Partition]) -> Result<Vec<Option<Position>>, PublishError> {
        let key = &self.membership.key;
        committed(&self.broker, key, partitions, STABLE_WAIT).map_err(|e| PublishError::Unknown(e.to_string()))
    }

    fn record_bytes_max(&self, _: &str) -> usize {
        self.broker.limits.record_bytes_max
    }
}

/// The group's positions once everything handed over before is written.
pub(super) fn committed(
    broker: &Broker,
    key: &GroupKey,
    partitions: &[Partition],
    wait: Duration,
) -> Result<Vec<Option<Position>>, LogError> {
    broker.barrier(wait)?;
    let catalog = broker.catalog();
    Ok(partitions.iter().map(|partition| catalog.position(key, *partition)).collect())
}
