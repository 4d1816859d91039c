//! The group as the broker keeps it: members, their epoch, who is to have which partition and who has it.
//! Never calls a member back: members find out when they poll.

use crate::rng::Rng;
use crate::source_log::{PARTITIONS, partitions};
use bulkhead_core::ids::Partition;

/// What a client says of itself with a commit: its member id and the group's epoch as it knows it.
pub(crate) type Metadata = (u64, u32);

pub(crate) struct Group {
    epoch: u32,
    next_member: u64,
    members: Vec<Option<u64>>,
    target: Vec<Option<usize>>,
    owner: Vec<Option<usize>>,
}

/// A daemon's client: what it knows of its membership, and where it reads.
#[derive(Default)]
pub(crate) struct Client {
    pub(crate) member: Option<u64>,
    pub(crate) epoch: u32,
    /// The partitions it was told are its own, each with the next offset to read once that is known.
    pub(crate) told: std::collections::BTreeMap<Partition, Option<i64>>,
}

/// What a poll leads to.
pub(crate) enum Served {
    Nothing,
    Joined,
    Assigned(Vec<Partition>),
    Revoked { partitions: Vec<Partition>, lost: bool },
}

impl Group {
    pub(crate) fn new(daemons: usize) -> Self {
        let (members, target, owner) = (vec![None; daemons], vec![None; PARTITIONS], vec![None; PARTITIONS]);
        Self { epoch: 0, next_member: 1, members, target, owner }
    }

    pub(crate) fn describe(&self) -> String {
        format!("members {:?}, target {:?}, owner {:?}", self.members, self.target, self.owner)
    }

    pub(crate) fn is_current(&self, daemon: usize, (member, epoch): Metadata) -> bool {
        self.members[daemon] == Some(member) && epoch == self.epoch
    }

    pub(crate) fn is_owner(&self, daemon: usize, partition: Partition) -> bool {
        self.owner[partition.0 as usize] == Some(daemon)
    }

    /// Deals the partitions out anew.
    pub(crate) fn rebalance(&mut self, rng: &mut Rng) {
        self.epoch += 1;
        let present: Vec<usize> = (0..self.members.len()).filter(|daemon| self.members[*daemon].is_some()).collect();
        for target in &mut self.target {
            *target = (!present.is_empty()).then(|| present[rng.below(present.len())]);
        }
    }

    /// The session of a silent member ends: its partitions are another's at once.
    pub(crate) fn expire(&mut self, daemon: usize, rng: &mut Rng) {
        self.members[daemon] = None;
        self.owner.iter_mut().for_each(|owner| *owner = owner.filter(|of| *of != daemon));
        self.rebalance(rng);
    }

    /// What a client finds out when it polls; the caller tells its listener.
    pub(crate) fn poll(&mut self, daemon: usize, client: &mut Client, rng: &mut Rng) -> Served {
        let all = |client: &Client| client.told.keys().copied().collect::<Vec<_>>();
        if client.member.is_none() || client.member != self.members[daemon] {
            if !client.told.is_empty() {
                client.member = None;
                return Served::Revoked { partitions: all(client), lost: true };
            }
            self.expire(daemon, rng);
            client.member = Some(self.next_member);
            self.members[daemon] = client.member;
            self.next_member += 1;
            self.rebalance(rng);
            return Served::Joined;
        }
        client.epoch = self.epoch;
        let is_target = |partition: &Partition| self.target[partition.0 as usize] == Some(daemon);
        let revoked: Vec<Partition> = all(client).into_iter().filter(|partition| !is_target(partition)).collect();
        if !revoked.is_empty() {
            return Served::Revoked { partitions: revoked, lost: false };
        }
        let free = |partition: &Partition| is_target(partition) && self.owner[partition.0 as usize].is_none();
        let assigned: Vec<Partition> = partitions().filter(free).collect();
        if assigned.is_empty() {
            return Served::Nothing;
        }
        for partition in &assigned {
            self.owner[partition.0 as usize] = Some(daemon);
            client.told.insert(*partition, None);
        }
        Served::Assigned(assigned)
    }

    /// The listener has given these up: others may have them.
    pub(crate) fn gave_up(&mut self, daemon: usize, client: &mut Client, partitions: &[Partition], lost: bool) {
        for partition in partitions {
            client.told.remove(partition);
            let owner = &mut self.owner[partition.0 as usize];
            if !lost && *owner == Some(daemon) {
                *owner = None;
            }
        }
        if !lost {
            self.epoch += 1;
        }
    }
}
