//! The uploads system as it is shipped (`config/pipelines/uploads.toml`), from outside: on the embedded log and on a real Kafka,
//! with an Airflow that is played by a small server (down, slow, wrong) and with a real one.

mod played;
mod real;
mod rig;
