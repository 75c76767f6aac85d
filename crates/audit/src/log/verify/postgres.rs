//! Evidence in PostgreSQL or TimescaleDB, through the views of its reader; that login needs the scope of everything,
//! because rows that it may not see count as missing.

use std::time::Duration;

use doorward_pgclient::Row;
use doorward_pgclient::blocking::{Client, Options, Param};
use doorward_tlog::{Hash, tile};
use uuid::Uuid;

use super::{EXTRAS_MAX, Evidence, Item, LogId, Strangers, VerifyError, What, class_of, weave};
use crate::columns::{COLUMNS, Type, position};
use crate::config::Server;
use crate::leaf::{FIELDS_MAX, Field, Hasher};
use crate::wire::Gap;

/// How long reading one log may take; a log is read by one statement.
const READ_TIMEOUT: Duration = Duration::from_secs(6 * 60 * 60);

/// A store in a database, open for reading.
pub struct PostgresEvidence {
    client: Client,
    hasher: Hasher,
}

impl PostgresEvidence {
    /// Connects as the store's reader. Blocks.
    pub fn connect(server: &Server) -> Result<Self, VerifyError> {
        let login = server.reader.as_ref().unwrap_or(&server.login);
        let options = Options {
            application_name: "doorward audit verify".into(),
            statement_timeout: READ_TIMEOUT,
            idle_timeout: READ_TIMEOUT,
            ..Options::default()
        };
        let read = login.read().map_err(|problem| VerifyError::Login(problem.message))?;
        let mut client = Client::connect(&server.target, &read, &options)?;
        // One picture of the store, while gateways go on.
        client.batch("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
        let all = "SELECT count(*) FROM doorward.own_scope WHERE environment = '*' AND \"group\" = '*'";
        if client.query(all, &[])?.rows().next().and_then(|row| row.int(0)) == Some(0) {
            return Err(VerifyError::Scope(login.user.to_string()));
        }
        Ok(Self { client, hasher: Hasher::default() })
    }

    /// Everything beside the rows in the order of places: gaps, notes and dead letters, up to a place.
    fn extras(&mut self, log: &LogId, to: i64) -> Result<Vec<Item>, VerifyError> {
        let mut extras = Vec::new();
        let mut keep = |row: Row<'_>, leaf: Option<Hash>, what: What| {
            let index = row.int(0).map(i64::cast_unsigned);
            let stored = row.bytes(1).and_then(|hash| hash.try_into().ok());
            extras.push(Item { index, stored, leaf, what });
            extras.len() <= EXTRAS_MAX
        };
        let key = [Param::Text(&log.gateway_id), Param::Int(log.epoch.cast_signed()), Param::Int(to)];
        let hasher = &mut self.hasher;
        let of = |columns: &str, table: &str| {
            format!(
                "SELECT log_index, leaf_hash, {columns} FROM timeline.{table}
                 WHERE gateway_id = $1 AND epoch = $2 AND log_index < $3"
            )
        };
        let mut whole = true;
        self.client.query_each(&of("seq, lost, from_us, until_us, reason", "audit_gap"), &key, |row| {
            let int = |place| row.int(place).unwrap_or_default();
            let reason = row.text(6).unwrap_or_default();
            let lost = int(3).cast_unsigned();
            let gap = Gap { lost, from_us: int(4), until_us: int(5), reason: reason.into() };
            let leaf = hasher.gap(&log.gateway_id, log.epoch, int(2).cast_unsigned(), &gap);
            whole = keep(row, Some(leaf), What::Gap);
            whole
        })?;
        self.client.query_each(&of("kind, body", "log_note"), &key, |row| {
            let text = |place| row.text(place).unwrap_or_default().to_owned();
            let (kind, body) = (text(2), text(3));
            let leaf = hasher.note(&log.gateway_id, log.epoch, &kind, &body);
            whole = whole && keep(row, Some(leaf), What::Note { kind, body });
            whole
        })?;
        self.client.query_each(&of("payload", "dead_letter"), &key, |row| {
            let payload = row.text(2).unwrap_or_default();
            let (what, leaf) = super::bundle::letter(hasher, log, payload.as_bytes());
            whole = whole && keep(row, leaf, what);
            whole
        })?;
        extras.sort_by_key(|item| item.index);
        if whole { Ok(extras) } else { Err(VerifyError::TooMany(log.epoch)) }
    }
}

impl Evidence for PostgresEvidence {
    fn logs(&mut self) -> Result<Vec<LogId>, VerifyError> {
        let reply = self.client.query(
            "SELECT gateway_id, epoch FROM timeline.high_water WHERE next_leaf > 0
             UNION SELECT gateway_id, epoch FROM timeline.checkpoint
             UNION SELECT gateway_id, epoch FROM timeline.log_tile",
            &[],
        )?;
        let log = |row: Row<'_>| {
            Some(LogId { gateway_id: row.text(0)?.to_owned(), epoch: row.int(1)?.cast_unsigned() })
        };
        Ok(reply.rows().filter_map(log).collect())
    }

    fn strangers(&mut self) -> Result<Vec<Strangers>, VerifyError> {
        let reply = self.client.query(
            "SELECT gateway_id, epoch, count(*), count(*) FILTER (WHERE schema_version >= 2)
             FROM timeline.access_event e WHERE NOT EXISTS (SELECT 1 FROM timeline.high_water h
                 WHERE h.gateway_id = e.gateway_id AND h.epoch = e.epoch AND h.next_leaf > 0)
             GROUP BY gateway_id, epoch",
            &[],
        )?;
        let of = |row: Row<'_>| {
            let log = LogId { gateway_id: row.text(0)?.to_owned(), epoch: row.int(1)?.cast_unsigned() };
            Some(Strangers { log, rows: row.int(2)?.cast_unsigned(), logged: row.int(3)?.cast_unsigned() })
        };
        Ok(reply.rows().filter_map(of).collect())
    }

    fn items(&mut self, log: &LogId, each: &mut dyn FnMut(Item)) -> Result<(), VerifyError> {
        let mut extras = self.extras(log, i64::MAX)?.into_iter().peekable();
        let names: Vec<String> = COLUMNS
            .iter()
            .map(|column| match column.ty {
                // Numeric, because a time that was never logged may be infinite, or too late for 64 bits.
                Type::Time => format!("trunc(extract(epoch FROM \"{}\") * 1000000)", column.name),
                _ => format!("\"{}\"", column.name),
            })
            .collect();
        let sql = format!(
            "SELECT {} FROM timeline.access_event WHERE gateway_id = $1 AND epoch = $2
             ORDER BY log_index NULLS FIRST",
            names.join(", ")
        );
        let key = [Param::Text(&log.gateway_id), Param::Int(log.epoch.cast_signed())];
        let hasher = &mut self.hasher;
        self.client.query_each(&sql, &key, |row| {
            weave(&mut extras, item(row, hasher), each);
            true
        })?;
        extras.for_each(each);
        Ok(())
    }

    /// It came with the log.
    fn may_predate_log(&self) -> bool {
        false
    }

    fn items_from_start(&mut self, log: &LogId, each: &mut dyn FnMut(Item)) -> Result<(), VerifyError> {
        self.extras(log, 1)?.into_iter().for_each(each);
        Ok(())
    }

    fn checkpoints(&mut self, log: &LogId) -> Result<Vec<(i64, String)>, VerifyError> {
        let reply = self.client.query(
            "SELECT signed_us, note FROM timeline.checkpoint WHERE gateway_id = $1 AND epoch = $2 ORDER BY size",
            &[Param::Text(&log.gateway_id), Param::Int(log.epoch.cast_signed())],
        )?;
        Ok(reply.rows().filter_map(|row| Some((row.int(0)?, row.text(1)?.to_owned()))).collect())
    }

    fn tile(&mut self, log: &LogId, index: u64) -> Result<Vec<Hash>, VerifyError> {
        let reply = self.client.query(
            "SELECT hashes FROM timeline.log_tile WHERE gateway_id = $1 AND epoch = $2 AND tile = $3",
            &[
                Param::Text(&log.gateway_id),
                Param::Int(log.epoch.cast_signed()),
                Param::Int(index.cast_signed()),
            ],
        )?;
        let bytes = reply.rows().next().and_then(|row| row.bytes(0));
        Ok(bytes.and_then(|bytes| tile::hashes(&bytes)).unwrap_or_default())
    }

    fn notes(&mut self, kind: &str) -> Result<Vec<String>, VerifyError> {
        let most = Param::Int(i64::try_from(EXTRAS_MAX).unwrap_or(i64::MAX));
        let sql = "SELECT body FROM timeline.log_note WHERE kind = $1 LIMIT $2";
        let reply = self.client.query(sql, &[Param::Text(kind), most])?;
        Ok(reply.rows().filter_map(|row| row.text(0).map(str::to_owned)).collect())
    }

    fn horizons(&mut self) -> Result<Vec<(String, i64)>, VerifyError> {
        let reply = self.client.query("SELECT class, before_us FROM timeline.retention_horizon", &[])?;
        Ok(reply.rows().filter_map(|row| Some((row.text(0)?.to_owned(), row.int(1)?))).collect())
    }
}

/// A row with its leaf made anew.
fn item(row: Row<'_>, hasher: &mut Hasher) -> Item {
    let hash: Option<Hash> =
        position("leaf_hash").and_then(|place| row.bytes(place)).and_then(|hash| hash.try_into().ok());
    let mut fields = [Field::Null; FIELDS_MAX];
    let mut readable = true;
    for (index, (place, column)) in fields.iter_mut().zip(COLUMNS).enumerate() {
        let Some(text) = row.text(index) else { continue };
        let field = match column.ty {
            Type::Time | Type::Int => text.parse().ok().map(Field::Int),
            Type::Uuid => Uuid::parse_str(text).ok().map(Field::Uuid),
            Type::Text | Type::Json => Some(Field::Text(text)),
            Type::Hash => hash.as_ref().map(Field::Hash),
        };
        readable = readable && field.is_some();
        *place = field.unwrap_or(Field::Null);
    }
    let int = |name| position(name).and_then(|place| row.int(place));
    let access_id = position("access_id").and_then(|place| Uuid::parse_str(row.text(place)?).ok());
    let before_log = int("schema_version").is_none_or(|version| version < 2);
    let class = class_of(position("class").and_then(|place| row.text(place)));
    let what = What::Row { access_id, ts: int("ts"), class, before_log };
    let index = int("log_index").map(i64::cast_unsigned);
    Item { index, stored: hash, leaf: readable.then(|| hasher.fields(&fields)), what }
}
