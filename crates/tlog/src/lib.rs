//! Tool tlog: transparency logs in the forms of RFC 6962 and C2SP, without I/O.
//!
//! [`tree`] hashes and proves, [`tile`] names and reads tiles of height 8 (tlog-tiles), [`note`] signs texts
//! (signed-note, Ed25519 and timestamped cosignatures), [`checkpoint`], [`witness`] and [`proof`] are the
//! forms of tlog-checkpoint, tlog-witness and tlog-proof.
//!
//! Constraints: nothing here reads a file, a clock or the network; every parser of foreign bytes is bounded
//! and never panics; the cryptography is aws-lc-rs, the one library of the house. (The small libraries for
//! these formats bring another one, ed25519-dalek, or a whole server.)

pub mod checkpoint;
pub mod note;
pub mod proof;
pub mod tile;
pub mod tree;
pub mod witness;

pub use tree::Hash;

#[cfg(test)]
mod tests;
