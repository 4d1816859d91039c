//! What is wrong with a config, told so that it can be put right: where, what, why, what would be valid. Never holds a
//! secret's value.

use std::fmt;

/// One thing that is wrong, or that is likely not meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file, as it was named on the command line.
    pub file: String,
    /// Line and column, from 1; the column counts characters. `None` where the file itself is the problem.
    pub place: Option<(usize, usize)>,
    /// The key's whole path, e.g. `stage[0].timeout`; empty where there is none.
    pub key: String,
    /// The value as the file has it: variables are not replaced, secrets are hidden, tables are left out.
    pub value: Option<String>,
    /// What is wrong, and what would be right.
    pub why: String,
    /// The choices there are.
    pub valid: Vec<String>,
    /// The choice that was probably meant.
    pub meant: Option<String>,
    /// Whether the config can be used all the same.
    pub is_warning: bool,
}

impl Problem {
    /// A problem of a whole file.
    pub(super) fn of_file(file: &str, why: impl fmt::Display) -> Self {
        Self {
            file: file.to_owned(),
            place: None,
            key: String::new(),
            value: None,
            why: why.to_string(),
            valid: Vec::new(),
            meant: None,
            is_warning: false,
        }
    }

    /// The same with its choices, and the one that `word` probably means.
    pub(super) fn choices<'a>(mut self, word: &str, valid: impl IntoIterator<Item = &'a str>) -> Self {
        self.valid = valid.into_iter().map(str::to_owned).collect();
        self.meant = closest(word, &self.valid);
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        f.write_str(if self.is_warning { ": warning: " } else { ": " })?;
        match (self.key.as_str(), &self.value) {
            ("", _) => {}
            (key, None) => write!(f, "{key}: ")?,
            (key, Some(value)) => write!(f, "{key} = {value}: ")?,
        }
        f.write_str(&self.why)?;
        if !self.valid.is_empty() {
            write!(f, "; valid: {}", self.valid.join(", "))?;
        }
        match &self.meant {
            Some(meant) => write!(f, "; did you mean {meant}?"),
            None => Ok(()),
        }
    }
}

/// The choice that `word` is probably a misspelling of: a third of its letters may be wrong, swapped or missing.
fn closest(word: &str, choices: &[String]) -> Option<String> {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let distance = |choice: &String| strsim::damerau_levenshtein(&plain(word), &plain(choice));
    let best = choices.iter().min_by_key(|choice| distance(choice))?;
    let letters = word.chars().count().max(best.chars().count());
    (distance(best) * 3 <= letters).then(|| best.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelling_is_recognised_and_a_stranger_is_not() {
        let choices = ["timeout", "retry", "ttl", "keys_max"].map(str::to_owned);
        for (word, meant) in [("timout", "timeout"), ("Retry", "retry"), ("keys-max", "keys_max"), ("tll", "ttl")] {
            assert_eq!(closest(word, &choices).as_deref(), Some(meant), "{word}");
        }
        assert_eq!(closest("workers", &choices), None);
        assert_eq!(closest("x", &[]), None);
    }
}
