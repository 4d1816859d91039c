//! Gathering against a model that looks at every prefix of the queue.

use bulkhead_core::gather::{Candidate, Gather, Gathered};
use bulkhead_core::time::Now;
use proptest::prelude::*;
use std::time::Duration;

fn candidate() -> impl Strategy<Value = Candidate> {
    let alone = prop_oneof![4 => Just(false), 1 => Just(true)];
    (0u32..6, 0u64..30, alone).prop_map(|(records, since, alone)| Candidate { records, since: Now(since), alone })
}

/// Whether a call may work on these together.
fn fits(prefix: &[Candidate], gather: Gather) -> bool {
    let records: u32 = prefix.iter().map(|c| c.records).sum();
    prefix.len() == 1 || records <= gather.records_max && prefix.iter().all(|c| !c.alone) && prefix[0].records > 0
}

/// The longest prefix that fits; it waits only where what comes next could still join it.
fn model(queue: &[Candidate], gather: Gather, now: Now) -> Option<Gathered> {
    let longest = (1..=queue.len()).take_while(|n| fits(&queue[..*n], gather)).last()?;
    let records = |n: usize| queue[..n].iter().map(|c| c.records).sum::<u32>();
    // What has no records would fit into a full call, too, but nobody waits for it.
    let taken = (1..=longest).find(|n| records(*n) >= gather.records_max).unwrap_or(longest);
    let first = queue[0];
    let may_grow = taken == queue.len() && records(taken) < gather.records_max && !first.alone && first.records > 0;
    let due = first.since + gather.wait;
    Some(if may_grow && now < due { Gathered::Wait(due) } else { Gathered::Take(taken) })
}

proptest! {
    #[test]
    fn it_decides_as_the_model_does(
        queue in prop::collection::vec(candidate(), 0..6),
        records_max in 1u32..12,
        wait in 0u64..20,
        now in 0u64..60,
    ) {
        let gather = Gather { records_max, wait: Duration::from_millis(wait) };
        prop_assert_eq!(gather.decide(queue.iter().copied(), Now(now)), model(&queue, gather, Now(now)));
    }

    #[test]
    fn off_means_one_at_once(queue in prop::collection::vec(candidate(), 1..6), now in 0u64..60) {
        prop_assert_eq!(Gather::OFF.decide(queue.iter().copied(), Now(now.max(30))), Some(Gathered::Take(1)));
    }
}
