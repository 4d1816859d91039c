//! The child's side: builds the steps and answers for rows until its socket closes. Never outlives that, never logs
//! anywhere but to its own standard error, and never knows a concrete step.

use super::channel::{Broken, Channel};
use super::process::too_large;
use super::rows::StepRun;
use crate::step::StepFactory;
use crate::supervisor::tombstone::{catch, note_panics};
use bulkhead_core::fault::Fault;
use bulkhead_core::phases::Phases;
use bulkhead_core::record::Origin;
use bulkhead_core::supervisor::Exit;
use bulkhead_core::verdict::{Emitted, Ended};
use bulkhead_core::wire::Damage;
use bulkhead_core::worker::Message;
use bytes::Bytes;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// What a child is told to build its steps from has at most so many bytes: a config file has at most 1 MiB.
const START_BYTES_MAX: usize = 8 << 20;

/// A child that was told what to build its steps from.
#[derive(Debug)]
pub struct Child {
    channel: Channel,
}

/// Rows, and where the source record of each lies.
struct Work {
    rows: Vec<Emitted>,
    origins: Vec<Origin>,
}

/// The steps of a stage.
pub struct StepSet {
    /// In their order.
    pub steps: Vec<Arc<dyn StepFactory>>,
    /// Records that one record may become.
    pub emit_max: usize,
    /// A record and what became of it are at most so large each, in bytes.
    pub frame_bytes_max: usize,
}

impl Child {
    /// Waits for the worker's first word: what the steps are built from.
    ///
    /// # Errors
    /// The socket is closed, or what came is something else.
    pub fn accept(socket: UnixStream) -> Result<(Self, Bytes), Broken> {
        let mut channel = Channel::new(socket, START_BYTES_MAX)?;
        match channel.hear()? {
            Message::Start(start) => Ok((Self { channel }, start)),
            _ => Err(out_of_turn()),
        }
    }

    /// Builds the steps and answers for rows until the worker hangs up.
    ///
    /// # Errors
    /// The socket fails, or what comes is no work.
    pub fn serve(mut self, build: impl FnOnce() -> Result<StepSet, Fault>) -> Result<(), Broken> {
        note_panics();
        let built = catch(|| {
            let set = build()?;
            Ok((StepRun::build(&set.steps, set.emit_max)?, set.frame_bytes_max))
        });
        let mut run = match built {
            Ok(Ok((run, frame_bytes_max))) => {
                self.channel.limit(frame_bytes_max);
                run
            }
            Ok(Err(fault)) => return self.channel.tell(&Message::Failed(fault)),
            Err(exit) => return self.channel.tell(&panicked(&exit)),
        };
        self.channel.tell(&Message::Ready)?;
        while let Some(Work { rows, origins }) = self.rows()? {
            match catch(|| run.run(rows, Some(&origins))) {
                Ok(Ok(ended)) => self.answer(run.take_phases(), ended)?,
                Ok(Err(fault)) => self.channel.tell(&Message::Failed(fault))?,
                // What a panic leaves behind is not to be worked with: the next process builds the steps anew.
                Err(exit) => return self.channel.tell(&panicked(&exit)),
            }
        }
        Ok(())
    }

    /// The next piece of work; none where the worker has hung up.
    fn rows(&mut self) -> Result<Option<Work>, Broken> {
        let (mut rows, mut origins) = (Vec::new(), Vec::new());
        loop {
            match self.channel.hear() {
                Ok(Message::Row(origin, row)) => {
                    rows.push(row);
                    origins.push(origin);
                }
                Ok(Message::Work(count)) if usize::try_from(count) == Ok(rows.len()) => {
                    return Ok(Some(Work { rows, origins }));
                }
                Ok(_) => return Err(out_of_turn()),
                Err(Broken::Closed) => return Ok(None),
                Err(broken) => return Err(broken),
            }
        }
    }

    fn answer(&mut self, phases: Option<Phases>, ended: Vec<Ended>) -> Result<(), Broken> {
        if let Some(phases) = phases
            && let Err(why) = self.channel.say(&Message::Spent(phases))?
        {
            tracing::debug!(%why, "times are not told");
        }
        for ended in ended {
            if let Err(why) = self.channel.say(&Message::Ended(ended))? {
                let fault = too_large(why);
                self.channel.tell(&Message::Ended(Ended::Rejected { step: None, fault }))?;
            }
        }
        self.channel.flush()
    }
}

fn panicked(exit: &Exit) -> Message {
    Message::Panicked(match exit {
        Exit::Panicked(message) => message.clone(),
        other => other.to_string(),
    })
}

const fn out_of_turn() -> Broken {
    Broken::Rubbish(Damage::Malformed("turn: this message is not the worker's to say now"))
}
