//! The body: JSON, bounded in size and depth, passed to the database as one value.
//!
//! Only the shape is looked at here: whether it is an object or an array of objects, and the keys. The
//! values are PostgreSQL's to read.

use std::collections::BTreeSet;

use bytes::Bytes;
use doorward_http::is_nested_deeper;

use crate::codes;
use crate::problem::Problem;
use crate::wire;

/// How deep a body may nest.
pub(crate) const DEPTH_MAX: usize = 64;

/// A body that has been read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Payload {
    /// There is none.
    #[default]
    Absent,
    /// One JSON object and its keys.
    Object { json: Bytes, keys: Keys },
    /// An array of objects with the same keys.
    Array { json: Bytes, keys: Keys },
    /// Other JSON: a scalar, or an array of other things than objects.
    Other { json: Bytes },
}

/// The keys of an object, sorted, each once: the same keys in any order give the same statement.
pub(crate) type Keys = Vec<Box<str>>;

/// Which bodies an operation takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Rows: an object, or an array of objects.
    Rows,
    /// A function's arguments: an object, or any JSON for a function with one unnamed argument.
    Arguments,
}

impl Payload {
    /// The JSON text, if there is any.
    pub(crate) fn json(&self) -> Option<&Bytes> {
        match self {
            Self::Absent => None,
            Self::Object { json, .. } | Self::Array { json, .. } | Self::Other { json } => Some(json),
        }
    }

    /// The keys of the object or objects.
    pub(crate) fn keys(&self) -> &[Box<str>] {
        match self {
            Self::Object { keys, .. } | Self::Array { keys, .. } => keys,
            Self::Absent | Self::Other { .. } => &[],
        }
    }

    /// Reads a body. With `columns` given, objects need not have the same keys: absent ones are NULL
    /// or the default.
    pub(crate) fn read(json: Bytes, expect: Expect, columns_given: bool) -> Result<Self, Problem> {
        if expect == Expect::Arguments && json.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::Object { json: Bytes::from_static(b"{}"), keys: Keys::new() });
        }
        check_depth(&json)?;
        match wire::read_shape(&json) {
            Ok(wire::Shape::Object(keys)) => Ok(Self::Object { json, keys: sorted(keys) }),
            Ok(wire::Shape::Objects { keys, uniform }) => {
                if expect == Expect::Rows && !uniform && !columns_given {
                    return Err(invalid("All object keys must match")
                        .details("the objects of the array do not all have the same keys")
                        .hint("Give each object the same keys, or name the columns in `columns=`."));
                }
                Ok(Self::Array { json, keys: sorted(keys) })
            }
            Ok(wire::Shape::Other) if expect == Expect::Arguments => Ok(Self::Other { json }),
            Ok(wire::Shape::Other) => Err(invalid("Empty or invalid json")
                .details("a body is an object, or an array of objects")
                .hint("Send a row as {\"column\": value}, several rows as an array of such objects.")),
            Err(position) => Err(invalid("Empty or invalid json")
                .details(position)
                .hint("Send well-formed JSON (RFC 8259).")),
        }
    }
}

fn invalid(message: &'static str) -> Problem {
    Problem::new(400, "PGRST102", codes::BODY, message)
}

fn sorted(keys: BTreeSet<String>) -> Keys {
    keys.into_iter().map(Into::into).collect()
}

/// Neither this gateway nor the database recurses deeper than this.
fn check_depth(json: &[u8]) -> Result<(), Problem> {
    if is_nested_deeper(json, DEPTH_MAX) {
        return Err(invalid("the body is nested too deep")
            .details(format!("at most {DEPTH_MAX} levels of objects and arrays are read"))
            .hint("Send flatter JSON."));
    }
    Ok(())
}
