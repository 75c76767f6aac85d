//! Tests over a small catalogue: what each statement needs, by a table.

mod catalog_queries;
mod hostile;
mod parsing;
mod statements;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use crate::{
    Catalog, FunctionFacts, Limits, Need, ObjectKind, OperatorFacts, RelationKind, Script, parse, resolve,
};

/// PostgreSQL's own functions, as version 18 has them: schema, name, volatile or not, fewest and most arguments.
/// All volatile ones, and those that the statements here call.
const PG_PROC: &str = include_str!("pg_proc.txt");

static OWN: LazyLock<HashMap<(&str, &str), FunctionFacts>> = LazyLock::new(|| {
    PG_PROC
        .lines()
        .map(|line| {
            let mut parts = line.split('|');
            let mut next = || parts.next().unwrap();
            let key = (next(), next());
            let volatile = next() == "1";
            let facts = FunctionFacts {
                procedure: false,
                volatile,
                security_definer: false,
                arguments_min: next().parse().unwrap(),
                arguments_max: next().parse().unwrap(),
                takes_row: false,
            };
            (key, facts)
        })
        .collect()
});

/// A shop: tables, views and functions in `public`, more of them in `sales`.
struct Shop;

impl Catalog for Shop {
    fn relation(&self, schema: &str, name: &str) -> Option<RelationKind> {
        use RelationKind as K;
        match (schema, name) {
            ("public", "orders" | "customers" | "items" | "ledger" | "Mixed Case" | "select") => {
                Some(K::Table)
            }
            ("public", "order_totals") => Some(K::View),
            ("public", "daily") => Some(K::MaterializedView),
            ("public", "remote") => Some(K::ForeignTable),
            ("public", "orders_2026") => Some(K::Partition),
            ("public", "orders_id_seq" | "hibernate_sequence") => Some(K::Sequence),
            ("public", "pg_stat_statements") => Some(K::View),
            ("sales", "orders" | "q1") => Some(K::Table),
            ("sales", "q1_id_seq") => Some(K::Sequence),
            ("pg_temp", "scratch" | "items") => Some(K::Table),
            ("pg_catalog", name) if name.starts_with("pg_") && name != "pg_stat_statements" => Some(K::View),
            ("information_schema", _) => Some(K::View),
            _ => None,
        }
    }

    fn functions(&self, schema: &str, name: &str) -> Cow<'_, [FunctionFacts]> {
        let facts = |procedure, volatile, arguments: (u16, u16), takes_row| {
            Cow::Owned(vec![FunctionFacts {
                procedure,
                volatile,
                security_definer: name == "as_owner",
                arguments_min: arguments.0,
                arguments_max: arguments.1,
                takes_row,
            }])
        };
        match (schema, name) {
            ("public", "tax" | "lower") => facts(false, false, (1, 1), false),
            ("public", "total" | "as_owner" | "audit") => facts(false, true, (0, u16::MAX), false),
            ("public", "secret" | "full_name") => facts(false, true, (1, 1), true),
            ("public", "close_books") => facts(true, true, (0, 2), false),
            ("public", "dblink" | "dblink_exec" | "crosstab") => facts(false, true, (1, 3), false),
            ("sales", "forecast") => facts(false, true, (1, 1), false),
            _ => OWN.get(&(schema, name)).map(|facts| Cow::Owned(vec![facts.clone()])).unwrap_or_default(),
        }
    }

    fn operators(&self, name: &str) -> Cow<'_, [OperatorFacts]> {
        let of = |schema: &str, function: &str| {
            Cow::Owned(vec![OperatorFacts {
                schema: schema.into(),
                function_schema: "public".into(),
                function: function.into(),
            }])
        };
        match name {
            "@@@" => of("public", "total"),
            "+" | "=" => of("sales", "tax"),
            _ => Cow::Borrowed(&[]),
        }
    }
}

fn script(sql: &str) -> Script {
    parse(sql, &Limits::default()).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// What all statements of a text need, in one line.
fn needs(sql: &str) -> String {
    let mut all = Vec::new();
    for statement in &script(sql).statements {
        match resolve(statement, &Shop, &["public"]) {
            Ok(needs) => all.extend(needs.needs.iter().map(describe)),
            Err(unknown) => return format!("refused: {}", unknown.why),
        }
    }
    if all.is_empty() { "nothing".to_owned() } else { all.join(", ") }
}

fn describe(need: &Need) -> String {
    match need.kind {
        ObjectKind::Catalog => format!("catalog {}", need.name),
        _ => need.to_string(),
    }
}

/// Checks a table of statements; all that differ are told together.
fn check(table: &[(&str, &str)]) {
    let wrong: Vec<String> = table
        .iter()
        .filter_map(|(sql, expected)| {
            let found = needs(sql);
            (found != *expected).then(|| format!("{sql}\n  expected: {expected}\n  found:    {found}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), table.len(), wrong.join("\n"));
}
