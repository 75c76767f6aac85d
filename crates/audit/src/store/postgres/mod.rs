//! The store in PostgreSQL, with or without TimescaleDB.
//!
//! A batch is one transaction: the high-water mark moves on from where the gateway last saw it, records come by
//! COPY in binary form, and what belongs to them beside. A mark that is somewhere else ends the batch, so a
//! batch whose COMMIT was never answered is not written twice, and two gateways of one name do not mix.
//!
//! Constraints: the gateway's login may add and nothing else (`doorward_writer`); the schema is `migrate`'s to
//! make and to change, never this file's; it is compared with the compiled columns when the store is opened (so
//! after every error too), each [`CHECK_EVERY`], and before a row is called refused.

mod encode;
mod migrate;
mod schema;

use std::time::{Duration, Instant};

use doorward_core::{Clock, SystemClock};
use doorward_pgclient::blocking::{Client, ClientError, Options, Param};
use uuid::Uuid;

pub use migrate::{
    Edition, Grantee, HASH_PARTITIONS_MAX, Migration, Migrator, Scope, Step, VERSION as SCHEMA_VERSION,
};
pub use schema::StoreFacts;

use super::config::{Server, StoreLogin};
use super::{Batch, HighWater, OpenIntent, Shrink, Store, StoreError, TooLarge};
use crate::columns::COLUMNS;
use crate::config::Retention;
use crate::leaf;
use crate::rollup;

/// How often the schema is compared with what this program writes.
const CHECK_EVERY: Duration = Duration::from_secs(30);
/// Bytes of rows that are gathered before they are sent.
const CHUNK: usize = 256 << 10;
/// How long a statement, a COPY included, may take.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// The store.
#[derive(Debug)]
pub struct PostgresStore {
    client: Client,
    copy: String,
    /// Kept from one batch to the next.
    buffer: Vec<u8>,
    checked: Instant,
}

/// What a store is, asked with the gateway's login. Blocks.
pub fn facts(server: &Server) -> Result<StoreFacts, StoreError> {
    schema::facts(&mut connect(server)?, || SystemClock.now().micros())
}

/// Compares a store with what this program writes, with the gateway's login. Blocks.
pub fn check(server: &Server) -> Result<(), StoreError> {
    schema::check(&mut connect(server)?)
}

/// How many scopes a reader has; without one it sees nothing. Blocks.
pub fn scopes(server: &Server, reader: &StoreLogin) -> Result<i64, StoreError> {
    let mut client = connect_as(server, reader)?;
    let reply = client.query("SELECT count(*) FROM doorward.own_scope", &[])?;
    Ok(reply.first().and_then(|row| row.int(0)).unwrap_or(0))
}

fn connect(server: &Server) -> Result<Client, StoreError> {
    connect_as(server, &server.login)
}

fn connect_as(server: &Server, login: &StoreLogin) -> Result<Client, StoreError> {
    let login = login.read().map_err(|problem| StoreError::Login(problem.to_string()))?;
    let options = Options {
        application_name: "doorward".into(),
        statement_timeout: STATEMENT_TIMEOUT,
        ..Options::default()
    };
    Ok(Client::connect(&server.target, &login, &options)?)
}

impl PostgresStore {
    /// Connects, and checks the schema. Blocks.
    pub fn open(server: &Server) -> Result<Self, StoreError> {
        let mut client = connect(server)?;
        schema::check(&mut client)?;
        client.query("SELECT doorward.maintain()", &[])?;
        let columns: Vec<String> = COLUMNS.iter().map(|column| format!("\"{}\"", column.name)).collect();
        let copy = format!("COPY doorward.access_event ({}) FROM STDIN BINARY", columns.join(", "));
        Ok(Self { client, copy, buffer: Vec::with_capacity(2 * CHUNK), checked: Instant::now() })
    }

    fn write_once(&mut self, batch: &Batch<'_>) -> Result<(), StoreError> {
        let Self { client, copy, buffer, .. } = self;
        client.transaction(|client| {
            move_mark(client, batch)?;
            copy_records(client, copy, buffer, batch)?;
            keep_intents(client, batch)?;
            insert_gaps(client, batch)?;
            insert_dead_letters(client, batch)?;
            insert_log(client, batch)?;
            Ok(rollup::postgres::append(client, &batch.rollups)?)
        })
    }
}

impl Store for PostgresStore {
    fn high_water(&mut self, gateway_id: &str, epoch: u64) -> Result<HighWater, StoreError> {
        let key = [Param::Text(gateway_id), number(epoch)];
        // Made first and then locked: a COMMIT of ours that is still under way on a connection that was lost is
        // waited for, so that what is read here is what became of it.
        self.client
            .execute("INSERT INTO doorward.high_water VALUES ($1, $2, 0, 0) ON CONFLICT DO NOTHING", &key)?;
        let reply = self.client.query(
            "SELECT last_seq, next_leaf FROM doorward.high_water WHERE gateway_id = $1 AND epoch = $2 FOR UPDATE",
            &key,
        )?;
        let at = |column| reply.first().and_then(|row| row.int(column)).unwrap_or(0).cast_unsigned();
        Ok(HighWater { last_seq: at(0), next_leaf: at(1) })
    }

    fn open_intents(&mut self, gateway_id: &str, epoch: u64) -> Result<Vec<OpenIntent>, StoreError> {
        let reply = self.client.query(
            "SELECT seq, access_id, payload, columns FROM doorward.open_intent
             WHERE gateway_id = $1 AND epoch = $2 ORDER BY seq",
            &[Param::Text(gateway_id), number(epoch)],
        )?;
        let intent = |row: doorward_pgclient::Row<'_>| {
            Some(OpenIntent {
                seq: row.int(0)?.cast_unsigned(),
                access_id: Uuid::parse_str(row.text(1)?).ok()?,
                payload: row.bytes(2)?,
                columns: row.text(3)?.to_owned(),
            })
        };
        Ok(reply.rows().filter_map(intent).collect())
    }

    fn unfinished_epochs(&mut self, gateway_id: &str, epoch: u64) -> Result<Vec<u64>, StoreError> {
        let reply = self.client.query(
            "SELECT DISTINCT epoch FROM doorward.open_intent WHERE gateway_id = $1 AND epoch < $2 ORDER BY 1",
            &[Param::Text(gateway_id), number(epoch)],
        )?;
        Ok(reply.rows().filter_map(|row| row.int(0)).map(i64::cast_unsigned).collect())
    }

    fn write(&mut self, batch: &Batch<'_>) -> Result<(), StoreError> {
        if self.checked.elapsed() > CHECK_EVERY {
            schema::check(&mut self.client)?;
            self.checked = Instant::now();
        }
        let written = self.write_once(batch);
        match &written {
            Err(StoreError::Postgres(ClientError::Server(error))) if refuses_a_value(&error.sqlstate) => {
                let reason = error.to_string();
                // A column of another type refuses every row: then it is not the row.
                schema::check(&mut self.client)?;
                Err(StoreError::Rejected(reason))
            }
            _ => written,
        }
    }

    fn retain(&mut self, retention: &Retention, now_us: i64) -> Result<bool, StoreError> {
        self.client.query("SELECT doorward.maintain()", &[])?;
        let folded = self.client.query("SELECT doorward.fold_rollups()", &[])?;
        let mut more = folded.first().and_then(|row| row.bool(0)) == Some(true);
        more |= crate::retention::postgres::expire(&mut self.client, retention, now_us)?;
        // A day goes when nothing of it is to be kept any longer.
        if let Some(keep_us) = retention.longest_us() {
            let before = now_us.saturating_sub(keep_us);
            more |= self.remove_days(before)?;
            self.client.query(&format!("SELECT doorward.remove_log({TIME})"), &[Param::Int(before)])?;
        }
        Ok(more)
    }

    fn shrink(&mut self, limit: u64, announced_us: Option<i64>) -> Result<Shrink, StoreError> {
        let sql = "SELECT bytes, (extract(epoch FROM oldest_day_ends) * 1000000)::bigint FROM doorward.records_size()";
        let reply = self.client.query(sql, &[])?;
        let at = |column| reply.first().and_then(|row| row.int(column));
        let (Some(bytes), Some(before_us)) = (at(0).map(i64::cast_unsigned), at(1)) else {
            return Ok(Shrink::Done);
        };
        // The owner lets no younger day go.
        if bytes <= limit || before_us > SystemClock.now().micros().saturating_sub(DAY_US) {
            return Ok(Shrink::Done);
        }
        if announced_us < Some(before_us) {
            return Ok(Shrink::Tell(TooLarge { before_us, bytes, limit }));
        }
        Ok(if self.remove_days(before_us)? { Shrink::Removed } else { Shrink::Done })
    }
}

/// The owner's floor of retention, in microseconds.
const DAY_US: i64 = 24 * 60 * 60 * 1_000_000;
/// `$1` microseconds since 1970 as a time; exact, where floating point would not be.
const TIME: &str = "'epoch'::timestamptz + $1::bigint * interval '1 microsecond'";

impl PostgresStore {
    fn remove_days(&mut self, before_us: i64) -> Result<bool, StoreError> {
        let reply =
            self.client.query(&format!("SELECT doorward.remove_days({TIME})"), &[Param::Int(before_us)])?;
        Ok(reply.first().and_then(|row| row.int(0)).unwrap_or(0) > 0)
    }
}

/// Moves the mark from where the batch says that it stands.
fn move_mark(client: &mut Client, batch: &Batch<'_>) -> Result<(), StoreError> {
    let key = [Param::Text(batch.gateway_id), number(batch.epoch)];
    let marks = [batch.to_seq, batch.leaf_to, batch.from_seq, batch.leaf_from].map(number);
    let all: Vec<Param<'_>> = key.into_iter().chain(marks).collect();
    let begins = batch.from_seq == 0 && batch.leaf_from == 0;
    let moved = if begins {
        client.execute(
            "INSERT INTO doorward.high_water AS h VALUES ($1, $2, $3, $4)
             ON CONFLICT (gateway_id, epoch) DO UPDATE
             SET last_seq = excluded.last_seq, next_leaf = excluded.next_leaf
             WHERE h.last_seq = $5 AND h.next_leaf = $6",
            &all,
        )?
    } else {
        client.execute(
            "UPDATE doorward.high_water SET last_seq = $3, next_leaf = $4
             WHERE gateway_id = $1 AND epoch = $2 AND last_seq = $5 AND next_leaf = $6",
            &all,
        )?
    };
    if moved == 1 {
        return Ok(());
    }
    let reply = client
        .query("SELECT last_seq FROM doorward.high_water WHERE gateway_id = $1 AND epoch = $2", &key)?;
    Err(StoreError::Moved {
        gateway_id: batch.gateway_id.to_owned(),
        epoch: batch.epoch,
        expected: batch.from_seq,
        found: reply.first().and_then(|row| row.int(0)).unwrap_or(0).cast_unsigned(),
    })
}

fn copy_records(
    client: &mut Client,
    sql: &str,
    buffer: &mut Vec<u8>,
    batch: &Batch<'_>,
) -> Result<(), StoreError> {
    if batch.records.is_empty() {
        return Ok(());
    }
    let mut copy = client.copy_in(sql)?;
    buffer.clear();
    buffer.extend_from_slice(encode::HEADER);
    for record in &batch.records {
        for action in 0..leaf::rows(&record.access) {
            if let Err(error) = encode::row(buffer, &record.row(batch.gateway_id, batch.epoch, action)) {
                copy.abort()?;
                return Err(error);
            }
            if buffer.len() >= CHUNK {
                copy.write(buffer)?;
                buffer.clear();
            }
        }
    }
    buffer.extend_from_slice(encode::TRAILER);
    copy.write(buffer)?;
    copy.finish()?;
    Ok(())
}

fn keep_intents(client: &mut Client, batch: &Batch<'_>) -> Result<(), StoreError> {
    for intent in &batch.opened {
        client.execute(
            "INSERT INTO doorward.open_intent VALUES ($1, $2, $3, $4, $5, $6)",
            &[
                Param::Text(batch.gateway_id),
                number(batch.epoch),
                number(intent.seq),
                Param::Text(&intent.access_id.to_string()),
                Param::Bytes(&intent.payload),
                Param::Text(&intent.columns),
            ],
        )?;
    }
    if !batch.closed.is_empty() {
        let ids: Vec<String> = batch.closed.iter().map(Uuid::to_string).collect();
        let array = format!("{{{}}}", ids.join(","));
        client.execute(
            "DELETE FROM doorward.open_intent WHERE access_id = ANY ($1::uuid[])",
            &[Param::Text(&array)],
        )?;
    }
    Ok(())
}

fn insert_gaps(client: &mut Client, batch: &Batch<'_>) -> Result<(), StoreError> {
    for lost in &batch.gaps {
        let gap = &lost.gap;
        client.execute(
            "INSERT INTO doorward.audit_gap VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            &[
                Param::Int(gap.from_us),
                Param::Int(gap.until_us),
                Param::Text(batch.gateway_id),
                number(batch.epoch),
                number(lost.seq),
                number(gap.lost),
                Param::Text(&gap.reason),
                lost.leaf.map_or(Param::Null, |(index, _)| number(index)),
                lost.leaf.as_ref().map_or(Param::Null, |(_, hash)| Param::Bytes(&hash[..])),
            ],
        )?;
    }
    Ok(())
}

fn insert_dead_letters(client: &mut Client, batch: &Batch<'_>) -> Result<(), StoreError> {
    for letter in &batch.dead_letters {
        for row in letter.rows(batch.gateway_id, batch.epoch) {
            client.execute(
                "INSERT INTO doorward.dead_letter VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
                &[
                    Param::Text(batch.gateway_id),
                    number(batch.epoch),
                    number(row.seq),
                    Param::Text(&row.access_id.to_string()),
                    row.leaf.map_or(Param::Null, |(index, _)| number(index)),
                    row.leaf.as_ref().map_or(Param::Null, |(_, hash)| Param::Bytes(&hash[..])),
                    Param::Text(&letter.reason.replace('\0', "\u{fffd}")),
                    Param::Text(&row.payload),
                ],
            )?;
        }
    }
    Ok(())
}

/// What the log says about itself, its checkpoints and its tiles.
fn insert_log(client: &mut Client, batch: &Batch<'_>) -> Result<(), StoreError> {
    let (gateway_id, epoch) = (Param::Text(batch.gateway_id), number(batch.epoch));
    for note in &batch.notes {
        client.execute(
            "INSERT INTO doorward.log_note VALUES ($1, $2, $3, $4, $5, $6)",
            &[
                gateway_id,
                epoch,
                number(note.index),
                Param::Text(&note.kind),
                Param::Text(&note.body),
                Param::Bytes(&note.leaf_hash[..]),
            ],
        )?;
    }
    for checkpoint in &batch.checkpoints {
        client.execute(
            // The one with more cosignatures stays; of two that are alike, the first, which says more about age.
            "INSERT INTO doorward.checkpoint AS c VALUES ($1, $2, $3, $4, $5) ON CONFLICT (gateway_id, epoch, size)
             DO UPDATE SET signed_us = excluded.signed_us, note = excluded.note
             WHERE length(excluded.note) > length(c.note)",
            &[
                gateway_id,
                epoch,
                number(checkpoint.size),
                Param::Int(checkpoint.signed_us),
                Param::Text(&checkpoint.note),
            ],
        )?;
    }
    for tile in &batch.tiles {
        client.execute(
            "INSERT INTO doorward.log_tile VALUES ($1, $2, $3, $4) ON CONFLICT (gateway_id, epoch, tile)
             DO UPDATE SET hashes = excluded.hashes",
            &[gateway_id, epoch, number(tile.index), Param::Bytes(&tile.hashes)],
        )?;
    }
    Ok(())
}

/// Whether an error is about the data, so that the same batch would be refused again: data exceptions,
/// violated constraints, limits of the program.
fn refuses_a_value(sqlstate: &str) -> bool {
    ["22", "23", "54"].iter().any(|class| sqlstate.starts_with(class))
}

/// PostgreSQL's integers are signed; our numbers stay far below its largest.
fn number(number: u64) -> Param<'static> {
    Param::Int(number.cast_signed())
}

#[cfg(test)]
pub(crate) mod tests;
