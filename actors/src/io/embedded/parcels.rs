//! Records that wait to be sent, in queues, in fjall: an outbox on the disk. Never answers for a record before it is
//! there, and never decides how many it takes.
//!
//! `records`: name length (2) · name · number (8), big-endian: byte order is the order in a queue. `meta`: `c` the number
//! of the last commit.

use super::directory::{Directory, damaged};
use super::store::{database, fault};
use super::{EmbeddedOptions, codec, integrity};
use crate::log::{LogError, Outgoing};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::collections::BTreeMap;
use std::path::Path;

const RECORDS: &str = "records";
const META: &str = "meta";
const COMMIT: &[u8] = b"c";
const NUMBER_LEN: usize = 8;

/// A record as it is stored, which is what it counts for.
#[derive(Clone, Debug)]
pub(crate) struct Packed(Vec<u8>);

/// A record at the front of its queue.
#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    pub(crate) number: u64,
    /// Its size as it is stored.
    pub(crate) bytes: u64,
    pub(crate) outgoing: Outgoing,
}

/// A queue that was found on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    /// The number after its last record's.
    pub(crate) next: u64,
}

impl Packed {
    pub(crate) fn new(outgoing: &Outgoing) -> Self {
        Self(codec::encode_parcel(outgoing))
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.len() as u64
    }
}

/// The store.
pub(crate) struct ParcelStore {
    records: Keyspace,
    meta: Keyspace,
    db: Database,
    commits: u64,
    /// Dropped last: the lock is given up when the database is closed.
    directory: Directory,
}

impl ParcelStore {
    /// Opens the store in `path`, or makes it there.
    pub(crate) fn open(path: &Path) -> Result<Self, LogError> {
        let options = EmbeddedOptions::default();
        let directory = Directory::take(path)?;
        let failed = |e: fjall::Error| fault(path, e);
        let at = directory.store(|store| {
            let made = database(store, &options).and_then(|db| {
                keyspaces(&db)?;
                db.persist(PersistMode::SyncAll)
            });
            made.map_err(failed)
        })?;
        integrity::check(path, &at)?;
        let db = database(&at, &options).map_err(failed)?;
        if let Some(missing) = [RECORDS, META].into_iter().find(|name| !db.keyspace_exists(name)) {
            return Err(damaged(path, format!("its {missing} are missing")));
        }
        let (records, meta) = keyspaces(&db).map_err(failed)?;
        let number = meta.get(COMMIT).map_err(failed)?;
        let number = number.map(|bytes| bytes.as_ref().try_into().map(u64::from_be_bytes)).transpose();
        let commits = number.map_err(|_| damaged(path, "the number of its last commit cannot be read"))?.unwrap_or(0);
        directory.check(commits)?;
        Ok(Self { records, meta, db, commits, directory })
    }

    fn fault(&self, e: fjall::Error) -> LogError {
        fault(self.directory.path(), e)
    }

    fn damaged(&self, what: &str) -> LogError {
        damaged(self.directory.path(), what)
    }

    /// Every queue that holds something.
    pub(crate) fn queues(&self) -> Result<BTreeMap<String, Found>, LogError> {
        let mut queues = BTreeMap::<String, Found>::new();
        for entry in self.records.iter() {
            let (key, value) = entry.into_inner().map_err(|e| self.fault(e))?;
            let (name, number) = parse(&key).ok_or_else(|| self.damaged("the key of a record cannot be read"))?;
            let found = queues.entry(name.to_owned()).or_default();
            found.records += 1;
            found.bytes += value.len() as u64;
            found.next = number + 1;
        }
        Ok(queues)
    }

    /// Stores records, all or none, on the disk before it returns.
    pub(crate) fn append<'a>(
        &mut self,
        records: impl Iterator<Item = (&'a str, u64, &'a Packed)>,
    ) -> Result<(), LogError> {
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncAll));
        for (queue, number, Packed(value)) in records {
            batch.insert(&self.records, key(queue, number), value.as_slice());
        }
        let commit = self.commits + 1;
        batch.insert(&self.meta, COMMIT, commit.to_be_bytes());
        batch.commit().map_err(|e| self.fault(e))?;
        self.commits = commit;
        self.directory.acknowledge(commit)
    }

    /// The records at the front of a queue: at most so many, and so many bytes, but one where there is one.
    pub(crate) fn front(&self, queue: &str, records_max: usize, bytes_max: u64) -> Result<Vec<Parcel>, LogError> {
        let (mut parcels, mut sum) = (Vec::new(), 0);
        for entry in self.records.range(key(queue, 0)..=key(queue, u64::MAX)).take(records_max) {
            let (key, value) = entry.into_inner().map_err(|e| self.fault(e))?;
            let (_, number) = parse(&key).ok_or_else(|| self.damaged("the key of a record cannot be read"))?;
            let bytes = value.len() as u64;
            sum += bytes;
            if sum > bytes_max && !parcels.is_empty() {
                break;
            }
            let outgoing = codec::decode_parcel(&value);
            let outgoing = outgoing.map_err(|e| self.damaged(&format!("record {number} of queue {queue}: {e}")))?;
            parcels.push(Parcel { number, bytes, outgoing });
        }
        Ok(parcels)
    }

    /// Removes records. Not synced: what a crash brings back is sent again, and known by its id.
    pub(crate) fn remove(&self, queue: &str, numbers: impl Iterator<Item = u64>) -> Result<(), LogError> {
        let mut batch = self.db.batch().durability(Some(PersistMode::Buffer));
        for number in numbers {
            batch.remove(&self.records, key(queue, number));
        }
        batch.commit().map_err(|e| self.fault(e))
    }
}

fn keyspaces(db: &Database) -> fjall::Result<(Keyspace, Keyspace)> {
    let small = || KeyspaceCreateOptions::default().max_memtable_size(4 * 1024 * 1024);
    Ok((db.keyspace(RECORDS, small)?, db.keyspace(META, small)?))
}

/// Names are routes' methods and paths, which are far shorter than 65,535 bytes.
fn key(queue: &str, number: u64) -> Vec<u8> {
    let mut key = u16::try_from(queue.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
    key.extend(queue.as_bytes());
    key.extend(number.to_be_bytes());
    key
}

fn parse(key: &[u8]) -> Option<(&str, u64)> {
    let (len, rest) = key.split_first_chunk::<2>()?;
    let (name, number) = rest.split_at_checked(rest.len().checked_sub(NUMBER_LEN)?)?;
    if name.len() != usize::from(u16::from_be_bytes(*len)) {
        return None;
    }
    Some((std::str::from_utf8(name).ok()?, u64::from_be_bytes(number.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_core::record::{Header, Record};

    fn outgoing(n: u64) -> Outgoing {
        let headers = vec![Header::new("n", n.to_string())];
        let record = Record { key: Some("k".into()), value: Some(vec![7; 100].into()), headers, ..Record::default() };
        Outgoing { topic: "events".into(), partition: None, record }
    }

    fn put(store: &mut ParcelStore, queue: &str, numbers: std::ops::Range<u64>) {
        let packed: Vec<_> = numbers.map(|n| (n, Packed::new(&outgoing(n)))).collect();
        store.append(packed.iter().map(|(n, packed)| (queue, *n, packed))).expect("there is room");
    }

    #[test]
    fn queues_are_found_again_in_order_and_apart() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut store = ParcelStore::open(dir.path()).expect("it is made");
        put(&mut store, "POST /a", 0..300);
        put(&mut store, "POST /ab", 5..6);
        store.remove("POST /a", 0..2).expect("removed");
        drop(store);
        let store = ParcelStore::open(dir.path()).expect("it is opened");
        let queues = store.queues().expect("read");
        let found: Vec<_> = queues.iter().map(|(name, q)| (name.as_str(), q.records, q.next)).collect();
        assert_eq!(found, [("POST /a", 298, 300), ("POST /ab", 1, 6)]);
        let front = store.front("POST /a", 10, u64::MAX).expect("read");
        assert_eq!(front.iter().map(|parcel| parcel.number).collect::<Vec<_>>(), (2..12).collect::<Vec<_>>());
        assert_eq!((front[0].outgoing.record.clone(), &*front[0].outgoing.topic), (outgoing(2).record, "events"));
        assert_eq!(store.front("POST /a", 10, front[0].bytes * 3).expect("read").len(), 3, "by bytes");
        assert_eq!(store.front("POST /a", 10, 1).expect("read").len(), 1, "one always goes");
        assert!(store.front("POST /b", 10, 1).expect("read").is_empty());
    }

    #[test]
    fn one_process_holds_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let _store = ParcelStore::open(dir.path()).expect("it is made");
        let refused = ParcelStore::open(dir.path()).err().expect("it is locked").to_string();
        assert!(refused.contains("is in use"), "{refused}");
    }
}
