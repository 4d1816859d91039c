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
mod warm_up;
mod watch;

use bulkhead_testkit::kafka::{Kafka, KafkaSpec};
use report::Report;
use std::str::FromStr;

fn main() {
    let names: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |name: &str| names.is_empty() || names.iter().any(|n| n == name);
    let (mut report, pairs) = (Report::default(), setting("BENCH_PAIRS", 3));
    let size = stream::Size { records: setting("BENCH_RECORDS", 500_000), pairs };
    let (streams, restarts) =
        ([stream::Workload::ExactlyOnce, stream::Workload::Ledger], [restart::Case::Actor, restart::Case::Process]);
    if streams.iter().any(|of| wanted(of.name())) {
        let kafka = Kafka::start_with(KafkaSpec::bench());
        for workload in streams.into_iter().filter(|of| wanted(of.name())) {
            stream::measure(&kafka, workload, size, &mut report);
        }
    }
    if wanted(images::NAME) {
        let size = images::Size { images: setting("BENCH_IMAGES", 2_000), pairs };
        let kafka = Kafka::start_with(KafkaSpec::bench_slow());
        warm_up::run(&kafka);
        images::measure(&kafka, size, &mut report);
    }
    if wanted(isolation::NAME) {
        let size = isolation::Size {
            pictures: setting("BENCH_PICTURES", 4_000),
            records: size.records,
            pairs: setting("BENCH_ISOLATION_PAIRS", 5),
        };
        isolation::measure(&Kafka::start_with(KafkaSpec::bench()), size, &mut report);
    }
    if restarts.iter().any(|case| wanted(case.name())) {
        let kafka = Kafka::start_with(KafkaSpec::bench_slow());
        warm_up::run(&kafka);
        for case in restarts.into_iter().filter(|case| wanted(case.name())) {
            restart::measure(&kafka, case, setting("BENCH_KILLS", 9), &mut report);
        }
    }
    report.finish();
}

fn setting<T: FromStr>(name: &str, default: T) -> T {
    let value = std::env::var(name).ok();
    value.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}
