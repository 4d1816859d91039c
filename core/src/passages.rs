//! Cuts a text into passages: what a reader would quote at once. Never loses a word of it, and never cuts within one.

/// A part of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// The heading that it stands under; empty before the first one.
    pub heading: String,
    /// Its text, without blank lines around it.
    pub text: String,
}

/// Cuts a Markdown or plain text at its blank lines and headings; what is longer than `bytes_max` is cut again, between
/// words. A fenced block of code stays whole where it fits. Headings are no passages by themselves.
#[must_use]
pub fn passages(text: &str, bytes_max: usize) -> Vec<Passage> {
    let (mut found, mut heading, mut open) = (Vec::new(), String::new(), String::new());
    let mut is_code = false;
    for line in text.lines() {
        let is_fence = line.trim_start().starts_with("```");
        let title = (!is_code).then(|| title(line)).flatten();
        if title.is_some() || (!is_code && line.trim().is_empty()) {
            close(&mut found, &heading, &mut open, bytes_max);
        } else {
            open.push_str(line);
            open.push('\n');
        }
        if let Some(title) = title {
            title.clone_into(&mut heading);
        }
        is_code ^= is_fence;
    }
    close(&mut found, &heading, &mut open, bytes_max);
    found
}

/// What a Markdown heading says.
fn title(line: &str) -> Option<&str> {
    let text = line.trim_start_matches('#');
    let level = line.len() - text.len();
    ((1..=6).contains(&level) && text.starts_with(' ')).then(|| text.trim())
}

fn close(found: &mut Vec<Passage>, heading: &str, open: &mut String, bytes_max: usize) {
    let text = std::mem::take(open);
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (part, after) = split(rest, bytes_max.max(1));
        found.push(Passage { heading: heading.to_owned(), text: part.trim().to_owned() });
        rest = after.trim_start();
    }
}

/// As much of the text as fits, up to the end of a word, at least one word; and the rest.
fn split(text: &str, bytes_max: usize) -> (&str, &str) {
    if text.len() <= bytes_max {
        return (text, "");
    }
    let blanks = || text.char_indices().filter(|(_, c)| c.is_whitespace()).map(|(at, _)| at);
    let at = blanks().take_while(|at| *at <= bytes_max).last().or_else(|| blanks().next()).unwrap_or(text.len());
    text.split_at(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paragraphs_stand_under_their_headings_and_code_stays_whole() {
        let text = "Intro.\n\n# One\nA first\nline.\n\nA second.\n## Two\n```\na\n\n# no heading\n```\nafter\n";
        let found: Vec<_> = passages(text, 1_000).into_iter().map(|p| (p.heading, p.text)).collect();
        let wanted = [
            ("", "Intro."),
            ("One", "A first\nline."),
            ("One", "A second."),
            ("Two", "```\na\n\n# no heading\n```\nafter"),
        ];
        assert_eq!(found, wanted.map(|(heading, text)| (heading.to_owned(), text.to_owned())));
    }

    proptest! {
        #[test]
        fn no_word_is_lost_or_cut(text in "([a-zäß ]|\n|# ){0,200}", bytes_max in 1..40_usize) {
            let found = passages(&text, bytes_max);
            let headings = text.lines().filter_map(title).flat_map(str::split_whitespace);
            let mut said: Vec<_> = found.iter().flat_map(|p| p.text.split_whitespace()).chain(headings).collect();
            let mut words: Vec<_> =
                text.lines().flat_map(|line| title(line).unwrap_or(line).split_whitespace()).collect();
            said.sort_unstable();
            words.sort_unstable();
            prop_assert_eq!(said, words);
            for passage in found {
                let is_word = !passage.text.contains(char::is_whitespace);
                prop_assert!(passage.text.len() <= bytes_max || is_word, "{:?}", passage);
            }
        }
    }
}
