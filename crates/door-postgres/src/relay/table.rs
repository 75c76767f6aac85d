//! Names that a session makes, and what stands under them: prepared statements, or portals.
//!
//! Invariants: their texts are bounded together, not only one by one; what is taken out gives its room back; names are
//! told apart as far as the server tells them apart, so that what stands under one here is what stands under it there.

use doorward_core::hash::FixedMap;

use super::link::Named;

/// The most names.
pub(crate) const NAMES_MAX: usize = 4_096;
/// The most bytes that names, texts and types of parameters may take together.
pub(crate) const TEXTS_BYTES_MAX: usize = 8 << 20;

/// As many bytes of a name as the server keeps (NAMEDATALEN, less the end): it cuts longer ones without a word, in the
/// middle of a character too.
const NAME_BYTES_KEPT: usize = 63;

/// A table of names.
#[derive(Debug, Default)]
pub(crate) struct Table {
    named: FixedMap<Box<[u8]>, Entry>,
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
        self.named.get(kept(name)).map(|entry| &entry.named)
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut Named> {
        self.named.get_mut(kept(name)).map(|entry| &mut entry.named)
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.named.contains_key(kept(name))
    }

    /// Puts it in, in the place of what stood under the name, which is returned.
    pub(crate) fn insert(&mut self, name: &str, named: Named) -> Option<Named> {
        let bytes = name.len() + named.bytes();
        self.bytes += bytes;
        let before = self.named.insert(kept(name).into(), Entry { named, bytes })?;
        self.bytes -= before.bytes;
        Some(before.named)
    }

    pub(crate) fn remove(&mut self, name: &str) -> Option<Named> {
        let entry = self.named.remove(kept(name))?;
        self.bytes -= entry.bytes;
        Some(entry.named)
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The names, but for those that were cut in the middle of a character.
    pub(crate) fn names(&self) -> Vec<Box<str>> {
        self.named.keys().filter_map(|name| Some(std::str::from_utf8(name).ok()?.into())).collect()
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
        let before = self.named.get(kept(name)).map_or(0, |entry| entry.bytes);
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

/// As much of a name as tells it from others.
pub(super) fn kept(name: &str) -> &[u8] {
    let bytes = name.as_bytes();
    bytes.get(..NAME_BYTES_KEPT).unwrap_or(bytes)
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
            table.insert(&n.to_string(), named(&text));
        }
        assert_eq!(of("8", &table), Err(Full::Bytes));
        assert_eq!(of("7", &table), Ok(()), "it takes the place of what is there");
        table.insert("7", named("select 1"));
        assert_eq!(of("8", &table), Ok(()));
        table.insert("8", named(&text));
        assert!(table.remove("0").is_some() && table.remove("0").is_none());
        assert_eq!(of("0", &table), Ok(()));
        table.insert("0", Named { held: true, ..named(&text) });
        table.retain(|named| named.held);
        assert_eq!(table.bytes, text.len() + 1);
        table.clear();
        assert_eq!((table.bytes, table.room(NAMES_MAX, TEXTS_BYTES_MAX)), (0, Ok(())));
        assert_eq!(table.room(NAMES_MAX + 1, 0), Err(Full::Names));
    }

    #[test]
    fn names_are_told_apart_as_far_as_the_server_does() {
        let mut table = Table::default();
        let long = "n".repeat(NAME_BYTES_KEPT);
        table.insert(&format!("{long}x"), named("select 1"));
        assert!(table.contains(&long) && table.contains(&format!("{long}y")));
        assert!(!table.contains(&long[1..]));
        assert!(table.remove(&format!("{long}ä")).is_some() && table.bytes == 0);
        // Cut in the middle of a character, it is not the name without the character.
        table.insert(&format!("{}é", &long[1..]), named("select 1"));
        assert!(table.contains(&format!("{}è", &long[1..])) && !table.contains(&long[1..]));
    }

    #[test]
    fn types_of_parameters_count() {
        let mut table = Table::default();
        table.insert("s", Named { types: vec![23; 1000].into(), ..named("select 1") });
        assert!(table.bytes > 4_000);
        table.remove("s");
        assert_eq!(table.bytes, 0);
    }
}
