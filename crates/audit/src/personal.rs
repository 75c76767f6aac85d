//! The one door by which personal data enters a record.
//!
//! Every personal field passes [`seal`] on its way in and [`Sealed::open`] on its way out. Today the seal
//! is the identity; encrypting under a per-subject key changes these two functions and nothing of the
//! record's shape: a sealed value is, and stays, text.
//!
//! Invariant: a column is marked personal exactly when its value is a [`crate::row::Value::Personal`]; a
//! test walks the table of columns.

use std::borrow::Cow;
use std::fmt;

use uuid::Uuid;

/// A personal value in the form in which it is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed<'a>(Cow<'a, str>);

/// Seals a personal value of `subject` (`None` when the caller is not known).
pub fn seal<'a>(subject: Option<Uuid>, text: impl Into<Cow<'a, str>>) -> Sealed<'a> {
    // The subject chooses the key as soon as there are keys.
    let _ = subject;
    Sealed(text.into())
}

impl<'a> Sealed<'a> {
    /// Takes a value that is sealed already, from a frame or from the store.
    pub fn stored(text: impl Into<Cow<'a, str>>) -> Self {
        Self(text.into())
    }

    /// The form in which the value is kept.
    pub fn as_stored(&self) -> &str {
        &self.0
    }

    /// The value in clear, for those who may read the timeline.
    pub fn open(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Sealed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed(..)")
    }
}
