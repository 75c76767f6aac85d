//! Sinks: records on their way to other places than the store.

pub mod s3;
pub mod transport;
