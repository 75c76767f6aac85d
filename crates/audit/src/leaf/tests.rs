//! What comes back from a store hashes to the leaf that was logged.

use std::borrow::Cow;
use std::collections::BTreeSet;

use proptest::prelude::*;
use rusqlite::types::ValueRef;

use super::*;
use crate::columns::{CALL_COLUMNS, Type};
use crate::personal::Sealed;
use crate::store::sqlite::SqliteStore;
use crate::store::{Batch, Record, Store};
use crate::wire::ActionText;

#[test]
fn each_column_has_a_number_of_its_own() {
    let mut seen = BTreeSet::new();
    for (name, number) in NUMBERS {
        assert!(seen.insert(*number), "{number} is used twice");
        assert!(COLUMNS.iter().any(|column| column.name == *name), "{name}: a column is never taken away");
    }
    assert!(COLUMNS.len() <= FIELDS_MAX);
    for column in COLUMNS {
        let outside = matches!(column.source, Source::LogIndex | Source::LeafHash);
        assert_eq!(number(column.name).is_none(), outside, "{}: add it to leaf::NUMBERS", column.name);
    }
}

#[test]
fn the_encoding_stays_as_it_is() {
    let access = Access { access_id: Uuid::from_u128(7), values: Vec::new(), actions: Vec::new() };
    let row = RowOf { gateway_id: "gw", epoch: 5, seq: 2, access: &access, action: 0, leaf: None };
    let mut hasher = Hasher::default();
    let mut fields = [Field::Null; FIELDS_MAX];
    for (place, (_, field)) in fields.iter_mut().zip(row.fields()) {
        *place = field;
    }
    let expected = [
        b"DWr1".to_vec(),
        vec![0, 2, TEXT, 0, 0, 0, 2, b'g', b'w'],
        vec![0, 3, INT, 0, 0, 0, 0, 0, 0, 0, 5],
        vec![0, 4, INT, 0, 0, 0, 0, 0, 0, 0, 2],
        vec![0, 5, UUID, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7],
        vec![0, 6, INT, 0, 0, 0, 0, 0, 0, 0, 0],
        vec![0, 7, INT, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    assert_eq!(hasher.encode(&fields), expected);
    assert_eq!(hasher.row(&row), tree::leaf_hash(&expected));
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{0,8}", any::<String>(), "\\PC{0,20}\u{0}é\u{10ffff}"]
}

fn value(ty: Type, personal: bool) -> BoxedStrategy<Value<'static>> {
    let some = match ty {
        Type::Time | Type::Int => any::<i64>().prop_map(Value::Int).boxed(),
        Type::Text if personal => text().prop_map(|text| Value::Personal(Sealed::stored(text))).boxed(),
        Type::Text => text().prop_map(|text| Value::Text(Cow::Owned(text))).boxed(),
        Type::Uuid => any::<u128>().prop_map(|id| Value::Uuid(Uuid::from_u128(id))).boxed(),
        Type::Json => {
            text().prop_map(|text| Value::Json(Cow::Owned(serde_json::json!([text]).to_string()))).boxed()
        }
        Type::Hash => Just(Value::Null).boxed(),
    };
    prop_oneof![1 => Just(Value::Null), 3 => some].boxed()
}

/// A call with any values of the columns' types.
pub(crate) fn access() -> impl Strategy<Value = Access<'static>> {
    let types: Vec<(Type, bool)> = COLUMNS
        .iter()
        .filter(|column| matches!(column.source, Source::Call(_)))
        .map(|column| (column.ty, column.personal && column.ty == Type::Text))
        .collect();
    assert_eq!(types.len(), CALL_COLUMNS.len());
    let values: Vec<_> = types.into_iter().map(|(ty, personal)| value(ty, personal)).collect();
    let action = (text(), text(), text()).prop_map(|(verb, resource, object)| ActionText {
        verb: verb.into(),
        resource: resource.into(),
        object: object.into(),
    });
    (values, prop::collection::vec(action, 0..3), any::<u128>()).prop_map(|(values, actions, id)| Access {
        access_id: Uuid::from_u128(id),
        values,
        actions,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn what_sqlite_gives_back_has_the_same_leaf(accesses in prop::collection::vec(access(), 1..6)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.db");
        let mut store = SqliteStore::open(&path).unwrap();
        let mut hasher = Hasher::default();
        let (mut records, mut expected) = (Vec::new(), Vec::<Hash>::new());
        for (seq, access) in (1..).zip(accesses) {
            let log_index = u64::try_from(expected.len()).unwrap();
            let leaf_hashes: Vec<Hash> = (0..rows(&access))
                .map(|action| RowOf { gateway_id: "gw", epoch: 3, seq, access: &access, action, leaf: None })
                .map(|row| hasher.row(&row))
                .collect();
            expected.extend(&leaf_hashes);
            records.push(Record { seq, access, log_index, leaf_hashes });
        }
        let leaf_to = u64::try_from(expected.len()).unwrap();
        let batch = Batch { gateway_id: "gw", epoch: 3, to_seq: 9, leaf_to, records, ..Batch::default() };
        store.write(&batch).unwrap();

        let connection = rusqlite::Connection::open(&path).unwrap();
        let names: Vec<String> = COLUMNS.iter().map(|column| format!("\"{}\"", column.name)).collect();
        let sql = format!("SELECT {} FROM access_event ORDER BY log_index", names.join(", "));
        let mut statement = connection.prepare(&sql).unwrap();
        let mut rows = statement.query([]).unwrap();
        let mut found = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            let fields: Vec<Field<'_>> = COLUMNS
                .iter()
                .enumerate()
                .map(|(place, column)| match (row.get_ref(place).unwrap(), column.ty) {
                    (ValueRef::Null, _) => Field::Null,
                    (ValueRef::Integer(number), _) => Field::Int(number),
                    (ValueRef::Text(text), Type::Uuid) => {
                        Field::Uuid(Uuid::parse_str(std::str::from_utf8(text).unwrap()).unwrap())
                    }
                    (ValueRef::Text(text), _) => Field::Text(std::str::from_utf8(text).unwrap()),
                    (ValueRef::Blob(hash), _) => Field::Hash(hash.try_into().unwrap()),
                    (ValueRef::Real(_), _) => panic!("no column holds one"),
                })
                .collect();
            found.push(hasher.fields(&fields));
        }
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn a_row_with_one_other_value_has_another_leaf(one in access(), other in access(), place in 0_usize..60) {
        let mut hasher = Hasher::default();
        let mut hash = |access: &Access<'_>| {
            hasher.row(&RowOf { gateway_id: "gw", epoch: 3, seq: 1, access, action: 0, leaf: None })
        };
        let mut changed = one.clone();
        changed.values[place] = other.values[place].clone();
        prop_assert_eq!(hash(&one) == hash(&changed), one.values[place] == changed.values[place]);
    }
}
