//! A text that lies where it is looked at.
//!
//! Each caller's names, rules and objects are cold in the processor's caches when its call comes; a text
//! behind a pointer costs one more wait for memory than a text beside what it belongs to.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};

/// The longest text that is kept in place.
const SHORT_BYTES_MAX: usize = 22;

/// A text of the configuration; a short one is kept in place.
#[derive(Clone)]
pub(crate) enum Text {
    Short(u8, [u8; SHORT_BYTES_MAX]),
    Long(Box<[u8]>),
}

impl Text {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short(length, bytes) => bytes.get(..usize::from(*length)).unwrap_or_default(),
            Self::Long(bytes) => bytes,
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        // It was made of a text.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        let mut bytes = [0; SHORT_BYTES_MAX];
        match (u8::try_from(text.len()), bytes.get_mut(..text.len())) {
            (Ok(length), Some(place)) => {
                place.copy_from_slice(text.as_bytes());
                Self::Short(length, bytes)
            }
            _ => Self::Long(text.as_bytes().into()),
        }
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Text {}

// A table of texts is asked with bytes.
impl Borrow<[u8]> for Text {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn short_and_long_texts_are_found_by_their_bytes() {
        let texts = ["", "a", "ein Käse", &"x".repeat(22), &"x".repeat(23), &"ü".repeat(150)];
        let table: HashMap<Text, usize> =
            texts.iter().enumerate().map(|(at, text)| (Text::from(*text), at)).collect();
        for (at, text) in texts.iter().enumerate() {
            assert_eq!(table.get(text.as_bytes()), Some(&at), "{text}");
            assert_eq!(Text::from(*text).as_str(), *text);
        }
        assert_eq!(table.get("xx".as_bytes()), None);
        assert_eq!(size_of::<Text>(), 24);
    }
}
