//! ONNX Runtime, and the only place that names `ort`: finds and loads the shared library, opens a graph, runs it.
//!
//! Never lets a run take longer than it may. Never panics or hangs where the library is missing or too old: it is
//! loaded by path before anything else of `ort` is touched, because `ort` by itself looks for it late and panics.
//! Never shares a session: `run` takes `&mut`.

use super::watchdog::Watchdog;
use ort::environment::Environment;
use ort::ep;
use ort::logging::LogLevel;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{RunOptions, Session as OrtSession};
use ort::value::{DynValue, Outlet, TensorElementType, TensorRef, ValueType};
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::ffi::OsString;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

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

/// What runs a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    /// The processor's cores.
    Cpu,
    /// An NVIDIA GPU; needs a library of ONNX Runtime that was built for it.
    Cuda,
}

impl Provider {
    /// Its name in config and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

/// How far a graph is optimised while it is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GraphLevel {
    /// Not at all.
    Disable,
    /// Redundant nodes are removed, constants folded.
    Basic,
    /// Nodes are fused, too.
    Extended,
    /// The layout of data is changed, too, for this processor.
    #[default]
    All,
}

/// How a session is opened.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Threads that work on one run, at least 1.
    pub threads: usize,
    /// Whether they burn time while they wait for one another, which takes it from other workers.
    pub spinning: bool,
    /// How far the graph is optimised.
    pub graph: GraphLevel,
    /// The first of these that can be had runs the graph.
    pub providers: Vec<Provider>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { threads: 1, spinning: false, graph: GraphLevel::default(), providers: vec![Provider::Cpu] }
    }
}

/// Why a run gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    /// It took too long and was ended.
    #[error("it took too long and was ended")]
    Ended,
    /// What ONNX Runtime says of it.
    #[error("{0}")]
    Failed(String),
}

/// A graph, loaded and ready to run, by one worker at a time.
pub struct Session {
    session: OrtSession,
    provider: Provider,
    signature: Signature,
    run_options: Arc<RunOptions>,
    watchdog: Watchdog,
}

impl Session {
    /// Opens a graph with the first provider that can be had; a warning tells of each that cannot.
    ///
    /// # Errors
    /// What ONNX Runtime has against the bytes, or against each of the providers.
    pub fn open(library: &Library, model: &[u8], options: &SessionOptions) -> Result<Self, String> {
        let mut problems = Vec::new();
        for (index, provider) in options.providers.iter().copied().enumerate() {
            match Self::with_provider(library, model, options, provider) {
                Ok(session) => return Ok(session),
                Err(why) => {
                    if let Some(next) = options.providers.get(index + 1) {
                        let (provider, next) = (provider.as_str(), next.as_str());
                        tracing::warn!(provider, next, why, "execution provider not available, the next one is tried");
                    }
                    problems.push(format!("{}: {why}", provider.as_str()));
                }
            }
        }
        if let [problem] = &problems[..]
            && options.providers == [Provider::Cpu]
        {
            return Err(problem.trim_start_matches("cpu: ").to_owned());
        }
        Err(problems.join("; "))
    }

    fn with_provider(
        library: &Library,
        model: &[u8],
        options: &SessionOptions,
        provider: Provider,
    ) -> Result<Self, String> {
        let session = configured(library, options, provider)
            .and_then(|mut builder| builder.commit_from_memory(model))
            .map_err(|e| e.to_string())?;
        let signature = Signature {
            inputs: session.inputs().iter().map(tensor).collect(),
            outputs: session.outputs().iter().map(tensor).collect(),
        };
        let run_options = Arc::new(RunOptions::new().map_err(|e| e.to_string())?);
        let ended = Arc::clone(&run_options);
        let watchdog = Watchdog::start(move || {
            if let Err(error) = ended.terminate() {
                tracing::error!(%error, "a run that takes too long cannot be ended");
            }
        });
        let watchdog = watchdog.map_err(|e| format!("no thread to watch its runs: {e}"))?;
        Ok(Self { session, provider, signature, run_options, watchdog })
    }

    /// What the graph takes and gives.
    #[must_use]
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// What runs it.
    #[must_use]
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// Runs the graph on its one input and gives the outputs with these indices, integers as floats. A run that takes longer
    /// than `limit` is ended.
    ///
    /// # Errors
    /// As [`Session::run`]; also an output that holds neither floats nor integers.
    pub fn run_outputs(
        &mut self,
        shape: &[usize],
        values: &[f32],
        wanted: &[usize],
        limit: Duration,
    ) -> Result<Vec<Output>, Halt> {
        let (session, options) = (&mut self.session, &*self.run_options);
        let mut run = || -> ort::Result<Vec<Output>> {
            let input = TensorRef::from_array_view((shape, values))?;
            let outputs = session.run_with_options(ort::inputs![input], options)?;
            wanted.iter().map(|index| extract(&outputs[*index])).collect()
        };
        options.unterminate().map_err(|e| Halt::Failed(e.to_string()))?;
        self.watchdog.arm(Instant::now() + limit);
        let ran = run();
        let ended = self.watchdog.disarm();
        ran.map_err(|error| if ended { Halt::Ended } else { Halt::Failed(error.to_string()) })
    }

    /// Runs the graph on its one input and gives the values of the output with this index. A run that takes longer than
    /// `limit` is ended: at its next node, as ONNX Runtime looks whether to go on between nodes.
    ///
    /// # Errors
    /// What ONNX Runtime says of this run.
    pub fn run(&mut self, shape: &[usize], values: &[f32], output: usize, limit: Duration) -> Result<Vec<f32>, Halt> {
        let (session, options) = (&mut self.session, &*self.run_options);
        let mut run = || -> ort::Result<Vec<f32>> {
            let input = TensorRef::from_array_view((shape, values))?;
            let outputs = session.run_with_options(ort::inputs![input], options)?;
            Ok(outputs[output].try_extract_tensor::<f32>()?.1.to_vec())
        };
        options.unterminate().map_err(|e| Halt::Failed(e.to_string()))?;
        self.watchdog.arm(Instant::now() + limit);
        let ran = run();
        let ended = self.watchdog.disarm();
        // One that was ended when it had just finished did finish.
        ran.map_err(|error| if ended { Halt::Ended } else { Halt::Failed(error.to_string()) })
    }
}

/// What an output of a graph held.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its values, row by row.
    pub values: Vec<f32>,
}

fn extract(value: &DynValue) -> ort::Result<Output> {
    fn output<T: Copy>(shape: &[i64], values: &[T], float: impl Fn(T) -> f32) -> Output {
        let shape = shape.iter().map(|side| usize::try_from(*side).unwrap_or(0)).collect();
        Output { shape, values: values.iter().map(|value| float(*value)).collect() }
    }
    // Classes and counts are small: a float holds them exactly.
    if let Ok((shape, values)) = value.try_extract_tensor::<i64>() {
        return Ok(output(shape, values, |value| value as f32));
    }
    if let Ok((shape, values)) = value.try_extract_tensor::<i32>() {
        return Ok(output(shape, values, |value| value as f32));
    }
    let (shape, values) = value.try_extract_tensor::<f32>()?;
    Ok(output(shape, values, |value| value))
}

fn configured(library: &Library, options: &SessionOptions, provider: Provider) -> ort::Result<SessionBuilder> {
    let level = match options.graph {
        GraphLevel::Disable => GraphOptimizationLevel::Disable,
        GraphLevel::Basic => GraphOptimizationLevel::Level1,
        GraphLevel::Extended => GraphOptimizationLevel::Level2,
        GraphLevel::All => GraphOptimizationLevel::All,
    };
    let builder = OrtSession::builder(&library.environment)?
        .with_log_level(LogLevel::Warning)?
        .with_intra_threads(options.threads)?
        .with_inter_threads(1)?
        .with_intra_op_spinning(options.spinning)?
        .with_inter_op_spinning(options.spinning)?
        .with_optimization_level(level)?;
    match provider {
        Provider::Cpu => Ok(builder),
        Provider::Cuda => Ok(builder.with_execution_providers([ep::CUDA::default().build().error_on_failure()])?),
    }
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
