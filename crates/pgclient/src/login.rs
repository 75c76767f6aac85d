//! What the gateway's own login may do, and whether that is little enough.

use doorward_core::Fault;
use serde_json::Value;

use crate::codes;
use crate::conn::{Ask, Conn};
use crate::error::Failure;
use crate::pool::Pool;
use crate::request::{Reply, Request};

/// The oldest and the newest major version that is accepted.
const VERSION_MIN: u32 = 13;
const VERSION_MAX: u32 = 18;
/// The most bytes that an answer to the gateway itself may have.
const OWN_ANSWER_MAX: u64 = 256 << 20;

/// One row, one JSON object. A role that the login can become counts on PostgreSQL 16 and later only if
/// the membership was granted WITH SET.
const FACTS: &str = "
SELECT json_build_object(
  'version', current_setting('server_version_num')::int / 10000,
  'superuser', r.rolsuper, 'bypass_rls', r.rolbypassrls, 'replication', r.rolreplication,
  'inherit', r.rolinherit,
  'owned', (SELECT json_agg(n.nspname || '.' || c.relname ORDER BY 1)
            FROM (SELECT * FROM pg_catalog.pg_class
                  WHERE relowner = r.oid AND relkind IN ('r', 'p', 'v', 'm', 'f') LIMIT 1000) c
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = ANY ($1::text[])),
  'roles', (SELECT json_agg(json_build_object('name', m.rolname, 'superuser', m.rolsuper,
                                              'bypass_rls', m.rolbypassrls) ORDER BY m.rolname)
            FROM pg_catalog.pg_roles m
            WHERE m.oid <> r.oid AND pg_catalog.pg_has_role(r.oid, m.oid,
              CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END)))::text
FROM pg_catalog.pg_roles r WHERE r.rolname = session_user";

/// What a login check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginFacts {
    /// The server's major version.
    pub version: u32,
    /// The roles that the login can act as.
    pub roles: Vec<Box<str>>,
    /// What the operator should know, in words.
    pub warnings: Vec<String>,
}

impl LoginFacts {
    /// Whether the login can act as this role.
    pub fn can_become(&self, role: &str) -> bool {
        self.roles.iter().any(|name| &**name == role)
    }
}

impl Pool {
    /// Logs in and finds out what the login may do. A login that is SUPERUSER, BYPASSRLS or REPLICATION,
    /// or that owns relations of the exposed schemas, is refused unless `dangerous_superuser`; so is
    /// a server of a version that is not known.
    pub async fn check_login(
        &self,
        schemas: &[&str],
        dangerous_superuser: bool,
    ) -> Result<LoginFacts, Fault> {
        let mut conn = self.own_connection().await?;
        let array = text_array(schemas);
        let text = ask_json(&mut conn, FACTS, &[Some(array.as_bytes())]).await.map_err(not_checked)?;
        let facts: Value = serde_json::from_str(&text).map_err(not_checked)?;
        judge(&facts, dangerous_superuser)
    }
}

fn judge(facts: &Value, dangerous_superuser: bool) -> Result<LoginFacts, Fault> {
    let is = |key: &str| facts.get(key).and_then(Value::as_bool).unwrap_or(true);
    let list = |key: &str| facts.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let version =
        facts.get("version").and_then(Value::as_u64).and_then(|v| u32::try_from(v).ok()).unwrap_or(0);
    if !(VERSION_MIN..=VERSION_MAX).contains(&version) {
        return Err(Fault::new(
            codes::LOGIN_REFUSED,
            format!("PostgreSQL {version} is not supported; {VERSION_MIN} to {VERSION_MAX} are"),
        ));
    }
    let mut powers: Vec<String> =
        [("superuser", "SUPERUSER"), ("bypass_rls", "BYPASSRLS"), ("replication", "REPLICATION")]
            .into_iter()
            .filter(|(key, _)| is(key))
            .map(|(_, name)| format!("is {name}"))
            .collect();
    if let Some(first) = list("owned").first().and_then(Value::as_str) {
        powers.push(format!("owns what it serves ({first})"));
    }
    let mut warnings = Vec::new();
    if !powers.is_empty() {
        let what = format!("the database login {}", powers.join(" and "));
        if !dangerous_superuser {
            return Err(Fault::new(codes::LOGIN_REFUSED, what).hint(
                "Use a login that is NOINHERIT, owns nothing and is a member of the roles that grants name; \
                 or set `dangerous_superuser: true` on the resource.",
            ));
        }
        warnings.push(what);
    }
    if is("inherit") {
        warnings
            .push("the database login is INHERIT: it holds its roles' rights even without a grant".into());
    }
    let mut roles = Vec::new();
    for role in list("roles") {
        let Some(name) = role.get("name").and_then(Value::as_str) else { continue };
        let power = |key: &str| role.get(key).and_then(Value::as_bool).unwrap_or(false);
        if power("superuser") || power("bypass_rls") {
            warnings.push(format!(
                "the database login can become {name}, which is not bound by row-level security"
            ));
        }
        roles.push(name.into());
    }
    Ok(LoginFacts { version, roles, warnings })
}

/// Asks for the one value of one row, on a connection of the gateway's own.
pub(crate) async fn ask_json(
    conn: &mut Conn,
    sql: &str,
    params: &[Option<&[u8]>],
) -> Result<String, Failure> {
    let request = Request { read_only: true, sql, params, ..Request::default() };
    // The search path is pinned, so that no object of the database can stand in for the system's.
    let own =
        [("transaction_read_only", "on"), ("search_path", "pg_catalog"), ("statement_timeout", "60000")];
    let ask = Ask { request: &request, own: &own, bytes_max: OWN_ANSWER_MAX, discard: false };
    let reply: Reply = conn.exchange(&ask).await?;
    Ok(reply.first().and_then(|row| row.text(0).map(str::to_owned)).unwrap_or_default())
}

/// A PostgreSQL array in text form.
pub(crate) fn text_array(items: &[&str]) -> String {
    let quoted: Vec<String> =
        items.iter().map(|item| format!("\"{}\"", item.replace('\\', "\\\\").replace('"', "\\\""))).collect();
    format!("{{{}}}", quoted.join(","))
}

fn not_checked(cause: impl std::fmt::Display) -> Fault {
    Fault::new(codes::LOGIN_REFUSED, "the database login could not be checked").cause(cause)
}
