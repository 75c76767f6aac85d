//! Loads a catalogue: three statements, each answered by one JSON document. `$1` is the array of the
//! exposed schemas.

use super::wire::{WireFunction, WireKey, WireRelation};
use super::{Catalog, ForeignKey, Function, Relation};
use crate::conn::Conn;
use crate::error::Failure;
use crate::login::{ask_json, text_array};

/// Columns are aggregated once for all relations: a subquery for each would be read by index, one by one.
const RELATIONS: &str = "
WITH RECURSIVE base AS (
  SELECT t.oid, t.oid AS at, t.typtype, t.typbasetype FROM pg_catalog.pg_type t WHERE t.typtype = 'd'
  UNION ALL
  SELECT b.oid, t.oid, t.typtype, t.typbasetype FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.typbasetype
  WHERE b.typtype = 'd'),
rel AS (
  SELECT c.oid, n.nspname, c.relname, c.relkind FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = ANY ($1::text[]) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')),
col AS (
  SELECT a.attrelid, json_agg(json_build_object(
    'n', a.attname, 't', pg_catalog.format_type(a.atttypid, a.atttypmod), 'o', a.atttypid::bigint,
    'b', coalesce(b.at, a.atttypid)::bigint, 'r', a.attnotnull,
    'v', pg_catalog.pg_get_expr(d.adbin, d.adrelid), 'i', a.attidentity, 'g', a.attgenerated,
    'd', e.description) ORDER BY a.attnum) AS list
  FROM rel JOIN pg_catalog.pg_attribute a ON a.attrelid = rel.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
  LEFT JOIN base b ON b.oid = a.atttypid AND b.typtype <> 'd'
  LEFT JOIN pg_catalog.pg_description e ON e.objoid = a.attrelid AND e.objsubid = a.attnum
    AND e.classoid = 'pg_catalog.pg_class'::regclass
  GROUP BY a.attrelid),
pk AS (
  SELECT k.conrelid, json_agg(a.attname ORDER BY p.ord) AS list FROM pg_catalog.pg_constraint k
  CROSS JOIN LATERAL unnest(k.conkey) WITH ORDINALITY AS p (num, ord)
  JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = p.num
  WHERE k.contype = 'p' GROUP BY k.conrelid)
SELECT coalesce(json_agg(json_build_object(
  's', rel.nspname, 'n', rel.relname, 'k', rel.relkind,
  'e', pg_catalog.pg_relation_is_updatable(rel.oid, true), 'd', e.description, 'c', col.list, 'p', pk.list)),
  '[]')::text
FROM rel LEFT JOIN col ON col.attrelid = rel.oid LEFT JOIN pk ON pk.conrelid = rel.oid
LEFT JOIN pg_catalog.pg_description e ON e.objoid = rel.oid AND e.objsubid = 0
  AND e.classoid = 'pg_catalog.pg_class'::regclass";

/// The keys that a partition inherits are its parent's and left out.
const FOREIGN_KEYS: &str = "
SELECT coalesce(json_agg(json_build_object(
  'n', k.conname, 'fs', fn.nspname, 'ft', f.relname, 'ts', tn.nspname, 'tt', t.relname,
  'fc', (SELECT json_agg(a.attname ORDER BY p.ord) FROM unnest(k.conkey) WITH ORDINALITY AS p (num, ord)
         JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = p.num),
  'tc', (SELECT json_agg(a.attname ORDER BY p.ord) FROM unnest(k.confkey) WITH ORDINALITY AS p (num, ord)
         JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = p.num),
  'u', EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = k.conrelid AND i.indisunique
         AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnkeyatts <= cardinality(k.conkey)
         AND (SELECT bool_and(u.num = ANY (k.conkey))
              FROM unnest(i.indkey::smallint[]) WITH ORDINALITY AS u (num, ord)
              WHERE u.ord <= i.indnkeyatts)))
  ORDER BY fn.nspname, f.relname, k.conname), '[]')::text
FROM pg_catalog.pg_constraint k
JOIN pg_catalog.pg_class f ON f.oid = k.conrelid JOIN pg_catalog.pg_namespace fn ON fn.oid = f.relnamespace
JOIN pg_catalog.pg_class t ON t.oid = k.confrelid JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
WHERE k.contype = 'f' AND k.conparentid = 0 AND fn.nspname = ANY ($1::text[])";

/// Functions that only the server calls (triggers, language handlers) return pseudo-types.
const FUNCTIONS: &str = "
SELECT coalesce(json_agg(json_build_object(
  's', n.nspname, 'n', p.proname, 'k', p.prokind, 'v', p.provolatile,
  'a', (SELECT json_agg(json_build_object('t', pg_catalog.format_type(x.oid, NULL), 'o', x.oid::bigint)
          ORDER BY x.ord) FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY AS x (oid, ord)),
  'an', p.proargnames, 'am', p.proargmodes, 'ad', p.pronargdefaults,
  'rt', json_build_object('t', pg_catalog.format_type(p.prorettype, NULL), 'o', p.prorettype::bigint),
  'rs', p.proretset, 'rc', coalesce(b.typtype, t.typtype) = 'c',
  'rr', CASE WHEN r.oid IS NOT NULL THEN json_build_array(rn.nspname, r.relname) END,
  'd', e.description) ORDER BY n.nspname, p.proname, p.oid), '[]')::text
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
JOIN pg_catalog.pg_type t ON t.oid = p.prorettype
LEFT JOIN pg_catalog.pg_type b ON b.oid = t.typbasetype AND t.typtype = 'd'
LEFT JOIN pg_catalog.pg_class r ON r.oid = coalesce(b.typrelid, t.typrelid) AND r.relkind <> 'c'
LEFT JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
LEFT JOIN pg_catalog.pg_description e ON e.objoid = p.oid AND e.classoid = 'pg_catalog.pg_proc'::regclass
WHERE n.nspname = ANY ($1::text[]) AND p.prokind IN ('f', 'p')
  AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype, 'language_handler'::regtype,
                           'internal'::regtype)";

/// Why a catalogue could not be loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("{0}")]
    Failure(#[from] Failure),
    #[error("the database describes itself in a way that is not understood: {0}")]
    Json(#[from] serde_json::Error),
}

pub(super) async fn load(conn: &mut Conn, schemas: &[Box<str>], epoch: u64) -> Result<Catalog, LoadError> {
    let names: Vec<&str> = schemas.iter().map(|name| &**name).collect();
    let array = text_array(&names);
    let params = [Some(array.as_bytes())];
    let relations: Vec<WireRelation> = serde_json::from_str(&ask_json(conn, RELATIONS, &params).await?)?;
    let keys: Vec<WireKey> = serde_json::from_str(&ask_json(conn, FOREIGN_KEYS, &params).await?)?;
    let functions: Vec<WireFunction> = serde_json::from_str(&ask_json(conn, FUNCTIONS, &params).await?)?;
    let mut catalog = Catalog { epoch, ..Catalog::default() };
    for relation in relations.into_iter().map(Relation::from) {
        let schema = catalog.relations.entry(relation.schema.clone()).or_default();
        schema.insert(relation.name.clone(), relation);
    }
    for function in functions.into_iter().map(Function::from) {
        let schema = catalog.functions.entry(function.schema.clone()).or_default();
        schema.entry(function.name.clone()).or_default().push(function);
    }
    catalog.foreign_keys = keys.into_iter().map(ForeignKey::from).collect();
    Ok(catalog)
}
