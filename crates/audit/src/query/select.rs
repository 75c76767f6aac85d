//! The SQL of a question, in the dialect of the store.
//!
//! Invariant: what a caller asks for is bound, never written into the SQL.

use uuid::Uuid;

use super::Filter;
use crate::columns::{COLUMNS, Type};
use crate::time::rfc3339;

/// The order of rows; the same in every store.
pub(super) const NEWEST_FIRST: &str = "ts DESC, gateway_id DESC, epoch DESC, seq DESC, action_index DESC";
/// The other way round.
pub(super) const OLDEST_FIRST: &str = "ts, gateway_id, epoch, seq, action_index";

/// Whose SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
}

/// A value that is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Bind {
    Int(i64),
    Text(String),
}

/// Conditions and their values.
#[derive(Debug)]
pub(super) struct Select {
    dialect: Dialect,
    conditions: Vec<String>,
    pub(super) binds: Vec<Bind>,
}

impl Select {
    /// The conditions of a filter.
    pub(super) fn of(dialect: Dialect, filter: &Filter) -> Self {
        let mut select = Self { dialect, conditions: Vec::new(), binds: Vec::new() };
        for (comparison, time) in [("ts >= ", filter.since), ("ts < ", filter.until)] {
            if let Some(time) = time {
                let place = match dialect {
                    Dialect::Sqlite => select.bind(Bind::Int(time.micros())),
                    Dialect::Postgres => select.bind(Bind::Text(rfc3339(time))),
                };
                select.conditions.push(format!("{comparison}{place}"));
            }
        }
        if let Some(access_id) = filter.access_id {
            select.equals("access_id", access_id.to_string());
        }
        for (column, value) in [
            ("resource", &filter.resource),
            ("verb", &filter.verb),
            ("outcome", &filter.outcome),
            ("door", &filter.door),
            ("source", &filter.source),
            ("class", &filter.class),
            ("grant", &filter.grant),
        ] {
            if let Some(value) = value {
                select.equals(column, value.clone());
            }
        }
        if let Some(principal) = &filter.principal {
            select.principal(principal, &filter.subject_ids);
        }
        select
    }

    /// One more condition, `column OPERATOR value`.
    pub(super) fn add(&mut self, comparison: &str, value: Bind) {
        let place = self.bind(value);
        self.conditions.push(format!("{comparison} {place}"));
    }

    /// The statement: the columns of a row, and what else is asked for.
    pub(super) fn sql(&self, more: &str, from: &str, order: &str, limit: Option<usize>) -> String {
        let columns: Vec<String> = COLUMNS.iter().map(|column| self.column(column.name, column.ty)).collect();
        let conditions = match self.conditions.is_empty() {
            true => String::new(),
            false => format!(" WHERE {}", self.conditions.join(" AND ")),
        };
        let limit = limit.map(|limit| format!(" LIMIT {limit}")).unwrap_or_default();
        format!("SELECT {}{more} FROM {from}{conditions} ORDER BY {order}{limit}", columns.join(", "))
    }

    fn column(&self, name: &str, ty: Type) -> String {
        match (self.dialect, ty) {
            (Dialect::Sqlite, Type::Hash) => {
                format!("CASE WHEN \"{name}\" IS NOT NULL THEN lower(hex(\"{name}\")) END")
            }
            (Dialect::Postgres, Type::Hash) => format!("encode(\"{name}\", 'hex')"),
            (Dialect::Postgres, Type::Time) => {
                format!("(extract(epoch FROM \"{name}\") * 1000000)::bigint")
            }
            _ => format!("\"{name}\""),
        }
    }

    fn equals(&mut self, column: &str, value: String) {
        let place = self.bind(Bind::Text(value));
        self.conditions.push(format!("\"{column}\" = {place}"));
    }

    fn principal(&mut self, principal: &str, subject_ids: &[Uuid]) {
        let mut either = Vec::new();
        for column in ["principal_subject", "principal_email", "client_id"] {
            let place = self.bind(Bind::Text(principal.to_owned()));
            either.push(format!("\"{column}\" = {place}"));
        }
        // A text that is no id would be an error to PostgreSQL.
        for id in Uuid::parse_str(principal).iter().chain(subject_ids) {
            let place = self.bind(Bind::Text(id.to_string()));
            either.push(format!("subject_id = {place}"));
        }
        self.conditions.push(format!("({})", either.join(" OR ")));
    }

    fn bind(&mut self, value: Bind) -> String {
        self.binds.push(value);
        match self.dialect {
            Dialect::Sqlite => format!("?{}", self.binds.len()),
            Dialect::Postgres => format!("${}", self.binds.len()),
        }
    }
}
