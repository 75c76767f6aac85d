//! Tests of the whole organ, through the trait that the road uses.

mod api_keys;
mod certificates;
mod configuration;
mod introspection;
mod key_sets;
mod logins;
mod loopback;
mod pitfalls;
mod shapes;
pub(crate) mod support;
mod verified;
