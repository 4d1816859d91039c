//! Unexplained crashes against a list of them, each with the batches that are still under suspicion.

use crate::assignment;
use bulkhead_core::ids::{BatchSeq, Ticket};
use bulkhead_core::unexplained::Unexplained;
use proptest::prelude::*;
use std::collections::BTreeSet;

#[derive(Clone, Debug)]
enum Op {
    Crash(BTreeSet<u64>),
    Explain(u64),
    Clear(u64),
    Fence(i32),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => prop::collection::btree_set(0u64..6, 0..4).prop_map(Op::Crash),
        1 => (0u64..6).prop_map(Op::Explain),
        3 => (0u64..6).prop_map(Op::Clear),
        1 => (0i32..2).prop_map(Op::Fence),
    ]
}

/// Even batches are one partition's, odd ones the other's.
fn ticket(seq: u64) -> Ticket {
    Ticket { assignment: assignment((seq % 2) as i32, 1), seq: BatchSeq(seq) }
}

proptest! {
    #[test]
    fn a_crash_is_nobodys_once_every_suspect_went_well(ops in prop::collection::vec(op(), 1..60)) {
        let (mut unexplained, mut model) = (Unexplained::default(), Vec::<BTreeSet<u64>>::new());
        for op in ops {
            match op {
                Op::Crash(held) => {
                    unexplained.crashed(held.iter().map(|seq| ticket(*seq)).collect());
                    model.push(held);
                }
                Op::Explain(seq) => {
                    unexplained.explained_by(ticket(seq));
                    model.retain(|held| !held.contains(&seq));
                }
                Op::Clear(seq) => {
                    let mut nobodys = 0;
                    for held in &mut model {
                        nobodys += u32::from(held.remove(&seq) && held.is_empty());
                    }
                    prop_assert_eq!(unexplained.cleared(ticket(seq)), nobodys);
                }
                Op::Fence(partition) => {
                    unexplained.fenced(assignment(partition, 1));
                    model.iter_mut().for_each(|held| held.retain(|seq| (seq % 2) as i32 != partition));
                }
            }
            model.retain(|held| !held.is_empty());
        }
    }
}
