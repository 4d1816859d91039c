//! Topics, records and positions in fjall. Never answers a write before it is on the disk.

use super::directory::{Directory, damaged, io_error};
use super::{EmbeddedOptions, codec, integrity, keys};
use crate::io::local::store::{GroupKey, Loaded, ReadLimit, Slot, Span, Store, TopicMeta, Writes};
use crate::log::LogError;
use bulkhead_core::ids::{Offset, Partition, Position};
use bulkhead_core::record::SourceRecord;
use bulkhead_core::time::WallMs;
use fjall::config::{BlockSizePolicy, FilterPolicy};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::fmt::Display;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

const RECORDS: &str = "records";
const META: &str = "meta";
/// Records are read in runs; larger blocks compress better than fjall's 4 KiB and cost a run nothing.
const BLOCK_BYTES: u32 = 32 * 1024;
const MIB: u64 = 1024 * 1024;

pub(super) struct FjallStore {
    records: Keyspace,
    meta: Keyspace,
    db: Database,
    /// The number of the last commit.
    commits: AtomicU64,
    /// Dropped last: the lock is given up when the database is closed.
    directory: Directory,
}

impl FjallStore {
    pub(super) fn open(path: &Path, options: &EmbeddedOptions) -> Result<Self, LogError> {
        let directory = Directory::take(path)?;
        let at = directory.store(|store| create(store, path, options))?;
        integrity::check(path, &at)?;
        let db = database(&at, options).map_err(|e| fault(path, e))?;
        // fjall drops a keyspace whose files are damaged in some ways, and would make an empty one instead.
        if let Some(missing) = [RECORDS, META].into_iter().find(|name| !db.keyspace_exists(name)) {
            return Err(damaged(path, format!("its {missing} are missing")));
        }
        let (records, meta) = keyspaces(&db, options).map_err(|e| fault(path, e))?;
        let number = meta.get(keys::COMMIT).map_err(|e| fault(path, e))?;
        let number = number.map(|bytes| bytes.as_ref().try_into().map(u64::from_be_bytes)).transpose();
        let commits = number.map_err(|_| damaged(path, "the number of its last commit cannot be read"))?.unwrap_or(0);
        directory.check(commits)?;
        Ok(Self { records, meta, db, commits: AtomicU64::new(commits), directory })
    }

    fn fault(&self, e: fjall::Error) -> LogError {
        fault(self.directory.path(), e)
    }

    fn damaged(&self, what: impl Display) -> LogError {
        damaged(self.directory.path(), what)
    }

    fn number(&self, value: Option<fjall::Slice>, what: &str) -> Result<Option<i64>, LogError> {
        let number = value.map(|bytes| bytes.as_ref().try_into().map(i64::from_be_bytes)).transpose();
        number.map_err(|_| self.damaged(format!("{what} cannot be read")))
    }

    fn span(&self, slot: Slot) -> Result<Span, LogError> {
        let start = self.meta.get(keys::start(slot)).map_err(|e| self.fault(e))?;
        let start = self.number(start, "the start of a partition")?.unwrap_or(0);
        let last = self.records.range(keys::record(slot, start)..=keys::record(slot, i64::MAX)).next_back();
        let last = last.map(fjall::Guard::key).transpose().map_err(|e| self.fault(e))?;
        let end = last.map(|key| keys::offset(&key).ok_or_else(|| self.damaged("the key of a record cannot be read")));
        Ok(Span { start, end: end.transpose()?.map_or(start, |last| last + 1) })
    }

    fn topics(&self) -> Result<Vec<(TopicMeta, Vec<Span>)>, LogError> {
        let mut topics = Vec::new();
        for entry in self.meta.prefix(keys::TOPICS) {
            let (key, value) = entry.into_inner().map_err(|e| self.fault(e))?;
            let name = std::str::from_utf8(&key[keys::TOPICS.len()..]).map_err(|e| self.damaged(e))?;
            let topic = codec::decode_topic(name.into(), &value);
            let topic = topic.map_err(|e| self.damaged(format!("topic {name} cannot be read: {e}")))?;
            let slots = (0..topic.partitions).map(|p| Slot { topic: topic.id, partition: Partition(p) });
            let spans = slots.map(|slot| self.span(slot)).collect::<Result<_, _>>()?;
            topics.push((topic, spans));
        }
        Ok(topics)
    }

    fn positions(&self) -> Result<Vec<(GroupKey, Partition, Position)>, LogError> {
        let mut positions = Vec::new();
        for entry in self.meta.prefix(keys::POSITIONS) {
            let (key, value) = entry.into_inner().map_err(|e| self.fault(e))?;
            let unreadable = || self.damaged("a group's position cannot be read");
            let (group, partition) = keys::parse_position(&key).ok_or_else(unreadable)?;
            let position = self.number(Some(value), "a group's position")?.ok_or_else(unreadable)?;
            positions.push((group, partition, Position(position)));
        }
        Ok(positions)
    }

    fn decode(&self, slot: Slot, offset: i64, value: &[u8]) -> Result<codec::Stored, LogError> {
        codec::decode_record(value).map_err(|e| {
            let (topic, partition) = (slot.topic.0, slot.partition);
            self.damaged(format!("record {offset} of partition {partition} of topic number {topic}: {e}"))
        })
    }
}

impl Store for FjallStore {
    fn load(&self) -> Result<Loaded, LogError> {
        Ok(Loaded { topics: self.topics()?, positions: self.positions()? })
    }

    fn put_topic(&self, topic: &TopicMeta) -> Result<(), LogError> {
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&self.meta, keys::topic(&topic.name), codec::encode_topic(topic));
        batch.commit().map_err(|e| self.fault(e))
    }

    fn write(&self, writes: Writes) -> Result<(), LogError> {
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncAll));
        for append in &writes.appends {
            let value = codec::encode_record(&append.record, writes.appended);
            batch.insert(&self.records, keys::record(append.slot, append.offset.0), value);
        }
        for (key, partition, position) in &writes.positions {
            let name = || LogError::Refused(format!("the name of group {} is too long", key.group));
            let at = keys::position(key, *partition).ok_or_else(name)?;
            batch.insert(&self.meta, at, position.0.to_be_bytes());
        }
        // Only the log's one writer comes here, so the number cannot be taken by another meanwhile.
        let commit = self.commits.load(Ordering::Acquire) + 1;
        batch.insert(&self.meta, keys::COMMIT, commit.to_be_bytes());
        batch.commit().map_err(|e| self.fault(e))?;
        self.commits.store(commit, Ordering::Release);
        self.directory.acknowledge(commit)
    }

    fn read(&self, slot: Slot, span: Span, limit: ReadLimit) -> Result<Vec<SourceRecord>, LogError> {
        let mut records = Vec::new();
        let mut bytes = 0;
        let range = self.records.range(keys::record(slot, span.start)..keys::record(slot, span.end));
        for entry in range.take(limit.records) {
            let (key, value) = entry.into_inner().map_err(|e| self.fault(e))?;
            let expected = span.start + i64::try_from(records.len()).unwrap_or(i64::MAX);
            if keys::offset(&key) != Some(expected) {
                return Err(self.damaged(format!("record {expected} of partition {} is missing", slot.partition)));
            }
            bytes += value.len();
            if bytes > limit.bytes && !records.is_empty() {
                break;
            }
            let record = self.decode(slot, expected, &value)?.record;
            records.push(SourceRecord { offset: Offset(expected), record });
        }
        if records.is_empty() && limit.records > 0 {
            return Err(self.damaged(format!("record {} of partition {} is missing", span.start, slot.partition)));
        }
        Ok(records)
    }

    fn trim(&self, slot: Slot, span: Span, before: WallMs, max: usize) -> Result<i64, LogError> {
        // Not synced: a deletion that a crash undoes is made again.
        let mut batch = self.db.batch().durability(Some(PersistMode::Buffer));
        let mut start = span.start;
        for entry in self.records.range(keys::record(slot, span.start)..keys::record(slot, span.end)).take(max) {
            let (key, value) = entry.into_inner().map_err(|e| self.fault(e))?;
            if self.decode(slot, start, &value)?.appended >= before {
                break;
            }
            batch.remove(&self.records, key);
            start += 1;
        }
        if start > span.start {
            batch.insert(&self.meta, keys::start(slot), start.to_be_bytes());
            batch.commit().map_err(|e| self.fault(e))?;
        }
        Ok(start)
    }
}

/// Makes an empty store and closes it.
fn create(store: &Path, path: &Path, options: &EmbeddedOptions) -> Result<(), LogError> {
    let made = database(store, options).and_then(|db| {
        keyspaces(&db, options)?;
        db.persist(PersistMode::SyncAll)
    });
    made.map_err(|e| fault(path, e))
}

pub(super) fn database(store: &Path, options: &EmbeddedOptions) -> fjall::Result<Database> {
    Database::builder(store)
        .cache_size(options.cache_bytes)
        .max_journaling_size(options.journal_bytes.max(64 * MIB))
        // One to flush, one to compact; more would take cores from the pipelines.
        .worker_threads(2)
        .open()
}

fn keyspaces(db: &Database, options: &EmbeddedOptions) -> fjall::Result<(Keyspace, Keyspace)> {
    let records = db.keyspace(RECORDS, || {
        KeyspaceCreateOptions::default()
            .max_memtable_size(options.memtable_bytes)
            .data_block_size_policy(BlockSizePolicy::all(BLOCK_BYTES))
            // Records are read in ranges, which no filter answers.
            .filter_policy(FilterPolicy::disabled())
    })?;
    let meta = db.keyspace(META, || KeyspaceCreateOptions::default().max_memtable_size(4 * MIB))?;
    Ok((records, meta))
}

/// What a failure of fjall means, by what the caller should do about it.
pub(super) fn fault(path: &Path, e: fjall::Error) -> LogError {
    match e {
        // The directory itself was there: one of the store's own files is not, or not whole.
        fjall::Error::Io(e) | fjall::Error::Storage(fjall::LsmError::Io(e))
            if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof | ErrorKind::InvalidData) =>
        {
            damaged(path, e)
        }
        fjall::Error::Io(e) | fjall::Error::Storage(fjall::LsmError::Io(e)) => io_error(path, &e),
        fjall::Error::Poisoned => {
            let path = path.display();
            LogError::Unavailable(format!("a write to the log in {path} failed before: it is opened again"))
        }
        fjall::Error::InvalidVersion(Some(version)) => {
            let path = path.display();
            LogError::Refused(format!("the log in {path} was written by another version of its store ({version:?})"))
        }
        other => damaged(path, other),
    }
}
