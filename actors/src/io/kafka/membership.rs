//! The one client of a group that is in use, shared by the group and the publishers that commit under it.
//! Never joins or leaves by itself.

use super::admin::{partition_list, positions};
use super::errors::publish_error;
use super::member::Member;
use crate::log::PublishError;
use bulkhead_core::ids::{Partition, Position};
use parking_lot::RwLock;
use rdkafka::consumer::Consumer;
use std::time::Duration;

/// The client in use, shared with the publishers. Readers use it in place and never keep it: whoever let go of it last
/// would have to drop it.
pub(super) struct Membership {
    current: RwLock<Option<Member>>,
}

impl Membership {
    /// With this client in use.
    pub(super) fn of(member: Member) -> Self {
        Self { current: RwLock::new(Some(member)) }
    }

    /// Takes the client out of use.
    pub(super) fn take(&self) -> Option<Member> {
        self.current.write().take()
    }

    /// Puts a client in use, after [`Self::take`].
    pub(super) fn replace(&self, member: Member) {
        *self.current.write() = Some(member);
    }

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
