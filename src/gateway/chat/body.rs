//! Reads a small body of JSON whole. Never holds more of it than its route takes, nor waits for it for ever.

use crate::gateway::problem::Problem;
use crate::gateway::{Shared, upload};
use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use actix_web::web::Payload;
use futures::StreamExt as _;
use tokio::time::timeout;

/// A body of at most `most` bytes.
///
/// # Errors
/// It is longer, late, or ends early.
pub(super) async fn read(
    shared: &Shared,
    http: &HttpRequest,
    mut payload: Payload,
    most: usize,
) -> Result<Vec<u8>, Problem> {
    upload::declared_len(http, most)?;
    let read = async {
        let mut body = Vec::new();
        while let Some(bytes) = payload.next().await {
            body.extend_from_slice(&bytes.map_err(|_| incomplete())?);
            if body.len() > most {
                return Err(Problem::too_large(most));
            }
        }
        Ok(body)
    };
    let limit = shared.limits.body_timeout;
    timeout(limit, read).await.unwrap_or_else(|_| {
        let detail = format!("The body did not come within {} s.", limit.as_secs_f64());
        Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "slow-body", "Body too slow", detail))
    })
}

fn incomplete() -> Problem {
    Problem::bad_request("incomplete-body", "Incomplete body", "The body broke off before its end.")
}
