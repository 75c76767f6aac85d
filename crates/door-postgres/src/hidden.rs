//! A catalogue that is hidden: functions that tell of it need a grant, as its tables do.
//!
//! Constraint: whether an object of a known name is there still shows, by the error of a statement that names it.

use doorward_core::Verb;
use doorward_sql::{Need, ObjectKind, Want};

/// How the names of functions begin that tell what objects there are, or what they are made of.
const BEGINNINGS: [&str; 12] = [
    "pg_get_",
    "pg_describe_",
    "pg_identify_",
    "pg_relation_",
    "pg_table_",
    "pg_total_relation_",
    "pg_indexes_",
    "pg_database_",
    "pg_tablespace_",
    "to_reg",
    "has_",
    "acl",
];
/// Others.
const NAMES: [&str; 8] = [
    "format_type",
    "obj_description",
    "col_description",
    "shobj_description",
    "row_security_active",
    "pg_index_column_has_property",
    "pg_index_has_property",
    "pg_sequence_parameters",
];
const SCHEMA: &str = "pg_catalog";

/// What a call needs where the catalogue is hidden.
pub(crate) fn need(want: &Want) -> Option<Need> {
    let Want::Function { name, .. } = want else { return None };
    let own = name.schema.as_deref().is_none_or(|schema| schema == SCHEMA);
    let function = &*name.name;
    let tells = BEGINNINGS.iter().any(|beginning| function.starts_with(beginning))
        || NAMES.contains(&function)
        || function.ends_with("_is_visible");
    (own && tells).then(|| Need {
        verb: Verb::Read,
        kind: ObjectKind::Catalog,
        schema: SCHEMA.into(),
        name: name.name.clone(),
    })
}
