//! A TOML file that is not of the config directory's own kinds, e.g. a model's description, read as strictly as those: every
//! problem with its place. Never replaces variables.

use super::document::Document;
use super::load::{parse, read};
use super::problem::Problem;
use super::schema;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use std::fmt::Display;
use std::path::Path;

/// A file that was read. What is wrong in it is replaced by a stand-in, so that the rest can still be checked.
#[derive(Debug)]
pub struct Single<T> {
    /// What it says; only to be used where there are no problems, or for keys that have none.
    pub value: T,
    /// What is wrong with it so far.
    pub problems: Vec<Problem>,
    document: Document,
}

impl<T: DeserializeOwned + JsonSchema> Single<T> {
    /// Reads a file and holds it against its type.
    ///
    /// # Errors
    /// The file cannot be read, or is no TOML.
    pub fn read(path: &Path) -> Result<Self, Vec<Problem>> {
        let name = path.display().to_string();
        let text = read(path).map_err(|why| vec![Problem::of_file(&name, why)])?;
        Self::parse(name, text)
    }

    /// The same of a text; `name` is the file's in problems.
    ///
    /// # Errors
    /// The text is no TOML.
    pub fn parse(name: String, text: String) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let none = |_: &str| None;
        match parse(Document::new(name, text), &schema::of::<T>(), &none, Path::new(""), &mut problems) {
            Some((document, value)) => Ok(Self { value, problems, document }),
            None => Err(problems),
        }
    }
}

impl<T> Single<T> {
    /// Notes what is wrong with a key's value; a key that has a problem already keeps the first.
    pub fn refuse(&mut self, key: &str, why: impl Display) {
        if !self.document.is_bad(key) {
            self.problems.push(self.document.problem(key, why));
            self.document.mark_bad(key);
        }
    }

    /// Whether the key, or one inside it, has a problem.
    #[must_use]
    pub fn is_bad(&self, key: &str) -> bool {
        self.document.is_bad(key)
    }

    /// The file's problems, in the order of lines.
    #[must_use]
    pub fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems;
        problems.sort();
        problems
    }
}
