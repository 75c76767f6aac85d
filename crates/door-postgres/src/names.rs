//! What names mean to a session: the database's objects, its search path, its temporary relations.
//!
//! The objects are loaded by the gateway's own login and shared by all sessions; a session that has changed
//! structure asks through its own connection, because nobody else can see what is not committed.
//!
//! Invariant: the questions name everything with its schema, operators too, so that nothing that a session has
//! put in front of `pg_catalog` answers them.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use doorward_core::hash::{FixedMap, FixedSet};
use doorward_sql::{Catalog, FunctionFacts, OperatorFacts, RelationKind};

use crate::resolved::{Path, Resolved};
use crate::wire::{WireFunction, WireObjects, WireSession};

/// All objects that a statement can name, but for temporary ones.
pub(crate) const OBJECTS: &str = "
SELECT (pg_catalog.json_build_object(
'r', (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_array(n.nspname, c.relname, c.relkind, c.relispartition)), '[]'::pg_catalog.json)
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
  WHERE NOT (n.nspname OPERATOR(pg_catalog.~) '^pg_(temp|toast_temp)_')),
'f', (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_array(n.nspname, p.proname, p.prokind,
    p.provolatile OPERATOR(pg_catalog.=) 'v'::pg_catalog.\"char\", p.prosecdef,
    p.pronargs OPERATOR(pg_catalog.-) p.pronargdefaults,
    CASE WHEN p.provariadic OPERATOR(pg_catalog.<>) 0::pg_catalog.oid THEN 65535 ELSE p.pronargs::pg_catalog.int4 END,
    coalesce(t.typtype OPERATOR(pg_catalog.=) ANY (ARRAY['c', 'p', 'd']::pg_catalog.\"char\"[]), false))), '[]'::pg_catalog.json)
  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
  LEFT JOIN pg_catalog.pg_type t ON p.pronargs OPERATOR(pg_catalog.>) 0 AND t.oid OPERATOR(pg_catalog.=) p.proargtypes[0]),
'o', (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_array(o.oprname, n.nspname, fn.nspname, p.proname)), '[]'::pg_catalog.json)
  FROM pg_catalog.pg_operator o JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) o.oprnamespace
  JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) o.oprcode
  JOIN pg_catalog.pg_namespace fn ON fn.oid OPERATOR(pg_catalog.=) p.pronamespace
  WHERE n.nspname OPERATOR(pg_catalog.<>) 'pg_catalog'::pg_catalog.name),
'a', (SELECT coalesce(pg_catalog.json_agg(r.rolname), '[]'::pg_catalog.json) FROM pg_catalog.pg_roles r
  WHERE EXISTS (SELECT FROM pg_catalog.pg_roles m
    WHERE (m.rolsuper OR m.rolbypassrls OR m.rolreplication OR m.rolcreaterole
      OR m.rolname OPERATOR(pg_catalog.=) ANY (ARRAY['pg_execute_server_program', 'pg_read_server_files',
        'pg_write_server_files']::pg_catalog.name[]))
    AND (m.oid OPERATOR(pg_catalog.=) r.oid OR pg_catalog.pg_has_role(r.oid, m.oid, 'MEMBER'::pg_catalog.text)))),
'p', (SELECT coalesce(pg_catalog.json_agg(r.rolname), '[]'::pg_catalog.json) FROM pg_catalog.pg_roles r
  WHERE r.rolreplication AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles m
    WHERE (m.rolsuper OR m.rolbypassrls OR m.rolcreaterole
      OR m.rolname OPERATOR(pg_catalog.=) ANY (ARRAY['pg_execute_server_program', 'pg_read_server_files',
        'pg_write_server_files']::pg_catalog.name[]))
    AND (m.oid OPERATOR(pg_catalog.=) r.oid OR pg_catalog.pg_has_role(r.oid, m.oid, 'MEMBER'::pg_catalog.text)))),
's', (SELECT coalesce(pg_catalog.json_agg(DISTINCT r.rolname), '[]'::pg_catalog.json)
  FROM pg_catalog.pg_roles r JOIN pg_catalog.pg_db_role_setting d ON d.setrole OPERATOR(pg_catalog.=) ANY (ARRAY[0::pg_catalog.oid, r.oid])
  JOIN pg_catalog.pg_database b ON b.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
    AND d.setdatabase OPERATOR(pg_catalog.=) ANY (ARRAY[0::pg_catalog.oid, b.oid])
  CROSS JOIN LATERAL pg_catalog.unnest(d.setconfig) AS t(setting)
  WHERE pg_catalog.starts_with(t.setting, 'role=') OR pg_catalog.starts_with(t.setting, 'session_authorization=')),
'c', EXISTS (SELECT FROM pg_catalog.pg_settings s WHERE s.name OPERATOR(pg_catalog.=) 'client_connection_check_interval'::pg_catalog.text
  AND s.source OPERATOR(pg_catalog.=) ANY (ARRAY['default', 'client', 'session', 'user', 'database', 'database user'])),
'i', (SELECT coalesce(pg_catalog.json_agg(DISTINCT r.rolname), '[]'::pg_catalog.json)
  FROM pg_catalog.pg_roles r JOIN pg_catalog.pg_db_role_setting d ON d.setrole OPERATOR(pg_catalog.=) ANY (ARRAY[0::pg_catalog.oid, r.oid])
  JOIN pg_catalog.pg_database b ON b.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
    AND d.setdatabase OPERATOR(pg_catalog.=) ANY (ARRAY[0::pg_catalog.oid, b.oid])
  CROSS JOIN LATERAL pg_catalog.unnest(d.setconfig) AS t(setting)
  WHERE pg_catalog.starts_with(t.setting, 'client_connection_check_interval='))
))::pg_catalog.text";

/// What is the session's own.
pub(crate) const SESSION: &str = "
SELECT (pg_catalog.json_build_object(
'p', pg_catalog.current_schemas(true),
't', (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_array(c.relname, c.relkind)), '[]'::pg_catalog.json)
  FROM pg_catalog.pg_class c
  WHERE c.relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema())))::pg_catalog.text";

/// The schema under which temporary relations are asked for.
const TEMPORARY: &str = "pg_temp";

type ByName<T> = FixedMap<Box<str>, T>;

/// The database's objects at one moment.
#[derive(Debug)]
pub(crate) struct Objects {
    /// When loading them began: what was committed before is in them.
    pub(crate) began: Instant,
    relations: ByName<ByName<RelationKind>>,
    functions: ByName<ByName<Vec<FunctionFacts>>>,
    operators: ByName<Vec<OperatorFacts>>,
    roles: Roles,
    /// What statements need that were resolved among these objects alone.
    pub(crate) resolved: Resolved,
}

/// What is known of roles, by their names.
#[derive(Debug, Default)]
struct Roles {
    powerful: FixedSet<Box<str>>,
    replicating: FixedSet<Box<str>>,
    shifting: FixedSet<Box<str>>,
    /// Whether sessions may be told how often the server looks for its client.
    may_check: bool,
    checking: FixedSet<Box<str>>,
}

/// What is a session's own.
#[derive(Debug, Default)]
pub(crate) struct Session {
    path: Path,
    temporary: ByName<RelationKind>,
}

/// What names mean to a session.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) objects: Arc<Objects>,
    session: Session,
}

impl Objects {
    /// No objects: nothing can be resolved.
    pub(crate) fn none() -> Self {
        let (relations, functions, operators, roles, resolved) = Default::default();
        Self { began: Instant::now(), relations, functions, operators, roles, resolved }
    }

    /// Whether a role has rights that no permission on an object bounds, or can become one that has.
    pub(crate) fn is_powerful(&self, role: &str) -> bool {
        self.roles.powerful.contains(role)
    }

    /// Whether a role's sessions begin as another one (`ALTER ROLE … SET role`).
    pub(crate) fn shifts(&self, role: &str) -> bool {
        self.roles.shifting.contains(role)
    }

    /// Whether sessions of a login can be told how often the server looks for its client, and nobody else tells them.
    pub(crate) fn may_check(&self, login: &str) -> bool {
        self.roles.may_check && !self.roles.checking.contains(login)
    }

    /// Whether a role may replicate, and is powerful in no other way.
    pub(crate) fn only_replicates(&self, role: &str) -> bool {
        self.roles.replicating.contains(role)
    }

    /// Reads what the database answered.
    pub(crate) fn read(text: &[u8], began: Instant) -> Result<Self, serde_json::Error> {
        let wire: WireObjects = serde_json::from_slice(text)?;
        let mut objects = Self { began, ..Self::none() };
        for (schema, name, kind, partition) in wire.r {
            let kind = if partition && kind != 'i' && kind != 'I' {
                RelationKind::Partition
            } else {
                relation_kind(kind)
            };
            objects.relations.entry(schema).or_default().insert(name, kind);
        }
        for WireFunction(schema, name, kind, volatile, security_definer, min, max, takes_row) in wire.f {
            let facts = FunctionFacts {
                procedure: kind == 'p',
                volatile,
                security_definer,
                arguments_min: min,
                arguments_max: max,
                takes_row,
            };
            objects.functions.entry(schema).or_default().entry(name).or_default().push(facts);
        }
        for [name, schema, function_schema, function] in wire.o {
            let facts = OperatorFacts { schema, function_schema, function };
            objects.operators.entry(name).or_default().push(facts);
        }
        objects.roles = Roles {
            powerful: wire.a.into_iter().collect(),
            replicating: wire.p.into_iter().collect(),
            shifting: wire.s.into_iter().collect(),
            may_check: wire.c,
            checking: wire.i.into_iter().collect(),
        };
        Ok(objects)
    }
}

fn relation_kind(kind: char) -> RelationKind {
    match kind {
        'v' => RelationKind::View,
        'm' => RelationKind::MaterializedView,
        'f' => RelationKind::ForeignTable,
        'S' => RelationKind::Sequence,
        'i' | 'I' => RelationKind::Index,
        'c' => RelationKind::CompositeType,
        _ => RelationKind::Table,
    }
}

impl Session {
    /// Reads what the session answered.
    pub(crate) fn read(text: &[u8]) -> Option<Self> {
        let wire: WireSession = serde_json::from_slice(text).ok()?;
        // Temporary relations are asked for by their own name for the schema.
        let path = wire.p.into_iter().filter(|schema| !schema.starts_with("pg_temp_")).collect();
        let temporary = wire.t.into_iter().map(|(name, kind)| (name, relation_kind(kind))).collect();
        Some(Self { path, temporary })
    }
}

impl Names {
    /// The objects, as this session sees them.
    pub(crate) fn new(objects: Arc<Objects>, session: Session) -> Self {
        Self { objects, session }
    }

    /// The schemas that are searched.
    pub(crate) fn path(&self) -> &Path {
        &self.session.path
    }

    /// Whether names mean what the objects and the path say, and nothing that is the session's own.
    pub(crate) fn are_shared(&self) -> bool {
        self.session.temporary.is_empty()
    }
}

impl Default for Names {
    fn default() -> Self {
        Self::new(Arc::new(Objects::none()), Session::default())
    }
}

impl Catalog for Names {
    fn relation(&self, schema: &str, name: &str) -> Option<RelationKind> {
        if schema == TEMPORARY {
            return self.session.temporary.get(name).copied();
        }
        self.objects.relations.get(schema)?.get(name).copied()
    }

    fn functions(&self, schema: &str, name: &str) -> Cow<'_, [FunctionFacts]> {
        let all = self.objects.functions.get(schema).and_then(|functions| functions.get(name));
        Cow::Borrowed(all.map_or(&[][..], Vec::as_slice))
    }

    fn operators(&self, name: &str) -> Cow<'_, [OperatorFacts]> {
        Cow::Borrowed(self.objects.operators.get(name).map_or(&[][..], Vec::as_slice))
    }
}
