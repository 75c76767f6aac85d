//! PostgreSQL statements, read by PostgreSQL's own grammar (libpg_query): what they are, and what they need.
//!
//! [`parse`] (or a [`Parser`], which remembers) takes a text apart into [`Statement`]s; [`resolve`] looks the
//! names up in a [`Catalog`] along the search path and says which [`Needs`] a statement has. The table of
//! statements and needs is docs/spec/sql.md.
//!
//! Constraints and invariants:
//! - No I/O, no clock. What is remembered depends on the text alone.
//! - Deny by default: what is not understood, or cannot be known from the text, is [`Unknown`], never ignored. The
//!   walk over the syntax tree counts every structure of it.
//! - No text makes it crash: size is bounded first, then depth, then the tree is read with stack for it.
//! - The text is read as with `standard_conforming_strings = on` and in UTF-8. Statements that would change
//!   either are refused.
//! - It is the second net. The first one is the backend role, which can do no more than it may.

mod cache;
mod comment;
mod deep;
mod error;
mod functions;
mod fuzz;
mod name;
mod needs;
mod redact;
mod script;
mod settings;
mod statement;
#[cfg(test)]
mod tests;
mod tokens;
mod walk;

// Named for its feature, which lifts the decoder's limit of recursion; see `deep`.
use prost as _;

pub use cache::{CACHED_TEXT_BYTES_MAX, Parser};
pub use comment::{TAG_BYTES_MAX, TAGS_MAX};
pub use deep::LEVELS_MAX;
pub use error::{ParseError, Unknown, Why};
pub use fuzz::fuzz_text;
pub use needs::{Catalog, FunctionFacts, Need, Needs, ObjectKind, OperatorFacts, RelationKind, resolve};
pub use redact::{Literals, redact};
pub use script::{Limits, parse};
pub use statement::{
    Direction, Discard, Kind, Lookup, Name, Script, SessionEffects, Setting, Shape, Statement, Transaction,
    Want,
};
