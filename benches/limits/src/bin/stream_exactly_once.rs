//! Limit of `stream_exactly_once`: copies a topic, positions and records in transactions of 100 ms. Never looks into a
//! record.

use bulkhead_limits::{Args, copied, run, send};

fn main() {
    let args = Args::parse();
    run(&args, |(): &mut (), producer, message| send(producer, copied(message, &args.output)), |(), _| {});
}
