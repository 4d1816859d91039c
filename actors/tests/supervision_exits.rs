//! Each way for a thread body and a task body to end, and what its supervisor makes of it. Never waits on real time.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod supervision_support;

use bulkhead_actors::shell::{Body, Exit};
use bulkhead_actors::supervisor::{ChildSpec, RestartPolicy, RootExit, RootHandle, SupervisorSpec};
use bulkhead_core::ids::Incarnation;
use std::time::Duration;
use supervision_support::{
    Act, Puppet, StillClock, assert_nobody_left, in_state, incarnation, last_restart, pass_until, runs, settle, start,
};

type MakeBody = fn(&Puppet) -> Body;
const BOTH: [(&str, MakeBody); 2] = [("thread", Puppet::thread), ("task", Puppet::task)];

/// A tree of the puppet and a bystander, who must never notice anything.
async fn tree(puppet: &Puppet, body: MakeBody, restart: RestartPolicy) -> RootHandle {
    let puppet = puppet.clone();
    let victim = ChildSpec {
        restart,
        heartbeat: Some(Duration::from_millis(40)),
        ..ChildSpec::body("victim", move |_| body(&puppet))
    };
    let bystander = ChildSpec::body("bystander", |_| Puppet::default().thread());
    let mut spec = SupervisorSpec::new("root", vec![victim, bystander]);
    spec.kill_grace = Duration::from_millis(10);
    start(spec, &["victim", "bystander"]).await
}

async fn end(root: RootHandle) {
    assert_eq!(incarnation(&root, "bystander"), 1, "a bystander was touched");
    assert_eq!(root.drain().await, RootExit::Drained);
    assert_nobody_left(&root);
}

#[actix_rt::test]
async fn a_normal_end_brings_a_permanent_child_back_and_leaves_a_transient_one_down() {
    let _clock = StillClock::new();
    for (kind, body) in BOTH {
        let puppet = Puppet::default();
        let root = tree(&puppet, body, RestartPolicy::Permanent).await;
        puppet.act(Act::Exit(Exit::Done));
        runs(&root, "victim", 2).await;
        assert_eq!(last_restart(&root, "victim"), "done", "{kind}");
        end(root).await;

        let root = tree(&puppet, body, RestartPolicy::Transient).await;
        puppet.act(Act::Exit(Exit::Done));
        in_state(&root, "victim", "stopped").await;
        end(root).await;

        let root = tree(&puppet, body, RestartPolicy::Temporary).await;
        puppet.fail();
        root.gone("victim").await;
        end(root).await;
    }
}

#[actix_rt::test]
async fn an_error_is_a_restart_with_its_reason() {
    let _clock = StillClock::new();
    for (kind, body) in BOTH {
        let puppet = Puppet::default();
        let root = tree(&puppet, body, RestartPolicy::Transient).await;
        puppet.fail();
        runs(&root, "victim", 2).await;
        assert_eq!(last_restart(&root, "victim"), "fatal: on_command: the test said so", "{kind}");
        end(root).await;
    }
}

#[actix_rt::test]
async fn a_panic_is_survived_and_a_restart_with_message_and_place() {
    const { assert!(cfg!(panic = "unwind"), "supervision needs unwinding") };
    let _clock = StillClock::new();
    for (kind, body) in BOTH {
        let puppet = Puppet::default();
        let root = tree(&puppet, body, RestartPolicy::Permanent).await;
        puppet.panic();
        runs(&root, "victim", 2).await;
        let reason = last_restart(&root, "victim");
        assert!(reason.starts_with("panic: on command (") && reason.contains("mod.rs:"), "{kind}: {reason}");
        end(root).await;
    }
}

#[actix_rt::test]
async fn a_kill_is_a_restart_charged_to_nobody() {
    let _clock = StillClock::new();
    for (kind, body) in BOTH {
        let puppet = Puppet::default();
        let root = tree(&puppet, body, RestartPolicy::Permanent).await;
        for next in 2..=40 {
            root.kill("victim").unwrap();
            runs(&root, "victim", next).await;
        }
        assert_eq!(last_restart(&root, "victim"), "killed", "{kind}");
        end(root).await;
    }
}

#[actix_rt::test]
async fn a_hung_thread_is_abandoned_replaced_and_counted_and_its_late_answer_no_longer_counts() {
    let clock = StillClock::new();
    let puppet = Puppet::default();
    let root = tree(&puppet, Puppet::thread, RestartPolicy::Permanent).await;
    puppet.act(Act::Hang);
    puppet.says("hangs").await;
    pass_until(&clock, &root, "victim", 2).await;
    assert_eq!(last_restart(&root, "victim"), "hung");
    assert_eq!(root.abandoned(), (1, 1));
    puppet.release();
    assert_eq!(puppet.says("down").await, (Incarnation(1), "down", false), "its late answer still counted");
    while root.abandoned().0 > 0 {
        settle().await;
    }
    assert_eq!(root.abandoned(), (0, 1));
    end(root).await;
}

#[actix_rt::test]
async fn a_hung_task_is_dropped_and_replaced() {
    let clock = StillClock::new();
    let puppet = Puppet::default();
    let root = tree(&puppet, Puppet::task, RestartPolicy::Permanent).await;
    puppet.act(Act::Hang);
    puppet.says("hangs").await;
    pass_until(&clock, &root, "victim", 2).await;
    assert_eq!(last_restart(&root, "victim"), "hung");
    assert_eq!(root.abandoned(), (0, 0), "a task can be killed");
    assert_eq!(puppet.words(), ["up", "hangs", "up"]);
    end(root).await;
}

#[actix_rt::test]
async fn an_idle_body_need_not_beat() {
    let clock = StillClock::new();
    for (kind, body) in BOTH {
        let puppet = Puppet::default();
        let root = tree(&puppet, body, RestartPolicy::Permanent).await;
        puppet.says("up").await;
        clock.pass(1_000).await;
        assert_eq!(incarnation(&root, "victim"), 1, "{kind}");
        end(root).await;
    }
}
