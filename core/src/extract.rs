//! An answer made of sentences that stand in the passages found: what can be said without a model. Never makes a sentence of
//! its own, and never says what no passage says.

use std::collections::BTreeSet;

/// Words that say nothing of what a question is about.
const COMMON: &[&str] = &[
    "about", "and", "are", "can", "did", "does", "for", "from", "has", "have", "how", "into", "its", "not", "that",
    "the", "their", "then", "there", "they", "this", "was", "what", "when", "where", "which", "who", "why", "will",
    "with", "you", "your",
];
/// Letters by which two forms of a word are taken for the same one.
const STEM_CHARS: usize = 5;

/// Where an answer's sentence comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote<'a> {
    /// Which passage, by its place among those given.
    pub passage: usize,
    /// The sentence, as it stands there.
    pub sentence: &'a str,
}

/// At most `quotes_max` sentences that have most of the question's words, in the order of the passages (best first) and, in
/// one passage, as they stand. A passage whose sentences share no word with the question gives its first one, if it is the
/// best passage; nothing comes of no passages.
#[must_use]
pub fn quotes<'a>(question: &str, passages: &[&'a str], quotes_max: usize) -> Vec<Quote<'a>> {
    let asked = words(question);
    let mut rated: Vec<(usize, usize, usize, &'a str)> = Vec::new();
    for (passage, text) in passages.iter().enumerate() {
        for (at, sentence) in sentences(text).enumerate() {
            let shared = words(sentence).intersection(&asked).count();
            rated.push((shared, passage, at, sentence));
        }
    }
    let best = rated.iter().any(|(shared, ..)| *shared > 0);
    if !best {
        rated.truncate(1);
    } else {
        rated.retain(|(shared, ..)| *shared > 0);
    }
    rated.sort_by_key(|(shared, passage, at, _)| (std::cmp::Reverse(*shared), *passage, *at));
    rated.truncate(quotes_max);
    rated.sort_by_key(|(_, passage, at, _)| (*passage, *at));
    rated.into_iter().map(|(_, passage, _, sentence)| Quote { passage, sentence }).collect()
}

/// The words of a text that it may be about, each by its first letters.
fn words(text: &str) -> BTreeSet<String> {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !c.is_alphanumeric());
    let telling = words.filter(|word| word.chars().count() > 2 && !COMMON.contains(word));
    telling.map(|word| word.chars().take(STEM_CHARS).collect()).collect()
}

/// The sentences of a text: up to a full stop, a question or an exclamation mark that a blank follows.
fn sentences(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text.trim();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let ends = rest.char_indices().filter(|(_, c)| matches!(c, '.' | '?' | '!')).map(|(at, _)| at + 1);
        let end = ends.clone().find(|end| rest[*end..].starts_with(char::is_whitespace)).unwrap_or(rest.len());
        let (sentence, after) = rest.split_at(end);
        rest = after.trim_start();
        Some(sentence)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sentences_that_answer_come_first_and_keep_their_order() {
        let lane = "A lane commits. It keeps finished batches until they are settled. Cats sleep.";
        let other = "Batches are cut by count, bytes and linger.";
        let found = quotes("How long does a lane keep finished batches?", &[other, lane], 2);
        assert_eq!(
            found,
            [
                Quote { passage: 0, sentence: other },
                Quote { passage: 1, sentence: "It keeps finished batches until they are settled." }
            ]
        );
        assert_eq!(quotes("zebra", &[lane], 3), [Quote { passage: 0, sentence: "A lane commits." }]);
        assert_eq!(quotes("zebra", &[], 3), []);
    }

    proptest! {
        #[test]
        fn every_quote_stands_in_its_passage(question in ".{0,60}", texts in prop::collection::vec(".{0,120}", 0..5), most in 0..4_usize) {
            let texts: Vec<_> = texts.iter().map(String::as_str).collect();
            let found = quotes(&question, &texts, most);
            prop_assert!(found.len() <= most);
            for quote in &found {
                prop_assert!(texts[quote.passage].contains(quote.sentence));
            }
            prop_assert!(found.is_sorted_by_key(|quote| quote.passage));
        }
    }
}
