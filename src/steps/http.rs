//! `http`: calls an HTTP API once a record, and goes on with what it answers.
//!
//! Method, URL, body and what becomes of the answer are the config's (jq expressions); a host that fails is left alone for a
//! while by a circuit breaker. Calls are made at least once: each carries the record's id as `Idempotency-Key`.
//! Never follows a redirect, never reads more of an answer than it may, and never tells a secret to anyone but the host.

mod answer;
mod auth;
mod call;
mod run;

use super::StepContext;
use super::tls::Tls;
use crate::config::secret::Secret;
use crate::config::units::{Period, Size};
use crate::expression::Jq;
use answer::Statuses;
use bulkhead_core::breaker::BreakerSpec;
use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

pub use run::HttpFactory;

/// The step's name in pipelines, metrics and dead letters.
pub const NAME: &str = "http";
/// The share of a stage's timeout that its calls may take in all: the worker answers before it counts as hung.
const CALL_SHARE: f64 = 0.9;
const RESPONSE_MAX: Size = Size::mib(64);

/// `{ http = { url = '"https://api.example/items/\(.id | @uri)"', method = "PUT", body = "{name, price}" } }`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// What is asked of the resource.
    #[serde(default)]
    pub method: Method,
    /// The URL, `http:` or `https:`: a jq expression that gives text. What comes from a record goes through `@uri`, or it
    /// could name another path or host.
    pub url: Jq,
    /// The body, sent as JSON: a jq expression. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Jq>,
    /// Whether the record's value is the body as it is, under its own `content-type`; in place of `body`.
    #[serde(default)]
    pub send_value: bool,
    /// Headers of every call. Credentials belong into `auth`.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Headers that are made of the record: jq expressions that give text; one that gives `null` is left out.
    #[serde(default)]
    pub record_headers: BTreeMap<String, Jq>,
    /// Whether the header `Idempotency-Key` carries the record's id, so that a host that knows it does a repeated call once.
    #[serde(default = "yes")]
    pub idempotency_key: bool,
    /// Whom hosts called by `https:` are to be vouched for by. Absent: the system's authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// What the host knows us by. Absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// How long one call may take, from connecting to the answer's last byte; below nine tenths of the stage's `timeout`.
    #[serde(default = "timeout")]
    pub timeout: Period,
    /// How long connecting may take, within that.
    #[serde(default = "connect_timeout")]
    pub connect_timeout: Period,
    /// How many calls for records of one batch are under way at once. Records leave in their order all the same.
    #[serde(default = "concurrency")]
    #[schemars(range(min = 1, max = 256))]
    pub concurrency: u32,
    /// The largest answer; a larger one rejects its record.
    #[serde(default = "response_max")]
    pub response_max: Size,
    /// Statuses that are a success beside 2xx: 409 where it says that the thing is there already.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub success: Vec<u16>,
    /// Statuses that may pass beside 408, 425, 429 and 5xx: the call is made again, as the stage's `retry` says.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub transient: Vec<u16>,
    /// Statuses that reject the record, beside all others: of the ones above, e.g. 501.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub poison: Vec<u16>,
    /// The longest `Retry-After` of 429 and 503 that is honoured: for as long the host is not called.
    #[serde(default = "retry_after_max")]
    pub retry_after_max: Period,
    /// When a host that fails is left alone.
    #[serde(default)]
    pub breaker: Breaker,
    /// What becomes the record's value: a jq expression over `{status, headers, body}`, `body` being JSON where it is, else
    /// text. Absent: the record stays as it is. The header `http-status` tells the status in either case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<Jq>,
}

const fn yes() -> bool {
    true
}

const fn timeout() -> Period {
    Period::secs(10)
}

const fn connect_timeout() -> Period {
    Period::secs(3)
}

const fn concurrency() -> u32 {
    4
}

const fn response_max() -> Size {
    Size::mib(1)
}

const fn retry_after_max() -> Period {
    Period::secs(30)
}

/// HTTP methods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// Ask.
    Get,
    /// Make.
    #[default]
    Post,
    /// Put in place.
    Put,
    /// Change.
    Patch,
    /// Remove.
    Delete,
}

/// When a host that fails is left alone: no connection, no answer in time, 408 or 5xx. A breaker is of one host, and shared
/// by the workers of a stage that run in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Breaker {
    /// How many calls in a row fail before it opens.
    #[schemars(range(min = 1, max = 100_000))]
    pub failures: u32,
    /// How long no call goes then; after it one goes as a probe.
    pub rest: Period,
    /// What becomes of records meanwhile.
    pub open: Open,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { failures: 5, rest: Period::secs(10), open: Open::Retry }
    }
}

/// What becomes of records while a breaker is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Open {
    /// They wait, as the stage's `retry` says, and nothing is lost.
    #[default]
    Retry,
    /// They are rejected at once (`circuit_open`), so that one outage does not make every client wait.
    Reject,
}

/// What a host knows us by.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Auth {
    /// A user and a password with each call (RFC 7617).
    Basic(Basic),
    /// A token that does not change (RFC 6750).
    Bearer(Bearer),
    /// A token that is fetched from a URL, and kept until the host does not take it any more.
    Login(Login),
}

/// A user and a password.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Basic {
    /// The user.
    pub username: String,
    /// The password.
    pub password: Secret,
}

/// A token.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bearer {
    /// The token.
    pub token: Secret,
}

/// Where a token is fetched: by a POST of `{"username", "password"}` as JSON.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The URL.
    pub url: String,
    /// The user.
    pub username: String,
    /// The password.
    pub password: Secret,
    /// Where in the answer, which is JSON, the token is: a jq expression.
    #[serde(default = "access_token")]
    pub token: Jq,
    /// Statuses of calls which say that the token is not taken any more: one new token is fetched, and the call made again.
    #[serde(default = "renew_on")]
    #[schemars(length(min = 1, max = 8))]
    pub renew_on: Vec<u16>,
}

fn access_token() -> Jq {
    ".access_token".parse().expect("the expression is right")
}

fn renew_on() -> Vec<u16> {
    vec![401]
}

impl HttpConfig {
    /// Everything that is wrong with it. Calls nobody.
    #[must_use]
    pub fn check(&self, context: StepContext<'_>) -> Vec<String> {
        let mut problems = Vec::new();
        if self.send_value && self.body.is_some() {
            problems.push("send_value: is given beside body; a call has one body".to_owned());
        }
        for (name, value) in &self.headers {
            if let Err(why) = header(name, value) {
                problems.push(format!("headers.{name}: {why}"));
            }
        }
        for name in self.record_headers.keys() {
            if let Err(why) = header_name(name) {
                problems.push(format!("record_headers.{name}: {why}"));
            }
            if self.headers.keys().any(|other| other.eq_ignore_ascii_case(name)) {
                problems.push(format!("record_headers.{name}: is given in headers, too; a call has one of a name"));
            }
        }
        let limit = call_limit(context.call.timeout);
        if self.timeout.0.is_zero() || self.timeout.0 > limit {
            problems.push(format!(
                "timeout: must be above nothing and at most \"{}ms\", nine tenths of the stage's timeout",
                limit.as_millis()
            ));
        }
        if self.connect_timeout.0.is_zero() {
            problems.push("connect_timeout: must be longer than nothing".to_owned());
        }
        if !(1..=256).contains(&self.concurrency) {
            problems.push("concurrency: must be 1 to 256".to_owned());
        }
        if self.response_max.0 == 0 || self.response_max.0 > RESPONSE_MAX.0 {
            problems.push(format!("response_max: must be \"1B\" to \"{RESPONSE_MAX}\""));
        }
        if self.breaker.rest.0.is_zero() || self.breaker.failures == 0 {
            problems.push("breaker: failures must be at least 1 and rest longer than nothing".to_owned());
        }
        problems.extend(self.tls.as_ref().and_then(|tls| tls.authorities(context.dir).err()));
        problems.extend(self.statuses().problems());
        problems.extend(self.auth.iter().flat_map(Auth::problems));
        problems
    }

    /// What builds the step.
    ///
    /// # Errors
    /// Everything that is wrong with the settings.
    pub fn factory(&self, context: StepContext<'_>) -> Result<HttpFactory, Vec<String>> {
        let problems = self.check(context);
        if problems.is_empty() { Ok(HttpFactory::new(self.clone(), context)) } else { Err(problems) }
    }

    fn statuses(&self) -> Statuses {
        Statuses {
            success: self.success.clone(),
            transient: self.transient.clone(),
            poison: self.poison.clone(),
            has_auth: self.auth.is_some(),
        }
    }

    fn breaker(&self) -> BreakerSpec {
        BreakerSpec { failures: self.breaker.failures, rest: self.breaker.rest.0 }
    }
}

impl Auth {
    fn problems(&self) -> Vec<String> {
        match self {
            Self::Basic(_) => Vec::new(),
            Self::Bearer(Bearer { token }) => {
                let is_legal = HeaderValue::from_str(token.expose()).is_ok() && !token.expose().is_empty();
                let problem = "auth.bearer.token: is empty, or has characters that no HTTP header can have";
                if is_legal { Vec::new() } else { vec![problem.to_owned()] }
            }
            Self::Login(login) => {
                let mut problems: Vec<String> =
                    url(&login.url).err().into_iter().map(|why| format!("auth.login.url: {why}")).collect();
                if login.renew_on.iter().any(|status| !(400..=499).contains(status)) {
                    problems.push("auth.login.renew_on: has statuses that are none of 400 to 499".to_owned());
                }
                problems
            }
        }
    }
}

/// How long the calls for one batch may take in all.
fn call_limit(stage: Duration) -> Duration {
    stage.mul_f64(CALL_SHARE)
}

/// A URL that can be called.
fn url(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|why| format!("is no URL: {why}"))?;
    match (url.scheme(), url.host_str()) {
        ("http" | "https", Some(_)) => Ok(url),
        _ => Err("must begin with http:// or https:// and name a host".to_owned()),
    }
}

/// A header that a config may set: none that the call itself sets.
fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    let name = header_name(name)?;
    let value = value.parse().map_err(|_| "has characters that no HTTP header can have".to_owned())?;
    Ok((name, value))
}

/// A header's name that is not one of the call's own.
fn header_name(name: &str) -> Result<HeaderName, String> {
    const OURS: [&str; 6] =
        ["authorization", "content-length", "content-type", "host", "idempotency-key", "transfer-encoding"];
    let parsed: HeaderName = name.parse().map_err(|_| "is no name of an HTTP header".to_owned())?;
    if OURS.contains(&parsed.as_str()) {
        return Err("is set by the call itself; see auth, body and idempotency_key".to_owned());
    }
    Ok(parsed)
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
