//! Proof bundles: one row, where it is in the log, and the checkpoint that counts it. Checked without the store.

use std::sync::Arc;

use doorward_tlog::checkpoint::Checkpoint;
use doorward_tlog::note::{Note, Vkey};
use doorward_tlog::proof::Bundle;
use doorward_tlog::tree::{self, Missing, Nodes};
use doorward_tlog::{Hash, tile};
use serde_json::{Map, Value as Json};
use uuid::Uuid;

use super::walk::Tiles;
use super::{Evidence, LogId, VerifyError, What, class_of, signed_by};
use crate::columns::{COLUMNS, Type, position};
use crate::leaf::{FIELDS_MAX, Field, Hasher};
use crate::log::place::Objects;
use crate::query::{Cell, Row};
use crate::store::GAP_LETTER;
use crate::wire::Gap;

/// Why a row cannot be proved, or a bundle not be trusted.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] VerifyError),
    /// The row has no place in a log.
    #[error("the row has no place in the log: it was kept by a version that had none, or was never logged")]
    NotLogged,
    /// No checkpoint counts the row yet.
    #[error("no checkpoint counts the row yet; one is signed within `checkpoints.interval`")]
    NotSigned,
    /// Leaves that the proof needs are not kept.
    #[error("the log of the row is not whole in the store: {0}; `doorward audit verify` tells more")]
    NotWhole(Missing),
    /// The leaves are not those that were signed for.
    #[error(
        "the leaves in the store are not those that the checkpoint was signed for; `doorward audit verify` tells more"
    )]
    NotSame,
    /// The bundle is none.
    #[error("it is not a proof bundle with a record of this version")]
    Form,
    /// The checkpoint is not signed by a trusted key.
    #[error("its checkpoint: {0}")]
    Signature(String),
    /// The proof does not show the row.
    #[error("its proof does not show this row in the log that the checkpoint was signed for")]
    Proof,
}

/// What a bundle proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proved {
    /// The row, by the columns' names.
    pub row: Map<String, Json>,
    /// The log.
    pub origin: String,
    /// Its place there.
    pub index: u64,
    /// Leaves that the checkpoint counts.
    pub size: u64,
    /// Witnesses that have cosigned, and when, in seconds.
    pub witnesses: Vec<(String, u64)>,
}

/// The row's values as JSON, keyed by the columns' names, in the form in which they are kept.
fn json_of(row: &Row) -> Map<String, Json> {
    let mut object = Map::new();
    for (column, cell) in COLUMNS.iter().zip(row.cells()) {
        let value = match cell {
            _ if crate::leaf::number(column.name).is_none() => continue,
            Cell::Null => continue,
            Cell::Int(number) => Json::from(*number),
            Cell::Text(text) => Json::from(text.as_str()),
        };
        object.insert(column.name.to_owned(), value);
    }
    object
}

/// What a dead letter of a log holds, and its leaf; `None` when it is none of this version.
pub(super) fn letter(hasher: &mut Hasher, log: &LogId, json: &[u8]) -> (What, Option<Hash>) {
    let object: Map<String, Json> = serde_json::from_slice(json).unwrap_or_default();
    match object.get(GAP_LETTER) {
        Some(gap) => (What::DeadLetter { class: None }, leaf_of_gap(hasher, log, gap)),
        None => {
            let class = class_of(object.get("class").and_then(Json::as_str));
            (What::DeadLetter { class: Some(class) }, leaf_of(hasher, &object))
        }
    }
}

fn leaf_of_gap(hasher: &mut Hasher, log: &LogId, gap: &Json) -> Option<Hash> {
    let int = |name: &str| gap.get(name)?.as_i64();
    let number = |name: &str| gap.get(name)?.as_u64();
    let reason = gap.get("reason")?.as_str()?.into();
    let (seq, lost) = (number("seq")?, number("lost")?);
    let gap = Gap { lost, from_us: int("from_us")?, until_us: int("until_us")?, reason };
    Some(hasher.gap(&log.gateway_id, log.epoch, seq, &gap))
}

fn leaf_of(hasher: &mut Hasher, object: &Map<String, Json>) -> Option<Hash> {
    let mut fields = [Field::Null; FIELDS_MAX];
    for (name, value) in object {
        let place = position(name)?;
        let column = COLUMNS.get(place)?;
        let field = match (column.ty, value) {
            (Type::Time | Type::Int, Json::Number(number)) => Field::Int(number.as_i64()?),
            (Type::Uuid, Json::String(text)) => Field::Uuid(Uuid::parse_str(text).ok()?),
            (Type::Text | Type::Json, Json::String(text)) => Field::Text(text),
            _ => return None,
        };
        *fields.get_mut(place)? = field;
    }
    Some(hasher.fields(&fields))
}

/// Leaves by their tiles, or by what the rows say of themselves.
struct Leaves {
    tiles: Tiles,
    rest: Vec<(u64, Hash)>,
}

impl Nodes for Leaves {
    fn node(&mut self, height: u32, index: u64) -> Result<Hash, Missing> {
        if height > 0 {
            let (left, right) = (self.node(height - 1, index * 2)?, self.node(height - 1, index * 2 + 1)?);
            return Ok(tree::node_hash(&left, &right));
        }
        let rest = || self.rest.binary_search_by_key(&index, |(place, _)| *place).ok();
        let leaf = self.tiles.leaf(index).or_else(|| rest().and_then(|place| Some(self.rest.get(place)?.1)));
        leaf.ok_or(Missing { height, index })
    }
}

/// Makes the bundle of one row, as the store keeps it.
pub fn prove(
    evidence: &mut dyn Evidence,
    outside: &[Arc<dyn Objects>],
    row: &Row,
) -> Result<Bundle, BundleError> {
    let place = |name| row.int(name).map(i64::cast_unsigned).ok_or(BundleError::NotLogged);
    let (epoch, index) = (place("epoch")?, place("log_index")?);
    let gateway_id = row.text("gateway_id").ok_or(BundleError::NotLogged)?.to_owned();
    let log = LogId { gateway_id, epoch };
    let notes = evidence.checkpoints(&log)?.into_iter().filter_map(|(_, note)| Note::parse(&note).ok());
    let counted = notes.filter_map(|note| Some((Checkpoint::parse(&note.text).ok()?, note)));
    // The one with the most cosignatures, and of these the first.
    let best = counted
        .filter(|(checkpoint, _)| checkpoint.size > index)
        .max_by_key(|(checkpoint, note)| (note.signatures.len(), u64::MAX - checkpoint.size));
    let (checkpoint, note) = best.ok_or(BundleError::NotSigned)?;
    let tiles = Tiles::read(evidence, &log, outside, checkpoint.size)?;
    let mut rest = Vec::new();
    let last = checkpoint.size / 256 * 256;
    let width = tile::width(checkpoint.size, 0, last / 256);
    evidence.items(&log, &mut |item| {
        if let (Some(index), Some(leaf)) = (item.index, item.stored.or(item.leaf))
            && tiles.leaf(index).is_none()
            && index < last + width as u64
        {
            rest.push((index, leaf));
        }
    })?;
    let mut leaves = Leaves { tiles, rest };
    let proof = tree::inclusion(&mut leaves, index, checkpoint.size).map_err(BundleError::NotWhole)?;
    let row = json_of(row);
    let leaf = leaf_of(&mut Hasher::default(), &row).ok_or(BundleError::Form)?;
    if !tree::includes(leaf, index, checkpoint.size, &proof, &checkpoint.root) {
        return Err(BundleError::NotSame);
    }
    Ok(Bundle { extra: Json::Object(row).to_string().into_bytes(), index, proof, note })
}

/// Checks a bundle by itself: its row is in the log that one of the keys has signed.
pub fn verify_bundle(text: &str, keys: &[Vkey], witnesses: &[Vkey]) -> Result<Proved, BundleError> {
    let bundle = Bundle::parse(text).map_err(|_| BundleError::Form)?;
    let row: Map<String, Json> = serde_json::from_slice(&bundle.extra).map_err(|_| BundleError::Form)?;
    let epoch = row.get("epoch").and_then(Json::as_u64).ok_or(BundleError::Form)?;
    let note = bundle.note.to_string();
    let checkpoint = signed_by(&note, keys, epoch).map_err(BundleError::Signature)?;
    let leaf = leaf_of(&mut Hasher::default(), &row).ok_or(BundleError::Form)?;
    if !tree::includes(leaf, bundle.index, checkpoint.size, &bundle.proof, &checkpoint.root) {
        return Err(BundleError::Proof);
    }
    let mut cosigned = Vec::new();
    for witness in witnesses {
        if let Ok(Some(time)) = witness.verify(&bundle.note) {
            cosigned.push((witness.name().to_owned(), time));
        }
    }
    let Checkpoint { origin, size, .. } = checkpoint;
    Ok(Proved { row, origin, index: bundle.index, size, witnesses: cosigned })
}
