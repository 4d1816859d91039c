//! bulkhead, the daemon: configuration, steps, gateway and admin around the engine. Never holds engine logic: that is
//! in `bulkhead-core` and `bulkhead-actors`.

pub mod admin;
pub mod cases;
pub mod cli;
pub mod config;
pub mod connect;
pub mod daemon;
pub mod data_dir;
pub mod exit;
pub mod expression;
pub mod gateway;
pub mod health;
pub mod list;
pub mod logging;
pub mod model;
pub mod simulate;
pub mod steps;
pub mod topics;
pub mod vision;
pub mod worker;
