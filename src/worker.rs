//! `bulkhead worker`: the process in which an isolated stage's steps run, started by the daemon and by nobody else. Its
//! standard input is the socket to its worker; it ends when that closes. Never reads a config file, so that every
//! incarnation runs what the daemon read at its start.

use crate::config::pipeline::{Outputs, Stage};
use crate::exit::Exit;
use crate::expression::ExpressionLimits;
use crate::logging;
use crate::steps::{StepContext, chaos};
use bulkhead_actors::worker::{Child, StepSet};
use bulkhead_core::fault::Fault;
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use tokio::signal::unix::{SignalKind, signal};

/// What the kernel makes of the process' name: at most 15 bytes.
const NAME: &std::ffi::CStr = c"bulkhead-worker";
/// How much sooner than the daemon the kernel ends this process where the machine has no memory left.
const OOM_SCORE: &str = "500";

/// What a worker tells its process first.
#[derive(Debug, Deserialize, Serialize)]
pub struct Start {
    /// The stage, as the daemon read it.
    pub stage: Stage,
    /// Whether steps may break things on purpose.
    pub chaos: bool,
    /// Where runs of chaos steps are counted, where they are.
    pub chaos_runs: Option<PathBuf>,
    /// ONNX Runtime's library, where the config names one.
    pub onnxruntime: Option<PathBuf>,
    /// What is logged.
    pub log_level: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The topic that it reads.
    pub source: String,
    /// The daemon's data directory.
    pub data: PathBuf,
    /// The pipeline's outputs by name.
    pub outputs: Outputs,
    /// What one run of an expression may take.
    pub expressions: ExpressionLimits,
}

/// Runs the steps of a stage, whose relative paths start at `dir`, until the socket closes.
#[must_use]
pub fn run(dir: &Path, pipeline: &str, stage: &str) -> Exit {
    match serve(dir) {
        Ok(()) => Exit::Clean,
        Err(why) => {
            eprintln!(
                "ERROR worker of {pipeline}/{stage}: {why} (this command is the daemon's own; see `bulkhead run`)"
            );
            Exit::Start
        }
    }
}

fn serve(dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    settle_in()?;
    let (child, start) = Child::accept(socket)?;
    let start: Start = serde_json::from_slice(&start)?;
    logging::start_worker(&start.log_level)?;
    child.serve(|| build(dir, &start))?;
    Ok(())
}

/// Makes the process a good child before anything else runs in it.
fn settle_in() -> io::Result<()> {
    // The kernel ends us with the thread that started us, also while native code is busy and sees no socket.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // A library that reads standard input must not take what is ours.
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    rustix::thread::set_name(NAME)?;
    if let Err(why) = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        eprintln!("WARN the kernel will not prefer this process where memory runs out: {why}");
    }
    // A service manager tells all processes to stop; the daemon drains first and ends us then.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _context = runtime.enter();
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()] {
        drop(signal(kind)?);
    }
    Ok(())
}

fn build(dir: &Path, start: &Start) -> Result<StepSet, Fault> {
    let Start { stage, chaos, onnxruntime, .. } = start;
    if let Some(bytes) = stage.memory_max {
        let most = Rlimit { current: Some(bytes.0), maximum: Some(bytes.0) };
        setrlimit(Resource::Data, most).map_err(|why| Fault::fatal("memory_limit", why))?;
    }
    if let Some(path) = &start.chaos_runs {
        chaos::count_in(path).map_err(|why| Fault::fatal("chaos_runs", why))?;
    }
    let context = StepContext {
        dir,
        chaos: *chaos,
        onnxruntime: onnxruntime.as_deref(),
        call: stage.call(),
        pipeline: &start.pipeline,
        source: &start.source,
        data: &start.data,
        outputs: &start.outputs,
        expressions: start.expressions,
        hints: None,
    };
    let steps = stage.steps.iter().map(|step| step.factory(context)).collect::<Result<_, _>>();
    let steps = steps.map_err(|problems| Fault::fatal("step_unusable", problems.join("; ")))?;
    Ok(StepSet { steps, emit_max: stage.emit_max as usize, frame_bytes_max: stage.frame_max.bytes() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::pipeline::PipelineFile;

    #[test]
    fn a_stage_reaches_its_process_as_it_was_read() {
        let file: PipelineFile = toml::from_str(include_str!("../tests/full.toml")).expect("it is right");
        for stage in file.stage {
            let told = serde_json::to_value(&stage).expect("it can be told");
            let heard: Stage = serde_json::from_value(told.clone()).expect("it can be heard");
            assert_eq!(serde_json::to_value(&heard).expect("it can be told again"), told);
        }
    }
}
