//! Tiles of tlog-tiles: rows of 256 hashes at every eighth level of the tree.

use std::fmt::Write as _;

use crate::tree::{Hash, Missing, Nodes, fold};

/// Hashes in a full tile.
pub const TILE: usize = 256;
/// Levels of tiles in a tree of fewer than 2^63 leaves.
pub const LEVELS: u8 = 8;

/// A tile: full, or the first hashes of one that is last in its level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    /// 0 holds leaves; a hash of the next level stands for a whole tile of this one.
    pub level: u8,
    /// Which tile of its level.
    pub index: u64,
    /// 1 to 256 hashes.
    pub hashes: Vec<Hash>,
}

impl Tile {
    /// The tile's path below the log's prefix.
    pub fn path(&self) -> String {
        path(self.level, self.index, self.hashes.len())
    }

    /// The tile's bytes: its hashes.
    pub fn bytes(&self) -> Vec<u8> {
        self.hashes.concat()
    }
}

/// The path of a tile below the log's prefix: `tile/0/x001/x234/067` or `tile/0/000.p/5`.
pub fn path(level: u8, index: u64, width: usize) -> String {
    let mut path = format!("{:03}", index % 1_000);
    let mut rest = index / 1_000;
    while rest > 0 {
        path = format!("x{:03}/{path}", rest % 1_000);
        rest /= 1_000;
    }
    let mut path = format!("tile/{level}/{path}");
    if width < TILE {
        // Writing to a string does not fail.
        let _ = write!(path, ".p/{width}");
    }
    path
}

/// How many hashes a tile has in a tree of `size` leaves; 0 when it has none.
pub fn width(size: u64, level: u8, index: u64) -> usize {
    let hashes = size.checked_shr(8 * u32::from(level)).unwrap_or(0);
    let before = index.saturating_mul(256);
    usize::try_from(hashes.saturating_sub(before).min(256)).unwrap_or(TILE)
}

/// The hashes in a tile's bytes; `None` when they are not whole, or too many.
pub fn hashes(bytes: &[u8]) -> Option<Vec<Hash>> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    (rest.is_empty() && (1..=TILE).contains(&hashes.len())).then(|| hashes.to_vec())
}

/// Reads the nodes of a tree of one size from its tiles. `read` takes level, index and width, and may give more
/// hashes than the width.
pub struct TileNodes<R> {
    size: u64,
    read: R,
    /// The tile of each level that was read last: proofs go from tile to tile.
    last: Vec<Option<Tile>>,
}

impl<R: FnMut(u8, u64, usize) -> Option<Vec<Hash>>> TileNodes<R> {
    /// Of a tree of `size`.
    pub fn new(size: u64, read: R) -> Self {
        Self { size, read, last: vec![None; usize::from(LEVELS)] }
    }
}

impl<R: FnMut(u8, u64, usize) -> Option<Vec<Hash>>> Nodes for TileNodes<R> {
    fn node(&mut self, height: u32, index: u64) -> Result<Hash, Missing> {
        let missing = Missing { height, index };
        let level = u8::try_from(height / 8).map_err(|_| missing)?;
        let span = 1_usize << (height % 8);
        // The subtree is `span` hashes of this level, all in one tile.
        let first = index.checked_shl(height % 8).ok_or(missing)?;
        let tile = first / 256;
        let start = usize::try_from(first % 256).map_err(|_| missing)?;
        let place = self.last.get_mut(usize::from(level)).ok_or(missing)?;
        if place.as_ref().is_none_or(|last| last.index != tile) {
            let width = width(self.size, level, tile);
            let hashes = (self.read)(level, tile, width).ok_or(missing)?;
            *place = Some(Tile { level, index: tile, hashes });
        }
        let hashes = place.as_ref().map_or(&[][..], |tile| &tile.hashes);
        hashes.get(start..start + span).map(fold).ok_or(missing)
    }
}
