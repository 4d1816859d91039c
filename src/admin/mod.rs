//! The admin port: health, metrics and the tree of actors, for operators. Never serves clients; it has no
//! authentication, so it binds loopback unless the config says otherwise.

pub mod source;

use crate::gateway::problem::{self, Problem};
use crate::gateway::{shell, unread};
use actix_web::dev::Server;
use actix_web::http::{StatusCode, header};
use actix_web::middleware::from_fn;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use bulkhead_actors::metrics::{self, Metrics};
use bulkhead_actors::shell::{Exit, Lifeline};
use serde_json::{Value, json};
use source::AdminSource;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

/// Operators and scrapers are few.
const CONNECTIONS_MAX: usize = 256;
/// How long a request's head may take; a probe that takes longer has failed anyway.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// What the admin port works with.
#[derive(Clone)]
pub struct AdminDeps {
    /// What the daemon tells.
    pub source: Arc<dyn AdminSource>,
    /// What `/metrics` shows.
    pub metrics: Arc<Metrics>,
    /// Whether actors may be killed from here (`--chaos`).
    pub chaos: bool,
}

/// The body of the admin port's actor. The listener outlives it.
pub fn run(lifeline: &Lifeline, listener: &TcpListener, deps: AdminDeps) -> Exit {
    shell::serve(lifeline, || start(listener.try_clone()?, deps))
}

/// Makes an admin port on this listener; it serves once the server is awaited.
///
/// # Errors
/// The listener cannot be used.
pub fn start(listener: TcpListener, deps: AdminDeps) -> io::Result<Server> {
    let server = HttpServer::new(move || {
        let deps = deps.clone();
        App::new()
            .wrap(from_fn(problem::as_documents))
            .wrap(from_fn(unread::close))
            .configure(move |app| configure(app, &deps))
            .default_service(web::to(|request: HttpRequest| async move {
                Err::<&str, Problem>(Problem::not_found(request.path()))
            }))
    })
    .workers(1)
    .max_connections(CONNECTIONS_MAX)
    .client_request_timeout(HEAD_TIMEOUT)
    .keep_alive(HEAD_TIMEOUT)
    .shutdown_timeout(1)
    .disable_signals()
    .listen(listener)?;
    Ok(server.run())
}

fn configure(app: &mut web::ServiceConfig, deps: &AdminDeps) {
    let get = |app: &mut web::ServiceConfig, path: &str, answer: fn(&AdminDeps) -> HttpResponse| {
        let deps = deps.clone();
        let handler = web::get().to(move || {
            let response = answer(&deps);
            async move { response }
        });
        app.service(web::resource(path).route(handler).default_service(not_allowed("GET")));
    };
    get(app, "/live", live);
    get(app, "/ready", ready);
    get(app, "/progress", progress);
    get(app, "/metrics", scrape);
    get(app, "/actors", |deps| HttpResponse::Ok().json(deps.source.actors()));
    get(app, "/version", |_| HttpResponse::Ok().json(json!({ "version": env!("CARGO_PKG_VERSION") })));
    if deps.chaos {
        get(app, "/chaos/runs", |deps| HttpResponse::Ok().json(deps.source.runs()));
        let source = Arc::clone(&deps.source);
        let kill = web::post().to(move |actor: web::Path<String>| {
            let killed = kill(&*source, &actor);
            async move { killed }
        });
        app.service(web::resource("/chaos/kill/{actor:.+}").route(kill).default_service(not_allowed("POST")));
    }
}

fn not_allowed(allow: &'static str) -> actix_web::Route {
    web::to(move |request: HttpRequest| async move {
        Err::<&str, Problem>(Problem::method_not_allowed(request.method().as_str(), allow))
    })
}

/// The document with 200 where all is well, else with 503; never kept by anything in between.
fn health(ok: bool, document: Value) -> HttpResponse {
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    HttpResponse::build(status).insert_header((header::CACHE_CONTROL, "no-store")).json(document)
}

fn live(deps: &AdminDeps) -> HttpResponse {
    let ok = deps.source.live();
    health(ok, json!({ "ok": ok }))
}

fn ready(deps: &AdminDeps) -> HttpResponse {
    let statuses = deps.source.ready();
    // A daemon that names no condition has not looked: that is not ready.
    let ok = !statuses.is_empty() && statuses.iter().all(|status| status.ok);
    health(ok, json!({ "ok": ok, "statuses": statuses }))
}

/// A daemon whose log is away has no partitions that could be stuck, and does not work all the same.
fn progress(deps: &AdminDeps) -> HttpResponse {
    let (standstill, partitions) = (deps.source.standstill(), deps.source.progress());
    let stuck: Vec<_> = partitions.iter().filter(|partition| !partition.is_ok()).collect();
    let ok = standstill.is_empty() && stuck.is_empty();
    health(ok, json!({ "ok": ok, "standstill": standstill, "stuck": stuck, "partitions": partitions }))
}

fn scrape(deps: &AdminDeps) -> HttpResponse {
    HttpResponse::Ok().content_type(metrics::CONTENT_TYPE).body(deps.metrics.render())
}

fn kill(source: &dyn AdminSource, actor: &str) -> Result<HttpResponse, Problem> {
    source.kill(actor).map_err(|reason| {
        Problem::new(StatusCode::NOT_FOUND, "unknown-actor", "Unknown actor", format!("{actor:?}: {reason}"))
    })?;
    tracing::warn!(actor, "killed by order of the admin port");
    Ok(HttpResponse::Ok().json(json!({ "killed": actor })))
}
