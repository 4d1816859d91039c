//! Passages are found by what a text is about, in files as they are now, within bounds.

use super::super::CallLimits;
use super::super::testing::context_in;
use super::*;
use std::fs;
use std::path::Path;
use std::time::Duration;

fn context(dir: &Path) -> StepContext<'_> {
    let call = CallLimits { run_records_max: 1, timeout: Duration::from_secs(30), emit_max: 100 };
    StepContext { call, pipeline: "chat", source: "query", data: dir, ..context_in(dir) }
}

/// Looks at its folder whenever it is asked.
fn config() -> RetrieveConfig {
    let config = r#"{ "documents": "documents", "refresh": "1ms", "top": 2 }"#;
    serde_json::from_str(config).expect("it is right")
}

fn library() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("documents/deep");
    fs::create_dir_all(&folder).expect("made");
    let cats = "# Cats\n\nCats sleep most of the day.\n\nThey hunt at night.\n";
    fs::write(dir.path().join("documents/cats.md"), cats).expect("written");
    fs::write(folder.join("ships.txt"), "Bulkheads keep a ship afloat.\n\nAnchors hold ships.\n").expect("written");
    fs::write(dir.path().join("documents/picture.bin"), "Cats cats cats").expect("written");
    dir
}

fn ask(step: &mut dyn Step, text: &str) -> Result<Value, Fault> {
    let record = Record { value: Some(json!({ "text": text }).to_string().into()), ..Record::default() };
    match step.run(&[record], None)?.remove(0) {
        Verdict::Emit(records) => Ok(document(&records[0])?["passages"].clone()),
        Verdict::Reject(fault) => Err(fault),
        Verdict::Drop(why) => panic!("dropped: {why}"),
    }
}

#[test]
fn the_passage_that_is_about_it_comes_first_with_its_source() {
    let dir = library();
    let mut step = config().factory(context(dir.path())).build().expect("indexed");
    let found = ask(&mut *step, "Which bulkhead keeps ships?").expect("found");
    assert_eq!(
        (&found[0]["source"], &found[0]["text"]),
        (&json!("deep/ships.txt"), &json!("Bulkheads keep a ship afloat."))
    );
    assert!(found[0]["score"].as_f64() > found[1]["score"].as_f64(), "{found}");
    let found = ask(&mut *step, "sleeping cat").expect("found");
    assert_eq!((&found[0]["heading"], &found[0]["text"]), (&json!("Cats"), &json!("Cats sleep most of the day.")));
    for nothing in ["", "?!", "quantum", "text:cats AND (", &"word ".repeat(10_000)] {
        let found = ask(&mut *step, nothing).expect("no error");
        let is_known = nothing.contains("cats");
        assert_eq!(found.as_array().map(Vec::is_empty), Some(!is_known), "{nothing:?}: {found}");
    }
}

#[test]
fn files_that_change_come_or_go_are_noticed() {
    let dir = library();
    let mut step = config().factory(context(dir.path())).build().expect("indexed");
    assert_eq!(ask(&mut *step, "zebra").expect("searched"), json!([]));
    fs::write(dir.path().join("documents/zebra.md"), "Zebras have stripes.").expect("written");
    assert_eq!(ask(&mut *step, "zebra").expect("searched")[0]["source"], json!("zebra.md"));
    fs::write(dir.path().join("documents/zebra.md"), "Zebras and lions.").expect("written");
    assert_eq!(ask(&mut *step, "lions").expect("searched")[0]["text"], json!("Zebras and lions."));
    fs::remove_file(dir.path().join("documents/zebra.md")).expect("removed");
    assert_eq!(ask(&mut *step, "zebra").expect("searched"), json!([]));
}

#[test]
fn a_folder_past_its_bounds_is_the_worlds_fault_until_it_is_mended() {
    let dir = library();
    let small = RetrieveConfig { files_max: 1, ..config() };
    let mut step = small.factory(context(dir.path())).build().expect("nothing is read yet");
    let fault = ask(&mut *step, "cats").expect_err("too many");
    assert_eq!((fault.class, &*fault.code), (FaultClass::Transient, "documents_too_many"));
    let mut step = config().factory(context(dir.path())).build().expect("indexed");
    fs::remove_dir_all(dir.path().join("documents")).expect("removed");
    assert_eq!(ask(&mut *step, "cats").expect_err("gone").code, "documents_unreadable");
}

#[test]
fn a_link_leads_nowhere() {
    let dir = library();
    fs::write(dir.path().join("secret.md"), "Zebras are secret.").expect("written");
    std::os::unix::fs::symlink(dir.path().join("secret.md"), dir.path().join("documents/link.md")).expect("linked");
    let mut step = config().factory(context(dir.path())).build().expect("indexed");
    assert_eq!(ask(&mut *step, "zebra").expect("searched"), json!([]));
}

#[test]
fn what_is_wrong_with_a_config_is_told() {
    let dir = library();
    let wrong = RetrieveConfig {
        documents: "nowhere".into(),
        top: 0,
        bytes_max: Size(0),
        refresh: Period::secs(0),
        ..config()
    };
    let problems = wrong.check(context(dir.path())).join("\n");
    for part in ["there is no folder", "top: 0; 1 to 100", "bytes_max", "refresh"] {
        assert!(problems.contains(part), "{part}: {problems}");
    }
    let outside = RetrieveConfig { documents: "../elsewhere".into(), ..config() };
    assert!(outside.check(context(dir.path()))[0].contains("without `..`"));
    assert_eq!(config().check(context(dir.path())), Vec::<String>::new());
}
