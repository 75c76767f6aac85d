//! How the database describes itself: one JSON document for each kind of thing.

use serde::Deserialize;

use super::{Argument, Column, ForeignKey, Function, Generated, Relation, RelationKind, Returns, Volatility};

#[derive(Deserialize)]
pub(super) struct WireRelation {
    s: Box<str>,
    n: Box<str>,
    k: char,
    /// Bits of pg_relation_is_updatable: 4 update, 8 insert, 16 delete.
    e: i32,
    d: Option<Box<str>>,
    c: Option<Vec<WireColumn>>,
    p: Option<Vec<Box<str>>>,
}

#[derive(Deserialize)]
struct WireColumn {
    n: Box<str>,
    t: Box<str>,
    o: u32,
    b: u32,
    /// Whether it is NOT NULL.
    r: bool,
    v: Option<Box<str>>,
    /// attidentity
    i: Box<str>,
    /// attgenerated
    g: Box<str>,
    d: Option<Box<str>>,
}

#[derive(Deserialize)]
pub(super) struct WireKey {
    n: Box<str>,
    fs: Box<str>,
    ft: Box<str>,
    fc: Vec<Box<str>>,
    ts: Box<str>,
    tt: Box<str>,
    tc: Vec<Box<str>>,
    u: bool,
}

#[derive(Deserialize)]
pub(super) struct WireFunction {
    s: Box<str>,
    n: Box<str>,
    k: char,
    v: char,
    /// Types of the IN arguments.
    a: Option<Vec<WireType>>,
    /// Names of all arguments.
    an: Option<Vec<Option<Box<str>>>>,
    /// Modes of all arguments; absent when all are IN.
    am: Option<Vec<char>>,
    /// How many of the last IN arguments have a default.
    ad: usize,
    rt: WireType,
    rs: bool,
    /// Whether the return type is composite.
    rc: bool,
    rr: Option<(Box<str>, Box<str>)>,
    d: Option<Box<str>>,
}

#[derive(Deserialize)]
struct WireType {
    t: Box<str>,
    o: u32,
}

impl From<WireRelation> for Relation {
    fn from(wire: WireRelation) -> Self {
        Self {
            schema: wire.s,
            name: wire.n,
            kind: match wire.k {
                'v' => RelationKind::View,
                'm' => RelationKind::MaterializedView,
                'f' => RelationKind::ForeignTable,
                _ => RelationKind::Table,
            },
            updatable: wire.e & 4 != 0,
            insertable: wire.e & 8 != 0,
            deletable: wire.e & 16 != 0,
            columns: wire.c.unwrap_or_default().into_iter().map(Column::from).collect(),
            primary_key: wire.p.unwrap_or_default(),
            comment: wire.d,
        }
    }
}

impl From<WireColumn> for Column {
    fn from(wire: WireColumn) -> Self {
        let generated = match (&*wire.i, &*wire.g) {
            ("a", _) => Generated::IdentityAlways,
            ("d", _) => Generated::IdentityByDefault,
            (_, "") => Generated::No,
            _ => Generated::Expression,
        };
        Self {
            name: wire.n,
            type_name: wire.t,
            type_oid: wire.o,
            base_oid: wire.b,
            nullable: !wire.r,
            default: wire.v.filter(|_| generated == Generated::No),
            generated,
            comment: wire.d,
        }
    }
}

impl From<WireKey> for ForeignKey {
    fn from(wire: WireKey) -> Self {
        Self {
            name: wire.n,
            from: (wire.fs, wire.ft),
            from_columns: wire.fc,
            to: (wire.ts, wire.tt),
            to_columns: wire.tc,
            one_to_one: wire.u,
        }
    }
}

impl From<WireFunction> for Function {
    fn from(wire: WireFunction) -> Self {
        let types = wire.a.unwrap_or_default();
        let count = wire.an.as_ref().map_or(types.len(), Vec::len).max(wire.am.as_ref().map_or(0, Vec::len));
        let mode = |index: usize| wire.am.as_ref().and_then(|modes| modes.get(index).copied()).unwrap_or('i');
        let name = |index: usize| {
            wire.an.as_ref().and_then(|names| names.get(index).cloned().flatten()).unwrap_or_default()
        };
        let first_default = types.len().saturating_sub(wire.ad);
        let given = (0..count.max(types.len())).filter(|index| matches!(mode(*index), 'i' | 'b' | 'v'));
        let arguments = types.iter().zip(given).enumerate().map(|(position, (type_, index))| Argument {
            name: name(index),
            type_name: type_.t.clone(),
            type_oid: type_.o,
            has_default: position >= first_default,
            variadic: mode(index) == 'v',
        });
        let arguments = arguments.collect();
        let columns: Vec<Box<str>> =
            (0..count).filter(|index| matches!(mode(*index), 'o' | 'b' | 't')).map(name).collect();
        Self {
            returns: Returns {
                type_name: wire.rt.t,
                type_oid: wire.rt.o,
                set: wire.rs,
                composite: wire.rc || columns.len() > 1,
                relation: wire.rr,
                columns,
            },
            schema: wire.s,
            name: wire.n,
            arguments,
            volatility: match wire.v {
                'i' => Volatility::Immutable,
                's' => Volatility::Stable,
                _ => Volatility::Volatile,
            },
            procedure: wire.k == 'p',
            comment: wire.d,
        }
    }
}
