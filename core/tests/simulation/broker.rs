//! A log in memory as Kafka keeps it: topics with transactions in append order, read up to the last stable offset, and
//! positions committed with them; or, at least once, what was sent, as soon as it arrives. Never forgets a fence, and never shows what was aborted.

use crate::group::{Group, Metadata};
use crate::rng::Rng;
use crate::sends::{Arrival, Sends, Session};
use crate::source_log::{Id, PARTITIONS, SourceLog, partitions};
use bulkhead_core::audit::{Delivery, Kind, Visible};
use bulkhead_core::ids::{Offset, Partition, Position};
use bulkhead_core::lane::LaneFault;
use bulkhead_core::ledger::{Entry, Placed, Segment};
use bulkhead_core::time::Now;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const OUTPUTS: usize = 2;
const TRANSACTION_TIMEOUT: Duration = Duration::from_millis(400);

/// A lane of a daemon: its `transactional.id`.
pub(crate) type Producer = (usize, usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Open,
    /// Its end was asked for and is decided, but nobody sees it yet.
    Ending {
        commit: bool,
    },
    Committed,
    Aborted,
    /// No transaction but an attempt, at least once: what arrived is seen, its positions are not committed.
    Loose,
}

impl Status {
    fn is_over(self) -> bool {
        matches!(self, Self::Committed | Self::Aborted | Self::Loose)
    }

    fn is_seen(self) -> bool {
        matches!(self, Self::Committed | Self::Loose)
    }
}

struct Transaction {
    status: Status,
    since: Now,
    positions: Vec<(Partition, Position)>,
}

/// One partition of a topic: what lies there, with the transaction that put it there; markers are `None`.
struct Topic<T>(Vec<(usize, Option<T>)>);

impl<T> Topic<T> {
    fn end(&self, transactions: &[Transaction]) -> usize {
        self.0.iter().position(|(id, _)| !transactions[*id].status.is_over()).unwrap_or(self.0.len())
    }

    fn committed<'a>(&'a self, transactions: &'a [Transaction]) -> impl Iterator<Item = (usize, &'a T)> {
        let stable = self.0.iter().enumerate().take(self.end(transactions));
        stable
            .filter_map(|(at, (id, value))| Some((at, value.as_ref().filter(|_| transactions[*id].status.is_seen())?)))
    }

    fn mark(&mut self, id: usize) {
        if self.0.iter().any(|(of, _)| *of == id) {
            self.0.push((id, None));
        }
    }
}

/// How the end of a transaction goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Told,
    /// An abortable error.
    Void,
    /// Nobody is told; it was, or was not.
    Unknown {
        commit: bool,
    },
    /// Nobody is told, and it is still under way.
    Pending {
        commit: bool,
    },
}

/// What is produced.
pub(crate) enum Item {
    Output(Id),
    Letter(Id, String),
    Segment(Segment),
}

/// A partition of a topic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Outputs(usize),
    Letters(usize),
    Ledger(usize),
}

impl Item {
    pub(crate) fn place(&self) -> Place {
        match self {
            Self::Output(of) => Place::Outputs(of.1.0 as usize / 3 % OUTPUTS),
            Self::Letter(of, _) => Place::Letters(of.0.0 as usize),
            Self::Segment(segment) => Place::Ledger(segment.partition().0 as usize),
        }
    }
}

pub(crate) struct Broker {
    pub(crate) source: SourceLog,
    pub(crate) group: Group,
    delivery: Delivery,
    sends: Sends,
    transactions: Vec<Transaction>,
    producers: BTreeMap<Producer, (u32, Option<usize>)>,
    outputs: Vec<Topic<Id>>,
    /// Dead letters and their codes, by source partition.
    letters: Vec<Topic<(Id, String)>>,
    ledgers: Vec<Topic<Segment>>,
    positions: BTreeMap<Partition, Position>,
}

impl Broker {
    pub(crate) fn new(source: SourceLog, daemons: usize, delivery: Delivery) -> Self {
        Self {
            source,
            group: Group::new(daemons),
            delivery,
            sends: Sends::default(),
            transactions: Vec::new(),
            producers: BTreeMap::new(),
            outputs: (0..OUTPUTS).map(|_| Topic(Vec::new())).collect(),
            letters: (0..PARTITIONS).map(|_| Topic(Vec::new())).collect(),
            ledgers: (0..PARTITIONS).map(|_| Topic(Vec::new())).collect(),
            positions: BTreeMap::new(),
        }
    }

    /// A new producer. Its `init_transactions` fences earlier ones of this id and ends what they left; at least once there
    /// is no such thing.
    pub(crate) fn init(&mut self, producer: Producer) -> u32 {
        let (epoch, open) = self.producers.get(&producer).copied().unwrap_or_default();
        if let Some(id) = open {
            self.finish(id, self.transactions[id].status == Status::Ending { commit: true });
        }
        self.producers.insert(producer, (epoch + 1, None));
        epoch + 1
    }

    fn check(&self, (producer, epoch): Session) -> Result<Option<usize>, LaneFault> {
        match self.producers.get(&producer) {
            Some((current, open)) if *current == epoch => Ok(*open),
            _ => Err(LaneFault::Unknown("fenced".into())),
        }
    }

    pub(crate) fn begin(&mut self, session: Session, now: Now) -> Result<(), LaneFault> {
        let id = self.transactions.len();
        let status = match self.delivery {
            Delivery::AtLeastOnce => {
                self.sends.begin(session, id);
                Status::Loose
            }
            Delivery::ExactlyOnce => {
                assert_eq!(self.check(session)?, None, "one transaction at a time");
                self.producers.insert(session.0, (session.1, Some(id)));
                Status::Open
            }
        };
        self.transactions.push(Transaction { status, since: now, positions: Vec::new() });
        Ok(())
    }

    fn open(&self, session: Session) -> Result<usize, LaneFault> {
        self.check(session)?.ok_or_else(|| LaneFault::Unknown("no transaction is open".into()))
    }

    pub(crate) fn produce(&mut self, session: Session, item: Item) -> Result<(), LaneFault> {
        match self.delivery {
            Delivery::AtLeastOnce => self.sends.push(session, item),
            Delivery::ExactlyOnce => {
                let id = self.open(session)?;
                self.append((id, item));
                Ok(())
            }
        }
    }

    fn append(&mut self, (id, item): Arrival) {
        match (item.place(), item) {
            (Place::Outputs(n), Item::Output(of)) => self.outputs[n].0.push((id, Some(of))),
            (Place::Letters(n), Item::Letter(of, code)) => self.letters[n].0.push((id, Some((of, code)))),
            (Place::Ledger(n), Item::Segment(segment)) => self.ledgers[n].0.push((id, Some(segment))),
            _ => unreachable!("each kind has its own places"),
        }
    }

    pub(crate) fn segments(&mut self, session: Session, all: &[Segment]) -> Result<(), LaneFault> {
        all.iter().try_for_each(|segment| {
            let read = Segment::decode(segment.wire().clone()).expect("a segment that was encoded decodes");
            self.produce(session, Item::Segment(read))
        })
    }

    /// Something that this daemon sent arrives.
    pub(crate) fn deliver(&mut self, daemon: usize, rng: &mut Rng) {
        let arrived = self.sends.one(daemon, rng);
        arrived.into_iter().for_each(|arrived| self.append(arrived));
    }

    /// All that this producer sent is acknowledged.
    pub(crate) fn deliver_all(&mut self, session: Session) {
        self.sends.all(session).into_iter().for_each(|arrived| self.append(arrived));
    }

    /// Of what this producer sent some arrives and the rest never does.
    pub(crate) fn purge(&mut self, session: Session, rng: &mut Rng) {
        self.sends.some(session, rng).into_iter().for_each(|arrived| self.append(arrived));
    }

    /// The producer is no more.
    pub(crate) fn retire(&mut self, session: Session, rng: &mut Rng) {
        self.purge(session, rng);
        self.sends.forget(session);
    }

    /// The process is no more.
    pub(crate) fn retire_all(&mut self, daemon: usize, rng: &mut Rng) {
        self.sends.of(daemon).into_iter().for_each(|session| self.retire(session, rng));
    }

    /// Adds positions to the transaction under this membership, which must be current; whose partitions they are is not
    /// looked at, as in Kafka.
    pub(crate) fn send_positions(
        &mut self,
        session: Session,
        member: Option<Metadata>,
        positions: &[(Partition, Position)],
    ) -> Result<(), LaneFault> {
        let id = self.open(session)?;
        self.check_member(session, member)?;
        self.transactions[id].positions = positions.to_vec();
        Ok(())
    }

    fn check_member(&self, ((daemon, _), _): Session, member: Option<Metadata>) -> Result<(), LaneFault> {
        let current = member.is_some_and(|member| self.group.is_current(daemon, member));
        if current { Ok(()) } else { Err(LaneFault::Void("illegal generation".into())) }
    }

    pub(crate) fn commit(&mut self, session: Session, ending: Ending) -> Result<(), LaneFault> {
        let id = self.open(session)?;
        match ending {
            Ending::Told => {
                self.finish(id, true);
                return Ok(());
            }
            Ending::Void => return Err(LaneFault::Void("abortable".into())),
            Ending::Unknown { commit } => self.finish(id, commit),
            Ending::Pending { commit } => self.transactions[id].status = Status::Ending { commit },
        }
        Err(LaneFault::Unknown("timed out".into()))
    }

    /// Commits positions outside of a transaction, under a membership that must be current.
    pub(crate) fn commit_positions(
        &mut self,
        session: Session,
        member: Option<Metadata>,
        positions: &[(Partition, Position)],
        ending: Ending,
    ) -> Result<(), LaneFault> {
        let id = self.sends.attempt(session)?;
        self.check_member(session, member)?;
        if !matches!(ending, Ending::Void | Ending::Unknown { commit: false } | Ending::Pending { commit: false }) {
            self.positions.extend(positions.iter().copied());
            self.transactions[id].status = Status::Committed;
        }
        match ending {
            Ending::Told => Ok(()),
            Ending::Void => Err(LaneFault::Void("try again".into())),
            Ending::Unknown { .. } | Ending::Pending { .. } => Err(LaneFault::Unknown("timed out".into())),
        }
    }

    pub(crate) fn abort(&mut self, session: Session) -> Result<(), LaneFault> {
        if self.delivery == Delivery::AtLeastOnce {
            // What is on its way arrives.
            self.deliver_all(session);
            return Ok(());
        }
        if let Some(id) = self.check(session)? {
            self.finish(id, false);
        }
        Ok(())
    }

    /// Each outcome that is seen, in the order of its place, with the attempt that sent it and whether that one's positions
    /// were committed.
    pub(crate) fn attempts(&self) -> impl Iterator<Item = (Place, Id, usize, bool)> {
        let outputs = (0..)
            .map(Place::Outputs)
            .zip(&self.outputs)
            .flat_map(|(place, topic)| topic.0.iter().filter_map(move |(attempt, of)| Some((place, (*of)?, *attempt))));
        let letters = (0..).map(Place::Letters).zip(&self.letters).flat_map(|(place, topic)| {
            topic.0.iter().filter_map(move |(attempt, of)| Some((place, of.as_ref()?.0, *attempt)))
        });
        let seen = outputs.chain(letters).filter(|(.., attempt)| self.transactions[*attempt].status.is_seen());
        seen.map(|(place, id, attempt)| (place, id, attempt, self.transactions[attempt].status == Status::Committed))
    }

    fn finish(&mut self, id: usize, commit: bool) {
        let transaction = &mut self.transactions[id];
        transaction.status = if commit { Status::Committed } else { Status::Aborted };
        let positions = std::mem::take(&mut transaction.positions);
        if commit {
            self.positions.extend(positions);
        }
        self.outputs.iter_mut().for_each(|topic| topic.mark(id));
        self.letters.iter_mut().for_each(|topic| topic.mark(id));
        self.ledgers.iter_mut().for_each(|topic| topic.mark(id));
        for (_, open) in self.producers.values_mut() {
            *open = open.filter(|of| *of != id);
        }
    }

    /// Ends what is under way, gives up what took too long and fences its producer. Says what it did.
    pub(crate) fn look_after(&mut self, now: Now) -> Option<&'static str> {
        let left: Vec<(Producer, u32, usize)> =
            self.producers.iter().filter_map(|(producer, (epoch, open))| Some((*producer, *epoch, (*open)?))).collect();
        for (producer, epoch, id) in left {
            let Transaction { status, since, .. } = self.transactions[id];
            match status {
                Status::Ending { commit } => {
                    self.finish(id, commit);
                    return Some("broker: transaction ended late");
                }
                Status::Open if now >= since + TRANSACTION_TIMEOUT => {
                    self.finish(id, false);
                    self.producers.insert(producer, (epoch + 1, None));
                    return Some("broker: transaction timed out");
                }
                _ => {}
            }
        }
        None
    }

    /// The committed position, once no open transaction holds one of this partition.
    pub(crate) fn stable_position(&self, partition: Partition) -> Result<Option<Position>, ()> {
        let pending = self.transactions.iter().filter(|transaction| !transaction.status.is_over());
        let mut pending = pending.flat_map(|transaction| &transaction.positions);
        if pending.any(|(of, _)| *of == partition) {
            return Err(());
        }
        Ok(self.positions.get(&partition).copied())
    }

    /// Where a partition's changelog ends for `read_committed`.
    pub(crate) fn ledger_end(&self, partition: Partition) -> usize {
        self.ledgers[partition.0 as usize].end(&self.transactions)
    }

    pub(crate) fn ledger(&self, partition: Partition, from: usize, end: usize) -> Vec<Placed> {
        let committed = self.ledgers[partition.0 as usize].committed(&self.transactions);
        let wanted = committed.filter(|(at, _)| (from..end).contains(at));
        wanted.map(|(at, segment)| Placed { at: Offset(at as i64), segment: segment.clone() }).collect()
    }

    /// Every entry of a partition's ledger, with the segment that has it.
    pub(crate) fn recorded(&self, partition: Partition) -> impl Iterator<Item = (&Segment, &Entry)> {
        let segments = self.ledgers[partition.0 as usize].committed(&self.transactions);
        segments.flat_map(|(_, segment)| segment.entries().iter().map(move |entry| (segment, entry)))
    }

    pub(crate) fn positions(&self) -> &BTreeMap<Partition, Position> {
        &self.positions
    }

    /// The codes of all dead letters.
    pub(crate) fn letters(&self) -> impl Iterator<Item = &(Id, String)> {
        self.letters.iter().flat_map(|topic| topic.committed(&self.transactions)).map(|(_, letter)| letter)
    }

    /// All outcomes as a `read_committed` reader sees them now.
    pub(crate) fn visible(&self) -> Vec<Visible<Id>> {
        let (out, dlq): (Arc<str>, Arc<str>) = ("out".into(), "dlq".into());
        let mut visible = Vec::new();
        for (partition, topic) in (0..).map(Partition).zip(&self.outputs) {
            let see = |(_, id): (usize, &Id)| Visible { topic: out.clone(), partition, id: *id, kind: Kind::Output };
            visible.extend(topic.committed(&self.transactions).map(see));
        }
        for (partition, topic) in partitions().zip(&self.letters) {
            let see = |(_, (id, _)): (usize, &(Id, String))| Visible {
                topic: dlq.clone(),
                partition,
                id: *id,
                kind: Kind::DeadLetter,
            };
            visible.extend(topic.committed(&self.transactions).map(see));
        }
        visible
    }
}
