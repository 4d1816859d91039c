//! Runs a checked config: opens what the daemon needs, starts the supervision tree, waits for signals, ends in order.
//! Never parses anything and never decides what a part does.

mod assemble;
mod chat;
mod health;
mod monitor;
mod outbox;
mod pressure;
mod serve;

use crate::config::{Config, Pipeline};
use crate::data_dir::DataDir;
use crate::exit::Exit;
use crate::logging::{self, Losses};
use crate::steps::chaos;
use bulkhead_actors::io::embedded::{EmbeddedLog, EmbeddedOptions};
use bulkhead_actors::log::Log;
use bulkhead_actors::pipeline::{PipelineSpec, PipelineTopic};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

/// The embedded log's folder in the data directory.
const LOG_DIR: &str = "log";
/// Where the daemon says under which addresses it can be reached.
const RUN_FILE: &str = "run.json";

/// What a daemon holds for as long as it runs.
struct Opened {
    config: Config,
    data: DataDir,
    instance: String,
    log: Arc<dyn Log>,
    http: TcpListener,
    admin: TcpListener,
    losses: Losses,
}

/// The log that the config names: Kafka where it has brokers, else the embedded one under `data`.
///
/// # Errors
/// Why there is none; a broker that cannot be reached is no reason.
pub fn open_log(config: &Config, instance: &str, data: &Path) -> Result<Arc<dyn Log>, String> {
    if !config.daemon.kafka.brokers.is_empty() {
        return assemble::kafka(config, instance);
    }
    let options =
        EmbeddedOptions { record_bytes_max: assemble::record_bytes_max(config), ..EmbeddedOptions::default() };
    let log = EmbeddedLog::open(data.join(LOG_DIR), &options).map_err(|why| why.to_string())?;
    Ok(Arc::new(log))
}

/// A pipeline as the engine would run it, for tests of its config; `data` is a folder for what steps keep.
///
/// # Errors
/// What is wrong with a step: files can change after the check.
pub fn rehearsal(config: &Config, pipeline: &Pipeline, data: &Path) -> Result<PipelineSpec, String> {
    assemble::pipeline(config, pipeline, data, None)
}

/// Every topic that a pipeline of the config needs.
#[must_use]
pub fn topics(config: &Config, pipeline: &Pipeline) -> Vec<PipelineTopic> {
    assemble::topics(config, pipeline)
}

/// Runs a checked config, in which the command line's say is contained, until it is told to stop.
#[must_use]
pub fn run(config: Config) -> Exit {
    let data = match DataDir::open(&config.daemon.data.dir) {
        Ok(data) => data,
        Err(why) => return refuse(&why.to_string()),
    };
    let logging = match logging::start(&config.daemon.log, data.path()) {
        Ok(logging) => logging,
        Err(why) => return refuse(&format!("{} in {}: {why}", logging::FILE, data.path().display())),
    };
    let opened = match open(config, data, logging.losses()) {
        Ok(opened) => opened,
        Err(why) => {
            tracing::error!("{why}");
            return Exit::Start;
        }
    };
    actix_rt::System::new().block_on(serve::serve(opened))
}

fn refuse(why: &str) -> Exit {
    eprintln!("bulkhead: {why}");
    Exit::Start
}

fn open(config: Config, data: DataDir, losses: Losses) -> Result<Opened, String> {
    if config.chaos {
        count_chaos(data.path())
            .map_err(|why| format!("{} in {}: {why}", assemble::CHAOS_RUNS, data.path().display()))?;
    }
    let instance = data.instance(config.daemon.instance.as_ref()).map_err(|why| why.to_string())?.0;
    let http = bind("http.listen (--listen)", config.daemon.http.listen)?;
    let admin = bind("admin.listen (--admin)", config.daemon.admin.listen)?;
    let log = open_log(&config, &instance, data.path())?;
    let opened = Opened { config, data, instance, log, http, admin, losses };
    tell_addresses(&opened).map_err(|why| format!("{RUN_FILE} in {}: {why}", opened.data.path().display()))?;
    Ok(opened)
}

/// Counts runs of chaos steps from nothing, those in workers' processes too.
fn count_chaos(data: &Path) -> std::io::Result<()> {
    let path = data.join(assemble::CHAOS_RUNS);
    std::fs::write(&path, "")?;
    chaos::count_in(&path)
}

fn bind(what: &str, address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address)
        .map_err(|why| format!("{what} = {address}: {why}; choose another, port 0 takes a free one"))
}

/// Writes who runs here and where it listens, for scripts and tests that let the system choose the ports.
fn tell_addresses(opened: &Opened) -> std::io::Result<()> {
    let addresses = serde_json::json!({
        "pid": std::process::id(),
        "instance": opened.instance,
        "listen": opened.http.local_addr()?.to_string(),
        "admin": opened.admin.local_addr()?.to_string(),
    });
    let path = opened.data.path().join(RUN_FILE);
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, addresses.to_string())?;
    std::fs::rename(fresh, path)
}
