//! Creates and upgrades the store's schema: roles, tables, rights, views.
//!
//! Constraints: run by an administrator, never by the gateway; one run at a time (an advisory lock); each
//! version in a transaction of its own, with its number; what has been run once is never changed in this
//! file, only added to. Running it again changes nothing.

use std::fmt;
use std::time::Duration;

use doorward_core::Login;
use doorward_pgclient::Target;
use doorward_pgclient::blocking::{Client, ClientError, Options, Param};
use postgres_protocol::password::scram_sha_256;

use super::{StoreError, schema};
use crate::config::Retention;
use crate::retention::postgres as retention;
use crate::rollup::postgres as rollup;

/// The schema's versions, oldest first.
const VERSIONS: &[(&str, &str)] = &[
    ("tables, writers", include_str!("sql/0001_tables.sql")),
    ("housekeeping", include_str!("sql/0002_housekeeping.sql")),
    ("views, readers", include_str!("sql/0003_views.sql")),
    ("releasing holds, removing by size", include_str!("sql/0004_releasing.sql")),
];
/// The version that this program reads and writes.
pub const VERSION: u32 = VERSIONS.len() as u32;

/// The key of the advisory lock that one run at a time holds.
const LOCK: i64 = 0x446f_6f72_7761_7264;
/// How long a step may take, waiting for another run included.
const STEP_TIMEOUT: Duration = Duration::from_secs(600);
/// Roles are the whole cluster's; two changes of one role at a time fail, and are tried again.
const ROLE_TRIES: u32 = 10;
/// The most hash partitions; more chunks make every plan slower.
pub const HASH_PARTITIONS_MAX: u16 = 16;
/// Records older than this are put in columns, where the edition has them.
const COLUMNSTORE_AFTER: &str = "2 days";

/// TimescaleDB runs jobs only for an owner that may log in. This one has no password, and no connection but those of
/// background workers, which are not counted.
const JOBS_OWNER: &str = "ALTER ROLE doorward_owner LOGIN PASSWORD NULL CONNECTION LIMIT 0";
/// Whether a reader may see a row of a rollup. Groups are no dimension, so a reader of one group sees none.
const VISIBLE: &str =
    "((SELECT EXISTS (SELECT 1 FROM doorward.own_scope WHERE environment = '*' AND \"group\" = '*'))
    OR environment = ANY (ARRAY(SELECT environment FROM doorward.own_scope WHERE \"group\" = '*')))";

/// Adds a scope; unless it may widen what a reader sees, only to a reader that has none.
fn scope_sql(reader: &Grantee, scope: &Scope, widen: bool) -> String {
    let role = literal(&reader.user);
    let only = if widen {
        String::new()
    } else {
        format!(" WHERE NOT EXISTS (SELECT 1 FROM doorward.reader_scope WHERE role = {role})")
    };
    format!(
        "SET LOCAL ROLE doorward_owner; INSERT INTO doorward.reader_scope SELECT {role}, {}, {}{only} ON CONFLICT DO NOTHING",
        literal(&scope.environment),
        literal(&scope.group)
    )
}

/// What keeps time series in a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edition {
    /// PostgreSQL alone: partitions by day.
    Plain,
    /// TimescaleDB, Apache edition: a hypertable.
    Apache(String),
    /// TimescaleDB, community edition (TSL): a hypertable, columnstore and continuous aggregates.
    Community(String),
}

impl fmt::Display for Edition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain => f.write_str("PostgreSQL without TimescaleDB"),
            Self::Apache(version) => write!(f, "TimescaleDB {version}, Apache edition"),
            Self::Community(version) => write!(f, "TimescaleDB {version}, community edition"),
        }
    }
}

/// What a migration is to do beside bringing the schema up to date.
#[derive(Debug, Default)]
pub struct Migration {
    /// Stops after this version.
    pub to: Option<u32>,
    /// Splits each day by a hash of the endpoint into so many chunks, when the hypertable is made.
    pub hash_partitions: Option<u16>,
    /// Uses partitions even where TimescaleDB could be used.
    pub plain: bool,
    /// How long each class of records is kept: gateways cannot remove what is younger.
    pub retention: Option<Retention>,
    /// Logins that become writers.
    pub writers: Vec<Grantee>,
    /// Logins that become readers, with what they may see.
    pub readers: Vec<(Grantee, Scope)>,
    /// Adds the readers' scopes to those that they have; otherwise only a reader without any gets one.
    pub widen: bool,
}

/// A database login that is granted something; made if it is missing and a password is there.
#[derive(Debug)]
pub struct Grantee {
    /// Its name.
    pub user: Box<str>,
    /// The login with the password that it gets if it has to be made.
    pub login: Option<std::sync::Arc<Login>>,
}

/// What a reader may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// An environment, or `*`.
    pub environment: String,
    /// A group of principals, or `*`.
    pub group: String,
}

impl Default for Scope {
    fn default() -> Self {
        Self { environment: "*".to_owned(), group: "*".to_owned() }
    }
}

/// One step of a migration.
#[derive(Debug)]
pub struct Step {
    /// What it is, in a few words.
    pub title: String,
    /// What is run, in one transaction.
    pub sql: String,
    /// The version that it brings the schema to.
    pub version: Option<u32>,
    /// Statements to run by themselves after that, outside of a transaction.
    pub afterwards: Vec<String>,
}

impl Step {
    fn new(title: impl Into<String>, sql: impl Into<String>) -> Self {
        Self { title: title.into(), sql: sql.into(), version: None, afterwards: Vec::new() }
    }
}

/// A connection of the administrator.
pub struct Migrator {
    client: Client,
    locked: bool,
}

impl Migrator {
    /// Connects. Blocks.
    pub fn connect(target: &Target, login: &std::sync::Arc<Login>) -> Result<Self, StoreError> {
        let options = Options {
            application_name: "doorward store migrate".into(),
            statement_timeout: STEP_TIMEOUT,
            idle_timeout: STEP_TIMEOUT,
            ..Options::default()
        };
        Ok(Self { client: Client::connect(target, login, &options)?, locked: false })
    }

    /// The edition in use.
    pub fn edition(&mut self) -> Result<Edition, StoreError> {
        edition(&mut self.client)
    }

    /// The schema's version; 0 when there is none.
    pub fn version(&mut self) -> Result<u32, StoreError> {
        schema::version(&mut self.client)
    }

    /// Keeps other migrations out until this value is dropped, if none runs now.
    pub fn try_lock(&mut self) -> Result<bool, StoreError> {
        let rows = self.client.query("SELECT pg_try_advisory_lock($1)", &[Param::Int(LOCK)])?;
        self.locked = rows.first().and_then(|row| row.bool(0)) == Some(true);
        Ok(self.locked)
    }

    /// Waits until no other migration runs, and keeps others out until this value is dropped.
    pub fn lock(&mut self) -> Result<(), StoreError> {
        self.client.query("SELECT pg_advisory_lock($1)", &[Param::Int(LOCK)])?;
        self.locked = true;
        Ok(())
    }

    /// The step that is run before a plan is made: TimescaleDB's extension, where the server has loaded it and no
    /// layout is chosen yet. Only with it does the server say which edition it is.
    pub fn extension(&mut self, migration: &Migration) -> Result<Option<Step>, StoreError> {
        let from = self.version()?;
        Ok(self.layout(from, migration)?.create_extension.then(extension_step))
    }

    /// What has to be run, in order. Reads only.
    pub fn plan(&mut self, migration: &Migration) -> Result<Vec<Step>, StoreError> {
        let from = self.version()?;
        let to = migration.to.unwrap_or(VERSION).min(VERSION);
        if from > VERSION {
            return Err(StoreError::Schema(format!(
                "it is version {from}, newer than this program's {VERSION}; use the newer doorward"
            )));
        }
        let layout = self.layout(from, migration)?;
        let mut steps = vec![Step::new("roles and schemas", roles())];
        if from == 0 && layout.create_extension {
            steps.push(extension_step());
        }
        for (version, (title, sql)) in (1u32..).zip(VERSIONS) {
            if version > from && version <= to {
                let title = format!("version {version}: {title}");
                let sql = layout.version(version, sql, migration.hash_partitions);
                steps.push(Step { version: Some(version), ..Step::new(title, sql) });
            }
        }
        if to >= 2 {
            steps.push(Step::new("partitions of the next days", "SELECT doorward.maintain()"));
        }
        if layout.community() {
            steps.push(Step::new("owner of background jobs", JOBS_OWNER));
        }
        if to >= 3 {
            let usual = Retention::default();
            steps.extend(layout.analysis(migration.retention.as_ref().unwrap_or(&usual)));
            if let Some(keep) = &migration.retention {
                let sql = format!("SET LOCAL ROLE doorward_owner; {}", retention::bounds(keep));
                steps.push(Step::new("bounds of retention", sql));
            }
        }
        if let Some(sql) = layout.columnstore() {
            steps.push(Step::new("columnstore", sql));
        }
        for writer in &migration.writers {
            steps.push(self.grant(writer, "doorward_writer", "")?);
        }
        for (reader, scope) in &migration.readers {
            let scope = if to >= 3 { scope_sql(reader, scope, migration.widen) } else { String::new() };
            steps.push(self.grant(reader, "doorward_reader", &scope)?);
        }
        Ok(steps)
    }

    /// What makes an existing role a reader, and adds a scope to what it sees.
    pub fn admit(&mut self, reader: &Grantee, scope: &Scope) -> Result<Vec<Step>, StoreError> {
        if self.version()? < VERSION {
            return Err(StoreError::Schema("it is out of date; run `doorward store migrate`".to_owned()));
        }
        Ok(vec![self.grant(reader, "doorward_reader", &scope_sql(reader, scope, true))?])
    }

    /// Runs one step, in a transaction.
    pub fn run(&mut self, step: &Step) -> Result<(), StoreError> {
        for _ in 1..ROLE_TRIES {
            match self.run_once(step) {
                Err(StoreError::Postgres(error)) if is_role_race(&error) => {
                    std::thread::park_timeout(Duration::from_millis(50));
                }
                done => return done,
            }
        }
        self.run_once(step)
    }

    fn run_once(&mut self, step: &Step) -> Result<(), StoreError> {
        self.client.transaction(|client| {
            client.batch(&step.sql)?;
            if let Some(version) = step.version {
                let sql = "INSERT INTO doorward.schema_version (version) VALUES ($1)";
                client.execute(sql, &[Param::Int(i64::from(version))])?;
            }
            Ok::<_, StoreError>(())
        })?;
        for sql in &step.afterwards {
            self.client.batch("SET ROLE doorward_owner")?;
            let done = self.client.batch(sql);
            self.client.batch("RESET ROLE")?;
            done?;
        }
        Ok(())
    }

    fn layout(&mut self, from: u32, migration: &Migration) -> Result<Layout, StoreError> {
        let edition = self.edition()?;
        if from > 0 {
            let reply = self.client.query("SELECT value FROM doorward.setting WHERE name = 'layout'", &[])?;
            let hypertable = reply.first().and_then(|row| row.text(0)) == Some("hypertable");
            let schema = extension_schema(&mut self.client)?;
            let folded = rollup::is_folded(&mut self.client)?;
            return Ok(Layout { hypertable, schema, edition, create_extension: false, folded });
        }
        let available = "SELECT EXISTS (SELECT 1 FROM pg_available_extensions WHERE name = 'timescaledb')
                         AND current_setting('shared_preload_libraries') LIKE '%timescaledb%'";
        let there = edition != Edition::Plain;
        // Only a server that has loaded it can take it.
        let can =
            there || self.client.query(available, &[])?.first().and_then(|row| row.bool(0)) == Some(true);
        let hypertable = can && !migration.plain;
        let schema = extension_schema(&mut self.client)?;
        let create_extension = hypertable && !there;
        Ok(Layout { hypertable, schema, edition, create_extension, folded: false })
    }

    /// The step that makes a login a member of a role, and the login if it is missing.
    fn grant(&mut self, grantee: &Grantee, role: &str, more: &str) -> Result<Step, StoreError> {
        let exists =
            self.client.query("SELECT 1 FROM pg_roles WHERE rolname = $1", &[Param::Text(&grantee.user)])?;
        let user = identifier(&grantee.user);
        let mut sql = String::new();
        if exists.is_empty() {
            let password = grantee.login.as_ref().and_then(|login| login.password());
            let Some(password) = password.filter(|password| !password.expose().is_empty()) else {
                return Err(StoreError::Login(format!(
                    "there is no role {user}; make it, or, if it is a login of the configuration's `store`, give it a password and run `doorward store migrate --create-logins`"
                )));
            };
            // The server gets a verifier, so that its log cannot hold the password.
            let verifier = scram_sha_256(password.expose().as_bytes());
            // Another database's run may have made it meanwhile: roles are the whole cluster's.
            sql = format!(
                "DO $create$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = {}) THEN
  CREATE ROLE {user} LOGIN PASSWORD {};
END IF; END $create$;\n",
                literal(&grantee.user),
                literal(&verifier)
            );
        }
        sql.push_str(&format!("GRANT {role} TO {user};\n{more}"));
        Ok(Step::new(format!("{} is a {}", grantee.user, role.trim_start_matches("doorward_")), sql))
    }
}

impl fmt::Debug for Migrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Migrator").field("locked", &self.locked).finish_non_exhaustive()
    }
}

/// How records are laid out.
struct Layout {
    hypertable: bool,
    schema: String,
    edition: Edition,
    create_extension: bool,
    /// There are levels of rollups that are tables.
    folded: bool,
}

impl Layout {
    fn version(&self, version: u32, sql: &str, hash_partitions: Option<u16>) -> String {
        let (layout, partition_by) =
            if self.hypertable { ("hypertable", "") } else { ("partitions", "PARTITION BY RANGE (ts)") };
        let ts = identifier(&self.schema);
        let mut sql =
            sql.replace("{layout}", layout).replace("{partition_by}", partition_by).replace("{ts}", &ts);
        if version == 1 && self.hypertable {
            sql.push_str(&format!(
                "\nSELECT {ts}.create_hypertable('doorward.access_event', {ts}.by_range('ts', INTERVAL '1 day'), \
                 create_default_indexes => false);\n"
            ));
            if let Some(number) = hash_partitions.filter(|number| *number > 1) {
                let number = number.min(HASH_PARTITIONS_MAX);
                sql.push_str(&format!(
                    "SELECT {ts}.add_dimension('doorward.access_event', {ts}.by_hash('endpoint', {number}));\n"
                ));
            }
        } else if version == 1 {
            sql.push_str(
                "\nCREATE TABLE doorward.access_event_default PARTITION OF doorward.access_event DEFAULT;\n",
            );
        }
        format!("SET LOCAL ROLE doorward_owner;\n{sql}")
    }

    /// What is added up of records, and the views on it. Applied with each run, because it follows the
    /// program's own tables of dimensions and measures; it changes nothing that holds data.
    fn analysis(&self, keep: &Retention) -> [Step; 2] {
        let sql = format!("SET LOCAL ROLE doorward_owner;\n{}\n{}", rollup::schema(), retention::SCHEMA);
        let mut tables = Step::new("rollups and retention by class", sql);
        if self.continuous() {
            tables.afterwards = rollup::continuous_levels(&self.schema, &keep.rollups);
        } else {
            tables.sql.push_str(&rollup::plain_levels());
        }
        let sql = format!(
            "SET LOCAL ROLE doorward_owner;\n{}\nGRANT EXECUTE ON FUNCTION doorward.fold_rollups() TO doorward_writer",
            rollup::views(VISIBLE)
        );
        [tables, Step::new("views of rollups", sql)]
    }

    /// Whether there are the community edition's features to use.
    fn community(&self) -> bool {
        self.hypertable && matches!(self.edition, Edition::Community(_))
    }

    /// Whether the levels of rollups above a minute are continuous aggregates. Levels that were made as tables, when
    /// the edition was another one, stay what they are.
    fn continuous(&self) -> bool {
        self.community() && !self.folded
    }

    /// Puts older records in columns; the edition may have changed since the last run. Idempotent.
    fn columnstore(&self) -> Option<String> {
        if !self.community() {
            return None;
        }
        let ts = identifier(&self.schema);
        Some(format!(
            "SET LOCAL ROLE doorward_owner;
DO $$ BEGIN
  IF NOT EXISTS (SELECT 1 FROM timescaledb_information.compression_settings
                 WHERE hypertable_schema = 'doorward' AND hypertable_name = 'access_event') THEN
    ALTER TABLE doorward.access_event SET (timescaledb.compress,
      timescaledb.compress_segmentby = 'gateway_id, class', timescaledb.compress_orderby = 'ts, seq');
  END IF;
END $$;
SELECT {ts}.add_compression_policy('doorward.access_event', INTERVAL '{COLUMNSTORE_AFTER}', if_not_exists => true)"
        ))
    }
}

fn extension_step() -> Step {
    Step::new("TimescaleDB's extension", "CREATE EXTENSION IF NOT EXISTS timescaledb SCHEMA public")
}

/// Which edition a database uses.
pub(super) fn edition(client: &mut Client) -> Result<Edition, StoreError> {
    let reply = client.query(
        "SELECT extversion, current_setting('timescaledb.license', true) FROM pg_extension WHERE extname = 'timescaledb'",
        &[],
    )?;
    let Some(row) = reply.first() else { return Ok(Edition::Plain) };
    let version = row.text(0).unwrap_or("?").to_owned();
    Ok(match row.text(1) {
        Some("timescale") => Edition::Community(version),
        _ => Edition::Apache(version),
    })
}

/// Where the extension's functions are; where they will be, when there is none yet.
fn extension_schema(client: &mut Client) -> Result<String, StoreError> {
    let reply = client.query(
        "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
         WHERE e.extname = 'timescaledb'",
        &[],
    )?;
    Ok(reply.first().and_then(|row| row.text(0)).unwrap_or("public").to_owned())
}

/// Roles without a login, and the schemas. An administrator who is no superuser becomes a member of the owner.
fn roles() -> String {
    let mut sql = String::from("DO $$ BEGIN\n");
    for role in ["doorward_owner", "doorward_writer", "doorward_reader", "doorward_holder"] {
        sql.push_str(&format!(
            "  IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = '{role}') THEN\n    CREATE ROLE {role} NOLOGIN;\n  END IF;\n"
        ));
    }
    sql.push_str(
        "  IF NOT pg_has_role(current_user, 'doorward_owner', 'MEMBER') THEN
    EXECUTE format('GRANT doorward_owner TO %I', current_user);
  END IF;
END $$;
CREATE SCHEMA IF NOT EXISTS doorward AUTHORIZATION doorward_owner;
CREATE SCHEMA IF NOT EXISTS timeline AUTHORIZATION doorward_owner",
    );
    sql
}

fn is_role_race(error: &ClientError) -> bool {
    let said = |words: &str| error.server().is_some_and(|server| server.message.contains(words));
    match error.sqlstate() {
        Some("XX000") => said("concurrently"),
        Some("23505") => said("pg_auth"),
        // A role or a membership that another run has just made: the next try finds it.
        Some("42710") => true,
        _ => false,
    }
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Text as SQL writes it; sessions have `standard_conforming_strings` on.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
