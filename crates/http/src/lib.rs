//! HTTP for the doors: the server front, the wire gate before it, the listener under it, and a small
//! client for the gateway's own calls.
//!
//! From the wire inwards: a [`Listener`] accepts connections and holds the caps; the [`gate`] follows the
//! framing of each HTTP/1 byte stream and lets only unambiguous messages through to hyper; the
//! [`Front`] opens the access, extracts credentials, strips what could pass for identity, and hands the
//! call to the [`HttpDoor`] of its resource.
//!
//! Invariants:
//! - every request that hyper hands over has one record, refused ones too; only `GET /healthz` has none;
//! - after a violation of the framing nothing of the connection is interpreted;
//! - a door never sees the caller's token, nor a header in which a proxy would vouch for an identity;
//! - every body, head, wait and number of connections has a bound (see [`LimitsConfig`]).

mod accepting;
mod baggage;
mod body;
mod client;
pub mod codes;
pub mod config;
mod front;
pub mod gate;
mod inbound;
mod listener;
mod places;
mod plain;
mod problem;
mod taken;
mod tls;
mod wire;

pub use accepting::{Accepting, Guest, Phase};
pub use body::{BODY_READ_SPAN_MAX, Body, BodyError, RequestBody, empty, full, is_nested_deeper, read_body};
pub use client::{Caps, Client, ClientError, ClientOptions, Reply};
pub use config::{ClientCertificates, ClientIdentity, Limits, LimitsConfig, Network, TlsConfig};
pub use front::{Admitted, Front, HttpDoor, Inbound, OwnPaths, Peer};
pub use listener::{Listener, bind};
pub use places::Connections;
pub use plain::{PlainHandler, PlainTls, PostHandler, serve_plain, serve_posts};
pub use problem::{dress_answer, dress_refusal, problem, problem_with_status, status_of};
pub use tls::{ServerTls, TlsError, client_config, server_config, server_tls};
