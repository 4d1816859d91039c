//! Two daemons on one log, first hurt and then left to heal. Never judges: that is the verdict's.

use crate::broker::Broker;
use crate::ctx::{Ctx, Mutant};
use crate::daemon::Daemon;
use crate::group::Client;
use crate::rng::Rng;
use crate::slots::Cache;
use crate::source_log::{Id, PARTITIONS, SourceLog};
use crate::verdict;
use bulkhead_core::audit::{Delivery, Visible, not_a_prefix};
use bulkhead_core::gather::Gather;
use bulkhead_core::time::Now;
use std::collections::BTreeMap;
use std::time::Duration;

const DAEMONS: usize = 2;
/// Turns within which everything must be done once nothing hurts any more.
const HEAL_MAX: usize = 100_000;

/// A place for a process.
enum Place {
    Up(Box<Daemon>),
    /// It does not run, and does not know it.
    Frozen(Box<Daemon>),
    Dead(Vec<Cache>),
}

struct World {
    ctx: Ctx,
    places: Vec<Place>,
    /// What a reader has seen that was there all the time.
    seen: Vec<Visible<Id>>,
}

/// What a run came to.
pub(crate) struct Run {
    /// How often each thing happened.
    pub(crate) seen: BTreeMap<&'static str, u64>,
    pub(crate) turns: usize,
    /// Promises broken; empty where all is well.
    pub(crate) broken: Vec<String>,
}

/// Everything that this seed says.
pub(crate) fn run(seed: u64, delivery: Delivery, mutant: Mutant) -> Run {
    let mut rng = Rng::new(seed);
    let source = SourceLog::draw(&mut rng);
    let gather = gather(&mut rng);
    let ttl = Duration::from_millis([3_600_000, 1_200, 300][rng.below(3)]);
    let stops_above = rng.per_mille(300);
    let skew_ms = (0..DAEMONS).map(|_| rng.below(3_000) as i64).collect();
    let ctx = Ctx {
        broker: Broker::new(source, DAEMONS, delivery),
        rng,
        now: Now(0),
        mutant,
        gather,
        delivery,
        ttl,
        stops_above,
        skew_ms,
        hurt: true,
        seen: BTreeMap::new(),
        broken: Vec::new(),
        runs: BTreeMap::new(),
        culprits: BTreeMap::new(),
        processes: 0,
        clients: (0..DAEMONS).map(|_| Client::default()).collect(),
    };
    let places = (0..DAEMONS).map(|_| Place::Dead(vec![Cache::new(); PARTITIONS])).collect();
    let mut world = World { ctx, places, seen: Vec::new() };
    let mut turns = world.hurt();
    if world.ctx.broken.is_empty() {
        turns += world.heal();
    }
    let World { mut ctx, seen, .. } = world;
    if ctx.broken.is_empty() {
        verdict::judge(&mut ctx, &seen);
    }
    Run { seen: ctx.seen, turns, broken: ctx.broken }
}

/// Off for every other seed.
fn gather(rng: &mut Rng) -> Gather {
    let records_max = u32::try_from(2 + rng.below(12)).unwrap_or(u32::MAX);
    let gathering = Gather { records_max, wait: Duration::from_millis(rng.below(6) as u64) };
    if rng.per_mille(500) { gathering } else { Gather::OFF }
}

impl World {
    fn hurt(&mut self) -> usize {
        (0..DAEMONS).for_each(|place| self.revive(place));
        let turns = 4_000 + self.ctx.rng.below(12_000);
        // How rough it gets, for actors and for processes, differs from seed to seed.
        let actors = [0, 2, 8][self.ctx.rng.below(3)];
        let processes = [0, 1, 4, 8][self.ctx.rng.below(4)];
        for turn in 0..turns {
            if self.ctx.rng.per_mille(actors) {
                self.hurt_actor();
            }
            if self.ctx.rng.per_mille(processes) {
                self.hurt_process();
            }
            self.turn();
            if !self.ctx.broken.is_empty() {
                return turn;
            }
        }
        turns
    }

    fn heal(&mut self) -> usize {
        self.ctx.hurt = false;
        for place in 0..DAEMONS {
            // What still drains may have lost its membership meanwhile; its supervisor's patience ends here.
            if matches!(&self.places[place], Place::Up(daemon) | Place::Frozen(daemon) if daemon.is_draining()) {
                self.kill(place);
            }
            self.revive(place);
        }
        for turn in 0..HEAL_MAX {
            self.turn();
            if !self.ctx.broken.is_empty() || turn % 16 == 0 && self.is_done() {
                return turn;
            }
        }
        let waits: String = self.up().map(|daemon| format!("\n  {}", daemon.describe())).collect();
        let (positions, group) = (self.ctx.broker.positions().clone(), self.ctx.broker.group.describe());
        self.ctx.broke(format!("P1: not done within {HEAL_MAX} turns: {positions:?} {group}{waits}"));
        HEAL_MAX
    }

    fn up(&self) -> impl Iterator<Item = &Daemon> {
        self.places.iter().filter_map(|place| if let Place::Up(daemon) = place { Some(&**daemon) } else { None })
    }

    fn is_done(&self) -> bool {
        verdict::lag(&self.ctx) == 0 && self.up().all(|daemon| daemon.is_idle() && daemon.unsettled() == 0)
    }

    /// Somebody does something small.
    fn turn(&mut self) {
        let ctx = &mut self.ctx;
        ctx.now = Now(ctx.now.0 + u64::from(ctx.rng.per_mille(500)));
        match ctx.rng.below(100) {
            0 => drop(ctx.broker.source.arrive(&mut ctx.rng)),
            1 => {
                if let Some(what) = ctx.broker.look_after(ctx.now) {
                    ctx.saw(what);
                }
            }
            2 => self.read(),
            n => {
                let Place::Up(daemon) = &mut self.places[n % DAEMONS] else { return };
                daemon.turn(ctx);
                if daemon.is_drained() {
                    ctx.saw("process: drained");
                    if daemon.left_open() > 0 {
                        ctx.broke(format!("a drained process left something open:{}", daemon.describe()));
                    }
                    ctx.broker.group.expire(n % DAEMONS, &mut ctx.rng);
                    self.kill(n % DAEMONS);
                }
            }
        }
    }

    /// A reader that is there all the time never sees anything change behind it.
    fn read(&mut self) {
        let now = self.ctx.broker.visible();
        for (topic, partition, common) in not_a_prefix(&self.seen, &now) {
            self.ctx.broke(format!("P2: {topic}/{partition} changed behind a reader at its outcome {common}"));
        }
        self.seen = now;
    }

    fn hurt_actor(&mut self) {
        let place = self.ctx.rng.below(DAEMONS);
        if let Place::Up(daemon) = &mut self.places[place] {
            daemon.hurt(&mut self.ctx);
        }
    }

    /// Something that the group sees: what was hurt before may end first.
    fn hurt_process(&mut self) {
        let (place, what) = (self.ctx.rng.below(DAEMONS), self.ctx.rng.below(100));
        let ctx = &mut self.ctx;
        match what {
            0..20 => {
                ctx.saw("group: rebalance");
                ctx.broker.group.rebalance(&mut ctx.rng);
            }
            20..30 => self.kill(place),
            30..35 => self.freeze(place),
            35..40 => {
                if let Place::Up(daemon) = &mut self.places[place] {
                    daemon.drain(ctx);
                }
            }
            40..65 => {
                // A session can end while its member lives: a pause, a network that is away.
                ctx.saw("group: session expired");
                ctx.broker.group.expire(place, &mut ctx.rng);
            }
            _ => (0..DAEMONS).for_each(|place| self.revive(place)),
        }
    }

    fn kill(&mut self, place: usize) {
        let empty = Place::Dead(Vec::new());
        let caches = match std::mem::replace(&mut self.places[place], empty) {
            Place::Up(daemon) | Place::Frozen(daemon) => {
                self.ctx.saw("process: killed");
                self.ctx.broker.retire_all(place, &mut self.ctx.rng);
                daemon.into_caches()
            }
            Place::Dead(caches) => caches,
        };
        let caches = caches.into_iter().map(|cache| self.damage(cache)).collect();
        self.places[place] = Place::Dead(caches);
    }

    /// What a disk has of the cache after its process died.
    fn damage(&mut self, mut cache: Cache) -> Cache {
        match self.ctx.rng.below(4) {
            0 => {
                self.ctx.saw("cache: wiped");
                cache.clear();
            }
            1 => {
                self.ctx.saw("cache: lost its tail");
                for _ in 0..self.ctx.rng.below(4) {
                    cache.pop_last();
                }
            }
            _ => {}
        }
        cache
    }

    fn freeze(&mut self, place: usize) {
        let empty = Place::Dead(Vec::new());
        self.places[place] = match std::mem::replace(&mut self.places[place], empty) {
            Place::Up(daemon) => {
                self.ctx.saw("process: frozen");
                Place::Frozen(daemon)
            }
            other => other,
        };
    }

    fn revive(&mut self, place: usize) {
        let empty = Place::Dead(Vec::new());
        self.places[place] = match std::mem::replace(&mut self.places[place], empty) {
            Place::Frozen(daemon) => {
                self.ctx.saw("process: thawed");
                Place::Up(daemon)
            }
            Place::Dead(caches) => {
                self.ctx.saw("process: started");
                Place::Up(Box::new(Daemon::new(place, caches, &mut self.ctx)))
            }
            up @ Place::Up(_) => up,
        };
    }
}
