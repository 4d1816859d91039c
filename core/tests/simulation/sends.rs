//! What is sent outside of transactions: on its way until it is acknowledged, in order within a topic-partition and not
//! beyond. Never shows anything: what arrives is the broker's to keep.

use crate::broker::{Item, Place, Producer};
use crate::rng::Rng;
use bulkhead_core::lane::LaneFault;
use std::collections::{BTreeMap, VecDeque};

/// One producer of a lane: each rebuild makes another.
pub(crate) type Session = (Producer, u32);
/// What arrives: which attempt sent it, and what it is.
pub(crate) type Arrival = (usize, Item);

#[derive(Default)]
struct Sending {
    attempt: Option<usize>,
    on_its_way: BTreeMap<Place, VecDeque<Arrival>>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Sends(BTreeMap<Session, Sending>);

impl Sends {
    pub(crate) fn begin(&mut self, session: Session, attempt: usize) {
        self.0.entry(session).or_default().attempt = Some(attempt);
    }

    /// The attempt that this producer sends for.
    pub(crate) fn attempt(&self, session: Session) -> Result<usize, LaneFault> {
        let sending = self.0.get(&session).and_then(|sending| sending.attempt);
        sending.ok_or_else(|| LaneFault::Unknown("no producer".into()))
    }

    pub(crate) fn push(&mut self, session: Session, item: Item) -> Result<(), LaneFault> {
        let attempt = self.attempt(session)?;
        let queues = &mut self.0.entry(session).or_default().on_its_way;
        queues.entry(item.place()).or_default().push_back((attempt, item));
        Ok(())
    }

    /// One record of this daemon arrives.
    pub(crate) fn one(&mut self, daemon: usize, rng: &mut Rng) -> Option<Arrival> {
        let sendings = self.0.iter_mut().filter(|((producer, _), _)| producer.0 == daemon);
        let mut queues: Vec<_> = sendings.flat_map(|(_, sending)| sending.on_its_way.values_mut()).collect();
        queues.retain(|queue| !queue.is_empty());
        let chosen = (!queues.is_empty()).then(|| rng.below(queues.len()))?;
        queues[chosen].pop_front()
    }

    /// All that this producer sent arrives.
    pub(crate) fn all(&mut self, session: Session) -> Vec<Arrival> {
        let queues = self.0.get_mut(&session).map(|sending| std::mem::take(&mut sending.on_its_way));
        queues.into_iter().flatten().flat_map(|(_, queue)| queue).collect()
    }

    /// Some of it arrives, the first of each topic-partition; the rest never does.
    pub(crate) fn some(&mut self, session: Session, rng: &mut Rng) -> Vec<Arrival> {
        let queues = self.0.get_mut(&session).map(|sending| std::mem::take(&mut sending.on_its_way));
        let queues = queues.into_iter().flatten().map(|(_, queue)| queue);
        let some = queues.map(|queue| (rng.below(queue.len() + 1), queue)).collect::<Vec<_>>();
        some.into_iter().flat_map(|(first, queue)| queue.into_iter().take(first)).collect()
    }

    /// The producers of a daemon.
    pub(crate) fn of(&self, daemon: usize) -> Vec<Session> {
        self.0.keys().filter(|(producer, _)| producer.0 == daemon).copied().collect()
    }

    pub(crate) fn forget(&mut self, session: Session) {
        self.0.remove(&session);
    }
}
