//! What bulkhead's tests share: a real Kafka broker and the daemon as child processes, and readers for the auditor.
//! Never names the engine: it sees what a user of the daemon sees.
#![allow(clippy::missing_panics_doc, reason = "a broken set-up ends the test, with a message")]

pub mod airflow;
pub mod audit;
pub mod browser;
pub mod certificates;
pub mod daemon;
pub mod flow;
pub mod groups;
mod java;
pub mod kafka;
pub mod mobilenet;
pub mod onnx;
mod ports;
pub mod postgres;
pub mod process;
pub mod redis;
pub mod relay;
mod scratch;
pub mod small_disk;
pub mod topics;
pub mod web;
