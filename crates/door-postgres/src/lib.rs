//! The Postgres door: the wire protocol, for any driver.
//!
//! `listener` accepts and takes the caller in (`startup`, `settings`, `authenticate` with `scram` and `oauth`), `call`
//! holds the door's calls on the main road, `relay` carries the messages of an open session, `vet` reads statements and says what they need,
//! `names` knows what their names mean. `correlate` and `values` read what a record keeps beside the text, `own` is
//! what the gateway itself has to say in a session, `replication` the commands of that protocol. `keys` are the cancel keys, `message` what the gateway itself says.
//!
//! Invariants:
//! - the backend connection is logged in as the permitted role itself: there is nothing to escape to; it is lent
//!   to one session at a time, and made to forget each before the next (`pool`);
//! - a statement that cannot be read, or of which it cannot be known what it would touch, is refused;
//! - a token is taken through TLS, or on loopback; the backend's keys and passwords never reach a client;
//! - every message, queue, table and wait has a bound; values and rows stream.
//!
//! Absences: the fast path of function calls, GSSAPI.
//! Requests for them are refused with a text that says so.

mod authenticate;
mod call;
pub mod codes;
mod correlate;
mod desk;
mod end_point;
mod hidden;
mod keys;
mod listener;
mod message;
mod names;
mod oauth;
mod own;
mod peer;
mod pool;
mod relay;
mod replication;
mod resolved;
mod resource;
mod scram;
mod settings;
mod startup;
mod values;
mod vet;
mod wire;

pub use listener::{WireListener, WireOptions, WireTls};
pub use oauth::OAuthOffer;
pub use pool::WirePoolStats;
pub use relay::{
    fuzz_client, fuzz_oauth, fuzz_replication, fuzz_scram, fuzz_server, fuzz_startup, fuzz_values,
};
pub use resource::{WireConfig, WireResource};

/// The door's name, as records and metrics know it.
pub const DOOR: &str = "postgres";
