//! The configuration file as a tree with positions, and the human value types that stand in it.
//!
//! A tool of the binary and of the organs' `config.rs` files. What it gives them: each error says file,
//! line, column and key path, and "did you mean" where a name is close; a key that a later version will
//! bring is refused with a text that says so ([`later`]).
//!
//! Constraints:
//! - The YAML subset is the part that reads the same to everybody: one document, no anchors, aliases,
//!   merge keys or tags, no tabs in the indentation, no duplicate keys. `on` and `yes` are text; what
//!   a scalar means is asked of it by the type that it is read into.
//! - A file has at most [`FILE_BYTES_MAX`] bytes and [`DEPTH_MAX`] levels. Bytes of any kind give a
//!   [`Problem`], never a panic.
//! - Secrets do not stand in the file: a [`SecretRef`] says where they are. No error repeats a value that
//!   was expected to be one.

mod audit;
mod de;
mod document;
mod key;
mod later;
mod node;
mod one_or_many;
mod parse;
mod problem;
mod secret_ref;
mod spanned;
mod values;
mod vault_path;

pub use audit::AuditConfig;
pub use document::Document;
pub use key::{KEY_BYTES, KeyBytes, parse_key};
pub use later::later;
pub use node::{Entry, Node, Position};
pub use one_or_many::OneOrMany;
pub use parse::{DEPTH_MAX, FILE_BYTES_MAX};
pub use problem::{Problem, Problems, suggest};
pub use secret_ref::{SECRET_BYTES_MAX, SecretRef};
pub use spanned::Spanned;
pub use values::{ByteSize, HumanDuration};
pub use vault_path::VaultPath;
