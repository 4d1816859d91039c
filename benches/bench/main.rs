//! `make bench`: the daemon beside bare programs that do the same work, interleaved, on a broker of its own. Never
//! enforces a figure: it prints a table and writes `target/bench.jsonl`.
//!
//! Names on the command line choose benchmarks. `BENCH_RECORDS` (500,000), `BENCH_IMAGES` (2,000), `BENCH_PICTURES` (4,000),
//! `BENCH_PAIRS` (3), `BENCH_ISOLATION_PAIRS` (5) and `BENCH_KILLS` (9) set the size.

mod images;
mod isolation;
mod report;
mod restart;
mod stream;
mod watch;

use bulkhead_testkit::kafka::{Kafka, KafkaSpec};
use report::Report;
use std::str::FromStr;

fn main() {
    let names: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |name: &str| names.is_empty() || names.iter().any(|n| n == name);
    let kafka = Kafka::start_with(KafkaSpec::bench());
    let mut report = Report::default();
    let size = stream::Size { records: setting("BENCH_RECORDS", 500_000), pairs: setting("BENCH_PAIRS", 3) };
    for workload in [stream::Workload::ExactlyOnce, stream::Workload::Ledger] {
        if wanted(workload.name()) {
            stream::measure(&kafka, workload, size, &mut report);
        }
    }
    if wanted(images::NAME) {
        let size = images::Size { images: setting("BENCH_IMAGES", 2_000), pairs: setting("BENCH_PAIRS", 3) };
        images::measure(&kafka, size, &mut report);
    }
    if wanted(isolation::NAME) {
        let size = isolation::Size {
            pictures: setting("BENCH_PICTURES", 4_000),
            records: size.records,
            pairs: setting("BENCH_ISOLATION_PAIRS", 5),
        };
        isolation::measure(&kafka, size, &mut report);
    }
    for case in [restart::Case::Actor, restart::Case::Process] {
        if wanted(case.name()) {
            restart::measure(&kafka, case, setting("BENCH_KILLS", 9), &mut report);
        }
    }
    report.finish();
}

fn setting<T: FromStr>(name: &str, default: T) -> T {
    let value = std::env::var(name).ok();
    value.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}
