//! Sends requests, so many at once, and keeps what was answered. Never sends one twice: what a client does after a failure is its
//! own affair.

use super::traffic::{Drawn, Traffic};
use super::{SimulateArgs, bar};
use futures::StreamExt as _;
use hdrhistogram::Histogram;
use reqwest::{Client, Url, header};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(60);
/// Latencies are told from a microsecond to this, to three digits.
const LATENCY_MAX_US: u64 = 600_000_000;

/// A job that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) id: String,
    /// Where its end is told, as the answer said.
    pub(super) location: Option<String>,
}

/// What became of all requests.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Latencies in microseconds, by status; 0 where there was no answer.
    pub(super) latencies: BTreeMap<u16, Histogram<u64>>,
    pub(super) accepted: Vec<Accepted>,
    /// How many answers said that the records wait in the outbox.
    pub(super) outbox: u64,
    /// What was not as it should be, the first few.
    pub(super) wrong: Vec<String>,
    pub(super) wrong_total: u64,
}

/// How many complaints are kept.
const WRONG_MAX: usize = 5;

impl Sent {
    pub(super) fn complain(&mut self, why: String) {
        self.wrong_total += 1;
        if self.wrong.len() < WRONG_MAX {
            self.wrong.push(why);
        }
    }

    fn note(&mut self, status: u16, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).clamp(1, LATENCY_MAX_US);
        let latencies = self.latencies.entry(status).or_insert_with(|| {
            Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("bounds that are right, whatever is measured")
        });
        latencies.saturating_record(us);
    }
}

/// A request that was answered, or was not.
struct Answered {
    drawn: Drawn,
    took: Duration,
    answer: Result<Answer, String>,
}

struct Answer {
    status: u16,
    location: Option<String>,
    is_in_outbox: bool,
    body: Value,
}

pub(super) fn client() -> Result<Client, String> {
    Client::builder().timeout(ANSWER).build().map_err(|why| why.to_string())
}

/// Sends everything.
pub(super) async fn all(args: &SimulateArgs, mut traffic: Traffic) -> Result<Sent, String> {
    let (client, bar) = (client()?, bar("sending ", args.requests)?);
    let mut sent = Sent::default();
    let mut due = tokio::time::Instant::now();
    let requests = futures::stream::iter(0..args.requests).then(|_| {
        let drawn = traffic.draw();
        due += drawn.after;
        async move {
            tokio::time::sleep_until(due).await;
            drawn
        }
    });
    let concurrency = usize::try_from(args.concurrency).unwrap_or(usize::MAX);
    let answers = requests.map(|drawn| one(&client, &args.url, drawn)).buffer_unordered(concurrency);
    futures::pin_mut!(answers);
    while let Some(answered) = answers.next().await {
        take(&mut sent, answered);
        bar.inc(1);
        if sent.wrong_total > 0 {
            bar.set_message(format!("· {} wrong", sent.wrong_total));
        }
    }
    bar.finish_and_clear();
    Ok(sent)
}

async fn one(client: &Client, url: &Url, drawn: Drawn) -> Answered {
    let request = client.post(url.clone()).header(header::CONTENT_TYPE, drawn.content_type).body(drawn.body.clone());
    let began = Instant::now();
    let answer = async {
        let response = request.send().await?;
        let text = |name: &str| response.headers().get(name).and_then(|value| Some(value.to_str().ok()?.to_owned()));
        let (status, location, outbox) = (response.status().as_u16(), text("location"), text("bulkhead-outbox"));
        let body = response.bytes().await?;
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Ok(Answer { status, location, is_in_outbox: outbox.is_some(), body })
    };
    let answer = answer.await.map_err(|why: reqwest::Error| chain(&why));
    Answered { drawn, took: began.elapsed(), answer }
}

/// An error with what caused it: reqwest's own text leaves that out.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(why) = cause {
        text = format!("{text}: {why}");
        cause = why.source();
    }
    text
}

/// Judges an answer by what was asked.
fn take(sent: &mut Sent, Answered { drawn, took, answer }: Answered) {
    let answer = match answer {
        Ok(answer) => answer,
        Err(why) => {
            sent.note(0, took);
            return sent.complain(format!("no answer: {why}"));
        }
    };
    sent.note(answer.status, took);
    let status = answer.status;
    let beginning = || drawn.body.chars().take(200).collect::<String>();
    match (status, drawn.is_bad) {
        (200..=299, true) => sent.complain(format!("{status} for what is bad on purpose: {}", beginning())),
        (200..=299, false) => {
            sent.outbox += u64::from(answer.is_in_outbox);
            let accepted = accepted(&answer);
            if accepted.len() as u64 != drawn.records {
                let (got, wanted) = (accepted.len(), drawn.records);
                sent.complain(format!("{status} names {got} jobs, {wanted} records were sent: {}", answer.body));
            }
            sent.accepted.extend(accepted);
        }
        // Told to come again later: no record was stored.
        (429 | 503, _) => {}
        (400..=499, true) => {}
        _ => sent.complain(format!("{status} for what is right: {}: {}", beginning(), answer.body)),
    }
}

/// The jobs of an answer: `jobId`, or `jobIds` where a body brought several.
fn accepted(answer: &Answer) -> Vec<Accepted> {
    let many = answer.body["jobIds"].as_array().into_iter().flatten();
    let ids = many.chain(answer.body.get("jobId")).filter_map(Value::as_str);
    let (template, own) = (answer.body["results"].as_str(), answer.location.as_deref());
    ids.map(|id| {
        let location = template.map(|path| path.replace("{jobId}", id)).or_else(|| own.map(str::to_owned));
        Accepted { id: id.to_owned(), location }
    })
    .collect()
}
