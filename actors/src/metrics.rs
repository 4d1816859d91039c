//! Every metric of the daemon: its name, its help and its labels, in one list. Never counts anything itself.
//!
//! Names are `bulkhead_<noun>_<unit>`, base units; the text format adds `_total` to counters. Label values come from the
//! config or from closed lists, so the number of series is bounded. A handle from [`MetricSet::with`] is cheap to clone
//! and to count on; take it once, keep it.

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};
use std::fmt;
use std::sync::atomic::AtomicU64;

/// The media type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A counter of seconds.
pub type SecondsCounter = Counter<f64, AtomicU64>;
/// A gauge of seconds.
pub type SecondsGauge = Gauge<f64, AtomicU64>;

/// From half a millisecond (an answer from memory) to 10 s (past every timeout's default), doubling or so.
const SECONDS_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

fn seconds_histogram() -> Histogram {
    Histogram::new(SECONDS_BUCKETS)
}

type Labels<const N: usize> = [(&'static str, String); N];

/// The value as the text format wants it; prometheus-client 0.24 writes values as they are.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// A metric with `N` labels: one series for each combination of their values.
pub struct MetricSet<M, const N: usize, C = fn() -> M> {
    labels: [&'static str; N],
    family: Family<Labels<N>, M, C>,
}

impl<M: Clone, const N: usize, C: MetricConstructor<M>> MetricSet<M, N, C> {
    /// The series with these label values, in the order in which the labels are listed.
    #[must_use]
    pub fn with(&self, values: [&str; N]) -> M {
        self.family.get_or_create_owned(&self.key(values))
    }

    /// Ends a series: a partition that is no longer ours has no lag to tell of.
    pub fn remove(&self, values: [&str; N]) {
        self.family.remove(&self.key(values));
    }

    fn key(&self, values: [&str; N]) -> Labels<N> {
        std::array::from_fn(|i| (self.labels[i], escaped(values[i])))
    }
}

impl<M, const N: usize, C> fmt::Debug for MetricSet<M, N, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MetricSet{:?}", self.labels)
    }
}

/// Registers a metric; one without labels is shown from the start.
fn register<M, const N: usize>(
    registry: &mut Registry,
    (name, help): (&str, &str),
    labels: [&'static str; N],
    new: fn() -> M,
) -> MetricSet<M, N>
where
    M: Clone + fmt::Debug + Send + Sync + 'static,
    Family<Labels<N>, M, fn() -> M>: Metric,
{
    let family = Family::<Labels<N>, M, fn() -> M>::new_with_constructor(new);
    registry.register(name, help.trim().trim_end_matches('.'), family.clone());
    let set = MetricSet { labels, family };
    if N == 0 {
        drop(set.with([""; N]));
    }
    set
}

macro_rules! metrics {
    ($(#[doc = $help:literal] $name:ident: $kind:ty = $new:path, [$($label:literal),*];)*) => {
        /// All metrics of one daemon.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            $(
                #[doc = concat!($help, " Labels: " $(, "`", $label, "` ")*)]
                pub $name: MetricSet<$kind, { <[&str]>::len(&[$($label),*]) }>,
            )*
        }

        impl Metrics {
            /// A registry of its own, so that tests do not share counts.
            #[must_use]
            pub fn new() -> Self {
                let mut registry = Registry::with_prefix("bulkhead");
                $(let $name = register(&mut registry, (stringify!($name), $help), [$($label),*], $new);)*
                Self { registry, $($name),* }
            }
        }
    };
}

metrics! {
    /// The version that runs, always 1.
    build_info: Gauge = Gauge::default, ["version"];

    /// Records taken from a source partition.
    records_in: Counter = Counter::default, ["pipeline", "partition"];
    /// Results published to the output topic, counted once their batch is settled.
    records_out: Counter = Counter::default, ["pipeline", "partition"];
    /// Records that ended on purpose without an output.
    records_dropped: Counter = Counter::default, ["pipeline", "stage"];
    /// Dead letters published.
    dlq_published: Counter = Counter::default, ["pipeline", "stage", "class"];
    /// Records whose key had been claimed before.
    duplicates: Counter = Counter::default, ["pipeline", "partition"];

    /// Restarts of a stage's workers.
    stage_restarts: Counter = Counter::default, ["pipeline", "stage", "reason"];
    /// Restarts of actors that are no stage's workers.
    actor_restarts: Counter = Counter::default, ["actor", "reason"];
    /// Processes of isolated workers that ended without being told to, or had to be killed: SIGKILL, SIGSEGV, memory, hang, …
    worker_process_ended: Counter = Counter::default, ["pipeline", "stage", "reason"];
    /// Seconds from the start of an isolated worker's process until its steps were built.
    worker_process_start_seconds: Histogram = seconds_histogram, ["pipeline", "stage"];
    /// Batches tried again after a fault that may pass.
    stage_retries: Counter = Counter::default, ["pipeline", "stage"];
    /// Seconds that a stage worked on one call: a batch, or several that were gathered.
    stage_seconds: Histogram = seconds_histogram, ["pipeline", "stage"];
    /// Seconds that a batch waited in a stage's link for a worker, or for others to be gathered with.
    stage_queue_seconds: Histogram = seconds_histogram, ["pipeline", "stage"];
    /// Seconds that a call of a stage spent on making a model's input of its records.
    stage_preprocess_seconds: Histogram = seconds_histogram, ["pipeline", "stage"];
    /// Seconds that a call of a stage spent on running a model.
    stage_infer_seconds: Histogram = seconds_histogram, ["pipeline", "stage"];
    /// Seconds that a call of a stage spent on making records of a model's output.
    stage_postprocess_seconds: Histogram = seconds_histogram, ["pipeline", "stage"];
    /// Records that were not worked on because their deadline had passed.
    records_expired: Counter = Counter::default, ["pipeline", "stage"];
    /// Answers that came after their loan had been lent again, and were ignored.
    late_answers: Counter = Counter::default, ["pipeline", "stage"];
    /// Threads that did not end when told to and were left behind.
    abandoned_threads: Gauge = Gauge::default, [];

    /// Batches that wait on a link.
    link_depth: Gauge = Gauge::default, ["pipeline", "link"];
    /// Batches between a source partition and their settling.
    in_flight_batches: Gauge = Gauge::default, ["pipeline", "partition"];
    /// Seconds that a partition was not read because its link was full.
    backpressure_seconds: SecondsCounter = SecondsCounter::default, ["pipeline", "partition"];
    /// Records between the committed position and the end of an assigned partition.
    consumer_lag: Gauge = Gauge::default, ["topic", "partition"];
    /// Age of the oldest record of an assigned partition that is not settled.
    oldest_unfinished_seconds: SecondsGauge = SecondsGauge::default, ["pipeline", "partition"];

    /// Seconds from the end of producing to the end of the commit.
    commit_duration_seconds: Histogram = seconds_histogram, ["pipeline"];
    /// Transactions by how they ended: committed, aborted or unknown.
    transactions: Counter = Counter::default, ["pipeline", "result"];
    /// Transactional producers built anew because the old one could not be trusted any more.
    producer_recycled: Counter = Counter::default, ["pipeline"];

    /// Claims answered by the ledger: fresh, duplicate, conflict or resumed.
    ledger_hits: Counter = Counter::default, ["pipeline", "result"];
    /// Keys that the ledger holds.
    ledger_keys: Gauge = Gauge::default, ["pipeline", "partition"];
    /// Keys that left the ledger before their time, for want of room.
    ledger_keys_evicted: Counter = Counter::default, ["pipeline", "partition"];
    /// Times that a pipeline's ledger cache, one for all its partitions, was moved aside and built again from the topic.
    ledger_rebuilds: Counter = Counter::default, ["pipeline", "reason"];

    /// Sentinel: a committed position was not its partition's watermark. Always 0, or there is a bug.
    position_mismatch: Counter = Counter::default, ["pipeline"];
    /// Sentinel: a record came out of offset order. Always 0, or there is a bug.
    order_violation: Counter = Counter::default, ["pipeline"];
    /// Sentinel: a segment was missing from a ledger, or two bore the same number.
    segment_gap: Counter = Counter::default, ["pipeline"];
    /// Times the log's start had passed a committed position: records were gone before they were read.
    source_gap: Counter = Counter::default, ["pipeline", "partition"];

    /// Jobs whose outcome is held.
    jobs_held: Gauge = Gauge::default, [];
    /// Bytes of the outcomes held.
    jobs_held_bytes: Gauge = Gauge::default, [];
    /// Jobs that were forgotten: expired by age, crowded for want of room.
    jobs_evicted: Counter = Counter::default, ["reason"];

    /// Seconds from a record's acceptance at the edge until its outcome was committed, by this daemon.
    job_duration_seconds: Histogram = seconds_histogram, ["pipeline"];

    /// Seconds from handing a record to the log until the log had it for good.
    produce_duration_seconds: Histogram = seconds_histogram, ["topic"];
    /// Requests answered.
    http_requests: Counter = Counter::default, ["route", "status"];
    /// Seconds from a request's head to its answer.
    http_request_duration_seconds: Histogram = seconds_histogram, ["route"];
    /// Requests that are being answered.
    http_in_flight: Gauge = Gauge::default, [];
    /// Requests that wait for a job to end, streams of events among them.
    http_waiting: Gauge = Gauge::default, [];

    /// Sockets of conversations that are open.
    sockets_open: Gauge = Gauge::default, ["pipeline"];
    /// Sockets that were cut because they did not keep up with their session's news.
    sockets_cut: Counter = Counter::default, ["pipeline"];
    /// Hints that the log did not take: words of an answer that were not seen before it was whole.
    hints_left_out: Counter = Counter::default, ["pipeline"];
    /// Requests of a conversation's queues, by what they were answered: record, empty, acked, leased, elsewhere, …
    queue_requests: Counter = Counter::default, ["pipeline", "type", "answer"];

    /// Threads of steps at the edge whose work was given up on and has not ended: as many fewer serve requests.
    edge_steps_overdue: Gauge = Gauge::default, [];

    /// Records that wait in the outbox.
    outbox_records: Gauge = Gauge::default, ["route"];
    /// Bytes that they take.
    outbox_bytes: Gauge = Gauge::default, ["route"];
    /// Records that the outbox took, for want of the log.
    outbox_taken: Counter = Counter::default, ["route"];
    /// Records that left the outbox, acknowledged by the log; more than were taken where a crash had some sent twice.
    outbox_sent: Counter = Counter::default, ["route"];
    /// Requests that the outbox had no room for.
    outbox_full: Counter = Counter::default, ["route"];

    /// Log lines that were dropped because too many waited to be written.
    log_lines_dropped: Counter = Counter::default, [];
    /// Log lines that the log file did not take.
    log_lines_failed: Counter = Counter::default, [];
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All series in the OpenMetrics text format.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::with_capacity(16 * 1024);
        text::encode(&mut out, &self.registry).expect("writing to a String does not fail");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_openmetrics_text() {
        let metrics = Metrics::new();
        metrics.records_in.with(["orders", "3"]).inc_by(7);
        metrics.backpressure_seconds.with(["orders", "3"]).inc_by(0.25);
        metrics.commit_duration_seconds.with(["orders"]).observe(0.012);
        let text = metrics.render();
        for line in [
            "# HELP bulkhead_records_in Records taken from a source partition.",
            "# TYPE bulkhead_records_in counter",
            "bulkhead_records_in_total{pipeline=\"orders\",partition=\"3\"} 7",
            "bulkhead_backpressure_seconds_total{pipeline=\"orders\",partition=\"3\"} 0.25",
            "bulkhead_commit_duration_seconds_bucket{le=\"0.025\",pipeline=\"orders\"} 1",
            "bulkhead_abandoned_threads{} 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "no line {line:?} in:\n{text}");
        }
    }

    #[test]
    fn a_removed_series_is_gone() {
        let metrics = Metrics::new();
        metrics.consumer_lag.with(["orders", "3"]).set(5);
        metrics.consumer_lag.remove(["orders", "3"]);
        assert!(!metrics.render().contains("consumer_lag{"));
    }

    #[test]
    fn a_label_value_cannot_break_the_format() {
        let metrics = Metrics::new();
        metrics.http_requests.with(["/a\"b\n", "200"]).inc();
        let text = metrics.render();
        assert!(text.contains("http_requests_total{route=\"/a\\\"b\\n\",status=\"200\"} 1"), "{text}");
    }
}
