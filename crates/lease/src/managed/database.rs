//! What the administrative login does in the database, one short transaction each.
//!
//! Constraints: a password never crosses the wire, only its SCRAM verifier does, computed here; whatever is not a
//! value of a parameter is quoted; two gateways that do the same at once take turns by an advisory lock.
//!
//! Invariants: a login that is made is a member of the permitted role and of nothing else, and on PostgreSQL 16
//! and later cannot become it (`SET FALSE`) unless that is wanted; what the role's own settings are, the login's
//! are too; a login is dropped only when nobody is logged in with it, and what it owns goes to the role first.

use std::sync::Arc;
use std::time::Duration;

use doorward_core::Login;
use doorward_pgclient::Target;
use doorward_pgclient::blocking::{Client, ClientError, Options, Param};
use postgres_protocol::escape::{escape_identifier, escape_literal};
use postgres_protocol::password::scram_sha_256;

use super::name::{Comment, MARK, PREFIX};
use crate::source::SourceError;

/// The first version that knows memberships without SET.
const SET_OPTION_SINCE: i64 = 16;
/// How long connecting, and each statement, may take. Callers wait for it.
const SPAN_MAX: Duration = Duration::from_secs(5);
/// The most settings of a role that its logins take over.
const SETTINGS_MAX: usize = 64;
/// The most logins that are looked at in one go when those that nobody needs are removed.
const REAPED_MAX: i64 = 500;

/// What is asked before a login is made: `$1` role, `$2` seconds of its life.
const FACTS: &str = "
SELECT current_setting('server_version_num')::int / 10000, me.rolsuper, me.rolcreaterole, r.oid IS NOT NULL,
  r.oid IS NOT NULL AND (current_setting('server_version_num')::int < 160000
    OR pg_has_role(me.oid, r.oid, 'MEMBER WITH ADMIN OPTION')),
  to_char((now() + make_interval(secs => $2::float8)) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || '+00',
  extract(epoch FROM now())::bigint, current_database()::text,
  (SELECT count(*) FROM pg_roles o WHERE starts_with(o.rolname::text, $3)
    AND starts_with(shobj_description(o.oid, 'pg_authid'), $4)
    AND strpos(shobj_description(o.oid, 'pg_authid'), '\"db\":' || to_json(current_database()::text)::text) > 0)
FROM pg_roles me LEFT JOIN pg_roles r ON r.rolname = $1 WHERE me.rolname = session_user";
/// One login: whether it can log in, whether its time is over, its comment.
const ONE: &str = "
SELECT r.rolcanlogin, coalesce(r.rolvaliduntil <= now(), false), shobj_description(r.oid, 'pg_authid')
FROM pg_roles r WHERE r.rolname = $1";
/// Settings of a role, those for this database last.
const SETTINGS: &str = "
SELECT split_part(s.setting, '=', 1), substr(s.setting, strpos(s.setting, '=') + 1)
FROM pg_db_role_setting d CROSS JOIN LATERAL unnest(d.setconfig) AS s(setting)
WHERE d.setrole = (SELECT oid FROM pg_roles WHERE rolname = $1)
  AND d.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
ORDER BY d.setdatabase";
/// Logins whose time is over: name, comment, whether it may log in, whether that is `$1` seconds ago, whether anybody is
/// logged in with it.
const OVER: &str = "
SELECT r.rolname, shobj_description(r.oid, 'pg_authid'), r.rolcanlogin,
  r.rolvaliduntil <= now() - make_interval(secs => $1::float8),
  EXISTS (SELECT FROM pg_stat_activity a WHERE a.usesysid = r.oid)
FROM pg_roles r
WHERE starts_with(r.rolname::text, $2) AND r.rolvaliduntil <= now()
  AND starts_with(shobj_description(r.oid, 'pg_authid'), $3)
ORDER BY r.rolvaliduntil LIMIT $4::bigint";
/// Whether a role owns anything in this database, or has been granted anything in it.
const HOLDS: &str = "
SELECT EXISTS (SELECT FROM pg_shdepend s WHERE s.refclassid = 'pg_authid'::regclass
  AND s.refobjid = (SELECT oid FROM pg_roles WHERE rolname = $1)
  AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()))";
/// Ends the sessions of a role.
const TERMINATE: &str = "
SELECT count(pg_terminate_backend(a.pid)) FROM pg_stat_activity a
WHERE a.usesysid = (SELECT oid FROM pg_roles WHERE rolname = $1) AND a.pid <> pg_backend_pid()";

/// Where the database is, and as whom it is administered.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) target: Target,
    pub(super) admin: Arc<Login>,
    pub(super) superuser: bool,
}

/// A session of the administrative login.
pub(super) struct Admin {
    client: Client,
}

/// What is known before a login is made.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    version: i64,
    /// When a login that is made or renewed now ends: as PostgreSQL reads it, and in seconds.
    until: String,
    pub(super) now: i64,
    pub(super) database: String,
    pub(super) logins: i64,
}

/// One login as it stands in the database.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) may_log_in: bool,
    pub(super) over: bool,
    /// `None` when it is not ours.
    pub(super) comment: Option<Comment>,
}

/// A login whose time is over.
#[derive(Clone, Debug)]
pub(super) struct Over {
    pub(super) name: String,
    pub(super) comment: Comment,
    pub(super) may_log_in: bool,
    /// For longer than it is kept.
    pub(super) stale: bool,
    pub(super) in_use: bool,
}

impl Admin {
    /// Logs in. Blocks, like all here.
    pub(super) fn connect(place: &Place) -> Result<Self, SourceError> {
        let options = Options {
            application_name: "doorward: managed logins".into(),
            connect_timeout: SPAN_MAX,
            statement_timeout: SPAN_MAX,
            idle_timeout: SPAN_MAX,
            ..Options::default()
        };
        let client = Client::connect(&place.target, &place.admin, &options).map_err(failed)?;
        Ok(Self { client })
    }

    /// Does something in one transaction.
    pub(super) fn transaction<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, SourceError>,
    ) -> Result<T, SourceError> {
        self.client.begin().map_err(failed)?;
        let done = work(self).and_then(|done| self.client.commit().map(|()| done).map_err(failed));
        if done.is_err() {
            self.client.rollback();
        }
        done
    }

    /// Whoever does the same to this login waits until the transaction is over.
    pub(super) fn lock(&mut self, name: &str) -> Result<(), SourceError> {
        let sql = "SELECT pg_advisory_xact_lock(hashtextextended($1, 6))";
        self.client.query(sql, &[Param::Text(name)]).map(drop).map_err(failed)
    }

    /// Finds out whether logins of this role can be made, and until when one would be good.
    pub(super) fn facts(&mut self, place: &Place, role: &str, life: Duration) -> Result<Facts, SourceError> {
        let seconds = i64::try_from(life.as_secs()).unwrap_or(i64::MAX);
        let params = [Param::Text(role), Param::Int(seconds), Param::Text(PREFIX), Param::Text(MARK)];
        let reply = self.client.query(FACTS, &params).map_err(failed)?;
        let row =
            reply.first().ok_or_else(|| SourceError::Refused("the administrative login is gone".into()))?;
        let admin = &*place.admin.user;
        let is = |column: usize| row.bool(column).unwrap_or(false);
        let refused = |text: String| Err(SourceError::Refused(text));
        if is(1) && !place.superuser {
            return refused(format!(
                "the administrative login {admin} is SUPERUSER; it needs CREATEROLE only (or set dangerous_superuser: true)"
            ));
        }
        if !is(1) && !is(2) {
            return refused(format!(
                "the administrative login {admin} is not CREATEROLE: ALTER ROLE {admin} CREATEROLE"
            ));
        }
        if !is(3) {
            return refused(format!("the database has no role {role}"));
        }
        if !is(4) {
            return refused(format!(
                "the administrative login may not grant {role}: \
                 GRANT {} TO {} WITH ADMIN OPTION, INHERIT FALSE, SET FALSE",
                escape_identifier(role),
                escape_identifier(admin),
            ));
        }
        Ok(Facts {
            version: row.int(0).unwrap_or(0),
            until: row.text(5).unwrap_or_default().to_owned(),
            now: row.int(6).unwrap_or(0),
            database: row.text(7).unwrap_or_default().to_owned(),
            logins: row.int(8).unwrap_or(i64::MAX),
        })
    }

    /// What there is under this name.
    pub(super) fn find(&mut self, name: &str) -> Result<Option<Known>, SourceError> {
        let reply = self.client.query(ONE, &[Param::Text(name)]).map_err(failed)?;
        Ok(reply.first().map(|row| Known {
            may_log_in: row.bool(0).unwrap_or(false),
            over: row.bool(1).unwrap_or(true),
            comment: row.text(2).and_then(Comment::read),
        }))
    }

    /// Makes a login, which cannot log in yet.
    pub(super) fn create(&mut self, name: &str) -> Result<(), SourceError> {
        self.run(&format!("CREATE ROLE {} NOLOGIN INHERIT", escape_identifier(name)))
    }

    /// Makes a login a member of its role, and gives it the role's own settings.
    pub(super) fn attach(
        &mut self,
        name: &str,
        role: &str,
        facts: &Facts,
        set: bool,
    ) -> Result<(), SourceError> {
        let (name, quoted_role) = (escape_identifier(name), escape_identifier(role));
        let options = match (facts.version >= SET_OPTION_SINCE, set) {
            (true, true) => " WITH INHERIT TRUE, SET TRUE",
            (true, false) => " WITH INHERIT TRUE, SET FALSE",
            (false, _) => "",
        };
        self.run(&format!("GRANT {quoted_role} TO {name}{options}; ALTER ROLE {name} RESET ALL"))?;
        let settings: Vec<(String, String)> = {
            let reply = self.client.query(SETTINGS, &[Param::Text(role)]).map_err(failed)?;
            let pairs = reply.rows().map(|row| {
                (row.text(0).unwrap_or_default().to_owned(), row.text(1).unwrap_or_default().to_owned())
            });
            pairs.take(SETTINGS_MAX + 1).collect()
        };
        if settings.len() > SETTINGS_MAX {
            return Err(SourceError::Refused(format!(
                "the role {role} has more than {SETTINGS_MAX} settings"
            )));
        }
        for (setting, value) in settings {
            self.copy_setting(&name, role, &setting, &value)?;
        }
        Ok(())
    }

    /// A setting's value is taken over as the server itself has read it, for the rest of the transaction.
    fn copy_setting(
        &mut self,
        name: &str,
        role: &str,
        setting: &str,
        value: &str,
    ) -> Result<(), SourceError> {
        if matches!(setting, "role" | "session_authorization") {
            return Err(SourceError::Refused(format!(
                "the role {role} sets `{setting}`: ALTER ROLE … RESET {setting}"
            )));
        }
        let set = "SELECT set_config($1, $2, true)";
        let quoted: Vec<String> = setting.split('.').map(escape_identifier).collect();
        let copied = self.client.query(set, &[Param::Text(setting), Param::Text(value)]).and_then(|_| {
            self.client.batch(&format!("ALTER ROLE {name} SET {} FROM CURRENT", quoted.join(".")))
        });
        copied.map_err(|error| match failed(error) {
            SourceError::Refused(why) => SourceError::Refused(format!(
                "the role {role} sets `{setting}`, and the administrative login cannot give that to its logins \
                 (PostgreSQL 15 and later: GRANT SET ON PARAMETER {setting}): {why}"
            )),
            away => away,
        })
    }

    /// Lets a login log in with this password, until its end. Without one its password stays.
    pub(super) fn open(
        &mut self,
        name: &str,
        password: Option<&str>,
        facts: &Facts,
    ) -> Result<(), SourceError> {
        let password = password.map_or_else(String::new, |password| {
            format!(" PASSWORD {}", escape_literal(&scram_sha_256(password.as_bytes())))
        });
        let (name, until) = (escape_identifier(name), escape_literal(&facts.until));
        self.run(&format!("ALTER ROLE {name} LOGIN{password} VALID UNTIL {until}"))
    }

    /// Says whose a login is.
    pub(super) fn comment(&mut self, name: &str, comment: &Comment) -> Result<(), SourceError> {
        let text = escape_literal(&comment.text());
        self.run(&format!("COMMENT ON ROLE {} IS {text}", escape_identifier(name)))
    }

    /// Nobody logs in with it any more.
    pub(super) fn close(&mut self, name: &str) -> Result<(), SourceError> {
        self.run(&format!("ALTER ROLE {} NOLOGIN PASSWORD NULL", escape_identifier(name)))
    }

    /// Ends its sessions. In a transaction of its own, which is undone: to end a session one must be its role,
    /// and nobody else shall see that the administrative login was.
    pub(super) fn terminate(&mut self, name: &str) -> Result<i64, SourceError> {
        self.client.begin().map_err(failed)?;
        let quoted = escape_identifier(name);
        let ended = self
            .client
            .batch(&format!("GRANT {quoted} TO CURRENT_USER; SET LOCAL ROLE {quoted}"))
            .and_then(|()| self.client.query(TERMINATE, &[Param::Text(name)]));
        let ended = ended.map(|reply| reply.first().and_then(|row| row.int(0)).unwrap_or(0));
        self.client.rollback();
        ended.map_err(failed)
    }

    /// Removes a login. What it owns in this database goes to its role.
    pub(super) fn drop_role(&mut self, name: &str, role: &str) -> Result<(), SourceError> {
        let holds = self.client.query(HOLDS, &[Param::Text(name)]).map_err(failed)?;
        let holds = holds.first().and_then(|row| row.bool(0)).unwrap_or(true);
        let (name, role) = (escape_identifier(name), escape_identifier(role));
        if holds {
            // As the login itself, which has the role's rights: the administrative login need not have them.
            self.run(&format!(
                "GRANT {name} TO CURRENT_USER; SET LOCAL ROLE {name}; REASSIGN OWNED BY {name} TO {role}; \
                 DROP OWNED BY {name}; RESET ROLE"
            ))?;
        }
        self.run(&format!("DROP ROLE {name}"))
    }

    /// Logins of this database whose time is over.
    pub(super) fn over(&mut self, keep: Duration, database: &str) -> Result<Vec<Over>, SourceError> {
        let seconds = i64::try_from(keep.as_secs()).unwrap_or(i64::MAX);
        let params = [Param::Int(seconds), Param::Text(PREFIX), Param::Text(MARK), Param::Int(REAPED_MAX)];
        let reply = self.client.query(OVER, &params).map_err(failed)?;
        let over = reply.rows().filter_map(|row| {
            let comment = Comment::read(row.text(1)?)?;
            let is = |column: usize, unknown: bool| row.bool(column).unwrap_or(unknown);
            let name = row.text(0)?.to_owned();
            (comment.database == database).then(|| Over {
                name,
                comment,
                may_log_in: is(2, true),
                stale: is(3, false),
                in_use: is(4, true),
            })
        });
        Ok(over.collect())
    }

    /// The database's name, as it knows itself.
    pub(super) fn database(&mut self) -> Result<String, SourceError> {
        let reply = self.client.query("SELECT current_database()::text", &[]).map_err(failed)?;
        Ok(reply.first().and_then(|row| row.text(0)).unwrap_or_default().to_owned())
    }

    fn run(&mut self, sql: &str) -> Result<(), SourceError> {
        self.client.batch(sql).map_err(failed)
    }
}

/// Whether the server may say otherwise the next time.
fn failed(error: ClientError) -> SourceError {
    let passing = match &error {
        ClientError::Login(_) | ClientError::Unsendable(_) | ClientError::TooLarge(_) => false,
        ClientError::Server(server) => {
            // Out of resources, ended by an operator, in the way of another transaction; `XX000` is what two
            // changes of one role at once are called.
            ["53", "57", "40", "55"].iter().any(|class| server.sqlstate.starts_with(class))
                || &*server.sqlstate == "XX000"
        }
        _ => true,
    };
    let text = format!("the database's administration: {error}");
    if passing { SourceError::Away(text) } else { SourceError::Refused(text) }
}
