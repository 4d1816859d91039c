//! bulkhead, the daemon: configuration, steps, gateway and admin around the engine. Never holds engine logic: that is in
//! `bulkhead-core` and `bulkhead-actors`.

pub mod config;
pub mod exit;
pub mod steps;
pub mod vision;
