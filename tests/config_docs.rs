//! What is generated from the config types is not stale, and what is shipped is a config.

use bulkhead::config::{reference, schema};
use std::path::Path;

fn kept(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap_or_default()
}

#[test]
fn the_schema_is_what_the_types_say() {
    let command = "cargo run --bin bulkhead -- schema > config/schema.json";
    assert!(kept("config/schema.json") == schema::text(&schema::both()), "config/schema.json is stale: {command}");
}

#[test]
fn the_reference_page_is_what_the_types_say() {
    let command = "cargo run --bin bulkhead -- schema --reference > docs/config.md";
    assert!(kept("docs/config.md") == reference::markdown(), "docs/config.md is stale: {command}");
}

#[test]
fn every_key_is_documented() {
    let schema = schema::both();
    let mut undocumented = Vec::new();
    let definitions = schema["$defs"].as_object().expect("there are definitions");
    let files = schema["oneOf"].as_array().expect("there are two files");
    for (name, table) in
        definitions.iter().map(|(name, table)| (name.as_str(), table)).chain(files.iter().map(|f| ("file", f)))
    {
        let Some(keys) = table["properties"].as_object() else { continue };
        let bare = keys.iter().filter(|(_, key)| key["description"].as_str().is_none_or(str::is_empty));
        undocumented.extend(bare.map(|(key, _)| format!("{name}.{key}")));
    }
    assert!(undocumented.is_empty(), "no description: {undocumented:?}");
}

#[test]
fn the_shipped_config_has_no_problem() {
    let check = std::process::Command::new(env!("CARGO_BIN_EXE_bulkhead"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["check", "--config", "config"])
        .output()
        .expect("the binary runs");
    let told = String::from_utf8_lossy(&check.stderr);
    assert!(check.status.success() && told.is_empty(), "make setup fetches what it needs:\n{told}");
}
