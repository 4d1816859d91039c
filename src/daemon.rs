//! Runs a checked config. In this build: up to where the engine begins. Never parses anything.

use crate::config::Config;
use crate::data_dir::DataDir;
use crate::exit::Exit;
use crate::logging;
use bulkhead_actors::log::Log;
use std::sync::Arc;

/// The log that the config names.
///
/// # Errors
/// Why there is none.
pub fn open_log(_config: &Config) -> Result<Arc<dyn Log>, String> {
    Err("the log adapters are not in this build".to_owned())
}

/// Runs a checked config, in which the command line's say is contained, until it is told to stop.
#[must_use]
pub fn run(config: Config) -> Exit {
    let data = match DataDir::open(&config.daemon.data.dir) {
        Ok(data) => data,
        Err(why) => {
            eprintln!("bulkhead: {why}");
            return Exit::Start;
        }
    };
    let _logging = match logging::start(&config.daemon.log, data.path()) {
        Ok(logging) => logging,
        Err(why) => {
            eprintln!("bulkhead: {} in {}: {why}", logging::FILE, data.path().display());
            return Exit::Start;
        }
    };
    tracing::error!("the engine is not in this build");
    Exit::Start
}
