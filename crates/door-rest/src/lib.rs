//! The REST door: PostgreSQL behind PostgREST's conventions.
//!
//! A call goes through four pure stages, a module each: `request` (HTTP → request), `plan` (request
//! and catalogue → plan), `sql` (plan → one statement) and `answer` (the database's row → HTTP).
//! `call` joins them to the main road, `resource` holds what lives longer than a call.
//!
//! Invariants: one statement a call, in one transaction, under the permitted role; values are parameters
//! and identifiers are quoted; the decision comes before the catalogue; the body is built in the
//! database and passed on as it is.
//!
//! Absences: embedding, upsert, PUT, planned counts, CSV and form bodies, other media types than JSON,
//! OpenAPI. Requests for them are refused with a text that says so.

mod answer;
mod call;
pub mod codes;
mod config;
mod door;
mod fuzz;
mod plan;
mod problem;
mod request;
mod resource;
mod settings;
mod sql;
mod sqlstate;
mod wire;

pub use config::RestConfig;
pub use door::RestDoor;
pub use fuzz::fuzz_request;
pub use resource::{OpenError, RestResource};

/// The door's name, as records and metrics know it.
pub const DOOR: &str = "rest";

#[cfg(test)]
mod tests;
