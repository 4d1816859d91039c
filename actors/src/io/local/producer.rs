//! Sends single records, many at a time. Never waits for room: its caller is told at once.

use super::broker::{Broker, Denied, Reply, Request, Unit, closed};
use crate::log::{LogError, Outgoing, Producer};
use bulkhead_core::ids::{Offset, Partition};
use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{BoxFuture, ready};
use std::sync::Arc;

/// Where a record lies, or why it does not.
type Placed = Result<(Partition, Offset), LogError>;

pub(super) struct LocalProducer {
    pub(super) broker: Arc<Broker>,
}

impl LocalProducer {
    fn submit(&self, outgoing: Outgoing) -> Result<oneshot::Receiver<Placed>, LogError> {
        let (size, max) = (outgoing.record.size(), self.broker.limits.record_bytes_max);
        if size > max {
            return Err(LogError::Refused(format!("record of {size} bytes, more than the {max} that it may have")));
        }
        let slot = self.broker.catalog().place(&outgoing)?;
        let (tell, told) = oneshot::channel();
        let reply: Reply = Box::new(move |answer| {
            let answer = answer.map_err(|denied| match denied {
                Denied::Failed(e) | Denied::NotWritten(e) => e,
                Denied::Fenced(why) | Denied::NotMember(why) => LogError::ClientDead(why),
            });
            let placed = answer.and_then(|first| first.ok_or_else(|| LogError::Refused("nothing to send".to_owned())));
            // The receiver is gone only if the sender no longer waits.
            drop(tell.send(placed));
        });
        let unit = Unit { records: vec![(slot, outgoing.record)], ..Unit::default() };
        self.broker.submit(Request { unit, reply }, true)?;
        Ok(told)
    }
}

impl Producer for LocalProducer {
    fn send(&self, outgoing: Outgoing) -> BoxFuture<'static, Placed> {
        match self.submit(outgoing) {
            Ok(told) => told.map(|answer| answer.unwrap_or_else(|_| Err(closed()))).boxed(),
            Err(e) => ready(Err(e)).boxed(),
        }
    }

    fn record_bytes_max(&self, _: &str) -> usize {
        self.broker.limits.record_bytes_max
    }
}
