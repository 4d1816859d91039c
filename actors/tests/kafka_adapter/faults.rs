//! The broker goes away and comes back. Never with the brokers that other tests use.

use crate::harness::{
    PATIENCE, TURN, closing, committed_texts, fill, join, log, offsets, outgoing, position, ready, take, topic, unique,
};
use bulkhead_actors::log::{Log, LogError, PublishError};
use bulkhead_testkit::kafka::Kafka;
use bulkhead_testkit::process::eventually;
use std::time::Duration;

#[test]
fn a_broker_that_is_stopped_and_back() {
    let kafka = Kafka::start(1);
    let log = log(&kafka);
    let (source, output) = (topic(&log, "in", 1), topic(&log, "out", 1));
    let name = unique("group");
    fill(&log, &source, 1, 20);
    let (group, _) = join(&log, &name, &source, 1);
    take(&*group, &|_| true, 10);
    let mut publisher = ready(&*group, 0);
    publisher.begin().unwrap();
    publisher.produce(&outgoing(&output, 0, "before")).unwrap();
    publisher.commit(&closing(0, 10)).unwrap();
    publisher.begin().unwrap();
    publisher.produce(&outgoing(&output, 0, "during")).unwrap();

    kafka.stop();
    let gone = log.ping(Duration::from_millis(500));
    assert!(matches!(gone, Err(LogError::Unavailable(_))), "{gone:?}");
    let sent = futures::executor::block_on(log.producer().unwrap().send(outgoing(&output, 0, "lost")));
    assert!(matches!(sent, Err(LogError::Unavailable(_))), "{sent:?}");
    eventually("the loss is seen", PATIENCE, || {
        // Whatever is left of the prefetch may come; errors must not be the end of the client.
        if let Err(error) = group.poll(&|_| false, 1, TURN) {
            assert!(matches!(error, LogError::Unavailable(_)), "{error}");
        }
        log.stats().down_for.map(|_| ()).ok_or_else(|| format!("{:?}", log.stats()))
    });
    let ended = publisher.commit(&closing(0, 20));
    assert!(matches!(ended, Err(PublishError::Void(_) | PublishError::Unknown(_))), "{ended:?}");

    kafka.start_again();
    eventually("kafka answers", PATIENCE, || log.ping(Duration::from_secs(1)).map_err(|e| e.to_string()));
    eventually("the publisher is rebuilt", PATIENCE, || publisher.rebuild().map_err(|e| e.to_string()));
    assert_eq!(position(&log, &name, &source, 0), Some(10), "nothing of the transaction was kept");
    let rest = eventually("the member reads on", PATIENCE, || match group.poll(&|_| true, 10, TURN) {
        Ok(fetched) if fetched.is_empty() => Err("nothing yet".into()),
        Ok(fetched) => Ok(fetched),
        Err(error) => Err(error.to_string()),
    });
    assert_eq!(offsets(&rest, 0)[0], 10, "what was not taken before comes next");
    publisher.begin().unwrap();
    publisher.produce(&outgoing(&output, 0, "after")).unwrap();
    publisher.commit(&closing(0, 20)).unwrap();
    assert_eq!(committed_texts(&log, &output, 0), ["before", "after"]);
    assert!(log.stats().down_for.is_none() && log.stats().disconnects_total > 0, "{:?}", log.stats());
    group.leave().unwrap();
}
