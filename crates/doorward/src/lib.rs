//! The binary's parts, as a library so that tests and benchmarks can reach them. The only crate that
//! sees all the others.

mod admin;
pub mod cli;
mod client;
mod clouds;
mod codes;
pub mod config;
pub mod doors;
pub mod fetch;
mod logins;
mod metrics;
mod minting;
mod peers;
mod postgres;
mod reload;
mod role_sources;
mod serve;
mod state;
mod syslog;
mod wire;
mod wiring;
mod witnesses;

use doorward_core::Code;

/// Every fault code of the gateway, for `docs/errors.md`.
pub fn codes() -> Vec<&'static Code> {
    let organs = [
        doorward_core::codes::CODES,
        doorward_http::codes::CODES,
        doorward_identity::codes::CODES,
        doorward_policy::codes::CODES,
        doorward_lease::CODES,
        doorward_pgclient::codes::CODES,
        doorward_door_postgres::codes::CODES,
        codes::CODES,
    ];
    let mut all: Vec<_> =
        organs.into_iter().chain(doors::DOORS.iter().map(|door| door.codes)).flatten().copied().collect();
    all.sort_by_key(|code| (code.stage, code.name));
    all
}
