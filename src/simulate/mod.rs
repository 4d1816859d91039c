//! `bulkhead simulate`: sends realistic traffic to a route, drawn from a seed, tells how it was answered and how fast, and checks
//! that each record that was accepted came out. Never sends anything but to the URL that it is given.

mod check;
mod report;
mod send;
mod traffic;

use crate::exit::Exit;
use clap::{Args, ValueEnum};
use report::Report;
use reqwest::Url;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use traffic::Traffic;

/// The route of the shipped events pipeline, on this machine.
const DEFAULT_URL: &str = "http://127.0.0.1:8080/register_event";

/// What the command line says.
#[derive(Clone, Debug, Args)]
pub struct SimulateArgs {
    /// The route: where requests are sent, and nowhere else
    #[arg(default_value = DEFAULT_URL)]
    pub url: Url,
    /// How many requests
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub requests: u64,
    /// How many of them at once
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub concurrency: u64,
    /// How many a second on average, in bursts; absent: as fast as they are answered
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub rate: Option<u64>,
    /// What the traffic is drawn from: the same seed, the same traffic
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How many users there are; a few of them do most (Zipf)
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub users: u64,
    /// The share of requests that are bad on purpose and must be refused, 0 to 1
    #[arg(long, default_value_t = 0.02, value_parser = share)]
    pub bad: f64,
    /// The share of requests that bring several events (shape "event"), 0 to 1
    #[arg(long, default_value_t = 0.05, value_parser = share)]
    pub many: f64,
    /// What a request's body is; absent: told by the URL's path (orders, messages), else "event"
    #[arg(long, conflicts_with = "template")]
    pub shape: Option<Shape>,
    /// A JSON file as the body's shape, for any other route: {{user_id}}, {{n}}, … in its strings are drawn (--help tells all)
    #[arg(long, value_name = "FILE")]
    pub template: Option<PathBuf>,
    /// The path that tells what became of a record, with {jobId} in it; absent: as the answers' Location says
    #[arg(long, value_name = "PATH")]
    pub results: Option<String>,
    /// How long a record that was accepted may take to come out
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub patience: u64,
    /// Do not check that records came out
    #[arg(long)]
    pub no_check: bool,
}

/// Kinds of bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// `{event_type, user_id, timestamp, properties}`, now and then several
    Event,
    /// `{customer_id, items, total_amount}` with a total to the cent
    Order,
    /// `{session, text}`: a question to a chat
    Query,
}

impl Shape {
    /// What a route of this path takes, as far as a path can tell.
    fn of_path(path: &str) -> Self {
        match path {
            path if path.contains("order") => Self::Order,
            path if path.contains("message") || path.contains("chat") => Self::Query,
            _ => Self::Event,
        }
    }
}

/// What placeholders of a template there are, for `--help`.
pub const PLACEHOLDERS: &str = "Placeholders of --template: {{n}} {{uuid}} {{user_id}} {{user_name}} {{email}} {{ip}} {{user_agent}} \
    {{device}} {{city}} {{company}} {{event_type}} {{product_id}} {{quantity}} {{price}} {{word}} {{sentence}} {{now}}. A string that is \
    nothing but {{n}}, {{quantity}} or {{price}} becomes a number.";

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().map_err(|_| format!("{text} is no number"))?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err(format!("{text} is no share: 0 to 1")) }
}

/// Sends, tells and checks. Clean only where nothing is wrong: every record that was accepted came out, what was bad on purpose
/// was refused, and nothing else was, but for want of room.
#[must_use]
pub fn run(args: &SimulateArgs) -> Exit {
    let traffic = match Traffic::new(args) {
        Ok(traffic) => traffic,
        Err(why) => return refuse(&why, Exit::Usage),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(why) => return refuse(&why.to_string(), Exit::Start),
    };
    let began = Instant::now();
    let sent = match runtime.block_on(send::all(args, traffic)) {
        Ok(sent) => sent,
        Err(why) => return refuse(&why, Exit::Start),
    };
    let mut report = Report::of(&sent, began.elapsed());
    if !args.no_check {
        match runtime.block_on(check::all(args, &sent)) {
            Ok(found) => report.check(found),
            Err(why) => report.uncheckable(why),
        }
    }
    // Whoever closes the pipe early has seen enough; the exit code tells all the same.
    drop(std::io::stdout().write_all(report.to_string().as_bytes()));
    if report.is_right() { Exit::Clean } else { Exit::Failed }
}

fn refuse(why: &str, exit: Exit) -> Exit {
    eprintln!("bulkhead simulate: {why}");
    exit
}

/// A bar on a terminal; nothing is drawn elsewhere.
fn bar(doing: &'static str, length: u64) -> Result<indicatif::ProgressBar, String> {
    if !std::io::stderr().is_terminal() {
        return Ok(indicatif::ProgressBar::hidden());
    }
    let look = "{prefix} {wide_bar} {pos}/{len} · {per_sec} · {elapsed} {msg}";
    let style = indicatif::ProgressStyle::with_template(look).map_err(|why| why.to_string())?;
    let bar = indicatif::ProgressBar::new(length).with_style(style).with_prefix(doing);
    bar.enable_steady_tick(Duration::from_millis(200));
    Ok(bar)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_tells_the_shape() {
        for (path, shape) in [
            ("/register_event", Shape::Event),
            ("/orders/", Shape::Order),
            ("/messages", Shape::Query),
            ("/", Shape::Event),
        ] {
            assert_eq!(Shape::of_path(path), shape, "{path}");
        }
    }

    #[test]
    fn shares_are_between_none_and_all() {
        assert_eq!(share("0.25"), Ok(0.25));
        for wrong in ["-0.1", "1.1", "NaN", "x"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }
}
