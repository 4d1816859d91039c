//! The events system from outside: the shipped pipeline on both logs, its outbox while a real broker is away, and its rows in a real
//! PostgreSQL.

mod outbox;
mod rig;
mod shipped;
mod stored;
