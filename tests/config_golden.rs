//! Every class of config mistake, and what is said of it: a folder in `tests/golden/` is a config, `expected.txt` in it what
//! `bulkhead check` prints. After a change that is meant: `BLESS=1 cargo test --test config_golden`, and read the diff.

use std::path::{Path, PathBuf};
use std::process::Command;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
/// What the configs' variables are. `HOME` and the two others tell where ONNX Runtime is.
const VARIABLES: &[(&str, &str)] = &[("GREETING", "a b"), ("EMPTY", ""), ("TOKEN", "0123456789abcdef")];
const PASSED_ON: &[&str] = &["HOME", "BULKHEAD_CACHE", "ORT_DYLIB_PATH"];

fn cases() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(GOLDEN).expect("tests/golden is there");
    let mut cases: Vec<_> = entries.map(|entry| entry.expect("it can be read").path()).collect();
    cases.sort();
    cases
}

/// What the check of a case prints, and its exit code.
fn told(case: &Path) -> String {
    let name = case.file_name().expect("a folder has a name");
    let arguments = std::fs::read_to_string(case.join("args.txt")).unwrap_or_default();
    let output = Command::new(env!("CARGO_BIN_EXE_bulkhead"))
        .current_dir(GOLDEN)
        .env_clear()
        .envs(VARIABLES.iter().copied())
        .envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .args(["check", "--config"])
        .arg(name)
        .args(arguments.lines())
        .output()
        .expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("it prints text");
    let code = output.status.code().expect("it exits");
    format!("{}{}exit code {code}\n", text(output.stderr), text(output.stdout))
}

#[test]
fn every_mistake_is_told_as_it_was_agreed() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut different = Vec::new();
    for case in cases() {
        let told = told(&case);
        let file = case.join("expected.txt");
        if bless {
            std::fs::write(&file, told).expect("it can be written");
        } else if std::fs::read_to_string(&file).unwrap_or_default() != told {
            different.push(format!("{}:\n{told}", file.display()));
        }
    }
    assert!(different.is_empty(), "not as expected (BLESS=1 accepts it):\n{}", different.join("\n"));
}

#[test]
fn no_secret_is_ever_printed() {
    for case in cases() {
        assert!(!told(&case).contains("hunter2"), "{}", case.display());
    }
}
