//! Finds the places of rows that do not tell them: their leaves are looked up among those that were logged.
//!
//! Rows come in the order in which they were logged, some of them twice. A row whose leaf is nowhere waits until the
//! next one that is known: what has no place before that was changed.
//!
//! Constraints: memory is 8 bytes a leaf, once a row is not the next one, a bit a leaf, and [`HELD_MAX`] rows that wait.

use std::collections::BTreeMap;
use std::sync::Arc;

use doorward_tlog::Hash;

use super::walk::Tiles;
use super::{Item, What};

/// Rows that wait for the next known one; what comes beyond was put in.
const HELD_MAX: usize = 10_000;
/// How far ahead a leaf is looked for before all of them are sorted: a note or two, or a gap.
const NEAR: u64 = 8;

/// What stands in the log's order: the frame, and which of its rows.
pub(super) type Key = (u64, u64);

/// Gives rows their places, and hands them on in the order of these.
pub(super) struct Aligner<'a> {
    tiles: Arc<Tiles>,
    /// The first place behind those that can be looked up.
    largest: u64,
    /// The first place that nothing was put at.
    next: u64,
    last: Option<Key>,
    held: Vec<Item>,
    /// What the log says about itself, by places.
    notes: BTreeMap<u64, Item>,
    /// Places in the order of their leaves, once they are needed.
    sorted: Option<Vec<u64>>,
    /// A bit for each place whose own row was there.
    taken: Vec<u64>,
    each: &'a mut dyn FnMut(Item),
}

impl<'a> Aligner<'a> {
    pub(super) fn new(
        tiles: Arc<Tiles>,
        largest: u64,
        notes: BTreeMap<u64, Item>,
        each: &'a mut dyn FnMut(Item),
    ) -> Self {
        // A checkpoint may say any number; what has no tile is found by nobody.
        let largest = largest.min(tiles.end());
        let words = usize::try_from(largest.div_ceil(64)).unwrap_or(usize::MAX);
        let (held, sorted, taken) = (Vec::new(), None, vec![0; words]);
        Self { tiles, largest, next: 0, last: None, held, notes, sorted, taken, each }
    }

    /// Takes the next row.
    pub(super) fn row(&mut self, key: Key, mut item: Item) {
        let place = item.stored.and_then(|leaf| self.find(leaf));
        let place = place.or_else(|| item.leaf.and_then(|leaf| self.find(leaf)));
        let late = self.last.is_some_and(|last| key <= last);
        match place {
            Some(place) if place >= self.next && !late => {
                self.put_held(place);
                self.take(place);
                self.last = Some(key);
                self.put(place, item);
            }
            Some(place) => {
                // Deliveries are repeated after trouble: what was there as it was logged is no news.
                let same = item.leaf == self.tiles.leaf(place) && item.leaf == item.stored;
                if !(same && self.is_taken(place)) {
                    self.take(place);
                    item.index = Some(place);
                    (self.each)(item);
                }
            }
            None if late || self.held.len() >= HELD_MAX => (self.each)(Item { index: None, ..item }),
            None => {
                self.last = Some(key);
                self.held.push(item);
            }
        }
    }

    /// Takes something that no leaf is of.
    pub(super) fn other(&mut self, what: What) {
        (self.each)(Item { index: None, stored: None, leaf: None, what });
    }

    /// Nothing more comes.
    pub(super) fn end(mut self) {
        if self.next >= self.largest {
            // No tile has them: they are taken as they come, and the root tells.
            let held = std::mem::take(&mut self.held);
            for item in held {
                let place = self.next;
                self.put(place, item);
            }
        } else {
            self.put_held(self.largest);
        }
        for (place, note) in std::mem::take(&mut self.notes) {
            (self.each)(Item { index: Some(place), ..note });
        }
    }

    /// Puts rows that wait at the places up to one that have none, and what is left at none.
    fn put_held(&mut self, until: u64) {
        for item in std::mem::take(&mut self.held) {
            while self.next < until && self.notes.contains_key(&self.next) {
                self.put_notes(self.next + 1);
                self.next += 1;
            }
            match self.next < until {
                true => self.put(self.next, item),
                false => (self.each)(Item { index: None, ..item }),
            }
        }
    }

    fn put(&mut self, place: u64, item: Item) {
        self.put_notes(place);
        (self.each)(Item { index: Some(place), ..item });
        self.next = place + 1;
    }

    /// Hands on the notes before a place.
    fn put_notes(&mut self, before: u64) {
        while let Some(first) = self.notes.first_entry().filter(|first| *first.key() < before) {
            let (place, note) = first.remove_entry();
            (self.each)(Item { index: Some(place), ..note });
        }
    }

    /// The place of a leaf: the next one, one near it, or any.
    fn find(&mut self, leaf: Hash) -> Option<u64> {
        let near = (self.next..self.next.saturating_add(NEAR)).find(|place| self.leaf(*place) == Some(leaf));
        if near.is_some() {
            return near;
        }
        let sorted = self.sorted.take().unwrap_or_else(|| {
            let mut places: Vec<u64> = (0..self.largest).collect();
            places.sort_unstable_by_key(|place| self.leaf(*place));
            places
        });
        let at = sorted.partition_point(|place| self.leaf(*place) < Some(leaf));
        let found = sorted.get(at).copied().filter(|place| self.leaf(*place) == Some(leaf));
        self.sorted = Some(sorted);
        found
    }

    /// The leaf at a place that a checkpoint counts.
    fn leaf(&self, place: u64) -> Option<Hash> {
        if place < self.largest { self.tiles.leaf(place) } else { None }
    }

    fn is_taken(&self, place: u64) -> bool {
        let word = usize::try_from(place / 64).ok().and_then(|at| self.taken.get(at));
        word.is_some_and(|word| word & (1 << (place % 64)) != 0)
    }

    fn take(&mut self, place: u64) {
        if let Some(word) = usize::try_from(place / 64).ok().and_then(|at| self.taken.get_mut(at)) {
            *word |= 1 << (place % 64);
        }
    }
}
