//! The body of an actor that serves HTTP: runs a server until it is told to end, or the server ends. Never serves itself.

use actix_web::dev::Server;
use actix_web::rt::System;
use bulkhead_actors::shell::{Exit, Lifeline, Signal};
use bulkhead_core::fault::Fault;
use std::io;
use std::time::Duration;

/// How often the server's control loop gives a sign of life.
const BEAT: Duration = Duration::from_millis(500);

/// Runs the server that `make` makes on this thread's own runtime. A drain lets requests in progress end, within the
/// server's own shutdown time; a kill does not.
pub fn serve(lifeline: &Lifeline, make: impl FnOnce() -> io::Result<Server>) -> Exit {
    System::new().block_on(async {
        let server = match make() {
            Ok(server) => server,
            Err(error) => return Exit::Failed(Fault::fatal("listen", error)),
        };
        let handle = server.handle();
        let told = async {
            let signal = lifeline.changed().await;
            handle.stop(signal == Signal::Drain).await;
            if signal == Signal::Drain { Exit::Done } else { Exit::Killed }
        };
        let ended = async {
            match server.await {
                Ok(()) if lifeline.signal() > Signal::Run => std::future::pending().await,
                Ok(()) => Exit::Failed(Fault::fatal("serve", "the server ended by itself")),
                Err(error) => Exit::Failed(Fault::fatal("serve", error)),
            }
        };
        let beats = async {
            let mut ticks = tokio::time::interval(BEAT);
            loop {
                ticks.tick().await;
                lifeline.beat();
            }
        };
        tokio::select! { exit = told => exit, exit = ended => exit, never = beats => never }
    })
}
