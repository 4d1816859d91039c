//! Where the library is looked for, and that a missing, broken or old one is an error and nothing worse. Each such load
//! happens in a process of its own: a process loads one library, and other tests need the real one.

use super::*;
use std::collections::HashMap;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

#[test]
fn looks_at_the_setting_then_the_variable_then_the_known_places() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "").unwrap();
        path
    };
    let (set, variable) = (file("set.so"), file("variable.so"));
    let cached = file(&format!("home/.cache/bulkhead/onnxruntime/{FILE_NAME}"));
    let beside = file(&format!("bin/{FILE_NAME}"));
    let other_cache = file(&format!("cache/onnxruntime/{FILE_NAME}"));
    let executable = beside.with_file_name("bulkhead");
    let mut variables = HashMap::from([("ORT_DYLIB_PATH", variable.clone()), ("HOME", dir.path().join("home"))]);
    let found = |setting: Option<&Path>, variables: &HashMap<&str, PathBuf>| {
        locate(setting, &|name| variables.get(name).map(|v| v.clone().into()), Some(&executable))
    };
    assert_eq!(found(Some(&set), &variables), Ok((set.clone(), "onnxruntime.library")));
    assert_eq!(found(None, &variables), Ok((variable, "ORT_DYLIB_PATH")));
    variables.insert("ORT_DYLIB_PATH", PathBuf::new());
    assert_eq!(found(None, &variables), Ok((cached, "make setup")));
    variables.insert("BULKHEAD_CACHE", dir.path().join("cache"));
    assert_eq!(found(None, &variables), Ok((other_cache, "make setup")));
    variables.clear();
    assert_eq!(found(None, &variables), Ok((beside, "its place beside the executable")));
    assert!(matches!(found(Some(&dir.path().join("gone")), &variables), Err(LibraryError::Unusable { .. })));
    let none = locate(None, &|_| None, Some(Path::new("/nowhere/bulkhead"))).unwrap_err();
    assert_eq!(
        none.to_string(),
        format!(
            "ONNX Runtime's shared library was not found (looked at /nowhere/{FILE_NAME}); run `make setup`, or set \
             `onnxruntime.library` in bulkhead.toml or ORT_DYLIB_PATH to the file, version 1.17 or later"
        )
    );
}

/// The child's side of the tests below: prints what loading comes to, twice.
#[test]
fn loading_in_a_process_of_its_own() {
    if std::env::var_os("BULKHEAD_TEST_LOAD").is_none() {
        return;
    }
    let setting = std::env::var_os("BULKHEAD_TEST_SETTING").map(PathBuf::from);
    for setting in [setting.as_deref(), None] {
        match Library::load(setting) {
            Ok(_) => println!("<loaded>"),
            Err(error) => println!("<{error}>"),
        }
    }
}

/// What a fresh process says of loading a library; it must say it soon.
fn said_of(variables: &[(&str, &Path)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "vision::onnx::tests::loading_in_a_process_of_its_own", "--nocapture"]);
    command.env("BULKHEAD_TEST_LOAD", "1").env_remove("ORT_DYLIB_PATH").envs(variables.iter().copied());
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || tell.send(command.output()));
    let output = told.recv_timeout(Duration::from_secs(60)).expect("loading hangs").unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_broken_library_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text.so");
    std::fs::write(&text, "no library").unwrap();
    for (path, reason) in [
        (dir.path().join("missing.so"), "missing.so` is no file"),
        (text, "text.so: file too short"),
        (built(dir.path(), "stranger", "int answer(void) { return 42; }"), "does not export `OrtGetApiBase`"),
        (built(dir.path(), "old", OLD), "expected version >= '1.17.x', but got '1.16.3'"),
    ] {
        let said = said_of(&[("ORT_DYLIB_PATH", &path)]);
        assert_eq!(said.matches(reason).count(), 2, "{said}");
        assert!(said.contains("(named by ORT_DYLIB_PATH); version 1.17 or later is needed>"), "{said}");
    }
}

/// What an ONNX Runtime from before the oldest one looks like to its loader.
const OLD: &str = r#"
    static const void *api(unsigned version) { (void)version; return 0; }
    static const char *version(void) { return "1.16.3"; }
    static const struct { const void *(*api)(unsigned); const char *(*version)(void); } base = { api, version };
    const void *OrtGetApiBase(void) { return &base; }
"#;

/// A shared library made of C; the C compiler is there, since librdkafka was built.
fn built(dir: &Path, name: &str, source: &str) -> PathBuf {
    let (c, library) = (dir.join(format!("{name}.c")), dir.join(format!("{name}.so")));
    std::fs::write(&c, source).unwrap();
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&c).status().unwrap();
    assert!(status.success());
    library
}

#[test]
fn a_failed_load_does_not_spoil_the_next() {
    let said = said_of(&[("BULKHEAD_TEST_SETTING", Path::new("/nowhere/lib.so"))]);
    assert!(said.contains("</nowhere") || said.contains("`/nowhere/lib.so` is no file"), "{said}");
    assert!(said.contains("<loaded>"), "ONNX Runtime is needed for the tests: run scripts/get-onnxruntime.sh. {said}");
}

#[test]
fn bytes_that_are_no_model_are_an_error() {
    let library = Library::load(None).expect("run scripts/get-onnxruntime.sh");
    let said = Session::open(&library, b"not an ONNX file", &SessionOptions::default()).err().unwrap();
    assert!(said.contains("model") || said.contains("protobuf") || said.contains("Protobuf"), "{said}");
    assert!(Session::open(&library, b"", &SessionOptions::default()).is_err());
}
