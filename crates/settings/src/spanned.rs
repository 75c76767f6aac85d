//! A value that knows where it stands.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};

use crate::node::Position;
use crate::problem::Problem;

/// The name by which [`Spanned`] asks our own deserializer for the position.
pub(crate) const SPANNED: &str = "$doorward_settings::Spanned";
pub(crate) const SPANNED_FIELDS: &[&str] = &["file", "line", "column", "path", "value"];

/// A value with its place and key path, for errors that are found later than at loading. It can be read
/// only from a [`Node`](crate::Node), which has places; not from JSON.
#[derive(Clone, Debug)]
pub struct Spanned<T> {
    value: T,
    position: Position,
    path: String,
}

impl<T> Spanned<T> {
    /// A value from some place: tests, and values that a program makes.
    pub fn new(value: T, position: Position, path: impl Into<String>) -> Self {
        Self { value, position, path: path.into() }
    }

    /// The value.
    pub fn get(&self) -> &T {
        &self.value
    }

    /// The value itself.
    pub fn into_inner(self) -> T {
        self.value
    }

    /// Where it stands.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Its key path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// A problem with this value.
    pub fn problem(&self, message: impl Into<String>) -> Problem {
        Problem::at(&self.position, self.path.clone(), message)
    }

    /// The same place with another value.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Spanned<U> {
        Spanned { value: change(self.value), position: self.position, path: self.path }
    }
}

impl<T> Deref for Spanned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: PartialEq> PartialEq for Spanned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Spanned<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_struct(SPANNED, SPANNED_FIELDS, SpannedVisitor(PhantomData))
    }
}

struct SpannedVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for SpannedVisitor<T> {
    type Value = Spanned<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value with a position")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
        let missing = || serde::de::Error::custom("a position has five parts");
        let file: String = parts.next_element()?.ok_or_else(missing)?;
        let line = parts.next_element()?.ok_or_else(missing)?;
        let column = parts.next_element()?.ok_or_else(missing)?;
        let path = parts.next_element()?.ok_or_else(missing)?;
        let value = parts.next_element()?.ok_or_else(missing)?;
        Ok(Spanned { value, position: Position { file: file.into(), line, column }, path })
    }
}

impl<T: JsonSchema> JsonSchema for Spanned<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}
