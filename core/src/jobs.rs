//! The job index: what became of each job, as far as the result, dead-letter and ledger topics have been read.
//! Never holds more jobs or bytes than its limits, and never says a job ended that it did not see end.
//!
//! Gateways read the same topics in different interleavings and must answer alike, so what wins does not depend on
//! which topic was read first: within a round the first outcome of a kind wins, a conflict yields to the outcome of the
//! payload it conflicts with, and a later round (a redrive) replaces the round before it.

use crate::batch::KeyHash;
use crate::dlq::CONFLICT_CODE;
use crate::ids::Round;
use crate::job_id::JobId;
use crate::ledger::{Recorded, Segment, noted_fingerprint, round_of};
use crate::letter::ERRORS_PREFIX;
use crate::machine::Machine;
use crate::record::{ACCEPTED_HEADER, ID_HEADER, Record};
use crate::time::{Now, WallMs};
use bytes::Bytes;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// Bytes that a job is taken to cost beside its texts: its two index entries and their share of the tables.
const JOB_OVERHEAD: usize = 256;

/// What the index may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many jobs, at least 1; the one that ended first leaves.
    pub jobs_max: usize,
    /// How many bytes; a single outcome that is larger is kept all the same, alone.
    pub bytes_max: usize,
    /// How long after its end a job is kept.
    pub ttl: Duration,
}

/// What an outcome is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JobName {
    /// The record's id.
    Id(JobId),
    /// The record's ledger key; a ledger segment names records by it alone.
    Key(KeyHash),
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobOutcome {
    /// With this result record's value. It must own its bytes, not share a larger buffer that it would keep alive.
    Completed(Bytes),
    /// As a dead letter.
    Failed(JobError),
    /// On purpose, without a result.
    Dropped,
}

/// Why a job failed, from its dead letter's headers; each field is empty where the header is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobError {
    /// The stable name of the kind of failure.
    pub code: String,
    /// What happened, for a person.
    pub message: String,
    /// The stage that rejected the record.
    pub stage: String,
    /// Whose fault it was.
    pub class: String,
    /// How often it was tried.
    pub attempts: String,
}

/// One outcome as it was read from a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Which job.
    pub name: JobName,
    /// Which of its journeys.
    pub round: Round,
    /// When it was accepted, where that is known.
    pub accepted: Option<WallMs>,
    /// When it ended: the record's timestamp.
    pub ended: WallMs,
    /// The ledger's fingerprint of the payload that came in, where that is known.
    pub fingerprint: Option<u64>,
    /// How it ended.
    pub outcome: JobOutcome,
}

/// A job that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The journey that the outcome is of.
    pub round: Round,
    /// When it was accepted, where that is known.
    pub accepted: Option<WallMs>,
    /// When it ended.
    pub ended: WallMs,
    /// The ledger's fingerprint of the payload that came in, where that is known. A conflict's is not the job's.
    pub fingerprint: Option<u64>,
    /// How it ended.
    pub outcome: JobOutcome,
    /// How many other payloads came under the same key and were refused.
    pub conflicts: u32,
}

/// What happens to the index.
#[derive(Clone, Debug)]
pub enum Event {
    /// These outcomes were read.
    Seen(Vec<Sighting>),
    /// Time passed; the wall clock says this.
    Tick(WallMs),
}

/// What the shell is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Wake who waits for this job: its outcome is new or another.
    Settled(JobName),
    /// Count what left the index.
    Evicted {
        /// Jobs whose time was up.
        expired: usize,
        /// Jobs that left early, for want of room.
        crowded: usize,
    },
}

/// The index.
#[derive(Debug)]
pub struct JobIndex {
    limits: Limits,
    jobs: HashMap<JobName, Job>,
    /// The same jobs, the one that ended first in front.
    by_end: BTreeSet<(WallMs, JobName)>,
    bytes: usize,
}

impl Sighting {
    /// What a record of a result topic says; `None` where it carries no job's id (not every record came by HTTP).
    #[must_use]
    pub fn of_result(record: &Record) -> Option<Self> {
        Self::of(record, JobOutcome::Completed(Bytes::copy_from_slice(record.payload())))
    }

    /// What a record says that something outside wrote about a job: that it failed, where it carries an error's code as a dead
    /// letter does; else its result. `None` where it carries no job's id.
    #[must_use]
    pub fn of_report(record: &Record) -> Option<Self> {
        match record.header(&format!("{ERRORS_PREFIX}code")) {
            Some(_) => Self::of_dead_letter(record),
            None => Self::of_result(record),
        }
    }

    /// What a dead letter says; `None` where it carries no job's id.
    #[must_use]
    pub fn of_dead_letter(record: &Record) -> Option<Self> {
        let field = |name: &str| text(record, &format!("{ERRORS_PREFIX}{name}")).unwrap_or_default().to_owned();
        let error = JobError {
            code: field("code"),
            message: field("message"),
            stage: field("stage"),
            class: field("class"),
            attempts: field("attempts"),
        };
        Self::of(record, JobOutcome::Failed(error))
    }

    /// What a ledger segment says that no other topic does: which keys ended without a record. All else is in the result
    /// and dead-letter topics, a duplicate's outcome being that of the record before it.
    pub fn of_segment(segment: &Segment) -> impl Iterator<Item = Self> {
        let ended = segment.committed_at();
        segment.entries().iter().filter(|entry| entry.recorded == Recorded::Dropped).map(move |entry| Self {
            name: JobName::Key(entry.claim.key),
            round: entry.claim.round,
            accepted: None,
            ended,
            fingerprint: Some(entry.claim.fingerprint),
            outcome: JobOutcome::Dropped,
        })
    }

    fn of(record: &Record, outcome: JobOutcome) -> Option<Self> {
        let id: JobId = text(record, ID_HEADER)?.parse().ok()?;
        let accepted = text(record, ACCEPTED_HEADER).and_then(|ms| ms.parse().ok()).map(WallMs);
        Some(Self {
            name: JobName::Id(id),
            round: round_of(record),
            accepted: accepted.or_else(|| id.accepted()),
            ended: record.timestamp,
            fingerprint: noted_fingerprint(record).filter(|_| !outcome.is_conflict()),
            outcome,
        })
    }
}

fn text<'a>(record: &'a Record, header: &str) -> Option<&'a str> {
    record.header(header).and_then(|value| std::str::from_utf8(value).ok())
}

impl JobOutcome {
    fn bytes(&self) -> usize {
        JOB_OVERHEAD
            + match self {
                Self::Completed(result) => result.len(),
                Self::Failed(e) => e.code.len() + e.message.len() + e.stage.len() + e.class.len() + e.attempts.len(),
                Self::Dropped => 0,
            }
    }

    /// Whether it tells of another payload under the key of a job that has an outcome of its own.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Failed(error) if error.code == CONFLICT_CODE)
    }
}

impl JobIndex {
    /// An empty index.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, jobs: HashMap::new(), by_end: BTreeSet::new(), bytes: 0 }
    }

    /// The job of this id, or else of this ledger key; `None` where no end of it was seen, or it was forgotten.
    #[must_use]
    pub fn get(&self, id: JobId, key: Option<KeyHash>) -> Option<&Job> {
        self.jobs.get(&JobName::Id(id)).or_else(|| self.jobs.get(&JobName::Key(key?)))
    }

    /// How many jobs are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether no job is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// How many bytes the held jobs are taken to cost.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a job that was accepted then may have been forgotten by now.
    #[must_use]
    pub fn outlived(&self, accepted: WallMs, wall: WallMs) -> bool {
        accepted < self.horizon(wall)
    }

    fn horizon(&self, wall: WallMs) -> WallMs {
        WallMs(wall.0.saturating_sub(i64::try_from(self.limits.ttl.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Takes one sighting; whether the job's outcome is new or another.
    fn see(&mut self, seen: Sighting) -> bool {
        let Some(job) = self.jobs.get_mut(&seen.name) else {
            self.bytes += seen.outcome.bytes();
            self.by_end.insert((seen.ended, seen.name));
            let Sighting { name, round, accepted, ended, fingerprint, outcome } = seen;
            self.jobs.insert(name, Job { round, accepted, ended, fingerprint, outcome, conflicts: 0 });
            return true;
        };
        let (was, is) = (job.outcome.is_conflict(), seen.outcome.is_conflict());
        if was || is {
            job.conflicts = job.conflicts.saturating_add(1);
        }
        let wins = match (was, is) {
            (true, false) => true,
            (_, true) => false,
            (false, false) => seen.round > job.round,
        };
        if wins {
            self.bytes = self.bytes - job.outcome.bytes() + seen.outcome.bytes();
            self.by_end.remove(&(job.ended, seen.name));
            self.by_end.insert((seen.ended, seen.name));
            job.accepted = seen.accepted.or(job.accepted);
            job.fingerprint = seen.fingerprint.or(job.fingerprint);
            (job.round, job.ended, job.outcome) = (seen.round, seen.ended, seen.outcome);
        }
        wins
    }

    fn pop_first(&mut self) {
        let Some((_, name)) = self.by_end.pop_first() else { return };
        let job = self.jobs.remove(&name).expect("by_end names exactly the jobs held");
        self.bytes -= job.outcome.bytes();
    }

    fn crowded(&self) -> bool {
        self.jobs.len() > 1 && (self.jobs.len() > self.limits.jobs_max || self.bytes > self.limits.bytes_max)
    }
}

impl Machine for JobIndex {
    type Event = Event;
    type Effect = Effect;

    fn step(&mut self, event: Event, _: Now) -> Vec<Effect> {
        let (mut effects, mut expired, mut crowded) = (Vec::new(), 0, 0);
        match event {
            Event::Seen(sightings) => {
                for seen in sightings {
                    let name = seen.name;
                    if self.see(seen) {
                        effects.push(Effect::Settled(name));
                    }
                    while self.crowded() {
                        self.pop_first();
                        crowded += 1;
                    }
                }
            }
            Event::Tick(wall) => {
                let horizon = self.horizon(wall);
                while self.by_end.first().is_some_and(|(ended, _)| *ended < horizon) {
                    self.pop_first();
                    expired += 1;
                }
            }
        }
        if expired + crowded > 0 {
            effects.push(Effect::Evicted { expired, crowded });
        }
        effects
    }
}

#[cfg(test)]
#[path = "jobs_tests.rs"]
mod tests;
