//! Asks what became of each job that was accepted, until it has ended or patience has. Never takes an answer's word that it will.

use super::send::{Accepted, Sent, chain, client};
use super::{SimulateArgs, bar};
use futures::StreamExt as _;
use reqwest::{Client, Url};
use serde_json::Value;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// How long one question waits for a job's end (`Prefer: wait`), and between two questions.
const WAIT_S: u64 = 10;
const PAUSE: Duration = Duration::from_millis(200);
/// How many jobs that did not come out are named.
const NAMED_MAX: usize = 5;

/// What became of the jobs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) completed: u64,
    pub(super) failed: u64,
    pub(super) dropped: u64,
    pub(super) missing: u64,
    /// The first of those that are missing, and what was last said of them.
    pub(super) named: Vec<String>,
}

enum End {
    Completed,
    Failed,
    Dropped,
    Missing(String),
}

/// Looks for every job.
///
/// # Errors
/// Nobody says where.
pub(super) async fn all(args: &SimulateArgs, sent: &Sent) -> Result<Found, String> {
    let (client, bar) = (client()?, bar("checking", sent.accepted.len() as u64)?);
    let places: Vec<Url> = sent.accepted.iter().map(|job| place(args, job)).collect::<Result<_, _>>()?;
    let until = Instant::now() + Duration::from_secs(args.patience);
    let concurrency = usize::try_from(args.concurrency).unwrap_or(usize::MAX);
    let ends = futures::stream::iter(places).map(|url| one(&client, url, until)).buffer_unordered(concurrency);
    futures::pin_mut!(ends);
    let mut found = Found::default();
    while let Some(end) = ends.next().await {
        bar.inc(1);
        match end {
            End::Completed => found.completed += 1,
            End::Failed => found.failed += 1,
            End::Dropped => found.dropped += 1,
            End::Missing(why) => {
                found.missing += 1;
                if found.named.len() < NAMED_MAX {
                    found.named.push(why);
                }
            }
        }
    }
    bar.finish_and_clear();
    Ok(found)
}

/// Where a job's end is told.
fn place(args: &SimulateArgs, job: &Accepted) -> Result<Url, String> {
    let path = match (&args.results, &job.location) {
        (Some(results), _) => results.replace("{jobId}", &job.id),
        (None, Some(location)) => location.clone(),
        (None, None) => {
            return Err("no answer says where results are: give --results /PATH/{jobId}, or --no-check".to_owned());
        }
    };
    let url = args.url.join(&path).map_err(|why| format!("{path}: {why}"))?;
    // An answer must not send us elsewhere.
    match url.origin() == args.url.origin() {
        true => Ok(url),
        false => Err(format!("{path} is not on {}", args.url.origin().ascii_serialization())),
    }
}

async fn one(client: &Client, url: Url, until: Instant) -> End {
    let mut last = "never asked".to_owned();
    loop {
        let question = client.get(url.clone()).header("prefer", format!("wait={WAIT_S}")).send();
        let asked = timeout_at(until, async { question.await?.json::<Value>().await });
        match asked.await {
            Err(_) => return End::Missing(format!("{}: {last}", url.path())),
            Ok(Err(why)) => last = chain(&why),
            Ok(Ok(job)) => match job["status"].as_str() {
                Some("completed") if job["dropped"] == true => return End::Dropped,
                Some("completed") => return End::Completed,
                Some("failed") => return End::Failed,
                _ => last = job.to_string(),
            },
        }
        sleep(PAUSE).await;
    }
}
