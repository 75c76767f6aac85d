//! What the store's tables must be, and whether they are.

use doorward_pgclient::blocking::{Client, Param};

use super::StoreError;
use super::migrate::{VERSION, edition};
use crate::columns::{COLUMNS, Column, Type};

/// The most differences that are told.
const TOLD_MAX: usize = 12;

/// What is written beside records: table, and its columns as `name type`.
const OTHERS: &[(&str, &[&str])] = &[
    ("high_water", &["gateway_id text", "epoch bigint", "last_seq bigint", "next_leaf bigint"]),
    (
        "open_intent",
        &["gateway_id text", "epoch bigint", "seq bigint", "access_id uuid", "payload bytea", "columns text"],
    ),
    (
        "audit_gap",
        &[
            "from_us bigint",
            "until_us bigint",
            "gateway_id text",
            "epoch bigint",
            "seq bigint",
            "lost bigint",
            "reason text",
            "log_index bigint",
            "leaf_hash bytea",
        ],
    ),
    (
        "dead_letter",
        &[
            "gateway_id text",
            "epoch bigint",
            "seq bigint",
            "access_id uuid",
            "log_index bigint",
            "leaf_hash bytea",
            "reason text",
            "payload text",
            "created_at timestamp with time zone",
        ],
    ),
    (
        "log_note",
        &["gateway_id text", "epoch bigint", "log_index bigint", "kind text", "body text", "leaf_hash bytea"],
    ),
    ("checkpoint", &["gateway_id text", "epoch bigint", "size bigint", "signed_us bigint", "note text"]),
    ("log_tile", &["gateway_id text", "epoch bigint", "tile bigint", "hashes bytea"]),
];

/// A column's type, as the catalogue spells it. Personal values are text, because sealed ones are no JSON.
pub(super) const fn type_name(column: &Column) -> &'static str {
    match column.ty {
        Type::Time => "timestamp with time zone",
        Type::Int => "bigint",
        Type::Json if !column.personal => "json",
        Type::Text | Type::Json => "text",
        Type::Uuid => "uuid",
        Type::Hash => "bytea",
    }
}

/// Checks version, columns, types and privileges; says what differs, and what to do.
pub(super) fn check(client: &mut Client) -> Result<(), StoreError> {
    let version = version(client)?;
    if version < VERSION {
        return Err(StoreError::Schema(match version {
            0 => "there is no schema `doorward`; run `doorward store migrate`".to_owned(),
            old => {
                format!("it is version {old}, and version {VERSION} is needed; run `doorward store migrate`")
            }
        }));
    }
    let mut differences = Vec::new();
    let ours: Vec<String> =
        COLUMNS.iter().map(|column| format!("{} {}", column.name, type_name(column))).collect();
    compare(client, "access_event", &ours, &mut differences)?;
    for (table, columns) in OTHERS {
        let columns: Vec<String> = columns.iter().map(|column| (*column).to_owned()).collect();
        compare(client, table, &columns, &mut differences)?;
    }
    if !differences.is_empty() {
        differences.truncate(TOLD_MAX);
        return Err(StoreError::Schema(differences.join("; ")));
    }
    may_insert(client)
}

/// The schema's version; 0 when there is none.
pub(super) fn version(client: &mut Client) -> Result<u32, StoreError> {
    let there = "SELECT EXISTS (SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE n.nspname = 'doorward' AND c.relname = 'schema_version')";
    if client.query(there, &[])?.first().and_then(|row| row.bool(0)) != Some(true) {
        return Ok(0);
    }
    let reply = client.query("SELECT max(version) FROM doorward.schema_version", &[])?;
    let version = reply.first().and_then(|row| row.int(0)).unwrap_or(0);
    Ok(u32::try_from(version).unwrap_or(0))
}

/// Compares a table with what it should be; a column has neither another name nor another type, and there
/// is none that this program would leave empty.
fn compare(
    client: &mut Client,
    table: &str,
    wanted: &[String],
    differences: &mut Vec<String>,
) -> Result<(), StoreError> {
    let reply = client.query(
        "SELECT a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
         FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = 'doorward' AND c.relname = $1 AND a.attnum > 0 AND NOT a.attisdropped",
        &[Param::Text(table)],
    )?;
    let found: Vec<&str> = reply.rows().filter_map(|row| row.text(0)).collect();
    if found.is_empty() {
        differences.push(format!("the table doorward.{table} is missing"));
        return Ok(());
    }
    let name = |column: &str| column.split(' ').next().unwrap_or_default().to_owned();
    for wanted in wanted.iter().filter(|wanted| !found.contains(&wanted.as_str())) {
        let told = match found.iter().find(|found| name(found) == name(wanted)) {
            Some(found) => format!("doorward.{table} has {found} and not {wanted}"),
            None => format!("doorward.{table} has no {wanted}"),
        };
        differences.push(told);
    }
    for found in found.iter().filter(|found| !wanted.iter().any(|wanted| name(wanted) == name(found))) {
        differences.push(format!("doorward.{table} has {found}, which this version does not know"));
    }
    Ok(())
}

fn may_insert(client: &mut Client) -> Result<(), StoreError> {
    let reply = client.query(
        "SELECT session_user, has_table_privilege('doorward.access_event', 'INSERT')
                AND has_table_privilege('doorward.high_water', 'INSERT')",
        &[],
    )?;
    let row = reply.first();
    let user = row.and_then(|row| row.text(0)).unwrap_or("the login");
    match row.and_then(|row| row.bool(1)) {
        Some(true) => Ok(()),
        _ => Err(StoreError::Schema(format!(
            "{user} may not write to it; run `doorward store migrate`, or GRANT doorward_writer TO {user}"
        ))),
    }
}

/// What a store is, for those who look after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreFacts {
    /// The server's version, as it spells it.
    pub server: String,
    /// What keeps time series there.
    pub edition: super::Edition,
    /// The schema's version; 0 when there is none.
    pub schema_version: u32,
    /// What the login should not be able to do.
    pub powers: Vec<&'static str>,
    /// Microseconds by which the server's clock is ahead of ours.
    pub clock_ahead_us: i64,
}

/// What each power is, as a question to the server.
const POWERS: &[(&str, &str)] = &[
    ("SUPERUSER", "(SELECT rolsuper FROM pg_roles WHERE rolname = session_user)"),
    ("member of doorward_owner", "pg_has_role(session_user, 'doorward_owner', 'MEMBER')"),
    ("may change records", "has_table_privilege('doorward.access_event', 'UPDATE, DELETE, TRUNCATE')"),
    ("may read records past the views", "has_table_privilege('doorward.access_event', 'SELECT')"),
];

/// Finds out about a store by its writer's login.
pub(super) fn facts(client: &mut Client, now_us: impl Fn() -> i64) -> Result<StoreFacts, StoreError> {
    let (before, reply) = (
        now_us(),
        client.query(
            "SELECT current_setting('server_version'), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
            &[],
        )?,
    );
    let middle = before.midpoint(now_us());
    let row = reply.first();
    let server = row.and_then(|row| row.text(0)).unwrap_or("?").to_owned();
    let clock = row.and_then(|row| row.int(1)).unwrap_or(middle);
    let schema_version = version(client)?;
    let mut powers = Vec::new();
    if schema_version > 0 {
        for (power, question) in POWERS {
            let reply = client.query(&format!("SELECT {question}"), &[])?;
            if reply.first().and_then(|row| row.bool(0)) == Some(true) {
                powers.push(*power);
            }
        }
    }
    let edition = edition(client)?;
    Ok(StoreFacts { server, edition, schema_version, powers, clock_ahead_us: clock.saturating_sub(middle) })
}
