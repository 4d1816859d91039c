//! `bulkhead health`: asks a running daemon's admin port, for a container's health check. Never starts or loads anything.

use std::net::SocketAddr;
use std::time::Duration;

/// Below what container runtimes wait by default (Docker: 30 s), and past what a busy daemon needs.
const WAIT: Duration = Duration::from_secs(5);

/// Asks `/ready` at `admin`.
///
/// # Errors
/// Why the daemon is not to be sent anything: what it says itself, or that it does not answer.
pub fn ready(admin: SocketAddr) -> Result<(), String> {
    let client = reqwest::blocking::Client::builder().timeout(WAIT).no_proxy().build().map_err(|e| e.to_string())?;
    let answer =
        client.get(format!("http://{admin}/ready")).send().map_err(|e| format!("{admin} does not answer: {e}"))?;
    if answer.status().is_success() {
        return Ok(());
    }
    let status = answer.status();
    Err(format!("{admin} is not ready ({status}): {}", answer.text().unwrap_or_else(|why| why.to_string())))
}
