//! The daemon's life: builds the supervision tree, waits for a signal or for the tree's end, and ends in order.
//! Never restarts anything: supervisors do.

use super::health::Health;
use super::monitor::{Monitor, Seen};
use super::pressure::LastSeen;
use super::{Opened, assemble, chat, outbox};
use crate::admin::{self, AdminDeps};
use crate::config::pipeline::OnFailure;
use crate::config::route::RouteKind;
use crate::config::{self as checked, Config};
use crate::exit::Exit;
use crate::gateway::chat::Chats;
use crate::gateway::keys::KeyTable;
use crate::gateway::{self, GatewayDeps, table};
use crate::logging::Losses;
use bulkhead_actors::clock::Clock;
use bulkhead_actors::hints::Hints;
use bulkhead_actors::log::Log;
use bulkhead_actors::metrics::Metrics;
use bulkhead_actors::outbox::Outbox;
use bulkhead_actors::pipeline::Pipeline;
use bulkhead_actors::results::{self, JobStore, Source};
use bulkhead_actors::shell::{self, Body, Lifeline};
use bulkhead_actors::supervisor::{ChildSpec, Root, RootExit, RootHandle, RootOptions, SupervisorSpec};
use bulkhead_core::job_id::JobIds;
use bulkhead_core::jobs;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// How often the tree's own thread shows that it turns.
const PULSE: Duration = Duration::from_millis(500);
/// The name of the tree's root.
const ROOT: &str = "root";

/// What the parts share.
struct Parts {
    clock: Clock,
    metrics: Arc<Metrics>,
    log: Arc<dyn Log>,
    outbox: Option<Arc<Outbox>>,
    chats: Arc<Chats>,
    jobs: Arc<JobStore>,
    pipelines: Arc<[Pipeline]>,
    root: Arc<OnceLock<RootHandle>>,
    draining: Arc<AtomicBool>,
    pulse: Arc<Mutex<Instant>>,
    seen: Arc<Mutex<Seen>>,
    pressure: Arc<LastSeen>,
    losses: Losses,
}

/// Runs until a signal or a failure ends it.
pub(super) async fn serve(opened: Opened) -> Exit {
    let (parts, spec) = match build(&opened) {
        Ok(built) => built,
        Err(why) => {
            tracing::error!("{why}");
            return Exit::Start;
        }
    };
    let abandoned_max = opened.config.daemon.limits.abandoned_max as usize;
    let root = Root::start_with(spec, RootOptions { clock: parts.clock.clone(), abandoned_max });
    parts.root.get_or_init(|| root.clone());
    parts.pipelines.iter().for_each(|pipeline| pipeline.attach(root.clone()));
    drop(actix_rt::spawn(beat(Arc::clone(&parts.pulse))));
    announce(&opened);
    let exit = wait(&opened.config, &parts, &root).await;
    leave(&parts).await;
    tracing::info!(?exit, "stopped");
    exit
}

async fn beat(pulse: Arc<Mutex<Instant>>) {
    let mut ticks = tokio::time::interval(PULSE);
    loop {
        ticks.tick().await;
        *pulse.lock() = Instant::now();
    }
}

fn announce(opened: &Opened) {
    let brokers = &opened.config.daemon.kafka.brokers;
    if brokers.is_empty() {
        tracing::info!("no brokers configured: running on the embedded log, which is for one machine");
        for pipeline in opened.config.pipelines.iter().filter(|pipeline| pipeline.results.is_some()) {
            let pipeline = &*pipeline.name.0;
            tracing::warn!(pipeline, "its results come from outside, where nobody can read or write the embedded log");
        }
    } else {
        tracing::info!(%brokers, "running on Kafka");
    }
    let address =
        |listener: &TcpListener| listener.local_addr().map_or_else(|why| why.to_string(), |at| at.to_string());
    tracing::info!(
        instance = %opened.instance, http = %address(&opened.http), admin = %address(&opened.admin),
        data = %opened.data.path().display(), "serving"
    );
}

/// Waits for the end: a signal drains, a second one kills.
async fn wait(config: &Config, parts: &Parts, root: &RootHandle) -> Exit {
    tokio::select! {
        exit = root.wait() => ended(&exit),
        name = last_straw(config, parts) => {
            tracing::error!(pipeline = %name, "failed, and its on_failure is \"exit\"");
            drop(root.kill_all().await);
            Exit::Failed
        }
        () = told_to_stop() => {
            parts.draining.store(true, Ordering::Release);
            let budget: Duration = config.daemon.limits.drain.0;
            tracing::info!(?budget, "draining; a second signal ends it now");
            tokio::select! {
                exit = root.drain() => ended(&exit),
                () = told_to_stop() => forced(root, "second signal").await,
                () = tokio::time::sleep(budget) => forced(root, "the drain budget ran out").await,
            }
        }
    }
}

/// Waits for the failure of a pipeline that the daemon is not to outlive.
async fn last_straw(config: &Config, parts: &Parts) -> Arc<str> {
    let vital = config.pipelines.iter().zip(&*parts.pipelines).filter(|(of, _)| of.on_failure == OnFailure::Exit);
    let failures: Vec<_> = vital
        .map(|(_, pipeline)| {
            Box::pin(async {
                pipeline.gave_up().await;
                Arc::clone(pipeline.name())
            })
        })
        .collect();
    if failures.is_empty() {
        return std::future::pending().await;
    }
    futures::future::select_all(failures).await.0
}

async fn forced(root: &RootHandle, why: &str) -> Exit {
    tracing::warn!(why, "stopped before it was drained; what was in flight is done again at the next start");
    drop(root.kill_all().await);
    Exit::Forced
}

fn ended(exit: &RootExit) -> Exit {
    match exit {
        RootExit::Drained => Exit::Clean,
        RootExit::Killed => Exit::Forced,
        RootExit::Failed(_) | RootExit::Abandoned(_) | RootExit::Panicked(_) => {
            tracing::error!(?exit, "the root supervisor gave up");
            Exit::Failed
        }
    }
}

/// SIGTERM or SIGINT.
async fn told_to_stop() {
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    match (terminate, interrupt) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        }
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "signals cannot be received; stop this daemon with SIGKILL");
            std::future::pending().await
        }
    }
}

/// Members leave their groups, so that others take over at once.
async fn leave(parts: &Parts) {
    for pipeline in &*parts.pipelines {
        let (name, pipeline) = (Arc::clone(pipeline.name()), pipeline.clone());
        match tokio::task::spawn_blocking(move || pipeline.leave()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(pipeline = %name, %error, "left without a word; the group finds out by itself")
            }
            Err(panic) => tracing::error!(pipeline = %name, %panic, "leaving the group failed"),
        }
    }
}

fn build(opened: &Opened) -> Result<(Parts, SupervisorSpec), String> {
    let (config, metrics, clock) = (&opened.config, Arc::new(Metrics::new()), Clock::real());
    metrics.build_info.with([env!("CARGO_PKG_VERSION")]).set(1);
    let limits = jobs::Limits {
        jobs_max: config.daemon.jobs.jobs_max as usize,
        bytes_max: config.daemon.jobs.bytes_max.bytes(),
        ttl: config.daemon.jobs.ttl.0,
    };
    let pipelines = config.pipelines.iter().map(|pipeline| {
        let hints = assemble::tells_hints(pipeline).then(|| opened.log.producer()).transpose();
        let hints = hints.map_err(|why| why.to_string())?.map(|producer| {
            let left_out = metrics.hints_left_out.with([&*pipeline.name.0]);
            Hints::new(producer, &pipeline.name.0, left_out)
        });
        let spec = assemble::pipeline(config, pipeline, opened.data.path(), hints.as_ref())?;
        let log = Arc::clone(&opened.log);
        Ok(Pipeline::new(spec, log, &opened.instance, clock.clone(), Arc::clone(&metrics)))
    });
    let seen: Arc<Mutex<Seen>> = Arc::default();
    let parts = Parts {
        pressure: Arc::new(LastSeen::new(Arc::clone(&seen), &config.pipelines)),
        losses: opened.losses.clone(),
        pipelines: pipelines.collect::<Result<Vec<_>, String>>()?.into(),
        jobs: Arc::new(JobStore::new(limits, Arc::clone(&metrics))),
        log: Arc::clone(&opened.log),
        outbox: outbox::open(config, opened.data.path(), &metrics).map_err(|why| why.to_string())?,
        chats: Arc::new(chat::chats(opened, &metrics)),
        root: Arc::default(),
        draining: Arc::default(),
        pulse: Arc::new(Mutex::new(Instant::now())),
        seen,
        clock,
        metrics,
    };
    // In start order; a drain goes the other way round, so the admin port tells the truth to the end.
    let mut children = vec![admin_spec(opened, &parts)?];
    children.extend(monitor_specs(&parts));
    children.push(results_spec(config, &parts));
    children.extend(parts.pipelines.iter().map(Pipeline::supervise));
    if let Some(outbox) = &parts.outbox {
        children.extend(outbox::specs(outbox, &*parts.log).map_err(|why| why.to_string())?);
    }
    children.extend(chat::specs(&parts.chats, &parts.log));
    children.push(gateway_spec(opened, &parts)?);
    Ok((parts, SupervisorSpec::new(ROOT, children)))
}

fn admin_spec(opened: &Opened, parts: &Parts) -> Result<ChildSpec, String> {
    let listener = Arc::new(opened.admin.try_clone().map_err(|why| why.to_string())?);
    let health = Health {
        root: Arc::clone(&parts.root),
        pipelines: Arc::clone(&parts.pipelines),
        outbox: parts.outbox.clone(),
        chats: Arc::clone(&parts.chats),
        jobs: Arc::clone(&parts.jobs),
        seen: Arc::clone(&parts.seen),
        pulse: Arc::clone(&parts.pulse),
        draining: Arc::clone(&parts.draining),
    };
    let deps = AdminDeps { source: Arc::new(health), metrics: Arc::clone(&parts.metrics), chaos: opened.config.chaos };
    Ok(ChildSpec::body("admin", move |_| {
        let (listener, deps) = (Arc::clone(&listener), deps.clone());
        Body::thread(move |lifeline| admin::run(&lifeline, &listener, deps))
    }))
}

fn monitor_specs(parts: &Parts) -> [ChildSpec; 2] {
    let monitor = Monitor {
        log: Arc::clone(&parts.log),
        pipelines: Arc::clone(&parts.pipelines),
        metrics: Arc::clone(&parts.metrics),
        seen: Arc::clone(&parts.seen),
        root: Arc::clone(&parts.root),
        pressure: Arc::clone(&parts.pressure),
        losses: parts.losses.clone(),
    };
    let child = |name: &str, run: fn(&Monitor, &Lifeline) -> shell::Exit| {
        let monitor = monitor.clone();
        ChildSpec::body(name, move |_| {
            let monitor = monitor.clone();
            Body::thread(move |lifeline| run(&monitor, &lifeline))
        })
    };
    [child("monitor", Monitor::run), child("topics", Monitor::run_topics)]
}

fn results_spec(config: &Config, parts: &Parts) -> ChildSpec {
    let topics: Arc<[(Arc<str>, Source)]> = job_topics(config, &parts.pipelines).into();
    let (log, jobs) = (Arc::clone(&parts.log), Arc::clone(&parts.jobs));
    ChildSpec::body("results", move |_| {
        let (topics, log, jobs) = (Arc::clone(&topics), Arc::clone(&log), Arc::clone(&jobs));
        Body::thread(move |lifeline| results::run(&lifeline, &log, &topics, &jobs))
    })
}

/// The topics that tell how jobs ended which somebody may ask for; one in which several pipelines' jobs are told of is read once.
fn job_topics(config: &Config, pipelines: &[Pipeline]) -> Vec<(Arc<str>, Source)> {
    let mut topics: Vec<(Arc<str>, Source)> = Vec::new();
    let asked_for = asked_for(config);
    let both = config.pipelines.iter().zip(pipelines);
    for (checked, pipeline) in both.filter(|(checked, _)| asked_for.contains(&*checked.name.0)) {
        for (topic, source) in topics_of(checked, pipeline) {
            if !topics.iter().any(|(known, _)| *known == topic) {
                topics.push((topic, source));
            }
        }
    }
    topics
}

/// The pipelines whose jobs a route tells of, or holds keys against. Reading the results of another one costs a fifth of the
/// processor time that it takes itself (measured with `stream_exactly_once`), and nobody would ever see them.
fn asked_for(config: &Config) -> BTreeSet<&str> {
    let routes = config.pipelines.iter().flat_map(|of| of.routes.iter().map(move |route| (of, route)));
    let names = routes.filter_map(|(of, route)| match &route.does {
        RouteKind::Produce(_) | RouteKind::Chat(_) => Some(&*of.name.0),
        RouteKind::Results(asked) | RouteKind::Events(asked) => Some(&*asked.pipeline.0),
        RouteKind::Page(_) => None,
    });
    names.collect()
}

fn topics_of(checked: &checked::Pipeline, pipeline: &Pipeline) -> Vec<(Arc<str>, Source)> {
    let spec = pipeline.spec();
    let mut topics = vec![(Arc::clone(&spec.dlq.topic), Source::DeadLetters)];
    let own = spec.output.iter().filter(|_| checked.results.is_none()).chain(spec.outputs.values());
    let own = own.filter(|output| output.is_result).map(|output| (Arc::clone(&output.topic), Source::Results));
    topics.extend(own);
    let reported = checked.results.iter().flat_map(|results| &results.topics);
    topics.extend(reported.map(|topic| (Arc::from(topic.0.as_str()), Source::Reports)));
    let ledger = spec.ledger.as_ref().filter(|ledger| table::names_jobs(&ledger.key));
    topics.extend(ledger.map(|ledger| (Arc::clone(&ledger.topic), Source::Ledger)));
    topics
}

fn gateway_spec(opened: &Opened, parts: &Parts) -> Result<ChildSpec, String> {
    let config = &opened.config;
    let listener = Arc::new(opened.http.try_clone().map_err(|why| why.to_string())?);
    let secret = opened.data.secret(config.daemon.jobs.secret.as_ref()).map_err(|why| why.to_string())?;
    let ids = JobIds::new(secret.expose().as_bytes());
    let producer = opened.log.producer().map_err(|why| why.to_string())?;
    let limits = table::limits(&config.daemon);
    let shutdown = limits.drain;
    let deps = GatewayDeps {
        ids,
        producer,
        outbox: parts.outbox.clone(),
        jobs: Arc::clone(&parts.jobs),
        keys: Arc::new(KeyTable::new(table::keys(&config.daemon), parts.clock.clone())),
        tenant_header: config.daemon.http.tenant_header.as_ref().map(|name| name.0.clone()),
        pressure: parts.pressure.clone(),
        chats: Arc::clone(&parts.chats),
        metrics: Arc::clone(&parts.metrics),
        clock: parts.clock.clone(),
        limits,
    };
    let routes = table::routes(config)?;
    let mut spec = ChildSpec::body("gateway", move |_| {
        let (listener, routes, deps) = (Arc::clone(&listener), routes.clone(), deps.clone());
        Body::thread(move |lifeline| gateway::run(&lifeline, &listener, routes, deps))
    });
    spec.shutdown = shutdown;
    Ok(spec)
}
