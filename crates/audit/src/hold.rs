//! Legal holds: what may be neither removed nor erased, because it may be needed in court.
//!
//! A hold covers a person, a resource, a span of time, or all that its conditions have in common; without
//! any, everything. Holds stand in the record store, so that retention and erasure, which may run on
//! different machines, honour the same ones.
//!
//! Invariant: a released hold stays in the table; who held what, from when until when, is told for ever.

use std::sync::Arc;

use doorward_core::{Login, Timestamp};
use doorward_pgclient::blocking::{Client, ClientError, Options, Param};
use doorward_pgclient::{Row as PgRow, Target};
use rusqlite::{Connection, OpenFlags, Row, params};
use uuid::Uuid;

use crate::config::StoreUrl;
use crate::query::{Filter, QueryError, Timeline};
use crate::retention::sqlite::SCHEMA;
use crate::store::BUSY_WAIT;

/// The most holds that are read.
const HOLDS_MAX: usize = 10_000;
const COLUMNS: &str =
    "hold_id, name, subject_id, resource, from_us, until_us, created_us, created_by, released_us";

/// Why holds cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// SQLite says no.
    #[error("the store: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The database says no.
    #[error("the store: {0}")]
    Postgres(#[from] ClientError),
    /// The store's login cannot be read.
    #[error("the store's login: {0}")]
    Login(String),
    /// Whether a person has records that a hold covers cannot be found out.
    #[error("the store: {0}")]
    Query(#[from] QueryError),
    /// There is no store.
    #[error("there is no store at {0}")]
    Missing(String),
    /// Not all holds can be read, so whatever depends on them is not done.
    #[error("there are more than {HOLDS_MAX} holds: not all can be looked at")]
    TooMany,
    /// There is no such hold in force.
    #[error("there is no hold {0} in force; `doorward audit hold list` shows those that are")]
    Unknown(String),
}

/// One hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Its id.
    pub id: Uuid,
    /// What it is called: the matter, or the case's number.
    pub name: String,
    /// The person whom it covers.
    pub subject_id: Option<Uuid>,
    /// The resource that it covers.
    pub resource: Option<String>,
    /// Records not before this.
    pub from: Option<Timestamp>,
    /// Records before this.
    pub until: Option<Timestamp>,
    /// When it was laid.
    pub created: Timestamp,
    /// Who laid it.
    pub created_by: String,
    /// When it was released; `None` while it is in force.
    pub released: Option<Timestamp>,
}

/// The holds of one store.
#[derive(Debug)]
pub struct Holds {
    table: Table,
    store: StoreUrl,
}

#[derive(Debug)]
enum Table {
    Sqlite(Connection),
    Postgres(Client),
}

impl Holds {
    /// Opens the store. Blocks.
    pub fn open(store: &StoreUrl) -> Result<Self, HoldError> {
        let table = match store {
            StoreUrl::Sqlite(path) => {
                if !path.is_file() {
                    return Err(HoldError::Missing(path.display().to_string()));
                }
                let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                let connection = Connection::open_with_flags(path, flags)?;
                connection.busy_timeout(BUSY_WAIT)?;
                connection.execute_batch(SCHEMA)?;
                Table::Sqlite(connection)
            }
            StoreUrl::Postgres(server) => {
                let login = server.login.read().map_err(|problem| HoldError::Login(problem.message))?;
                Table::Postgres(Client::connect(&server.target, &login, &Options::default())?)
            }
        };
        Ok(Self { table, store: store.clone() })
    }

    /// Opens a store in a database by another login, which may release holds there. Blocks.
    pub fn open_as(store: &StoreUrl, target: &Target, login: &Arc<Login>) -> Result<Self, HoldError> {
        let client = Client::connect(target, login, &Options::default())?;
        Ok(Self { table: Table::Postgres(client), store: store.clone() })
    }

    /// Lays a hold.
    pub fn add(&mut self, hold: &Hold) -> Result<(), HoldError> {
        let (id, subject_id) = (hold.id.to_string(), hold.subject_id.map(|id| id.to_string()));
        let (from, until) = (hold.from.map(Timestamp::micros), hold.until.map(Timestamp::micros));
        let created = hold.created.micros();
        match &mut self.table {
            Table::Sqlite(connection) => {
                let sql = format!(
                    "INSERT INTO legal_hold ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, NULL)"
                );
                let (resource, by) = (&hold.resource, &hold.created_by);
                connection
                    .execute(&sql, params![id, hold.name, subject_id, resource, from, until, created, by])?;
            }
            Table::Postgres(client) => {
                let sql = format!(
                    "INSERT INTO doorward.legal_hold ({COLUMNS})
                     VALUES ($1::uuid, $2, $3::uuid, $4, $5::bigint, $6::bigint, $7::bigint, $8, NULL)"
                );
                client.execute(
                    &sql,
                    &[
                        Param::Text(&id),
                        Param::Text(&hold.name),
                        subject_id.as_deref().map_or(Param::Null, Param::Text),
                        hold.resource.as_deref().map_or(Param::Null, Param::Text),
                        from.map_or(Param::Null, Param::Int),
                        until.map_or(Param::Null, Param::Int),
                        Param::Int(created),
                        Param::Text(&hold.created_by),
                    ],
                )?;
            }
        }
        Ok(())
    }

    /// The holds in force that have this id or this name: a person may have several ids, and a hold over a
    /// person is one for each.
    pub fn of(&mut self, which: &str) -> Result<Vec<Hold>, HoldError> {
        let matching = |hold: &Hold| hold.id.to_string() == which || hold.name == which;
        let found: Vec<Hold> = self.list(false)?.into_iter().filter(matching).collect();
        if found.is_empty() { Err(HoldError::Unknown(which.to_owned())) } else { Ok(found) }
    }

    /// Releases a hold.
    pub fn release(&mut self, id: Uuid, at: Timestamp) -> Result<(), HoldError> {
        let (text, at) = (id.to_string(), at.micros());
        let changed = match &mut self.table {
            Table::Sqlite(connection) => {
                let sql = "UPDATE legal_hold SET released_us = ?2 WHERE hold_id = ?1 AND released_us IS NULL";
                u64::try_from(connection.execute(sql, params![text, at])?).unwrap_or(u64::MAX)
            }
            Table::Postgres(client) => client.execute(
                "UPDATE doorward.legal_hold SET released_us = $2 WHERE hold_id = $1::uuid AND released_us IS NULL",
                &[Param::Text(&text), Param::Int(at)],
            )?,
        };
        if changed == 1 { Ok(()) } else { Err(HoldError::Unknown(text)) }
    }

    /// The holds in force, oldest first; with `all`, the released ones too.
    pub fn list(&mut self, all: bool) -> Result<Vec<Hold>, HoldError> {
        let which = if all { "" } else { "WHERE released_us IS NULL" };
        let rest = format!("{which} ORDER BY created_us, hold_id LIMIT {HOLDS_MAX} + 1");
        match &mut self.table {
            Table::Sqlite(connection) => {
                let mut statement =
                    connection.prepare(&format!("SELECT {COLUMNS} FROM legal_hold {rest}"))?;
                let rows = statement.query_map([], of_sqlite)?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            }
            Table::Postgres(client) => {
                let reply =
                    client.query(&format!("SELECT {COLUMNS} FROM doorward.legal_hold {rest}"), &[])?;
                Ok(reply.rows().map(of_postgres).collect())
            }
        }
    }

    /// All holds in force: one that is not seen would not be honoured.
    fn in_force(&mut self) -> Result<Vec<Hold>, HoldError> {
        let found = self.list(false)?;
        if found.len() > HOLDS_MAX { Err(HoldError::TooMany) } else { Ok(found) }
    }

    /// The holds in force that cover one of these ids of a person: those that name it, and those over a
    /// resource or a time in which the person has records.
    pub fn covering(&mut self, ids: &[Uuid]) -> Result<Vec<Hold>, HoldError> {
        let mut covering = Vec::new();
        for hold in self.in_force()? {
            let covers = match hold.subject_id {
                Some(id) => ids.contains(&id),
                None if hold.resource.is_none() && hold.from.is_none() && hold.until.is_none() => true,
                None => self.has_records(&hold, ids)?,
            };
            if covers {
                covering.push(hold);
            }
        }
        Ok(covering)
    }

    fn has_records(&self, hold: &Hold, ids: &[Uuid]) -> Result<bool, HoldError> {
        let Some(first) = ids.first() else { return Ok(false) };
        let filter = Filter {
            since: hold.from,
            until: hold.until,
            resource: hold.resource.clone(),
            principal: Some(first.to_string()),
            subject_ids: ids.to_vec(),
            limit: Some(1),
            ..Filter::default()
        };
        Ok(!Timeline::connect(&self.store)?.query(&filter)?.is_empty())
    }
}

fn of_sqlite(row: &Row<'_>) -> rusqlite::Result<Hold> {
    let id = |text: Option<String>| text.and_then(|text| Uuid::parse_str(&text).ok());
    let time = |micros: Option<i64>| micros.map(Timestamp::from_micros);
    Ok(Hold {
        id: id(row.get(0)?).unwrap_or_default(),
        name: row.get(1)?,
        subject_id: id(row.get(2)?),
        resource: row.get(3)?,
        from: time(row.get(4)?),
        until: time(row.get(5)?),
        created: Timestamp::from_micros(row.get(6)?),
        created_by: row.get(7)?,
        released: time(row.get(8)?),
    })
}

fn of_postgres(row: PgRow<'_>) -> Hold {
    let text = |column| row.text(column).map(str::to_owned);
    let id = |column| row.text(column).and_then(|text| Uuid::parse_str(text).ok());
    let time = |column| row.int(column).map(Timestamp::from_micros);
    Hold {
        id: id(0).unwrap_or_default(),
        name: text(1).unwrap_or_default(),
        subject_id: id(2),
        resource: text(3),
        from: time(4),
        until: time(5),
        created: time(6).unwrap_or(Timestamp::from_micros(0)),
        created_by: text(7).unwrap_or_default(),
        released: time(8),
    }
}

/// Whether a hold covers callers who are not known: any that names no person.
pub(crate) fn unknown_callers_held(store: &StoreUrl) -> Box<dyn Fn() -> Result<bool, String> + Send> {
    let store = store.clone();
    Box::new(move || match Holds::open(&store).and_then(|mut holds| holds.in_force()) {
        Ok(holds) => Ok(holds.iter().any(|hold| hold.subject_id.is_none())),
        // Without a store there is nothing to hold.
        Err(HoldError::Missing(_)) => Ok(false),
        Err(error) => Err(error.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use doorward_core::{Login, Secret};
    use doorward_pgclient::Target;
    use doorward_settings::Document;
    use doorward_testkit::postgres::{Cluster, SUPERUSER};

    use super::*;
    use crate::config::AuditConfig;
    use crate::store::postgres::{Grantee, Migration, Migrator};
    use crate::store::sqlite::SqliteStore;

    fn hold(name: &str, subject_id: Option<Uuid>) -> Hold {
        Hold {
            id: Uuid::new_v4(),
            name: name.to_owned(),
            subject_id,
            resource: None,
            from: None,
            until: None,
            created: Timestamp::from_seconds(1_795_000_000),
            created_by: "root@db1".to_owned(),
            released: None,
        }
    }

    /// What holds do in every store.
    fn promises(store: &StoreUrl, mut releasing: Holds) {
        let mut holds = Holds::open(store).unwrap();
        let (ann, bob) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(holds.list(true).unwrap(), []);
        let case = hold("case", Some(ann));
        let (from, until) = (Timestamp::from_seconds(5), Timestamp::from_seconds(9));
        let shop = Hold {
            resource: Some("shop".to_owned()),
            from: Some(from),
            until: Some(until),
            ..hold("shop", None)
        };
        for hold in [&case, &shop] {
            holds.add(hold).unwrap();
        }
        let mut expected = vec![case.clone(), shop.clone()];
        expected.sort_by_key(|hold| hold.id.to_string());
        assert_eq!(holds.list(false).unwrap(), expected);
        assert_eq!(holds.covering(&[bob, ann]).unwrap(), std::slice::from_ref(&case));
        // There are no records of Bob in the shop.
        assert_eq!(holds.covering(&[bob]).unwrap(), []);
        assert!(!unknown_callers_held(store)().is_ok_and(|held| !held));
        let everything = hold("everything", None);
        holds.add(&everything).unwrap();
        assert_eq!(holds.covering(&[bob]).unwrap(), [everything]);
        for which in ["everything", &shop.id.to_string(), "case"] {
            for hold in holds.of(which).unwrap() {
                releasing.release(hold.id, Timestamp::from_seconds(1_795_000_100)).unwrap();
            }
        }
        assert!(matches!(holds.of("case"), Err(HoldError::Unknown(_))));
        assert!(matches!(releasing.release(case.id, until), Err(HoldError::Unknown(_))));
        assert_eq!(holds.list(false).unwrap(), []);
        assert_eq!(holds.list(true).unwrap().len(), 3);
        assert_eq!(holds.covering(&[ann]).unwrap(), []);
        assert_eq!(unknown_callers_held(store)(), Ok(false));
    }

    #[test]
    fn holds_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = StoreUrl::sqlite(dir.path().join("audit.db"));
        assert!(matches!(Holds::open(&store), Err(HoldError::Missing(_))));
        assert_eq!(unknown_callers_held(&store)(), Ok(false));
        drop(SqliteStore::open(store.path().unwrap()).unwrap());
        promises(&store, Holds::open(&store).unwrap());
        // Who cannot see all holds may not decide that there is none.
        let more = format!(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i <= {HOLDS_MAX})
             INSERT INTO legal_hold ({COLUMNS})
             SELECT printf('00000000-0000-4000-8000-%012d', i), 'case', printf('00000000-0000-4000-9000-%012d', i),
                    NULL, NULL, NULL, 1, 'root@db1', NULL FROM n"
        );
        Connection::open(store.path().unwrap()).unwrap().execute_batch(&more).unwrap();
        let mut holds = Holds::open(&store).unwrap();
        assert!(matches!(holds.covering(&[Uuid::from_u128(1)]), Err(HoldError::TooMany)));
        assert!(unknown_callers_held(&store)().is_err());
    }

    #[test]
    fn holds_in_a_database() {
        const PASSWORD: &str = "of-the-gateways-login";
        let cluster = Cluster::debian().unwrap();
        let database = cluster.database().unwrap();
        let login = |user: &str, password: &str| Login::new(user, Secret::from(password));
        let target = Target::parse(&database.url(), false).unwrap();
        let mut migrator = Migrator::connect(&target, &login(SUPERUSER, cluster.password()).into()).unwrap();
        let writer = Grantee { user: "gateway".into(), login: Some(login("gateway", PASSWORD).into()) };
        let reader = Grantee { user: "auditor".into(), login: Some(login("auditor", PASSWORD).into()) };
        let migration = Migration {
            writers: vec![writer],
            readers: vec![(reader, Default::default())],
            ..Migration::default()
        };
        for step in migrator.plan(&migration).unwrap() {
            migrator.run(&step).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("password"), PASSWORD).unwrap();
        let password = format!("'file:{}/password'", folder.path().display());
        let url = database.url().replace("postgres://", "postgres://gateway@");
        let reader = format!("reader: {{ user: auditor, password: {password} }}");
        let yaml = format!("store: {{ url: '{url}', password: {password}, {reader} }}");
        let document = Document::parse("doorward.yaml", &yaml).unwrap();
        let store = document.root().deserialize::<AuditConfig>().unwrap().store;
        // The gateway's login lays holds and releases none; members of a role of their own do.
        let mut of_gateway = Holds::open(&store).unwrap();
        let laid = hold("laid", None);
        of_gateway.add(&laid).unwrap();
        let refused = of_gateway.release(laid.id, Timestamp::from_seconds(1_795_000_100)).unwrap_err();
        assert!(refused.to_string().contains("permission denied"), "{refused}");
        database
            .sql(&format!(
                "create role counsel login password '{PASSWORD}'; grant doorward_holder to counsel"
            ))
            .unwrap();
        let counsel = || Holds::open_as(&store, &target, &login("counsel", PASSWORD).into()).unwrap();
        counsel().release(laid.id, Timestamp::from_seconds(1_795_000_100)).unwrap();
        database.sql("delete from doorward.legal_hold").unwrap();
        promises(&store, counsel());
    }
}
