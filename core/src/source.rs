//! The source machine: which partitions are ours, under which generation, and from where each is read.
//! Never touches a client: polling, seeking and the group are its shell's.

use crate::ids::{Assignment, Generation, Partition, Position};
use crate::machine::Machine;
use crate::time::Now;
use std::collections::BTreeMap;

/// What happens to a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceEvent {
    /// The group gave us these partitions.
    Assigned(Vec<Partition>),
    /// The group takes these partitions; the shell answers it when the effects are done.
    Revoked(Vec<Partition>),
    /// A partition's actor begins: it wants its records from this position on, under a generation of its own.
    Begin(Assignment, Position),
    /// A partition's actor died: what it had is void, the next one begins anew.
    Died(Partition),
    /// The partition could not be read again from where its actor said.
    SeekFailed(Partition),
    /// Records of a partition came, up to this position.
    Fetched(Partition, Position),
    /// The client is dead.
    ClientDead,
}

/// What a source wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceEffect {
    /// Start the partition's actors under this generation.
    Start(Assignment),
    /// Wait for a commit in progress, then let nothing of this assignment through any more.
    Fence(Assignment),
    /// Stop the partition's actors.
    Stop(Partition),
    /// Read the partition again from here.
    Seek(Partition, Position),
    /// Hand what was fetched to this assignment.
    Deliver(Assignment),
    /// Nobody wants what was fetched.
    Discard(Partition),
    /// Build a new client and join again.
    Rejoin,
}

#[derive(Clone, Copy, Debug)]
struct Owned {
    generation: Generation,
    /// Its actor wants records.
    open: bool,
    /// The position after the last record fetched under this membership, whoever it went to.
    fetched: Option<Position>,
}

/// See the module. Lives in a slot: it survives the source's incarnations, as the client does.
#[derive(Debug, Default)]
pub struct SourceMachine {
    generations: BTreeMap<Partition, Generation>,
    owned: BTreeMap<Partition, Owned>,
}

impl SourceMachine {
    /// The partitions that are ours, and under which generation.
    pub fn assignments(&self) -> impl Iterator<Item = Assignment> {
        self.owned.iter().map(|(partition, owned)| Assignment { partition: *partition, generation: owned.generation })
    }

    /// The current assignment of a partition, where it is ours.
    #[must_use]
    pub fn assignment(&self, partition: Partition) -> Option<Assignment> {
        self.owned.get(&partition).map(|owned| Assignment { partition, generation: owned.generation })
    }

    /// Whether the partition's actor wants records.
    #[must_use]
    pub fn wants(&self, partition: Partition) -> bool {
        self.owned.get(&partition).is_some_and(|owned| owned.open)
    }

    fn next_generation(&mut self, partition: Partition) -> Generation {
        let generation = self.generations.entry(partition).or_default();
        *generation = generation.next();
        *generation
    }

    fn assign(&mut self, partition: Partition) -> Vec<SourceEffect> {
        let mut effects = if self.owned.contains_key(&partition) { self.revoke(partition) } else { Vec::new() };
        let generation = self.next_generation(partition);
        self.owned.insert(partition, Owned { generation, open: false, fetched: None });
        effects.push(SourceEffect::Start(Assignment { partition, generation }));
        effects
    }

    fn revoke(&mut self, partition: Partition) -> Vec<SourceEffect> {
        let Some(owned) = self.owned.remove(&partition) else { return Vec::new() };
        let over = Assignment { partition, generation: owned.generation };
        vec![SourceEffect::Fence(over), SourceEffect::Stop(partition)]
    }

    fn begin(&mut self, assignment: Assignment, position: Position) -> Vec<SourceEffect> {
        match self.owned.get_mut(&assignment.partition) {
            Some(owned) if owned.generation == assignment.generation => {
                owned.open = true;
                // Records were taken from the client since it joined: they lie behind its own position.
                let seek = owned.fetched.take().is_some_and(|fetched| fetched != position);
                if seek { vec![SourceEffect::Seek(assignment.partition, position)] } else { Vec::new() }
            }
            _ => Vec::new(),
        }
    }

    fn died(&mut self, partition: Partition) -> Vec<SourceEffect> {
        let Some(over) = self.assignment(partition) else { return Vec::new() };
        let generation = self.next_generation(partition);
        if let Some(owned) = self.owned.get_mut(&partition) {
            (owned.generation, owned.open) = (generation, false);
        }
        vec![SourceEffect::Fence(over)]
    }

    fn fetched(&mut self, partition: Partition, end: Position) -> Vec<SourceEffect> {
        match self.owned.get_mut(&partition) {
            Some(owned) => {
                owned.fetched = Some(end);
                let assignment = Assignment { partition, generation: owned.generation };
                let deliver = owned.open.then_some(SourceEffect::Deliver(assignment));
                vec![deliver.unwrap_or(SourceEffect::Discard(partition))]
            }
            None => vec![SourceEffect::Discard(partition)],
        }
    }

    fn each(
        &mut self,
        partitions: Vec<Partition>,
        one: fn(&mut Self, Partition) -> Vec<SourceEffect>,
    ) -> Vec<SourceEffect> {
        partitions.into_iter().flat_map(|partition| one(self, partition)).collect()
    }
}

impl Machine for SourceMachine {
    type Event = SourceEvent;
    type Effect = SourceEffect;

    fn step(&mut self, event: SourceEvent, _now: Now) -> Vec<SourceEffect> {
        match event {
            SourceEvent::Assigned(partitions) => self.each(partitions, Self::assign),
            SourceEvent::Revoked(partitions) => self.each(partitions, Self::revoke),
            SourceEvent::Begin(assignment, position) => self.begin(assignment, position),
            SourceEvent::Died(partition) => self.died(partition),
            SourceEvent::SeekFailed(partition) => {
                if let Some(owned) = self.owned.get_mut(&partition) {
                    // No position equals this one: the next attempt seeks again.
                    (owned.open, owned.fetched) = (false, Some(Position(i64::MIN)));
                }
                Vec::new()
            }
            SourceEvent::Fetched(partition, end) => self.fetched(partition, end),
            SourceEvent::ClientDead => {
                let all = self.owned.keys().copied().collect();
                let mut effects = self.each(all, Self::revoke);
                effects.push(SourceEffect::Rejoin);
                effects
            }
        }
    }
}
