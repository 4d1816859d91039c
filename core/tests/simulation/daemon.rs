//! One process: its actors, who takes the next turn, and who dies. Never keeps anything beyond its end but the cache.

use crate::ctx::Ctx;
use crate::dlq::DlqActor;
use crate::lane::Lane;
use crate::partition::PartitionActor;
use crate::shard::ShardActor;
use crate::slots::{Cache, LANES, STAGES, Slots};
use crate::source::Source;
use crate::source_log::{PARTITIONS, partitions};
use crate::worker::Worker;
use bulkhead_core::ids::Partition;

/// A partition's two actors: `rest_for_one`, so the shard dies with the partition and not the other way round.
struct Pair {
    partition: PartitionActor,
    shard: ShardActor,
    /// Told to stop, and not gone yet.
    stopping: bool,
}

pub(crate) struct Daemon {
    slots: Slots,
    source: Source,
    pairs: Vec<Option<Pair>>,
    workers: Vec<Worker>,
    dlq: DlqActor,
    lanes: Vec<Lane>,
    /// Lanes that were abandoned and still wait for their log.
    ghosts: Vec<Lane>,
    /// Told to finish and stop: its partitions take no more, its source still serves the group.
    draining: bool,
}

impl Daemon {
    pub(crate) fn new(number: usize, caches: Vec<Cache>, ctx: &mut Ctx) -> Self {
        ctx.processes += 1;
        ctx.clients[number] = crate::group::Client::default();
        let mut slots = Slots::new(number, ctx.processes, caches, ctx.gather);
        // Two workers in the first stage, one in the second.
        let workers = (0..=STAGES as u32).map(|n| Worker::new(n as usize / 2, n % 2)).collect();
        let lanes = (0..LANES).map(|lane| Lane::new(lane, 1, &mut slots)).collect();
        let pairs = (0..PARTITIONS).map(|_| None).collect();
        Self {
            slots,
            source: Source::default(),
            pairs,
            workers,
            dlq: DlqActor::new(ctx),
            lanes,
            ghosts: Vec::new(),
            draining: false,
        }
    }

    /// What a process leaves behind.
    pub(crate) fn into_caches(self) -> Vec<Cache> {
        self.slots.caches
    }

    /// Nothing is under way, and nobody holds anything.
    pub(crate) fn is_idle(&self) -> bool {
        let claims: usize = self.pairs.iter().flatten().map(|pair| pair.shard.unsettled()).sum();
        let told = self.pairs.iter().zip(&self.slots.partitions).filter(|(pair, _)| pair.is_some());
        self.slots.is_idle()
            && self.ghosts.is_empty()
            && claims == 0
            && told.into_iter().all(|(_, slot)| slot.inbox.settled.is_empty())
    }

    /// Batches that a drained process left unsettled; not those of a partition whose actor had died: they are void, and
    /// are read again by whoever comes next.
    pub(crate) fn left_open(&self) -> usize {
        let slots = self.slots.partitions.iter().zip(&self.pairs);
        let alive = slots.filter(|(slot, pair)| slot.attached.is_some() && pair.is_some());
        alive.map(|(slot, _)| slot.account.unsettled).sum()
    }

    /// Batches that are not settled.
    pub(crate) fn unsettled(&self) -> usize {
        self.slots.partitions.iter().map(|slot| slot.account.unsettled).sum()
    }

    /// What it waits for, for a run that does not end.
    pub(crate) fn describe(&self) -> String {
        let slots = &self.slots;
        let partitions = slots.partitions.iter().zip(&self.pairs).enumerate().map(|(n, (slot, pair))| {
            let pair = pair.as_ref().map(|pair| (pair.stopping, pair.partition.describe(), pair.shard.describe()));
            format!(
                "\n    p{n}: pair {pair:?}, room {}, gate {:?}/{:?}, attached {:?}, next {} of {} unsettled, asks {}+{}",
                slot.room,
                slot.gate.open,
                slot.gate.committing,
                slot.attached,
                slot.account.next,
                slot.account.unsettled,
                slot.ledger.link.depth(),
                slot.ledger.link.lent(),
            )
        });
        let partitions: String = partitions.collect();
        let stages: Vec<_> = slots.stages.iter().map(|stage| (stage.depth(), stage.lent())).collect();
        let lanes: Vec<_> = slots.lanes.iter().map(|lane| (lane.depth(), lane.lent())).collect();
        let held: Vec<String> = self.lanes.iter().map(Lane::describe).collect();
        format!("{partitions}\n    stages {stages:?}, lanes {lanes:?} {held:?}, starting {:?}", slots.starting)
    }

    pub(crate) fn drain(&mut self, ctx: &mut Ctx) {
        ctx.saw("process: told to drain");
        self.draining = true;
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining
    }

    /// Told to drain, and nothing is left to do.
    pub(crate) fn is_drained(&self) -> bool {
        self.draining && !self.source.is_busy() && self.pairs.iter().flatten().all(|pair| pair.partition.has_ended())
    }

    /// One actor takes one small turn.
    pub(crate) fn turn(&mut self, ctx: &mut Ctx) {
        let slots = &mut self.slots;
        match ctx.rng.below(24) {
            23 => ctx.broker.deliver(slots.daemon, &mut ctx.rng),
            20..22 => slots.arrive(ctx),
            22 => self.ghosts.retain_mut(|ghost| ghost.haunt(slots, ctx)),
            0 if self.draining => {
                for pair in self.pairs.iter_mut().flatten() {
                    pair.partition.drain(slots, ctx);
                }
            }
            0..3 => {
                for partition in self.source.turn(slots, ctx) {
                    self.stop(partition);
                }
            }
            n @ 3..9 => self.turn_pair(n % PARTITIONS, n < 6, ctx),
            9..14 => {
                let worker = ctx.rng.below(self.workers.len());
                self.workers[worker].turn(slots, ctx);
            }
            14..16 => self.dlq.turn(slots, ctx),
            n => {
                let lane = &mut self.lanes[n % LANES];
                lane.turn(slots, ctx);
                if lane.failed {
                    lane.kill(slots, ctx);
                }
            }
        }
    }

    fn stop(&mut self, partition: Partition) {
        if let Some(pair) = &mut self.pairs[partition.0 as usize] {
            pair.stopping = true;
        }
    }

    fn turn_pair(&mut self, number: usize, shard: bool, ctx: &mut Ctx) {
        let partition = partitions().nth(number).expect("there are so many");
        let slots = &mut self.slots;
        let Some(pair) = &mut self.pairs[number] else {
            if !self.draining && slots.starting.remove(&partition) {
                self.pairs[number] = Some(start(partition, slots));
            }
            return;
        };
        if pair.stopping && ctx.rng.per_mille(300) {
            pair.partition.down(slots);
            pair.shard.down(slots, ctx);
            self.pairs[number] = None;
            return;
        }
        match shard {
            true => pair.shard.turn(slots, ctx),
            false => pair.partition.turn(slots, ctx),
        }
        if pair.partition.has_ended() && !pair.stopping && !self.draining {
            ctx.saw("partition: ended by itself");
            self.restart_pair(number, ctx);
        }
    }

    fn restart_pair(&mut self, number: usize, ctx: &mut Ctx) {
        let partition = partitions().nth(number).expect("there are so many");
        if let Some(pair) = &self.pairs[number] {
            let stopping = pair.stopping;
            pair.partition.down(&mut self.slots);
            pair.shard.down(&mut self.slots, ctx);
            self.pairs[number] = Some(Pair { stopping, ..start(partition, &mut self.slots) });
        }
    }

    /// Some actor of this process dies.
    pub(crate) fn hurt(&mut self, ctx: &mut Ctx) {
        let slots = &mut self.slots;
        let (worker, number) = (ctx.rng.below(self.workers.len()), ctx.rng.below(PARTITIONS));
        match ctx.rng.below(7) {
            6 => self.source.kill(slots, ctx),
            0 => self.workers[worker].kill(slots, ctx),
            1 => self.workers[worker].hang(slots, ctx),
            2 => self.dlq.kill(slots, ctx),
            3 => {
                // Rather one that is committing: that is where it hurts.
                let busy = (0..LANES).find(|lane| self.lanes[*lane].is_committing());
                let lane = &mut self.lanes[busy.unwrap_or(worker % LANES)];
                if number == 0 {
                    self.ghosts.extend(lane.abandon(slots, ctx));
                } else {
                    lane.kill(slots, ctx);
                }
            }
            4 => {
                if let Some(pair) = &mut self.pairs[number] {
                    ctx.saw("shard: killed");
                    pair.shard.down(slots, ctx);
                    pair.shard = ShardActor::new(partitions().nth(number).expect("there are so many"));
                }
            }
            _ => {
                ctx.saw("partition: killed");
                self.restart_pair(number, ctx);
            }
        }
    }
}

fn start(partition: Partition, slots: &mut Slots) -> Pair {
    Pair { partition: PartitionActor::new(partition, slots), shard: ShardActor::new(partition), stopping: false }
}
