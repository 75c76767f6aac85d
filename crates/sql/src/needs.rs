//! What a statement needs, once its names are looked up.
//!
//! Invariants:
//! - What cannot be known is refused: [`resolve`] answers a set that is whole, or none.
//! - Where a name may mean several things (an overloaded function, a temporary table in front of a real one),
//!   all of them are needed.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use doorward_core::Verb;

use crate::error::{Unknown, Why};
use crate::functions;
use crate::statement::{Lookup, Name, Shape, Want};

/// What kind of relation it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RelationKind {
    /// A table, partitioned or not.
    Table,
    /// A view.
    View,
    /// A materialized view.
    MaterializedView,
    /// A foreign table.
    ForeignTable,
    /// A partition of a table.
    Partition,
    /// A sequence.
    Sequence,
    /// An index.
    Index,
    /// A composite type.
    CompositeType,
}

/// What is known of one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionFacts {
    /// Whether it is a procedure.
    pub procedure: bool,
    /// Whether it is volatile: neither immutable nor stable.
    pub volatile: bool,
    /// Whether it runs with its owner's rights.
    pub security_definer: bool,
    /// The fewest arguments that it takes.
    pub arguments_min: u16,
    /// The most arguments that it takes; [`u16::MAX`] for VARIADIC.
    pub arguments_max: u16,
    /// Whether its first argument may be a row: a composite, `record` or polymorphic type, or a domain over one.
    pub takes_row: bool,
}

/// An operator outside of `pg_catalog`, and the function that it calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorFacts {
    /// The operator's schema.
    pub schema: Box<str>,
    /// The function's schema.
    pub function_schema: Box<str>,
    /// The function's name.
    pub function: Box<str>,
}

/// What the database has, seen by the role that the session has. Relations and functions of `pg_catalog` and
/// `information_schema` are in it.
pub trait Catalog {
    /// The relation of a name. The schema `pg_temp` means the session's temporary one.
    fn relation(&self, schema: &str, name: &str) -> Option<RelationKind>;

    /// All functions and procedures of a name.
    fn functions(&self, schema: &str, name: &str) -> Cow<'_, [FunctionFacts]>;

    /// All operators of a name outside of `pg_catalog`.
    fn operators(&self, name: &str) -> Cow<'_, [OperatorFacts]>;
}

/// What kind of object a need is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    /// A relation.
    Relation(RelationKind),
    /// A relation that is made by the statement.
    NewRelation,
    /// A relation of `pg_catalog` or `information_schema` that describes the database: any grant lets it be
    /// read, unless the resource hides its catalogue.
    Catalog,
    /// A function.
    Function,
    /// A procedure.
    Procedure,
    /// A notification channel.
    Channel,
    /// Another object with a schema.
    Part(&'static str),
    /// An object without a schema.
    Global(&'static str),
}

/// One thing that a statement needs to be allowed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Need {
    /// The object's schema. Empty for what has none.
    pub schema: Box<str>,
    /// The object's name.
    pub name: Box<str>,
    /// What is done to it.
    pub verb: Verb,
    /// What kind of object it is.
    pub kind: ObjectKind,
}

impl Need {
    /// The object's path in rules: `schema/name`. A schema is `NAME`, a channel `pg_channel/NAME`, and another
    /// object without a schema `pg_KIND/NAME`; no schema of a user's begins with `pg_`.
    pub fn segments(&self) -> Vec<Cow<'_, str>> {
        let space: Cow<'_, str> = match self.kind {
            ObjectKind::Global("schema") => return vec![Cow::Borrowed(&self.name)],
            ObjectKind::Global(kind) => format!("pg_{kind}").into(),
            ObjectKind::Channel => "pg_channel".into(),
            _ => Cow::Borrowed(&self.schema),
        };
        vec![space, Cow::Borrowed(&self.name)]
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.segments().join("/"))
    }
}

/// All that a statement needs: sorted, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The needs. None at all for `SELECT 1`.
    pub needs: Vec<Need>,
    /// Whether the statement may change something: by itself, or by a function that it calls.
    pub changes: bool,
    /// Whether it calls a function that runs with its owner's rights.
    pub security_definer: bool,
}

/// Looks up what a statement wants. The search path is the one in force, `$user` replaced.
pub fn resolve(shape: &Shape, catalog: &dyn Catalog, search_path: &[&str]) -> Result<Needs, Unknown> {
    if let Some(unknown) = &shape.refused {
        return Err(unknown.clone());
    }
    let mut resolver = Resolver {
        catalog,
        path: effective(search_path),
        found: BTreeSet::new(),
        changes: !shape.reads_only,
        security_definer: false,
    };
    for want in &shape.wants {
        resolver.want(want)?;
    }
    Ok(Needs {
        needs: resolver.found.into_iter().collect(),
        changes: resolver.changes,
        security_definer: resolver.security_definer,
    })
}

const PG_CATALOG: &str = "pg_catalog";
/// The session's own schema. Functions are never looked for in it.
const PG_TEMP: &str = "pg_temp";
const INFORMATION_SCHEMA: &str = "information_schema";

/// `pg_catalog` is searched first, unless the path names it.
fn effective<'a>(search_path: &[&'a str]) -> Vec<&'a str> {
    let mut path = Vec::with_capacity(search_path.len() + 1);
    if !search_path.contains(&PG_CATALOG) {
        path.push(PG_CATALOG);
    }
    path.extend_from_slice(search_path);
    path
}

fn is_own(schema: &str) -> bool {
    schema == PG_CATALOG || schema == INFORMATION_SCHEMA
}

struct Resolver<'a> {
    catalog: &'a dyn Catalog,
    path: Vec<&'a str>,
    found: BTreeSet<Need>,
    changes: bool,
    security_definer: bool,
}

impl Resolver<'_> {
    fn want(&mut self, want: &Want) -> Result<(), Unknown> {
        match want {
            Want::Relation { verb, name, lookup } => self.relation(*verb, name, *lookup),
            Want::Function { name, arguments } => self.function(name, *arguments),
            Want::Operator(name) => {
                self.operator(name);
                Ok(())
            }
            Want::Word(name) => {
                self.word(name);
                Ok(())
            }
            Want::Attribute(name) => {
                self.attribute(name);
                Ok(())
            }
            Want::Routine { name, lookup } => self.routine(name, *lookup),
            Want::Part { kind, name } => {
                let schema = self.schema_of_new(name)?;
                self.need(Verb::Manage, ObjectKind::Part(kind), &schema, &name.name);
                Ok(())
            }
            Want::Global { kind, name } => {
                self.need(Verb::Manage, ObjectKind::Global(kind), "", name);
                Ok(())
            }
            Want::Channel { listens, name } => {
                let verb = if *listens { Verb::Connect } else { Verb::Write };
                self.need(verb, ObjectKind::Channel, "", name);
                Ok(())
            }
        }
    }

    fn need(&mut self, verb: Verb, kind: ObjectKind, schema: &str, name: &str) {
        self.found.insert(Need { verb, kind, schema: schema.into(), name: name.into() });
    }

    /// Where something is made when its schema is not written: in the first schema of the path.
    fn schema_of_new(&self, name: &Name) -> Result<Box<str>, Unknown> {
        if let Some(schema) = &name.schema {
            return Ok(schema.clone());
        }
        let first = self.path.iter().find(|schema| **schema != PG_CATALOG && **schema != PG_TEMP);
        first.map(|schema| (*schema).into()).ok_or_else(|| {
            Unknown::new(Why::NoRelation, "the search path names no schema in which something can be made")
        })
    }

    fn relation(&mut self, verb: Verb, name: &Name, lookup: Lookup) -> Result<(), Unknown> {
        if lookup != Lookup::New {
            let found = match &name.schema {
                Some(schema) => self.relation_in(schema, &name.name),
                None => self
                    .path
                    .iter()
                    .filter(|schema| **schema != PG_TEMP)
                    .find_map(|schema| self.relation_in(schema, &name.name)),
            };
            if let Some((schema, kind)) = found {
                let kind = match kind {
                    ObjectKind::Catalog if verb != Verb::Read => ObjectKind::Relation(RelationKind::Table),
                    kind => kind,
                };
                self.need(verb, kind, &schema, &name.name);
                return Ok(());
            }
            // A temporary table is the session's own. It was looked for last: were there a real one of the name
            // as well, that one is needed too, because a temporary table may be gone by now.
            if name.schema.is_none() && self.catalog.relation(PG_TEMP, &name.name).is_some() {
                return Ok(());
            }
            if lookup == Lookup::Existing {
                return Err(Unknown::new(Why::NoRelation, format!("there is no relation {}", written(name))));
            }
        }
        let schema = self.schema_of_new(name)?;
        self.need(verb, ObjectKind::NewRelation, &schema, &name.name);
        Ok(())
    }

    fn relation_in(&self, schema: &str, name: &str) -> Option<(Box<str>, ObjectKind)> {
        let kind = self.catalog.relation(schema, name)?;
        let plain = is_own(schema) && !functions::is_guarded_relation(name);
        Some((schema.into(), if plain { ObjectKind::Catalog } else { ObjectKind::Relation(kind) }))
    }

    fn function(&mut self, name: &Name, arguments: u16) -> Result<(), Unknown> {
        if let Some(why) = functions::refused(&name.name, arguments) {
            return Err(Unknown::new(why, format!("the function {}", name.name)));
        }
        let mut any = false;
        let mut fits = false;
        // Functions of one name are chosen by their arguments' types; those that take as many are all needed.
        for by_count in [true, false] {
            for schema in self.schemas_of(name) {
                let all = self.catalog.functions(&schema, &name.name);
                let of_count = |facts: &&FunctionFacts| {
                    !by_count || (facts.arguments_min <= arguments && arguments <= facts.arguments_max)
                };
                for facts in all.iter().filter(of_count) {
                    any = true;
                    fits |= by_count;
                    self.call(&schema, &name.name, facts);
                }
            }
            if fits {
                break;
            }
        }
        // `regclass('orders')` is a cast where there is no function.
        let cast = arguments == 1 && name.schema.as_deref().is_none_or(is_own);
        if any || (cast && functions::is_type(&name.name)) {
            return Ok(());
        }
        Err(Unknown::new(Why::NoFunction, format!("there is no function {}", written(name))))
    }

    fn schemas_of(&self, name: &Name) -> Vec<Box<str>> {
        match &name.schema {
            Some(schema) => vec![schema.clone()],
            None => {
                let path = self.path.iter().filter(|schema| **schema != PG_TEMP);
                path.map(|schema| (*schema).into()).collect()
            }
        }
    }

    /// One function that may be called.
    fn call(&mut self, schema: &str, name: &str, facts: &FunctionFacts) {
        if is_own(schema) && functions::is_harmless(name, facts.volatile) {
            return;
        }
        self.changes |= facts.volatile || facts.procedure;
        self.security_definer |= facts.security_definer;
        let kind = if facts.procedure { ObjectKind::Procedure } else { ObjectKind::Function };
        self.need(Verb::Execute, kind, schema, name);
    }

    /// PostgreSQL's own operators are harmless. Another one of the same name may be meant by its types.
    fn operator(&mut self, name: &Name) {
        for facts in self.catalog.operators(&name.name).iter() {
            let visible = match &name.schema {
                Some(schema) => *schema == facts.schema,
                None => self.path.contains(&&*facts.schema),
            };
            if visible {
                self.changes = true;
                self.need(Verb::Execute, ObjectKind::Function, &facts.function_schema, &facts.function);
            }
        }
    }

    /// The server's own, or on an older one a function that somebody has made there.
    fn word(&mut self, name: &str) {
        for schema in self.path.clone() {
            if is_own(schema) {
                continue;
            }
            for facts in self.catalog.functions(schema, name).iter() {
                self.call(schema, name, facts);
            }
        }
    }

    /// A column, or a function of one argument that takes rows.
    fn attribute(&mut self, name: &str) {
        for schema in self.path.clone() {
            if is_own(schema) {
                continue;
            }
            for facts in self.catalog.functions(schema, name).iter() {
                if facts.takes_row && facts.arguments_min <= 1 && facts.arguments_max >= 1 {
                    self.call(schema, name, facts);
                }
            }
        }
    }

    fn routine(&mut self, name: &Name, lookup: Lookup) -> Result<(), Unknown> {
        if lookup != Lookup::New {
            let found = self
                .schemas_of(name)
                .into_iter()
                .filter(|schema| !self.catalog.functions(schema, &name.name).is_empty())
                .collect::<Vec<_>>();
            for schema in &found {
                self.need(Verb::Manage, ObjectKind::Function, schema, &name.name);
            }
            if !found.is_empty() {
                return Ok(());
            }
            if lookup == Lookup::Existing {
                return Err(Unknown::new(Why::NoFunction, format!("there is no function {}", written(name))));
            }
        }
        let schema = self.schema_of_new(name)?;
        self.need(Verb::Manage, ObjectKind::Function, &schema, &name.name);
        Ok(())
    }
}

fn written(name: &Name) -> String {
    match &name.schema {
        Some(schema) => format!("{schema}.{}", name.name),
        None => name.name.to_string(),
    }
}
