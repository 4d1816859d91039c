//! What each worker holds, on disk, so that a record which takes the whole process down is found at the next start.
//! Never synced: it must survive the process, not the machine; and never needed for correctness.
//!
//! One file a worker, a line for each batch that it holds, written in place: `partition first end at`, `at` being the offset
//! that the worker is at, or `-` for a whole batch; blank while it holds nothing. `deaths.json` keeps the counts between starts.

use bulkhead_core::batch::Batch;
use bulkhead_core::ids::{Offset, Partition, Position};
use bulkhead_core::stage::Suspicion;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The length of a line: four numbers of at most 20 characters, what is between them, and the line's end.
const LINE: usize = 96;
const DEATHS: &str = "deaths.json";
/// Named records kept between starts at most; the lowest offsets leave first.
const NAMED_MAX: usize = 1_000;

/// One worker's lines.
#[derive(Debug)]
pub(crate) struct Line {
    file: File,
    /// How many of them were written.
    lines: Cell<usize>,
}

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
    /// The worker's lines in the stage's folder.
    pub(crate) fn open(folder: &Path, worker: u32) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join(format!("worker-{worker}"));
        let file = OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
        Ok(Self { file, lines: Cell::new(0) })
    }

    /// The worker begins with these batches, or with one record of the only one.
    pub(crate) fn holds<'batch>(&self, batches: impl IntoIterator<Item = &'batch Batch>, at: Option<Offset>) {
        let at = at.map_or_else(|| "-".to_owned(), |at| at.to_string());
        let line = |batch: &Batch| {
            let partition = batch.ticket.assignment.partition;
            format!("{partition} {} {} {at}", batch.first(), batch.end())
        };
        self.write(&batches.into_iter().map(line).collect::<Vec<_>>());
    }

    /// The worker holds nothing.
    pub(crate) fn clear(&self) {
        self.write(&[]);
    }

    /// In one write, over all that an earlier one left.
    fn write(&self, lines: &[String]) {
        let left = self.lines.replace(lines.len());
        let blank = String::new();
        let padded = lines.iter().chain(std::iter::repeat(&blank)).take(lines.len().max(left));
        let text: String = padded.map(|line| format!("{line:<width$}\n", width = LINE - 1)).collect();
        if let Err(error) = self.file.write_all_at(text.as_bytes(), 0) {
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
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        held.extend(text.lines().filter_map(parse));
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
            line.holds([&batch(3, 100..140)], None);
            line.holds([&batch(3, 100..140)], Some(Offset(117)));
            let found = recover(folder.path()).expect("it is read");
            assert_eq!(found.len(), 1);
            assert_eq!((found[0].first, found[0].end), (Offset(100), Position(140)));
            assert_eq!(found[0].deaths, BTreeMap::from([(Offset(117), deaths)]));
        }
        assert_eq!(recover(folder.path()).expect("it is read"), [], "nobody held anything: a clean end");
    }

    #[test]
    fn every_batch_of_a_call_is_found_and_none_of_the_one_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let line = Line::open(folder.path(), 0).expect("a line");
        line.holds(&[batch(0, 0..9), batch(1, 5..9), batch(2, 7..9)], None);
        line.holds(&[batch(3, 1..2), batch(1, 9..12)], None);
        let found: Vec<_> =
            recover(folder.path()).expect("it is read").iter().map(|s| (s.partition.0, s.first.0)).collect();
        assert_eq!(found, [(3, 1), (1, 9)]);
    }

    #[test]
    fn a_cleared_line_and_a_damaged_file_say_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let line = Line::open(folder.path(), 0).expect("a line");
        line.holds([&batch(0, 5..9)], None);
        line.clear();
        std::fs::write(folder.path().join("worker-1"), "what is this").expect("written");
        std::fs::write(folder.path().join(DEATHS), "{").expect("written");
        assert_eq!(recover(folder.path()).expect("it is read"), []);
    }
}
