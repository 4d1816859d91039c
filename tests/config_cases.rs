//! `bulkhead test`: a folder in `tests/golden_cases/` is a config with cases, `expected.txt` in it what is printed of them.
//! After a change that is meant: `BLESS=1 cargo test --test config_cases`, and read the diff. The shipped cases pass.

use std::path::Path;
use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn test(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
    command.current_dir(dir).arg("test").args(arguments).output().expect("the binary runs")
}

fn told(output: Output) -> String {
    let text = |bytes| String::from_utf8(bytes).expect("it prints text");
    let code = output.status.code().expect("it exits");
    format!("{}{}exit code {code}\n", text(output.stderr), text(output.stdout))
}

#[test]
fn what_came_out_is_told_as_it_was_agreed() {
    let folder = Path::new(ROOT).join("tests/golden_cases");
    let bless = std::env::var_os("BLESS").is_some();
    let mut different = Vec::new();
    for name in ["right", "different", "wrong"] {
        let told = told(test(&folder, &["--config", name]));
        let file = folder.join(name).join("expected.txt");
        if bless {
            std::fs::write(&file, told).expect("it can be written");
        } else if std::fs::read_to_string(&file).unwrap_or_default() != told {
            different.push(format!("{}:\n{told}", file.display()));
        }
    }
    assert!(different.is_empty(), "not as expected (BLESS=1 accepts it):\n{}", different.join("\n"));
}

#[test]
fn a_filter_chooses_by_name_and_by_file() {
    let folder = Path::new(ROOT).join("tests/golden_cases");
    let cases = |filter: &str| told(test(&folder, &["--config", "right", filter]));
    assert!(cases("keyed by its customer").contains("1 case, all as expected\nexit code 0"));
    assert!(cases("tests/orders.toml").contains("10 cases, all as expected\nexit code 0"));
    let none = cases("no such case");
    assert!(
        none.contains("no case: they lie in right/tests/*.toml\nexit code 4"),
        "nothing run is nothing shown: {none}"
    );
}

#[test]
fn the_shipped_cases_pass() {
    let told = told(test(Path::new(ROOT), &["--config", "config"]));
    assert!(told.ends_with("all as expected\nexit code 0\n"), "make setup fetches what it needs:\n{told}");
}
