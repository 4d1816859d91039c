//! `restart`: a stage's worker is killed under a steady load. How long until the partition that it held settles again,
//! and what the others notice of it. `restart_process`: the same where the stage runs the digits model in processes, and
//! one of those is sent a SIGKILL. Never kills more than one worker at a time.

use crate::report::{Figure, Report, median, quantile};
use crate::{isolation, stream};
use bulkhead_testkit::daemon::{ActorRow, Daemon, DaemonSpec};
use bulkhead_testkit::kafka::Kafka;
use bulkhead_testkit::process::{eventually, send};
use bulkhead_testkit::topics::Isolation;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Message, Offset, TopicPartitionList};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

const PARTITIONS: i32 = 4;
const TICK: Duration = Duration::from_millis(10);
/// How long latencies are taken after a kill, and in quiet.
const WINDOW: Duration = Duration::from_secs(1);
const WARM_UP: Duration = Duration::from_secs(5);

/// Who is killed, and over which work.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    /// An actor whose step does nothing.
    Actor,
    /// A process that runs the digits model.
    Process,
}

impl Case {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Actor => "restart",
            Self::Process => "restart_process",
        }
    }

    /// Records a second and partition.
    const fn rate(self) -> u32 {
        match self {
            Self::Actor => 500,
            Self::Process => 20,
        }
    }

    fn config(self, folder: &Path) -> PathBuf {
        let source = format!("{}.in", self.name());
        match self {
            Self::Actor => stream::write_config(folder, self.name(), &source, ""),
            Self::Process => isolation::write_config(folder, self.name(), &source, "process", true),
        }
    }

    /// What records hold; which one it is, their key says.
    fn value(self) -> Vec<u8> {
        match self {
            Self::Actor => b"a record".to_vec(),
            Self::Process => isolation::samples().swap_remove(0),
        }
    }

    /// Kills one of the stage's workers, another one each time, once all of them work: one that crashed before may still
    /// wait to come back.
    fn kill(self, daemon: &Daemon, kill: usize) {
        let workers = eventually("all workers work", Duration::from_secs(30), || {
            let actors = daemon.actors().into_iter();
            let workers: Vec<_> = actors.filter(|(id, _)| id.contains("stage") && id.contains("worker")).collect();
            let works =
                |actor: &ActorRow| actor.state == "running" && (self == Self::Actor || actor.page["pid"].is_u64());
            let all = !workers.is_empty() && workers.iter().all(|(_, actor)| works(actor));
            if all { Ok(workers) } else { Err(format!("{workers:?}")) }
        });
        let (id, actor) = &workers[kill % workers.len()];
        match actor.page["pid"].as_u64() {
            None => daemon.kill_actor(id),
            Some(pid) => send(u32::try_from(pid).expect("a process id"), "KILL"),
        }
    }
}

/// One record's way: its partition, when it was sent and when a reader saw its outcome, both in ms since the start.
#[derive(Clone, Copy)]
struct Trip {
    partition: i32,
    sent: f64,
    seen: f64,
}

/// Kills workers and adds the figures.
pub(crate) fn measure(kafka: &Kafka, case: Case, kills: usize, report: &mut Report) {
    let name = case.name();
    for topic in ["in", "out", "dlq"] {
        kafka.create_topic(&format!("{name}.{topic}"), PARTITIONS);
    }
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let config = case.config(folder.path());
    let spec = DaemonSpec::new(env!("CARGO_BIN_EXE_bulkhead"), config, folder.path().join("data"));
    let spec = spec.on(kafka.bootstrap()).named("bench").with_chaos().env("BULKHEAD_LOG_LEVEL", "warn");
    let daemon = Daemon::start(&spec);
    let (start, stop, (trips, seen)) = (Instant::now(), AtomicBool::new(false), channel());
    let (mut settled, mut ratios, mut quiet_p99, mut killed_p99) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| load(kafka, case, start, &stop));
        scope.spawn(|| read(kafka, case, start, &stop, trips));
        // Stops both threads also when this one panics.
        let _stop = StopOnDrop(&stop);
        collect(&seen, now(start), WARM_UP);
        for kill in 0..kills {
            let quiet = collect(&seen, now(start), WINDOW);
            let at = now(start);
            case.kill(&daemon, kill);
            let hurt = collect(&seen, at, WINDOW);
            let (victim, wait) = slowest(&hurt, at);
            let (before, after) = (p99(&quiet, victim), p99(&hurt, victim));
            println!("{name} {kill}: {wait:.1} ms; others' p99 {before:.1} ms quiet, {after:.1} ms");
            settled.push(wait);
            quiet_p99.push(before);
            killed_p99.push(after);
            ratios.push(after / before);
            collect(&seen, now(start), WINDOW);
        }
    });
    report.add(Figure {
        name: name.into(),
        value: quantile(&settled, 0.99),
        unit: "ms",
        limit: None,
        ratio: None,
        runs: format!("(p99; kill to the next settled batch) {settled:.0?}"),
    });
    report.add(Figure {
        name: format!("{name}_others_p99"),
        value: median(&killed_p99),
        unit: "ms",
        limit: Some(median(&quiet_p99)),
        ratio: Some(median(&ratios)),
        runs: format!("{ratios:.2?}"),
    });
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Sends records to each partition, steadily.
fn load(kafka: &Kafka, case: Case, start: Instant, stop: &AtomicBool) {
    let producer: BaseProducer = kafka.client().set("linger.ms", "1").create().expect("a producer can be made");
    let (topic, value, mut sent) = (format!("{}.in", case.name()), case.value(), 0_u32);
    while !stop.load(Ordering::Acquire) {
        let due = (start.elapsed().as_secs_f64() * f64::from(case.rate())) as u32;
        for _ in sent..due {
            for partition in 0..PARTITIONS {
                let key = format!("{partition} {}", start.elapsed().as_nanos());
                let record = BaseRecord::to(&topic).partition(partition).key(&key).payload(&value);
                producer.send(record).map_err(|(e, _)| e).expect("the queue has room");
            }
        }
        sent = due;
        producer.poll(TICK);
    }
    while producer.in_flight_count() > 0 {
        producer.poll(TICK);
    }
}

/// Reports every outcome as it becomes visible.
fn read(kafka: &Kafka, case: Case, start: Instant, stop: &AtomicBool, trips: Sender<Trip>) {
    let consumer: BaseConsumer = kafka.reader(Isolation::Committed);
    let (mut assignment, topic) = (TopicPartitionList::new(), format!("{}.out", case.name()));
    for partition in 0..PARTITIONS {
        let at = Offset::Beginning;
        assignment.add_partition_offset(&topic, partition, at).expect("a beginning is an offset");
    }
    consumer.assign(&assignment).expect("partitions that exist can be assigned");
    while !stop.load(Ordering::Acquire) {
        let Some(Ok(message)) = consumer.poll(TICK) else { continue };
        let seen = now(start);
        let text = std::str::from_utf8(message.key().unwrap_or_default()).expect("the load is text");
        let (partition, sent) = text.split_once(' ').expect("the load has two numbers");
        let number = |text: &str| text.parse::<f64>().expect("the load has two numbers");
        let trip = Trip { partition: number(partition) as i32, sent: number(sent) / 1e6, seen };
        if trips.send(trip).is_err() {
            return;
        }
    }
}

/// Milliseconds since the start.
fn now(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// The trips that begin in a window; waits for the last of them.
fn collect(seen: &Receiver<Trip>, from: f64, window: Duration) -> Vec<Trip> {
    let until = from + window.as_secs_f64() * 1e3;
    let mut trips = Vec::new();
    let mut ended = [false; PARTITIONS as usize];
    while ended.contains(&false) {
        match seen.recv_timeout(Duration::from_secs(30)) {
            Ok(trip) if trip.sent >= until => ended[trip.partition as usize] = true,
            Ok(trip) if trip.sent >= from => trips.push(trip),
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => panic!("nothing comes out any more"),
            Err(RecvTimeoutError::Disconnected) => panic!("the reader is gone"),
        }
    }
    trips
}

/// The partition whose first outcome of a record sent after the kill came last, and how long after the kill it came.
fn slowest(trips: &[Trip], killed: f64) -> (i32, f64) {
    let first = |partition| {
        let own = trips.iter().filter(|t| t.partition == partition && t.sent >= killed);
        (partition, own.map(|t| t.seen - killed).fold(f64::INFINITY, f64::min))
    };
    (0..PARTITIONS).map(first).max_by(|a, b| a.1.total_cmp(&b.1)).expect("there are partitions")
}

/// The 99th percentile of the time from sent to seen, in every partition but one.
fn p99(trips: &[Trip], without: i32) -> f64 {
    let others: Vec<f64> = trips.iter().filter(|t| t.partition != without).map(|t| t.seen - t.sent).collect();
    quantile(&others, 0.99)
}
