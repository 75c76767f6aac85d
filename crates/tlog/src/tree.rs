//! The Merkle tree of RFC 6962, section 2.1: hashing, growing, proving and checking proofs.
//!
//! Constraints: a tree that grows keeps its right edge only, [`TILE`] hashes a level at most; what a proof needs
//! of the rest comes through [`Nodes`].

use aws_lc_rs::digest::{Context, SHA256};

use crate::tile::{LEVELS, TILE, Tile};

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// The most hashes in a proof: a tree has fewer than 2^63 leaves.
pub const PROOF_MAX: usize = 63;

/// The hash of a leaf: SHA-256(0x00 ‖ bytes).
pub fn leaf_hash(bytes: &[u8]) -> Hash {
    digest(&[&[0], bytes])
}

/// The hash of an inner node: SHA-256(0x01 ‖ left ‖ right).
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut node = [1; 65];
    let (_, both) = node.split_at_mut(1);
    let (first, second) = both.split_at_mut(32);
    first.copy_from_slice(left);
    second.copy_from_slice(right);
    digest(&[&node])
}

/// The root of a tree without leaves: SHA-256 of nothing.
pub fn empty_root() -> Hash {
    digest(&[])
}

pub(crate) fn digest(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// The root over whole subtrees or leaves of one height, as long as there are no more of them than fit.
pub(crate) fn fold(hashes: &[Hash]) -> Hash {
    match hashes {
        [] => empty_root(),
        [one] => *one,
        more => {
            let (left, right) = more.split_at(more.len().next_power_of_two() / 2);
            node_hash(&fold(left), &fold(right))
        }
    }
}

/// A tree that grows.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    size: u64,
    /// Roots of the whole subtrees, the largest first.
    peaks: Vec<Hash>,
    /// The last tile of each level, while it is not full.
    edge: Vec<Vec<Hash>>,
}

impl Tree {
    /// Leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf; tiles that it fills are handed over.
    pub fn push(&mut self, leaf: Hash, mut full: impl FnMut(Tile)) {
        let mut hash = leaf;
        self.edge_push(0, hash, &mut full);
        for height in 1..=self.size.trailing_ones() {
            let Some(left) = self.peaks.pop() else { break };
            hash = node_hash(&left, &hash);
            if height % 8 == 0 {
                self.edge_push(height / 8, hash, &mut full);
            }
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    fn edge_push(&mut self, level: u32, hash: Hash, full: &mut impl FnMut(Tile)) {
        let place = usize::try_from(level).unwrap_or(usize::MAX);
        if self.edge.len() <= place {
            self.edge.push(Vec::with_capacity(TILE));
        }
        let Some(edge) = self.edge.get_mut(place) else { return };
        edge.push(hash);
        if edge.len() == TILE {
            let index = self.size >> (8 * (level + 1));
            full(Tile { level: u8::try_from(level).unwrap_or(u8::MAX), index, hashes: edge.clone() });
            edge.clear();
        }
    }

    /// The root.
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else { return empty_root() };
        peaks.fold(*last, |right, left| node_hash(left, &right))
    }

    /// The tree as bytes, to go on with later: its size, and per level the hashes of the last tile. Whole
    /// subtrees above the last tiles' hashes are made of these.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.size.to_be_bytes().to_vec();
        for hash in self.peaks.iter().chain(self.edge.iter().flatten()) {
            bytes.extend_from_slice(hash);
        }
        bytes
    }

    /// The tree of such bytes; `None` when they are not whole.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (size, rest) = bytes.split_first_chunk::<8>()?;
        let size = u64::from_be_bytes(*size);
        let (hashes, left) = rest.as_chunks::<32>();
        let (peaks, mut hashes) = hashes.split_at_checked(usize::try_from(size.count_ones()).ok()?)?;
        let mut edge = Vec::new();
        for level in 0..LEVELS {
            let above = size.checked_shr(8 * u32::from(level))?;
            if above == 0 {
                break;
            }
            let (own, others) = hashes.split_at_checked(usize::try_from(above % 256).ok()?)?;
            edge.push(own.to_vec());
            hashes = others;
        }
        (left.is_empty() && hashes.is_empty()).then(|| Self { size, peaks: peaks.to_vec(), edge })
    }

    /// The last tiles of the levels: those that are not full.
    pub fn edge(&self) -> impl Iterator<Item = Tile> + '_ {
        (0_u8..).zip(&self.edge).filter(|(_, hashes)| !hashes.is_empty()).map(|(level, hashes)| Tile {
            level,
            index: self.size >> (8 * (u32::from(level) + 1)),
            hashes: hashes.clone(),
        })
    }
}

/// A hash that a proof needs is not at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the hash of the subtree {index} of height {height} is not there")]
pub struct Missing {
    /// The height of the subtree: 0 is a leaf.
    pub height: u32,
    /// Which of the subtrees of that height.
    pub index: u64,
}

/// Where proofs take the roots of whole subtrees from.
pub trait Nodes {
    /// The root of subtree `index` of `height`, all of whose leaves are there.
    fn node(&mut self, height: u32, index: u64) -> Result<Hash, Missing>;
}

/// Leaf hashes in memory, from the first one on.
impl Nodes for &[Hash] {
    fn node(&mut self, height: u32, index: u64) -> Result<Hash, Missing> {
        let missing = Missing { height, index };
        let start = usize::try_from(index.checked_shl(height).ok_or(missing)?).map_err(|_| missing)?;
        let length = 1_usize.checked_shl(height).ok_or(missing)?;
        let end = start.checked_add(length).ok_or(missing)?;
        self.get(start..end).map(fold).ok_or(missing)
    }
}

/// The root over the leaves from `from` to before `to`, a range as the tree's own splits make it.
fn range(nodes: &mut impl Nodes, from: u64, to: u64) -> Result<Hash, Missing> {
    let length = to.saturating_sub(from);
    if length == 0 {
        return Ok(empty_root());
    }
    if length.is_power_of_two() {
        return nodes.node(length.trailing_zeros(), from / length);
    }
    let split = from + split(length);
    Ok(node_hash(&range(nodes, from, split)?, &range(nodes, split, to)?))
}

/// The largest power of two below `length`, which is at least 2.
fn split(length: u64) -> u64 {
    1 << (63 - (length - 1).leading_zeros())
}

/// The root of the tree's first `size` leaves.
pub fn root(nodes: &mut impl Nodes, size: u64) -> Result<Hash, Missing> {
    range(nodes, 0, size)
}

/// The proof that leaf `index` is in the tree of `size`, from the leaf's sibling up.
pub fn inclusion(nodes: &mut impl Nodes, index: u64, size: u64) -> Result<Vec<Hash>, Missing> {
    if index >= size {
        return Err(Missing { height: 0, index });
    }
    let (mut from, mut to, mut proof) = (0, size, Vec::new());
    while to - from > 1 {
        let middle = from + split(to - from);
        if index < middle {
            proof.push(range(nodes, middle, to)?);
            to = middle;
        } else {
            proof.push(range(nodes, from, middle)?);
            from = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// The proof that the tree of `old` leaves is a beginning of the tree of `new` ones; empty when `old` is 0 or
/// `new`.
pub fn consistency(nodes: &mut impl Nodes, old: u64, new: u64) -> Result<Vec<Hash>, Missing> {
    if old > new {
        return Err(Missing { height: 0, index: old });
    }
    if old == 0 || old == new {
        return Ok(Vec::new());
    }
    let (mut from, mut to, mut proof) = (0, new, Vec::new());
    while to != old {
        let middle = from + split(to - from);
        if old <= middle {
            proof.push(range(nodes, middle, to)?);
            to = middle;
        } else {
            proof.push(range(nodes, from, middle)?);
            from = middle;
        }
    }
    // The old tree's own root is known to whoever checks, unless it is only a part of it that is shared.
    if from != 0 {
        proof.push(range(nodes, from, to)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Whether the proof shows that `leaf` is at `index` in the tree of `size` with this root (RFC 9162, 2.1.3.2).
pub fn includes(leaf: Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut place, mut last, mut hash) = (index, size - 1, leaf);
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if place & 1 == 1 || place == last {
            hash = node_hash(sibling, &hash);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        place >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Whether the proof shows that the tree of `old` leaves is a beginning of the tree of `new` ones (RFC 9162,
/// 2.1.4.2).
pub fn consistent(old: u64, old_root: &Hash, new: u64, new_root: &Hash, proof: &[Hash]) -> bool {
    if old > new {
        return false;
    }
    if old == 0 {
        return proof.is_empty() && *old_root == empty_root();
    }
    if old == new {
        return proof.is_empty() && old_root == new_root;
    }
    let mut proof = proof.iter();
    let first = if old.is_power_of_two() { Some(old_root) } else { proof.next() };
    let Some(first) = first else { return false };
    let (mut place, mut last) = (old - 1, new - 1);
    while place & 1 == 1 {
        place >>= 1;
        last >>= 1;
    }
    let (mut of_old, mut of_new) = (*first, *first);
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if place & 1 == 1 || place == last {
            of_old = node_hash(sibling, &of_old);
            of_new = node_hash(sibling, &of_new);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            of_new = node_hash(&of_new, sibling);
        }
        place >>= 1;
        last >>= 1;
    }
    last == 0 && of_old == *old_root && of_new == *new_root
}
