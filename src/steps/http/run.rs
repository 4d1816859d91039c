//! The step itself: the calls for a batch, some at once, each under its host's breaker. Never changes the order of records,
//! and never makes the calls again that went well when others of the batch did not.

use super::answer::{Meaning, Statuses, fault, is_down, retry_after};
use super::auth::{Credentials, Pass};
use super::call::{Host, read, unanswered};
use super::{HttpConfig, Method, NAME, Open, call_limit, header, url};
use crate::expression::{self, ExpressionLimits, FAILED, Jq, Place, Subject};
use crate::steps::StepContext;
use crate::steps::picture::{JSON, replaced};
use bulkhead_actors::clock::Clock;
use bulkhead_actors::step::{Step, StepFactory};
use bulkhead_core::breaker::{Breakers, Called, Leave, Refusal};
use bulkhead_core::fault::{Fault, FaultClass};
use bulkhead_core::ids::{Offset, Partition};
use bulkhead_core::record::{Header, ID_HEADER, Origin, Record};
use bulkhead_core::verdict::Verdict;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use parking_lot::Mutex;
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Client, Url};
use serde::de::IgnoredAny;
use serde_json::Value;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::runtime::Runtime;

/// The header that names a call, so that a host can tell a repeated one.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The record's header that tells the answer's status.
const STATUS: &str = "http-status";
const CONTENT_TYPE: &str = "content-type";
/// Hosts whose breakers are remembered.
const HOSTS_MAX: usize = 256;
/// Verdicts that are kept for the rest of their batches; more are forgotten, and their calls made again.
const KEPT_MAX: usize = 10_000;

/// Builds the step; its workers share the breakers.
pub struct HttpFactory {
    config: HttpConfig,
    topic: Arc<str>,
    limit: Duration,
    limits: ExpressionLimits,
    hosts: Arc<Hosts>,
    dir: PathBuf,
}

impl HttpFactory {
    pub(super) fn new(config: HttpConfig, context: StepContext<'_>) -> Self {
        let breakers = Mutex::new(Breakers::new(config.breaker(), HOSTS_MAX));
        Self {
            hosts: Arc::new(Hosts { breakers, failures: Mutex::default(), clock: Clock::real() }),
            topic: Arc::from(context.source),
            limit: call_limit(context.call.timeout),
            limits: context.expressions,
            dir: context.dir.to_owned(),
            config,
        }
    }
}

impl StepFactory for HttpFactory {
    fn name(&self) -> &str {
        NAME
    }

    fn build(&self) -> Result<Box<dyn Step>, Fault> {
        let config = &self.config;
        let broken = |why: &dyn std::fmt::Display| Fault::fatal("http_client", why);
        let headers = config.headers.iter().map(|(name, value)| header(name, value)).collect::<Result<HeaderMap, _>>();
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(config.connect_timeout.0)
            .default_headers(headers.map_err(|why| broken(&why))?)
            .user_agent(concat!("bulkhead/", env!("CARGO_PKG_VERSION")));
        let client = match &config.tls {
            Some(tls) => tls.trusting(&self.dir, client).map_err(|why| broken(&why))?,
            None => client,
        };
        let client = client.build().map_err(|why| broken(&why))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|why| broken(&why))?;
        Ok(Box::new(Http {
            runtime,
            caller: Caller {
                client,
                statuses: config.statuses(),
                credentials: Credentials::new(config.auth.clone()),
                config: config.clone(),
                topic: Arc::clone(&self.topic),
                limits: self.limits,
                hosts: Arc::clone(&self.hosts),
            },
            limit: self.limit,
            kept: HashMap::new(),
        }))
    }
}

/// What is known of hosts, by all workers.
struct Hosts {
    breakers: Mutex<Breakers>,
    /// Why a host's last call failed, for who is told that it is not called now.
    failures: Mutex<HashMap<String, String>>,
    clock: Clock,
}

impl Hosts {
    fn admit(&self, host: &Host) -> Result<Leave, Refusal> {
        self.breakers.lock().of(host.as_str()).admit(self.clock.now())
    }

    fn went_well(&self, host: &Host, leave: Leave) {
        self.breakers.lock().of(host.as_str()).report(leave, Called::Well, self.clock.now());
    }

    fn failed(&self, host: &Host, leave: Leave, why: &str) {
        let mut failures = self.failures.lock();
        if failures.len() >= HOSTS_MAX {
            failures.clear();
        }
        failures.insert(host.as_str().to_owned(), why.to_owned());
        drop(failures);
        let mut breakers = self.breakers.lock();
        let breaker = breakers.of(host.as_str());
        let was_open = breaker.is_open();
        breaker.report(leave, Called::Badly, self.clock.now());
        if breaker.is_open() && !was_open {
            tracing::warn!(%host, why, "calls fail: the host is left alone for a while");
        }
    }

    fn leave_alone(&self, host: &Host, span: Duration) {
        self.breakers.lock().of(host.as_str()).ask(self.clock.now() + span);
    }

    fn refused(&self, host: &Host, refusal: Refusal) -> Fault {
        match refusal {
            Refusal::Open(wait) => {
                let why = self.failures.lock().get(host.as_str()).cloned().unwrap_or_default();
                let seconds = wait.as_secs_f64();
                Fault::transient(
                    "circuit_open",
                    format!("not called for {seconds:.1} s, as its last calls failed: {why}"),
                )
            }
            Refusal::Asked(wait) => {
                let seconds = wait.as_secs_f64();
                Fault::transient("http_retry_later", format!("{host} asked not to be called for {seconds:.1} s"))
            }
        }
    }
}

struct Http {
    runtime: Runtime,
    caller: Caller,
    /// How long the calls for one batch may take in all.
    limit: Duration,
    /// Verdicts on records whose batch failed over others.
    kept: HashMap<Which, Verdict>,
}

/// Which record: its source record's place, and which of those that this one became.
type Which = (Partition, Offset, usize);

impl Step for Http {
    fn run(&mut self, records: &[Record], origins: Option<&[Origin]>) -> Result<Vec<Verdict>, Fault> {
        let deadline = Instant::now() + self.limit;
        let places = places(origins);
        let kept: Vec<Option<Verdict>> = (0..records.len()).map(|index| self.kept.remove(places.get(index)?)).collect();
        let caller = &self.caller;
        let calls = records.iter().zip(kept).enumerate().map(|(index, (record, kept))| async move {
            match kept {
                Some(verdict) => Ok(verdict),
                None => caller.serve(record, origins.and_then(|origins| origins.get(index)), deadline).await,
            }
        });
        let at_once = caller.config.concurrency.max(1) as usize;
        let answers: Vec<Result<Verdict, Fault>> =
            self.runtime.block_on(stream::iter(calls).buffered(at_once).collect());
        if answers.iter().all(Result::is_ok) {
            return answers.into_iter().collect();
        }
        let (mut first, mut places) = (None, places.into_iter());
        for answer in answers {
            match (answer, places.next()) {
                (Ok(verdict), Some(place)) if self.kept.len() < KEPT_MAX => drop(self.kept.insert(place, verdict)),
                (Ok(_), _) => {}
                (Err(fault), _) => first = first.or(Some(fault)),
            }
        }
        Err(first.unwrap_or_else(|| Fault::transient("http_failed", "a call failed")))
    }
}

/// What tells the records of a call from one another.
fn places(origins: Option<&[Origin]>) -> Vec<Which> {
    let mut counts: HashMap<(Partition, Offset), usize> = HashMap::new();
    let place = |origin: &Origin| {
        let count = counts.entry((origin.partition, origin.offset)).or_default();
        *count += 1;
        (origin.partition, origin.offset, *count)
    };
    origins.unwrap_or_default().iter().map(place).collect()
}

/// Makes calls.
struct Caller {
    client: Client,
    config: HttpConfig,
    statuses: Statuses,
    credentials: Credentials,
    topic: Arc<str>,
    limits: ExpressionLimits,
    hosts: Arc<Hosts>,
}

/// A call to be made.
struct Call {
    url: Url,
    host: Host,
    headers: HeaderMap,
    body: Option<(Bytes, String)>,
    key: Option<String>,
}

/// An answer that came whole.
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Caller {
    /// The verdict on one record; an error is the batch's.
    async fn serve(&self, record: &Record, origin: Option<&Origin>, deadline: Instant) -> Result<Verdict, Fault> {
        match self.call(record, origin, deadline).await {
            Ok(record) => Ok(Verdict::one(record)),
            Err(fault) if fault.class == FaultClass::Poison => Ok(Verdict::Reject(fault)),
            Err(fault) if fault.code == "circuit_open" && self.config.breaker.open == Open::Reject => {
                Ok(Verdict::Reject(fault))
            }
            Err(fault) => Err(fault),
        }
    }

    async fn call(&self, record: &Record, origin: Option<&Origin>, deadline: Instant) -> Result<Record, Fault> {
        let place = origin.map(|origin| Place { topic: &self.topic, origin: *origin });
        let call = self.prepare(record, place)?;
        let leave = self.hosts.admit(&call.host).map_err(|refusal| self.hosts.refused(&call.host, refusal))?;
        let answered = self.answer(&call, deadline).await;
        let answer = match answered {
            Ok(answer) if is_down(answer.status) && self.statuses.meaning(answer.status) != Meaning::Success => {
                self.hosts.failed(&call.host, leave, &format!("it answered {}", answer.status));
                answer
            }
            Ok(answer) => {
                self.hosts.went_well(&call.host, leave);
                answer
            }
            Err(fault) => {
                match fault.class {
                    FaultClass::Poison => self.hosts.went_well(&call.host, leave),
                    FaultClass::Transient | FaultClass::Fatal => self.hosts.failed(&call.host, leave, &fault.message),
                }
                return Err(fault);
            }
        };
        if let 429 | 503 = answer.status
            && let Some(span) = retry_after(&answer.headers, SystemTime::now(), self.config.retry_after_max.0)
        {
            self.hosts.leave_alone(&call.host, span);
        }
        match self.statuses.meaning(answer.status) {
            Meaning::Success => self.succeeded(record, place, &answer),
            meaning => Err(fault(meaning, call.host.as_str(), answer.status, &answer.body)),
        }
    }

    /// What is to be called, by the config and the record.
    fn prepare(&self, record: &Record, place: Option<Place<'_>>) -> Result<Call, Fault> {
        let subject = Subject::new(record, place)?;
        let text = self.config.url.text_of(&subject, self.limits)?.unwrap_or_default();
        let url = url(&text).map_err(|why| Fault::poison("http_url", format!("the URL made for the record {why}")))?;
        let body = match &self.config.body {
            Some(expression) => {
                let value = expression.one(&subject, self.limits)?;
                Some((self.json(&value)?.into(), JSON.to_owned()))
            }
            None if self.config.send_value => {
                let kind = record.header(CONTENT_TYPE).map(|kind| String::from_utf8_lossy(kind).into_owned());
                let kind = kind.unwrap_or_else(|| "application/octet-stream".to_owned());
                Some((record.value.clone().unwrap_or_default(), kind))
            }
            None => None,
        };
        let key = self.config.idempotency_key.then(|| key(record, place)).flatten();
        Ok(Call { host: Host::in_url(&url), url, headers: self.headers(&subject)?, body, key })
    }

    /// The headers that are made of the record.
    fn headers(&self, subject: &Subject<'_>) -> Result<HeaderMap, Fault> {
        let mut headers = HeaderMap::new();
        for (name, expression) in &self.config.record_headers {
            let Some(text) = expression.text_of(subject, self.limits)? else { continue };
            let (name, value) = header(name, &text)
                .map_err(|why| Fault::poison("http_header", format!("{name}, made for the record, {why}")))?;
            headers.insert(name, value);
        }
        Ok(headers)
    }

    /// Makes the call, once more where a token had run out.
    async fn answer(&self, call: &Call, deadline: Instant) -> Result<Answer, Fault> {
        let mut refused: Option<Pass> = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Fault::transient("http_batch_timeout", "the calls before took all of the stage's time"));
            }
            let limits = (self.config.timeout.0.min(left), self.config.response_max.bytes());
            let pass = self.credentials.pass(&self.client, limits, refused.as_ref()).await?;
            let answer = self.once(call, &pass, limits).await?;
            if refused.is_none() && self.credentials.renews_on(answer.status) {
                refused = Some(pass);
                continue;
            }
            return Ok(answer);
        }
    }

    async fn once(&self, call: &Call, pass: &Pass, (timeout, bytes_max): (Duration, usize)) -> Result<Answer, Fault> {
        let method = match self.config.method {
            Method::Get => reqwest::Method::GET,
            Method::Post => reqwest::Method::POST,
            Method::Put => reqwest::Method::PUT,
            Method::Patch => reqwest::Method::PATCH,
            Method::Delete => reqwest::Method::DELETE,
        };
        let mut request = self.client.request(method, call.url.clone()).timeout(timeout).headers(call.headers.clone());
        if let Some(key) = &call.key {
            request = request.header(IDEMPOTENCY_KEY, key);
        }
        if let Some((body, kind)) = &call.body {
            request = request.header(CONTENT_TYPE, kind).body(body.clone());
        }
        let answer = self.credentials.on(request, pass).send().await.map_err(|why| {
            if why.is_builder() {
                Fault::poison("http_request", "the record makes no request")
            } else {
                unanswered(&call.host, &why)
            }
        })?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = read(answer, bytes_max).await?;
        Ok(Answer { status, headers, body })
    }

    fn json(&self, value: &expression::Value) -> Result<Vec<u8>, Fault> {
        value.to_json(self.limits.bytes_max).map_err(|why| Fault::poison(FAILED, why))
    }

    /// The record that goes on.
    fn succeeded(&self, record: &Record, place: Option<Place<'_>>, answer: &Answer) -> Result<Record, Fault> {
        let mut made = match &self.config.response {
            None => record.clone(),
            Some(expression) => replaced(record, self.reply(expression, record, place, answer)?, JSON),
        };
        made.headers.retain(|header| header.name != STATUS.as_bytes());
        made.headers.push(Header::new(STATUS, answer.status.to_string()));
        Ok(made)
    }

    /// What the config makes of the answer: the expression sees the record's key, headers and place, and the answer as its
    /// value.
    fn reply(
        &self,
        expression: &Jq,
        record: &Record,
        place: Option<Place<'_>>,
        answer: &Answer,
    ) -> Result<Vec<u8>, Fault> {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers: serde_json::Map<String, Value> =
            answer.headers.iter().map(|(name, value)| (name.to_string(), text(value).into())).collect();
        let head = format!("{{\"status\":{},\"headers\":{},\"body\":", answer.status, Value::Object(headers));
        let seen = [head.as_bytes(), &body(&answer.body), b"}"].concat();
        let seen = replaced(record, seen, JSON);
        let subject = Subject::new(&seen, place)?;
        let value = expression.one(&subject, self.limits)?;
        self.json(&value)
    }
}

/// JSON as it is, digit by digit; anything else as text; nothing as `null`.
fn body(bytes: &[u8]) -> Vec<u8> {
    if bytes.is_empty() {
        return b"null".to_vec();
    }
    match serde_json::from_slice::<IgnoredAny>(bytes) {
        Ok(_) => bytes.to_vec(),
        Err(_) => Value::from(String::from_utf8_lossy(bytes)).to_string().into_bytes(),
    }
}

/// What names a record's call: its id, else its place.
fn key(record: &Record, place: Option<Place<'_>>) -> Option<String> {
    let id = record.header(ID_HEADER).and_then(|id| std::str::from_utf8(id).ok());
    let is_legal = |id: &&str| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic());
    let by_place = || {
        let Place { topic, origin } = place?;
        Some(format!("{topic}/{}/{}", origin.partition, origin.offset))
    };
    id.filter(is_legal).map(str::to_owned).or_else(by_place)
}
