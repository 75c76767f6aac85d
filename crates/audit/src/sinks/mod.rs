//! Sinks: records on their way to other places than the store: standard output, an OpenTelemetry collector, a
//! syslog receiver, a bucket.
//!
//! Each sink is a thread of its own ([`worker`]) that follows the spool's durable frames ([`tail`]) and gives them
//! to a [`worker::Receiver`]. How far it has come is kept in a cursor file under `SPOOL/sinks/`. Segments that the
//! store has and a sink still needs are kept there too ([`retained`]), up to the sink's `lag_max`.
//!
//! Invariants:
//! - at least once: a position is kept after the receiver has taken everything before it; who wants each record
//!   once tells them by `(gateway_id, epoch, seq, action_index)`;
//! - no sink delays the spool, the store or another sink: each has its own thread, its own connection and its
//!   own bound on disk;
//! - what a sink does not get, it is told as a gap, in the sink itself, in the metrics and in the log;
//! - personal values do not leave unless the configuration says so, and then sealed as the store has them.

mod archive;
#[cfg(test)]
pub(crate) mod collector;
pub mod config;
mod format;
pub mod ocsf;
mod otlp_logs;
pub(crate) mod retained;
mod row;
pub(crate) mod start;
mod stdout;
mod syslog;
mod tail;
#[cfg(test)]
mod tests;
mod worker;

pub use config::SinkConfig;
pub use start::{Outside, SinkError, SinkStatus};
