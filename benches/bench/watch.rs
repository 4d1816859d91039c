//! Watches a run from outside: how long its output is, and what its process takes. Never judges it.

use bulkhead_testkit::daemon::Daemon;
use bulkhead_testkit::kafka::Kafka;
use bulkhead_testkit::process::eventually;
use bulkhead_testkit::topics::{GroupPositions, Isolation};
use rdkafka::consumer::{BaseConsumer, Consumer};
use std::fs;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(300);

/// How fast a run was: records a second, and the processor time that its process took for each, which other load on the
/// machine changes little.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speed {
    pub(crate) rate: f64,
    pub(crate) cpu_us: f64,
}

/// What a look at a run showed: when, how long the output was, how much processor time the process had taken.
#[derive(Clone, Copy)]
struct Look {
    at: Instant,
    visible: i64,
    cpu: f64,
}

/// A run that is watched.
pub(crate) struct Run<'a> {
    pub(crate) kafka: &'a Kafka,
    /// What shows how far it is.
    pub(crate) progress: Progress<'a>,
    /// How many records it will give.
    pub(crate) records: i64,
    /// Its process.
    pub(crate) pid: u32,
    /// Between two looks, which take some of the machine themselves.
    pub(crate) pause: Duration,
}

/// What shows how far a run is.
#[derive(Clone, Copy)]
pub(crate) enum Progress<'a> {
    /// How long its output is, in so many partitions: two questions a partition for each look.
    Output(&'a str, i32),
    /// What its group has committed of a source that has every offset from 0: one question for each look.
    Positions(&'a GroupPositions),
}

impl Run<'_> {
    /// How fast it was between the first commit that is visible and the last; `done` says whether all is committed and is
    /// asked only when the output is as long as it will be.
    pub(crate) fn watch(&self, mut done: impl FnMut() -> bool) -> Speed {
        let watcher = self.kafka.reader(Isolation::Committed);
        let mut last = Look { at: Instant::now(), visible: 0, cpu: 0.0 };
        let (began, mut first) = (last.at, None);
        let mut finished = false;
        while !finished {
            assert!(began.elapsed() < PATIENCE, "{} of {} records", last.visible, self.records);
            // A transaction's marker takes an offset, so the length is reached a little early. Nothing is assigned to the
            // watcher: its poll only waits between two looks.
            finished = last.visible >= self.records && done();
            drop(watcher.poll(self.pause));
            let visible = self.length(&watcher);
            if visible > last.visible {
                last = Look { at: Instant::now(), visible, cpu: cpu_seconds(self.pid).unwrap_or(last.cpu) };
                first = first.or(Some(last));
            }
        }
        let first = first.expect("the output is not empty");
        let records = self.records as f64 * (last.visible - first.visible) as f64 / last.visible as f64;
        let rate = records / (last.at - first.at).as_secs_f64();
        Speed { rate, cpu_us: (last.cpu - first.cpu) * 1e6 / records }
    }

    /// As [`Self::watch`] for a daemon, which must drain afterwards; and the most memory that it had, MiB.
    pub(crate) fn watch_daemon(&self, daemon: &Daemon, done: impl Fn() -> bool) -> (Speed, f64) {
        let speed = self.watch(|| {
            assert!(daemon.is_running(), "the daemon ended");
            done()
        });
        let mib = peak_mib(daemon.pid());
        daemon.sigterm();
        let status = daemon.wait_exit(Duration::from_secs(30));
        assert!(status.success(), "the daemon did not drain: {status}\n{}", daemon.output());
        (speed, mib)
    }

    /// How many records are done, or a little more: transactions' markers take offsets of an output.
    fn length(&self, watcher: &BaseConsumer) -> i64 {
        let (output, partitions) = match self.progress {
            Progress::Output(output, partitions) => (output, partitions),
            Progress::Positions(positions) => return positions.committed().values().sum(),
        };
        let end = |partition| {
            eventually("the output's end", PATIENCE, || {
                let marks = watcher.fetch_watermarks(output, partition, Duration::from_secs(5));
                marks.map(|(_, end)| end).map_err(|e| e.to_string())
            })
        };
        (0..partitions).map(end).sum()
    }
}

/// The most memory that a process and its children have had, each at its own time.
fn peak_mib(pid: u32) -> f64 {
    let family = std::iter::once(pid).chain(children(pid));
    family.filter_map(own_peak_mib).sum()
}

fn own_peak_mib(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number of kB");
    Some(kib / 1024.0)
}

/// The processor time that a process and its living children have taken; none once it is gone.
fn cpu_seconds(pid: u32) -> Option<f64> {
    let own = own_cpu_seconds(pid)?;
    Some(own + children(pid).into_iter().filter_map(own_cpu_seconds).sum::<f64>())
}

fn own_cpu_seconds(pid: u32) -> Option<f64> {
    // After the name: state is field 3, utime and stime are 14 and 15, in ticks of 10 ms.
    let mut fields = stat(pid)?.into_iter().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / 100.0)
}

fn children(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("Linux has /proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| stat(*pid).is_some_and(|fields| fields.get(1).is_some_and(|of| *of == parent.to_string())))
        .collect()
}

/// The fields of a process' `stat` after its name, which stands in parentheses.
fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}
