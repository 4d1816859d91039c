//! TCP ports that stay ours while their server is down. Never in the kernel's range for outgoing connections: a
//! client that keeps trying a dead port of that range can end up connected to itself, and the server cannot come back.

use std::fs::{self, File};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// A port of 127.0.0.1 that no other test process takes for as long as this lives.
pub(crate) struct Port {
    pub(crate) number: u16,
    _lock: File,
}

static NEXT: AtomicU16 = AtomicU16::new(0);
const FIRST: u16 = 10_000;

impl Port {
    /// Takes a free one.
    pub(crate) fn take() -> Self {
        let locks = std::env::temp_dir().join("bulkhead-test-ports");
        fs::create_dir_all(&locks).expect("a temporary folder can be made");
        let span = outgoing_from() - FIRST;
        // Processes start far apart; the lock decides where they meet all the same.
        let start = (std::process::id() as u16).wrapping_mul(101);
        for _ in 0..span {
            let number = FIRST + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % span;
            let file = File::options().create(true).append(true).open(locks.join(number.to_string()));
            let Ok(lock) = file else { continue };
            if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Self { number, _lock: lock };
            }
        }
        panic!("no free port from {FIRST} to {}", FIRST + span);
    }
}

/// Where the range for outgoing connections begins.
fn outgoing_from() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first = range.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(32_768);
    if first > FIRST + 1_000 { first } else { 32_768 }
}
