//! Counts requests by route and status. Never labels by what a client chose: a path that is no route is `other`.

use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use bulkhead_actors::metrics::Metrics;
use std::sync::Arc;
use std::time::Instant;

/// One request less in progress, however its handler ended: a client that hangs up drops it.
struct InFlight(Arc<Metrics>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.http_in_flight.with([]).dec();
    }
}

/// Middleware: counts and times one request.
pub(super) async fn count<B: MessageBody>(
    metrics: Arc<Metrics>,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    metrics.http_in_flight.with([]).inc();
    let in_flight = InFlight(metrics);
    let started = Instant::now();
    let route = request.match_pattern().unwrap_or_else(|| "other".to_owned());
    let response = next.call(request).await?;
    let metrics = &in_flight.0;
    metrics.http_requests.with([&route, response.status().as_str()]).inc();
    metrics.http_request_duration_seconds.with([&route]).observe(started.elapsed().as_secs_f64());
    Ok(response)
}
