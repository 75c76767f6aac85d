//! How the database describes itself to this door: arrays instead of objects, because there are thousands.

use serde::Deserialize;

/// All objects that a statement can name.
#[derive(Deserialize)]
pub(crate) struct WireObjects {
    /// Schema, name, kind, whether it is a partition.
    pub(crate) r: Vec<(Box<str>, Box<str>, char, bool)>,
    /// Schema, name, kind, whether it is volatile, whether it runs with its owner's rights, the fewest and the
    /// most arguments, whether it may take a row.
    pub(crate) f: Vec<WireFunction>,
    /// Name, schema, and the function's schema and name.
    pub(crate) o: Vec<[Box<str>; 4]>,
    /// Names of roles that no permission on an object bounds.
    pub(crate) a: Vec<Box<str>>,
    /// Names of roles that may replicate, and are powerful in no other way.
    pub(crate) p: Vec<Box<str>>,
    /// Names of roles whose sessions begin as another role.
    pub(crate) s: Vec<Box<str>>,
    /// Whether the server can look whether its client is still there, and is not told how often.
    pub(crate) c: bool,
    /// Names of roles whose sessions are told how often.
    pub(crate) i: Vec<Box<str>>,
}

/// A function.
#[derive(Deserialize)]
pub(crate) struct WireFunction(
    pub(crate) Box<str>,
    pub(crate) Box<str>,
    pub(crate) char,
    pub(crate) bool,
    pub(crate) bool,
    pub(crate) u16,
    pub(crate) u16,
    pub(crate) bool,
);

/// What is a session's own.
#[derive(Deserialize)]
pub(crate) struct WireSession {
    /// The schemas that are searched.
    pub(crate) p: Vec<Box<str>>,
    /// Its temporary relations: name and kind.
    pub(crate) t: Vec<(Box<str>, char)>,
}
