//! A connection to Redis for one worker's step: asked and answered within a timeout, made anew once it breaks. Never decides
//! what is stored.

use super::tls::Tls;
use crate::config::secret::Secret;
use crate::config::units::Period;
use bulkhead_core::fault::Fault;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ConnectionAddr, ErrorKind, FromRedisValue, IntoConnectionInfo as _, Pipeline,
    RedisConnectionInfo, RedisError, ServerErrorKind, TlsCertificates,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Runtime;

/// What a server answers that is to be asked again later.
const PASSING: [&str; 9] =
    ["LOADING", "BUSY", "OOM", "MISCONF", "NOREPLICAS", "READONLY", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN"];
/// What a server answers to whom it does not know.
const STRANGER: [&str; 3] = ["NOAUTH", "WRONGPASS", "NOPERM"];

/// A Redis server, by TCP.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedisServer {
    /// Where it is, `HOST:PORT`.
    pub address: String,
    /// The user, where the server has users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The password, where it wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// TLS. Absent: none, for a network that is trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// The database's number.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub database: u32,
    /// How long connecting, or an answer, may take.
    #[serde(default = "timeout")]
    pub timeout: Period,
}

const fn timeout() -> Period {
    Period::secs(2)
}

impl RedisServer {
    /// Everything that is wrong with it by itself.
    pub(super) fn problems(&self, dir: &Path) -> Vec<String> {
        let mut problems = Vec::new();
        if self.place().is_none() {
            problems.push(format!("address: {:?} is no HOST:PORT, e.g. \"127.0.0.1:6379\"", self.address));
        }
        problems.extend(self.tls.as_ref().and_then(|tls| tls.authorities(dir).err()));
        if self.timeout.0.is_zero() {
            problems.push("timeout: must be longer than nothing".to_owned());
        }
        problems
    }

    fn place(&self) -> Option<(String, u16)> {
        let (host, port) = self.address.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = port.parse().ok().filter(|port| *port > 0)?;
        (!host.is_empty()).then(|| (host.to_owned(), port))
    }
}

/// One worker's connection.
pub(super) struct Client {
    runtime: Runtime,
    client: redis::Client,
    connection: Option<MultiplexedConnection>,
    timeout: Duration,
    address: String,
}

impl Client {
    /// For this server, which is not asked anything yet; `dir` is where its files' paths start.
    ///
    /// # Errors
    /// Fatal: the settings cannot be used.
    pub(super) fn new(server: &RedisServer, dir: &Path) -> Result<Self, Fault> {
        let unusable = |why: &dyn std::fmt::Display| Fault::fatal("redis_unusable", why);
        let (host, port) = server.place().ok_or_else(|| unusable(&server.problems(dir).join("; ")))?;
        let mut settings = RedisConnectionInfo::default().set_db(server.database.into());
        if let Some(user) = &server.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &server.password {
            settings = settings.set_password(password.expose());
        }
        let address = match &server.tls {
            Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
            None => ConnectionAddr::Tcp(host, port),
        };
        let info = address.into_connection_info().map_err(|why| unusable(&why))?.set_redis_settings(settings);
        let client = match &server.tls {
            Some(tls) => {
                let authorities = tls.authorities(dir).map_err(|why| unusable(&why))?;
                let root_cert = authorities.map(|authorities| authorities.pem().as_bytes().to_vec());
                redis::Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert })
            }
            None => redis::Client::open(info),
        };
        let client = client.map_err(|why| unusable(&why))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|why| unusable(&why))?;
        Ok(Self { runtime, client, connection: None, timeout: server.timeout.0, address: server.address.clone() })
    }

    /// Sends the commands in one go. A connection that broke since it was last used is made anew once, so the commands must
    /// mean the same when they are said twice.
    ///
    /// # Errors
    /// Transient: the server is away, slow or busy. Fatal: it does not know us. Poison: it refuses these commands.
    pub(super) fn ask<T: FromRedisValue>(&mut self, commands: &Pipeline) -> Result<T, Fault> {
        let was_connected = self.connection.is_some();
        let answer = self.try_ask(commands);
        match answer {
            Err(error) if was_connected && error.is_connection_dropped() => self.try_ask(commands),
            answer => answer,
        }
        .map_err(|error| self.fault(&error))
    }

    fn try_ask<T: FromRedisValue>(&mut self, commands: &Pipeline) -> Result<T, RedisError> {
        let Self { runtime, client, connection, timeout, .. } = self;
        let answer: Result<(T, Option<MultiplexedConnection>), RedisError> = runtime.block_on(async {
            let mut link = match connection.take() {
                Some(link) => link,
                None => {
                    let config = AsyncConnectionConfig::new()
                        .set_connection_timeout(Some(*timeout))
                        .set_response_timeout(Some(*timeout));
                    client.get_multiplexed_async_connection_with_config(&config).await?
                }
            };
            let answer = commands.query_async(&mut link).await;
            // An answer that came too late would be taken for the next one's.
            let is_whole =
                answer.as_ref().err().is_none_or(|e: &RedisError| !e.is_unrecoverable_error() && !e.is_timeout());
            Ok((answer?, is_whole.then_some(link)))
        });
        let (answer, link) = answer?;
        self.connection = link;
        Ok(answer)
    }

    fn fault(&self, error: &RedisError) -> Fault {
        let why = format_args!("redis at {}: {error}", self.address);
        let code = error.code().unwrap_or_default();
        match error.kind() {
            _ if PASSING.contains(&code) => Fault::transient("redis_busy", why),
            _ if STRANGER.contains(&code) => Fault::fatal("redis_refuses_us", why),
            ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig => Fault::fatal("redis_refuses_us", why),
            ErrorKind::Server(ServerErrorKind::NoPerm) => Fault::fatal("redis_refuses_us", why),
            ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::UnexpectedReturnType => {
                Fault::poison("redis_refuses", why)
            }
            _ => Fault::transient("redis_away", why),
        }
    }
}
