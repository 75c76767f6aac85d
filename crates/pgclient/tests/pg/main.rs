//! The client against real servers: PostgreSQL 15 and 18.

#![allow(clippy::unwrap_used, reason = "the helpers of the tests fail as the tests do")]

mod blocking;
mod cancel;
mod catalog;
mod clean;
mod hosts;
mod pool;
mod share;
mod spoilt;
mod statements;
mod support;
mod tls;
