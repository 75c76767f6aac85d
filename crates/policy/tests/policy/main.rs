//! Policy as its users meet it: the text of a configuration in, decisions and refusals out.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly"
)]

mod conditions;
mod decisions;
mod explaining;
mod properties;
mod refusals;
mod support;
