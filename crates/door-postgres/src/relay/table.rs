//! Names that a session makes, and what stands under them: prepared statements, or portals.
//!
//! Invariant: their texts are bounded together, not only one by one; what is taken out gives its room back.

use doorward_core::hash::FixedMap;

use super::link::Named;

/// The most names.
pub(crate) const NAMES_MAX: usize = 4_096;
/// The most bytes that names, texts and types of parameters may take together.
pub(crate) const TEXTS_BYTES_MAX: usize = 8 << 20;

/// A table of names.
#[derive(Debug, Default)]
pub(crate) struct Table {
    named: FixedMap<Box<str>, Entry>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    named: Named,
    /// What it took when it was put in.
    bytes: usize,
}

/// Why there is no room for more names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// There are too many of them.
    Names,
    /// They are too large together.
    Bytes,
}

impl Table {
    pub(crate) fn get(&self, name: &str) -> Option<&Named> {
        self.named.get(name).map(|entry| &entry.named)
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut Named> {
        self.named.get_mut(name).map(|entry| &mut entry.named)
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.named.contains_key(name)
    }

    /// Puts it in, in the place of what stood under the name.
    pub(crate) fn insert(&mut self, name: Box<str>, named: Named) {
        let bytes = name.len() + named.vetted.text().len() + size_of_val(&*named.types);
        self.bytes += bytes;
        if let Some(before) = self.named.insert(name, Entry { named, bytes }) {
            self.bytes -= before.bytes;
        }
    }

    pub(crate) fn remove(&mut self, name: &str) -> Option<Named> {
        let entry = self.named.remove(name)?;
        self.bytes -= entry.bytes;
        Some(entry.named)
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Keeps what is to be kept, and may mark it.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&mut Named) -> bool) {
        self.named.retain(|_, entry| keep(&mut entry.named));
        self.bytes = self.named.values().map(|entry| entry.bytes).sum();
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut Named> {
        self.named.values_mut().map(|entry| &mut entry.named)
    }

    /// Whether there is room for one more of this size under this name.
    pub(crate) fn has_room_for(&self, name: &str, bytes: usize) -> Result<(), Full> {
        let before = self.named.get(name).map_or(0, |entry| entry.bytes);
        self.room(1, (bytes + name.len()).saturating_sub(before))
    }

    /// Whether there is room for so many more of this size together.
    pub(crate) fn room(&self, names: usize, bytes: usize) -> Result<(), Full> {
        if names > 0 && self.named.len() + names > NAMES_MAX {
            return Err(Full::Names);
        }
        if self.bytes + bytes > TEXTS_BYTES_MAX {
            return Err(Full::Bytes);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use doorward_sql::{Limits, Parser};

    use super::*;
    use crate::vet::Vetted;

    fn named(text: &str) -> Named {
        let parser = Parser::new(Limits::default(), 1 << 20);
        Named::new(Vetted::read(&parser, text).unwrap(), None, 0)
    }

    #[test]
    fn what_is_taken_out_gives_its_room_back() {
        let mut table = Table::default();
        let text = format!("select '{}'", "x".repeat(TEXTS_BYTES_MAX / 8 - 20));
        let of = |name: &str, table: &Table| table.has_room_for(name, text.len());
        for n in 0..8 {
            assert_eq!(of(&n.to_string(), &table), Ok(()));
            table.insert(n.to_string().into(), named(&text));
        }
        assert_eq!(of("8", &table), Err(Full::Bytes));
        assert_eq!(of("7", &table), Ok(()), "it takes the place of what is there");
        table.insert("7".into(), named("select 1"));
        assert_eq!(of("8", &table), Ok(()));
        table.insert("8".into(), named(&text));
        assert!(table.remove("0").is_some() && table.remove("0").is_none());
        assert_eq!(of("0", &table), Ok(()));
        table.insert("0".into(), Named { held: true, ..named(&text) });
        table.retain(|named| named.held);
        assert_eq!(table.bytes, text.len() + 1);
        table.clear();
        assert_eq!((table.bytes, table.room(NAMES_MAX, TEXTS_BYTES_MAX)), (0, Ok(())));
        assert_eq!(table.room(NAMES_MAX + 1, 0), Err(Full::Names));
    }

    #[test]
    fn types_of_parameters_count() {
        let mut table = Table::default();
        table.insert("s".into(), Named { types: vec![23; 1000].into(), ..named("select 1") });
        assert!(table.bytes > 4_000);
        table.remove("s");
        assert_eq!(table.bytes, 0);
    }
}
