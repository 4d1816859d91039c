//! A stage's link under workers that answer, fail, crash and answer late: each batch goes on once, with the first verdict
//! that was given under a current loan.

use crate::{assignment, batch};
use bulkhead_core::batch::{Batch, Outcome};
use bulkhead_core::fault::Fault;
use bulkhead_core::gather::Gather;
use bulkhead_core::ids::{LoanId, Ticket};
use bulkhead_core::link::Borrower;
use bulkhead_core::machine::Machine;
use bulkhead_core::retry::RetryPolicy;
use bulkhead_core::stage::{StageEffect, StageEvent, StageLink, Work};
use bulkhead_core::time::Now;
use bulkhead_core::trial::{Mode, Patience};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

const WORKERS: u32 = 2;

#[derive(Clone, Debug)]
enum Op {
    Push,
    /// A worker without work asks, one with work does a little: which, and what.
    Work(u32, u8),
    Kill(u32),
    Crash(u32),
    /// The oldest dead incarnation answers.
    Late,
    Fence,
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => Just(Op::Push),
        12 => (0..WORKERS, 0u8..10).prop_map(|(worker, what)| Op::Work(worker, what)),
        1 => (0..WORKERS).prop_map(Op::Kill),
        2 => (0..WORKERS).prop_map(Op::Crash),
        1 => Just(Op::Late),
        1 => Just(Op::Fence),
        2 => (1u64..40).prop_map(Op::Pass),
    ]
}

fn link(gather: Gather) -> StageLink {
    StageLink::new(1_000, Patience { stage: "stage".into(), crashes_max: 2, retry: RetryPolicy::default() }, gather)
}

fn gather() -> impl Strategy<Value = Gather> {
    let gathering = |(records_max, wait)| Gather { records_max, wait: Duration::from_millis(wait) };
    prop_oneof![Just(Gather::OFF), (1u32..12, 0u64..10).prop_map(gathering)]
}

struct World {
    link: StageLink,
    now: Now,
    /// What each worker holds; several where they were lent for one call.
    hands: Vec<Vec<Work>>,
    gather: Gather,
    dead: Vec<LoanId>,
    /// The first verdicts that were given under current loans.
    given: BTreeMap<Ticket, BTreeMap<u32, String>>,
    forwarded: Vec<Batch>,
    generation: u64,
    pushed: u64,
    said: u32,
}

impl World {
    fn new(gather: Gather) -> Self {
        Self {
            link: link(gather),
            now: Now(0),
            hands: (0..WORKERS).map(|_| Vec::new()).collect(),
            gather,
            dead: Vec::new(),
            given: BTreeMap::new(),
            forwarded: Vec::new(),
            generation: 1,
            pushed: 0,
            said: 0,
        }
    }

    fn step(&mut self, event: StageEvent) -> Vec<StageEffect> {
        let mut rest = Vec::new();
        for effect in self.link.step(event, self.now) {
            match effect {
                StageEffect::Forward(batch) => self.forwarded.push(batch),
                StageEffect::Overflow => panic!("there is room"),
                other => rest.push(other),
            }
        }
        rest
    }

    fn push(&mut self) {
        let mut batch = batch(assignment(0, self.generation), self.pushed, 0..3);
        // Every third has nothing to do: it passes through.
        let ended = if self.pushed.is_multiple_of(3) { 3 } else { self.pushed as usize % 2 };
        batch.outcomes[..ended].fill(Outcome::Dropped("before".into()));
        self.pushed += 1;
        self.given.insert(batch.ticket, (0..ended as u32).map(|index| (index, "before".to_owned())).collect());
        self.step(StageEvent::Push(batch));
    }

    fn say(&mut self, ticket: Ticket, index: u32) -> Outcome {
        self.said += 1;
        let said = self.said.to_string();
        if let Some(given) = self.given.get_mut(&ticket) {
            given.entry(index).or_insert(said.clone());
        }
        Outcome::Dropped(said)
    }

    fn ask(&mut self, worker: u32) {
        let lent = works(self.step(StageEvent::Ask(Borrower(worker))));
        if lent.len() > 1 {
            let records: usize = lent.iter().map(|work| work.todo.len()).sum();
            assert!(records <= self.gather.records_max as usize, "{records} records in one call");
            assert!(lent.iter().all(|work| work.mode == Mode::Whole && work.attempt == 1), "{lent:?}");
        }
        self.hands[worker as usize] = lent;
    }

    fn work(&mut self, worker: u32, what: u8) {
        if self.hands[worker as usize].is_empty() {
            return self.ask(worker);
        }
        let work = self.hands[worker as usize].remove(0);
        let (loan, ticket) = (work.loan, work.batch.ticket);
        match (what, work.mode) {
            (0, _) => {
                let fault = Fault::transient("away", "");
                self.step(StageEvent::Failed { loan, fault, incarnation: 1, jitter: u32::MAX });
            }
            (1..4, Mode::Single) => {
                let index = work.todo[what as usize % work.todo.len()];
                self.step(StageEvent::Begin(loan, index));
                self.hands[worker as usize].insert(0, work);
            }
            (4..7, Mode::Single) => {
                let index = work.todo[what as usize % work.todo.len()];
                let outcome = self.say(ticket, index);
                self.step(StageEvent::Verdict(loan, index, outcome));
                self.hands[worker as usize].insert(0, work);
            }
            _ => {
                let verdicts = work.todo.iter().map(|index| (*index, self.say(ticket, *index))).collect();
                self.step(StageEvent::Done(loan, verdicts));
            }
        }
    }

    fn down(&mut self, worker: u32, crash: bool) {
        self.dead.extend(self.hands[worker as usize].drain(..).map(|work| work.loan));
        let crash = crash.then(|| "panic".to_owned());
        let effects = self.step(StageEvent::Down { borrower: Borrower(worker), incarnation: 1, crash });
        for effect in effects {
            if let StageEffect::Culprit { ticket, index, poison: true } = effect {
                let given = self.given.get_mut(&ticket).expect("only batches that are here are charged");
                given.entry(index).or_insert("crashed_worker".to_owned());
            }
        }
    }

    fn late(&mut self) {
        if let Some(loan) = self.dead.pop() {
            let effects = self.step(StageEvent::Done(loan, vec![(0, Outcome::Dropped("late".into()))]));
            assert!(matches!(effects[..], [StageEffect::Late]), "{effects:?}");
        }
    }

    fn fence(&mut self) {
        let over = assignment(0, self.generation);
        self.step(StageEvent::Fence(over));
        self.given.retain(|ticket, _| self.forwarded.iter().any(|batch| batch.ticket == *ticket));
        for hand in &mut self.hands {
            self.dead.extend(hand.drain(..).map(|work| work.loan));
        }
        self.generation += 1;
    }

    fn finish(&mut self) {
        while self.link.depth() + self.link.lent() > 0 {
            self.now.0 += 1_000_000;
            (0..WORKERS).for_each(|worker| self.work(worker, 9));
        }
    }
}

fn says(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Dropped(said) => said.clone(),
        Outcome::Rejected(why) => why.fault.code.to_string(),
        other => format!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn each_batch_goes_on_once_with_the_first_verdicts(gather in gather(), ops in prop::collection::vec(op(), 1..150)) {
        let mut world = World::new(gather);
        for op in ops {
            match op {
                Op::Push => world.push(),
                Op::Work(worker, what) => world.work(worker, what),
                Op::Kill(worker) => world.down(worker, false),
                Op::Crash(worker) => world.down(worker, true),
                Op::Late => world.late(),
                Op::Fence => world.fence(),
                Op::Pass(ms) => world.now.0 += ms,
            }
        }
        world.finish();
        let mut forwarded = BTreeMap::new();
        for batch in &world.forwarded {
            let said = (0u32..).zip(batch.outcomes.iter().map(says)).collect::<BTreeMap<_, _>>();
            prop_assert!(forwarded.insert(batch.ticket, said).is_none(), "{} went on twice", batch.ticket);
        }
        prop_assert_eq!(forwarded, world.given);
    }
}

#[test]
fn crashes_that_nobody_is_guilty_of_are_the_stages_own() {
    let mut link = link(Gather::OFF);
    link.step(StageEvent::Push(batch(assignment(0, 1), 0, 0..2)), Now(0));
    let mut charged = 0;
    for incarnation in 1..=3 {
        link.step(StageEvent::Ask(Borrower(0)), Now(0));
        let crash = Some("panic".to_owned());
        link.step(StageEvent::Down { borrower: Borrower(0), incarnation, crash }, Now(0));
    }
    let Some(StageEffect::Lend(work)) = link.step(StageEvent::Ask(Borrower(0)), Now(0)).pop() else {
        panic!("the batch is lent again");
    };
    assert_eq!((work.mode, work.attempt), (Mode::Single, 4));
    let verdicts = work.todo.iter().map(|index| (*index, Outcome::Dropped("done".into()))).collect();
    for effect in link.step(StageEvent::Done(work.loan, verdicts), Now(0)) {
        if let StageEffect::Charge(crashes) = effect {
            charged += crashes;
        }
    }
    assert_eq!(charged, 3);
}

/// Batches of three partitions, lent for one call.
fn lent_together(link: &mut StageLink) -> Vec<Work> {
    for partition in 0..3 {
        link.step(StageEvent::Push(batch(assignment(partition, 1), 0, 0..2)), Now(0));
    }
    lent(link)
}

fn lent(link: &mut StageLink) -> Vec<Work> {
    works(link.step(StageEvent::Ask(Borrower(0)), Now(0)))
}

fn works(effects: Vec<StageEffect>) -> Vec<Work> {
    effects.into_iter().filter_map(|e| if let StageEffect::Lend(work) = e { Some(work) } else { None }).collect()
}

fn crash(link: &mut StageLink, incarnation: u32) -> Vec<StageEffect> {
    let crash = Some("panic".to_owned());
    link.step(StageEvent::Down { borrower: Borrower(0), incarnation, crash }, Now(0))
}

const SIX: Gather = Gather { records_max: 6, wait: Duration::from_millis(5) };

#[test]
fn one_culprit_explains_the_crash_of_all_that_were_gathered() {
    let mut link = link(SIX);
    assert_eq!(lent_together(&mut link).len(), 3);
    crash(&mut link, 1);
    let mut charged = 0;
    let mut poisoned = 0;
    for incarnation in 2..20 {
        let Some(work) = lent(&mut link).pop() else { break };
        assert_eq!(work.mode, Mode::Single, "{work:?}");
        let partition = work.batch.ticket.assignment.partition.0;
        for index in work.todo {
            link.step(StageEvent::Begin(work.loan, index), Now(0));
            if (partition, index) == (2, 1) {
                let effects = crash(&mut link, incarnation);
                poisoned += effects.iter().filter(|e| matches!(e, StageEffect::Culprit { poison: true, .. })).count();
                break;
            }
            link.step(StageEvent::Verdict(work.loan, index, Outcome::Dropped("done".into())), Now(0));
            if index == 1 {
                let effects = link.step(StageEvent::Done(work.loan, Vec::new()), Now(0));
                charged += effects.iter().filter(|e| matches!(e, StageEffect::Charge(_))).count();
            }
        }
    }
    assert_eq!((poisoned, charged, link.depth() + link.lent()), (1, 0, 0));
}

#[test]
fn a_crash_that_no_gathered_batch_repeats_is_charged_once() {
    let mut link = link(SIX);
    lent_together(&mut link);
    crash(&mut link, 1);
    let mut charged = Vec::new();
    while let Some(work) = lent(&mut link).pop() {
        let verdicts = work.todo.iter().map(|index| (*index, Outcome::Dropped("done".into()))).collect();
        for effect in link.step(StageEvent::Done(work.loan, verdicts), Now(0)) {
            if let StageEffect::Charge(crashes) = effect {
                charged.push(crashes);
            }
        }
    }
    assert_eq!(charged, [1]);
}

#[test]
fn a_call_waits_for_more_only_as_long_as_it_may() {
    let mut link = link(SIX);
    link.step(StageEvent::Push(batch(assignment(0, 1), 0, 0..2)), Now(10));
    let idle = link.step(StageEvent::Ask(Borrower(0)), Now(11));
    assert!(matches!(idle[..], [StageEffect::Idle(Some(Now(15)))]), "{idle:?}");
    let late = link.step(StageEvent::Ask(Borrower(0)), Now(15));
    assert!(matches!(&late[..], [StageEffect::Lend(work)] if work.waited == Duration::from_millis(5)), "{late:?}");
}
