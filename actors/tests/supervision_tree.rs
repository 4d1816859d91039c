//! Trees: restart budgets and their failure, strategies, children that come and go, drains, and the death of a
//! supervisor itself. Never waits on real time.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod supervision_support;

use bulkhead_actors::shell::{Body, Charge, Exit, Signal};
use bulkhead_actors::supervisor::{
    Backoff, ChildSpec, ControlError, OnFailed, RestartPolicy, Root, RootExit, RootHandle, RootOptions, StopOrder,
    Strategy, SupervisorSpec, SupervisorState,
};
use bulkhead_core::fault::Fault;
use bulkhead_core::ids::Incarnation;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use supervision_support::{
    Act, Puppet, StillClock, assert_nobody_left, in_state, incarnation, last_restart, runs, start,
};

const MS: Duration = Duration::from_millis(1);

fn worker(id: &str, puppet: &Puppet) -> ChildSpec {
    let puppet = puppet.clone();
    ChildSpec::body(id, move |_| puppet.thread())
}

/// A root over a bystander and a pipeline that fails by itself past two crashes.
async fn pipeline(puppet: &Puppet, on_failed: OnFailed, states: &Arc<Mutex<Vec<SupervisorState>>>) -> RootHandle {
    let (puppet, states) = (puppet.clone(), Arc::clone(states));
    let pipeline = ChildSpec::supervisor("pipeline/p", move || {
        let children = vec![worker("lane", &Puppet::default()), worker("stage/s", &puppet)];
        let mut spec = SupervisorSpec::new("", children);
        (spec.intensity, spec.on_failed) = (2, on_failed);
        spec.backoff = Backoff { base: MS, max: MS, healthy: MS * 1_000 };
        let states = Arc::clone(&states);
        spec.on_state = Some(Arc::new(move |state| states.lock().unwrap().push(state)));
        spec
    });
    let spec = SupervisorSpec::new("root", vec![worker("bystander", &Puppet::default()), pipeline]);
    start(spec, &["bystander", "pipeline/p/lane", "pipeline/p/stage/s"]).await
}

async fn crash(root: &RootHandle, clock: &StillClock, puppet: &Puppet, path: &str, times: u32) {
    for _ in 0..times {
        let next = incarnation(root, path) + 1;
        puppet.panic();
        root.until(path, |actor| {
            actor.is_some_and(|actor| actor.state == "backoff" || actor.incarnation == Incarnation(next))
        })
        .await;
        clock.pass(2).await;
        runs(root, path, next).await;
    }
}

#[actix_rt::test]
async fn past_its_budget_a_pipeline_is_failed_and_is_tried_again_while_its_siblings_live() {
    let clock = StillClock::new();
    let (puppet, states) = (Puppet::default(), Arc::default());
    let root = pipeline(&puppet, OnFailed::Retry(MS * 500), &states).await;
    crash(&root, &clock, &puppet, "pipeline/p/stage/s", 2).await;
    puppet.panic();
    in_state(&root, "pipeline/p", "failed").await;
    in_state(&root, "pipeline/p/lane", "stopped").await;
    clock.pass(490).await;
    assert_eq!(root.actor("pipeline/p").unwrap().state, "failed");
    clock.pass(20).await;
    runs(&root, "pipeline/p/stage/s", 4).await;
    runs(&root, "pipeline/p/lane", 2).await;
    assert_eq!((incarnation(&root, "pipeline/p"), incarnation(&root, "bystander")), (1, 1));
    // Its budget is fresh.
    crash(&root, &clock, &puppet, "pipeline/p/stage/s", 2).await;
    assert_eq!(*states.lock().unwrap(), [SupervisorState::Failed, SupervisorState::Running]);
    assert_eq!(root.drain().await, RootExit::Drained);
    assert_nobody_left(&root);
}

#[actix_rt::test]
async fn a_supervisor_that_escalates_is_restarted_by_its_own_and_its_children_count_on() {
    let clock = StillClock::new();
    let puppet = Puppet::default();
    let root = pipeline(&puppet, OnFailed::Escalate, &Arc::default()).await;
    crash(&root, &clock, &puppet, "pipeline/p/stage/s", 2).await;
    puppet.panic();
    runs(&root, "pipeline/p", 2).await;
    runs(&root, "pipeline/p/stage/s", 4).await;
    let reason = last_restart(&root, "pipeline/p");
    let expected = "fatal: restart_budget_spent: more than 2 crashes in 30s, the last: pipeline/p/stage/s: panic";
    assert!(reason.starts_with(expected), "{reason}");
    assert_eq!(incarnation(&root, "bystander"), 1);
    assert_eq!(root.kill_all().await, RootExit::Killed);
    assert_nobody_left(&root);
}

#[actix_rt::test]
async fn the_root_past_its_budget_is_the_end_of_the_tree() {
    let clock = StillClock::new();
    let puppet = Puppet::default();
    let mut spec = SupervisorSpec::new("root", vec![worker("a", &puppet), worker("b", &Puppet::default())]);
    spec.intensity = 1;
    let root = start(spec, &["a", "b"]).await;
    crash(&root, &clock, &puppet, "a", 1).await;
    puppet.fail();
    let RootExit::Failed(fault) = root.wait().await else { panic!("the root did not fail") };
    assert_eq!(fault.code, "restart_budget_spent");
    assert_nobody_left(&root);
}

#[actix_rt::test]
async fn a_culprits_crashes_are_charged_to_its_record() {
    let _clock = StillClock::new();
    let puppet = Puppet::default();
    let seen: Arc<Mutex<Vec<(Incarnation, Exit)>>> = Arc::default();
    let book = Arc::clone(&seen);
    let mut victim = worker("victim", &puppet);
    victim.on_exit = Box::new(move |incarnation, exit| {
        book.lock().unwrap().push((incarnation, exit.clone()));
        Charge::Culprit
    });
    let root = start(SupervisorSpec::new("root", vec![victim]), &["victim"]).await;
    for next in 2..=30 {
        puppet.fail();
        runs(&root, "victim", next).await;
        let (last, exit) = seen.lock().unwrap().last().cloned().unwrap();
        assert_eq!(last, Incarnation(next - 1), "on_exit runs before the next incarnation");
        assert!(matches!(exit, Exit::Failed(_)));
    }
    assert_eq!(root.drain().await, RootExit::Drained);
    assert_nobody_left(&root);
}

/// Three children that note in one book when they come and go.
fn trio(strategy: Strategy, stop_order: StopOrder) -> (SupervisorSpec, Arc<Mutex<Vec<String>>>, [Puppet; 3]) {
    let book: Arc<Mutex<Vec<String>>> = Arc::default();
    let puppets: [Puppet; 3] = Default::default();
    let children = ["a", "b", "c"].iter().zip(&puppets).map(|(id, puppet)| {
        let (puppet, book, end) = (puppet.clone(), Arc::clone(&book), Arc::clone(&book));
        let mut spec = ChildSpec::body(*id, move |incarnation| {
            book.lock().unwrap().push(format!("{id}{incarnation} up"));
            puppet.thread()
        });
        spec.shutdown = MS * 100;
        spec.on_exit = Box::new(move |incarnation, _| {
            end.lock().unwrap().push(format!("{id}{incarnation} down"));
            Charge::Crash
        });
        spec
    });
    let mut spec = SupervisorSpec::new("root", children.collect());
    (spec.strategy, spec.stop_order, spec.kill_grace) = (strategy, stop_order, MS * 20);
    (spec, book, puppets)
}

#[actix_rt::test]
async fn rest_for_one_brings_back_those_that_depend_on_the_dead_in_start_order() {
    let _clock = StillClock::new();
    let (spec, book, [_, b, _]) = trio(Strategy::RestForOne, StopOrder::Reverse);
    let root = start(spec, &["a", "b", "c"]).await;
    book.lock().unwrap().clear();
    b.fail();
    runs(&root, "c", 2).await;
    assert_eq!(*book.lock().unwrap(), ["b1 down", "c1 down", "b2 up", "c2 up"]);
    assert_eq!(incarnation(&root, "a"), 1);
    assert_eq!(last_restart(&root, "c"), "killed");
    assert_eq!(root.drain().await, RootExit::Drained);
    assert_nobody_left(&root);
}

#[actix_rt::test]
async fn a_drain_goes_backwards_one_by_one_and_kills_who_exceeds_his_budget() {
    let clock = StillClock::new();
    let (spec, book, [_, b, _]) = trio(Strategy::OneForOne, StopOrder::Reverse);
    let root = start(spec, &["a", "b", "c"]).await;
    b.act(Act::Hang);
    b.says("hangs").await;
    book.lock().unwrap().clear();
    root.signal(Signal::Drain);
    root.until("c", |actor| actor.is_some_and(|actor| actor.state == "stopped")).await;
    clock.pass(90).await;
    assert_eq!(root.actor("a").unwrap().state, "running", "a is told when b is down, not before");
    clock.pass(40).await;
    assert_eq!(root.wait().await, RootExit::Drained);
    assert_eq!(*book.lock().unwrap(), ["c1 down", "b1 down", "a1 down"]);
    assert_eq!(root.abandoned(), (1, 1));
    b.release();
    b.says("down").await;
    while root.threads() > 0 {
        tokio::task::yield_now().await;
    }
    assert_nobody_left(&root);
}

#[actix_rt::test]
async fn a_drain_together_tells_all_at_once() {
    let clock = StillClock::new();
    let (spec, book, [a, b, c]) = trio(Strategy::OneForOne, StopOrder::Together);
    let root = start(spec, &["a", "b", "c"]).await;
    for puppet in [&a, &b, &c] {
        puppet.act(Act::Hang);
        puppet.says("hangs").await;
    }
    book.lock().unwrap().clear();
    root.signal(Signal::Drain);
    clock.pass(130).await;
    assert_eq!(root.wait().await, RootExit::Drained, "one budget after all, not three");
    assert_eq!(book.lock().unwrap().len(), 3);
    [a, b, c].iter().for_each(Puppet::release);
    while root.threads() > 0 {
        tokio::task::yield_now().await;
    }
    assert_nobody_left(&root);
}

#[actix_rt::test]
async fn children_come_and_go_while_the_tree_runs() {
    let _clock = StillClock::new();
    let partitions = ChildSpec::supervisor("partitions", || SupervisorSpec::new("", Vec::new()));
    let root = Root::start(SupervisorSpec::new("root", vec![partitions]));
    root.add("root", worker("early", &Puppet::default())).unwrap();
    runs(&root, "early", 1).await;
    assert!(root.turns().await);
    for n in 0..100 {
        root.add("partitions", worker(&format!("{n}"), &Puppet::default())).unwrap();
    }
    for n in 0..100 {
        runs(&root, &format!("partitions/{n}"), 1).await;
    }
    let again = root.add("partitions", worker("7", &Puppet::default()));
    assert_eq!(again, Err(ControlError::Taken("partitions/7".to_owned())));
    for n in 0..100 {
        root.remove(&format!("partitions/{n}"), if n % 2 == 0 { Signal::Drain } else { Signal::Kill }).unwrap();
    }
    for n in 0..100 {
        root.gone(&format!("partitions/{n}")).await;
    }
    assert_eq!(root.threads(), 1, "only the early one");
    root.add("partitions", worker("7", &Puppet::default())).unwrap();
    runs(&root, "partitions/7", 2).await;
    assert_eq!(root.kill("nobody"), Err(ControlError::NoSuchActor("nobody".to_owned())));
    assert_eq!(root.kill("root"), Err(ControlError::Root("root".to_owned())));
    let under = root.add("partitions/7", worker("x", &Puppet::default()));
    assert_eq!(under, Err(ControlError::NotASupervisor("partitions/7".to_owned())));
    assert_eq!(root.drain().await, RootExit::Drained);
    assert_nobody_left(&root);
}

#[actix_rt::test]
async fn a_factory_that_fails_or_panics_is_a_crash_of_its_child() {
    let clock = StillClock::new();
    let built = AtomicU32::new(0);
    let child = ChildSpec {
        restart: RestartPolicy::Permanent,
        // Nobody may be blamed for what was never built but the child itself.
        on_exit: Box::new(|_, _| Charge::Culprit),
        ..ChildSpec::new("late", move |_| match built.fetch_add(1, Ordering::SeqCst) {
            0 => Err(Fault::fatal("model_missing", "no such file")),
            1 => panic!("in the factory"),
            _ => Ok(bulkhead_actors::supervisor::Child::Body(Puppet::default().thread())),
        })
    };
    let root = Root::start(SupervisorSpec::new("root", vec![child]));
    in_state(&root, "late", "backoff").await;
    assert_eq!(last_restart(&root, "late"), "fatal: model_missing: no such file");
    clock.pass(100).await;
    runs(&root, "late", 3).await;
    assert!(last_restart(&root, "late").starts_with("panic: in the factory ("));
    assert_eq!(root.drain().await, RootExit::Drained);
    assert_nobody_left(&root);
}

#[actix_rt::test]
async fn more_abandoned_threads_than_allowed_end_the_tree() {
    let clock = StillClock::new();
    let puppet = Puppet::default();
    let mut child = worker("stuck", &puppet);
    child.heartbeat = Some(MS * 20);
    let mut spec = SupervisorSpec::new("root", vec![child]);
    spec.kill_grace = MS;
    let root = Root::start_with(spec, RootOptions { abandoned_max: 1, ..RootOptions::default() });
    for next in 1..=2 {
        puppet.act(Act::Hang);
        puppet.says_times("hangs", next).await;
        while root.abandoned().0 < next {
            clock.pass(1).await;
        }
    }
    assert_eq!(root.wait().await, RootExit::Abandoned(2));
    puppet.release();
    root.signal(Signal::Kill);
    root.gone("root").await;
    while root.threads() > 0 {
        tokio::task::yield_now().await;
    }
    assert_nobody_left(&root);
}

#[actix_rt::test]
async fn the_tree_reads_as_json() {
    let _clock = StillClock::new();
    let puppet = Puppet::default();
    let mut child = worker("stage/s", &puppet);
    child.observe = Some(Arc::new(|| serde_json::json!({ "in_flight": 3, "state": "not overridden" })));
    let root =
        start(SupervisorSpec::new("root", vec![worker("z", &Puppet::default()), child]), &["stage/s", "z"]).await;
    root.kill("stage/s").unwrap();
    runs(&root, "stage/s", 2).await;
    let mut tree = root.tree();
    let at = tree["children"][1]["restarts"][0]["at_ms"].take();
    assert!(at.as_i64().is_some_and(|ms| ms > 1_600_000_000_000), "unix milliseconds");
    let worker = |id: &str| {
        serde_json::json!({ "id": id, "kind": "worker", "state": "running", "incarnation": 1, "restarts": [],
            "restarts_total": 0, "children": [] })
    };
    let mut killed = worker("stage/s");
    killed["incarnation"] = 2.into();
    killed["restarts"] = serde_json::json!([{ "at_ms": null, "reason": "killed" }]);
    (killed["restarts_total"], killed["in_flight"]) = (1.into(), 3.into());
    let mut expected = worker("root");
    expected["kind"] = "supervisor".into();
    expected["children"] = serde_json::json!([worker("z"), killed]);
    assert_eq!(tree, expected);
    assert_eq!(root.drain().await, RootExit::Drained);
    assert_nobody_left(&root);
}

/// The operating system's word on how many threads of this name there are.
fn os_threads(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    // A thread may end between the listing and the look at it.
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|comm| comm.trim_end() == name).count()
}

#[actix_rt::test]
async fn a_thousand_restarts_leave_no_thread_behind() {
    let _clock = StillClock::new();
    let victim = Puppet::default();
    let root = start(SupervisorSpec::new("root", vec![worker("victim-of-1000", &victim)]), &["victim-of-1000"]).await;
    for next in 2..=1_001 {
        root.kill("victim-of-1000").unwrap();
        runs(&root, "victim-of-1000", next).await;
        assert_eq!(root.threads(), 1);
    }
    assert_eq!(root.actor("victim-of-1000").unwrap().restarts_total, 1_000);
    assert_eq!(root.tree()["children"][0]["restarts"].as_array().unwrap().len(), 16);
    assert_eq!(root.drain().await, RootExit::Drained);
    // The body has ended; its thread needs a moment to.
    while os_threads("victim-of-1000") > 0 {
        std::thread::yield_now();
    }
    assert_nobody_left(&root);
}

#[actix_rt::test]
async fn a_supervisor_that_is_killed_comes_back_with_all_its_children() {
    let _clock = StillClock::new();
    let puppet = Puppet::default();
    let root = pipeline(&puppet, OnFailed::Escalate, &Arc::default()).await;
    for next in 2..=10 {
        root.kill("pipeline/p").unwrap();
        runs(&root, "pipeline/p/lane", next).await;
        runs(&root, "pipeline/p/stage/s", next).await;
    }
    assert_eq!(incarnation(&root, "bystander"), 1);
    assert_eq!(root.drain().await, RootExit::Drained);
    assert_nobody_left(&root);
}

/// A supervisor whose own actor falls: `on_exit` is its own code, and panics.
async fn fragile(body: impl Fn(Incarnation) -> Body + Send + Clone + 'static, others: &Puppet) -> RootHandle {
    let others = others.clone();
    let fragile = ChildSpec::supervisor("fragile", move || {
        let mut trap = ChildSpec::body("trap", body.clone());
        trap.on_exit = Box::new(|_, _| panic!("in the supervisor"));
        SupervisorSpec::new("", vec![worker("other", &others), trap])
    });
    let mut spec = SupervisorSpec::new("root", vec![worker("bystander", &Puppet::default()), fragile]);
    spec.kill_grace = MS * 30;
    start(spec, &["bystander", "fragile/other", "fragile/trap"]).await
}

#[actix_rt::test]
async fn a_supervisor_that_falls_takes_its_children_with_it_and_comes_back() {
    let _clock = StillClock::new();
    let (puppet, other) = (Puppet::default(), Puppet::default());
    let trap = puppet.clone();
    let root = fragile(move |_| trap.thread(), &other).await;
    puppet.act(Act::Exit(Exit::Done));
    runs(&root, "fragile/other", 2).await;
    runs(&root, "fragile/trap", 2).await;
    let reason = last_restart(&root, "fragile");
    assert!(reason.starts_with("panic: in the supervisor ("), "{reason}");
    other.says_times("up", 2).await;
    assert_eq!(other.words(), ["up", "down", "up"], "never two at a time");
    assert_eq!(incarnation(&root, "bystander"), 1);
    assert_eq!(root.drain().await, RootExit::Drained);
    assert_nobody_left(&root);
}

#[actix_rt::test]
async fn a_fallen_supervisors_hung_child_is_abandoned() {
    let clock = StillClock::new();
    let (puppet, other) = (Puppet::default(), Puppet::default());
    let trap = puppet.clone();
    let root = fragile(move |_| trap.thread(), &other).await;
    other.act(Act::Hang);
    other.says("hangs").await;
    puppet.act(Act::Exit(Exit::Done));
    in_state(&root, "fragile", "draining").await;
    clock.pass(40).await;
    runs(&root, "fragile/other", 2).await;
    assert_eq!(root.abandoned(), (1, 1));
    other.release();
    assert_eq!(other.says("down").await, (Incarnation(1), "down", false));
    while root.abandoned().0 > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(root.kill_all().await, RootExit::Killed);
    assert_nobody_left(&root);
}
