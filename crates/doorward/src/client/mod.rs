//! The commands of people: a token of their own from their issuer, kept and refreshed on their machine, and shown to
//! the gateway for them.
//!
//! `config` says which issuer and gateway, `folder` keeps it and the tokens, `issuer` speaks OAuth, `device` and
//! `browser` are the two ways to log in, `session` hands out fresh tokens, `gateway` mints logins, `proxy` is the
//! loopback port for programs that know no tokens.
//!
//! Invariants:
//! - tokens stand in files that nobody else reads, never in arguments, logs or error texts;
//! - a refresh token is used once, by one process: whoever refreshes holds the lock;
//! - the gateway and the issuer are who their certificates say; plaintext is for loopback.

pub(crate) mod browser;
pub(crate) mod config;
pub(crate) mod device;
pub(crate) mod folder;
pub(crate) mod gateway;
pub(crate) mod issuer;
pub(crate) mod proxy;
pub(crate) mod session;
mod startup;
pub(crate) mod wire;
