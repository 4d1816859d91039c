//! `bulkhead.toml`: what belongs to the process and not to one pipeline. Never opens, binds or connects anything.

use super::Version;
use super::secret::Secret;
use super::text::{HeaderName, Name};
use super::units::{Period, Size};
use crate::expression::ExpressionLimits;
use crate::steps::CallLimits;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A request brings one record: a step at the edge makes one of it, or none.
pub const EDGE_EMIT_MAX: usize = 1;

/// The daemon: its addresses, its data directory, its log and its limits. Every key has a default; the file may be
/// absent.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Daemon {
    /// The version of this format.
    pub version: Version,
    /// What tells this daemon from others of the same pipelines; part of `transactional.id`, so it must be stable
    /// across restarts and unique at any time. Absent: drawn once and kept in the data directory. Flag: `--instance`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Name>,
    /// Where the daemon keeps its files.
    #[serde(default)]
    pub data: Data,
    /// The port for traffic.
    #[serde(default)]
    pub http: Http,
    /// The port for operators: health, metrics, `/actors`.
    #[serde(default)]
    pub admin: Admin,
    /// The Kafka cluster. Without brokers the daemon runs on its embedded log, which is for one machine.
    #[serde(default)]
    pub kafka: Kafka,
    /// What is logged, and where.
    #[serde(default)]
    pub log: Log,
    /// The store that answers for jobs.
    #[serde(default)]
    pub jobs: Jobs,
    /// Limits of the whole process.
    #[serde(default)]
    pub limits: Limits,
    /// ONNX Runtime, which `classify` steps run models with.
    #[serde(default)]
    pub onnxruntime: OnnxRuntime,
}

/// ONNX Runtime, which `classify` steps run models with.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OnnxRuntime {
    /// Its shared library, `libonnxruntime.so`. Absent: the variable `ORT_DYLIB_PATH`, else where `make setup` puts it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub library: Option<PathBuf>,
}

/// Where the daemon keeps its files.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Data {
    /// The data directory: caches, the embedded log, the generated secret, `bulkhead.log`. It is locked while the
    /// daemon runs. A relative path starts at the working directory. Flag: `--data`.
    pub dir: PathBuf,
}

impl Default for Data {
    fn default() -> Self {
        Self { dir: PathBuf::from("data") }
    }
}

/// The port for traffic.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Address and port; port 0 takes a free one. Flag: `--listen`.
    #[schemars(with = "String", extend("format" = "address"))]
    pub listen: SocketAddr,
    /// The largest request body that is accepted, where a route sets no other. Topics that the daemon creates take records
    /// of this size.
    pub body_max: Size,
    /// How many bytes of bodies are held at once, until the log has their records; more are answered with 503 and
    /// `Retry-After` before they are read.
    pub bodies_max: Size,
    /// How many parts a `multipart/form-data` body has at most.
    #[schemars(range(min = 1, max = 1_000))]
    pub parts_max: u32,
    /// How long a client may take to send a request's head.
    pub head_timeout: Period,
    /// How long a client may take to send a body.
    pub body_timeout: Period,
    /// How long a connection may be without a request; then it is cut. Reading the last answer counts.
    pub idle_timeout: Period,
    /// How long the log may take to acknowledge a record; then 503: whether it was stored is not known.
    pub ack_timeout: Period,
    /// How many connections are open at once; more wait to be accepted.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections_max: u32,
    /// How many requests bring records at once; more are answered with 503 and `Retry-After` before they are read.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests_max: u32,
    /// How many threads run routes' `steps`: so many requests are in them at once, and further ones wait for their turn.
    #[schemars(range(min = 1, max = 1_024))]
    pub steps_threads: u32,
    /// How long a route's `steps` may take, a wait for their turn included; then 503, and nothing is stored. A step that
    /// never ends keeps its thread.
    pub steps_timeout: Period,
    /// How often one client may bring records; more is answered with 429 and `Retry-After`. Absent: as often as it likes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<RateSection>,
    /// How many idempotency keys a gateway remembers by itself, from a request's acceptance until its job has ended; at the
    /// limit the oldest is left to the ledger, which knows it for as long as `ledger.ttl`.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub keys_max: u32,
    /// The header that names a request's tenant: jobs and idempotency keys of one tenant are unknown to every other, and a
    /// request without it is refused. Whatever authenticates clients must set it. Absent: there is one tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_header: Option<HeaderName>,
    /// How long an answer waits for a job at most, where a route sets no other: by `Prefer: wait=SECONDS` or
    /// `reply = "result"`.
    pub wait_max: Period,
    /// How many requests wait for jobs at once, streams of events among them: further waits are answered with what is known,
    /// further streams with 503.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub waiting_max: u32,
    /// After how long a silent stream of events says that it is there.
    pub heartbeat: Period,
    /// How long a stream of events lasts at most; a browser comes again by itself and misses nothing.
    pub stream_max: Period,
    /// Whether the API describes itself: OpenAPI at `/openapi.json`, Swagger UI at `/docs`, ReDoc at `/redoc`.
    pub docs: bool,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            body_max: Size::mib(16),
            bodies_max: Size::mib(256),
            parts_max: 8,
            head_timeout: Period::secs(5),
            body_timeout: Period::secs(30),
            idle_timeout: Period::secs(30),
            ack_timeout: Period::secs(10),
            connections_max: 4_096,
            requests_max: 1_024,
            steps_threads: 8,
            steps_timeout: Period::secs(5),
            rate: None,
            keys_max: 100_000,
            tenant_header: None,
            wait_max: Period::secs(30),
            waiting_max: 1_024,
            heartbeat: Period::secs(15),
            stream_max: Period::secs(600),
            docs: true,
        }
    }
}

impl Http {
    /// What the steps of routes must keep to.
    #[must_use]
    pub const fn call(&self) -> CallLimits {
        CallLimits { run_records_max: 1, timeout: self.steps_timeout.0, emit_max: EDGE_EMIT_MAX }
    }
}

/// How often one client may bring records: a tenant, where there are tenants, else an address.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateSection {
    /// Requests a second, in the long run.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub per_second: u32,
    /// Requests at once, after a rest. Absent: as many as a second brings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub burst: Option<u32>,
    /// How many clients are told apart at once; at the limit the one that has rested longest is forgotten.
    #[serde(default = "clients_max")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub clients_max: u32,
}

const fn clients_max() -> u32 {
    10_000
}

/// The port for operators.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Address and port; it has no authentication, so the default is loopback. Flag: `--admin`.
    #[schemars(with = "String", extend("format" = "address"))]
    pub listen: SocketAddr,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9090)) }
    }
}

/// The Kafka cluster.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Kafka {
    /// `host:port` of some of the cluster's brokers. Empty: no Kafka, the embedded log. Flag: `--kafka`.
    #[schemars(extend("format" = "brokers"))]
    pub brokers: String,
    /// How long a silent member stays in its group. A pipeline's `drain` must be below half of it.
    pub session_timeout: Period,
    /// After how long the broker aborts a transaction that nobody ends.
    pub transaction_timeout: Period,
    /// How the daemon is a member of its pipelines' groups.
    pub membership: Membership,
    /// How many replicas a topic gets that the daemon creates.
    #[schemars(range(min = 1, max = 32_767))]
    pub replicas: i32,
    /// librdkafka's own properties for every client, e.g. `"security.protocol" = "SASL_SSL"`. Those that the daemon's
    /// guarantees rest on are refused by name. A password comes from `"file:PATH"` or a `"${VARIABLE}"`.
    pub properties: BTreeMap<String, Property>,
}

impl Default for Kafka {
    fn default() -> Self {
        Self {
            brokers: String::new(),
            session_timeout: Period::secs(10),
            transaction_timeout: Period::secs(15),
            membership: Membership::Dynamic,
            replicas: 1,
            properties: BTreeMap::new(),
        }
    }
}

/// How the daemon is a member of its pipelines' groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Membership {
    /// Under no name: SIGTERM hands its partitions over at once; after SIGKILL they wait for the session timeout.
    Dynamic,
    /// Under the instance's name, which must then be stable: back within a second after SIGKILL, but a daemon that goes
    /// for good leaves its partitions unread for the session timeout.
    Static,
    /// Kafka's newer group protocol (KIP-848; brokers from 4.0 on): the broker deals the partitions out and sets the
    /// session timeout.
    Consumer,
}

/// The value of a librdkafka property; a number or a truth value becomes its text. Its `Debug` is hidden, as it may be
/// a password.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Property(pub String);

impl fmt::Debug for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Property(hidden)")
    }
}

impl JsonSchema for Property {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Property".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": ["string", "integer", "boolean"] })
    }
}

/// What is logged, and where. Payloads never are.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// What is logged: a level, or levels by module as in `"info,bulkhead_actors=debug"`. Libraries are heard from
    /// warnings on, unless they are named. Flag: `--log-level`.
    #[schemars(extend("format" = "log-filter"))]
    pub level: String,
    /// How the console's lines look; the file's are always JSON. Flag: `--log-format`.
    pub format: LogFormat,
    /// The file `bulkhead.log` in the data directory.
    pub file: LogFile,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Human, file: LogFile::default() }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One line a message, for people.
    Human,
    /// One JSON object a line, for machines.
    Json,
}

/// The rotating log file: `bulkhead.log` is written, `bulkhead.log.1` is the one before it, and so on.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogFile {
    /// Whether there is one.
    pub enabled: bool,
    /// The size at which a new file begins.
    pub bytes_max: Size,
    /// How many files are kept, the one being written included.
    #[schemars(range(min = 1, max = 1_000))]
    pub files_max: u32,
    /// How many lines wait to be written; further ones are dropped and counted, so that a slow disk stops nobody.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub lines_waiting_max: u32,
}

impl Default for LogFile {
    fn default() -> Self {
        Self { enabled: true, bytes_max: Size::mib(64), files_max: 5, lines_waiting_max: 64_000 }
    }
}

/// The store that answers for jobs, rebuilt from the topics.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Jobs {
    /// What job ids are authenticated with: the same on every gateway. `"file:PATH"` or `"${VARIABLE}"`, at least 16
    /// bytes. Absent, or an empty variable: drawn once and kept in the data directory, which is enough for one daemon.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "secret_or_none")]
    pub secret: Option<Secret>,
    /// How many jobs are kept; at the limit the oldest leaves.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub jobs_max: u32,
    /// How many bytes of results are kept in memory; at the limit the oldest leaves.
    pub bytes_max: Size,
    /// How long a job is kept.
    pub ttl: Period,
}

impl Default for Jobs {
    fn default() -> Self {
        Self { secret: None, jobs_max: 1_000_000, bytes_max: Size::mib(256), ttl: Period::secs(24 * 3_600) }
    }
}

/// `"${VARIABLE:-}"` of a variable that is not set names no secret.
fn secret_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    Ok(Option::<Secret>::deserialize(deserializer)?.filter(|secret| !secret.expose().is_empty()))
}

/// Limits of the whole process.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// How long SIGTERM may take to finish what is in flight; then the rest is left to the next start.
    pub drain: Period,
    /// How many threads that hang in native code may be left behind before the process exits.
    #[schemars(range(min = 0, max = 1_000))]
    pub abandoned_max: u32,
    /// How many turns of what repeats (`range`, `repeat`, `recurse`, `while`, `until`) one run of a jq expression may take.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub expression_turns_max: u64,
    /// How large a value that a jq expression makes may be, as JSON.
    pub expression_bytes_max: Size,
}

impl Limits {
    /// What one run of an expression may take.
    #[must_use]
    pub fn expressions(&self) -> ExpressionLimits {
        ExpressionLimits { turns_max: self.expression_turns_max, bytes_max: self.expression_bytes_max.bytes() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let ExpressionLimits { turns_max, bytes_max } = ExpressionLimits::default();
        Self {
            drain: Period::secs(30),
            abandoned_max: 8,
            expression_turns_max: turns_max,
            expression_bytes_max: Size(bytes_max as u64),
        }
    }
}

/// Whether this is a list of `HOST:PORT`, separated by commas, or empty.
pub(crate) fn is_brokers(text: &str) -> Result<(), String> {
    let is_broker = |broker: &str| {
        let (host, port) = broker.trim().rsplit_once(':').unwrap_or_default();
        !host.is_empty() && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok_and(|port| port != 0)
    };
    if text.is_empty() || text.split(',').all(is_broker) {
        return Ok(());
    }
    Err("brokers are HOST:PORT, separated by commas, e.g. \"kafka-1:9092,kafka-2:9092\"".to_owned())
}
