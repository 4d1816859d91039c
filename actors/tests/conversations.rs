//! The actors behind conversations on the memory log: queues and feeds, through a kill, a panic and an outage, and their drain.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use bulkhead_actors::clock::Clock;
use bulkhead_actors::feed::{self, Feed, FeedLimits, FeedTopic, Listener};
use bulkhead_actors::fifo::{self, QueueLimits, Queues, QueuesSpec, Served, Want};
use bulkhead_actors::io::memory::{Faults, MemoryLog, MemoryOptions};
use bulkhead_actors::log::{Log, Outgoing, TopicSpec};
use bulkhead_actors::shell::{Body, Fall};
use bulkhead_actors::supervisor::{ChildSpec, Root, RootExit, RootHandle, RootOptions, SupervisorSpec};
use bulkhead_core::feed::WindowLimits;
use bulkhead_core::record::{Header, ID_HEADER, Record};
use bulkhead_core::time::WallMs;
use prometheus_client::metrics::counter::Counter;
use std::sync::Arc;
use std::time::Duration;

const LEASE: Option<Duration> = Some(Duration::from_secs(600));
const WAIT: Duration = Duration::from_secs(30);

fn topic(name: &str) -> TopicSpec {
    TopicSpec { name: name.to_owned(), partitions: 1, replicas: 1, retention: None }
}

async fn send(log: &Arc<dyn Log>, topic: &str, key: &str, texts: &[&str]) {
    let producer = log.producer().unwrap();
    for text in texts {
        let headers = vec![Header::new(ID_HEADER, (*text).to_owned())];
        let (key, value) = (Some(key.to_owned().into()), Some((*text).to_owned().into()));
        let record = Record { key, value, headers, timestamp: WallMs(1) };
        producer.send(Outgoing { topic: topic.into(), partition: None, record }).await.unwrap();
    }
}

/// A tree of both actors.
struct World {
    log: Arc<dyn Log>,
    faults: Faults,
    queues: Arc<Queues>,
    feed: Arc<Feed>,
    cut: Counter,
    root: RootHandle,
}

fn world() -> World {
    let (log, faults) = MemoryLog::open(&MemoryOptions::default()).unwrap();
    let log: Arc<dyn Log> = log;
    log.create_topics(&[topic("query"), topic("answer"), topic("tokens")]).unwrap();
    let limits = QueueLimits { queues_max: 2, idle: Duration::ZERO, waiting_max: 8, assign_wait: WAIT };
    let queues = Arc::new(Queues::new(QueuesSpec {
        pipeline: "chat".into(),
        topics: vec!["query".into()],
        leases: topic("chat.leases"),
        instance: "test".to_owned(),
        session_timeout: Duration::from_secs(10),
        limits,
    }));
    let named = |topic: &str, is_kept| FeedTopic { topic: topic.into(), is_kept };
    let limits = FeedLimits { window: WindowLimits { records_max: 4, bytes_max: 1 << 20 }, waiting_max: 2 };
    let cut = Counter::default();
    let feed = Arc::new(Feed::new(vec![named("answer", true), named("tokens", false)], limits, cut.clone()));
    let children = vec![
        ChildSpec::body("messages", {
            let (log, queues) = (Arc::clone(&log), Arc::clone(&queues));
            move |_| {
                let (log, queues) = (Arc::clone(&log), Arc::clone(&queues));
                Body::thread(move |lifeline| fifo::run(&lifeline, &log, &queues))
            }
        }),
        ChildSpec::body("feed", {
            let (log, feed) = (Arc::clone(&log), Arc::clone(&feed));
            move |_| {
                let (log, feed) = (Arc::clone(&log), Arc::clone(&feed));
                Body::thread(move |lifeline| feed::run(&lifeline, &log, &feed))
            }
        }),
    ];
    let options = RootOptions { clock: Clock::real(), abandoned_max: 10 };
    let root = Root::start_with(SupervisorSpec::new("root", children), options);
    World { log, faults, queues, feed, cut, root }
}

impl World {
    async fn ask(&self, group: &str, want: Want) -> Served {
        loop {
            match self.queues.ask(0, group, want.clone()).await {
                // Its incarnation ended, or the log was away: whoever asks asks again.
                Served::Failed(_) => tokio::task::yield_now().await,
                served => return served,
            }
        }
    }

    /// The next record: its text, whether it was given before, and its lease.
    async fn next(&self, lease: Option<Duration>) -> (String, bool, Option<String>) {
        match self.ask("g", Want::Next { lease, wait: WAIT }).await {
            Served::Record { record, redelivered, lease } => {
                (String::from_utf8_lossy(record.record.payload()).into_owned(), redelivered, lease)
            }
            other => panic!("{other:?}"),
        }
    }

    async fn listen(&self, since: Option<&feed::Marks>) -> Listener {
        loop {
            match self.feed.listen(&"me".into(), since) {
                Ok(listener) => return listener,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    async fn end(self) {
        assert_eq!(self.root.drain().await, RootExit::Drained);
        assert_eq!((self.root.live_actors(), self.root.threads()), (0, 0), "somebody is left");
    }
}

fn text(news: &feed::News) -> String {
    String::from_utf8_lossy(news.record.record.payload()).into_owned()
}

#[actix_rt::test]
async fn a_queue_goes_on_where_it_was_after_a_kill_a_panic_and_an_outage() {
    let world = world();
    send(&world.log, "query", "s", &["a", "b", "c", "d"]).await;
    assert_eq!(world.next(None).await, ("a".to_owned(), false, None));
    let (b, redelivered, lease) = world.next(LEASE).await;
    assert_eq!((b.as_str(), redelivered), ("b", false));
    assert!(matches!(world.ask("g", Want::Next { lease: None, wait: WAIT }).await, Served::Leased(_)));
    world.root.kill("messages").unwrap();
    // The next incarnation knows the lease: the record is still its reader's, whose word counts.
    assert!(matches!(world.ask("g", Want::Next { lease: None, wait: WAIT }).await, Served::Leased(_)));
    assert!(matches!(world.ask("g", Want::Ack(lease.unwrap())).await, Served::Acked));
    assert!(matches!(world.ask("g", Want::Ack("forged".into())).await, Served::UnknownLease));
    world.root.fall("messages", Fall::Panic).unwrap();
    assert_eq!(world.next(None).await.0, "c");
    world.faults.away(true);
    assert!(matches!(world.queues.ask(0, "g", Want::Next { lease: None, wait: WAIT }).await, Served::Failed(_)));
    world.faults.away(false);
    assert_eq!(world.next(None).await, ("d".to_owned(), false, None));
    assert!(matches!(world.ask("g", Want::Next { lease: None, wait: Duration::ZERO }).await, Served::Empty));
    world.end().await;
}

#[actix_rt::test]
async fn a_queue_that_nobody_asked_for_long_makes_room() {
    let world = world();
    send(&world.log, "query", "s", &["a"]).await;
    for group in ["one", "two", "three"] {
        let next = world.ask(group, Want::Next { lease: None, wait: WAIT }).await;
        assert!(matches!(next, Served::Record { .. }), "{group}: {next:?}");
    }
    world.end().await;
}

#[actix_rt::test]
async fn a_listener_hears_its_own_and_what_it_missed() {
    let world = world();
    send(&world.log, "answer", "me", &["before"]).await;
    let mut listener = world.listen(None).await;
    assert!(!listener.is_whole && listener.missed.is_empty(), "it was never here");
    send(&world.log, "answer", "other", &["not mine"]).await;
    send(&world.log, "tokens", "me", &["hint"]).await;
    let hint = listener.news.recv().await.unwrap();
    assert_eq!((text(&hint).as_str(), hint.topic, hint.marks.is_none()), ("hint", 1, true));
    send(&world.log, "answer", "me", &["one"]).await;
    let one = listener.news.recv().await.unwrap();
    assert_eq!(text(&one), "one");
    drop(listener);

    send(&world.log, "answer", "me", &["two"]).await;
    world.root.kill("feed").unwrap();
    send(&world.log, "answer", "me", &["three"]).await;
    let mut again = world.listen(one.marks.as_ref()).await;
    let mut heard: Vec<_> = again.missed.iter().map(text).collect();
    while heard.len() < 2 {
        heard.push(text(&again.news.recv().await.unwrap()));
    }
    assert!(again.is_whole);
    assert_eq!(heard, ["two", "three"]);

    // Past what is kept it says so; one that does not listen is cut.
    let deaf = world.listen(None).await;
    send(&world.log, "answer", "me", &["4", "5", "6", "7", "8"]).await;
    for wanted in ["4", "5"] {
        assert_eq!(text(&again.news.recv().await.unwrap()), wanted);
    }
    drop(again);
    while world.cut.get() == 0 {
        tokio::task::yield_now().await;
    }
    drop(deaf);
    assert!(!world.listen(one.marks.as_ref()).await.is_whole);
    world.end().await;
}
