//! A folder's documents as passages in an index in memory, by `tantivy`. Never holds more than its bounds, and never shows a
//! part of a folder: an index is whole before it takes the place of the one before it.

use super::Language;
use bulkhead_core::fault::Fault;
use bulkhead_core::passages::passages;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tantivy::collector::TopDocs;
use tantivy::query::{BooleanQuery, Query, TermQuery};
use tantivy::schema::{Field, IndexRecordOption, STORED, Schema, TextFieldIndexing, TextOptions, Value as _};
use tantivy::tokenizer::{LowerCaser, RemoveLongFilter, SimpleTokenizer, Stemmer, TextAnalyzer};
use tantivy::{Index, IndexReader, TantivyDocument, Term};

/// The name of the way in which texts become words.
const WORDS: &str = "words";
/// What the index's writer may take while an index is made, bytes.
const WRITER_BYTES: usize = 15 << 20;
/// A longer word is none.
const WORD_BYTES_MAX: usize = 64;
/// How many different words of a question count.
const QUERY_WORDS_MAX: usize = 64;
/// Folders below folders.
const DEPTH_MAX: usize = 8;

/// What a library may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) files_max: usize,
    pub(super) bytes_max: usize,
    pub(super) passage_bytes_max: usize,
}

/// A part of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Passage {
    /// The file, relative to the folder.
    pub(super) source: String,
    pub(super) heading: String,
    pub(super) text: String,
}

/// A file as it was when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    path: PathBuf,
    changed: Option<SystemTime>,
    len: u64,
}

/// The folder, and the latest index of it.
pub(super) struct Library {
    folder: PathBuf,
    language: Language,
    bounds: Bounds,
    every: Duration,
    looked: Option<Instant>,
    seen: Vec<Seen>,
    shelf: Option<Arc<Shelf>>,
}

/// An index and the passages in it.
pub(super) struct Shelf {
    reader: IndexReader,
    analyzer: TextAnalyzer,
    body: Field,
    number: Field,
    passages: Vec<Passage>,
}

fn unreadable(path: &Path, why: &dyn std::fmt::Display) -> Fault {
    Fault::transient("documents_unreadable", format_args!("{}: {why}", path.display()))
}

fn broken(why: &dyn std::fmt::Display) -> Fault {
    Fault::fatal("index_broken", why)
}

impl Library {
    pub(super) fn new(folder: PathBuf, language: Language, bounds: Bounds, every: Duration) -> Self {
        Self { folder, language, bounds, every, looked: None, seen: Vec::new(), shelf: None }
    }

    /// The folder's index; looks at the folder where it is time to.
    pub(super) fn refresh(&mut self) -> Result<Arc<Shelf>, Fault> {
        let is_fresh = self.looked.is_some_and(|looked| looked.elapsed() < self.every);
        if let Some(shelf) = self.shelf.as_ref().filter(|_| is_fresh) {
            return Ok(Arc::clone(shelf));
        }
        let seen = self.look()?;
        self.looked = Some(Instant::now());
        if let Some(shelf) = self.shelf.as_ref().filter(|_| seen == self.seen) {
            return Ok(Arc::clone(shelf));
        }
        let shelf = Arc::new(Shelf::of(self.read(&seen)?, self.language)?);
        tracing::info!(folder = %self.folder.display(), files = seen.len(), passages = shelf.passages.len(), "documents indexed");
        self.seen = seen;
        self.shelf = Some(Arc::clone(&shelf));
        Ok(shelf)
    }

    /// Every document, by name.
    fn look(&self) -> Result<Vec<Seen>, Fault> {
        let (mut found, mut folders) = (Vec::new(), vec![(self.folder.clone(), 0)]);
        while let Some((folder, depth)) = folders.pop() {
            for entry in fs::read_dir(&folder).map_err(|why| unreadable(&folder, &why))? {
                let path = entry.map_err(|why| unreadable(&folder, &why))?.path();
                // A link is not followed: it may lead anywhere.
                let about = fs::symlink_metadata(&path).map_err(|why| unreadable(&path, &why))?;
                if about.is_dir() && depth < DEPTH_MAX {
                    folders.push((path, depth + 1));
                } else if about.is_file() && path.extension().is_some_and(|end| end == "md" || end == "txt") {
                    found.push(Seen { path, changed: about.modified().ok(), len: about.len() });
                }
            }
        }
        let bytes: u64 = found.iter().map(|seen| seen.len).sum();
        let Bounds { files_max, bytes_max, .. } = self.bounds;
        if found.len() > files_max || bytes > bytes_max as u64 {
            let (folder, files) = (self.folder.display(), found.len());
            let why =
                format_args!("{folder} has {files} documents of {bytes} bytes: {files_max} of {bytes_max} are allowed");
            return Err(Fault::transient("documents_too_many", why));
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    fn read(&self, seen: &[Seen]) -> Result<Vec<Passage>, Fault> {
        let mut all = Vec::new();
        for Seen { path, .. } in seen {
            let bytes = fs::read(path).map_err(|why| unreadable(path, &why))?;
            let name = path.strip_prefix(&self.folder).unwrap_or(path).to_string_lossy().into_owned();
            let found = passages(&String::from_utf8_lossy(&bytes), self.bounds.passage_bytes_max);
            all.extend(found.into_iter().map(|p| Passage { source: name.clone(), heading: p.heading, text: p.text }));
        }
        Ok(all)
    }
}

impl Shelf {
    fn of(passages: Vec<Passage>, language: Language) -> Result<Self, Fault> {
        let mut schema = Schema::builder();
        let indexing = TextFieldIndexing::default().set_tokenizer(WORDS).set_index_option(IndexRecordOption::WithFreqs);
        let body = schema.add_text_field("body", TextOptions::default().set_indexing_options(indexing));
        let number = schema.add_u64_field("number", STORED);
        let index = Index::create_in_ram(schema.build());
        let analyzer = analyzer(language);
        index.tokenizers().register(WORDS, analyzer.clone());
        let mut writer = index.writer_with_num_threads(1, WRITER_BYTES).map_err(|why| broken(&why))?;
        for (at, passage) in (0_u64..).zip(&passages) {
            let mut document = TantivyDocument::default();
            // What a heading says, its passages are about.
            document.add_text(body, format!("{} {}", passage.heading, passage.text));
            document.add_u64(number, at);
            writer.add_document(document).map_err(|why| broken(&why))?;
        }
        writer.commit().map_err(|why| broken(&why))?;
        let reader = index.reader().map_err(|why| broken(&why))?;
        Ok(Self { reader, analyzer, body, number, passages })
    }

    /// The passages that a text is about, the best first. A text without words is about none.
    pub(super) fn find(&self, text: &str, top: usize) -> Result<Vec<(&Passage, f32)>, Fault> {
        let words = self.words(text);
        if words.is_empty() {
            return Ok(Vec::new());
        }
        let term = |word: &String| -> Box<dyn Query> {
            Box::new(TermQuery::new(Term::from_field_text(self.body, word), IndexRecordOption::WithFreqs))
        };
        let query = BooleanQuery::union(words.iter().map(term).collect());
        let searcher = self.reader.searcher();
        let best = searcher.search(&query, &TopDocs::with_limit(top).order_by_score()).map_err(|why| broken(&why))?;
        let mut found = Vec::with_capacity(best.len());
        for (score, place) in best {
            let document: TantivyDocument = searcher.doc(place).map_err(|why| broken(&why))?;
            let number = document.get_first(self.number).and_then(|value| value.as_u64());
            let passage = number.and_then(|number| self.passages.get(usize::try_from(number).ok()?));
            found.push((passage.ok_or_else(|| broken(&"a passage of the index is not there"))?, score));
        }
        Ok(found)
    }

    fn words(&self, text: &str) -> BTreeSet<String> {
        let (mut analyzer, mut words) = (self.analyzer.clone(), BTreeSet::new());
        let mut stream = analyzer.token_stream(text);
        while words.len() < QUERY_WORDS_MAX && stream.advance() {
            words.insert(stream.token().text.clone());
        }
        words
    }
}

fn analyzer(language: Language) -> TextAnalyzer {
    let words = TextAnalyzer::builder(SimpleTokenizer::default())
        .filter(RemoveLongFilter::limit(WORD_BYTES_MAX))
        .filter(LowerCaser);
    let stemmed = match language {
        Language::English => tantivy::tokenizer::Language::English,
        Language::German => tantivy::tokenizer::Language::German,
        Language::French => tantivy::tokenizer::Language::French,
        Language::Spanish => tantivy::tokenizer::Language::Spanish,
        Language::Any => return words.build(),
    };
    words.filter(Stemmer::new(stemmed)).build()
}
