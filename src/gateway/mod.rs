//! The gateway: takes records over HTTP and tells what became of them. Never acknowledges what is not durable, and never
//! holds more than its limits allow, whatever clients send.

mod accept;
mod client;
mod jobs;
pub mod keys;
mod observe;
pub mod problem;
mod results;
pub mod route;
pub mod shell;
pub mod table;
pub mod unread;
mod upload;

use actix_web::dev::{Server, ServerHandle};
use actix_web::http::Method;
use actix_web::middleware::from_fn;
use actix_web::{App, HttpRequest, HttpServer, web};
use bulkhead_actors::clock::Clock;
use bulkhead_actors::log::Producer;
use bulkhead_actors::metrics::Metrics;
use bulkhead_actors::results::JobStore;
use bulkhead_actors::shell::{Exit, Lifeline};
use bulkhead_core::job_id::JobIds;
use keys::KeyTable;
use problem::Problem;
use route::{Accept, Action, Results, Route};
use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

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
    /// How long a request's head may take, and how long an idle connection is kept.
    pub head_timeout: Duration,
    /// How long a body may take.
    pub body_timeout: Duration,
    /// How long the log may take to acknowledge a record.
    pub ack_timeout: Duration,
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
            head_timeout: Duration::from_secs(5),
            body_timeout: Duration::from_secs(30),
            ack_timeout: Duration::from_secs(10),
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
    /// Knows what became of jobs.
    pub jobs: Arc<JobStore>,
    /// Knows which idempotency keys were taken.
    pub keys: Arc<KeyTable>,
    /// The header that names a request's tenant, where there are tenants.
    pub tenant_header: Option<String>,
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
        self.shared.draining.store(true, Ordering::Relaxed);
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
    jobs: Arc<JobStore>,
    keys: Arc<KeyTable>,
    tenant_header: Option<String>,
    metrics: Arc<Metrics>,
    clock: Clock,
    limits: Limits,
    requests: Semaphore,
    room: Semaphore,
    draining: AtomicBool,
}

impl Shared {
    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
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
    let GatewayDeps { ids, producer, jobs, keys, tenant_header, metrics, clock, limits } = deps;
    let shared = Arc::new(Shared {
        ids,
        producer,
        jobs,
        keys,
        tenant_header,
        metrics,
        clock,
        limits: limits.clone(),
        requests: Semaphore::new(limits.requests_max.min(Semaphore::MAX_PERMITS)),
        room: Semaphore::new(accept::permits(limits.bodies_bytes_max) as usize),
        draining: AtomicBool::new(false),
    });
    let table = Arc::new(by_path(&routes));
    let served = Arc::clone(&shared);
    let server = HttpServer::new(move || {
        let (metrics, shared, table) = (Arc::clone(&served.metrics), Arc::clone(&served), Arc::clone(&table));
        App::new()
            .wrap(from_fn(problem::as_documents))
            .wrap(from_fn(unread::close))
            .wrap(from_fn(move |request, next| observe::count(Arc::clone(&metrics), request, next)))
            .configure(move |app| configure(app, &shared, &table))
            .default_service(web::to(|request: HttpRequest| async move {
                Err::<&str, Problem>(Problem::not_found(request.path()))
            }))
    })
    .workers(limits.workers.max(1))
    .max_connections(limits.connections_max.div_ceil(limits.workers.max(1)))
    .client_request_timeout(limits.head_timeout)
    .keep_alive(limits.head_timeout)
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
}

/// A route that takes records.
struct Intake {
    /// Its path, which is part of the ids that come from idempotency keys.
    path: String,
    route: Accept,
    /// What surrounds the job id in the path of its result, where that is served.
    location: Option<(String, String)>,
}

fn by_path(routes: &[Route]) -> Table {
    let mut table = Table::new();
    for Route { method, path, action } in routes {
        let served = match action {
            Action::Results(results) => Served::Results(Arc::new(results.clone())),
            Action::Accept(accept) => {
                let location = routes.iter().find_map(|route| route.around_job_id(&accept.jobs.pipeline));
                Served::Accept(Arc::new(Intake { path: path.clone(), route: accept.clone(), location }))
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
            let answer = results::serve(&shared, &route, &request);
            async move { answer }
        }),
    }
}
