//! ONNX Runtime, and the only place that names `ort`: finds and loads the shared library, opens a graph, runs it.
//!
//! Never panics or hangs where the library is missing or too old: it is loaded by path before anything else of `ort` is
//! touched, because `ort` by itself looks for it late and panics. Never shares a session: `run` takes `&mut`.

use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::session::Session as OrtSession;
use ort::session::builder::SessionBuilder;
use ort::value::{Outlet, TensorElementType, TensorRef, ValueType};
use parking_lot::Mutex;
use std::error::Error;
use std::ffi::OsString;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The library's name beside the executable and in the cache.
const FILE_NAME: &str = if cfg!(target_os = "macos") { "libonnxruntime.dylib" } else { "libonnxruntime.so" };

/// Why there is no ONNX Runtime.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LibraryError {
    /// It is in none of the places.
    #[error(
        "ONNX Runtime's shared library was not found (looked at {}); run `make setup`, or set `onnxruntime.library` in bulkhead.toml \
         or ORT_DYLIB_PATH to the file, version 1.{} or later",
        list(.0), ort::MINOR_VERSION
    )]
    NotFound(Vec<PathBuf>),
    /// It is there and cannot be used.
    #[error(
        "ONNX Runtime's shared library cannot be used: {reason} (named by {named_by}); version 1.{} or later is needed",
        ort::MINOR_VERSION
    )]
    Unusable {
        /// Where its path came from.
        named_by: &'static str,
        /// What the loader said; it names the file.
        reason: String,
    },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The loaded library. A process loads one, and keeps it.
#[derive(Clone)]
pub struct Library {
    environment: Environment,
}

static LOADED: Mutex<Option<Library>> = Mutex::new(None);

impl Library {
    /// The library, loaded by the first call: from `setting`, else `ORT_DYLIB_PATH`, else from where `make setup` puts it,
    /// else from beside the executable. A path that is set and wrong is an error; nothing is tried in its place.
    ///
    /// # Errors
    /// There is none, or it cannot be used. It may be tried again.
    pub fn load(setting: Option<&Path>) -> Result<Self, LibraryError> {
        let mut loaded = LOADED.lock();
        if let Some(library) = loaded.as_ref() {
            return Ok(library.clone());
        }
        let executable = std::env::current_exe().ok();
        let (path, named_by) = locate(setting, &|name| std::env::var_os(name), executable.as_deref())?;
        let unusable = |reason| LibraryError::Unusable { named_by, reason };
        let environment = catch_unwind(|| initialise(&path))
            .unwrap_or_else(|_| Err(format!("`{}` made its loader panic", path.display())))
            .map_err(unusable)?;
        tracing::info!(path = %path.display(), named_by, "loaded ONNX Runtime");
        Ok(loaded.insert(Self { environment }).clone())
    }
}

fn initialise(path: &Path) -> Result<Environment, String> {
    let built = ort::init_from(path)
        .map_err(|e| load_reason(&e))?
        .with_name("bulkhead")
        .with_telemetry(false)
        .with_logger(Arc::new(log))
        .build()
        .map_err(|e| e.to_string())?;
    built.set_log_level(LogLevel::Warning); // a custom logger is otherwise called for every node that runs
    Ok(built)
}

/// What the loader said, with what the operating system said.
fn load_reason(error: &ort::LoadDynamicError) -> String {
    let system = match error {
        ort::LoadDynamicError::Dlopen { error, .. } => error.source().map(|s| format!(" ({s})")),
        _ => None,
    };
    format!("{error}{}", system.unwrap_or_default())
}

fn log(level: LogLevel, _category: &str, _id: &str, location: &str, message: &str) {
    match level {
        LogLevel::Verbose | LogLevel::Info => tracing::debug!(location, "onnxruntime: {message}"),
        LogLevel::Warning => tracing::warn!(location, "onnxruntime: {message}"),
        LogLevel::Error | LogLevel::Fatal => tracing::error!(location, "onnxruntime: {message}"),
    }
}

/// Which file is the library, and what named it.
fn locate(
    setting: Option<&Path>,
    variable: &dyn Fn(&str) -> Option<OsString>,
    executable: Option<&Path>,
) -> Result<(PathBuf, &'static str), LibraryError> {
    let set = |name: &str| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let named = match (setting, set("ORT_DYLIB_PATH")) {
        (Some(path), _) => Some((path.to_owned(), "onnxruntime.library")),
        (None, Some(path)) => Some((path, "ORT_DYLIB_PATH")),
        (None, None) => None,
    };
    if let Some((path, named_by)) = named {
        let unusable = |reason| LibraryError::Unusable { named_by, reason };
        let absolute = std::path::absolute(&path).map_err(|e| unusable(format!("`{}`: {e}", path.display())))?;
        if !absolute.is_file() {
            return Err(unusable(format!("`{}` is no file", absolute.display())));
        }
        return Ok((absolute, named_by));
    }
    let cache = set("BULKHEAD_CACHE").or_else(|| set("HOME").map(|home| home.join(".cache/bulkhead")));
    let places = [
        (cache.map(|c| c.join("onnxruntime").join(FILE_NAME)), "make setup"),
        (executable.and_then(Path::parent).map(|d| d.join(FILE_NAME)), "its place beside the executable"),
    ];
    let known: Vec<(PathBuf, &str)> = places.into_iter().filter_map(|(p, by)| Some((p?, by))).collect();
    let found = known.iter().find(|(path, _)| path.is_file()).cloned();
    found.ok_or_else(|| LibraryError::NotFound(known.into_iter().map(|(path, _)| path).collect()))
}

/// What a graph takes and gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Its inputs.
    pub inputs: Vec<Tensor>,
    /// Its outputs.
    pub outputs: Vec<Tensor>,
}

/// One input or output of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name in the graph.
    pub name: String,
    /// Whether it holds 32-bit floats.
    pub is_f32: bool,
    /// What it holds, for messages.
    pub kind: String,
    /// Its dimensions; empty for what is no tensor.
    pub shape: Vec<Dimension>,
}

/// A dimension of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dimension {
    /// Always this.
    Fixed(usize),
    /// Given by each run.
    Free,
}

impl Dimension {
    /// Whether a run may have this size here.
    #[must_use]
    pub fn takes(self, size: usize) -> bool {
        self.size().is_none_or(|s| s == size)
    }

    /// Its size, where it is fixed.
    #[must_use]
    pub fn size(self) -> Option<usize> {
        match self {
            Self::Fixed(size) => Some(size),
            Self::Free => None,
        }
    }

    /// As people write a shape: `[?, 1, 28, 28]`.
    #[must_use]
    pub fn list(shape: &[Self]) -> String {
        let one = |d: &Self| d.size().map_or("?".to_owned(), |s| s.to_string());
        format!("[{}]", shape.iter().map(one).collect::<Vec<_>>().join(", "))
    }
}

/// A graph, loaded and ready to run, by one worker at a time.
pub struct Session {
    session: OrtSession,
    signature: Signature,
}

impl Session {
    /// Opens a graph. `threads` is how many work on one run; they do not spin while they wait, since every worker of
    /// every stage has some.
    ///
    /// # Errors
    /// What ONNX Runtime has against the bytes.
    pub fn open(library: &Library, model: &[u8], threads: usize) -> Result<Self, String> {
        let session =
            configured(library, threads).and_then(|mut b| b.commit_from_memory(model)).map_err(|e| e.to_string())?;
        let signature = Signature {
            inputs: session.inputs().iter().map(tensor).collect(),
            outputs: session.outputs().iter().map(tensor).collect(),
        };
        Ok(Self { session, signature })
    }

    /// What the graph takes and gives.
    #[must_use]
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Runs the graph on its one input and gives the values of the output with this index.
    ///
    /// # Errors
    /// What ONNX Runtime says of this run.
    pub fn run(&mut self, shape: &[usize], values: &[f32], output: usize) -> Result<Vec<f32>, String> {
        let mut run = || -> ort::Result<Vec<f32>> {
            let input = TensorRef::from_array_view((shape, values))?;
            let outputs = self.session.run(ort::inputs![input])?;
            Ok(outputs[output].try_extract_tensor::<f32>()?.1.to_vec())
        };
        run().map_err(|e| e.to_string())
    }
}

fn configured(library: &Library, threads: usize) -> ort::Result<SessionBuilder> {
    let builder = OrtSession::builder(&library.environment)?
        .with_log_level(LogLevel::Warning)?
        .with_intra_threads(threads)?
        .with_inter_threads(1)?
        .with_intra_op_spinning(false)?
        .with_inter_op_spinning(false)?;
    Ok(builder)
}

fn tensor(outlet: &Outlet) -> Tensor {
    let dimension = |&d: &i64| usize::try_from(d).map_or(Dimension::Free, Dimension::Fixed);
    let (is_f32, kind, shape) = match outlet.dtype() {
        ValueType::Tensor { ty, shape, .. } => {
            (*ty == TensorElementType::Float32, format!("a tensor of {ty}"), shape.iter().map(dimension).collect())
        }
        other => (false, format!("no tensor ({other:?})"), Vec::new()),
    };
    Tensor { name: outlet.name().to_owned(), is_f32, kind, shape }
}

#[cfg(test)]
#[path = "onnx_tests.rs"]
mod tests;
