//! Holds the rules of the source tree: arrows between crates, who may name which library, lengths, openers, calls that
//! are banned. Reads files and never builds or runs anything.

use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
/// rustfmt holds 120 columns for code; it leaves comments alone.
const WIDTH_MAX: usize = 150;

/// A Rust file: its path from the root, its text, and its text with comments and literals blanked out.
struct Source {
    path: String,
    text: String,
    code: String,
}

/// Which libraries are named where, as path prefixes; nowhere else, and tests and benchmarks are free.
const HOMES: &[(&str, &[&str])] = &[
    ("rdkafka", &["actors/src/io/kafka"]),
    ("fjall", &["actors/src/io/embedded"]),
    ("sled", &["actors/src/io/"]),
    ("ort", &["src/vision/onnx"]),
    ("image", &["src/vision/decode/", "src/vision/encode"]),
    ("jaq_core", &["src/expression/"]),
    ("jaq_json", &["src/expression/"]),
    ("jaq_std", &["src/expression/"]),
    ("fast_image_resize", &["src/vision/resample"]),
    ("rustix", &["actors/src/worker/", "src/worker"]),
    ("actix", &["actors/src/supervisor", "actors/src/shell", "actors/src/pipeline"]),
    ("actix_web", &["src/gateway", "src/admin", "src/dashboard"]),
    ("actix_multipart", &["src/gateway"]),
    ("actix_ws", &["src/gateway"]),
    // The step of this name is a module of its own: `redis::NAME` in its list.
    ("redis", &["src/steps/redis", "src/steps/session_store", "src/steps/mod"]),
    ("rustrict", &["src/steps/profanity"]),
    ("tantivy", &["src/steps/retrieve"]),
];

/// Which crates a folder's code must not name: every arrow runs `src → actors → core`.
const ARROWS: &[(&str, &[&str])] = &[
    ("core/", &["bulkhead", "bulkhead_actors", "bulkhead_testkit"]),
    ("actors/", &["bulkhead"]),
    ("tests/support/", &["bulkhead", "bulkhead_actors"]),
    ("benches/limits/", &["bulkhead", "bulkhead_actors", "bulkhead_core", "bulkhead_testkit"]),
];

/// The same for manifests, dev-dependencies included.
const MANIFESTS: &[(&str, &[&str])] = &[
    ("core/Cargo.toml", &["bulkhead", "bulkhead-actors", "bulkhead-testkit", "rand", "tokio", "rdkafka", "actix"]),
    ("actors/Cargo.toml", &["bulkhead", "ort", "image", "actix-web"]),
    ("tests/support/Cargo.toml", &["bulkhead", "bulkhead-actors"]),
    ("benches/limits/Cargo.toml", &["bulkhead", "bulkhead-actors", "bulkhead-core", "bulkhead-testkit"]),
];

/// What core must not touch: I/O, clocks, threads, randomness.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::thread",
    "std::process",
    "std::env",
    "std::io",
    "Instant::",
    "SystemTime",
    "tokio::",
    "rand::",
    "println!",
    "eprintln!",
];

/// Calls that are banned, where they are allowed all the same, and why they are banned.
const BANNED: &[(&str, &[&str], &str)] = &[
    (".do_send(", &[], "it ignores the mailbox's capacity"),
    ("SyncArbiter", &[], "it never replaces a worker that panicked"),
    ("todo!", &[], "say what is missing in an issue"),
    ("unimplemented!", &[], "say what is missing in an issue"),
    ("#[ignore", &[], "a test that does not run proves nothing"),
    ("dbg!", &[], "log it or leave it"),
    (
        "thread::sleep",
        // The one place that waits for another process; the step that hangs on purpose; what librdkafka has no event
        // for.
        &["tests/support/", "src/steps/chaos.rs", "actors/src/io/kafka/"],
        "wait for the event itself",
    ),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of the tree can be read").flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && !["target", "data", "node_modules"].contains(&name.as_str()) {
                walk(&path, found);
            }
        } else {
            found.push(path);
        }
    }
}

fn files(ending: &str) -> Vec<(String, String)> {
    let mut paths = Vec::new();
    walk(root(), &mut paths);
    let named = |path: PathBuf| {
        let name = path.strip_prefix(root()).expect("it was found below the root").to_string_lossy().into_owned();
        name.ends_with(ending).then(|| (name, fs::read_to_string(path).expect("sources are UTF-8")))
    };
    let mut files: Vec<_> = paths.into_iter().filter_map(named).collect();
    files.sort();
    files
}

fn sources() -> Vec<Source> {
    let sources: Vec<_> = files(".rs").into_iter().map(|(path, text)| source(&path, &text)).collect();
    assert!(sources.iter().any(|s| s.path == "tests/tidy.rs"), "the walk finds this file");
    sources
}

fn source(path: &str, text: &str) -> Source {
    Source { path: path.into(), text: text.into(), code: blank(text) }
}

/// The text with comments, strings and character literals replaced by spaces; lines stay where they are.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = skip(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
        } else {
            out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

/// Where the comment or literal that begins at `at` ends; `at` itself where none begins.
fn skip(chars: &[char], at: usize) -> usize {
    let rest = &chars[at..];
    let until = |from: usize, stop: &[char]| {
        let found = (from..rest.len()).find(|i| rest[*i..].starts_with(stop));
        at + found.map_or(rest.len(), |i| i + stop.len())
    };
    let word_before = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match rest {
        ['/', '/', ..] => at + rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
        ['/', '*', ..] => until(2, &['*', '/']),
        ['"', ..] => {
            let mut i = 1;
            while i < rest.len() && rest[i] != '"' {
                i += if rest[i] == '\\' { 2 } else { 1 };
            }
            (at + i + 1).min(chars.len())
        }
        ['r', '"' | '#', ..] if !word_before || chars[at - 1] == 'b' => {
            let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
            if rest.get(1 + hashes) != Some(&'"') {
                return at;
            }
            let stop: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
            until(2 + hashes, &stop)
        }
        // A character, not a lifetime.
        ['\'', '\\', ..] => until(3, &['\'']),
        ['\'', _, '\'', ..] => at + 3,
        _ => at,
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Lines (from 1) on which code names a crate by a path that begins with it.
fn names(code: &str, krate: &str) -> Vec<usize> {
    let names = |line: &str| {
        line.match_indices(krate).any(|(at, _)| {
            let (before, after) = (&line[..at], &line[at + krate.len()..]);
            let starts = !before.ends_with(is_word) && !before.ends_with("::") && !before.ends_with('.');
            let used = before.trim_end().ends_with("use") && (after.starts_with(';') || after.starts_with(" as "));
            starts && (after.starts_with("::") || used)
        })
    };
    code.lines().enumerate().filter(|(_, line)| names(line)).map(|(n, _)| n + 1).collect()
}

/// Whether a file is a test or a benchmark: those may reach past the walls of what they test.
fn is_test(path: &str) -> bool {
    path.contains("tests/") || path.contains("benches/") || path.ends_with("_tests.rs")
}

fn starts_with_any(path: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| path.starts_with(prefix))
}

fn check(what: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{what}:\n  {}", findings.join("\n  "));
}

fn misplaced_names(sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    for Source { path, code, .. } in sources {
        for (krate, homes) in HOMES.iter().filter(|(_, homes)| !is_test(path) && !starts_with_any(path, homes)) {
            let lines = names(code, krate).into_iter();
            findings.extend(lines.map(|line| format!("{path}:{line}: `{krate}` is named only in {homes:?}")));
        }
        for (folder, crates) in ARROWS.iter().filter(|(folder, _)| path.starts_with(folder)) {
            for krate in *crates {
                let lines = names(code, krate).into_iter();
                findings.extend(lines.map(|line| format!("{path}:{line}: {folder} must not know `{krate}`")));
            }
        }
    }
    findings
}

fn impure(sources: &[Source]) -> Vec<String> {
    let core = sources.iter().filter(|s| s.path.starts_with("core/src/") && !is_test(&s.path));
    let found = core.flat_map(|s| {
        let lines = s.code.lines().enumerate();
        lines.filter_map(|(n, line)| {
            let word = IMPURE.iter().find(|word| line.contains(**word))?;
            Some(format!("{}:{}: core has no I/O, clock, thread or randomness: `{word}`", s.path, n + 1))
        })
    });
    found.collect()
}

fn banned(sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    for Source { path, code, .. } in sources {
        for (call, _, why) in BANNED.iter().filter(|(_, homes, _)| !starts_with_any(path, homes)) {
            let lines = code.lines().enumerate().filter(|(_, line)| line.contains(call));
            findings.extend(lines.map(|(n, _)| format!("{path}:{}: `{call}`: {why}", n + 1)));
        }
    }
    findings
}

/// The functions of a file: their names, first lines and lengths in lines, signature to closing brace.
fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let (mut found, mut open) = (Vec::new(), Vec::<(String, usize, i32)>::new());
    let (mut waiting, mut depth, mut parens) = (None, 0, 0);
    for (n, line) in code.lines().enumerate() {
        let mut words = line.match_indices("fn ").filter(|(at, _)| !line[..*at].ends_with(is_word)).peekable();
        for (at, c) in line.char_indices() {
            if let Some((start, _)) = words.next_if(|(start, _)| *start == at) {
                let name: String = line[start + 3..].chars().take_while(|c| is_word(*c)).collect();
                // `fn(u8) -> u8` is a type.
                waiting = (!name.is_empty()).then_some((name, n + 1)).or(waiting);
            }
            match c {
                '(' | '[' => parens += 1,
                ')' | ']' => parens -= 1,
                ';' if parens == 0 => waiting = None,
                '{' => {
                    depth += 1;
                    if parens == 0
                        && let Some((name, line)) = waiting.take()
                    {
                        open.push((name, line, depth));
                    }
                }
                '}' => {
                    if open.last().is_some_and(|(_, _, at)| *at == depth) {
                        let (name, line, _) = open.pop().expect("it was just looked at");
                        found.push((name, line, n + 2 - line));
                    }
                    depth -= 1;
                }
                _ => {}
            }
        }
    }
    found
}

fn too_long(sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    for Source { path, text, code } in sources {
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            findings.push(format!("{path}: {lines} lines, at most {FILE_LINES_MAX}"));
        }
        for (name, line, length) in functions(code).into_iter().filter(|(_, _, length)| *length > FUNCTION_LINES_MAX) {
            findings.push(format!("{path}:{line}: `{name}` has {length} lines, at most {FUNCTION_LINES_MAX}"));
        }
        let wide = text.lines().enumerate().filter(|(_, line)| line.chars().count() > WIDTH_MAX);
        findings.extend(wide.map(|(n, _)| format!("{path}:{}: wider than {WIDTH_MAX}", n + 1)));
    }
    findings
}

/// Section headers and the lines below each.
fn sections(toml: &str) -> Vec<(&str, Vec<&str>)> {
    let mut sections = vec![("", Vec::new())];
    for line in toml.lines().map(str::trim) {
        match line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            Some(name) => sections.push((name, Vec::new())),
            None => sections.last_mut().expect("there is a first section").1.push(line),
        }
    }
    sections
}

fn manifest_faults(path: &str, toml: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for (name, lines) in sections(toml) {
        let forbidden = MANIFESTS.iter().filter(|(manifest, _)| *manifest == path).flat_map(|(_, crates)| *crates);
        if name.ends_with("dependencies") {
            let named = |krate: &&&str| lines.iter().any(|l| l.split(['.', ' ', '=']).next() == Some(krate));
            findings.extend(forbidden.filter(named).map(|krate| format!("{path}: [{name}] must not have {krate}")));
        }
        if let Some(profile) = name.strip_prefix("profile.") {
            if path != "Cargo.toml" {
                findings.push(format!("{path}: profiles belong to the workspace"));
            }
            // Cargo always unwinds in these two and warns of the setting; it refuses it for a single package.
            let fixed = profile == "test" || profile == "bench" || profile.contains(".package.");
            if !fixed && !lines.contains(&"panic = \"unwind\"") {
                findings.push(format!("{path}: [{name}] needs panic = \"unwind\": supervision restarts what panicked"));
            }
        }
    }
    let inherits = sections(toml).iter().any(|(name, lines)| *name == "lints" && lines.contains(&"workspace = true"));
    if !inherits {
        findings.push(format!("{path}: needs [lints] workspace = true"));
    }
    findings
}

#[test]
fn libraries_and_crates_are_named_only_where_they_belong() {
    check("arrows and adapters", &misplaced_names(&sources()));
}

#[test]
fn core_is_pure() {
    check("core", &impure(&sources()));
}

#[test]
fn banned_calls_are_not_made() {
    check("banned calls", &banned(&sources()));
}

#[test]
fn files_functions_and_lines_are_short() {
    check("lengths", &too_long(&sources()));
}

#[test]
fn every_file_says_what_it_is() {
    let silent = sources().into_iter().filter(|s| !s.text.starts_with("//! ")).map(|s| s.path);
    check("files that do not open with `//!`", &silent.collect::<Vec<_>>());
}

#[test]
fn nothing_is_left_for_later() {
    // Written apart, so that this file does not find itself.
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
    let mut findings = Vec::new();
    for (path, text) in [".rs", ".toml", ".sh", ".py", "Makefile"].into_iter().flat_map(files) {
        let lines = text.lines().enumerate().filter(|(_, line)| words.iter().any(|word| line.contains(word)));
        findings.extend(lines.map(|(n, line)| format!("{path}:{}: {}", n + 1, line.trim())));
    }
    check("left for later", &findings);
}

#[test]
fn manifests_keep_the_arrows_and_every_profile_unwinds() {
    let manifests: Vec<_> = files("Cargo.toml");
    let findings: Vec<_> = manifests.iter().flat_map(|(path, toml)| manifest_faults(path, toml)).collect();
    check("manifests", &findings);
    let root = &manifests.iter().find(|(path, _)| path == "Cargo.toml").expect("the workspace has a manifest").1;
    for profile in ["profile.dev", "profile.release"] {
        assert!(sections(root).iter().any(|(name, _)| *name == profile), "Cargo.toml: no [{profile}]");
    }
}

#[test]
fn the_rules_have_teeth() {
    let bad = |path: &str, text: &str| [source(path, text)];
    assert_eq!(misplaced_names(&bad("src/steps/a.rs", "use rdkafka::x;\nlet a = sled::open();")).len(), 2);
    assert_eq!(misplaced_names(&bad("core/src/a.rs", "use bulkhead_actors::x;")).len(), 1);
    assert_eq!(
        misplaced_names(&bad("src/a.rs", "// rdkafka::x\nlet a = \"image::x\"; crate::image::y(); my_sled::z();"))
            .len(),
        0
    );
    assert_eq!(impure(&bad("core/src/a.rs", "let now = Instant::now();")).len(), 1);
    assert_eq!(banned(&bad("src/a.rs", "a.do_send(b);\nstd::thread::sleep(c);\n// todo!()")).len(), 2);
    let long =
        format!("fn a(\n    b: [u8; 2],\n) {{\n{}}}\nfn b() {{}}\n", "    c({ 1 });\n".repeat(FUNCTION_LINES_MAX));
    assert_eq!(
        functions(&blank(&long)),
        [("a".into(), 1, FUNCTION_LINES_MAX + 4), ("b".into(), FUNCTION_LINES_MAX + 5, 1)]
    );
    assert_eq!(too_long(&bad("a.rs", &long)).len(), 1);
    assert_eq!(blank("a('\"', 'b, \"//\", r#\"x\"y\"#) // c\nd"), "a(   , 'b,     ,         )     \nd");
    let manifest = "[dev-dependencies]\nbulkhead-actors.workspace = true\n[profile.x]\nopt-level = 1\n";
    assert_eq!(manifest_faults("core/Cargo.toml", manifest).len(), 4);
}
