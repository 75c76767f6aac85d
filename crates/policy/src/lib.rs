//! Policy: grants, deny rules, conditions and limits, compiled from the configuration into something that
//! decides in about a microsecond, and that can explain itself.
//!
//! An organ: it implements [`doorward_core::Policy`]. [`compile`] makes a [`Compiled`] of the `grants:` and
//! `deny:` sections; [`Compiled::explain`], [`Compiled::who_can`] and [`Compiled::lints`] are loops over
//! the same pure parts.
//!
//! Invariants:
//! - Deny by default; a deny rule beats every grant; the first grant in file order whose `to` and `when`
//!   hold and which allows all actions of the call decides. Nothing is merged from two grants.
//! - Whatever cannot be evaluated refuses: a grant whose condition or template fails does not hold, and a
//!   deny rule whose condition or template fails does hold.
//! - A decision looks at its [`doorward_core::Case`] only. The one thing that changes is the [`Limiter`]'s
//!   counters, and those are touched by `admit` alone, after the decision.
//! - A caller learns the rule that refuses it, never what others may do; the operator's cause says more.

pub mod codes;
mod compile;
mod condition;
pub mod config;
mod decide;
mod explain;
mod index;
mod limiter;
mod lint;
mod pattern;
mod rule;
mod selector;
mod template;
mod text;
mod typecheck;

pub use compile::{Compiled, Sources, compile};
pub use explain::{Considered, Explanation, Holder, Reason, RuleKind, Verdict, WhoCan};
pub use limiter::{KEYS_MAX, Limiter};
pub use lint::Lint;
