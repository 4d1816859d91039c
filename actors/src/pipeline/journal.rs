//! What each worker holds, on disk, so that a record which takes the whole process down is found at the next start.
//! Never synced: it must survive the process, not the machine; and never needed for correctness.
//!
//! One file a worker, one line in it, written in place: `partition first end at`, `at` being the offset that the worker
//! is at, or `-` for a whole batch; empty while it holds nothing. `deaths.json` keeps the counts between starts.

use bulkhead_core::batch::Batch;
use bulkhead_core::ids::{Offset, Partition, Position};
use bulkhead_core::stage::Suspicion;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The length of a line: four numbers of at most 20 characters, and what is between them.
const LINE: usize = 96;
const DEATHS: &str = "deaths.json";
/// Named records kept between starts at most; the lowest offsets leave first.
const NAMED_MAX: usize = 1_000;

/// One worker's line.
#[derive(Debug)]
pub(crate) struct Line(File);

/// How often the process died over a record, by partition and offset.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Deaths(BTreeMap<Partition, BTreeMap<i64, u32>>);

struct Held {
    partition: Partition,
    first: Offset,
    end: Position,
    at: Option<Offset>,
}

impl Line {
    /// The worker's line in the stage's folder.
    pub(crate) fn open(folder: &Path, worker: u32) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join(format!("worker-{worker}"));
        Ok(Self(OpenOptions::new().create(true).truncate(true).write(true).open(path)?))
    }

    /// The worker begins with this batch, or with one record of it.
    pub(crate) fn holds(&self, batch: &Batch, at: Option<Offset>) {
        let at = at.map_or_else(|| "-".to_owned(), |at| at.to_string());
        self.write(&format!("{} {} {} {at}", batch.ticket.assignment.partition, batch.first(), batch.end()));
    }

    /// The worker holds nothing.
    pub(crate) fn clear(&self) {
        self.write("");
    }

    fn write(&self, line: &str) {
        if let Err(error) = self.0.write_all_at(format!("{line:<LINE$}").as_bytes(), 0) {
            tracing::debug!(%error, "what a worker holds was not noted");
        }
    }
}

/// What the process before this one held in this stage when it died; empty after a clean end.
///
/// # Errors
/// The folder cannot be read or written.
pub(crate) fn recover(folder: &Path) -> io::Result<Vec<Suspicion>> {
    std::fs::create_dir_all(folder)?;
    let mut deaths = read_deaths(folder);
    let mut held = Vec::new();
    for path in lines(folder)? {
        held.extend(std::fs::read_to_string(&path).ok().as_deref().and_then(parse));
        std::fs::write(&path, "")?;
    }
    for Held { partition, at, .. } in &held {
        if let Some(at) = at {
            *deaths.0.entry(*partition).or_default().entry(at.0).or_default() += 1;
        }
    }
    // What nobody held this time went well, or lies below the position by now.
    deaths.0.retain(|partition, _| held.iter().any(|held| held.partition == *partition));
    deaths.0.values_mut().for_each(|named| {
        while named.len() > NAMED_MAX {
            named.pop_first();
        }
    });
    let fresh = folder.join(DEATHS).with_extension("new");
    std::fs::write(&fresh, serde_json::to_vec(&deaths)?)?;
    std::fs::rename(fresh, folder.join(DEATHS))?;
    let suspicion = |held: Held| {
        let named = deaths.0.get(&held.partition).into_iter().flatten();
        let deaths = named.map(|(offset, count)| (Offset(*offset), *count)).collect();
        Suspicion { partition: held.partition, first: held.first, end: held.end, deaths }
    };
    Ok(held.into_iter().map(suspicion).collect())
}

fn lines(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    let is_line = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("worker-"));
    Ok(entries.into_iter().map(|entry| entry.path()).filter(is_line).collect())
}

/// A file that cannot be read counts as none: it is a help, not the truth.
fn read_deaths(folder: &Path) -> Deaths {
    let text = std::fs::read(folder.join(DEATHS)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn parse(line: &str) -> Option<Held> {
    let mut words = line.split_whitespace();
    let mut number = || words.next()?.parse::<i64>().ok();
    let (partition, first, end) = (number()?, number()?, number()?);
    let at = words.next().and_then(|at| at.parse().ok()).map(Offset);
    Some(Held { partition: Partition(i32::try_from(partition).ok()?), first: Offset(first), end: Position(end), at })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_core::ids::{Assignment, BatchSeq, Generation, Ticket};
    use bulkhead_core::record::{Record, SourceRecord};

    fn batch(partition: i32, offsets: std::ops::Range<i64>) -> Batch {
        let assignment = Assignment { partition: Partition(partition), generation: Generation(1) };
        let records = offsets.map(|offset| SourceRecord { offset: Offset(offset), record: Record::default() });
        Batch::new(Ticket { assignment, seq: BatchSeq(0) }, records.collect())
    }

    #[test]
    fn deaths_over_one_record_are_counted_until_it_goes_well() {
        let folder = tempfile::tempdir().expect("a folder");
        for deaths in 1..4 {
            let line = Line::open(folder.path(), 0).expect("a line");
            line.holds(&batch(3, 100..140), None);
            line.holds(&batch(3, 100..140), Some(Offset(117)));
            let found = recover(folder.path()).expect("it is read");
            assert_eq!(found.len(), 1);
            assert_eq!((found[0].first, found[0].end), (Offset(100), Position(140)));
            assert_eq!(found[0].deaths, BTreeMap::from([(Offset(117), deaths)]));
        }
        assert_eq!(recover(folder.path()).expect("it is read"), [], "nobody held anything: a clean end");
    }

    #[test]
    fn a_cleared_line_and_a_damaged_file_say_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let line = Line::open(folder.path(), 0).expect("a line");
        line.holds(&batch(0, 5..9), None);
        line.clear();
        std::fs::write(folder.path().join("worker-1"), "what is this").expect("written");
        std::fs::write(folder.path().join(DEATHS), "{").expect("written");
        assert_eq!(recover(folder.path()).expect("it is read"), []);
    }
}
