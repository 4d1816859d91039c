//! The gateway: takes records over HTTP and tells what became of them. Never acknowledges what is not durable, and never
//! holds more than its limits allow, whatever clients send.

mod accept;
pub mod admission;
pub mod answer;
pub mod chat;
mod client;
mod connections;
pub mod docs;
pub mod edge;
mod events;
pub mod fields;
pub mod files;
mod jobs;
pub mod keys;
mod many;
mod observe;
pub mod openapi;
pub mod problem;
mod results;
pub mod route;
pub mod shell;
mod split;
mod store;
pub mod table;
pub mod unread;
mod upload;

use actix_web::dev::{Server, ServerHandle};
use actix_web::guard::fn_guard;
use actix_web::http::Method;
use actix_web::middleware::from_fn;
use actix_web::{App, HttpRequest, HttpServer, web};
use admission::Pressure;
use bulkhead_actors::clock::Clock;
use bulkhead_actors::log::Producer;
use bulkhead_actors::metrics::Metrics;
use bulkhead_actors::outbox::Outbox;
use bulkhead_actors::results::JobStore;
use bulkhead_actors::shell::{Exit, Lifeline};
use bulkhead_core::job_id::{JobId, JobIds};
use bulkhead_core::rate::{Rate, RateSpec};
use chat::Chats;
use chat::ask::Ask;
use chat::messages::Messages;
use chat::socket::Socket;
use connections::Connections;
use files::StaticFile;
use keys::KeyTable;
use parking_lot::Mutex;
use problem::Problem;
use route::{Accept, Action, Results, Route};
use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// How long a refused client may go on sending before its connection is closed, so that it can read why.
const LINGER: Duration = Duration::from_secs(1);
/// When it makes sense to ask again for a job that is not done, seconds.
const RETRY_AFTER_S: u64 = 1;

/// What bounds the gateway.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Threads that serve requests.
    pub workers: usize,
    /// Open connections; more wait in the listener's backlog.
    pub connections_max: usize,
    /// Records being taken at a time; further requests are told to come back.
    pub requests_max: usize,
    /// Bytes of bodies held at a time, those that wait for the log's acknowledgement included.
    pub bodies_bytes_max: usize,
    /// Parts that a multipart body may have.
    pub parts_max: usize,
    /// How long a request's head may take.
    pub head_timeout: Duration,
    /// How long a body may take.
    pub body_timeout: Duration,
    /// How long a connection may be without a request.
    pub idle_timeout: Duration,
    /// How long the log may take to acknowledge a record.
    pub ack_timeout: Duration,
    /// Threads that run routes' steps.
    pub steps_threads: usize,
    /// How long a route's steps may take, their wait for a thread included.
    pub steps_timeout: Duration,
    /// How often one client may send records; `None`: as often as it likes.
    pub rate: Option<RateSpec>,
    /// Requests that wait for a job at a time, streams of events among them.
    pub waiting_max: usize,
    /// How long a stream of events is silent at most.
    pub heartbeat: Duration,
    /// How long a stream of events lasts at most; its client comes again.
    pub stream_max: Duration,
    /// How long requests in progress may take to end when the gateway drains.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            workers: 2,
            connections_max: 4096,
            requests_max: 1024,
            bodies_bytes_max: 256 << 20,
            parts_max: 8,
            head_timeout: Duration::from_secs(5),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(30),
            ack_timeout: Duration::from_secs(10),
            steps_threads: 8,
            steps_timeout: Duration::from_secs(5),
            rate: None,
            waiting_max: 1024,
            heartbeat: Duration::from_secs(15),
            stream_max: Duration::from_secs(600),
            drain: Duration::from_secs(10),
        }
    }
}

/// What the gateway works with.
#[derive(Clone)]
pub struct GatewayDeps {
    /// Issues and verifies job ids.
    pub ids: JobIds,
    /// Takes the records.
    pub producer: Arc<dyn Producer>,
    /// Takes those of routes that have one while the log is away; `None` where the log is in this process.
    pub outbox: Option<Arc<Outbox>>,
    /// Knows what became of jobs.
    pub jobs: Arc<JobStore>,
    /// Knows which idempotency keys were taken.
    pub keys: Arc<KeyTable>,
    /// The header that names a request's tenant, where there are tenants.
    pub tenant_header: Option<String>,
    /// Feeds sockets and serves queues.
    pub chats: Arc<Chats>,
    /// Knows when no records can be taken.
    pub pressure: Arc<dyn Pressure>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Says when a record was accepted.
    pub clock: Clock,
    /// Bounds.
    pub limits: Limits,
}

/// A gateway that serves once its server is awaited.
pub struct Gateway {
    /// Serves until it is stopped or dropped; await it.
    pub server: Server,
    /// Stops it from elsewhere.
    pub handle: GatewayHandle,
}

/// Stops a gateway.
#[derive(Clone)]
pub struct GatewayHandle {
    shared: Arc<Shared>,
    server: ServerHandle,
}

impl GatewayHandle {
    /// Refuses records from now on; what became of jobs is still told. For the time in which others learn that this
    /// daemon is about to go.
    pub fn refuse(&self) {
        self.shared.draining.send_replace(true);
    }

    /// Closes the listener and returns when the requests in progress have ended, or the drain time is over.
    pub async fn drain(&self) {
        self.refuse();
        self.server.stop(true).await;
    }
}

/// What all requests share.
struct Shared {
    ids: JobIds,
    producer: Arc<dyn Producer>,
    outbox: Option<Arc<Outbox>>,
    jobs: Arc<JobStore>,
    keys: Arc<KeyTable>,
    tenant_header: Option<String>,
    chats: Arc<Chats>,
    pressure: Arc<dyn Pressure>,
    metrics: Arc<Metrics>,
    clock: Clock,
    limits: Limits,
    rate: Option<Mutex<Rate>>,
    requests: Semaphore,
    room: Semaphore,
    waiting: Arc<Semaphore>,
    steps: edge::Pool,
    draining: watch::Sender<bool>,
}

/// One request less that waits, however it ended.
struct Waiting(Arc<Metrics>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.http_waiting.with([]).dec();
    }
}

impl Shared {
    fn new(deps: GatewayDeps) -> Self {
        let GatewayDeps { ids, producer, outbox, jobs, keys, tenant_header, chats, pressure, metrics, clock, limits } =
            deps;
        Self {
            ids,
            producer,
            outbox,
            jobs,
            keys,
            tenant_header,
            chats,
            pressure,
            clock,
            rate: limits.rate.map(|spec| Mutex::new(Rate::new(spec))),
            requests: Semaphore::new(limits.requests_max.min(Semaphore::MAX_PERMITS)),
            room: Semaphore::new(accept::permits(limits.bodies_bytes_max) as usize),
            waiting: Arc::new(Semaphore::new(limits.waiting_max.min(Semaphore::MAX_PERMITS))),
            steps: {
                let overdue = metrics.edge_steps_overdue.with([]);
                edge::Pool::new(limits.steps_threads, limits.steps_timeout, overdue)
            },
            draining: watch::channel(false).0,
            metrics,
            limits,
        }
    }

    fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Resolves when this gateway is about to go.
    async fn drained(&self) {
        let told = self.draining.subscribe().wait_for(|is_draining| *is_draining).await.is_ok();
        debug_assert!(told, "the sender lives as long as what is shared");
    }

    fn count_waiting(&self) -> Waiting {
        self.metrics.http_waiting.with([]).inc();
        Waiting(Arc::clone(&self.metrics))
    }
}

/// The body of the gateway's actor. The listener outlives it, so that connections wait for the next incarnation.
pub fn run(lifeline: &Lifeline, listener: &TcpListener, routes: Vec<Route>, deps: GatewayDeps) -> Exit {
    shell::serve(lifeline, || {
        let Gateway { server, handle } = start(listener.try_clone()?, routes, deps)?;
        lifeline.on_signal(move || handle.refuse());
        Ok(server)
    })
}

/// Makes a gateway on this listener.
///
/// # Errors
/// The listener cannot be used.
pub fn start(listener: TcpListener, routes: Vec<Route>, deps: GatewayDeps) -> io::Result<Gateway> {
    let shared = Arc::new(Shared::new(deps));
    let limits = shared.limits.clone();
    let connections = Connections::new(limits.idle_timeout + limits.head_timeout);
    drop(actix_web::rt::spawn(Connections::watch(Arc::downgrade(&connections))));
    let table = Arc::new(by_path(&routes, shared.outbox.as_deref()));
    let served = Arc::clone(&shared);
    let server = HttpServer::new(move || {
        let (metrics, shared, table) = (Arc::clone(&served.metrics), Arc::clone(&served), Arc::clone(&table));
        App::new()
            .wrap(from_fn(problem::as_documents))
            .wrap(from_fn(unread::close))
            .wrap(from_fn(connections::keep))
            .wrap(from_fn(move |request, next| observe::count(Arc::clone(&metrics), request, next)))
            .configure(move |app| configure(app, &shared, &table))
            .default_service(web::to(|request: HttpRequest| async move {
                Err::<&str, Problem>(Problem::not_found(request.path()))
            }))
    })
    .on_connect(move |stream, data| connections.opened(stream, data))
    .workers(limits.workers.max(1))
    .max_connections(limits.connections_max.div_ceil(limits.workers.max(1)))
    .client_request_timeout(limits.head_timeout)
    .keep_alive(limits.idle_timeout)
    .client_disconnect_timeout(LINGER)
    .shutdown_timeout(limits.drain.as_secs().max(1))
    .disable_signals()
    .listen(listener)?
    .run();
    let handle = GatewayHandle { shared, server: server.handle() };
    Ok(Gateway { server, handle })
}

type Table = BTreeMap<String, Vec<(Method, Served)>>;

/// What a route does, with what it needs to do it.
#[derive(Clone)]
enum Served {
    Accept(Arc<Intake>),
    Results(Arc<Results>),
    Events(Arc<Results>),
    File(Arc<StaticFile>),
    Ask(Arc<Asking>),
    Socket(Arc<Socket>),
    Messages(Arc<Messages>),
    Acks(Arc<Messages>),
}

/// A route that takes queries.
struct Asking {
    path: String,
    route: Ask,
    /// As of [`Intake`].
    location: Option<(String, String)>,
}

/// A route that takes records.
struct Intake {
    /// Its path, which is part of the ids that come from idempotency keys.
    path: String,
    route: Accept,
    /// What surrounds the job id in the path of its result, where that is served.
    location: Option<(String, String)>,
    /// Takes the records where the log does not.
    fallback: Option<store::Fallback>,
}

impl Intake {
    /// The path of the job's result, where that is served.
    fn place(&self, id: JobId) -> Option<String> {
        self.location.as_ref().map(|(before, after)| format!("{before}{id}{after}"))
    }
}

fn by_path(routes: &[Route], outbox: Option<&Outbox>) -> Table {
    let mut table = Table::new();
    for Route { method, path, action, .. } in routes {
        let served = match action {
            Action::Results(results) => Served::Results(Arc::new(results.clone())),
            Action::Events(results) => Served::Events(Arc::new(results.clone())),
            Action::File(file) => Served::File(Arc::clone(file)),
            Action::Socket(socket) => Served::Socket(Arc::new(socket.clone())),
            Action::Messages(messages) => Served::Messages(Arc::new(messages.clone())),
            Action::Acks(messages) => Served::Acks(Arc::new(messages.clone())),
            Action::Ask(ask) => {
                let location = routes.iter().find_map(|route| route.around_job_id(&ask.jobs.pipeline));
                Served::Ask(Arc::new(Asking { path: path.clone(), route: ask.clone(), location }))
            }
            Action::Accept(accept) => {
                let location = routes.iter().find_map(|route| route.around_job_id(&accept.jobs.pipeline));
                let fallback = accept.outbox.as_ref().zip(outbox).and_then(|(of, outbox)| {
                    Some(store::Fallback { queue: Arc::clone(outbox.queue(&of.queue)?), after: of.after })
                });
                Served::Accept(Arc::new(Intake { path: path.clone(), route: accept.clone(), location, fallback }))
            }
        };
        table.entry(path.clone()).or_default().push((method.clone(), served));
    }
    table
}

fn configure(app: &mut web::ServiceConfig, shared: &Arc<Shared>, table: &Table) {
    for (path, methods) in table {
        let allow = methods.iter().map(|(method, _)| method.as_str()).collect::<Vec<_>>().join(", ");
        let mut resource = web::resource(path.as_str());
        for (method, served) in methods {
            resource = resource.route(handler(method.clone(), Arc::clone(shared), served.clone()));
        }
        app.service(resource.default_service(web::to(move |request: HttpRequest| {
            let problem = Problem::method_not_allowed(request.method().as_str(), &allow);
            async move { Err::<&str, Problem>(problem) }
        })));
    }
}

fn handler(method: Method, shared: Arc<Shared>, served: Served) -> actix_web::Route {
    match served {
        Served::Accept(intake) => web::method(method).to(move |request: HttpRequest, payload: web::Payload| {
            let (shared, intake) = (Arc::clone(&shared), Arc::clone(&intake));
            async move { accept::serve(&shared, &intake, request, payload).await }
        }),
        Served::Results(route) => web::method(method).to(move |request: HttpRequest| {
            let (shared, route) = (Arc::clone(&shared), Arc::clone(&route));
            async move { results::serve(&shared, &route, &request).await }
        }),
        Served::Ask(asking) => web::method(method).to(move |request: HttpRequest, payload: web::Payload| {
            let (shared, asking) = (Arc::clone(&shared), Arc::clone(&asking));
            async move {
                let Asking { path, route, location } = &*asking;
                chat::ask::serve(&shared, route, path, location.as_ref(), request, payload).await
            }
        }),
        Served::Socket(route) => web::method(method).to(move |request: HttpRequest, payload: web::Payload| {
            let answer = chat::socket::serve(&shared, &route, &request, payload);
            async move { answer }
        }),
        Served::Messages(route) => web::method(method).to(move |request: HttpRequest| {
            let (shared, route) = (Arc::clone(&shared), Arc::clone(&route));
            async move { chat::messages::next(&shared, &route, &request).await }
        }),
        Served::Acks(route) => web::method(method).to(move |request: HttpRequest, payload: web::Payload| {
            let (shared, route) = (Arc::clone(&shared), Arc::clone(&route));
            async move { chat::messages::done(&shared, &route, &request, payload).await }
        }),
        Served::Events(route) => web::method(method).to(move |request: HttpRequest| {
            let answer = events::serve(&shared, &route, &request);
            async move { answer }
        }),
        // Whoever may have a file may ask whether it changed.
        Served::File(file) => {
            web::route().guard(fn_guard(|of| files::is_asked(&of.head().method))).to(move |request: HttpRequest| {
                let answer = files::serve(&file, &request);
                async move { answer }
            })
        }
    }
}
