//! Reads nodes into serde types. Each error gets the place and key path of the innermost node that it is
//! about; what a scalar means is decided by the type that asks.

use std::fmt;

use serde::de::value::{StrDeserializer, StringDeserializer, U32Deserializer};
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use crate::later;
use crate::node::{Entry, Node, NodeKind, Position};
use crate::one_or_many::ONE_OR_MANY;
use crate::problem::{Problem, suggest};
use crate::spanned::SPANNED;

/// An error on its way up: the first node that it passes gives it its place.
#[derive(Debug)]
pub(crate) struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    message: String,
    hint: Option<String>,
    unknown_key: bool,
    place: Option<(Position, String)>,
}

impl Error {
    fn new(message: String, hint: Option<String>) -> Self {
        Self(Box::new(Inner { message, hint, unknown_key: false, place: None }))
    }

    fn at(mut self, node: &Node) -> Self {
        if self.0.place.is_none() {
            self.0.place = Some((node.position.clone(), node.path()));
        }
        self
    }

    fn at_key(mut self, entry: &Entry) -> Self {
        if self.0.place.is_none() {
            let path = entry.value.path();
            if let Some((message, hint)) = later::message(&path).filter(|_| self.0.unknown_key) {
                self.0.message = message;
                self.0.hint = Some(hint);
            }
            self.0.place = Some((entry.key_position.clone(), path));
        }
        self
    }

    pub(crate) fn into_problem(self, node: &Node) -> Problem {
        let Inner { message, hint, place, .. } = *self.0;
        let (position, path) = place.unwrap_or_else(|| (node.position.clone(), node.path()));
        let problem = Problem::at(&position, path, message);
        match hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string(), None)
    }

    // The found text is not repeated: it may be a secret that stands in the wrong place.
    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("expected {expected}, found {}", sort(&found)), None)
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        let mut error = Self::new("unknown key".to_owned(), suggest(field, known.iter().copied()));
        error.0.unknown_key = true;
        error
    }

    fn unknown_variant(variant: &str, known: &'static [&'static str]) -> Self {
        let hint = suggest(variant, known.iter().copied());
        Self::new("this is none of the words that can stand here".to_owned(), hint)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(format!("the key \"{field}\" is missing"), None)
    }
}

fn sort(found: &Unexpected<'_>) -> &'static str {
    match found {
        Unexpected::Bool(_) => "true or false",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "a whole number",
        Unexpected::Float(_) => "a number",
        Unexpected::Unit | Unexpected::Option => "nothing",
        Unexpected::Seq => "a list",
        Unexpected::Map => "a mapping",
        _ => "text",
    }
}

/// Reads one node.
#[derive(Clone, Copy)]
pub(crate) struct NodeDeserializer<'a> {
    node: &'a Node,
}

impl<'a> NodeDeserializer<'a> {
    pub(crate) fn new(node: &'a Node) -> Self {
        Self { node }
    }

    fn mismatch(self, expected: &dyn fmt::Display) -> Error {
        Error::custom(format_args!("expected {expected}, found {}", self.node.sort())).at(self.node)
    }

    /// The text of a plain scalar, for the types that are not text.
    fn plain(self, expected: &str) -> Result<&'a str, Error> {
        match &self.node.kind {
            NodeKind::Scalar { text, plain: true } if !self.node.is_null() => Ok(text),
            NodeKind::Scalar { plain: false, .. } => {
                let message = format!("expected {expected}, found quoted text");
                Err(Error::new(message, Some("remove the quotes".to_owned())).at(self.node))
            }
            _ => Err(self.mismatch(&expected)),
        }
    }

    fn integer<T: TryFrom<i128>>(self) -> Result<T, Error> {
        const EXPECTED: &str = "a whole number";
        let text = self.plain(EXPECTED)?;
        let number = parse_integer(text).ok_or_else(|| self.mismatch(&EXPECTED))?;
        let range = |_| Error::custom(format_args!("the number {number} is out of range here")).at(self.node);
        T::try_from(number).map_err(range)
    }

    fn float(self) -> Result<f64, Error> {
        const EXPECTED: &str = "a number";
        let text = self.plain(EXPECTED)?;
        let number: Option<f64> = text.parse().ok();
        number.filter(|number| number.is_finite()).ok_or_else(|| self.mismatch(&EXPECTED))
    }

    fn text(self) -> Result<&'a str, Error> {
        match &self.node.kind {
            NodeKind::Scalar { text, .. } if !self.node.is_null() => Ok(text),
            _ => Err(self.mismatch(&"text")),
        }
    }
}

/// The YAML core schema's integers: decimal, `0o17` and `0xFF`.
fn parse_integer(text: &str) -> Option<i128> {
    let digits = |text: &str, radix| {
        let clean = !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
        if clean { i128::from_str_radix(text, radix).ok() } else { None }
    };
    if let Some(octal) = text.strip_prefix("0o") {
        return digits(octal, 8);
    }
    if let Some(hex) = text.strip_prefix("0x") {
        return digits(hex, 16);
    }
    match text.strip_prefix('-') {
        Some(rest) => digits(rest, 10).map(|number| -number),
        None => digits(text.strip_prefix('+').unwrap_or(text), 10),
    }
}

fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident),*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let node = self.node;
            visitor.$visit(self.integer()?).map_err(|error: Error| error.at(node))
        })*
    };
}

impl<'de> Deserializer<'de> for NodeDeserializer<'_> {
    type Error = Error;

    integers!(
        deserialize_u8 visit_u8, deserialize_u16 visit_u16, deserialize_u32 visit_u32,
        deserialize_u64 visit_u64, deserialize_u128 visit_u128, deserialize_i8 visit_i8,
        deserialize_i16 visit_i16, deserialize_i32 visit_i32, deserialize_i64 visit_i64,
        deserialize_i128 visit_i128
    );

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let node = self.node;
        match &node.kind {
            NodeKind::Mapping(entries) => visitor.visit_map(Entries::new(entries)),
            NodeKind::Sequence(items) => visitor.visit_seq(Items(items.iter())),
            NodeKind::Scalar { .. } if node.is_null() => visitor.visit_unit(),
            NodeKind::Scalar { text, plain: false } => visitor.visit_str(text),
            NodeKind::Scalar { text, .. } => {
                if let Some(value) = parse_bool(text) {
                    visitor.visit_bool(value)
                } else if let Some(number) = parse_integer(text).and_then(|number| i64::try_from(number).ok())
                {
                    visitor.visit_i64(number)
                } else if let Ok(number) = self.float() {
                    visitor.visit_f64(number)
                } else {
                    visitor.visit_str(text)
                }
            }
        }
        .map_err(|error: Error| error.at(node))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        const EXPECTED: &str = "true or false";
        let node = self.node;
        let value = parse_bool(self.plain(EXPECTED)?).ok_or_else(|| self.mismatch(&EXPECTED))?;
        visitor.visit_bool(value).map_err(|error: Error| error.at(node))
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let node = self.node;
        visitor.visit_f64(self.float()?).map_err(|error: Error| error.at(node))
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let node = self.node;
        visitor.visit_str(self.text()?).map_err(|error: Error| error.at(node))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.node.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        let node = self.node;
        match &node.kind {
            NodeKind::Mapping(_) | NodeKind::Scalar { .. } if name == ONE_OR_MANY => {
                visitor.visit_seq(Items(std::slice::from_ref(node).iter()))
            }
            NodeKind::Sequence(items) if name == ONE_OR_MANY => visitor.visit_seq(Items(items.iter())),
            _ => visitor.visit_newtype_struct(self),
        }
        .map_err(|error| error.at(node))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let node = self.node;
        match &node.kind {
            NodeKind::Sequence(items) => {
                visitor.visit_seq(Items(items.iter())).map_err(|error: Error| error.at(node))
            }
            _ => Err(self.mismatch(&"a list")),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let node = self.node;
        match &node.kind {
            NodeKind::Mapping(entries) => {
                visitor.visit_map(Entries::new(entries)).map_err(|error: Error| error.at(node))
            }
            _ => Err(self.mismatch(&"a mapping")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if name == SPANNED {
            let node = self.node;
            return visitor.visit_seq(SpannedParts { node, next: 0 }).map_err(|error: Error| error.at(node));
        }
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let node = self.node;
        match &node.kind {
            NodeKind::Scalar { .. } => {
                let text = self.text()?;
                visitor.visit_enum(StrDeserializer::new(text)).map_err(|error: Error| error.at(node))
            }
            NodeKind::Mapping(entries) => match entries.as_slice() {
                [entry] => visitor.visit_enum(Variant { entry }).map_err(|error| error.at(node)),
                _ => Err(Error::custom("expected a mapping with one key").at(node)),
            },
            NodeKind::Sequence(_) => Err(self.mismatch(&"a word or a mapping with one key")),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! { bytes byte_buf unit unit_struct }
}

struct Items<'a>(std::slice::Iter<'a, Node>);

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(node) = self.0.next() else { return Ok(None) };
        seed.deserialize(NodeDeserializer::new(node)).map(Some).map_err(|error| error.at(node))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

struct Entries<'a> {
    entries: std::slice::Iter<'a, Entry>,
    value: Option<&'a Node>,
}

impl<'a> Entries<'a> {
    fn new(entries: &'a [Entry]) -> Self {
        Self { entries: entries.iter(), value: None }
    }
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(entry) = self.entries.next() else { return Ok(None) };
        self.value = Some(&entry.value);
        let key: StrDeserializer<'_, Error> = StrDeserializer::new(&entry.key);
        seed.deserialize(key).map(Some).map_err(|error| error.at_key(entry))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let Some(node) = self.value.take() else {
            return Err(Error::custom("a value was asked for before its key"));
        };
        seed.deserialize(NodeDeserializer::new(node)).map_err(|error| error.at(node))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len())
    }
}

/// `{ variant: value }`.
struct Variant<'a> {
    entry: &'a Entry,
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let key: StrDeserializer<'_, Error> = StrDeserializer::new(&self.entry.key);
        let name = seed.deserialize(key).map_err(|error| error.at_key(self.entry))?;
        Ok((name, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        if self.entry.value.is_null() {
            return Ok(());
        }
        Err(Error::custom("this word takes no value").at(&self.entry.value))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        let node = &self.entry.value;
        seed.deserialize(NodeDeserializer::new(node)).map_err(|error| error.at(node))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        NodeDeserializer::new(&self.entry.value).deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        NodeDeserializer::new(&self.entry.value).deserialize_map(visitor)
    }
}

/// The five parts of a [`crate::Spanned`]: place, path, and the value itself.
struct SpannedParts<'a> {
    node: &'a Node,
    next: u8,
}

impl<'de> SeqAccess<'de> for SpannedParts<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let node = self.node;
        let part = self.next;
        self.next = self.next.saturating_add(1);
        let number = |number: u32| -> U32Deserializer<Error> { number.into_deserializer() };
        let text = |text: String| -> StringDeserializer<Error> { text.into_deserializer() };
        match part {
            0 => seed.deserialize(text(node.position.file.to_string())),
            1 => seed.deserialize(number(node.position.line)),
            2 => seed.deserialize(number(node.position.column)),
            3 => seed.deserialize(text(node.path())),
            4 => seed.deserialize(NodeDeserializer::new(node)),
            _ => return Ok(None),
        }
        .map(Some)
        .map_err(|error| error.at(node))
    }
}
