//! Whether a login that was made for a role is a member of that role and of nothing else.
//!
//! Whoever makes such logins (Vault's creation statements, for one) may have granted more than was meant, and
//! the catalogue that the gateway watches may be older than the login. So each session asks on its own
//! connection, before it belongs to anybody.
//!
//! Invariant: the question names everything with its schema, so that no search path changes the answer.

use doorward_core::Membership;
use serde_json::Value;

use crate::error::Failure;
use crate::frames::Malformed;

/// One row, one JSON object: what the login is a member of, and what it may do beyond any role.
pub(crate) const FACTS: &str = "
SELECT (pg_catalog.json_build_object(
'of', (SELECT coalesce(pg_catalog.json_agg(DISTINCT r.rolname), '[]'::pg_catalog.json)
  FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) m.roleid
  WHERE m.member OPERATOR(pg_catalog.=) l.oid),
'powers', l.rolsuper OR l.rolbypassrls OR l.rolreplication OR l.rolcreaterole OR l.rolcreatedb))::pg_catalog.text
FROM pg_catalog.pg_roles l WHERE l.rolname OPERATOR(pg_catalog.=) session_user";

/// Refuses a login that can become more than the role that it was made for.
pub(crate) fn judge(facts: &str, membership: &Membership) -> Result<(), Failure> {
    let facts: Value = serde_json::from_str(facts).map_err(|_| Malformed("no facts of the login"))?;
    let of = facts.get("of").and_then(Value::as_array).ok_or(Malformed("no memberships of the login"))?;
    let role = membership.of.as_str();
    let others: Vec<&str> = of.iter().filter_map(Value::as_str).filter(|name| *name != role).collect();
    if !others.is_empty() {
        return Err(Failure::Membership(format!("it is a member of {} too", others.join(", "))));
    }
    if of.is_empty() {
        return Err(Failure::Membership(format!("it is no member of {role}")));
    }
    // Absent means unknown: refused as well.
    if facts.get("powers").and_then(Value::as_bool) != Some(false) {
        return Err(Failure::Membership(
            "it is SUPERUSER, BYPASSRLS, REPLICATION, CREATEROLE or CREATEDB".to_owned(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use doorward_core::RoleName;

    use super::*;

    #[test]
    fn only_the_one_role_will_do() {
        let membership = Membership { of: RoleName::new("analyst"), set_role: true };
        let cases = [
            (r#"{"of":["analyst"],"powers":false}"#, None),
            (r#"{"of":["analyst","admin"],"powers":false}"#, Some("it is a member of admin too")),
            (r#"{"of":[],"powers":false}"#, Some("it is no member of analyst")),
            (r#"{"of":["analyst"],"powers":true}"#, Some("it is SUPERUSER")),
            (r#"{"of":["analyst"]}"#, Some("it is SUPERUSER")),
            (r#"{"powers":false}"#, Some("no memberships")),
            ("", Some("no facts")),
        ];
        for (facts, expected) in cases {
            let said = judge(facts, &membership).err().map(|failure| failure.to_string());
            match (&said, expected) {
                (None, None) => {}
                (Some(said), Some(part)) => assert!(said.contains(part), "{facts}: {said}"),
                other => panic!("{facts}: {other:?}"),
            }
        }
    }
}
