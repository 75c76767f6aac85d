//! What clients ask the catalogue: it needs nothing but to read the catalogue.

use super::{Shop, check, script};
use crate::{ObjectKind, resolve};

/// Separated by a line of two dashes.
const PSQL: &str = include_str!("psql.sql");

/// From the drivers' and tools' own sources, shortened where they repeat themselves.
const TOOLS: &[(&str, &str)] = &[
    (
        "pgjdbc getTables",
        "SELECT NULL AS TABLE_CAT, n.nspname AS TABLE_SCHEM, c.relname AS TABLE_NAME, CASE n.nspname ~ '^pg_' OR \
         n.nspname = 'information_schema' WHEN true THEN CASE WHEN n.nspname = 'pg_catalog' THEN CASE c.relkind \
         WHEN 'r' THEN 'SYSTEM TABLE' ELSE NULL END END WHEN false THEN CASE c.relkind WHEN 'r' THEN 'TABLE' END \
         ELSE NULL END AS TABLE_TYPE, d.description AS REMARKS FROM pg_catalog.pg_namespace n, pg_catalog.pg_class c \
         LEFT JOIN pg_catalog.pg_description d ON (c.oid = d.objoid AND d.objsubid = 0 AND d.classoid = \
         'pg_class'::regclass) WHERE c.relnamespace = n.oid AND n.nspname LIKE $1 ORDER BY TABLE_TYPE, TABLE_NAME",
    ),
    (
        "pgjdbc getColumns",
        "SELECT * FROM (SELECT current_database() AS current_database, n.nspname, c.relname, a.attname, a.atttypid, \
         a.attnotnull OR (t.typtype = 'd' AND t.typnotnull) AS attnotnull, a.atttypmod, a.attlen, t.typtypmod, \
         row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum) AS attnum, nullif(a.attidentity, '') as \
         attidentity, pg_catalog.pg_get_expr(def.adbin, def.adrelid) AS adsrc, dsc.description FROM \
         pg_catalog.pg_namespace n JOIN pg_catalog.pg_class c ON (c.relnamespace = n.oid) JOIN \
         pg_catalog.pg_attribute a ON (a.attrelid = c.oid) JOIN pg_catalog.pg_type t ON (a.atttypid = t.oid) LEFT \
         JOIN pg_catalog.pg_attrdef def ON (a.attrelid = def.adrelid AND a.attnum = def.adnum) LEFT JOIN \
         pg_catalog.pg_description dsc ON (c.oid = dsc.objoid AND a.attnum = dsc.objsubid) WHERE a.attnum > 0 AND \
         NOT a.attisdropped) c WHERE true AND attname LIKE '%' ORDER BY nspname, c.relname, attnum",
    ),
    (
        "pgjdbc getPrimaryKeys",
        "SELECT result.TABLE_CAT, result.COLUMN_NAME, result.KEY_SEQ FROM (SELECT NULL AS TABLE_CAT, a.attname AS \
         COLUMN_NAME, (information_schema._pg_expandarray(i.indkey)).n AS KEY_SEQ, ci.relname AS PK_NAME, \
         information_schema._pg_expandarray(i.indkey) AS KEYS, a.attnum AS A_ATTNUM FROM pg_catalog.pg_class ct JOIN \
         pg_catalog.pg_attribute a ON (ct.oid = a.attrelid) JOIN pg_catalog.pg_index i ON (a.attrelid = i.indrelid) \
         JOIN pg_catalog.pg_class ci ON (ci.oid = i.indexrelid) WHERE i.indisprimary) result where result.A_ATTNUM = \
         (result.KEYS).x ORDER BY result.table_cat, result.key_seq",
    ),
    (
        "pgjdbc types",
        "SELECT n.nspname = ANY(current_schemas(true)), n.nspname, t.typname FROM pg_catalog.pg_type t JOIN \
         pg_catalog.pg_namespace n ON t.typnamespace = n.oid WHERE t.oid = $1",
    ),
    (
        "pgjdbc type info",
        "SELECT typinput='pg_catalog.array_in'::regproc as is_array, typtype, typname, pg_type.oid FROM pg_type LEFT \
         JOIN (select ns.oid as nspoid, ns.nspname, r.r from pg_namespace as ns join (select s.r, \
         (current_schemas(false))[s.r] as nspname from generate_series(1, array_upper(current_schemas(false), 1)) as \
         s(r)) as r using (nspname)) as sp ON sp.nspoid = typnamespace WHERE typname = $1 ORDER BY sp.r, pg_type.oid \
         DESC",
    ),
    ("DBeaver start", "SELECT current_schema(), session_user"),
    ("DBeaver database", "SELECT db.oid, db.* FROM pg_catalog.pg_database db WHERE datname = $1"),
    (
        "DBeaver schemas",
        "SELECT n.oid, n.*, d.description FROM pg_catalog.pg_namespace n LEFT OUTER JOIN pg_catalog.pg_description d \
         ON d.objoid = n.oid AND d.objsubid = 0 AND d.classoid = 'pg_namespace'::regclass ORDER BY nspname",
    ),
    (
        "DBeaver types",
        "SELECT t.oid, t.*, c.relkind, format_type(nullif(t.typbasetype, 0), t.typtypmod) as base_type_name, \
         d.description FROM pg_catalog.pg_type t LEFT OUTER JOIN pg_catalog.pg_type et ON et.oid = t.typelem LEFT \
         OUTER JOIN pg_catalog.pg_class c ON c.oid = t.typrelid LEFT OUTER JOIN pg_catalog.pg_description d ON t.oid \
         = d.objoid WHERE t.typname IS NOT NULL AND (c.relkind IS NULL OR c.relkind = 'c') AND (et.typcategory IS \
         NULL OR et.typcategory <> 'C')",
    ),
    (
        "DBeaver tables",
        "SELECT c.oid, c.*, d.description, pg_catalog.pg_get_expr(c.relpartbound, c.oid) as partition_expr, \
         pg_catalog.pg_get_partkeydef(c.oid) as partition_key FROM pg_catalog.pg_class c LEFT OUTER JOIN \
         pg_catalog.pg_description d ON d.objoid = c.oid AND d.objsubid = 0 AND d.classoid = 'pg_class'::regclass \
         WHERE c.relnamespace = $1 AND c.relkind not in ('i', 'I', 'c')",
    ),
    (
        "DBeaver sizes",
        "select c.oid, pg_catalog.pg_total_relation_size(c.oid) as total_rel_size, \
         pg_catalog.pg_relation_size(c.oid) as rel_size FROM pg_class c WHERE c.relnamespace = $1",
    ),
    (
        "DBeaver constraints",
        "SELECT c.oid, c.*, t.relname as tabrelname, rt.relnamespace as refnamespace, d.description, case when \
         c.contype = 'c' then \"substring\"(pg_get_constraintdef(c.oid), 7) else null end consrc_copy FROM \
         pg_catalog.pg_constraint c INNER JOIN pg_catalog.pg_class t ON t.oid = c.conrelid LEFT OUTER JOIN \
         pg_catalog.pg_class rt ON rt.oid = c.confrelid LEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid = \
         c.oid WHERE c.conrelid = $1",
    ),
    ("DBeaver keywords", "SELECT word FROM pg_get_keywords() WHERE catcode in ('U', 'C')"),
    (
        "Looker tables",
        "SELECT table_schema, table_name, table_type FROM information_schema.tables WHERE table_schema NOT IN \
         ('pg_catalog', 'information_schema') ORDER BY 1, 2",
    ),
    (
        "SQLAlchemy",
        "SELECT pg_catalog.pg_class.relname FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON \
         pg_catalog.pg_namespace.oid = pg_catalog.pg_class.relnamespace WHERE pg_catalog.pg_class.relkind = ANY \
         (ARRAY['r', 'p']) AND pg_catalog.pg_table_is_visible(pg_catalog.pg_class.oid)",
    ),
    (
        "Rails",
        "SELECT a.attname, format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid), a.attnotnull, \
         col_description(a.attrelid, a.attnum) AS comment FROM pg_attribute a LEFT JOIN pg_attrdef d ON a.attrelid = \
         d.adrelid AND a.attnum = d.adnum WHERE a.attrelid = '\"orders\"'::regclass AND a.attnum > 0",
    ),
    ("Hibernate", "select * from information_schema.sequences"),
    (
        "tokio-postgres",
        "SELECT t.typname, t.typtype, t.typelem, r.rngsubtype, t.typbasetype, n.nspname, t.typrelid FROM \
         pg_catalog.pg_type t LEFT OUTER JOIN pg_catalog.pg_range r ON r.rngtypid = t.oid INNER JOIN \
         pg_catalog.pg_namespace n ON t.typnamespace = n.oid WHERE t.oid = $1",
    ),
    (
        "asyncpg",
        "WITH RECURSIVE typeinfo_tree(oid, ns, name, kind, basetype, elemtype, depth) AS (SELECT ti.oid, ti.ns, \
         ti.name, ti.kind, ti.basetype, ti.elemtype, 0 FROM (SELECT t.oid AS oid, ns.nspname AS ns, t.typname AS \
         name, t.typtype AS kind, t.typbasetype AS basetype, t.typelem AS elemtype FROM pg_catalog.pg_type AS t \
         INNER JOIN pg_catalog.pg_namespace ns ON (ns.oid = t.typnamespace)) AS ti WHERE ti.oid = any($1::oid[]) \
         UNION ALL SELECT ti.oid, ti.ns, ti.name, ti.kind, ti.basetype, ti.elemtype, tt.depth + 1 FROM \
         typeinfo_tree tt, typeinfo_tree ti WHERE tt.elemtype = ti.oid) SELECT DISTINCT *, basetype::regtype::text \
         AS basetype_name FROM typeinfo_tree ORDER BY depth DESC",
    ),
];

fn only_catalog(what: &str, sql: &str) {
    for statement in &script(sql).statements {
        let needs = resolve(statement, &Shop, &["public"])
            .unwrap_or_else(|unknown| panic!("{what}: {unknown}\n{sql}"));
        let other: Vec<_> = needs
            .needs
            .iter()
            .filter(|need| need.kind != ObjectKind::Catalog)
            .map(ToString::to_string)
            .collect();
        assert!(other.is_empty(), "{what} needs more than the catalogue: {other:?}\n{sql}");
        assert!(!needs.changes, "{what} changes nothing");
    }
}

#[test]
fn psql() {
    let queries: Vec<_> = PSQL.split("\n--\n").skip(1).collect();
    assert!(queries.len() > 60, "the recorded queries are there");
    for sql in queries {
        only_catalog("psql", sql);
    }
}

#[test]
fn drivers_and_tools() {
    for (what, sql) in TOOLS {
        only_catalog(what, sql);
    }
}

#[test]
fn what_tells_of_other_sessions_or_of_data_needs_a_grant() {
    check(&[
        ("select * from pg_stat_activity", "read pg_catalog/pg_stat_activity"),
        ("select * from pg_catalog.pg_stats", "read pg_catalog/pg_stats"),
        ("select * from pg_authid", "read pg_catalog/pg_authid"),
        ("select * from pg_prepared_statements", "read pg_catalog/pg_prepared_statements"),
        (
            "select * from information_schema.user_mapping_options",
            "read information_schema/user_mapping_options",
        ),
        ("select * from pg_stat_statements", "read public/pg_stat_statements"),
        ("select * from pg_class for update", "catalog pg_class, write pg_catalog/pg_class"),
        ("delete from pg_catalog.pg_class", "delete pg_catalog/pg_class"),
    ]);
}
