//! A real PostgreSQL from the distribution's package as a child process on a free port, its data in a temporary folder, run by a
//! user without privileges. Never shared between test processes, never left behind.

use crate::certificates::Certificates;
use crate::ports::Port;
use crate::process::{Process, Signal, eventually, tail};
use crate::scratch::scratch;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tempfile::TempDir;

/// How long it may take to start or to stop on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where Debian puts its versions.
const VERSIONS: &str = "/usr/lib/postgresql";
/// Where it looks for what TLS needs, in its data.
const CERTIFICATE: &str = "server.crt";
const KEY: &str = "server.key";
/// Whom the package makes to run it: it refuses to run as root.
const USER: &str = "postgres";

/// A running server; dropping it kills it and removes its data.
pub struct Postgres {
    programs: PathBuf,
    port: Port,
    folder: TempDir,
    is_encrypted: bool,
    process: Mutex<Option<Process>>,
}

impl Postgres {
    /// A fresh server with the database `postgres`, whose superuser `test` needs no password.
    ///
    /// # Panics
    /// When the package is missing, or it does not come up.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// The same with this certificate, for clients that ask for TLS.
    ///
    /// # Panics
    /// As [`Postgres::start`].
    #[must_use]
    pub fn start_encrypted(certificates: &Certificates) -> Self {
        Self::start_with(Some(certificates))
    }

    fn start_with(certificates: Option<&Certificates>) -> Self {
        let (programs, folder) = (programs(), scratch("postgres"));
        let is_encrypted = certificates.is_some();
        let server = Self { programs, port: Port::take(), folder, is_encrypted, process: Mutex::default() };
        // Its own user must reach the data, which lies in a folder that only we may enter.
        server.run(Path::new("chmod"), &["755", text(server.folder.path())]);
        fs::create_dir(server.data()).expect("a temporary folder can be made");
        if is_root() {
            server.run(Path::new("chown"), &[USER, text(&server.data())]);
        }
        let (initdb, data) = (server.programs.join("initdb"), server.data());
        let args = ["--auth=trust", "--username=test", "--encoding=UTF8", "--no-sync", "-D", text(&data)];
        let (program, all) = unprivileged(&initdb, &args);
        server.run(&program, &all.iter().map(String::as_str).collect::<Vec<_>>());
        if let Some(certificates) = certificates {
            // It reads no key that others may read, and none that is not its user's.
            for (from, to) in [(certificates.certificate(), CERTIFICATE), (certificates.key(), KEY)] {
                let to = data.join(to);
                fs::copy(from, &to).expect("a temporary folder can be written");
                server.run(Path::new("chmod"), &["600", text(&to)]);
                if is_root() {
                    server.run(Path::new("chown"), &[USER, text(&to)]);
                }
            }
        }
        server.start_again();
        server
    }

    /// `postgres://…` for clients.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://test@127.0.0.1:{}/postgres", self.port.number)
    }

    /// Starts it on the same port and data, and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn start_again(&self) {
        let data = self.data();
        let port = self.port.number.to_string();
        let mut args = vec!["-D", text(&data), "-h", "127.0.0.1", "-p", &port, "-k", text(&data), "-c", "fsync=off"];
        if self.is_encrypted {
            args.extend(["-c", "ssl=on"]);
        }
        let (program, args) = unprivileged(&self.programs.join("postgres"), &args);
        *self.process() = Some(Process::start("postgres", &program, args, &[], &self.log()));
        eventually("PostgreSQL answers", PATIENCE, || {
            if let Some(status) = self.process().as_ref().and_then(Process::exit_status) {
                panic!("PostgreSQL ended ({status}):\n{}", tail(&self.log(), 40));
            }
            self.try_query("SELECT 1").map(|_| ())
        });
    }

    /// Stops it: sessions are cut, nothing is lost.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(&self) {
        let process = self.process().take();
        if let Some(process) = process {
            // SIGINT is its "fast shutdown": it does not wait for clients to leave.
            crate::process::send(process.pid(), "INT");
            assert!(process.wait_exit(PATIENCE).is_some(), "PostgreSQL still runs {PATIENCE:?} after SIGINT");
        }
    }

    /// What a query answers: rows by line, columns by `|`.
    ///
    /// # Panics
    /// When it fails.
    #[must_use]
    pub fn query(&self, sql: &str) -> Vec<String> {
        self.try_query(sql).unwrap_or_else(|why| panic!("{sql}: {why}"))
    }

    /// As [`Postgres::query`], for a server that may be away.
    ///
    /// # Errors
    /// What `psql` said.
    pub fn try_query(&self, sql: &str) -> Result<Vec<String>, String> {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]).arg(self.url()).args(["-c", sql]);
        let output = psql_output(&mut psql)?;
        Ok(output.lines().map(str::to_owned).collect())
    }

    /// Sends its main process a signal, e.g. SIGSTOP: it takes no new sessions then.
    pub fn signal(&self, signal: Signal) {
        if let Some(process) = &*self.process() {
            process.signal(signal);
        }
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("postgres.log")
    }

    fn run(&self, program: &Path, args: &[&str]) {
        let Output { status, stderr, .. } = Command::new(program).args(args).output().unwrap_or_else(|e| {
            panic!("{}: {e}", program.display());
        });
        assert!(status.success(), "{} {args:?}: {}", program.display(), String::from_utf8_lossy(&stderr));
    }
}

fn psql_output(psql: &mut Command) -> Result<String, String> {
    let Output { status, stdout, stderr } = psql.output().map_err(|e| e.to_string())?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    Err(String::from_utf8_lossy(&stderr).trim().to_owned())
}

/// Where the newest version's programs are.
fn programs() -> PathBuf {
    let versions = fs::read_dir(VERSIONS).into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let newest = versions.filter(|bin| bin.join("initdb").exists()).max();
    newest.unwrap_or_else(|| panic!("PostgreSQL is missing (package postgresql): `make setup` installs it"))
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// The program as its own user, where we are root. The death of this process is told to it after that: a change of user forgets
/// such wishes.
fn unprivileged(program: &Path, args: &[&str]) -> (PathBuf, Vec<String>) {
    let args = args.iter().map(|arg| (*arg).to_owned());
    if !is_root() {
        return (program.to_owned(), args.collect());
    }
    // It may not enter the folder that we run in.
    let user = ["--reuid", USER, "--regid", USER, "--init-groups", "--pdeathsig", "KILL", "--", "env", "-C", "/"];
    let user = user.map(str::to_owned);
    ("setpriv".into(), user.into_iter().chain([text(program).to_owned()]).chain(args).collect())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}
