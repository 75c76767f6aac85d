//! Rows of the timeline as JSON objects, as sinks get them.

use doorward_core::{Timestamp, hex};
use serde_json::{Map, Value as Json};

use super::config::PersonalValues;
use crate::columns::{Source, Type};
use crate::leaf::{Field, Hasher, RowOf, rows as row_count};
use crate::row::Value;
use crate::time::rfc3339;
use crate::wire::Access;

/// The rows of a call: columns by name, without those that have no value. The leaf is the one that the
/// transparency log holds, so that a row can be looked for in it.
pub(crate) fn rows<'a>(
    gateway_id: &'a str,
    epoch: u64,
    seq: u64,
    access: &'a Access<'a>,
    personal: PersonalValues,
) -> impl Iterator<Item = Map<String, Json>> + 'a {
    let mut hasher = Hasher::default();
    (0..row_count(access)).map(move |action| {
        let row = RowOf { gateway_id, epoch, seq, access, action, leaf: None };
        let leaf = hasher.row(&row);
        let mut object = Map::new();
        let mut values = access.values.iter();
        for (column, field) in row.fields() {
            let value = if matches!(column.source, Source::Call(_)) { values.next() } else { None };
            let is_personal = column.personal || matches!(value, Some(Value::Personal(_)));
            if is_personal && personal == PersonalValues::Omit {
                continue;
            }
            if let Some(json) = json(column.ty, field, is_personal) {
                object.insert(column.name.to_owned(), json);
            }
        }
        object.insert("leaf_hash".to_owned(), Json::String(hex(&leaf)));
        object
    })
}

fn json(ty: Type, field: Field<'_>, sealed: bool) -> Option<Json> {
    Some(match (ty, field) {
        (_, Field::Null) => return None,
        (Type::Time, Field::Int(micros)) => Json::String(rfc3339(Timestamp::from_micros(micros))),
        (_, Field::Int(number)) => Json::from(number),
        // A sealed value is one text, and in a JSON column a JSON string.
        (Type::Json, Field::Text(text)) => match serde_json::from_str(text) {
            Ok(value) if !sealed || matches!(value, Json::String(_)) => value,
            Ok(_) | Err(_) => Json::from(text),
        },
        (_, Field::Text(text)) => Json::from(text),
        (_, Field::Uuid(id)) => Json::String(id.to_string()),
        (_, Field::Hash(hash)) => Json::String(hex(hash)),
    })
}
