//! How often each record was run by chaos steps: of this process, and where they share a file, of the daemon and all its
//! workers' processes, dead ones too. Never forgets a run that did not end.

use parking_lot::Mutex;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

/// How many records are counted, over all chaos steps; further ones are only added up.
pub const RECORDS_COUNTED_MAX: usize = 1_000_000;

static RUNS: Mutex<Counter> =
    Mutex::new(Counter { runs: Runs { steps: BTreeMap::new(), counted: 0, uncounted: 0 }, shared: None });

/// How often records were run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Runs {
    /// By the step's label: by the record's id (else its key, else its payload): how often.
    pub steps: BTreeMap<String, BTreeMap<String, u32>>,
    /// How many records those are.
    pub counted: usize,
    /// Runs of records that came after [`RECORDS_COUNTED_MAX`] others.
    pub uncounted: u64,
}

struct Counter {
    runs: Runs,
    shared: Option<Shared>,
}

/// A file to which every process appends a line a run, and which every process reads.
struct Shared {
    append: File,
    read: BufReader<File>,
    /// The beginning of a line whose end another process is still writing.
    rest: String,
}

/// How often each record was run by chaos steps so far.
#[must_use]
pub fn runs() -> Runs {
    let mut counter = RUNS.lock();
    if let Err(error) = counter.absorb() {
        tracing::error!(%error, "runs of chaos steps in other processes are not known");
    }
    counter.runs.clone()
}

/// Counts in this file from now on, together with all processes that do. It exists.
///
/// # Errors
/// The file cannot be opened.
pub fn count_in(path: &Path) -> io::Result<()> {
    let append = OpenOptions::new().append(true).open(path)?;
    let read = BufReader::new(File::open(path)?);
    RUNS.lock().shared = Some(Shared { append, read, rest: String::new() });
    Ok(())
}

/// Counts a run of a record and says which of its runs it is, from 1 (always 1 for a record that came past the limit).
pub(super) fn count(label: &str, record: &str) -> io::Result<u32> {
    let mut counter = RUNS.lock();
    match &mut counter.shared {
        None => counter.runs.add(label.to_owned(), record.to_owned()),
        Some(shared) => {
            let line = serde_json::to_string(&(label, record))? + "\n";
            shared.append.write_all(line.as_bytes())?;
            counter.absorb()?;
        }
    }
    let run = counter.runs.steps.get(label).and_then(|records| records.get(record));
    Ok(run.copied().unwrap_or(1))
}

impl Counter {
    /// Takes in what was written to the file since.
    fn absorb(&mut self) -> io::Result<()> {
        let Some(Shared { read, rest, .. }) = &mut self.shared else { return Ok(()) };
        while read.read_line(rest)? > 0 && rest.ends_with('\n') {
            let (label, record) = serde_json::from_str(rest)?;
            self.runs.add(label, record);
            rest.clear();
        }
        Ok(())
    }
}

impl Runs {
    fn add(&mut self, label: String, record: String) {
        let known = self.steps.get_mut(&label).and_then(|records| records.get_mut(&record));
        match known {
            Some(known) => *known = known.saturating_add(1),
            None if self.counted == RECORDS_COUNTED_MAX => self.uncounted += 1,
            None => {
                self.counted += 1;
                self.steps.entry(label).or_default().insert(record, 1);
            }
        }
    }
}
