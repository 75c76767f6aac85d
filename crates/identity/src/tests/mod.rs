//! Tests of the whole organ, through the trait that the road uses.

mod key_sets;
mod pitfalls;
mod support;
mod verified;
