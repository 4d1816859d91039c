//! The daemon's side of a worker's process: starts it, hands it rows and takes what became of them. A process never
//! outlives the value that stands for it: dropping it kills and reaps it.

use super::channel::{Broken, Channel};
use super::death::Death;
use super::output::{Output, Whose};
use crate::shell::{Lifeline, Signal};
use bulkhead_core::fault::Fault;
use bulkhead_core::phases::Phases;
use bulkhead_core::record::Origin;
use bulkhead_core::verdict::{Emitted, Ended};
use bulkhead_core::wire::Damage;
use bulkhead_core::worker::{Message, TooLarge};
use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

/// How long a child whose socket has closed may take to be dead: it closes it while it dies.
const DYING: Duration = Duration::from_millis(200);

/// How a stage's steps are run in a process of their own. What it starts from may hold secrets and is not shown.
#[derive(Clone)]
pub struct ProcessSpec {
    /// The program.
    pub program: PathBuf,
    /// What it is called in lists of processes.
    pub name: OsString,
    /// Its arguments. Its standard input is the socket.
    pub args: Vec<OsString>,
    /// What it builds its steps from; it knows what that means, nobody here does.
    pub start: Bytes,
    /// How long it may take to build them.
    pub start_timeout: Duration,
    /// A record and what became of it are at most so large each, in bytes.
    pub frame_bytes_max: usize,
}

impl fmt::Debug for ProcessSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessSpec").field("program", &self.program).field("args", &self.args).finish_non_exhaustive()
    }
}

/// Why rows were not answered.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The child says so of all of them.
    Fault(Fault),
    /// A step panicked in the child.
    Panicked(String),
    /// The child is gone.
    Died(Death),
    /// We were told to stop.
    Killed,
}

/// A child that has built its steps.
#[derive(Debug)]
pub(crate) struct Process {
    child: Reaped,
    channel: Channel,
    output: Output,
    lifeline: Lifeline,
    steps: usize,
    phases: Option<Phases>,
}

/// For whom a child works.
#[derive(Clone, Debug)]
pub(crate) struct Master {
    pub(crate) pipeline: Arc<str>,
    pub(crate) stage: Arc<str>,
    pub(crate) worker: u32,
    /// How many steps the stage has.
    pub(crate) steps: usize,
}

impl Process {
    /// Starts the process and waits until its steps are built. A kill of the lifeline breaks off whatever waits for it;
    /// `over` is called when the process has died.
    pub(crate) fn start(
        spec: &ProcessSpec,
        master: &Master,
        lifeline: &Lifeline,
        over: impl FnOnce() + Send + 'static,
    ) -> Result<Self, Halt> {
        let mut process = Self::spawn(spec, master, lifeline, over).map_err(|error| {
            Halt::Fault(Fault::transient("worker_not_started", format_args!("{}: {error}", spec.program.display())))
        })?;
        match process.begin(spec) {
            Ok(Message::Ready) => Ok(process),
            Ok(Message::Failed(fault)) => Err(Halt::Fault(fault)),
            Ok(Message::Panicked(message)) => Err(Halt::Panicked(message)),
            Ok(_) => Err(process.ended(out_of_turn())),
            Err(Broken::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                let message = format_args!("its steps were not built within {:?}", spec.start_timeout);
                Err(Halt::Fault(Fault::fatal("worker_start_timeout", message)))
            }
            Err(why) => Err(process.ended(why)),
        }
    }

    fn spawn(
        spec: &ProcessSpec,
        master: &Master,
        lifeline: &Lifeline,
        over: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let (pipe, prints) = io::pipe()?;
        let mut command = Command::new(&spec.program);
        command.arg0(&spec.name).args(&spec.args);
        command.stdin(OwnedFd::from(theirs)).stdout(prints.try_clone()?).stderr(prints);
        // What a terminal sends to all in the foreground is for the daemon, which ends its children itself.
        command.process_group(0);
        let channel = Channel::new(ours.try_clone()?, spec.frame_bytes_max)?;
        let child = Reaped(command.spawn()?);
        // Our copies of the child's ends: the pipe and the socket end with the child.
        drop(command);
        let Master { pipeline, stage, worker, steps } = master.clone();
        let whose = Whose { pipeline, stage, worker, pid: child.0.id() };
        let output = Output::follow(pipe, whose, over)?;
        lifeline.on_kill(move || {
            if let Err(error) = ours.shutdown(Shutdown::Both) {
                tracing::debug!(%error, "the worker's socket was shut already");
            }
        });
        Ok(Self { child, channel, output, lifeline: lifeline.clone(), steps, phases: None })
    }

    fn begin(&mut self, spec: &ProcessSpec) -> Result<Message, Broken> {
        self.channel.wait_at_most(Some(spec.start_timeout))?;
        self.channel.tell(&Message::Start(spec.start.clone()))?;
        let answer = self.channel.hear()?;
        self.channel.wait_at_most(None)?;
        Ok(answer)
    }

    /// The process' id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// Whether the process lives, as far as that is known without asking it.
    pub(crate) fn is_alive(&self) -> bool {
        !self.output.is_over()
    }

    /// Runs the steps over the rows; what became of each, in their order. `origins` are as many. After an error the
    /// process is of no use but for a fault.
    pub(crate) fn run(&mut self, rows: Vec<Emitted>, origins: &[Origin]) -> Result<Vec<Ended>, Halt> {
        self.exchange(rows, origins).unwrap_or_else(|why| Err(self.ended(why)))
    }

    fn exchange(&mut self, rows: Vec<Emitted>, origins: &[Origin]) -> Result<Result<Vec<Ended>, Halt>, Broken> {
        let mut refused: Vec<Option<TooLarge>> = Vec::with_capacity(rows.len());
        for (row, origin) in rows.into_iter().zip(origins) {
            refused.push(self.channel.say(&Message::Row(*origin, row))?.err());
        }
        let sent = refused.iter().filter(|refused| refused.is_none()).count();
        let sent = u32::try_from(sent).map_err(|_| Broken::Io(io::Error::other("more rows than can be counted")))?;
        self.channel.tell(&Message::Work(sent))?;
        let mut ended = Vec::with_capacity(refused.len());
        for refused in refused {
            ended.push(match refused {
                Some(why) => Ended::Rejected { step: None, fault: too_large(why) },
                None => match self.hear()? {
                    Message::Ended(answer) => self.checked(answer)?,
                    Message::Failed(fault) => return Ok(Err(Halt::Fault(fault))),
                    Message::Panicked(message) => return Ok(Err(Halt::Panicked(message))),
                    _ => return Err(out_of_turn()),
                },
            });
        }
        Ok(Ok(ended))
    }

    /// What the child says of the rows; times on the way are kept.
    fn hear(&mut self) -> Result<Message, Broken> {
        match self.channel.hear()? {
            Message::Spent(spent) => {
                self.phases = Some(self.phases.map_or(spent, |before| before + spent));
                self.channel.hear()
            }
            other => Ok(other),
        }
    }

    /// What the runs since it was last asked spent their time on, where a step runs a model.
    pub(crate) fn take_phases(&mut self) -> Option<Phases> {
        self.phases.take()
    }

    /// An answer that names a step which does not exist is none.
    fn checked(&self, ended: Ended) -> Result<Ended, Broken> {
        match &ended {
            Ended::Rejected { step: Some(step), .. } if usize::try_from(*step).is_ok_and(|s| s >= self.steps) => {
                Err(Broken::Rubbish(Damage::Malformed("step")))
            }
            _ => Ok(ended),
        }
    }

    /// The child was found dead while it had nothing to do.
    pub(crate) fn found_dead(&mut self) -> Halt {
        self.ended(Broken::Closed)
    }

    /// Ends it, and says why it had to.
    fn ended(&mut self, why: Broken) -> Halt {
        if self.lifeline.signal() == Signal::Kill {
            return Halt::Killed;
        }
        Halt::Died(match why {
            Broken::Rubbish(_) => {
                self.child.reap();
                Death::rubbish(&why)
            }
            Broken::Closed | Broken::Io(_) if self.is_dying() => match self.child.0.wait() {
                Ok(status) => {
                    self.output.finish(DYING);
                    Death::of(status, &self.output)
                }
                Err(error) => Death::mute(&Broken::Io(error)),
            },
            Broken::Closed | Broken::Io(_) => {
                self.child.reap();
                Death::mute(&why)
            }
        })
    }

    /// Whether it ends by itself, now.
    fn is_dying(&self) -> bool {
        let pid = i32::try_from(self.child.0.id()).ok().and_then(Pid::from_raw);
        let Some(Ok(pid)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else { return false };
        let wait = Timespec { tv_sec: 0, tv_nsec: DYING.subsec_nanos().into() };
        poll(&mut [PollFd::new(&pid, PollFlags::IN)], Some(&wait)).is_ok_and(|ready| ready > 0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.reap();
        self.output.finish(DYING);
    }
}

/// A child that ends with the value: nothing that goes wrong leaves it behind.
#[derive(Debug)]
struct Reaped(Child);

impl Reaped {
    /// Kills the child and waits for its end. One that the kernel cannot end (it waits for a disk that does not answer)
    /// holds up its worker's thread, which is abandoned and counted then.
    fn reap(&mut self) {
        let ended = self.0.kill().and_then(|()| self.0.wait());
        if let Err(error) = ended {
            tracing::error!(pid = self.0.id(), %error, "a worker's process could not be ended");
        }
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        self.reap();
    }
}

const fn out_of_turn() -> Broken {
    Broken::Rubbish(Damage::Malformed("turn: this message is not the child's to say now"))
}

/// What is said of a record, or of what became of it, that does not fit a frame.
pub(super) fn too_large(why: TooLarge) -> Fault {
    Fault::poison("frame_too_large", format_args!("{why} (frame_max of the stage)"))
}
