//! What the gateway itself has to say in a session: `SHOW doorward.…`, and the name under which the backend's logs
//! and views know it.
//!
//! Such a statement is decided and recorded as any other. In its place the backend is sent another one, made of
//! constants: so Describe, formats, portals and failed transactions are the backend's own, in both protocols.
//!
//! Invariants: a caller is told of its own session only; a text of a caller's enters a statement as a literal
//! (strings are read by `standard_conforming_strings = on`, which a session cannot change); the backend's
//! `application_name` begins with the caller's name, whatever the client sets.

use std::fmt::Write;

use doorward_core::calendar::date;
use doorward_core::{AccessId, Action, Actions, Case, Fault, SessionGrant, Timestamp};
use doorward_sql::{Kind, Shape};

use crate::codes;
use crate::correlate::Client;
use crate::desk::Desk;
use crate::settings::application_name;

/// The beginning of the gateway's own settings.
const PREFIX: &str = "doorward.";
/// What can be shown.
const SHOWN: [&str; 7] = ["identity", "grant", "role", "limits", "access", "version", "all"];
const APPLICATION_NAME: &str = "application_name";
const SECONDS_OF_A_DAY: i64 = 86_400;

/// `SHOW doorward.all` and `SHOW doorward.grant` as the grammar wants them: the names are its own words.
pub(crate) fn spelled(text: &str) -> Option<String> {
    let mut words = text.trim().trim_end_matches(';').split_ascii_whitespace();
    let (show, name, None) = (words.next()?, words.next()?, words.next()) else { return None };
    let name = name.to_ascii_lowercase();
    let name = name.strip_prefix(PREFIX).filter(|name| matches!(*name, "grant" | "all"))?;
    show.eq_ignore_ascii_case("show").then(|| format!("SHOW {PREFIX}\"{name}\""))
}

/// Refuses what would stand in the way of the gateway's own settings.
pub(crate) fn check(shape: &Shape) -> Result<(), Fault> {
    if let Kind::Show(name) = &shape.kind
        && let Some(name) = name.strip_prefix(PREFIX)
        && !SHOWN.contains(&name)
    {
        let known: Vec<String> = SHOWN.iter().map(|name| format!("{PREFIX}{name}")).collect();
        return Err(Fault::new(codes::SETTING, format!("there is no setting \"{PREFIX}{name}\""))
            .hint(format!("These can be shown: {}.", known.join(", "))));
    }
    for setting in &shape.settings {
        if setting.name.starts_with(PREFIX) {
            return Err(Fault::new(codes::SETTING, "settings of the gateway itself are shown, not set")
                .backend_code("42501")
                .hint("Choose another prefix for a setting of your own."));
        }
        if &*setting.name == APPLICATION_NAME && !matches!(shape.kind, Kind::Set) {
            return Err(Fault::new(codes::SETTING, "application_name is set by SET only")
                .backend_code("42501")
                .hint("Send: SET application_name = '…'"));
        }
    }
    Ok(())
}

/// The statement to send in place of this one, if there is one.
pub(crate) fn instead(desk: &Desk, shape: &Shape, access: Option<AccessId>) -> Option<String> {
    match &shape.kind {
        Kind::Show(name) => Some(table(desk, name.strip_prefix(PREFIX)?, access).sql()),
        Kind::Set => {
            let [setting] = shape.settings.as_slice() else { return None };
            if &*setting.name != APPLICATION_NAME {
                return None;
            }
            let local = if setting.local { "LOCAL " } else { "" };
            let mut sql = format!("SET {local}{APPLICATION_NAME} TO ");
            match setting.value.as_deref() {
                Some(value) => {
                    put_literal(&mut sql, &application_name(desk.session.principal(), Some(value)));
                }
                // The connection's own default names nobody.
                None => put_literal(&mut sql, &desk.application_name),
            }
            Some(sql)
        }
        _ => None,
    }
}

/// The question that gives a session its name again.
pub(crate) fn naming(desk: &Desk) -> String {
    let mut sql = format!("SELECT pg_catalog.set_config('{APPLICATION_NAME}', ");
    put_literal(&mut sql, &desk.application_name);
    sql.push_str(", false)");
    sql
}

/// The client under the name that the statement gives it, if it does.
pub(crate) fn renamed(shape: &Shape) -> Option<Client> {
    let setting = shape.settings.iter().find(|setting| &*setting.name == APPLICATION_NAME)?;
    Some(Client::new(setting.value.as_deref()))
}

/// Columns and rows of texts.
struct Table {
    columns: &'static [&'static str],
    rows: Vec<Vec<Option<String>>>,
}

fn table(desk: &Desk, name: &str, access: Option<AccessId>) -> Table {
    match name {
        "identity" => one(IDENTITY, identity(desk)),
        "grant" => grants(desk),
        "role" => one(&["role"], vec![Some(desk.role.to_string())]),
        "limits" => limits(desk),
        "access" => one(ACCESS, about_access(desk, access)),
        "version" => one(&["version"], vec![Some(version())]),
        _ => all(desk, access),
    }
}

const IDENTITY: &[&str] =
    &["principal", "email", "kind", "issuer", "client_id", "groups", "auth_method", "expires_at"];
const ACCESS: &[&str] = &["resource", "session_id", "access_id", "configuration"];

fn one(columns: &'static [&'static str], row: Vec<Option<String>>) -> Table {
    Table { columns, rows: vec![row] }
}

fn version() -> String {
    format!("doorward {}", env!("CARGO_PKG_VERSION"))
}

fn identity(desk: &Desk) -> Vec<Option<String>> {
    let principal = desk.session.principal();
    vec![
        Some(principal.subject.reveal().to_string()),
        principal.email.as_ref().map(|email| email.reveal().to_string()),
        Some(principal.kind.as_str().to_owned()),
        Some(principal.issuer.to_string()),
        principal.client_id.as_deref().map(str::to_owned),
        Some(principal.groups.join(", ")),
        Some(principal.auth_method.as_str().to_owned()),
        principal.expires_at.map(utc),
    ]
}

/// A time as RFC 3339 writes it, to the second.
fn utc(at: Timestamp) -> String {
    let (year, month, day) = date(at.seconds().div_euclid(SECONDS_OF_A_DAY));
    let rest = at.seconds().rem_euclid(SECONDS_OF_A_DAY);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3_600, rest / 60 % 60, rest % 60)
}

fn about_access(desk: &Desk, access: Option<AccessId>) -> Vec<Option<String>> {
    vec![
        Some(desk.resource.to_string()),
        Some(desk.session.id().to_string()),
        access.map(|id| id.to_string()),
        Some(desk.gateway.snapshot().digest.to_string()),
    ]
}

/// The grants of the session's caller and role, under today's configuration.
fn session_grants(desk: &Desk) -> Vec<SessionGrant> {
    let actions = Actions::one(Action::of_session(&desk.resource));
    let case = Case {
        principal: desk.session.principal(),
        actions: &actions,
        arrival: &desk.arrival,
        now: desk.gateway.now(),
        role: Some(&desk.role),
    };
    desk.gateway.snapshot().policy.session_grants(&case)
}

fn grants(desk: &Desk) -> Table {
    let row = |grant: SessionGrant| vec![Some(grant.name.to_string()), Some(grant.allow.join("; "))];
    Table { columns: &["grant", "allow"], rows: session_grants(desk).into_iter().map(row).collect() }
}

fn limits(desk: &Desk) -> Table {
    let row = |grant: SessionGrant| {
        let obligations = grant.obligations;
        vec![
            Some(grant.name.to_string()),
            grant.limit,
            grant.remaining.map(|left| left.to_string()),
            obligations.rows_max.map(|rows| rows.to_string()),
            obligations.bytes_max.map(|bytes| bytes.to_string()),
            obligations.timeout.map(|timeout| format!("{timeout:?}")),
        ]
    };
    Table {
        columns: &["grant", "limit", "left", "max_rows", "max_bytes", "timeout"],
        rows: session_grants(desk).into_iter().map(row).collect(),
    }
}

/// All of it, as SHOW ALL shows the server's.
fn all(desk: &Desk, access: Option<AccessId>) -> Table {
    let mut rows = Vec::new();
    let mut put = |name: String, setting: Option<String>| rows.push(vec![Some(name), setting]);
    for (name, columns, values) in
        [("identity", IDENTITY, identity(desk)), ("access", ACCESS, about_access(desk, access))]
    {
        for (column, value) in columns.iter().zip(values) {
            put(format!("{PREFIX}{name}.{column}"), value);
        }
    }
    put(format!("{PREFIX}role"), Some(desk.role.to_string()));
    for grant in session_grants(desk) {
        let limit = grant.limit.map(|limit| format!(" (limit {limit})")).unwrap_or_default();
        put(format!("{PREFIX}grant.{}", grant.name), Some(grant.allow.join("; ") + &limit));
    }
    put(format!("{PREFIX}version"), Some(version()));
    Table { columns: &["name", "setting"], rows }
}

impl Table {
    /// A statement whose answer it is.
    fn sql(&self) -> String {
        let mut sql = String::from("SELECT * FROM (VALUES ");
        let none = vec![None; self.columns.len()];
        let rows = if self.rows.is_empty() { std::slice::from_ref(&none) } else { &self.rows };
        for (index, row) in rows.iter().enumerate() {
            sql.push_str(if index == 0 { "(" } else { ", (" });
            for (index, value) in row.iter().enumerate() {
                if index > 0 {
                    sql.push_str(", ");
                }
                match value {
                    Some(value) => put_literal(&mut sql, value),
                    None => sql.push_str("NULL"),
                }
                sql.push_str("::pg_catalog.text");
            }
            sql.push(')');
        }
        let columns: Vec<String> = self.columns.iter().map(|column| format!("\"{column}\"")).collect();
        // The formatter of a String cannot fail.
        let _ = write!(sql, ") AS doorward({})", columns.join(", "));
        if self.rows.is_empty() {
            sql.push_str(" WHERE false");
        }
        sql
    }
}

/// Appends a literal, as it is read with `standard_conforming_strings = on`.
fn put_literal(sql: &mut String, text: &str) {
    sql.push('\'');
    for c in text.chars().filter(|c| *c != '\0') {
        if c == '\'' {
            sql.push('\'');
        }
        sql.push(c);
    }
    sql.push('\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_words_of_the_grammar_are_quoted() {
        assert_eq!(spelled(" show Doorward.ALL ; ").as_deref(), Some("SHOW doorward.\"all\""));
        for text in ["show all", "show doorward.all x", "show doorward.role", "select doorward.all", ""] {
            assert_eq!(spelled(text), None, "{text}");
        }
    }

    #[test]
    fn tables_are_statements_of_constants() {
        let table = one(&["a", "b"], vec![Some("it's \\ \0".to_owned()), None]);
        let wanted = "SELECT * FROM (VALUES ('it''s \\ '::pg_catalog.text, NULL::pg_catalog.text)) \
                      AS doorward(\"a\", \"b\")";
        assert_eq!(table.sql(), wanted);
        let none = Table { columns: &["a"], rows: Vec::new() };
        assert!(
            none.sql().ends_with("(NULL::pg_catalog.text)) AS doorward(\"a\") WHERE false"),
            "{}",
            none.sql()
        );
    }
}
