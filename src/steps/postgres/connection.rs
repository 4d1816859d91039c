//! A session with the database: opened when it is needed, given up when it fails, never waited for longer than its timeouts.

use super::sqlstate::{Blame, blame};
use super::statement::{Rows, Statement};
use bulkhead_core::fault::Fault;
use native_tls::TlsConnector;
use postgres_native_tls::MakeTlsConnector;
use std::error::Error as _;
use std::fmt;
use std::io;
use std::ops::Range;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, NoTls, Socket};

/// How much later than the server we give a statement up ourselves.
const GRACE: Duration = Duration::from_secs(1);

/// How to open a session. Has a password in it.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) config: Config,
    /// `None`: without encryption.
    pub(super) tls: Option<TlsConnector>,
    pub(super) connect_timeout: Duration,
    pub(super) statement_timeout: Duration,
}

/// The session, and the runtime that drives it while somebody waits for an answer.
pub(super) struct Session {
    connector: Connector,
    runtime: Runtime,
    open: Option<Open>,
}

struct Open {
    client: Client,
    statement: tokio_postgres::Statement,
}

/// Why rows were not stored.
enum Failure {
    /// One of them is at fault.
    Row(String),
    /// All of them wait, or the stage ends.
    Fault(Fault),
}

impl Session {
    pub(super) fn new(connector: Connector) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { connector, runtime, open: None })
    }

    /// Stores rows; those that cannot be, by the places of their records, and why.
    ///
    /// # Errors
    /// `Transient` where the database is away or overloaded; `Fatal` where somebody has to mend the config or the database. What
    /// was stored before is stored again next time, over the same rows.
    pub(super) fn store(&mut self, statement: &Statement, rows: &Rows) -> Result<Vec<(usize, Fault)>, Fault> {
        let mut rejected = Vec::new();
        let mut waiting = rows.statements();
        waiting.reverse();
        while let Some(range) = waiting.pop() {
            match self.insert(statement, rows, range.clone()) {
                Ok(()) => {}
                Err(Failure::Fault(fault)) => return Err(fault),
                Err(Failure::Row(why)) if range.len() == 1 => {
                    let fault = Fault::poison("postgres_value", why);
                    rejected.extend(rows.records(range.start).iter().map(|record| (*record, fault.clone())));
                }
                Err(Failure::Row(_)) => {
                    let middle = range.start + range.len() / 2;
                    waiting.extend([middle..range.end, range.start..middle]);
                }
            }
        }
        Ok(rejected)
    }

    fn insert(&mut self, statement: &Statement, rows: &Rows, range: Range<usize>) -> Result<(), Failure> {
        let Self { connector, runtime, open } = self;
        let patience = connector.statement_timeout + GRACE;
        let outcome = runtime.block_on(async {
            // A session that ended while nobody looked is known to be over only now.
            if open.as_ref().is_none_or(|open| open.client.is_closed()) {
                *open = Some(connector.open(statement).await?);
            }
            let Some(Open { client, statement }) = open.as_ref() else { return Ok(()) };
            let json = rows.json(range);
            match timeout(patience, client.execute(statement, &[&json])).await {
                Ok(stored) => stored.map(|_| ()).map_err(failure),
                Err(_) => Err(away(format_args!("no answer within {patience:?}"))),
            }
        });
        if let Err(Failure::Fault(_)) = &outcome {
            *open = None;
        }
        outcome
    }
}

impl Connector {
    async fn open(&self, statement: &Statement) -> Result<Open, Failure> {
        let connect = async {
            let client = match &self.tls {
                Some(tls) => self.connect(MakeTlsConnector::new(tls.clone())).await?,
                None => self.connect(NoTls).await?,
            };
            let limit = format!("SET statement_timeout = {}", self.statement_timeout.as_millis());
            client.batch_execute(&limit).await.map_err(failure)?;
            let statement = client.prepare(statement.sql()).await.map_err(failure)?;
            Ok(Open { client, statement })
        };
        let late = || Err(away(format_args!("no session within {:?}", self.connect_timeout)));
        timeout(self.connect_timeout, connect).await.unwrap_or_else(|_| late())
    }

    async fn connect<T>(&self, tls: T) -> Result<Client, Failure>
    where
        T: MakeTlsConnect<Socket>,
        T::Stream: Send + 'static,
    {
        let (client, connection) = self.config.connect(tls).await.map_err(failure)?;
        drop(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a session with PostgreSQL ended");
            }
        }));
        Ok(client)
    }
}

fn away(why: impl fmt::Display) -> Failure {
    Failure::Fault(Fault::transient("postgres_unavailable", why))
}

fn failure(error: tokio_postgres::Error) -> Failure {
    let Some(told) = error.as_db_error() else {
        let cause = error.source().map_or_else(String::new, |cause| format!(": {cause}"));
        return match error.code() {
            // The client's own: the server is not there, or is no longer.
            None if is_ours(&error) => Failure::Fault(Fault::fatal("postgres_refused", format_args!("{error}{cause}"))),
            _ => away(format_args!("{error}{cause}")),
        };
    };
    let code = told.code().code();
    let message = format!("{} (SQLSTATE {code})", told.message());
    match blame(code) {
        Blame::World => away(message),
        Blame::Row => Failure::Row(message),
        Blame::SetUp => Failure::Fault(Fault::fatal("postgres_refused", message)),
    }
}

/// Whether the client would say the same again: it lacks what the server asks for (a password, an authentication method), or the
/// server what the client does (TLS). A certificate that does not hold may be a better one tomorrow.
fn is_ours(error: &tokio_postgres::Error) -> bool {
    let text = error.to_string();
    let has_no_tls = || error.source().is_some_and(|cause| cause.to_string().contains("does not support TLS"));
    text.starts_with("invalid configuration") || text.starts_with("authentication error") || has_no_tls()
}
