//! A real Redis as a child process on a free port, with its data in a temporary folder. Never shared between test processes,
//! never left behind.

use crate::certificates::Certificates;
use crate::ports::Port;
use crate::process::{Process, Signal, eventually};
use crate::scratch::scratch;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tempfile::TempDir;

/// How long it may take to start or to stop on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest answer that a test asks for.
const ANSWER_BYTES: usize = 64 * 1024;

/// What TLS needs.
struct Encrypted {
    port: Port,
    ca: String,
    certificate: String,
    key: String,
}

impl Encrypted {
    fn arguments(&self) -> [String; 10] {
        let port = self.port.number.to_string();
        let [ca, certificate, key] = [&self.ca, &self.certificate, &self.key].map(String::as_str);
        [
            "--tls-port",
            &port,
            "--tls-ca-cert-file",
            ca,
            "--tls-cert-file",
            certificate,
            "--tls-key-file",
            key,
            "--tls-auth-clients",
            "no",
        ]
        .map(str::to_owned)
    }
}

/// A running server; dropping it kills it and removes its data.
pub struct Redis {
    port: Port,
    encrypted: Option<Encrypted>,
    folder: TempDir,
    process: Mutex<Option<Process>>,
}

impl Redis {
    /// Starts it, empty.
    ///
    /// # Panics
    /// When there is no `redis-server`, or it does not come up.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// Starts it with a second port for clients with TLS, at [`Redis::encrypted`].
    ///
    /// # Panics
    /// As [`Redis::start`].
    #[must_use]
    pub fn start_encrypted(certificates: &Certificates) -> Self {
        let text = |path: PathBuf| path.to_str().expect("a test's paths are UTF-8").to_owned();
        let (certificate, key) = (text(certificates.certificate()), text(certificates.key()));
        Self::start_with(Some(Encrypted { port: Port::take(), ca: text(certificates.ca()), certificate, key }))
    }

    fn start_with(encrypted: Option<Encrypted>) -> Self {
        let redis = Self { port: Port::take(), encrypted, folder: scratch("redis"), process: Mutex::new(None) };
        redis.start_again();
        redis
    }

    /// `host:port` for clients with TLS.
    ///
    /// # Panics
    /// When it was started without.
    #[must_use]
    pub fn encrypted(&self) -> String {
        format!("127.0.0.1:{}", self.encrypted.as_ref().expect("it was started so").port.number)
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.number)
    }

    /// Stops it in good order; what it has stays.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(&self) {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(process) = process {
            process.signal(Signal::Term);
            assert!(process.wait_exit(PATIENCE).is_some(), "redis still runs after {PATIENCE:?}");
        }
    }

    /// Starts it on the same port with what it had, and waits until it answers.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_again(&self) {
        let folder = self.folder.path().to_str().expect("a test's paths are UTF-8");
        let port = self.port.number.to_string();
        // Each write is in its file before it is answered.
        let args = [
            "--port",
            &port,
            "--bind",
            "127.0.0.1",
            "--dir",
            folder,
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
        ];
        let mut args = args.map(str::to_owned).to_vec();
        args.extend(self.encrypted.iter().flat_map(Encrypted::arguments));
        let log = self.folder.path().join("redis.log");
        let process = Process::start("redis-server", Path::new("redis-server"), args, &[], &log);
        eventually("redis answers", PATIENCE, || {
            assert!(process.exit_status().is_none(), "redis ended instead:\n{}", process.tail(20));
            let answer = self.try_ask(&["PING"]).map_err(|e| e.to_string())?;
            if answer == "+PONG\r\n" { Ok(()) } else { Err(answer) }
        });
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
    }

    /// The server's raw answer (RESP) to one command.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn ask(&self, command: &[&str]) -> String {
        self.try_ask(command).unwrap_or_else(|e| panic!("redis {command:?}: {e}"))
    }

    fn try_ask(&self, command: &[&str]) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port.number))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut text = format!("*{}\r\n", command.len());
        for word in command {
            text += &format!("${}\r\n{word}\r\n", word.len());
        }
        // The second command ends the answer: the server closes after it.
        stream.write_all((text + "*1\r\n$4\r\nQUIT\r\n").as_bytes())?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES as u64).read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        Ok(answer.strip_suffix("+OK\r\n").map_or(answer.clone(), str::to_owned))
    }
}
