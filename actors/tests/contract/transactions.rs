//! Publishers: all or nothing, fencing, the truth after a rebuild.

use super::{PATIENCE, committed, fill, join, outgoing, read_all, texts, topic, unique};
use bulkhead_actors::log::{Closing, Delivery, Log, PublishError};
use bulkhead_core::ids::{Partition, Position};

pub(crate) fn commits_all_at_once(log: &dyn Log) {
    let (source, target, ledger) = (topic(log, 1), topic(log, 2), topic(log, 1));
    let offsets = fill(log, &source, 0, &["a", "b"]);
    let member = join(log, &unique("group"), &source, 1);
    let mut publisher = member.publisher(0);
    for round in 0..3 {
        publisher.begin().unwrap();
        publisher.produce(&outgoing(&target, 0, &format!("x{round}"))).unwrap();
        publisher.produce(&outgoing(&target, 1, &format!("y{round}"))).unwrap();
        let segments = vec![outgoing(&ledger, 0, &format!("s{round}"))];
        publisher.commit(&Closing { segments, positions: vec![(Partition(0), offsets[1].next())] }).unwrap();
    }
    assert_eq!(texts(&read_all(log, &target, 0)), ["x0", "x1", "x2"]);
    assert_eq!(texts(&read_all(log, &target, 1)), ["y0", "y1", "y2"]);
    assert_eq!(texts(&read_all(log, &ledger, 0)), ["s0", "s1", "s2"]);
    assert_eq!(committed(log, &member.name, &source, 1), [Some(offsets[1].next())]);
    assert_eq!(publisher.committed(&[Partition(0)]).unwrap(), [Some(offsets[1].next())]);
    member.group.leave().unwrap();
}

pub(crate) fn aborts_without_a_trace(log: &dyn Log) {
    let (source, target) = (topic(log, 1), topic(log, 1));
    let member = join(log, &unique("group"), &source, 1);
    let mut publisher = member.publisher(0);
    publisher.begin().unwrap();
    publisher.produce(&outgoing(&target, 0, "never")).unwrap();
    publisher.abort().unwrap();
    publisher.begin().unwrap();
    publisher.produce(&outgoing(&target, 0, "seen")).unwrap();
    publisher.commit(&Closing::default()).unwrap();
    assert_eq!(texts(&read_all(log, &target, 0)), ["seen"]);
    assert_eq!(committed(log, &member.name, &source, 1), [None]);
    member.group.leave().unwrap();
}

pub(crate) fn hides_what_is_open(log: &dyn Log) {
    let (source, target) = (topic(log, 1), topic(log, 1));
    let member = join(log, &unique("group"), &source, 1);
    fill(log, &target, 0, &["before"]);
    let end = log.extent(&target, Partition(0)).unwrap().end;
    let mut publisher = member.publisher(0);
    publisher.begin().unwrap();
    publisher.produce(&outgoing(&target, 0, "open")).unwrap();
    assert_eq!(texts(&read_all(log, &target, 0)), ["before"]);
    assert_eq!(log.extent(&target, Partition(0)).unwrap().end, end, "what is open does not count");
    publisher.commit(&Closing::default()).unwrap();
    assert_eq!(texts(&read_all(log, &target, 0)), ["before", "open"]);
    assert!(log.extent(&target, Partition(0)).unwrap().end > end);
    member.group.leave().unwrap();
}

pub(crate) fn refuses_one_record(log: &dyn Log) {
    let (source, target) = (topic(log, 1), topic(log, 1));
    let member = join(log, &unique("group"), &source, 1);
    let mut publisher = member.publisher(0);
    let max = publisher.record_bytes_max(&target);
    let mut large = outgoing(&target, 0, "");
    large.record.value = Some(vec![b'x'; max + 1024].into());
    publisher.begin().unwrap();
    publisher.produce(&outgoing(&target, 0, "a")).unwrap();
    let produced = publisher.produce(&large);
    let refused = produced.and_then(|()| publisher.commit(&Closing::default())).unwrap_err();
    assert!(matches!(refused, PublishError::Refused { index: 1, .. }), "{refused}");
    publisher.abort().unwrap();
    publisher.begin().unwrap();
    publisher.produce(&outgoing(&target, 0, "a")).unwrap();
    publisher.produce(&outgoing(&target, 0, "c")).unwrap();
    publisher.commit(&Closing { segments: Vec::new(), positions: vec![(Partition(0), Position(0))] }).unwrap();
    assert_eq!(texts(&read_all(log, &target, 0)), ["a", "c"]);
    // A record of exactly the size that it may have is taken.
    let mut fits = outgoing(&target, 0, "");
    fits.record.value = Some(vec![b'x'; max - fits.record.size()].into());
    assert_eq!(fits.record.size(), max);
    publisher.begin().unwrap();
    publisher.produce(&fits).unwrap();
    publisher.commit(&Closing::default()).unwrap();
    assert_eq!(read_all(log, &target, 0).len(), 3);
    member.group.leave().unwrap();
}

pub(crate) fn fences_the_earlier_publisher(log: &dyn Log) {
    let (source, target) = (topic(log, 1), topic(log, 1));
    let member = join(log, &unique("group"), &source, 1);
    let mut zombie = member.publisher(3);
    zombie.begin().unwrap();
    zombie.produce(&outgoing(&target, 0, "zombie")).unwrap();
    let mut successor = member.publisher(3);
    successor.begin().unwrap();
    successor.produce(&outgoing(&target, 0, "successor")).unwrap();
    successor.commit(&Closing::default()).unwrap();
    let late = zombie.commit(&Closing { segments: Vec::new(), positions: vec![(Partition(0), Position(7))] });
    assert!(matches!(late, Err(PublishError::Unknown(_) | PublishError::Void(_))), "{late:?}");
    assert_eq!(texts(&read_all(log, &target, 0)), ["successor"]);
    assert_eq!(committed(log, &member.name, &source, 1), [None]);
    // It may live again: then the other is the earlier one.
    zombie.rebuild().unwrap();
    zombie.begin().unwrap();
    zombie.produce(&outgoing(&target, 0, "risen")).unwrap();
    zombie.commit(&Closing::default()).unwrap();
    let fenced = successor.begin().and_then(|()| {
        successor.produce(&outgoing(&target, 0, "late"))?;
        successor.commit(&Closing::default())
    });
    assert!(fenced.is_err());
    assert_eq!(texts(&read_all(log, &target, 0)), ["successor", "risen"]);
    member.group.leave().unwrap();
}

pub(crate) fn tells_the_truth_after_rebuild(log: &dyn Log) {
    let (source, target) = (topic(log, 1), topic(log, 1));
    let offsets = fill(log, &source, 0, &["a", "b"]);
    let member = join(log, &unique("group"), &source, 1);
    let mut first = member.publisher(0);
    first.begin().unwrap();
    first.produce(&outgoing(&target, 0, "a")).unwrap();
    first.commit(&Closing { segments: Vec::new(), positions: vec![(Partition(0), offsets[0].next())] }).unwrap();
    first.begin().unwrap();
    first.produce(&outgoing(&target, 0, "b, never committed")).unwrap();
    drop(first);
    let mut second = member.publisher(0);
    assert_eq!(second.committed(&[Partition(0)]).unwrap(), [Some(offsets[0].next())]);
    second.begin().unwrap();
    second.produce(&outgoing(&target, 0, "b")).unwrap();
    second.commit(&Closing { segments: Vec::new(), positions: vec![(Partition(0), offsets[1].next())] }).unwrap();
    assert_eq!(texts(&read_all(log, &target, 0)), ["a", "b"]);
    let waited = log.committed(&member.name, &source, &[Partition(0)], PATIENCE).unwrap();
    assert_eq!(waited, [Some(offsets[1].next())]);
    member.group.leave().unwrap();
}

pub(crate) fn delivers_at_least_once(log: &dyn Log) {
    let (source, target, ledger) = (topic(log, 1), topic(log, 1), topic(log, 1));
    let offsets = fill(log, &source, 0, &["a"]);
    let member = join(log, &unique("group"), &source, 1);
    let mut publisher = member.group.publisher(0, Delivery::AtLeastOnce).unwrap();
    publisher.rebuild().unwrap();
    publisher.begin().unwrap();
    publisher.produce(&outgoing(&target, 0, "x")).unwrap();
    let segments = vec![outgoing(&ledger, 0, "s")];
    publisher.commit(&Closing { segments, positions: vec![(Partition(0), offsets[0].next())] }).unwrap();
    assert_eq!(texts(&read_all(log, &target, 0)), ["x"]);
    assert_eq!(texts(&read_all(log, &ledger, 0)), ["s"]);
    assert_eq!(publisher.committed(&[Partition(0)]).unwrap(), [Some(offsets[0].next())]);
    publisher.begin().unwrap();
    publisher.abort().unwrap();
    assert_eq!(committed(log, &member.name, &source, 1), [Some(offsets[0].next())]);
    member.group.leave().unwrap();
}

pub(crate) fn lanes_are_independent(log: &dyn Log) {
    let (source, target) = (topic(log, 2), topic(log, 2));
    let member = join(log, &unique("group"), &source, 2);
    let (mut first, mut second) = (member.publisher(0), member.publisher(1));
    first.begin().unwrap();
    second.begin().unwrap();
    first.produce(&outgoing(&target, 0, "first")).unwrap();
    second.produce(&outgoing(&target, 1, "second")).unwrap();
    second.commit(&Closing { segments: Vec::new(), positions: vec![(Partition(1), Position(2))] }).unwrap();
    assert_eq!(texts(&read_all(log, &target, 1)), ["second"]);
    assert!(read_all(log, &target, 0).is_empty());
    first.commit(&Closing { segments: Vec::new(), positions: vec![(Partition(0), Position(1))] }).unwrap();
    assert_eq!(texts(&read_all(log, &target, 0)), ["first"]);
    assert_eq!(committed(log, &member.name, &source, 2), [Some(Position(1)), Some(Position(2))]);
    member.group.leave().unwrap();
}

pub(crate) fn empty_transactions_move_positions(log: &dyn Log) {
    let source = topic(log, 1);
    let offsets = fill(log, &source, 0, &["dropped", "also"]);
    let member = join(log, &unique("group"), &source, 1);
    member.commit(0, offsets[0].next());
    member.commit(0, offsets[1].next());
    assert_eq!(committed(log, &member.name, &source, 1), [Some(offsets[1].next())]);
    member.group.leave().unwrap();
}
