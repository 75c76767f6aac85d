//! The client against real servers: PostgreSQL 15 and 18.

mod cancel;
mod catalog;
mod clean;
mod pool;
mod statements;
mod support;
