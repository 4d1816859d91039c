//! Whatever a config holds, reading it ends with a config or with problems that lie in its files, never with a panic, and
//! never with a value that the schema let through and the type refuses.

use bulkhead::config::load::Options;
use bulkhead::config::problem::Problem;
use bulkhead::config::{Config, Overrides};
use proptest::prelude::*;
use std::path::Path;

const DAEMON: &str = include_str!("golden/secrets/bulkhead.toml");
const PIPELINE: &str = include_str!("golden/routes/pipelines/orders.toml");
const FULL: &str = include_str!("full.toml");

fn load(daemon: &str, pipeline: &str) -> Result<Vec<Problem>, Vec<Problem>> {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("written");
    std::fs::create_dir(dir.path().join("pipelines")).expect("made");
    write("bulkhead.toml", daemon);
    write("pipelines/orders.toml", pipeline);
    let options = Options { variables: &|_| None, overrides: Overrides::default(), chaos: true };
    Config::load(dir.path(), &options).map(|(_, warnings)| warnings)
}

/// Every problem names a file, lies in it, and is the config's fault.
fn assert_told(result: &Result<Vec<Problem>, Vec<Problem>>, daemon: &str, pipeline: &str) {
    for problem in result.as_ref().err().into_iter().flatten() {
        assert!(!problem.why.contains("bug in bulkhead"), "{problem}");
        let Some((line, column)) = problem.place else { continue };
        let text = if Path::new(&problem.file).ends_with("bulkhead.toml") { daemon } else { pipeline };
        let found = text.split('\n').nth(line - 1);
        assert!(found.is_some_and(|found| column <= found.chars().count() + 1), "{problem}");
    }
}

/// A text with some of its characters removed, doubled or replaced.
fn mutated(text: &'static str) -> impl Strategy<Value = String> {
    let characters: Vec<char> = text.chars().collect();
    let count = characters.len();
    let one = (
        0..count,
        prop_oneof![
            Just(None),
            any::<char>().prop_map(Some),
            "[\\[\\]{}\"'=.,#$0-9\\n-]".prop_map(|s| s.chars().next())
        ],
    );
    prop::collection::vec(one, 1..6).prop_map(move |changes| {
        let mut characters = characters.clone();
        for (at, change) in changes {
            match change {
                Some(character) => {
                    let at = at % characters.len();
                    characters[at] = character;
                }
                None => {
                    let at = at % characters.len();
                    characters.remove(at);
                }
            }
        }
        characters.into_iter().collect()
    })
}

/// Any TOML value, small.
fn value() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_filter("TOML writes others", |n| n.is_finite()).prop_map(|n| format!("{n:?}")),
        any::<bool>().prop_map(|b| b.to_string()),
        Just("inf".to_owned()),
        Just("1979-05-27T07:32:00Z".to_owned()),
        "[a-z0-9:${}. -]{0,12}".prop_map(|text| format!("{text:?}")),
        Just("\"4s\"".to_owned()),
        Just("\"8MiB\"".to_owned()),
    ];
    scalar.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(|values| format!("[{}]", values.join(", "))),
            prop::collection::btree_map("[a-z_]{1,8}", inner, 0..3).prop_map(|table| {
                let entries: Vec<_> = table.into_iter().map(|(key, value)| format!("{key} = {value}")).collect();
                format!("{{ {} }}", entries.join(", "))
            }),
        ]
    })
}

/// A file in which every key is given, with some of the values replaced.
fn revalued() -> impl Strategy<Value = String> {
    let lines = FULL.lines().count();
    prop::collection::btree_map(0..lines, value(), 1..4).prop_map(|values| {
        let line = |(number, line): (usize, &str)| match (line.split_once(" = "), values.get(&number)) {
            (Some((key, _)), Some(value)) => format!("{key} = {value}\n"),
            _ => format!("{line}\n"),
        };
        FULL.lines().enumerate().map(line).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_characters_never_panic(daemon in mutated(DAEMON), pipeline in mutated(PIPELINE)) {
        assert_told(&load(&daemon, &pipeline), &daemon, &pipeline);
    }

    #[test]
    fn changed_values_are_told_or_taken(pipeline in revalued()) {
        assert_told(&load("version = 1", &pipeline), "version = 1", &pipeline);
    }
}

#[test]
fn the_file_with_every_key_is_right() {
    assert_eq!(load("version = 1", FULL), Ok(Vec::new()));
}
