//! The REST door against a real PostgreSQL, walked without a listener.

#![allow(clippy::unwrap_used, clippy::panic, reason = "the helpers of the tests fail as the tests do")]

mod calling;
mod isolation;
mod newer;
mod reading;
mod refusing;
mod shop;
mod writing;
