//! A consumer group's membership behind the port: the client in use, and the publishers that commit under it.
//! Never polls from two threads.

use super::Shared;
use super::acked::AckedPublisher;
use super::member::Member;
use super::membership::Membership;
use super::transaction::TransactionalPublisher;
use crate::log::{AssignmentListener, Delivery, Fetched, Group, GroupSpec, LogError, Publisher};
use bulkhead_core::ids::{Partition, Position};
use std::sync::Arc;
use std::time::Duration;

/// What a leave may take beyond the drain of a revoke.
const LEAVE_MARGIN: Duration = Duration::from_secs(5);

pub(super) struct KafkaGroup {
    shared: Arc<Shared>,
    spec: GroupSpec,
    listener: Arc<dyn AssignmentListener>,
    membership: Arc<Membership>,
}

impl KafkaGroup {
    pub(super) fn join(
        shared: Arc<Shared>,
        spec: GroupSpec,
        listener: Arc<dyn AssignmentListener>,
    ) -> Result<Self, LogError> {
        let member = Member::join(&shared, &spec, Arc::clone(&listener))?;
        let membership = Arc::new(Membership::of(member));
        Ok(Self { shared, spec, listener, membership })
    }

    fn with<T>(&self, what: impl FnOnce(&Member) -> Result<T, LogError>) -> Result<T, LogError> {
        self.membership.with(what).unwrap_or_else(|| Err(LogError::ClientDead("no consumer in use".into())))
    }

    fn retire(&self) {
        if let Some(member) = self.membership.take() {
            member.retire();
        }
    }
}

impl Group for KafkaGroup {
    fn poll(&self, wanted: &dyn Fn(Partition) -> bool, max: usize, wait: Duration) -> Result<Vec<Fetched>, LogError> {
        self.with(|member| member.poll(wanted, max, wait))
    }

    fn seek(&self, partition: Partition, position: Position) -> Result<(), LogError> {
        self.with(|member| member.seek(partition, position))
    }

    fn publisher(&self, lane: u32, delivery: Delivery) -> Result<Box<dyn Publisher>, LogError> {
        let shared = Arc::clone(&self.shared);
        let membership = Arc::clone(&self.membership);
        let topic = self.spec.topic.clone();
        Ok(match delivery {
            Delivery::ExactlyOnce => {
                let id = super::transactional_id(&self.spec.group, &self.spec.instance, lane);
                Box::new(TransactionalPublisher::new(shared, membership, topic, id))
            }
            Delivery::AtLeastOnce => {
                let name = format!("{} lane {lane}", self.spec.group);
                Box::new(AckedPublisher::new(shared, membership, topic, name))
            }
        })
    }

    fn rejoin(&self) -> Result<(), LogError> {
        self.retire();
        let member = Member::join(&self.shared, &self.spec, Arc::clone(&self.listener))?;
        self.membership.replace(member);
        Ok(())
    }

    fn leave(&self) -> Result<(), LogError> {
        let wait = self.spec.session_timeout + LEAVE_MARGIN;
        let left = self.with(|member| member.leave(wait));
        self.retire();
        left
    }
}

impl Drop for KafkaGroup {
    fn drop(&mut self) {
        if let Some(member) = self.membership.take() {
            member.abandon();
        }
    }
}
