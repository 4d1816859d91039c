//! The step `postgres`: stores records in a table, a batch in one statement, by their ids; they go on as they are. At least once
//! by nature: a batch that is worked on again after a crash is stored again, over the same rows. Never gives a record up because
//! the database is away, and never lets one bad value cost its batch-mates.

mod connection;
mod sqlstate;
mod statement;

use super::StepContext;
use super::tls::Tls;
use crate::config::secret::Secret;
use crate::config::units::Period;
use crate::expression::{ExpressionLimits, FAILED, Jq, Place, Subject};
use bulkhead_actors::step::{Step, StepFactory};
use bulkhead_core::fault::{Fault, FaultClass};
use bulkhead_core::record::{Origin, Record};
use bulkhead_core::verdict::Verdict;
use connection::{Connector, Session};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use statement::{Row, Rows, Statement};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use tokio_postgres::config::SslMode;

/// The step's name.
pub const NAME: &str = "postgres";
/// A row's id where the config does not say: the record's own, else its place.
const DEFAULT_ID: &str = r#"$id // "\($origin.topic)/\($origin.partition)/\($origin.offset)""#;

/// `{ postgres = { url = "${DATABASE_URL}", table = "events", columns = { user_id = ".user_id" } } }`: upserts a row for each
/// record and lets the record go on. A batch is one statement: `INSERT … ON CONFLICT`. PostgreSQL makes each column's type of
/// its JSON value (`jsonb_populate_recordset`), so decimals, times, arrays and `jsonb` come as they are.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, from a file or a variable. `?sslmode=require` asks for TLS, as `tls`
    /// does.
    pub url: Secret,
    /// TLS; the server's certificate is always held against its host. Absent: none where the URL does not ask for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Whether an empty `url` means that nothing is stored: `"${DATABASE_URL:-}"` then stores where the variable is set.
    #[serde(default)]
    pub optional: bool,
    /// The table, which exists: `events` or `schema.events`.
    pub table: String,
    /// The column of the row's id: text, primary key or unique.
    #[serde(default = "id_column")]
    pub id_column: String,
    /// The row's id, a jq expression. Absent: the record's id, else `TOPIC/PARTITION/OFFSET`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Jq>,
    /// The other columns, each with the jq expression that gives its value.
    #[schemars(extend("minProperties" = 1))]
    pub columns: BTreeMap<String, Jq>,
    /// What becomes of a row that is there.
    #[serde(default)]
    pub on_conflict: OnConflict,
    /// How long connecting may take.
    #[serde(default = "connect_timeout")]
    pub connect_timeout: Period,
    /// How long a statement may take.
    #[serde(default = "statement_timeout")]
    pub statement_timeout: Period,
}

fn id_column() -> String {
    "id".to_owned()
}

const fn connect_timeout() -> Period {
    Period::secs(5)
}

const fn statement_timeout() -> Period {
    Period::secs(10)
}

/// What becomes of a row whose id is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// Its columns get the new values.
    #[default]
    Update,
    /// It stays as it is.
    Nothing,
}

impl PostgresConfig {
    /// Whether it stores at all.
    fn is_on(&self) -> bool {
        !(self.optional && self.url.expose().is_empty())
    }

    pub(super) fn check(&self, context: StepContext<'_>) -> Vec<String> {
        let mut problems = Vec::new();
        if self.is_on()
            && let Err(why) = self.connector(context)
        {
            problems.push(why);
        }
        let parts: Vec<_> = self.table.split('.').collect();
        if parts.len() > 2 || !parts.iter().all(|part| is_identifier(part)) {
            problems.push(format!("table = {:?} is no NAME or SCHEMA.NAME of letters, digits and _", self.table));
        }
        let columns = std::iter::once(&self.id_column).chain(self.columns.keys());
        for column in columns.filter(|column| !is_identifier(column)) {
            problems.push(format!("{column:?} is no name of a column: letters, digits and _, at most 63"));
        }
        if self.columns.contains_key(&self.id_column) {
            problems.push(format!("columns has {:?}, which is the id's (id_column)", self.id_column));
        }
        for (key, period) in [("connect_timeout", self.connect_timeout), ("statement_timeout", self.statement_timeout)]
        {
            if period.0.is_zero() {
                problems.push(format!("{key} must be longer than nothing"));
            }
        }
        if self.connect_timeout.0 + self.statement_timeout.0 >= context.call.timeout {
            problems.push(format!(
                "connect_timeout ({}) and statement_timeout ({}) together must be below the stage's timeout ({:?}): else its \
                 worker counts as hung first",
                self.connect_timeout, self.statement_timeout, context.call.timeout
            ));
        }
        problems
    }

    fn connector(&self, context: StepContext<'_>) -> Result<Connector, String> {
        let url = self.url.expose();
        // What is wrong with it is not told: it may be the password.
        let mut config: tokio_postgres::Config = url.parse().map_err(|_| {
            "url is no connection string: postgres://USER:PASSWORD@HOST:PORT/DATABASE, special characters as %XX, sslmode \
             disable or require"
                .to_owned()
        })?;
        if config.get_hosts().is_empty() {
            return Err("url names no host: postgres://USER:PASSWORD@HOST:PORT/DATABASE".to_owned());
        }
        let tls = match (&self.tls, config.get_ssl_mode()) {
            (Some(_), SslMode::Disable) => return Err("tls: the url says sslmode=disable; one of them goes".to_owned()),
            (Some(tls), _) => Some(tls.clone()),
            (None, mode) => (mode == SslMode::Require).then(Tls::default),
        };
        config.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
        let tls = tls.map(|tls| tls.connector(context.dir)).transpose()?;
        if config.get_application_name().is_none() {
            config.application_name(format!("bulkhead {}", context.pipeline));
        }
        let (connect, statement) = (self.connect_timeout.0, self.statement_timeout.0);
        Ok(Connector { config, tls, connect_timeout: connect, statement_timeout: statement })
    }

    pub(super) fn factory(&self, context: StepContext<'_>) -> Result<PostgresFactory, Vec<String>> {
        let connector = match self.is_on() {
            true => Some(self.connector(context).map_err(|why| vec![why])?),
            false => None,
        };
        let id = self.id.clone().map_or_else(|| DEFAULT_ID.parse(), Ok).map_err(|why| vec![why])?;
        Ok(PostgresFactory {
            connector,
            statement: Statement::new(&self.table, &self.id_column, self.columns.keys(), self.on_conflict),
            columns: Columns {
                id,
                id_column: self.id_column.clone(),
                columns: self.columns.iter().map(|(name, jq)| (name.clone(), jq.clone())).collect(),
                topic: context.source.into(),
                limits: context.expressions,
            },
        })
    }
}

/// A name that needs no care but its quotes.
fn is_identifier(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (1..=63).contains(&name.len()) && name.chars().all(legal)
}

/// Builds the step.
pub struct PostgresFactory {
    connector: Option<Connector>,
    statement: Statement,
    columns: Columns,
}

impl fmt::Debug for PostgresFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresFactory").field("statement", &self.statement).finish_non_exhaustive()
    }
}

/// What rows are made by.
#[derive(Clone)]
struct Columns {
    id: Jq,
    id_column: String,
    columns: Vec<(String, Jq)>,
    topic: Arc<str>,
    limits: ExpressionLimits,
}

/// The step; `None` where it stores nothing.
struct Postgres(Option<Store>);

struct Store {
    session: Session,
    statement: Statement,
    columns: Columns,
}

impl StepFactory for PostgresFactory {
    fn name(&self) -> &str {
        NAME
    }

    fn build(&self) -> Result<Box<dyn Step>, Fault> {
        let Some(connector) = &self.connector else {
            tracing::info!(table = %self.statement, "its url is empty: nothing is stored");
            return Ok(Box::new(Postgres(None)));
        };
        // Not connected here: a database that is away is no reason for a worker to die.
        let session = Session::new(connector.clone()).map_err(|why| Fault::fatal("postgres_runtime", why))?;
        let (statement, columns) = (self.statement.clone(), self.columns.clone());
        Ok(Box::new(Postgres(Some(Store { session, statement, columns }))))
    }
}

impl Step for Postgres {
    fn run(&mut self, records: &[Record], origins: Option<&[Origin]>) -> Result<Vec<Verdict>, Fault> {
        let mut verdicts: Vec<_> = records.iter().cloned().map(Verdict::one).collect();
        let Some(store) = &mut self.0 else { return Ok(verdicts) };
        let mut rows = Rows::default();
        for (index, record) in records.iter().enumerate() {
            let origin = origins.and_then(|origins| origins.get(index)).copied();
            match store.columns.row(record, origin) {
                Ok(row) => rows.add(index, row),
                Err(fault) if fault.class == FaultClass::Poison => verdicts[index] = Verdict::Reject(fault),
                Err(fault) => return Err(fault),
            }
        }
        for (index, fault) in store.session.store(&store.statement, &rows)? {
            verdicts[index] = Verdict::Reject(fault);
        }
        Ok(verdicts)
    }
}

impl Columns {
    fn row(&self, record: &Record, origin: Option<Origin>) -> Result<Row, Fault> {
        let subject = Subject::new(record, origin.map(|origin| Place { topic: &self.topic, origin }))?;
        let id = self.id.text_of(&subject, self.limits)?.filter(|id| !id.is_empty());
        let id =
            id.ok_or_else(|| Fault::poison("postgres_no_id", "the record has no id, so its row would have none"))?;
        let mut row = Row::new(&self.id_column, id);
        for (name, jq) in &self.columns {
            let value = jq.one(&subject, self.limits)?.to_json(self.limits.bytes_max);
            row.set(name, &value.map_err(|why| Fault::poison(FAILED, why))?);
        }
        Ok(row)
    }
}

#[cfg(test)]
#[path = "postgres_tests.rs"]
mod tests;
