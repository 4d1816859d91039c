//! Pictures and models: bytes are decoded, prepared as a model's description says, and classified by ONNX Runtime.
//!
//! Never knows records, topics or stages: `steps/classify.rs` does. `image` is named in `decode` and `encode` only, `ort` in `onnx` only.

pub mod boxes;
pub mod decode;
pub mod describe;
pub mod detector;
pub mod encode;
pub mod examine;
#[cfg(test)]
pub(crate) mod fixture;
pub mod ink;
pub mod loaded;
pub mod model;
pub mod onnx;
pub mod prepare;
pub mod provenance;
pub mod rank;
pub mod resample;
pub mod strip;
pub mod suggest;
pub mod watchdog;
