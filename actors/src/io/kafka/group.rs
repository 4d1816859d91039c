//! A consumer group's membership behind the port: the client in use, and the publishers that commit under it.
//! Never polls from two threads.

use super::Shared;
use super::acked::AckedPublisher;
use super::admin::{partition_list, positions};
use super::errors::publish_error;
use super::member::Member;
use super::transaction::TransactionalPublisher;
use crate::log::{AssignmentListener, Delivery, Fetched, Group, GroupSpec, LogError, PublishError, Publisher};
use bulkhead_core::ids::{Partition, Position};
use parking_lot::RwLock;
use rdkafka::consumer::Consumer;
use std::sync::Arc;
use std::time::Duration;

/// What a leave may take beyond the drain of a revoke.
const LEAVE_MARGIN: Duration = Duration::from_secs(5);

/// The client in use, shared with the publishers. Readers use it in place and never keep it: whoever let go of it last
/// would have to drop it.
#[derive(Default)]
pub(super) struct Membership {
    current: RwLock<Option<Member>>,
}

impl Membership {
    /// Does something with the client in use; `None` while there is none. Recursive, because a lane may commit while
    /// the polling thread, which reads, too, waits for it in a revoke.
    pub(super) fn with<T>(&self, what: impl FnOnce(&Member) -> T) -> Option<T> {
        self.current.read_recursive().as_ref().map(what)
    }

    /// The group's positions as the client in use is told them.
    pub(super) fn committed(
        &self,
        topic: &str,
        partitions: &[Partition],
        wait: Duration,
    ) -> Result<Vec<Option<Position>>, PublishError> {
        let ask = |member: &Member| {
            let answer = member.client().committed_offsets(partition_list(topic, partitions), wait)?;
            positions(&answer, topic, partitions)
        };
        let answer = self.with(ask).ok_or_else(|| PublishError::Unknown("no consumer in use".into()))?;
        answer.map_err(|e| publish_error("committed positions", &e))
    }
}

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
        let membership = Arc::new(Membership { current: RwLock::new(Some(member)) });
        Ok(Self { shared, spec, listener, membership })
    }

    fn with<T>(&self, what: impl FnOnce(&Member) -> Result<T, LogError>) -> Result<T, LogError> {
        self.membership.with(what).unwrap_or_else(|| Err(LogError::ClientDead("no consumer in use".into())))
    }

    fn retire(&self) {
        let member = self.membership.current.write().take();
        if let Some(member) = member {
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
        *self.membership.current.write() = Some(member);
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
        if let Some(member) = self.membership.current.write().take() {
            member.abandon();
        }
    }
}
