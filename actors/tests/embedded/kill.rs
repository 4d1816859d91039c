//! SIGKILL: what was acknowledged is there, and no transaction is there in part.

use super::{child, child_dir, open};
use crate::contract::{PATIENCE, committed, join, outgoing, read_all, text};
use bulkhead_actors::log::{Closing, Log, Producer, Publisher, TopicSpec};
use bulkhead_core::ids::Partition;
use futures::executor::block_on;
use futures::future::join_all;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::sync::Arc;

const ROUNDS: usize = 12;
const GROUP: &str = "killed";

fn topic(name: &str) -> Arc<str> {
    name.into()
}

/// Sends and commits until it is killed, and says what was acknowledged.
fn write_forever(dir: &Path) {
    let log = open(dir).unwrap();
    let spec = |name: &str, partitions| TopicSpec { name: name.to_owned(), partitions, replicas: 1, retention: None };
    log.create_topics(&[spec("in", 1), spec("out", 2), spec("ledger", 1)]).unwrap();
    let member = join(&log, GROUP, "in", 1);
    let mut publisher = member.publisher(0);
    let producer = log.producer().unwrap();
    let mut next = publisher.committed(&[Partition(0)]).unwrap()[0].map_or(0, |p| p.0);
    loop {
        send_some(&*producer, next);
        commit(&mut *publisher, next);
        next += 1;
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes()).and_then(|()| out.flush()).unwrap();
}

fn send_some(producer: &dyn Producer, round: i64) {
    let texts: Vec<_> = (0..8).map(|i| format!("{round}-{i}")).collect();
    let sends = texts.iter().map(|text| producer.send(outgoing(&topic("in"), 0, text)));
    for (answer, text) in block_on(join_all(sends)).into_iter().zip(&texts) {
        let (_, offset) = answer.unwrap();
        say(&format!("sent {offset} {text}\n"));
    }
}

fn commit(publisher: &mut dyn Publisher, number: i64) {
    publisher.begin().unwrap();
    for partition in [0, 1] {
        for part in 0..3 {
            publisher.produce(&outgoing(&topic("out"), partition, &format!("{number}-{part}"))).unwrap();
        }
    }
    let segments = vec![outgoing(&topic("ledger"), 0, &number.to_string())];
    let positions = vec![(Partition(0), bulkhead_core::ids::Position(number + 1))];
    publisher.commit(&Closing { segments, positions }).unwrap();
    say(&format!("committed {number}\n"));
}

/// What a child said before it died.
#[derive(Default)]
struct Said {
    sent: Vec<(i64, String)>,
    committed: Option<i64>,
}

impl Said {
    fn hear(&mut self, line: &str) -> bool {
        let words: Vec<_> = line.split(' ').collect();
        match words.as_slice() {
            ["sent", offset, text] => self.sent.push((offset.parse().unwrap(), (*text).to_owned())),
            ["committed", number] => self.committed = Some(number.parse().unwrap()),
            _ => return false,
        }
        true
    }
}

fn run_and_kill(dir: &Path, lines: usize) -> Said {
    let mut child = child("embedded::kill::survives_sigkill", dir, None).spawn().unwrap();
    let mut said = Said::default();
    let mut heard = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        // The line that the kill cut short was not said.
        let Ok(line) = line else { break };
        heard += usize::from(said.hear(&line));
        if heard == lines {
            child.kill().unwrap();
        }
    }
    assert!(heard >= lines, "the child ended by itself");
    child.wait().unwrap();
    said
}

fn check(dir: &Path, said: &Said) {
    let log = open(dir).unwrap();
    let sent = read_all(&log, &topic("in"), 0);
    for (offset, expected) in &said.sent {
        let record = usize::try_from(*offset).ok().and_then(|at| sent.get(at));
        assert_eq!(record.map(text).as_ref(), Some(expected), "acknowledged at {offset}");
    }
    let position = committed(&log, GROUP, "in", 1)[0].map_or(0, |p| p.0);
    assert!(said.committed.is_none_or(|number| number < position), "an acknowledged commit is lost");
    let parts: Vec<_> = (0..position).flat_map(|n| (0..3).map(move |part| format!("{n}-{part}"))).collect();
    let segments: Vec<_> = (0..position).map(|n| n.to_string()).collect();
    let all = |name, partition| read_all(&log, &topic(name), partition).iter().map(text).collect::<Vec<_>>();
    assert_eq!(all("out", 0), parts, "a transaction is torn");
    assert_eq!(all("out", 1), parts, "a transaction is torn");
    assert_eq!(all("ledger", 0), segments, "a transaction is torn");
    log.ping(PATIENCE).unwrap();
}

#[test]
fn survives_sigkill() {
    if let Some(dir) = child_dir() {
        return write_forever(&dir);
    }
    let dir = tempfile::tempdir().unwrap();
    for round in 0..ROUNDS {
        let said = run_and_kill(dir.path(), 5 + 37 * round);
        check(dir.path(), &said);
    }
}
