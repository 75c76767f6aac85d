//! Snapshots of the pure stages: an HTTP head and body in, the statement or the refusal out.

mod answers;
mod fixture;
mod fuzz;
mod queries;
mod refusals;
mod writes;

use fixture::{Ask, get, patch, post};
