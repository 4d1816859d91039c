//! A stage whose workers have processes of their own, from outside: whatever becomes of a process costs one worker and
//! one batch. Never looks inside the daemon but through its ports and the kernel's list of processes.

mod rig;

use bulkhead_testkit::process::{eventually, send};
use rig::{PATIENCE, Rig, Worker, children, runs};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

/// How long a process may outlive the daemon.
const AFTER_ITS_PARENT: Duration = Duration::from_secs(1);

fn ended(reason: &str) -> BTreeMap<String, u64> {
    BTreeMap::from([(reason.to_owned(), 1)])
}

/// Waits until a record that asked for `slow` is being run, and says by whom: that worker holds it.
fn wait_busy(rig: &Rig, id: &str) {
    eventually(&format!("{id} is being run"), PATIENCE, || {
        let runs = rig.daemon.chaos_runs("chaos");
        if runs.contains_key(id) { Ok(()) } else { Err(format!("{} records were run", runs.len())) }
    });
}

/// Sends records of which one asks for `wish` in its first run; everything ends well, and one worker paid.
fn costs_one_worker_and_one_batch(stage: &str, wish: &str, reason: &str) {
    let mut rig = Rig::start(stage);
    rig.post_many(60, "slow:2");
    let culprit = rig.post(wish);
    rig.post_many(60, "slow:2");
    rig.assert_all_completed();
    rig.wait_workers();
    rig.assert_one_reborn();
    rig.assert_one_batch_ran_again(2);
    assert_eq!(rig.daemon.chaos_runs("chaos")[&culprit], 2);
    assert_eq!(rig.ended(), ended(reason));
    assert_eq!(rig.metric("bulkhead_abandoned_threads"), 0.0);
    assert_eq!(children(rig.daemon.pid()).len(), 2, "the dead process was reaped, and replaced");
}

/// Does something to the process of a worker that is at work; everything ends well, and that worker alone paid.
fn hurt(stage: &str, how: &str, reason: &str) {
    let mut rig = Rig::start(stage);
    // Both workers are busy for longer than it takes to hurt one.
    rig.post_many(80, "slow:20");
    let first = rig.post("slow:20");
    wait_busy(&rig, &first);
    let victim: Worker = rig.workers().swap_remove(1);
    rig.post_many(40, "slow:5");
    send(victim.pid, how);
    if how == "SEGV" {
        // Rust's own handler looks whether it is a stack overflow; the fault happens again then, or has to be sent again.
        eventually("it is dead", PATIENCE, || {
            if !runs(victim.pid) {
                return Ok(());
            }
            send(victim.pid, how);
            Err("it lives".to_owned())
        });
    }
    rig.assert_all_completed();
    let replaced = rig.wait_replaced(&victim);
    assert!(!runs(victim.pid) && runs(replaced.pid));
    rig.assert_reborn(&[&victim.path]);
    rig.assert_one_batch_ran_again(2);
    assert_eq!(rig.ended(), ended(reason));
    assert_eq!(rig.metric("bulkhead_abandoned_threads"), 0.0);
    assert_eq!(children(rig.daemon.pid()).len(), 2);
}

#[test]
fn a_kill() {
    hurt("", "KILL", "SIGKILL");
}

#[test]
fn a_segmentation_fault() {
    hurt("", "SEGV", "SIGSEGV");
}

#[test]
fn a_stop() {
    hurt("timeout = \"1s\"", "STOP", "hang");
}

#[test]
fn a_stop_of_one_that_is_to_be_told_more_than_a_socket_holds() {
    let mut rig = Rig::start("timeout = \"1s\"");
    let victim = rig.workers().swap_remove(0);
    send(victim.pid, "STOP");
    (0..40).for_each(|_| drop(rig.post_body("", vec![b'x'; 256 << 10])));
    rig.assert_all_completed();
    rig.wait_replaced(&victim);
    rig.assert_reborn(&[&victim.path]);
    rig.assert_one_batch_ran_again(1);
    assert_eq!(rig.ended(), ended("hang"));
    assert_eq!(rig.metric("bulkhead_abandoned_threads"), 0.0, "the thread that was writing is free again");
}

#[test]
fn an_abort() {
    costs_one_worker_and_one_batch("", "abort:1", "SIGABRT");
}

#[test]
fn a_panic() {
    costs_one_worker_and_one_batch("", "panic:1", "panic");
}

#[test]
fn memory_past_its_limit() {
    costs_one_worker_and_one_batch("memory_max = \"128MiB\"", "grow:1024:1", "memory");
}

#[test]
fn native_code_that_never_returns() {
    costs_one_worker_and_one_batch("timeout = \"1s\"", "spin:1", "hang");
}

#[test]
fn memory_within_its_limit_is_given() {
    let mut rig = Rig::start("memory_max = \"128MiB\"");
    rig.post("grow:64");
    rig.assert_all_completed();
    rig.assert_reborn(&[]);
}

#[test]
fn a_worker_that_writes_rubbish_to_its_socket() {
    let mut rig = Rig::start_with("", |spec, folder| {
        let fake = folder.join("fake-worker.sh");
        // Once: says that it is ready, takes work, answers with what no worker says, and lives on. Then the real one.
        let script = format!(
            "#!/bin/sh\nif mkdir {mark} 2>/dev/null; then\n\
             printf 'BW\\002\\020\\000\\000\\000\\000\\302\\224\\323\\070\\005\\200\\006\\055' >&0\n\
             head -c 20000 >/dev/null\nprintf 'Warning: a library prints where it likes\\n' >&0\nexec sleep 60\nfi\n\
             exec {real} \"$@\"\n",
            mark = folder.join("mark").display(),
            real = spec.binary.display(),
        );
        std::fs::write(&fake, script).expect("a script can be written");
        std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).expect("it can be run");
        spec.arg("--worker").arg(fake.to_str().expect("a test's paths are UTF-8"))
    });
    (0..40).for_each(|_| drop(rig.post_body("slow:2", vec![b'x'; 32 << 10])));
    rig.assert_all_completed();
    rig.wait_workers();
    rig.assert_one_reborn();
    rig.assert_one_batch_ran_again(1);
    assert_eq!(rig.ended(), ended("rubbish"));
    assert!(rig.daemon.output().contains("rubbish came through the socket"), "the log says why");
    assert_eq!(children(rig.daemon.pid()).len(), 2);
}

#[test]
fn a_record_that_always_takes_its_process_along_ends_alone() {
    let mut rig = Rig::start("crashes_max = 2");
    rig.post_many(20, "");
    let culprit = rig.post("abort");
    rig.post_many(20, "");
    for (id, job) in rig.jobs() {
        let expected = if id == culprit { "failed" } else { "completed" };
        assert_eq!(job["status"], expected, "{id}: {job}");
    }
    let (_, job) = rig.daemon.get_json(&rig.daemon.url(&format!("/work/{culprit}")));
    let why = job.to_string();
    assert!(why.contains("crashed_worker") && why.contains("SIGABRT"), "{why}");
    let worst = rig.daemon.chaos_runs("chaos").into_iter().filter(|(id, _)| *id != culprit).map(|(_, runs)| runs).max();
    assert_eq!(worst.map(|worst| worst <= 2), Some(true), "a verdict that was given stays");
    rig.daemon.wait_ready(PATIENCE);
}

#[test]
fn a_death_with_nothing_to_do_is_noticed() {
    let rig = Rig::start("");
    let victim = rig.workers().swap_remove(0);
    send(victim.pid, "KILL");
    let replaced = rig.wait_replaced(&victim);
    assert!(runs(replaced.pid) && replaced.pid != victim.pid);
    rig.assert_reborn(&[&victim.path]);
    assert_eq!(rig.ended(), ended("SIGKILL"));
}

#[test]
fn an_actor_that_is_killed_takes_its_process_along() {
    let mut rig = Rig::start("");
    rig.post_many(40, "slow:10");
    let victim = rig.workers().swap_remove(0);
    rig.daemon.kill_actor(&victim.path);
    let replaced = rig.wait_replaced(&victim);
    assert!(!runs(victim.pid) && runs(replaced.pid));
    rig.assert_all_completed();
    rig.assert_reborn(&[&victim.path]);
    rig.assert_one_batch_ran_again(2);
    assert_eq!(rig.ended(), BTreeMap::new(), "what was ordered is no failure");
}

#[test]
fn no_process_outlives_a_daemon_that_is_killed() {
    let mut rig = Rig::start("");
    let idle = rig.wait_workers();
    // One is in native code and does not look at its socket, the other one stands still.
    let spinning = rig.post("spin");
    wait_busy(&rig, &spinning);
    idle.iter().for_each(|worker| assert!(runs(worker.pid)));
    send(idle[0].pid, "STOP");
    rig.daemon.sigkill();
    let since = Instant::now();
    eventually("no process is left", AFTER_ITS_PARENT, || {
        let left: Vec<&Worker> = idle.iter().filter(|worker| runs(worker.pid)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} after {:?}", since.elapsed())) }
    });
}

#[test]
fn a_daemon_that_died_is_followed_at_once_and_nothing_is_lost() {
    let mut rig = Rig::start("");
    rig.post_many(60, "slow:10");
    rig.daemon.sigkill();
    rig.restart();
    rig.assert_all_completed();
}

#[test]
fn a_drain_finishes_and_leaves_no_process() {
    let mut rig = Rig::start("");
    rig.post_many(40, "slow:5");
    let workers = rig.wait_workers();
    // As a service manager does it: everybody is told, and the daemon decides.
    workers.iter().for_each(|worker| send(worker.pid, "TERM"));
    rig.daemon.sigterm();
    let status = rig.daemon.wait_exit(PATIENCE);
    assert_eq!(status.code(), Some(0), "{}", rig.daemon.output());
    assert!(workers.iter().all(|worker| !runs(worker.pid)));
    assert!(!rig.daemon.output().contains("the worker's process ended"), "{}", rig.daemon.output());
}
