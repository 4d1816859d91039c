//! What an outbox needs of its route and of its pipeline. Never opens one.

use super::At;
use crate::config::daemon::Http;
use crate::config::pipeline::PipelineFile;
use crate::config::route::{IDEMPOTENCY_KEY, RouteFile};
use crate::config::text::KeyFrom;
use bulkhead_core::record::ID_HEADER;

pub(super) fn check(at: &mut At<'_>, path: &str, route: &RouteFile, file: &PipelineFile, http: &Http) {
    let Some(outbox) = &route.outbox else { return };
    let here = |key: &str| format!("{path}.outbox{key}");
    let Some(produce) = &route.produce else {
        return at.at(&here(""), "only a route that produces has one");
    };
    // A record may be sent twice: by the gateway, which was not told of its arrival, and by the outbox. What the ledger goes by
    // must be in every record; a route always gives one a key.
    let has_keys = route.idempotency.as_ref().is_some_and(|keys| keys.required || keys.derive.is_some());
    let is_deduped = file.pipeline.ledger.as_ref().is_some_and(|ledger| match &ledger.key.0 {
        KeyFrom::Header(name) => name == ID_HEADER || (has_keys && name == IDEMPOTENCY_KEY),
        KeyFrom::Key => true,
    });
    if !is_deduped {
        let why = format_args!(
            "needs a ledger that goes by the record's id, as a record may be sent twice: pipeline.ledger = {{ key = \
             \"header:{ID_HEADER}\" }}"
        );
        at.at(&here(""), why);
    }
    let body_max = produce.body_max.unwrap_or(http.body_max);
    if outbox.bytes_max.0 < body_max.0 {
        at.at(&here(".bytes_max"), format_args!("must be at least the largest body that the route takes ({body_max})"));
    }
    at.some(&here(".after"), outbox.after);
    if outbox.after.0 > http.ack_timeout.0 {
        at.at(&here(".after"), format_args!("must be at most http.ack_timeout ({})", http.ack_timeout));
    }
}
