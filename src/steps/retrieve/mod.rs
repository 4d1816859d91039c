//! The step `retrieve`: finds the passages of a folder's documents that a record's text is about (BM25), and puts them into the
//! record. Never reads outside of its folder, and never answers from files that are gone for longer than `refresh`.

mod library;

use super::StepContext;
use super::field::{Field, document, with_document};
use crate::config::units::{Period, Size};
use crate::vision::describe::is_below;
use bulkhead_actors::step::{Step, StepFactory};
use bulkhead_core::fault::{Fault, FaultClass};
use bulkhead_core::record::{Origin, Record};
use bulkhead_core::verdict::Verdict;
use library::{Bounds, Library};
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

/// The step's name.
pub const NAME: &str = "retrieve";
/// More would be no selection.
const TOP_MAX: usize = 100;

/// `{ retrieve = { documents = "documents" } }`: `.passages` becomes `[{"source": "guide.md", "heading": …, "text": …, "score": …}, …]`,
/// the best first.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetrieveConfig {
    /// The folder of the documents, relative to the config directory: `.md` and `.txt` files, in folders below it, too. Its
    /// paragraphs are the passages.
    pub documents: PathBuf,
    /// The text that passages are looked for by.
    #[serde(default = "text")]
    pub field: Field,
    /// Where the passages are put.
    #[serde(default = "passages")]
    pub into: Field,
    /// How many passages at most.
    #[serde(default = "top")]
    #[schemars(range(min = 1, max = 100))]
    pub top: usize,
    /// How often the folder is looked at for files that changed; a record waits while they are read.
    #[serde(default = "refresh")]
    pub refresh: Period,
    /// The language whose forms of a word count as one.
    #[serde(default)]
    pub language: Language,
    /// How many files are read; a folder with more is an error.
    #[serde(default = "files_max")]
    #[schemars(range(min = 1, max = 100_000))]
    pub files_max: usize,
    /// How large all of them may be together: they are held in memory.
    #[serde(default = "bytes_max")]
    pub bytes_max: Size,
    /// How long a passage may be; a longer paragraph becomes several.
    #[serde(default = "passage_max")]
    pub passage_max: Size,
}

fn text() -> Field {
    Field::of("text")
}

fn passages() -> Field {
    Field::of("passages")
}

const fn top() -> usize {
    3
}

const fn refresh() -> Period {
    Period::secs(10)
}

const fn files_max() -> usize {
    1_000
}

const fn bytes_max() -> Size {
    Size::mib(16)
}

const fn passage_max() -> Size {
    Size::kib(2)
}

/// The language whose forms of a word count as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    /// English.
    #[default]
    English,
    /// German.
    German,
    /// French.
    French,
    /// Spanish.
    Spanish,
    /// Words count as they are written.
    Any,
}

impl RetrieveConfig {
    pub(super) fn check(&self, context: StepContext<'_>) -> Vec<String> {
        let mut problems = Vec::new();
        let folder = context.dir.join(&self.documents);
        if !is_below(&self.documents) {
            let documents = self.documents.display();
            problems.push(format!("documents: `{documents}` must be a path below the config directory, without `..`"));
        } else if !folder.is_dir() {
            problems.push(format!("documents: there is no folder {}", folder.display()));
        }
        if !(1..=TOP_MAX).contains(&self.top) {
            problems.push(format!("top: {}; 1 to {TOP_MAX} are possible", self.top));
        }
        for (key, size, most) in
            [("bytes_max", self.bytes_max, Size::mib(1_024)), ("passage_max", self.passage_max, Size::mib(1))]
        {
            if size.0 == 0 || size.0 > most.0 {
                problems.push(format!("{key}: \"{size}\"; \"1B\" to \"{most}\" are possible"));
            }
        }
        if self.refresh.0.is_zero() {
            problems.push("refresh: must be longer than nothing".to_owned());
        }
        problems
    }

    pub(super) fn factory(&self, context: StepContext<'_>) -> RetrieveFactory {
        let bounds = Bounds {
            files_max: self.files_max,
            bytes_max: self.bytes_max.bytes(),
            passage_bytes_max: self.passage_max.bytes(),
        };
        let library = Library::new(context.dir.join(&self.documents), self.language, bounds, self.refresh.0);
        RetrieveFactory { config: self.clone(), library: Arc::new(Mutex::new(library)) }
    }
}

/// Builds the step; its workers share one index.
pub struct RetrieveFactory {
    config: RetrieveConfig,
    library: Arc<Mutex<Library>>,
}

impl StepFactory for RetrieveFactory {
    fn name(&self) -> &str {
        NAME
    }

    fn build(&self) -> Result<Box<dyn Step>, Fault> {
        // The folder is looked at with the first record: what is wrong with it may pass.
        Ok(Box::new(Retrieve { config: self.config.clone(), library: Arc::clone(&self.library) }))
    }
}

struct Retrieve {
    config: RetrieveConfig,
    library: Arc<Mutex<Library>>,
}

impl Step for Retrieve {
    fn run(&mut self, records: &[Record], _: Option<&[Origin]>) -> Result<Vec<Verdict>, Fault> {
        let shelf = self.library.lock().refresh()?;
        let mut verdicts = Vec::with_capacity(records.len());
        for record in records {
            verdicts.push(match self.one(&shelf, record) {
                Ok(record) => Verdict::one(record),
                Err(fault) if fault.class == FaultClass::Poison => Verdict::Reject(fault),
                Err(fault) => return Err(fault),
            });
        }
        Ok(verdicts)
    }
}

impl Retrieve {
    fn one(&self, shelf: &library::Shelf, record: &Record) -> Result<Record, Fault> {
        let mut document = document(record)?;
        let found = shelf.find(self.config.field.text(&document)?, self.config.top)?;
        let passage = |(passage, score): (&library::Passage, f32)| {
            let (source, heading, text) = (&passage.source, &passage.heading, &passage.text);
            // A score's sixth digit says nothing, and would differ between machines.
            json!({ "source": source, "heading": heading, "text": text, "score": (f64::from(score) * 1e3).round() / 1e3 })
        };
        self.config.into.set(&mut document, Value::Array(found.into_iter().map(passage).collect()))?;
        Ok(with_document(record, &document))
    }
}

#[cfg(test)]
#[path = "retrieve_tests.rs"]
mod tests;
