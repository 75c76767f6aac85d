//! The timeline in PostgreSQL or TimescaleDB, through the views that its reader may see.

use doorward_core::Timestamp;
use doorward_pgclient::Row as Reply;
use doorward_pgclient::blocking::{Client, ClientError, Options, Param};

use super::select::{Bind, Dialect, NEWEST_FIRST, OLDEST_FIRST, Select};
use super::stats::Kind;
use super::{Cell, Filter, GAPS_MAX, GapRow, QueryError, Row};
use crate::columns::{COLUMNS, Type};
use crate::config::Server;
use crate::time::rfc3339;

/// A follower sees records of calls that began within this time: older days are not searched each time.
const FOLLOW_WITHIN: &str = "2 days";
/// The most starts of gateways that a follower keeps in mind.
const STARTS_MAX: usize = 10_000;
/// The place of rows that no start counts: what follows has no number above it.
type Leaves = Vec<(String, i64, i64)>;

pub(super) struct Reader {
    client: Client,
    user: String,
    place: String,
}

impl Reader {
    pub(super) fn connect(server: &Server) -> Result<Self, QueryError> {
        let login = server.reader.as_ref().unwrap_or(&server.login);
        let options = Options { application_name: "doorward audit".into(), ..Options::default() };
        let read = login.read().map_err(QueryError::Login)?;
        let client = Client::connect(&server.target, &read, &options).map_err(QueryError::Client)?;
        let mut reader = Self { client, user: login.user.to_string(), place: server.target.to_string() };
        reader.batch("SET default_transaction_read_only = on")?;
        Ok(reader)
    }

    pub(super) fn newest_first(
        &mut self,
        filter: &Filter,
        each: &mut dyn FnMut(Row) -> bool,
    ) -> Result<(), QueryError> {
        let select = Select::of(Dialect::Postgres, filter);
        self.run(&select, NEWEST_FIRST, Some(filter.limit()), each)
    }

    pub(super) fn oldest_first(
        &mut self,
        filter: &Filter,
        each: &mut dyn FnMut(Row) -> bool,
    ) -> Result<(), QueryError> {
        let select = Select::of(Dialect::Postgres, filter);
        self.run(&select, OLDEST_FIRST, filter.limit, each)
    }

    pub(super) fn newest(&mut self) -> Result<Leaves, QueryError> {
        let sql = format!(
            "SELECT gateway_id, epoch, next_leaf FROM timeline.high_water ORDER BY gateway_id, epoch DESC LIMIT {STARTS_MAX}"
        );
        let reply = self.query(&sql, &[])?;
        let leaf = |row: Reply<'_>| Some((row.text(0)?.to_owned(), row.int(1)?, row.int(2)?));
        Ok(reply.rows().filter_map(leaf).collect())
    }

    pub(super) fn follow(
        &mut self,
        filter: &Filter,
        after: &[(String, i64, i64)],
    ) -> Result<(Vec<Row>, Leaves), QueryError> {
        let mut next = self.newest()?;
        let mut rows = Vec::new();
        for (gateway, epoch, to) in &mut next {
            let seen = after.iter().find(|(name, start, _)| name == gateway && start == epoch);
            let from = seen.map_or(0, |(_, _, leaf)| *leaf);
            if from >= *to {
                continue;
            }
            let left = filter.limit().saturating_sub(rows.len());
            if left == 0 {
                *to = from;
                continue;
            }
            let mut select = Select::of(Dialect::Postgres, filter);
            select.add("gateway_id =", Bind::Text(gateway.clone()));
            select.add("epoch =", Bind::Int(*epoch));
            select.add("log_index >=", Bind::Int(from));
            select.add("log_index <", Bind::Int(*to));
            select.add("ts > now() -", Bind::Text(FOLLOW_WITHIN.to_owned()));
            let before = rows.len();
            self.run(&select, "log_index", Some(left), &mut |row| {
                rows.push(row);
                true
            })?;
            if rows.len() - before >= left {
                let last = rows.last().and_then(|row| row.int("log_index"));
                *to = last.map_or(*to, |last| last.saturating_add(1));
            }
        }
        Ok((rows, next))
    }

    pub(super) fn gaps(&mut self, since: i64, until: i64) -> Result<Vec<GapRow>, QueryError> {
        let sql = format!(
            "SELECT from_us, until_us, lost, gateway_id, reason FROM timeline.audit_gap
             WHERE until_us >= $1 AND from_us < $2 ORDER BY from_us LIMIT {GAPS_MAX}"
        );
        let reply = self.query(&sql, &[Param::Int(since), Param::Int(until)])?;
        let gap = |row: Reply<'_>| {
            Some(GapRow {
                from: Timestamp::from_micros(row.int(0)?),
                until: Timestamp::from_micros(row.int(1)?),
                lost: row.int(2)?.cast_unsigned(),
                gateway_id: row.text(3)?.to_owned(),
                reason: row.text(4)?.to_owned(),
            })
        };
        Ok(reply.rows().filter_map(gap).collect())
    }

    /// Asks the rollups' views about a span of time.
    pub(super) fn ask(
        &mut self,
        sql: &str,
        (since, until): (i64, i64),
        kinds: &[Kind],
    ) -> Result<Vec<Vec<Cell>>, QueryError> {
        let time = |micros| rfc3339(Timestamp::from_micros(micros));
        let reply = self.query(sql, &[Param::Text(&time(since)), Param::Text(&time(until))])?;
        let cell = |row: Reply<'_>, (place, kind): (usize, &Kind)| match (kind, row.text(place)) {
            (_, None) => Cell::Null,
            (Kind::Text, Some(text)) => Cell::Text(text.to_owned()),
            (Kind::Int, Some(text)) => text.parse().map_or(Cell::Null, Cell::Int),
        };
        Ok(reply.rows().map(|row| kinds.iter().enumerate().map(|kind| cell(row, kind)).collect()).collect())
    }

    fn query(&mut self, sql: &str, params: &[Param<'_>]) -> Result<doorward_pgclient::Reply, QueryError> {
        let answered = self.client.query(sql, params);
        answered.map_err(|error| self.explain(error))
    }

    fn batch(&mut self, sql: &str) -> Result<(), QueryError> {
        let done = self.client.batch(sql);
        done.map_err(|error| self.explain(error))
    }

    fn run(
        &mut self,
        select: &Select,
        order: &str,
        limit: Option<usize>,
        each: &mut dyn FnMut(Row) -> bool,
    ) -> Result<(), QueryError> {
        let sql = select.sql("", "timeline.access_event", order, limit);
        let params: Vec<Param<'_>> = select
            .binds
            .iter()
            .map(|bind| match bind {
                Bind::Int(number) => Param::Int(*number),
                Bind::Text(text) => Param::Text(text),
            })
            .collect();
        let shown = self.client.query_each(&sql, &params, |row| each(cells(row)));
        shown.map_err(|error| self.explain(error))
    }

    fn explain(&self, error: ClientError) -> QueryError {
        match error.sqlstate() {
            Some("42501") => QueryError::NotReader(self.user.clone()),
            // No such table, column, schema or function.
            Some("42P01" | "42703" | "3F000" | "42883") => QueryError::NotMigrated(self.place.clone()),
            _ => QueryError::Client(error),
        }
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("place", &self.place).field("user", &self.user).finish_non_exhaustive()
    }
}

fn cells(row: Reply<'_>) -> Row {
    let cells = COLUMNS.iter().zip(row.values()).map(|(column, value)| {
        let Some(value) = value else { return Cell::Null };
        let text = String::from_utf8_lossy(value);
        match column.ty {
            Type::Time | Type::Int => text.parse().map_or(Cell::Null, Cell::Int),
            Type::Text | Type::Uuid | Type::Json | Type::Hash => Cell::Text(text.into_owned()),
        }
    });
    Row::new(cells.collect())
}
