//! The ingest door: what other gateways say of the calls that they carried, on the same timeline.
//!
//! A resource `ingest:KIND` takes records in over HTTP (`POST /NAME/records`: JSON lines, JSON; `POST
//! /NAME/v1/logs`: OTLP logs) and over syslog (RFC 5424, TLS). Bytes are cut into pieces (`read`, `otlp`,
//! `syslog`), each piece is mapped (`mapping`), and handed to the recorder (`intake`); `call` joins this to
//! the main road.
//!
//! Invariants: who brings records is authenticated and needs `write NAME/records`; a record is durable
//! before it is acknowledged; what cannot be read as a record becomes one itself, with the reason (a dead
//! letter); nothing that a source says can pass for a decision of this gateway (`doorward_core::Importer`);
//! a body is never held whole, but an OTLP request, which has a bound of its own.

mod answer;
mod call;
pub mod codes;
mod config;
mod door;
mod fuzz;
mod intake;
mod mapping;
mod otlp;
mod read;
mod resource;
mod syslog;

pub use config::{FieldConfig, FieldRule, IngestConfig, SyslogConfig, UnknownFields};
pub use door::IngestDoor;
pub use fuzz::{fuzz_otlp, fuzz_records, fuzz_syslog};
pub use mapping::convert::As;
pub use mapping::{MappingError, is_mappable, is_ours};
pub use resource::{CheckError, IngestResource};
pub use syslog::listener::{SyslogListener, SyslogTls};

/// The door's name, as records and metrics know it.
pub const DOOR: &str = "ingest";

#[cfg(test)]
mod tests;
