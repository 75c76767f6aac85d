//! Values that must not be seen, and values that belong to a person.
//!
//! Invariants: a [`Secret`] has no `Display`, no serialization and a `Debug` that prints nothing of it;
//! a [`Personal`] value reaches a record only through the store's one sealing function, so that
//! per-subject encryption can be put there without a change of the record's shape.

use std::fmt;

/// A password, token or key. Printing one prints `Secret(..)`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T = Box<str>>(T);

impl<T> Secret<T> {
    /// Wraps a value that must not be shown.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself, for the one place that sends or checks it.
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self(value.into())
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value.into())
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A value that identifies or describes a person: subject, e-mail, source address, statement text.
///
/// `Debug` prints `Personal(..)`: operator logs are not the place for it, the record is.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Personal<T = Box<str>>(T);

impl<T> Personal<T> {
    /// Marks a value as personal.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value, for deciding on it or for sealing it into a record.
    pub const fn reveal(&self) -> &T {
        &self.0
    }
}

impl From<&str> for Personal {
    fn from(value: &str) -> Self {
        Self(value.into())
    }
}

impl From<String> for Personal {
    fn from(value: String) -> Self {
        Self(value.into())
    }
}

impl<T> fmt::Debug for Personal<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Personal(..)")
    }
}
