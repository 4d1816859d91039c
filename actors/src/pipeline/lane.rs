//! The shell of a lane: a thread of its own, a transactional producer, and the lane machine that tells it what to do.
//! Never decides what to replay, and never commits without passing every partition's gate.

use super::gate::Pass;
use super::slots::Slots;
use super::trace;
use super::wake::Slot;
use crate::log::{Closing, Delivery, Outgoing, PublishError, Publisher};
use crate::shell::Lifeline;
use bulkhead_core::batch::{Batch, Outcome, Rejection};
use bulkhead_core::fault::Fault;
use bulkhead_core::ids::{Assignment, Incarnation, LoanId, Partition, Position, Ticket};
use bulkhead_core::lane::{Held, LaneEffect, LaneEvent, LaneFault, LaneMachine};
use bulkhead_core::ledger::Segment;
use bulkhead_core::letter::{cut, fit, letter};
use bulkhead_core::link::{Borrower, Lent, Link, LinkEffect, LinkEvent};
use bulkhead_core::machine::Machine;
use bulkhead_core::record::Record;
use bulkhead_core::supervisor::{Charge, Exit, Signal};
use bulkhead_core::time::{Now, WallMs};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The stage that a dead letter names where the log refused a result.
const LANE_STAGE: &str = "lane";
/// How often a lane looks around while it is told to drain and its batches are not all there.
const DRAIN_TICK: Duration = Duration::from_millis(5);
/// A lane is the only borrower of its link.
const LANE: Borrower = Borrower(0);

/// One place for a lane; it outlives the incarnations that fill it.
#[derive(Clone)]
pub(crate) struct LaneSeat {
    pub(crate) slots: Arc<Slots>,
    pub(crate) lane: usize,
}

/// One incarnation.
struct Lane<'seat> {
    seat: &'seat LaneSeat,
    lifeline: &'seat Lifeline,
    machine: LaneMachine,
    publisher: Box<dyn Publisher>,
    /// Which source record each produced record of the open transaction came from.
    produced: Vec<(Ticket, u32)>,
    wake_at: Option<Now>,
}

impl LaneSeat {
    fn slot(&self) -> &Slot<Link<Batch>> {
        &self.slots.lanes[self.lane]
    }

    pub(crate) fn run(&self, lifeline: &Lifeline) -> Exit {
        lifeline.idle();
        lifeline.on_signal({
            let seat = self.clone();
            move || {
                seat.slots.group.wake();
                seat.slot().wake();
            }
        });
        let group = match self.slots.group.wait_for(lifeline, |group| group.clone().ok_or(None)) {
            Ok(group) => group,
            Err(Signal::Kill) => return Exit::Killed,
            Err(_) => return Exit::Done,
        };
        let number = u32::try_from(self.lane).unwrap_or(u32::MAX);
        let publisher = match group.publisher(number, self.slots.spec.delivery) {
            Ok(publisher) => publisher,
            Err(error) => return Exit::Failed(Fault::fatal("publisher", error)),
        };
        // What the lane's last self committed and did not settle is in the ledger's topic only.
        self.slots.partitions_of(self.lane).for_each(|(_, slot)| slot.ledger.resync());
        let machine = LaneMachine::new(self.slots.spec.commit);
        let mut lane = Lane { seat: self, lifeline, machine, publisher, produced: Vec::new(), wake_at: None };
        lane.work()
    }

    /// An incarnation is gone: its batches are lent again to the next one.
    pub(crate) fn down(&self, exit: &Exit) -> Charge {
        self.slot().lock().step(LinkEvent::Down(LANE), self.slots.clock.now());
        self.slots.ended(&format!("lane/{}", self.lane), exit)
    }
}

impl Lane<'_> {
    fn slots(&self) -> &Slots {
        &self.seat.slots
    }

    fn now(&self) -> Now {
        self.lifeline.clock().now()
    }

    fn work(&mut self) -> Exit {
        loop {
            match self.lifeline.signal() {
                Signal::Kill => return Exit::Killed,
                Signal::Drain if self.machine.held() == 0 && self.seat.slot().lock().depth() == 0 => return Exit::Done,
                _ => {}
            }
            self.take_fences();
            self.take_batches();
            let elsewhere = self.slots().unsettled_of(self.seat.lane).saturating_sub(self.machine.held());
            self.wake_at = None;
            let now = self.now();
            let effects = self.machine.step(LaneEvent::Tick { elsewhere }, now);
            if let Err(fault) = self.perform(effects) {
                return Exit::Failed(fault);
            }
            self.rest();
        }
    }

    /// Waits for a batch, a signal or the time that the machine named.
    fn rest(&mut self) {
        let (slot, wake_at) = (self.seat.slot(), self.wake_at);
        let (mut first, elsewhere) = (true, self.slots().unsettled_of(self.seat.lane));
        self.lifeline.idle();
        // Told to drain: look again soon rather than at once.
        if self.lifeline.signal() != Signal::Run {
            slot.pause(DRAIN_TICK);
            return;
        }
        // Whether woken or told something else: the loop looks at both.
        let _looked = slot.wait_for(self.lifeline, |link| {
            let due = wake_at.is_some_and(|at| at <= self.lifeline.clock().now());
            let changed = link.depth() > 0 || due || self.slots().unsettled_of(self.seat.lane) != elsewhere;
            // One wake-up is enough to look around: a fence leaves nothing on the link to see.
            if changed || !std::mem::take(&mut first) { Ok(()) } else { Err(wake_at) }
        });
    }

    fn take_fences(&mut self) {
        let over: Vec<Assignment> = self.machine.assignments().filter(|over| !is_open(self.slots(), *over)).collect();
        for assignment in over {
            let now = self.now();
            let effects = self.machine.step(LaneEvent::Fenced(assignment), now);
            if let Err(fault) = self.perform(effects) {
                tracing::warn!(%fault, "lane failed while giving up a fenced transaction");
            }
        }
    }

    fn take_batches(&mut self) {
        loop {
            let now = self.now();
            let lent = self.seat.slot().lock().step(LinkEvent::Ask(LANE), now).pop();
            let Some(LinkEffect::Lend(Lent { loan, item: batch, .. })) = lent else { return };
            let Assignment { partition, generation } = batch.ticket.assignment;
            let account = self.slots().partition(partition).map(|slot| *slot.account.lock());
            match account.filter(|account| account.generation == generation) {
                Some(account) => {
                    let batch = self.fit(batch);
                    let effects = self.machine.step(LaneEvent::Arrived { loan, batch, expected: account.next }, now);
                    if let Err(fault) = self.perform(effects) {
                        tracing::warn!(%fault, "lane failed while it began a transaction");
                    }
                }
                // It slipped past the fence; nothing of it may be published.
                None => self.release(loan),
            }
        }
    }

    fn release(&self, loan: LoanId) {
        self.seat.slot().lock().step(LinkEvent::Settle(loan), self.now());
    }

    /// Performs effects, and those that the answers to operations lead to.
    fn perform(&mut self, effects: Vec<LaneEffect>) -> Result<(), Fault> {
        let mut pending = VecDeque::from(effects);
        while let Some(effect) = pending.pop_front() {
            if self.lifeline.signal() == Signal::Kill {
                return Ok(());
            }
            let answer = match effect {
                LaneEffect::Settle(held) => self.settle(&held),
                LaneEffect::FoundCommitted(held) => self.found_committed(&held),
                LaneEffect::Refuse { ticket, index, reason } => {
                    self.refuse(ticket, index, &reason)?;
                    None
                }
                LaneEffect::PositionMismatch(ticket, position) => {
                    tracing::error!(batch = %ticket, %position, "sentinel: the committed position lies within an unsettled batch");
                    self.slots().metrics.position_mismatch.with([&self.slots().spec.name]).inc();
                    None
                }
                LaneEffect::WakeAt(at) => {
                    self.wake_at = Some(at);
                    None
                }
                LaneEffect::Fail(reason) => return Err(Fault::fatal("publisher_refused", reason)),
                operation => Some(self.operate(operation)),
            };
            if let Some(event) = answer {
                let now = self.now();
                pending.extend(self.machine.step(event, now));
            }
        }
        Ok(())
    }

    fn operate(&mut self, operation: LaneEffect) -> LaneEvent {
        self.lifeline.beat();
        let result = match operation {
            LaneEffect::Rebuild => {
                self.slots().metrics.producer_recycled.with([&self.slots().spec.name]).inc();
                self.publisher.rebuild().map_err(|error| self.fault(error))
            }
            LaneEffect::ReadPositions(partitions) => return self.read_positions(&partitions),
            LaneEffect::Begin => {
                self.produced.clear();
                self.publisher.begin().map_err(|error| self.fault(error))
            }
            LaneEffect::Publish(batches) => self.publish(&batches),
            LaneEffect::Commit(ends) => self.commit(&ends),
            LaneEffect::Abort => {
                self.count("aborted");
                self.publisher.abort().map_err(|error| self.fault(error))
            }
            _ => Ok(()),
        };
        match result {
            Ok(()) => LaneEvent::Done,
            Err(fault) => {
                tracing::warn!(pipeline = %self.slots().spec.name, lane = self.seat.lane, ?fault, "publishing failed");
                LaneEvent::Failed(fault)
            }
        }
    }

    fn read_positions(&mut self, partitions: &[Partition]) -> LaneEvent {
        match self.publisher.committed(partitions) {
            Ok(positions) => LaneEvent::Positions(partitions.iter().copied().zip(positions).collect()),
            Err(error) => LaneEvent::Failed(self.fault(error)),
        }
    }

    fn publish(&mut self, batches: &[Arc<Batch>]) -> Result<(), LaneFault> {
        let wall = self.lifeline.clock().wall();
        for batch in batches {
            let mut letters = batch.letters.iter().peekable();
            for (index, outcome) in (0u32..).zip(&batch.outcomes) {
                if let Some((_, record)) = letters.next_if(|(of, _)| *of == index) {
                    let topic = Arc::clone(&self.slots().spec.dlq.topic);
                    let partition = Some(batch.ticket.assignment.partition);
                    self.produce(batch.ticket, index, Outgoing { topic, partition, record: record.clone() })?;
                }
                let records = match outcome {
                    Outcome::Emitted(records) => &records[..],
                    Outcome::Pending => std::slice::from_ref(&batch.records[index as usize].record),
                    _ => continue,
                };
                for record in records {
                    self.emit(batch.ticket, index, record, wall)?;
                }
            }
        }
        Ok(())
    }

    fn emit(&mut self, ticket: Ticket, index: u32, record: &Record, wall: WallMs) -> Result<(), LaneFault> {
        match self.slots().spec.outgoing(record, wall) {
            Some(outgoing) => self.produce(ticket, index, outgoing),
            None => Ok(()),
        }
    }

    fn produce(&mut self, ticket: Ticket, index: u32, outgoing: Outgoing) -> Result<(), LaneFault> {
        self.produced.push((ticket, index));
        self.publisher.produce(&outgoing).map_err(|error| self.fault(error))
    }

    fn commit(&mut self, ends: &[(Assignment, Position)]) -> Result<(), LaneFault> {
        let seat = self.seat.clone();
        // Before the gates: while a lane waits for a shard it holds up no fence.
        let mut segments = Vec::new();
        for (assignment, _) in ends {
            segments.push((*assignment, self.segments(*assignment)?));
        }
        let passes = pass_gates(&seat.slots, ends, self.lifeline.incarnation())?;
        let records =
            segments.iter().flat_map(|(_, segments)| segments).filter_map(|segment| seat.slots.segment_record(segment));
        let closing = Closing {
            segments: records.collect(),
            positions: ends.iter().map(|(assignment, end)| (assignment.partition, *end)).collect(),
        };
        let started = Instant::now();
        // A fence that could not wait for us closes the gates behind us, and a successor opens them for itself.
        let lifeline = self.lifeline;
        let ours = || lifeline.current() && ends.iter().all(|(assignment, _)| is_open(&seat.slots, *assignment));
        let result = self.publisher.commit_if(&closing, &ours);
        let seconds = started.elapsed().as_secs_f64();
        seat.slots.metrics.commit_duration_seconds.with([&seat.slots.spec.name]).observe(seconds);
        if !self.lifeline.current() {
            // Replaced while it hung: the successor reads what came of it from the log.
            return Err(LaneFault::Void("this lane was replaced".to_owned()));
        }
        if let Err(error) = result {
            self.resync_recorded(ends);
            return Err(self.fault(error));
        }
        self.count("committed");
        // Before the gates open again: whoever fences next finds the ledger told.
        for (assignment, segments) in segments {
            if let Some(slot) = seat.slots.partition(assignment.partition) {
                slot.ledger.committed(assignment.generation, segments);
            }
        }
        drop(passes);
        Ok(())
    }

    /// At least once, the segments of a commit that failed may be in the changelog all the same: the next ones go behind
    /// them.
    fn resync_recorded(&self, ends: &[(Assignment, Position)]) {
        if self.slots().spec.delivery == Delivery::AtLeastOnce {
            let slots = ends.iter().filter_map(|(assignment, _)| self.slots().partition(assignment.partition));
            slots.for_each(|slot| slot.ledger.resync());
        }
    }

    /// The ledger's segments for what the transaction holds of a partition; waits for the shard to know where they go.
    fn segments(&self, assignment: Assignment) -> Result<Vec<Segment>, LaneFault> {
        let Some(ledger) = &self.slots().spec.ledger else { return Ok(Vec::new()) };
        let Some(slot) = self.slots().partition(assignment.partition) else { return Ok(Vec::new()) };
        let (generation, wait) = (assignment.generation, ledger.settle_wait);
        let is_over = || !is_open(self.slots(), assignment);
        let Some(head) = slot.ledger.wait_for_head(self.lifeline, generation, wait, is_over) else {
            return Err(match is_open(self.slots(), assignment) {
                true => LaneFault::Void(format!("{assignment}: the ledger shard is not ready")),
                false => LaneFault::Fenced(vec![assignment]),
            });
        };
        let published = self.machine.published(assignment.partition);
        let batches: Vec<&Batch> = published.iter().map(|held| &*held.batch).collect();
        Ok(Segment::build(&batches, head, self.lifeline.clock().wall(), ledger.segment_bytes_max))
    }

    fn settle(&mut self, held: &[Held]) -> Option<LaneEvent> {
        for Held { loan, batch } in held {
            self.slots().count_outcomes(batch);
            trace::settled(&self.slots().spec, batch);
            self.release(*loan);
            self.slots().settle(batch.ticket.assignment, batch.ticket.seq, batch.end());
        }
        None
    }

    fn found_committed(&mut self, held: &[Held]) -> Option<LaneEvent> {
        for Held { batch, .. } in held {
            if let Some(slot) = self.slots().partition(batch.ticket.assignment.partition) {
                slot.ledger.resync();
            }
        }
        tracing::info!(
            batches = held.len(),
            "found committed by an earlier transaction; nothing of them is published again"
        );
        self.settle(held)
    }

    /// The log refuses a record for good: its source record becomes a dead letter; a dead letter is cut. One that cannot be
    /// cut any more is not dropped: the lane gives up, and its supervisor stops the pipeline if that does not help.
    fn refuse(&mut self, ticket: Ticket, index: u32, reason: &str) -> Result<(), Fault> {
        let (slots, wall) = (Arc::clone(&self.seat.slots), self.lifeline.clock().wall());
        let incarnation = self.lifeline.incarnation().0;
        let mut fits = true;
        self.machine.amend(ticket, |batch| fits = refuse(&slots, batch, index, reason, incarnation, wall));
        if fits {
            return Ok(());
        }
        let topic = &slots.spec.dlq.topic;
        Err(Fault::fatal("dead_letter_refused", format_args!("{topic} takes no dead letter of {ticket}: {reason}")))
    }

    /// What a finished batch became, made to fit its topics: a result too large for its is a rejection, a letter is cut.
    fn fit(&self, batch: Arc<Batch>) -> Arc<Batch> {
        let spec = &self.slots().spec;
        let bytes_max =
            spec.output.as_ref().map_or(usize::MAX, |output| self.publisher.record_bytes_max(&output.topic));
        let letter_bytes_max = self.publisher.record_bytes_max(&spec.dlq.topic);
        let letters_fit = batch.letters.iter().all(|(_, letter)| letter.size() <= letter_bytes_max);
        if letters_fit
            && batch.outcomes.iter().all(|outcome| spec.unfit(outcome, bytes_max, &*self.publisher).is_none())
        {
            return batch;
        }
        let mut batch = Arc::unwrap_or_clone(batch);
        for index in 0..u32::try_from(batch.outcomes.len()).unwrap_or(u32::MAX) {
            if let Some(reason) = spec.unfit(&batch.outcomes[index as usize], bytes_max, &*self.publisher) {
                let incarnation = self.lifeline.incarnation().0;
                refuse(self.slots(), &mut batch, index, &reason, incarnation, self.lifeline.clock().wall());
            }
        }
        batch.letters.iter_mut().for_each(|(_, letter)| fit(letter, letter_bytes_max));
        Arc::new(batch)
    }

    fn count(&self, result: &str) {
        self.slots().metrics.transactions.with([&self.slots().spec.name, result]).inc();
    }

    fn fault(&self, error: PublishError) -> LaneFault {
        match error {
            PublishError::Void(why) => LaneFault::Void(why),
            PublishError::Unknown(why) => {
                self.count("unknown");
                LaneFault::Unknown(why)
            }
            PublishError::Fatal(why) => LaneFault::Fatal(why),
            PublishError::Refused { index, reason } => match self.produced.get(index) {
                Some((ticket, index)) => LaneFault::Refused { ticket: *ticket, index: *index, reason },
                None => LaneFault::Fatal(format!("the log refused a segment: {reason}")),
            },
        }
    }
}

/// Makes the source record of this index a dead letter; where it is one already, cuts it to the least that says what
/// happened. False where it is that already.
fn refuse(slots: &Slots, batch: &mut Batch, index: u32, reason: &str, incarnation: u32, wall: WallMs) -> bool {
    if let Some((_, letter)) = batch.letters.iter_mut().find(|(of, _)| *of == index) {
        return cut(letter);
    }
    let fault = Fault::poison("refused_by_log", reason);
    let why = Rejection { stage: Arc::from(LANE_STAGE), step: None, fault, attempts: 1, incarnation };
    let source = &batch.records[index as usize];
    let made = letter(&slots.letter_spec(), batch.ticket.assignment.partition, source, &why, wall);
    let at = batch.letters.partition_point(|(of, _)| *of < index);
    batch.letters.insert(at, (index, made));
    batch.outcomes[index as usize] = Outcome::Rejected(Box::new(why));
    true
}

/// Whether commits of this assignment may pass.
fn is_open(slots: &Slots, assignment: Assignment) -> bool {
    slots.partition(assignment.partition).and_then(|slot| slot.gate.generation()) == Some(assignment.generation)
}

/// Passes every partition's gate, or names those that are closed. One that is open and held is an abandoned lane's, which
/// will end: taken for a fence it would cost batches that are still ours.
fn pass_gates<'slots>(
    slots: &'slots Slots,
    ends: &[(Assignment, Position)],
    by: Incarnation,
) -> Result<Vec<Pass<'slots>>, LaneFault> {
    let mut passes = Vec::new();
    let mut closed = Vec::new();
    let mut held = None;
    for (assignment, _) in ends {
        match slots.partition(assignment.partition).and_then(|slot| slot.gate.enter(assignment.generation, by)) {
            Some(pass) => passes.push(pass),
            None if is_open(slots, *assignment) => held = Some(*assignment),
            None => closed.push(*assignment),
        }
    }
    match held {
        _ if !closed.is_empty() => Err(LaneFault::Fenced(closed)),
        Some(held) => Err(LaneFault::Void(format!("{held}: an abandoned lane is still committing"))),
        None => Ok(passes),
    }
}
