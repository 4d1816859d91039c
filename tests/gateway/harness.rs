//! A gateway on a free port, with a producer that does what a test wants. Never touches a real log.

use actix_web::http::Method;
use bulkhead::config::load::Options;
use bulkhead::config::{Config, Overrides};
use bulkhead::gateway::admission::{Pressure, Refusal};
use bulkhead::gateway::answer::Answers;
use bulkhead::gateway::keys::KeyTable;
use bulkhead::gateway::route::{Accept, Action, Body, Idempotency, InProgress, JobsOf, Key, Results, Route};
use bulkhead::gateway::{self, GatewayDeps, GatewayHandle, Limits, table};
use bulkhead_actors::clock::Clock;
use bulkhead_actors::log::{LogError, Outgoing, Producer};
use bulkhead_actors::metrics::Metrics;
use bulkhead_actors::results::JobStore;
use bulkhead_core::idempotency::KeyLimits;
use bulkhead_core::ids::{Offset, Partition};
use bulkhead_core::job_id::{JobIds, Scope};
use bulkhead_core::jobs;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use reqwest::blocking::{Client, Response, multipart};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

/// The scope of the ids that this gateway issues.
pub(crate) const SCOPE: Scope<'_> = Scope { tenant: "", pipeline: "digits" };
/// The body limit of `/api/classify`.
pub(crate) const BODY_MAX: usize = 1 << 20;
/// The record limit of its topic: less than a body may have.
pub(crate) const RECORD_MAX: usize = 3 * BODY_MAX / 4;
/// How long records of `/orders/` are worth working on.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// A PNG by its first bytes.
pub(crate) const PNG: &[u8] = b"\x89PNG\r\n\x1a\nthe rest is for the decoder";

/// How long an answer may wait for a job.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(60);

/// What keeps records out, as a test wants it.
#[derive(Default)]
pub(crate) struct Pressed(pub Mutex<Option<Refusal>>);

impl Pressure for Pressed {
    fn refuses(&self, _: &str) -> Option<Refusal> {
        *self.0.lock()
    }
}

/// What the producer does with a record.
#[derive(Clone)]
pub(crate) enum Sends {
    /// Acknowledges it.
    Acknowledge,
    /// Fails.
    Fail(LogError),
    /// Never answers.
    Hang,
    /// Tells the test that it has the record and acknowledges when the test says so.
    Hold(Arc<Mutex<mpsc::Sender<tokio::sync::oneshot::Sender<()>>>>),
}

/// A producer that keeps what it acknowledged.
pub(crate) struct Recorder {
    pub sends: Mutex<Sends>,
    pub sent: Arc<Mutex<Vec<Outgoing>>>,
}

impl Producer for Recorder {
    fn send(&self, outgoing: Outgoing) -> BoxFuture<'static, Result<(Partition, Offset), LogError>> {
        let (sends, sent) = (self.sends.lock().clone(), Arc::clone(&self.sent));
        async move {
            match sends {
                Sends::Acknowledge => {}
                Sends::Fail(error) => return Err(error),
                Sends::Hang => std::future::pending().await,
                Sends::Hold(held) => {
                    let (release, released) = tokio::sync::oneshot::channel();
                    held.lock().send(release).expect("the test waits for the record");
                    released.await.expect("the test releases the record");
                }
            }
            let mut sent = sent.lock();
            sent.push(outgoing);
            Ok((Partition(0), Offset(sent.len() as i64 - 1)))
        }
        .boxed()
    }

    fn record_bytes_max(&self, _: &str) -> usize {
        RECORD_MAX
    }
}

/// A gateway that serves until it is dropped.
pub(crate) struct Edge {
    pub address: SocketAddr,
    pub producer: Arc<Recorder>,
    pub jobs: Arc<JobStore>,
    pub ids: JobIds,
    pub pressure: Arc<Pressed>,
    pub metrics: Arc<Metrics>,
    pub handle: GatewayHandle,
    pub thread: Option<JoinHandle<()>>,
}

fn jobs_of(pipeline: &str) -> JobsOf {
    JobsOf { pipeline: pipeline.into(), claims: None }
}

fn routes() -> Vec<Route> {
    let accept = |body, accept, body_bytes_max, key: Key, is_strict| {
        let (jobs, topic) = (jobs_of("digits"), Arc::from("digits.in"));
        let ttl = Some(Duration::from_secs(3_600));
        let in_progress = if is_strict { InProgress::Conflict } else { InProgress::Replay };
        let idempotency = Idempotency { is_required: is_strict, in_progress, ttl, ..Idempotency::default() };
        let (wait_max, steps, log_records, waits) = (WAIT_MAX, None, false, false);
        let deadline = (key == Key::Header("customer".into())).then_some(DEADLINE);
        Accept {
            jobs,
            topic,
            body,
            body_bytes_max,
            accept,
            fields: Vec::new(),
            key,
            steps,
            schema: None,
            deadline,
            idempotency,
            waits,
            wait_max,
            answers: Answers::default(),
            outbox: None,
            log_records,
        }
    };
    let (file, pictures) = (Body::File { field: "file".into() }, vec!["image/png".to_owned(), "image/jpeg".to_owned()]);
    let of = |pipeline: &str| Results { jobs: jobs_of(pipeline), variable: "jobId".into(), wait_max: WAIT_MAX };
    let route = |method, path: &str, action| Route { method, path: path.into(), summary: None, action };
    let takes = |path: &str, accept| route(Method::POST, path, Action::Accept(accept));
    let classify = accept(file, pictures, BODY_MAX, Key::JobId, false);
    vec![
        takes("/api/classify", classify.clone()),
        takes("/sync/classify", Accept { waits: true, ..classify }),
        takes("/orders/", accept(Body::Whole, vec![], 100, Key::Header("customer".into()), false)),
        takes("/payments/", accept(Body::Whole, vec![], 100, Key::JobId, true)),
        route(Method::GET, "/api/results/{jobId}", Action::Results(of("digits"))),
        route(Method::GET, "/api/results/{jobId}/events", Action::Events(of("digits"))),
        route(Method::GET, "/api/other/{jobId}", Action::Results(of("other"))),
    ]
}

impl Edge {
    pub(crate) fn start() -> Self {
        Self::limited(Limits { workers: 1, ..Limits::default() })
    }

    pub(crate) fn limited(limits: Limits) -> Self {
        Self::with(limits, None)
    }

    /// Whose clients name their tenant in this header.
    pub(crate) fn with_tenants(header: &str) -> Self {
        Self::with(Limits { workers: 1, ..Limits::default() }, Some(header.to_owned()))
    }

    pub(crate) fn with(limits: Limits, tenant_header: Option<String>) -> Self {
        Self::of(limits, tenant_header, routes())
    }

    /// With the routes of a pipeline's file, as a config describes them; its steps may break things on purpose.
    pub(crate) fn configured(pipeline: &str, limits: Limits) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(dir.path().join("pipelines")).expect("a folder");
        std::fs::write(dir.path().join("pipelines/it.toml"), pipeline).expect("written");
        let options = Options { variables: &|_| None, overrides: Overrides::default(), chaos: true };
        let (config, warnings) = Config::load(dir.path(), &options).expect("a config without problems");
        assert!(warnings.is_empty(), "{warnings:?}");
        Self::of(limits, None, table::routes(&config).expect("steps that can be built"))
    }

    fn of(limits: Limits, tenant_header: Option<String>, routes: Vec<Route>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let metrics = Arc::new(Metrics::new());
        let kept = jobs::Limits { jobs_max: 100, bytes_max: 1 << 20, ttl: Duration::from_secs(3_600) };
        let jobs = Arc::new(JobStore::new(kept, Arc::clone(&metrics)));
        let producer = Arc::new(Recorder { sends: Mutex::new(Sends::Acknowledge), sent: Arc::default() });
        let ids = JobIds::new(b"the secret of this test");
        let pressure = Arc::new(Pressed::default());
        let limit = KeyLimits { keys_max: 100, ttl: kept.ttl };
        let deps = GatewayDeps {
            keys: Arc::new(KeyTable::new(limit, Clock::real())),
            tenant_header,
            chats: Arc::default(),
            pressure: pressure.clone(),
            ids: ids.clone(),
            producer: producer.clone(),
            outbox: None,
            jobs: Arc::clone(&jobs),
            metrics: Arc::clone(&metrics),
            clock: Clock::real(),
            limits,
        };
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            actix_rt::System::new().block_on(async {
                let gateway = gateway::start(listener, routes, deps).expect("the listener is ours");
                tell.send(gateway.handle).expect("the test waits");
                gateway.server.await.expect("serves");
            });
        });
        let handle = told.recv().expect("the gateway starts");
        Self { address, producer, jobs, ids, pressure, metrics, handle, thread: Some(thread) }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Posts this file in this field to `/api/classify`.
    pub(crate) fn upload(&self, field: &'static str, file: impl Into<Vec<u8>>) -> Response {
        let part = multipart::Part::bytes(file.into()).file_name("x.png");
        self.post_form(multipart::Form::new().part(field, part))
    }

    pub(crate) fn post_form(&self, form: multipart::Form) -> Response {
        Client::new().post(self.url("/api/classify")).multipart(form).send().expect("answered")
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        reqwest::blocking::get(self.url(path)).expect("answered")
    }

    /// The records that were acknowledged.
    pub(crate) fn sent(&self) -> Vec<Outgoing> {
        self.producer.sent.lock().clone()
    }

    /// Writes these bytes and reads the answer until the gateway closes.
    pub(crate) fn raw(&self, chunks: impl Iterator<Item = Vec<u8>>) -> Raw {
        let mut stream = TcpStream::connect(self.address).expect("listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket option");
        for chunk in chunks {
            // A refused body is not read to its end: at some point the gateway closes while we still write.
            if stream.write_all(&chunk).is_err() {
                break;
            }
        }
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            answer.extend_from_slice(&buffer[..n]);
        }
        Raw { answer: String::from_utf8_lossy(&answer).into_owned() }
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let handle = self.handle.clone();
        actix_rt::System::new().block_on(async move { handle.drain().await });
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(matches!(ended, None | Some(Ok(()))), "the gateway's thread ends well");
        }
    }
}

/// What came back over a bare socket.
pub(crate) struct Raw {
    pub answer: String,
}

impl Raw {
    pub(crate) fn status(&self) -> &str {
        self.answer.split(' ').nth(1).unwrap_or_default()
    }

    pub(crate) fn problem(&self) -> Value {
        let body = self.answer.split("\r\n\r\n").nth(1).unwrap_or_default();
        serde_json::from_str(body).unwrap_or_else(|e| panic!("no JSON ({e}) in {:?}", self.answer))
    }
}

/// The document of a response that must be a problem.
pub(crate) fn problem(response: Response) -> Value {
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    response.json().expect("a JSON document")
}
