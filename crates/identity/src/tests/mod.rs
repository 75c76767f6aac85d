//! Tests of the whole organ, through the trait that the road uses.

mod pitfalls;
mod support;
