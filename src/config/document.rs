//! One config file: its text and where each of its keys lies in it. Never decides what a key means.

use super::problem::Problem;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

/// The longest value that is shown in a problem, in characters.
const SHOWN_MAX: usize = 80;

/// A file, and what is known of its keys once it was walked.
#[derive(Debug)]
pub(super) struct Document {
    /// The file's name in problems.
    pub(super) name: String,
    pub(super) text: String,
    places: BTreeMap<String, Place>,
    /// Paths of keys that have a problem already: what a stand-in's consequences would be is not told.
    bad: BTreeSet<String>,
}

#[derive(Debug)]
struct Place {
    span: Range<usize>,
    /// Whether the value may be shown: it is neither secret nor a table or an array.
    is_shown: bool,
}

impl Document {
    pub(super) fn new(name: String, text: String) -> Self {
        Self { name, text, places: BTreeMap::new(), bad: BTreeSet::new() }
    }

    /// Notes where a key's value lies, and whether its text may be shown.
    pub(super) fn place(&mut self, path: &str, span: Range<usize>, is_shown: bool) {
        self.places.insert(path.to_owned(), Place { span, is_shown });
    }

    /// Whether the file has the key.
    pub(super) fn has(&self, path: &str) -> bool {
        self.places.contains_key(path)
    }

    /// Whether the value has a variable in it.
    pub(super) fn is_varied(&self, path: &str) -> bool {
        self.places
            .get(path)
            .and_then(|place| self.text.get(place.span.clone()))
            .is_some_and(|text| text.contains("${"))
    }

    /// The value's text as it stands in the file, cut to one line.
    fn shown(&self, place: &Place) -> Option<String> {
        let text = self.text.get(place.span.clone()).filter(|_| place.is_shown)?;
        let line = text.lines().next().unwrap_or_default();
        let end = line.char_indices().nth(SHOWN_MAX).map_or(line.len(), |(end, _)| end);
        Some(if end < text.len() { format!("{}…", &line[..end]) } else { line.to_owned() })
    }

    /// A problem of a key's value, or of a key that is missing, which lies where its table does.
    pub(super) fn problem(&self, path: &str, why: impl fmt::Display) -> Problem {
        let own = self.places.get(path);
        let offset = own.map_or_else(|| self.nearest(path), |place| place.span.start);
        Problem {
            place: Some(self.line_and_column(offset)),
            key: path.to_owned(),
            value: own.and_then(|place| self.shown(place)),
            ..Problem::of_file(&self.name, why)
        }
    }

    /// A problem at a place that has no key.
    pub(super) fn problem_at(&self, offset: usize, why: impl fmt::Display) -> Problem {
        Problem { place: Some(self.line_and_column(offset)), ..Problem::of_file(&self.name, why) }
    }

    /// Notes that the key has a problem.
    pub(super) fn mark_bad(&mut self, path: &str) {
        self.bad.insert(path.to_owned());
    }

    /// Whether the key, one inside its value or one around it has a problem already.
    pub(super) fn is_bad(&self, path: &str) -> bool {
        let mut around = path.match_indices(['.', '[']).map(|(end, _)| &path[..end]);
        if around.any(|around| self.bad.contains(around)) {
            return true;
        }
        let inside =
            |bad: &String| bad.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        self.bad.range(path.to_owned()..).take_while(|bad| bad.starts_with(path)).any(inside)
    }

    /// Where the closest table around a key lies that the file has.
    fn nearest(&self, path: &str) -> usize {
        let mut path = path;
        while let Some(end) = path.rfind(['.', '[']) {
            path = &path[..end];
            if let Some(place) = self.places.get(path) {
                return place.span.start;
            }
        }
        0
    }

    fn line_and_column(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}
