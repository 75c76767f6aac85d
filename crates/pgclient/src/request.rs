//! What is asked of the backend, and what it answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::frames::{self, Field};

/// One statement with what is set for it alone.
///
/// The role is not here: it is the permit's, and the pool takes it from the pass. So is
/// `doorward.access_id`, the call's id. A lease without a role acts as the login itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    /// Settings of this transaction only, as names and values: `request.jwt.claims`,
    /// `application_name`, `search_path` … at most [`SETTINGS_MAX`]. The roles, the
    /// transaction's modes and `statement_timeout` are the pool's to set.
    pub settings: &'a [(&'a str, &'a str)],
    /// Whether the transaction may only read. What only reads is asked once more when a connection
    /// turns out to be dead.
    pub read_only: bool,
    /// Whether the statement calls a function that the caller named (RPC). The connection is then
    /// discarded of all session state before it is lent again, even after a read.
    pub calls_function: bool,
    /// The statement. It is prepared once for each connection, so it should not hold values.
    pub sql: &'a str,
    /// The values of `$1`, `$2` …, in text form; `None` is NULL.
    pub params: &'a [Option<&'a [u8]>],
    /// Whether values are answered in binary form.
    pub binary: bool,
    /// The most bytes of rows that are taken; the query is cancelled before more are buffered.
    /// `None` is the pool's own bound, which also caps this one.
    pub bytes_max: Option<u64>,
    /// The most rows that are taken; the answer says when there are more.
    pub rows_max: Option<u32>,
    /// How long the statement may run; `None` is the pool's own bound, which also caps this one.
    pub timeout: Option<Duration>,
}

/// The most settings that one request may bring.
pub const SETTINGS_MAX: usize = 16;

/// What the statement answered.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub(crate) fields: Option<Arc<[Field]>>,
    /// The DataRow bodies, one after the other.
    pub(crate) data: Bytes,
    /// Where each row ends in `data`.
    pub(crate) ends: Vec<usize>,
    pub(crate) affected: u64,
    pub(crate) more: bool,
}

impl Reply {
    /// The columns; empty for a statement that answers no rows.
    pub fn fields(&self) -> &[Field] {
        self.fields.as_deref().unwrap_or_default()
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Rows read or changed, as the command tag counts them.
    pub fn affected(&self) -> u64 {
        self.affected
    }

    /// Whether there were more rows than `rows_max`.
    pub fn more(&self) -> bool {
        self.more
    }

    /// Bytes of all rows, as the server sent them.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// The rows, in order.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let from = std::mem::replace(&mut start, end);
            Row { data: &self.data, body: self.data.get(from..end).unwrap_or_default() }
        })
    }

    /// The first row.
    pub fn first(&self) -> Option<Row<'_>> {
        self.rows().next()
    }
}

/// One row of a reply.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    data: &'a Bytes,
    body: &'a [u8],
}

impl<'a> Row<'a> {
    /// One DataRow's body that has been checked.
    pub(crate) fn of(data: &'a Bytes) -> Self {
        Self { data, body: data }
    }

    /// The values, in order; `None` is NULL.
    pub fn values(&self) -> impl Iterator<Item = Option<&'a [u8]>> {
        frames::cells(self.body)
    }

    /// The value of one column; `None` when it is NULL or there is no such column.
    pub fn value(&self, column: usize) -> Option<&'a [u8]> {
        self.values().nth(column).flatten()
    }

    /// The value of one column as text; `None` also when it is not UTF-8.
    pub fn text(&self, column: usize) -> Option<&'a str> {
        self.value(column).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The value of one column, sharing the reply's memory.
    pub fn shared(&self, column: usize) -> Option<Bytes> {
        self.value(column).map(|value| self.share(value))
    }

    /// A value that came from this row, sharing the reply's memory.
    pub fn share(&self, value: &[u8]) -> Bytes {
        self.data.slice_ref(value)
    }
}
