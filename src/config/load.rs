//! Reads the files of a config directory. Every problem of every file is found in one go. Never returns a config that
//! has one.

use super::check::{self, Loaded};
use super::daemon::Daemon;
use super::document::Document;
use super::pipeline::PipelineFile;
use super::problem::Problem;
use super::shape::Walk;
use super::variables::Variables;
use super::{Config, Overrides, Pipeline, properties, schema};
use serde::de::DeserializeOwned;
use std::io::Read;
use std::path::{Path, PathBuf};
use toml::de::DeTable;

/// The daemon's file in a config directory.
pub const DAEMON_FILE: &str = "bulkhead.toml";
/// The folder of pipelines in a config directory.
pub const PIPELINES_DIR: &str = "pipelines";
/// A config file larger than this is none.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a config is read with.
pub struct Options<'a> {
    /// Where `${VARIABLE}`s come from.
    pub variables: &'a Variables<'a>,
    /// What the command line says, which beats the files.
    pub overrides: Overrides,
    /// Whether `--chaos` was given.
    pub chaos: bool,
}

impl super::Config {
    /// Reads and checks the config in `dir`. The second part are warnings.
    ///
    /// # Errors
    /// Every problem found, in the order of files, lines and columns; warnings are among them.
    pub fn load(dir: &Path, options: &Options<'_>) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let mut loader = Loader { dir, options, problems: Vec::new() };
        let loaded = loader.all();
        let mut problems = loader.problems;
        if let Some(loaded) = &loaded {
            problems.extend(check::all(loaded, dir, options.chaos));
        }
        problems.sort();
        problems.dedup();
        match loaded {
            Some(loaded) if problems.iter().all(|problem| problem.is_warning) => {
                Ok((loaded.config(dir, options), problems))
            }
            _ => Err(problems),
        }
    }
}

struct Loader<'a> {
    dir: &'a Path,
    options: &'a Options<'a>,
    problems: Vec<Problem>,
}

impl Loader<'_> {
    /// Everything that could be read, `None` where the directory cannot be.
    fn all(&mut self) -> Option<Loaded> {
        let pipelines = self.pipeline_files()?;
        let daemon_file = self.dir.join(DAEMON_FILE);
        let mut incomplete = false;
        let daemon = match daemon_file.try_exists() {
            Ok(false) => None,
            _ => self.file::<Daemon>(&daemon_file, &schema::daemon()),
        };
        let (mut raw, mut daemon) =
            daemon.unwrap_or_else(|| (Document::new(self.name(&daemon_file), String::new()), Daemon::default()));
        for (path, why) in properties::check(&mut daemon.kafka.properties, &raw, self.dir) {
            self.problems.push(raw.problem(&path, why));
            raw.mark_bad(&path);
        }
        self.options.overrides.apply(&mut daemon);
        let schema = schema::pipeline();
        let mut loaded = Vec::new();
        for path in pipelines {
            match self.file::<PipelineFile>(&path, &schema) {
                Some(file) => loaded.push(file),
                None => incomplete = true,
            }
        }
        Some(Loaded { daemon: (raw, daemon), pipelines: loaded, incomplete })
    }

    fn name(&self, path: &Path) -> String {
        path.display().to_string()
    }

    fn pipeline_files(&mut self) -> Option<Vec<PathBuf>> {
        let dir = self.dir.join(PIPELINES_DIR);
        let entries = match std::fs::read_dir(&dir).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
            Ok(entries) => entries,
            Err(why) => {
                let why =
                    format!("cannot be read: {why}; a config directory holds {DAEMON_FILE} and {PIPELINES_DIR}/*.toml");
                self.problems.push(Problem::of_file(&self.name(&dir), why));
                return None;
            }
        };
        let mut files: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        files.sort();
        if files.is_empty() {
            self.problems.push(Problem::of_file(&self.name(&dir), "holds no pipeline: one file NAME.toml for each"));
        }
        Some(files)
    }

    /// Reads a file and makes its type of it, with stand-ins for what is wrong.
    fn file<T: DeserializeOwned>(&mut self, path: &Path, schema: &serde_json::Value) -> Option<(Document, T)> {
        let name = self.name(path);
        let text = match read(path) {
            Ok(text) => text,
            Err(why) => {
                self.problems.push(Problem::of_file(&name, why));
                return None;
            }
        };
        parse(Document::new(name, text), schema, self.options.variables, self.dir, &mut self.problems)
    }
}

/// Makes a file's type of it, with stand-ins for what is wrong; `None` where it is no TOML.
pub(super) fn parse<T: DeserializeOwned>(
    mut document: Document,
    schema: &serde_json::Value,
    variables: &Variables<'_>,
    dir: &Path,
    problems: &mut Vec<Problem>,
) -> Option<(Document, T)> {
    let text = document.text.clone();
    let (table, errors) = DeTable::parse_recoverable(&text);
    if !errors.is_empty() {
        for error in errors {
            let offset = error.span().map_or(0, |span| span.start);
            let why = error.message().lines().collect::<Vec<_>>().join(", ");
            problems.push(document.problem_at(offset, why));
        }
        return None;
    }
    let json = Walk { document: &mut document, schema, variables, dir, problems, stand_ins: 0 }.file(&table);
    match serde_json::from_value(json) {
        Ok(file) => Some((document, file)),
        Err(why) => {
            let why = format!("fits the schema, but not its type ({why}): this is a bug in bulkhead");
            problems.push(document.problem_at(0, why));
            None
        }
    }
}

pub(super) fn read(path: &Path) -> Result<String, String> {
    let unreadable = |why: std::io::Error| format!("cannot be read: {why}");
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err("is larger than 1 MiB".to_owned());
    }
    String::from_utf8(bytes).map_err(|why| format!("is no UTF-8 text: {why}"))
}

impl Loaded {
    /// The checked config. It has no problem.
    fn config(self, dir: &Path, options: &Options<'_>) -> Config {
        let (_, daemon) = self.daemon;
        let resolve = |(_, file)| Pipeline::resolve(file, &daemon.http);
        let pipelines = self.pipelines.into_iter().map(resolve).collect();
        let worker = options.overrides.worker.clone();
        Config { dir: dir.to_owned(), chaos: options.chaos, worker, pipelines, daemon }
    }
}
