//! Reads a partition's changelog for its ledger shard, on a thread that may block. Never decides what a segment means.

use super::slots::Slots;
use crate::log::{LogError, Read, Tail};
use bulkhead_core::ids::{Offset, Partition, Position};
use bulkhead_core::ledger::{Event, Placed, Segment};
use bulkhead_core::record::SourceRecord;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Segments read and handed over at once.
const CHUNK: usize = 64;
/// Chunks that may wait for the shard.
const AHEAD: usize = 4;
/// How long one read waits for more.
const WAIT: Duration = Duration::from_millis(100);
/// How long to wait before a pass that failed is begun again.
const RETRY: Duration = Duration::from_millis(500);

/// What a pass brings.
pub(crate) enum Pass {
    /// For the shard machine.
    Event(Event),
    /// The log did not answer.
    Failed(String),
}

/// The pass under way, if any.
pub(crate) struct Reads {
    slots: Arc<Slots>,
    partition: Partition,
    current: Option<(u32, Option<Offset>)>,
    coming: Option<mpsc::Receiver<Pass>>,
}

impl Reads {
    pub(crate) const fn new(slots: Arc<Slots>, partition: Partition) -> Self {
        Self { slots, partition, current: None, coming: None }
    }

    /// Begins a pass; the one before ends.
    pub(crate) fn begin(&mut self, pass: u32, from: Option<Offset>, after: Duration) {
        let (sender, coming) = mpsc::channel(AHEAD);
        (self.current, self.coming) = (Some((pass, from)), Some(coming));
        let reading = Reading { slots: Arc::clone(&self.slots), partition: self.partition, pass, sender };
        drop(tokio::spawn(async move {
            tokio::time::sleep(after).await;
            // The pass ends with its channel; a panic in it closes the channel, which `next` reports.
            drop(tokio::task::spawn_blocking(move || reading.run(from)));
        }));
    }

    /// Begins the same pass anew, a while from now.
    pub(crate) fn again(&mut self) {
        if let Some((pass, from)) = self.current {
            self.begin(pass, from, RETRY);
        }
    }

    /// What the pass brings next; waits for ever where there is none.
    pub(crate) async fn next(&mut self) -> Pass {
        let Some(coming) = &mut self.coming else { return std::future::pending().await };
        match coming.recv().await {
            Some(pass) => {
                if matches!(pass, Pass::Event(Event::CaughtUp { .. }) | Pass::Failed(_)) {
                    self.coming = None;
                }
                pass
            }
            None => {
                self.coming = None;
                Pass::Failed("the reading thread ended early".to_owned())
            }
        }
    }
}

struct Reading {
    slots: Arc<Slots>,
    partition: Partition,
    pass: u32,
    sender: mpsc::Sender<Pass>,
}

impl Reading {
    fn run(&self, from: Option<Offset>) {
        if let Err(error) = self.read(from) {
            self.send(Pass::Failed(error.to_string()));
        }
    }

    /// False where nobody wants it any more.
    fn send(&self, pass: Pass) -> bool {
        self.sender.blocking_send(pass).is_ok()
    }

    /// The committed position first and the changelog's end after it (DESIGN §5).
    fn read(&self, from: Option<Offset>) -> Result<(), LogError> {
        let Some(ledger) = &self.slots.spec.ledger else { return Ok(()) };
        let position = self.slots.committed_position(self.partition)?;
        let start = self.slots.log.extent(&ledger.topic, self.partition)?.start;
        let from = from.map(|from| Position(from.0).max(start));
        let tail = Tail { topic: Arc::clone(&ledger.topic), partition: self.partition, from };
        let mut reader = self.slots.log.reader(&[tail])?;
        loop {
            let mut segments = Vec::new();
            let mut caught_up = false;
            for read in reader.read(CHUNK, WAIT)? {
                match read {
                    Read::Record { record, .. } => match self.decode(record) {
                        Ok(placed) => segments.push(placed),
                        Err(unreadable) => {
                            self.send(Pass::Event(unreadable));
                            return Ok(());
                        }
                    },
                    Read::CaughtUp { .. } => {
                        caught_up = true;
                        break;
                    }
                }
            }
            if !segments.is_empty() && !self.send(Pass::Event(Event::Segments { pass: self.pass, segments })) {
                return Ok(());
            }
            if caught_up {
                self.send(Pass::Event(Event::CaughtUp { pass: self.pass, position }));
                return Ok(());
            }
            if self.sender.is_closed() {
                return Ok(());
            }
        }
    }

    fn decode(&self, record: SourceRecord) -> Result<Placed, Event> {
        let at = record.offset;
        match Segment::decode(record.record.value.unwrap_or_default()) {
            Ok(segment) => Ok(Placed { at, segment }),
            Err(damage) => Err(Event::Unreadable { pass: self.pass, at, damage }),
        }
    }
}
