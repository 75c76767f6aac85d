//! The key store as a schema of a PostgreSQL database, which all gateways of a fleet share.
//!
//! Constraints: the login owns the schema `doorward_keys` and needs nothing else; it is another one than the
//! record store's, whose backups must not hold the keys. The tables are made when they are missing. An
//! erasure rewrites the tables (`VACUUM FULL`); the write-ahead log, replicas and backups keep what they have
//! until they expire, see docs/personal-data.md.

use std::fmt::Write as _;

use doorward_core::hex;
use doorward_pgclient::Row;
use doorward_pgclient::blocking::{Client, ClientError, Options, Param};
use uuid::Uuid;

use super::super::keys::{KeyId, Lookup};
use super::{Erasure, Imported, KeyStore, KeyStoreError, Known, NewSubject, ROWS_MAX, SubjectRow};
use crate::store::config::Server;

/// Keeps two gateways from making the tables at once.
const MAKE_LOCK: i64 = 0x646f_6f72_6b65_7973;

const TABLES: &str = "
CREATE SCHEMA IF NOT EXISTS doorward_keys;
REVOKE ALL ON SCHEMA doorward_keys FROM PUBLIC;
CREATE TABLE IF NOT EXISTS doorward_keys.root_key (master_key_id text PRIMARY KEY, wrapped bytea NOT NULL);
CREATE TABLE IF NOT EXISTS doorward_keys.subject (
    subject_id uuid PRIMARY KEY, identity bytea NOT NULL, first boolean NOT NULL, day bigint,
    key bytea NOT NULL, person bytea NOT NULL, created_us bigint NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS subject_first ON doorward_keys.subject (identity) WHERE first;
CREATE INDEX IF NOT EXISTS subject_identity ON doorward_keys.subject (identity);
CREATE TABLE IF NOT EXISTS doorward_keys.name (
    lookup bytea NOT NULL, subject_id uuid NOT NULL, PRIMARY KEY (lookup, subject_id));
CREATE INDEX IF NOT EXISTS name_subject ON doorward_keys.name (subject_id);
CREATE TABLE IF NOT EXISTS doorward_keys.erased (
    subject_id uuid PRIMARY KEY, identity bytea, erased_us bigint NOT NULL, number bigint NOT NULL);
CREATE INDEX IF NOT EXISTS erased_number ON doorward_keys.erased (number);
";

const COLUMNS: &str = "subject_id, identity, day, key, person, created_us";
/// Numbers of erasures are given in the order of their commits.
const ERASED_LOCK: &str = "LOCK TABLE doorward_keys.erased IN SHARE ROW EXCLUSIVE MODE";
const NEXT_NUMBER: &str = "(SELECT coalesce(max(number), 0) + 1 FROM doorward_keys.erased)";

/// The connection.
pub(crate) struct PostgresKeys {
    client: Client,
}

impl PostgresKeys {
    /// Connects, and makes the tables when there are none.
    pub(crate) fn open(server: &Server) -> Result<Self, KeyStoreError> {
        let login = server.login.read().map_err(|problem| KeyStoreError::Unusable(problem.message))?;
        let options = Options { application_name: "doorward keys".into(), ..Options::default() };
        let mut client = Client::connect(&server.target, &login, &options)?;
        let made = client.query("SELECT to_regclass('doorward_keys.erased_number') IS NOT NULL", &[])?;
        if made.first().and_then(|row| row.bool(0)) != Some(true) {
            client.transaction::<_, KeyStoreError>(|client| {
                client.query("SELECT pg_advisory_xact_lock($1)", &[Param::Int(MAKE_LOCK)])?;
                Ok(client.batch(TABLES)?)
            })?;
        }
        Ok(Self { client })
    }

    fn rows(&mut self, condition: &str, params: &[Param<'_>]) -> Result<Vec<SubjectRow>, KeyStoreError> {
        let sql = format!("SELECT {COLUMNS} FROM doorward_keys.subject WHERE {condition} LIMIT {ROWS_MAX}");
        self.client.query(&sql, params)?.rows().map(subject).collect()
    }
}

impl From<ClientError> for KeyStoreError {
    fn from(error: ClientError) -> Self {
        /// Classes of SQLSTATE that pass: connections, rollbacks, resources, locks, operators.
        const PASSING: &[&str] = &["08", "25", "40", "53", "55", "57", "58"];
        let passing = match &error {
            ClientError::Server(said) => PASSING.iter().any(|class| said.sqlstate.starts_with(class)),
            ClientError::Login(_) | ClientError::TooLarge(_) | ClientError::Unsendable(_) => false,
            _ => true,
        };
        let text = error.to_string();
        if passing { Self::Away(text) } else { Self::Unusable(text) }
    }
}

impl KeyStore for PostgresKeys {
    fn roots(&mut self) -> Result<Vec<(KeyId, Vec<u8>)>, KeyStoreError> {
        let sql = "SELECT master_key_id, wrapped FROM doorward_keys.root_key ORDER BY master_key_id";
        let reply = self.client.query(sql, &[])?;
        let root = |row: Row<'_>| Some((KeyId::stored(row.text(0)?), row.bytes(1)?));
        reply.rows().map(|row| root(row).ok_or_else(malformed)).collect()
    }

    fn found(&mut self, id: &KeyId, wrapped: &[u8]) -> Result<Vec<(KeyId, Vec<u8>)>, KeyStoreError> {
        self.client.transaction::<_, KeyStoreError>(|client| {
            client.batch("LOCK TABLE doorward_keys.root_key IN SHARE ROW EXCLUSIVE MODE")?;
            client.execute(
                "INSERT INTO doorward_keys.root_key SELECT $1, $2
                 WHERE NOT EXISTS (SELECT FROM doorward_keys.root_key)",
                &[Param::Text(id.as_str()), Param::Bytes(wrapped)],
            )?;
            Ok(())
        })?;
        self.roots()
    }

    fn rewrap(&mut self, id: &KeyId, wrapped: &[u8], keep: &[KeyId]) -> Result<(), KeyStoreError> {
        let kept: Vec<&str> = keep.iter().chain([id]).map(KeyId::as_str).collect();
        let kept = array(kept.iter().copied());
        self.client.transaction::<_, KeyStoreError>(|client| {
            client.execute(
                "INSERT INTO doorward_keys.root_key VALUES ($1, $2) ON CONFLICT (master_key_id) DO NOTHING",
                &[Param::Text(id.as_str()), Param::Bytes(wrapped)],
            )?;
            client.execute(
                "DELETE FROM doorward_keys.root_key WHERE NOT master_key_id = ANY ($1::text[])",
                &[Param::Text(&kept)],
            )?;
            Ok(())
        })?;
        self.wipe("doorward_keys.root_key")
    }

    fn find(&mut self, identities: &[Lookup]) -> Result<Vec<Option<SubjectRow>>, KeyStoreError> {
        let wanted = array(identities.iter().map(|identity| hex(&identity.0)));
        let condition = "first AND identity = ANY (SELECT decode(unnest($1::text[]), 'hex'))";
        let rows = self.rows(condition, &[Param::Text(&wanted)])?;
        let row = |identity: &Lookup| rows.iter().find(|row| row.identity == *identity).cloned();
        Ok(identities.iter().map(row).collect())
    }

    fn erasures(&mut self, identities: &[Lookup]) -> Result<Vec<Option<Erasure>>, KeyStoreError> {
        let wanted = array(identities.iter().map(|identity| hex(&identity.0)));
        let reply = self.client.query(
            "SELECT DISTINCT ON (identity) subject_id, identity, erased_us FROM doorward_keys.erased
             WHERE identity = ANY (SELECT decode(unnest($1::text[]), 'hex')) ORDER BY identity, erased_us DESC",
            &[Param::Text(&wanted)],
        )?;
        let found = |row: Row<'_>| -> Result<(Vec<u8>, Erasure), KeyStoreError> {
            let at_us = row.int(2).ok_or_else(malformed)?;
            let identity = row.bytes(1).ok_or_else(malformed)?;
            Ok((identity, Erasure { id: id(row, 0)?, at_us }))
        };
        let found = reply.rows().map(found).collect::<Result<Vec<_>, _>>()?;
        let of =
            |identity: &Lookup| found.iter().find(|(of, _)| *of == identity.0).map(|(_, erasure)| *erasure);
        Ok(identities.iter().map(of).collect())
    }

    fn agree(&mut self, rows: &[NewSubject]) -> Result<Vec<SubjectRow>, KeyStoreError> {
        self.client.transaction::<_, KeyStoreError>(|client| insert(client, rows, true))?;
        let identities: Vec<Lookup> = rows.iter().map(|new| new.row.identity).collect();
        let found = self.find(&identities)?;
        found
            .into_iter()
            .collect::<Option<_>>()
            .ok_or_else(|| KeyStoreError::Away("somebody was erased at this moment".to_owned()))
    }

    fn import(&mut self, rows: &[NewSubject]) -> Result<Vec<Imported>, KeyStoreError> {
        self.client.transaction(|client| {
            client.batch(ERASED_LOCK)?;
            rows.iter().map(|new| import(client, new)).collect()
        })
    }

    fn rename(&mut self, id: Uuid, names: &[Lookup], person: &[u8]) -> Result<(), KeyStoreError> {
        let (id, names) = (id.to_string(), array(names.iter().map(|name| hex(&name.0))));
        self.client.transaction(|client| {
            client.execute(
                "UPDATE doorward_keys.subject SET person = $2 WHERE subject_id = $1::uuid",
                &[Param::Text(&id), Param::Bytes(person)],
            )?;
            // A person who has been erased in the meantime gets no names.
            client.execute(
                "INSERT INTO doorward_keys.name
                 SELECT decode(lookup, 'hex'), subject_id FROM unnest($2::text[]) AS lookup, doorward_keys.subject
                 WHERE subject_id = $1::uuid ON CONFLICT (lookup, subject_id) DO NOTHING",
                &[Param::Text(&id), Param::Text(&names)],
            )?;
            Ok(())
        })
    }

    fn named(&mut self, name: &Lookup) -> Result<Vec<Uuid>, KeyStoreError> {
        let sql = format!("SELECT subject_id FROM doorward_keys.name WHERE lookup = $1 LIMIT {ROWS_MAX}");
        self.client.query(&sql, &[Param::Bytes(&name.0)])?.rows().map(|row| id(row, 0)).collect()
    }

    fn all_of(&mut self, identity: &Lookup) -> Result<Vec<SubjectRow>, KeyStoreError> {
        self.rows("identity = $1", &[Param::Bytes(&identity.0)])
    }

    fn known(&mut self, id: Uuid) -> Result<Known, KeyStoreError> {
        let id = id.to_string();
        if let Some(row) = self.rows("subject_id = $1::uuid", &[Param::Text(&id)])?.pop() {
            return Ok(Known::Kept(row));
        }
        let sql = "SELECT erased_us FROM doorward_keys.erased WHERE subject_id = $1::uuid";
        let reply = self.client.query(sql, &[Param::Text(&id)])?;
        Ok(reply.first().and_then(|row| row.int(0)).map_or(Known::Unknown, Known::Erased))
    }

    fn erase(&mut self, ids: &[Uuid], at_us: i64) -> Result<(), KeyStoreError> {
        self.client.transaction::<_, KeyStoreError>(|client| {
            client.batch(ERASED_LOCK)?;
            for id in ids {
                let id = id.to_string();
                let insert = format!(
                    "INSERT INTO doorward_keys.erased SELECT $1::uuid,
                     (SELECT identity FROM doorward_keys.subject WHERE subject_id = $1::uuid), $2, {NEXT_NUMBER}
                     ON CONFLICT (subject_id) DO NOTHING"
                );
                client.execute(&insert, &[Param::Text(&id), Param::Int(at_us)])?;
                for table in ["name", "subject"] {
                    let delete = format!("DELETE FROM doorward_keys.{table} WHERE subject_id = $1::uuid");
                    client.execute(&delete, &[Param::Text(&id)])?;
                }
            }
            Ok(())
        })?;
        self.wipe("doorward_keys.subject")?;
        self.wipe("doorward_keys.name")
    }

    fn erased_since(&mut self, number: i64) -> Result<(i64, Vec<Uuid>), KeyStoreError> {
        let sql = format!(
            "SELECT subject_id, number FROM doorward_keys.erased WHERE number > $1 ORDER BY number LIMIT {ROWS_MAX}"
        );
        let reply = self.client.query(&sql, &[Param::Int(number)])?;
        let last = reply.rows().last().and_then(|row| row.int(1)).unwrap_or(number);
        Ok((last, reply.rows().map(|row| id(row, 0)).collect::<Result<_, _>>()?))
    }

    fn expire(&mut self, day: Option<i64>, erased_before_us: i64) -> Result<usize, KeyStoreError> {
        let mut expired = 0;
        if let Some(day) = day {
            let sql = "DELETE FROM doorward_keys.subject WHERE day < $1";
            expired += self.client.execute(sql, &[Param::Int(day)])?;
        }
        let sql =
            "UPDATE doorward_keys.erased SET identity = NULL WHERE identity IS NOT NULL AND erased_us < $1";
        expired += self.client.execute(sql, &[Param::Int(erased_before_us)])?;
        if expired > 0 {
            self.wipe("doorward_keys.subject")?;
            self.wipe("doorward_keys.erased")?;
        }
        Ok(usize::try_from(expired).unwrap_or(usize::MAX))
    }
}

impl PostgresKeys {
    /// Rewrites a table without what was deleted.
    fn wipe(&mut self, table: &str) -> Result<(), KeyStoreError> {
        let done = self.client.batch(&format!("VACUUM FULL {table}"));
        done.map_err(|error| KeyStoreError::Remains(format!("the table could not be rewritten ({error})")))
    }
}

/// Inserts the rows that are no identity's second, and their names.
fn insert(client: &mut Client, rows: &[NewSubject], first: bool) -> Result<(), KeyStoreError> {
    // In one order, so that two gateways never wait for each other.
    let mut rows: Vec<&NewSubject> = rows.iter().collect();
    rows.sort_by_key(|new| new.row.identity.0);
    let column = |bytes: fn(&SubjectRow) -> &[u8]| array(rows.iter().map(|new| hex(bytes(&new.row))));
    let ids = array(rows.iter().map(|new| new.row.id.to_string()));
    let days = array(rows.iter().map(|new| new.row.day.map_or("NULL".to_owned(), |day| day.to_string())));
    let created = array(rows.iter().map(|new| new.row.created_us.to_string()));
    let (identities, keys, persons) =
        (column(|row| &row.identity.0), column(|row| &row.key), column(|row| &row.person));
    client.execute(
        "INSERT INTO doorward_keys.subject (subject_id, identity, first, day, key, person, created_us)
         SELECT id, decode(identity, 'hex'), $7, day, decode(key, 'hex'), decode(person, 'hex'), created
         FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::bigint[])
              AS new (id, identity, day, key, person, created)
         ON CONFLICT DO NOTHING",
        &[
            Param::Text(&ids),
            Param::Text(&identities),
            Param::Text(&days),
            Param::Text(&keys),
            Param::Text(&persons),
            Param::Text(&created),
            Param::Bool(first),
        ],
    )?;
    let names = rows.iter().flat_map(|new| new.names.iter().map(|name| (name, new.row.id)));
    let (lookups, ids): (Vec<String>, Vec<String>) =
        names.map(|(name, id)| (hex(&name.0), id.to_string())).unzip();
    client.execute(
        "INSERT INTO doorward_keys.name SELECT decode(lookup, 'hex'), id
         FROM unnest($1::text[], $2::uuid[]) AS new (lookup, id)
         WHERE EXISTS (SELECT FROM doorward_keys.subject WHERE subject_id = id)
         ON CONFLICT (lookup, subject_id) DO NOTHING",
        &[Param::Text(&array(lookups)), Param::Text(&array(ids))],
    )?;
    Ok(())
}

fn import(client: &mut Client, new: &NewSubject) -> Result<Imported, KeyStoreError> {
    let row = &new.row;
    let id = row.id.to_string();
    let reply = client.query(
        "SELECT EXISTS (SELECT FROM doorward_keys.erased
                        WHERE subject_id = $1::uuid OR (identity = $2 AND erased_us >= $3)),
                (SELECT subject_id FROM doorward_keys.subject WHERE identity = $2 AND first)",
        &[Param::Text(&id), Param::Bytes(&row.identity.0), Param::Int(row.created_us)],
    )?;
    let answer = reply.first().ok_or_else(malformed)?;
    if answer.bool(0) == Some(true) {
        // Its own id is told to be erased too, so that readers say so.
        let insert = format!(
            "INSERT INTO doorward_keys.erased SELECT $1::uuid, NULL, $2, {NEXT_NUMBER}
             ON CONFLICT (subject_id) DO NOTHING"
        );
        client.execute(&insert, &[Param::Text(&id), Param::Int(row.created_us)])?;
        return Ok(Imported::Erased);
    }
    let other = answer.text(1).map(str::to_owned);
    let mine = other.as_ref().is_none_or(|other| *other == id);
    insert(client, std::slice::from_ref(new), other.is_none())?;
    Ok(if mine { Imported::First } else { Imported::Further })
}

fn array(items: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let mut text = String::from("{");
    for (index, item) in items.into_iter().enumerate() {
        // Writing to a string does not fail. Nothing here has to be quoted: digits, letters, `-`, `_`.
        let _ = write!(text, "{}{}", if index == 0 { "" } else { "," }, item.as_ref());
    }
    text.push('}');
    text
}

fn subject(row: Row<'_>) -> Result<SubjectRow, KeyStoreError> {
    let bytes = |column| row.bytes(column).ok_or_else(malformed);
    Ok(SubjectRow {
        id: id(row, 0)?,
        identity: Lookup(bytes(1)?.try_into().map_err(|_| malformed())?),
        day: row.int(2),
        key: bytes(3)?,
        person: bytes(4)?,
        created_us: row.int(5).ok_or_else(malformed)?,
    })
}

fn id(row: Row<'_>, column: usize) -> Result<Uuid, KeyStoreError> {
    row.text(column).and_then(|text| Uuid::parse_str(text).ok()).ok_or_else(malformed)
}

fn malformed() -> KeyStoreError {
    KeyStoreError::Unusable("a row of the key store has another form than expected".to_owned())
}
