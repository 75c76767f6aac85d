//! The leaves of the transparency log: one for each row, each gap and each note.
//!
//! A leaf is SHA-256(0x00 ‖ bytes). The bytes of a row are [`FORMAT`], and for each column that is not NULL, in
//! the order of the columns' numbers: the number, a tag and the value as the store keeps it (personal values in
//! their sealed form). So a row that comes back from a store hashes to the leaf that the gateway logged, and
//! rows of older versions hash alike when columns are added.
//!
//! Invariants: a column's number is never used for another one; every column but `log_index` and `leaf_hash`
//! has a number; each value is framed, so that no two rows have the same bytes.

use std::sync::LazyLock;

use doorward_tlog::{Hash, tree};
use uuid::Uuid;

use crate::columns::{COLUMNS, Column, Source};
use crate::row::Value;
use crate::wire::{Access, Gap};

/// What the bytes of each kind of leaf begin with.
const ROW: [u8; 4] = *b"DWr1";
const GAP: [u8; 4] = *b"DWg1";
const NOTE: [u8; 4] = *b"DWn1";

const INT: u8 = 1;
const TEXT: u8 = 2;
const UUID: u8 = 3;

/// The number of each column in the bytes of a leaf. A new column takes the next number, wherever it stands in
/// the table of columns.
pub static NUMBERS: &[(&str, u16)] = &[
    ("ts", 1),
    ("gateway_id", 2),
    ("epoch", 3),
    ("seq", 4),
    ("access_id", 5),
    ("action_index", 6),
    ("action_count", 7),
    ("schema_version", 8),
    ("parent_access_id", 9),
    ("environment", 10),
    ("subject_id", 11),
    ("principal_issuer", 12),
    ("principal_subject", 13),
    ("principal_email", 14),
    ("principal_kind", 15),
    ("groups", 16),
    ("on_behalf_of", 17),
    ("claims", 18),
    ("client_id", 19),
    ("auth_method", 20),
    ("credential_id", 21),
    ("session_id", 22),
    ("source_ip", 23),
    ("user_agent", 24),
    ("door", 25),
    ("verb", 26),
    ("resource", 27),
    ("object", 28),
    ("endpoint", 29),
    ("operation", 30),
    ("operation_fingerprint", 31),
    ("api_version", 32),
    ("outcome", 33),
    ("fault_code", 34),
    ("fault_side", 35),
    ("fault_public", 36),
    ("fault_cause", 37),
    ("grant", 38),
    ("config_digest", 39),
    ("backend_role", 40),
    ("lease_id", 41),
    ("limit_remaining", 42),
    ("status", 43),
    ("sqlstate", 44),
    ("rows", 45),
    ("bytes_in", 46),
    ("bytes_out", 47),
    ("duration_us", 48),
    ("accept_us", 49),
    ("authenticate_us", 50),
    ("decode_us", 51),
    ("authorize_us", 52),
    ("limit_us", 53),
    ("lease_us", 54),
    ("forward_us", 55),
    ("shape_us", 56),
    ("record_us", 57),
    ("trace_id", 58),
    ("span_id", 59),
    ("parent_span_id", 60),
    ("ext", 61),
    ("source", 62),
    ("class", 63),
    ("cache_status", 64),
    ("dag_id", 65),
    ("run_id", 66),
    ("task_id", 67),
    ("try_number", 68),
    ("map_index", 69),
];

/// The highest number of a column of schema version 1.
pub const NUMBER_MAX_V1: u16 = 61;

/// The columns in the order of their numbers: the number, and the place among [`COLUMNS`].
static ORDER: LazyLock<Vec<(u16, usize)>> = LazyLock::new(|| {
    let mut order: Vec<(u16, usize)> = COLUMNS
        .iter()
        .enumerate()
        .filter_map(|(place, column)| number(column.name).map(|number| (number, place)))
        .collect();
    order.sort_unstable();
    order
});

/// Where a row has the values of the columns in [`ORDER`]: among its call's values, or in itself.
static SOURCES: LazyLock<Vec<(u16, Result<usize, Source>)>> = LazyLock::new(|| {
    let of_call = |column: &&Column| matches!(column.source, Source::Call(_));
    let source = |(number, place): &(u16, usize)| {
        let column = COLUMNS.get(*place)?;
        let before = COLUMNS.iter().take(*place).filter(of_call).count();
        Some((*number, if of_call(&column) { Ok(before) } else { Err(column.source) }))
    };
    ORDER.iter().filter_map(source).collect()
});

/// A column's number; `None` for those that are not part of the leaf.
pub fn number(column: &str) -> Option<u16> {
    NUMBERS.iter().find(|(name, _)| *name == column).map(|(_, number)| *number)
}

/// One value of a row, as a store keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    /// Not known, or does not apply.
    Null,
    /// A number, a count or a time in microseconds.
    Int(i64),
    /// Text or JSON; a personal value in its sealed form.
    Text(&'a str),
    /// An id.
    Uuid(Uuid),
    /// A hash.
    Hash(&'a Hash),
}

/// One row of a call, before it is in a store: one for each of its actions, or one if it has none.
#[derive(Clone, Copy, Debug)]
pub struct RowOf<'a> {
    /// The gateway that kept it.
    pub gateway_id: &'a str,
    /// Its start.
    pub epoch: u64,
    /// The frame's number.
    pub seq: u64,
    /// The call.
    pub access: &'a Access<'a>,
    /// Which of its actions.
    pub action: usize,
    /// The place in the log and the leaf, once they are known.
    pub leaf: Option<(u64, &'a Hash)>,
}

/// How many rows a call has.
pub fn rows(access: &Access<'_>) -> usize {
    access.actions.len().max(1)
}

impl<'a> RowOf<'a> {
    /// Its values, in the order of [`COLUMNS`].
    pub fn fields(&self) -> impl Iterator<Item = (&'static Column, Field<'a>)> + use<'a> {
        let row = *self;
        let mut values = row.access.values.iter();
        COLUMNS.iter().map(move |column| {
            let field = match column.source {
                Source::Call(_) => values.next().map_or(Field::Null, of_value),
                _ => row.own(column.source),
            };
            (column, field)
        })
    }

    /// The value of a column that does not come from the call's record.
    fn own(&self, source: Source) -> Field<'a> {
        let action = self.access.actions.get(self.action);
        match source {
            Source::Gateway => Field::Text(self.gateway_id),
            Source::Epoch => Field::Int(self.epoch.cast_signed()),
            Source::Seq => Field::Int(self.seq.cast_signed()),
            Source::AccessId => Field::Uuid(self.access.access_id),
            Source::ActionIndex => Field::Int(count(self.action)),
            Source::ActionCount => Field::Int(count(self.access.actions.len())),
            Source::Verb => action.map_or(Field::Null, |action| Field::Text(&action.verb)),
            Source::Resource => action.map_or(Field::Null, |action| Field::Text(&action.resource)),
            Source::Object => action.map_or(Field::Null, |action| Field::Text(&action.object)),
            Source::LogIndex => self.leaf.map_or(Field::Null, |(index, _)| Field::Int(index.cast_signed())),
            Source::LeafHash => self.leaf.map_or(Field::Null, |(_, hash)| Field::Hash(hash)),
            Source::Call(_) => Field::Null,
        }
    }
}

fn of_value<'a>(value: &'a Value<'a>) -> Field<'a> {
    match value {
        Value::Null => Field::Null,
        Value::Int(number) => Field::Int(*number),
        Value::Text(text) | Value::Json(text) => Field::Text(text),
        Value::Uuid(id) => Field::Uuid(*id),
        Value::Personal(sealed) => Field::Text(sealed.as_stored()),
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Makes leaves; keeps its buffer from one to the next.
#[derive(Debug, Default)]
pub struct Hasher {
    bytes: Vec<u8>,
}

impl Hasher {
    /// The leaf of a row that is not in a store yet.
    pub fn row(&mut self, row: &RowOf<'_>) -> Hash {
        self.begin(ROW);
        for (number, source) in SOURCES.iter() {
            let field = match source {
                Ok(place) => row.access.values.get(*place).map_or(Field::Null, of_value),
                Err(source) => row.own(*source),
            };
            self.field(*number, field);
        }
        tree::leaf_hash(&self.bytes)
    }

    /// The leaf of a row by its values, in the order of [`COLUMNS`].
    pub fn fields(&mut self, fields: &[Field<'_>]) -> Hash {
        tree::leaf_hash(self.encode(fields))
    }

    /// The bytes under the leaf of a row by its values, in the order of [`COLUMNS`].
    pub fn encode(&mut self, fields: &[Field<'_>]) -> &[u8] {
        self.begin(ROW);
        for (number, place) in ORDER.iter() {
            self.field(*number, fields.get(*place).copied().unwrap_or(Field::Null));
        }
        &self.bytes
    }

    fn field(&mut self, number: u16, field: Field<'_>) {
        match field {
            Field::Null | Field::Hash(_) => {}
            Field::Int(value) => {
                self.tagged(number, INT);
                self.int(value);
            }
            Field::Text(text) => {
                self.tagged(number, TEXT);
                self.text(text);
            }
            Field::Uuid(id) => {
                self.tagged(number, UUID);
                self.bytes.extend_from_slice(id.as_bytes());
            }
        }
    }

    /// The leaf of a gap.
    pub fn gap(&mut self, gateway_id: &str, epoch: u64, seq: u64, gap: &Gap<'_>) -> Hash {
        self.begin(GAP);
        self.text(gateway_id);
        for number in [epoch, seq, gap.lost, gap.from_us.cast_unsigned(), gap.until_us.cast_unsigned()] {
            self.bytes.extend_from_slice(&number.to_be_bytes());
        }
        self.text(&gap.reason);
        tree::leaf_hash(&self.bytes)
    }

    /// The leaf of a note.
    pub fn note(&mut self, gateway_id: &str, epoch: u64, kind: &str, body: &str) -> Hash {
        self.begin(NOTE);
        self.text(gateway_id);
        self.bytes.extend_from_slice(&epoch.to_be_bytes());
        self.text(kind);
        self.text(body);
        tree::leaf_hash(&self.bytes)
    }

    fn begin(&mut self, kind: [u8; 4]) {
        self.bytes.clear();
        self.bytes.extend_from_slice(&kind);
    }

    fn tagged(&mut self, number: u16, tag: u8) {
        self.bytes.extend_from_slice(&number.to_be_bytes());
        self.bytes.push(tag);
    }

    fn int(&mut self, value: i64) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(text.as_bytes());
    }
}

/// The most columns that a row may have; a test holds the table to it.
pub const FIELDS_MAX: usize = 128;

#[cfg(test)]
pub(crate) mod tests;
