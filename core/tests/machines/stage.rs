//! A stage's link under workers that answer, fail, crash and answer late: each batch goes on once, with the first verdict
//! that was given under a current loan.

use crate::{assignment, batch};
use bulkhead_core::batch::{Batch, Outcome};
use bulkhead_core::fault::Fault;
use bulkhead_core::ids::{LoanId, Ticket};
use bulkhead_core::link::Borrower;
use bulkhead_core::machine::Machine;
use bulkhead_core::retry::RetryPolicy;
use bulkhead_core::stage::{StageEffect, StageEvent, StageLink, Work};
use bulkhead_core::time::Now;
use bulkhead_core::trial::{Mode, Patience};
use proptest::prelude::*;
use std::collections::BTreeMap;

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

fn link() -> StageLink {
    StageLink::new(1_000, Patience { stage: "stage".into(), crashes_max: 2, retry: RetryPolicy::default() })
}

struct World {
    link: StageLink,
    now: Now,
    hands: Vec<Option<Work>>,
    dead: Vec<LoanId>,
    /// The first verdicts that were given under current loans.
    given: BTreeMap<Ticket, BTreeMap<u32, String>>,
    forwarded: Vec<Batch>,
    generation: u64,
    pushed: u64,
    said: u32,
}

impl World {
    fn new() -> Self {
        Self {
            link: link(),
            now: Now(0),
            hands: (0..WORKERS).map(|_| None).collect(),
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

    fn work(&mut self, worker: u32, what: u8) {
        let Some(work) = self.hands[worker as usize].take() else {
            let effects = self.step(StageEvent::Ask(Borrower(worker)));
            let lent = effects.into_iter().find_map(|effect| match effect {
                StageEffect::Lend(work) => Some(work),
                _ => None,
            });
            self.hands[worker as usize] = lent;
            return;
        };
        let (loan, ticket) = (work.loan, work.batch.ticket);
        match (what, work.mode) {
            (0, _) => {
                let fault = Fault::transient("away", "");
                self.step(StageEvent::Failed { loan, fault, incarnation: 1, jitter: u32::MAX });
            }
            (1..4, Mode::Single) => {
                let index = work.todo[what as usize % work.todo.len()];
                self.step(StageEvent::Begin(loan, index));
                self.hands[worker as usize] = Some(work);
            }
            (4..7, Mode::Single) => {
                let index = work.todo[what as usize % work.todo.len()];
                let outcome = self.say(ticket, index);
                self.step(StageEvent::Verdict(loan, index, outcome));
                self.hands[worker as usize] = Some(work);
            }
            _ => {
                let verdicts = work.todo.iter().map(|index| (*index, self.say(ticket, *index))).collect();
                self.step(StageEvent::Done(loan, verdicts));
            }
        }
    }

    fn down(&mut self, worker: u32, crash: bool) {
        self.dead.extend(self.hands[worker as usize].take().map(|work| work.loan));
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
            self.dead.extend(hand.take().map(|work| work.loan));
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
    fn each_batch_goes_on_once_with_the_first_verdicts(ops in prop::collection::vec(op(), 1..150)) {
        let mut world = World::new();
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
    let mut link = link();
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
