//! The store in PostgreSQL, with or without TimescaleDB.
//!
//! A batch is one transaction: the high-water mark moves on from where the gateway last saw it, records come by
//! COPY in binary form, and what belongs to them beside. A mark that is somewhere else ends the batch, so a
//! batch whose COMMIT was never answered is not written twice, and two gateways of one name do not mix.
//! A large batch is sent by a thread of its own, so that the shipper reads the next one meanwhile; there is never
//! more than one on its way.
//!
//! Constraints: the gateway's login may add and nothing else (`doorward_writer`); the schema is `migrate`'s to
//! make and to change, never this file's; it is compared with the compiled columns when the store is opened (so
//! after every error too), each [`CHECK_EVERY`], and before a row is called refused.

mod encode;
mod migrate;
mod outgoing;
mod schema;

use std::sync::Arc;
use std::thread::JoinHandle;
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
use outgoing::Outgoing;

/// How often the schema is compared with what this program writes.
const CHECK_EVERY: Duration = Duration::from_secs(30);
/// What the thread that sends a batch is called.
const THREAD: &str = "audit-store";
/// Bytes of rows from which on a batch is sent by a thread of its own. Smaller ones are sent at once.
const LARGE: usize = 256 << 10;
/// How long a statement, a COPY included, may take.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// The store.
#[derive(Debug)]
pub struct PostgresStore {
    connection: Connection,
    copy: Arc<str>,
    /// Kept from one batch to the next.
    buffer: Vec<u8>,
    checked: Instant,
}

/// Where the connection is.
#[derive(Debug)]
enum Connection {
    Here(Client),
    /// With the thread that sends a batch.
    Away(JoinHandle<Sent>),
    /// Lost with a thread. The shipper opens the store anew after any error.
    Lost,
}

/// What the thread that sent a batch gives back.
#[derive(Debug)]
struct Sent {
    client: Client,
    buffer: Vec<u8>,
    written: Result<(), StoreError>,
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
        let copy = format!("COPY doorward.access_event ({}) FROM STDIN BINARY", columns.join(", ")).into();
        Ok(Self { connection: Connection::Here(client), copy, buffer: Vec::new(), checked: Instant::now() })
    }

    /// The connection, once the batch that it carries is written. An error is that batch's.
    fn client(&mut self) -> Result<&mut Client, StoreError> {
        let before = std::mem::replace(&mut self.connection, Connection::Lost);
        if let Connection::Away(thread) = before {
            let sent = thread.join().map_err(|_| lost())?;
            self.buffer = sent.buffer;
            self.connection = Connection::Here(sent.client);
            self.judge(sent.written)?;
        } else {
            self.connection = before;
        }
        self.connection.here()
    }

    /// Tells a value that is refused apart from a schema that has changed: a column of another type refuses every row.
    fn judge(&mut self, written: Result<(), StoreError>) -> Result<(), StoreError> {
        match written {
            Err(StoreError::Postgres(ClientError::Server(error))) if refuses_a_value(&error.sqlstate) => {
                schema::check(self.connection.here()?)?;
                Err(StoreError::Rejected(error.to_string()))
            }
            written => written,
        }
    }

    /// Lets a thread of its own send a batch.
    fn hand_over(&mut self, outgoing: Outgoing) -> Result<(), StoreError> {
        let Connection::Here(mut client) = std::mem::replace(&mut self.connection, Connection::Lost) else {
            return Err(lost());
        };
        let copy = self.copy.clone();
        let send = move || {
            let written = outgoing.write(&mut client, &copy);
            Sent { client, buffer: outgoing.into_buffer(), written }
        };
        self.connection = Connection::Away(std::thread::Builder::new().name(THREAD.into()).spawn(send)?);
        Ok(())
    }
}

impl Connection {
    fn here(&mut self) -> Result<&mut Client, StoreError> {
        match self {
            Self::Here(client) => Ok(client),
            Self::Away(_) | Self::Lost => Err(lost()),
        }
    }
}

fn lost() -> StoreError {
    ClientError::Lost("the thread that had it failed".to_owned()).into()
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        // Whoever opens the store next finds the mark where this batch leaves it. The server bounds the wait.
        if let Connection::Away(thread) = std::mem::replace(&mut self.connection, Connection::Lost) {
            // A thread that panicked has no more to say than that the connection is gone.
            let _ = thread.join();
        }
    }
}

impl Store for PostgresStore {
    fn high_water(&mut self, gateway_id: &str, epoch: u64) -> Result<HighWater, StoreError> {
        let key = [Param::Text(gateway_id), number(epoch)];
        // Made first and then locked: a COMMIT of ours that is still under way on a connection that was lost is
        // waited for, so that what is read here is what became of it.
        let client = self.client()?;
        client
            .execute("INSERT INTO doorward.high_water VALUES ($1, $2, 0, 0) ON CONFLICT DO NOTHING", &key)?;
        let reply = client.query(
            "SELECT last_seq, next_leaf FROM doorward.high_water WHERE gateway_id = $1 AND epoch = $2 FOR UPDATE",
            &key,
        )?;
        let at = |column| reply.first().and_then(|row| row.int(column)).unwrap_or(0).cast_unsigned();
        Ok(HighWater { last_seq: at(0), next_leaf: at(1) })
    }

    fn open_intents(&mut self, gateway_id: &str, epoch: u64) -> Result<Vec<OpenIntent>, StoreError> {
        let reply = self.client()?.query(
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
        let reply = self.client()?.query(
            "SELECT DISTINCT epoch FROM doorward.open_intent WHERE gateway_id = $1 AND epoch < $2 ORDER BY 1",
            &[Param::Text(gateway_id), number(epoch)],
        )?;
        Ok(reply.rows().filter_map(|row| row.int(0)).map(i64::cast_unsigned).collect())
    }

    fn write(&mut self, batch: &Batch<'_>) -> Result<(), StoreError> {
        if self.checked.elapsed() > CHECK_EVERY {
            schema::check(self.client()?)?;
            self.checked = Instant::now();
        }
        // Encoded while the batch before is still on its way.
        let outgoing = Outgoing::of(batch, std::mem::take(&mut self.buffer))?;
        self.client()?;
        if outgoing.bytes() >= LARGE {
            return self.hand_over(outgoing);
        }
        let written = outgoing.write(self.connection.here()?, &self.copy);
        self.buffer = outgoing.into_buffer();
        self.judge(written)
    }

    fn finish(&mut self) -> Result<(), StoreError> {
        self.client().map(drop)
    }

    fn retain(&mut self, retention: &Retention, now_us: i64) -> Result<bool, StoreError> {
        let client = self.client()?;
        client.query("SELECT doorward.maintain()", &[])?;
        let folded = client.query("SELECT doorward.fold_rollups()", &[])?;
        let mut more = folded.first().and_then(|row| row.bool(0)) == Some(true);
        more |= crate::retention::postgres::expire(self.client()?, retention, now_us)?;
        // A day goes when nothing of it is to be kept any longer.
        if let Some(keep_us) = retention.longest_us() {
            let before = now_us.saturating_sub(keep_us);
            more |= self.remove_days(before)?;
            self.client()?.query(&format!("SELECT doorward.remove_log({TIME})"), &[Param::Int(before)])?;
        }
        Ok(more)
    }

    fn shrink(&mut self, limit: u64, announced_us: Option<i64>) -> Result<Shrink, StoreError> {
        let sql = "SELECT bytes, (extract(epoch FROM oldest_day_ends) * 1000000)::bigint FROM doorward.records_size()";
        let reply = self.client()?.query(sql, &[])?;
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
        let reply = self
            .client()?
            .query(&format!("SELECT doorward.remove_days({TIME})"), &[Param::Int(before_us)])?;
        Ok(reply.first().and_then(|row| row.int(0)).unwrap_or(0) > 0)
    }
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
