//! One connection: a request is one write, its answer usually one read, under one Sync.
//!
//! Invariants:
//! - A request is an implicit transaction: `RESET ALL`, the settings, the statement, Sync. What the
//!   settings set ends with it; what code in the database left in the session before, `RESET ALL` and
//!   `pg_advisory_unlock_all()` have undone before the statement is parsed.
//! - A request that may leave more behind is followed by `DISCARD ALL` in the same write. Its answer is
//!   read before the connection is used again, so nobody waits for it.
//! - `busy` is true from the first byte written to the last byte read. A busy connection is never lent.
//! - Reading is cancel-safe: a dropped future leaves `skip` and `owed` right, so that the rest of the
//!   answer can be drained.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, BytesMut};
use doorward_core::Login;
use futures_util::FutureExt;
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::encoded::Encoded;
use crate::error::{Failure, ServerError};
use crate::frames::{self, ERROR_KEPT, FRAME_MAX, Field, HEADER, Head, Malformed};
use crate::hosts::Server;
use crate::request::{Reply, Request, SETTINGS_MAX};
use crate::statements::{CACHED_SQL_MAX, Statements};
use crate::stream::Stream;

/// The most bytes of one request: statement, values and settings.
const REQUEST_MAX: usize = 256 << 20;
/// The most values of one statement: their count is 16 bits wide.
pub(crate) const PARAMS_MAX: usize = 65_535;
/// The most settings that the pool adds to a request's.
const OWN_MAX: usize = 4;
/// Room that a read finds at least: two of the pieces in which the server sends, so that an answer of a hundred
/// rows comes in one read.
const READ_ROOM: usize = 16 * 1024;
/// The buffers' size when a connection is idle; larger ones are given back.
const BUFFER_KEPT: usize = 64 * 1024;
/// What `RESET ALL` is prepared as.
const RESET_NAME: &str = "dw_reset";
/// The OID of `text`.
const TEXT: u32 = 25;

/// What the server needs to know to cancel what runs on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CancelKey {
    pub(crate) process: i32,
    pub(crate) secret: i32,
}

/// A request as the pool completes it.
pub(crate) struct Ask<'a> {
    pub(crate) request: &'a Request<'a>,
    /// The pool's own settings, after the request's.
    pub(crate) own: &'a [(&'a str, &'a str)],
    pub(crate) bytes_max: u64,
    /// Whether the session is discarded afterwards.
    pub(crate) discard: bool,
}

pub(crate) struct Conn {
    stream: Stream,
    input: BytesMut,
    output: BytesMut,
    pub(crate) cancel_key: CancelKey,
    statements: Statements,
    pub(crate) born: Instant,
    pub(crate) idle_since: Instant,
    /// Bytes of the current frame that are still to come.
    skip: usize,
    /// ReadyForQuery messages still to come.
    owed: u32,
    /// Between the first byte of a request and the last of its answer.
    busy: bool,
    /// Whether a request may have been written in part only.
    writing: bool,
    /// Never to be used again.
    broken: bool,
    /// Whether anything was read since the request was written.
    heard: bool,
    /// Frames of the current answer that were taken.
    frames: u32,
    /// Whether the last answer that ended came beyond its reset.
    begun: bool,
    /// The login that it stands on, and the server that it is to.
    login: Option<Arc<Login>>,
    server: Option<Server>,
    /// Whether a notification came that asks for a new catalogue.
    pub(crate) notified: bool,
}

impl Conn {
    /// Over a stream that has been logged in on. `input` is what has been read beyond the login.
    pub(crate) fn new(stream: Stream, input: BytesMut, cancel_key: CancelKey, statements_max: usize) -> Self {
        let now = Instant::now();
        Self {
            stream,
            input,
            output: BytesMut::with_capacity(READ_ROOM),
            cancel_key,
            statements: Statements::new(statements_max),
            born: now,
            idle_since: now,
            skip: 0,
            owed: 0,
            busy: false,
            writing: false,
            broken: false,
            heard: false,
            frames: 0,
            begun: true,
            login: None,
            server: None,
            notified: false,
        }
    }

    /// The same, as a connection to this server that this login was used for.
    pub(crate) fn standing_on(mut self, login: Arc<Login>, server: Server) -> Self {
        (self.login, self.server) = (Some(login), Some(server));
        self
    }

    /// Whether there is a newer login than the one that it stands on, or the primary is elsewhere.
    pub(crate) fn is_superseded(&self) -> bool {
        self.has_old_login() || self.server.as_ref().is_some_and(Server::is_no_primary)
    }

    /// Whether there is a newer login than the one that it stands on.
    pub(crate) fn has_old_login(&self) -> bool {
        self.login.as_ref().is_some_and(|login| login.is_superseded())
    }

    /// Ends it.
    pub(crate) async fn close(mut self) {
        self.stream.end().await;
    }

    /// Whether its server is a replica.
    pub(crate) fn is_to_replica(&self) -> bool {
        self.server.as_ref().is_some_and(Server::is_replica)
    }

    /// The place of its server.
    pub(crate) fn host(&self) -> usize {
        self.server.as_ref().map_or(0, Server::at)
    }

    /// Whether it may be lent again.
    pub(crate) fn is_reusable(&self) -> bool {
        !self.busy && !self.broken
    }

    /// Whether something may still run on it.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Whether an answer can still be drained.
    pub(crate) fn can_drain(&self) -> bool {
        !self.broken && !self.writing
    }

    /// Whether the server's error was the first that it said to the last request.
    pub(crate) fn is_first_word(&self) -> bool {
        self.frames == 0
    }

    /// Whether the last request failed before its own settings were set: in what an earlier one left in the
    /// session, for which it is not to blame. Nothing of it has run.
    pub(crate) fn is_unbegun(&self) -> bool {
        !self.begun
    }

    /// Whether the server has answered nothing to the last request.
    pub(crate) fn is_unheard(&self) -> bool {
        !self.heard
    }

    /// Asks and reads the answer.
    pub(crate) async fn exchange(&mut self, ask: &Ask<'_>) -> Result<Reply, Failure> {
        let mut gather = self.encode(ask)?;
        self.send(if ask.discard { 2 } else { 1 }).await?;
        let result = self.gather(&mut gather, ask.bytes_max).await;
        if ask.discard {
            self.statements.clear();
        }
        match result {
            Ok(()) => Ok(gather.into_reply()),
            // The answer was read to its end. What is still owed is the discard's, and no failure.
            Err(failure @ Failure::Server(_)) => Err(failure),
            Err(failure) => Err(self.note(failure)),
        }
    }

    /// Begins a write of several reads.
    pub(crate) fn begin(&mut self) {
        self.output.clear();
    }

    /// Whether all that a read needs is prepared.
    pub(crate) fn knows(&self, read: &Encoded) -> bool {
        let bit = settings_bit(read.settings);
        self.statements.reset && self.statements.settings & bit != 0 && self.statements.knows(&read.sql)
    }

    /// Appends one read. Only the first of a write may need something prepared.
    pub(crate) fn put(&mut self, read: &Encoded) -> Result<Gather, Failure> {
        let start = self.output.len();
        let put = self.try_put(read);
        if put.is_err() {
            self.output.truncate(start);
        }
        put
    }

    fn try_put(&mut self, read: &Encoded) -> Result<Gather, Failure> {
        let mut gather = Gather::default();
        let name = self.encode_name(&read.sql, &mut gather)?;
        self.encode_reset(&mut gather)?;
        self.prepare_settings(read.settings, &mut gather)?;
        read.put_settings(&mut self.output);
        self.prepare(&name, &read.sql, &mut gather)?;
        read.put_statement(&name, &mut self.output)?;
        frontend::sync(&mut self.output);
        self.statements.closed();
        Ok(gather)
    }

    /// Begins to wait for the next answer of several.
    pub(crate) fn next_answer(&mut self) {
        self.busy = true;
        self.heard = false;
        self.frames = 0;
    }

    /// Reads one answer of several.
    pub(crate) async fn answer(&mut self, gather: &mut Gather, bytes_max: u64) -> Result<(), Failure> {
        match self.gather(gather, bytes_max).await {
            Ok(()) => Ok(()),
            Err(failure @ Failure::Server(_)) => Err(failure),
            Err(failure) => Err(self.note(failure)),
        }
    }

    /// No further answer will be read: what is still owed is to be cancelled and drained.
    pub(crate) fn end_answers(&mut self) {
        self.busy |= self.owed > 0;
    }

    /// Whether it can never be used again.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Makes the connection ready for the next request: reads what is owed from the last one and what
    /// came unasked, and finds out whether it still lives.
    pub(crate) async fn settle(&mut self) -> Result<(), Failure> {
        while self.owed > 0 {
            self.pass_over().await.map_err(|failure| self.note(failure))?;
        }
        // Reads without waiting: an idle connection has nothing to say unless it ends.
        loop {
            while let Some(head) = frames::head(&self.input).map_err(|bad| self.note(bad.into()))? {
                if self.input.len() < HEADER + head.body {
                    break;
                }
                self.pass_over().await.map_err(|failure| self.note(failure))?;
            }
            self.input.reserve(READ_ROOM);
            match self.stream.read_buf(&mut self.input).now_or_never() {
                None => return Ok(()),
                Some(Ok(0)) => return Err(self.note(end_of_stream())),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(self.note(error.into())),
            }
        }
    }

    /// Reads to the end of what has been asked, and throws it away.
    pub(crate) async fn drain(&mut self) -> Result<(), Failure> {
        while self.skip > 0 {
            self.skip_some().await?;
        }
        while self.owed > 0 {
            match self.pass_over().await {
                Ok(()) | Err(Failure::Server(_)) => {}
                Err(failure) => return Err(self.note(failure)),
            }
        }
        self.busy = false;
        Ok(())
    }

    /// Throws away all state of the session, and waits until that is done.
    pub(crate) async fn discard(&mut self) -> Result<(), Failure> {
        self.command("DISCARD ALL").await?;
        self.statements.clear();
        Ok(())
    }

    /// Runs commands that answer no rows, in one simple query. For the gateway's own use.
    pub(crate) async fn command(&mut self, sql: &str) -> Result<(), Failure> {
        self.output.clear();
        frontend::query(sql, &mut self.output)?;
        self.send(1).await?;
        while self.owed > 0 {
            self.pass_over().await.map_err(|failure| self.note(failure))?;
        }
        self.busy = false;
        Ok(())
    }

    /// Waits for something that the server says unasked.
    pub(crate) async fn listen(&mut self) -> Result<(), Failure> {
        self.pass_over().await.map_err(|failure| self.note(failure))
    }

    /// Writes the whole request into `output`.
    fn encode(&mut self, ask: &Ask<'_>) -> Result<Gather, Failure> {
        let request = ask.request;
        let size = request.sql.len()
            + request.params.iter().flatten().map(|value| value.len() + 8).sum::<usize>()
            + request.settings.iter().map(|(name, value)| name.len() + value.len() + 8).sum::<usize>();
        if size > REQUEST_MAX {
            return Err(Failure::RequestTooLarge(REQUEST_MAX));
        }
        // What cannot be encoded is refused before anything is: half a request is never sent.
        if request.params.len() > PARAMS_MAX {
            return Err(Failure::Unsendable("more values than PostgreSQL takes"));
        }
        if request.sql.contains('\0') {
            return Err(Failure::Unsendable("a statement with a zero byte"));
        }
        self.output.clear();
        let mut gather = Gather::default();
        let name = self.encode_name(request.sql, &mut gather)?;
        self.encode_reset(&mut gather)?;
        self.encode_settings(ask, &mut gather)?;
        self.prepare(&name, request.sql, &mut gather)?;
        let out = &mut self.output;
        bind(&name, request.params.iter().copied(), Some(i16::from(request.binary)), out)?;
        let rows_max = request.rows_max.map_or(0, |max| i32::try_from(max).unwrap_or(i32::MAX));
        frontend::execute("", rows_max, out)?;
        frontend::sync(out);
        if ask.discard {
            frontend::query("DISCARD ALL", out)?;
        }
        self.statements.closed();
        Ok(gather)
    }

    /// The name that a statement is prepared as, or will be.
    fn encode_name(&mut self, sql: &str, gather: &mut Gather) -> io::Result<Arc<str>> {
        let name = self.name(sql, gather);
        for evicted in self.statements.closing() {
            frontend::close(b'S', evicted, &mut self.output)?;
        }
        Ok(name)
    }

    fn name(&mut self, sql: &str, gather: &mut Gather) -> Arc<str> {
        if let Some(prepared) = self.statements.find(sql) {
            gather.fields = prepared.fields.clone();
            return prepared.name.clone();
        }
        gather.parsing.main = true;
        if sql.len() > CACHED_SQL_MAX {
            return Arc::from("");
        }
        self.statements.make_room();
        let name = self.statements.fresh_name();
        gather.preparing = Some((name.clone(), sql.into()));
        name
    }

    /// Prepares the statement unless it is prepared.
    fn prepare(&mut self, name: &str, sql: &str, gather: &mut Gather) -> io::Result<()> {
        if gather.parsing.main {
            frontend::parse(name, sql, std::iter::empty(), &mut self.output)?;
            frontend::describe(b'S', name, &mut self.output)?;
        }
        Ok(())
    }

    fn encode_reset(&mut self, gather: &mut Gather) -> io::Result<()> {
        let out = &mut self.output;
        if !self.statements.reset {
            frontend::parse(RESET_NAME, "RESET ALL", std::iter::empty(), out)?;
            gather.parsing.reset = true;
        }
        bind(RESET_NAME, std::iter::empty(), None, out)?;
        frontend::execute("", 0, out)
    }

    fn encode_settings(&mut self, ask: &Ask<'_>, gather: &mut Gather) -> Result<(), Failure> {
        let count = ask.request.settings.len() + ask.own.len();
        self.prepare_settings(count, gather)?;
        let out = &mut self.output;
        let values = ask.request.settings.iter().chain(ask.own).flat_map(|(name, value)| [*name, *value]);
        bind(settings_name(count)?, values.map(|text| Some(text.as_bytes())), None, out)?;
        Ok(frontend::execute("", 0, out)?)
    }

    /// Prepares `set_config` for so many settings unless it is prepared.
    fn prepare_settings(&mut self, count: usize, gather: &mut Gather) -> Result<(), Failure> {
        let bit = settings_bit(count);
        if self.statements.settings & bit == 0 {
            let types = std::iter::repeat_n(TEXT, 2 * count);
            frontend::parse(settings_name(count)?, &settings_sql(count), types, &mut self.output)?;
            gather.parsing.settings = Some(bit);
        }
        Ok(())
    }

    /// Writes what has been encoded; so many ReadyForQuery will answer it.
    pub(crate) async fn send(&mut self, owed: u32) -> Result<(), Failure> {
        self.busy = true;
        self.heard = false;
        self.frames = 0;
        self.writing = true;
        self.owed += owed;
        let sent = async {
            self.stream.write_all(&self.output).await?;
            self.stream.flush().await
        };
        if let Err(error) = sent.await {
            return Err(self.note(error.into()));
        }
        self.writing = false;
        if self.output.capacity() > BUFFER_KEPT {
            self.output = BytesMut::with_capacity(READ_ROOM);
        }
        Ok(())
    }

    /// Reads the answer up to its ReadyForQuery.
    async fn gather(&mut self, gather: &mut Gather, bytes_max: u64) -> Result<(), Failure> {
        loop {
            let head = self.head().await?;
            if head.tag == b'D' {
                self.row(head, gather, bytes_max).await?;
                continue;
            }
            if is_large_error(head) {
                let error = self.large_error(head).await?;
                gather.refused(error)?;
                self.frames = self.frames.saturating_add(1);
                continue;
            }
            self.fill(head).await?;
            let body = self.input.get(HEADER..HEADER + head.body).unwrap_or_default();
            let status = gather.take(head.tag, body, &mut self.statements)?;
            self.input.advance(HEADER + head.body);
            self.frames = self.frames.saturating_add(1);
            if let Some(status) = status {
                self.owed -= 1;
                self.broken |= status != b'I';
                self.busy = false;
                self.begun = gather.completed > 0;
                return gather.error.take().map_or(Ok(()), |error| Err(Failure::Server(error)));
            }
        }
    }

    /// Takes one row; its size is checked before it is buffered.
    async fn row(&mut self, head: Head, gather: &mut Gather, bytes_max: u64) -> Result<(), Failure> {
        if gather.completed < 2 {
            return Err(Malformed("a row that nobody asked for").into());
        }
        let start = gather.data.len();
        let total = start + head.body + (gather.ends.len() + 1) * HEADER;
        if u64::try_from(total).unwrap_or(u64::MAX) > bytes_max {
            return Err(Failure::TooLarge(bytes_max));
        }
        gather.data.reserve(head.body);
        let there = head.body.min(self.input.len().saturating_sub(HEADER));
        gather.data.extend_from_slice(self.input.get(HEADER..HEADER + there).unwrap_or_default());
        self.input.advance(HEADER + there);
        self.skip = head.body - there;
        while self.skip > 0 {
            if self.skip < READ_ROOM {
                // The end of a row comes together with what follows it.
                self.more().await?;
                let there = self.skip.min(self.input.len());
                gather.data.extend_from_slice(self.input.get(..there).unwrap_or_default());
                self.input.advance(there);
                self.skip -= there;
                continue;
            }
            // The rest of a large row is read straight to where it stays.
            let left = u64::try_from(self.skip).unwrap_or(u64::MAX);
            let read = (&mut self.stream).take(left).read_buf(&mut gather.data).await?;
            if read == 0 {
                return Err(end_of_stream());
            }
            self.skip = self.skip.saturating_sub(read);
        }
        frames::check_row(gather.data.get(start..).unwrap_or_default())?;
        gather.ends.push(gather.data.len());
        Ok(())
    }

    /// Takes one frame that nobody asks for: the rest of an old answer, or something said unasked.
    async fn pass_over(&mut self) -> Result<(), Failure> {
        let head = self.head().await?;
        if is_large_error(head) {
            return Err(server_failure(self.large_error(head).await?));
        }
        if head.body > FRAME_MAX || head.tag == b'D' {
            if head.tag != b'D' {
                return Err(Malformed("a frame that is too large").into());
            }
            self.input.advance(HEADER);
            self.skip = head.body;
            while self.skip > 0 {
                self.skip_some().await?;
            }
            return Ok(());
        }
        self.fill(head).await?;
        let body = self.input.get(HEADER..HEADER + head.body).unwrap_or_default();
        let mut outcome = Ok(());
        match head.tag {
            b'Z' => {
                self.owed = self.owed.checked_sub(1).ok_or(Malformed("ReadyForQuery unasked"))?;
                self.broken |= frames::ready(body)? != b'I';
            }
            b'E' => outcome = Err(server_failure(frames::server_error(body)?)),
            b'A' => self.notified |= asks_for_reload(frames::notification(body)?),
            b'S' => check_parameter(frames::parameter(body)?)?,
            _ => {}
        }
        self.input.advance(HEADER + head.body);
        outcome
    }

    /// Takes the front of an error that is too large to be kept whole.
    async fn large_error(&mut self, head: Head) -> Result<ServerError, Failure> {
        while self.input.len() < HEADER + ERROR_KEPT {
            self.more().await?;
        }
        let front = self.input.get(HEADER..HEADER + ERROR_KEPT).unwrap_or_default();
        let error = frames::cut_server_error(front)?;
        self.input.advance(HEADER + ERROR_KEPT);
        self.skip = head.body.saturating_sub(ERROR_KEPT);
        while self.skip > 0 {
            self.skip_some().await?;
        }
        Ok(error)
    }

    async fn skip_some(&mut self) -> Result<(), Failure> {
        if self.input.is_empty() {
            self.more().await?;
        }
        let there = self.skip.min(self.input.len());
        self.input.advance(there);
        self.skip -= there;
        Ok(())
    }

    async fn head(&mut self) -> Result<Head, Failure> {
        loop {
            if let Some(head) = frames::head(&self.input)? {
                return Ok(head);
            }
            self.more().await?;
        }
    }

    /// Reads until the whole frame is in the buffer.
    async fn fill(&mut self, head: Head) -> Result<(), Failure> {
        if head.body > FRAME_MAX {
            return Err(Malformed("a frame that is too large").into());
        }
        while self.input.len() < HEADER + head.body {
            self.more().await?;
        }
        Ok(())
    }

    async fn more(&mut self) -> Result<(), Failure> {
        if self.input.is_empty() && self.input.capacity() > BUFFER_KEPT {
            self.input = BytesMut::with_capacity(READ_ROOM);
        }
        self.input.reserve(READ_ROOM);
        if self.stream.read_buf(&mut self.input).await? == 0 {
            return Err(end_of_stream());
        }
        self.heard = true;
        Ok(())
    }

    /// Keeps in mind what a failure means for the connection.
    fn note(&mut self, failure: Failure) -> Failure {
        self.broken |= match &failure {
            Failure::Fatal(_) | Failure::Io(_) => {
                // The session is over: there is nothing left to cancel.
                self.busy = false;
                true
            }
            Failure::Protocol(_) | Failure::Login(_) | Failure::Membership(_) | Failure::NoPrimary(_) => true,
            // Outside of an exchange nothing may fail.
            Failure::Server(_) => self.owed > 0 && !self.busy,
            Failure::TooLarge(_) | Failure::RequestTooLarge(_) | Failure::Unsendable(_) => false,
        };
        failure
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        // Says goodbye if that needs no waiting; the server copes without.
        if self.is_reusable() {
            let _ = self.stream.write_all(b"X\0\0\0\x04").now_or_never();
        }
    }
}

/// Which ParseComplete messages are still to come, in their order.
#[derive(Default)]
struct Parsing {
    reset: bool,
    settings: Option<u32>,
    main: bool,
}

/// An answer while it is read.
#[derive(Default)]
pub(crate) struct Gather {
    /// The name that the statement is being prepared as, and the statement.
    preparing: Option<(Arc<str>, Box<str>)>,
    parsing: Parsing,
    described: bool,
    fields: Option<Arc<[Field]>>,
    data: BytesMut,
    ends: Vec<usize>,
    /// Of reset, settings, statement: how many have ended.
    completed: u8,
    affected: u64,
    more: bool,
    error: Option<Box<ServerError>>,
}

impl Gather {
    /// Takes one frame; answers the transaction's status when it is ReadyForQuery.
    fn take(&mut self, tag: u8, body: &[u8], statements: &mut Statements) -> Result<Option<u8>, Failure> {
        match tag {
            b'1' => self.parsed(statements)?,
            b'T' => {
                self.fields = Some(frames::fields(body)?);
                self.prepared(statements);
            }
            b'n' => self.prepared(statements),
            b'C' | b'I' | b's' => self.completed(tag, body)?,
            b'E' => self.refused(frames::server_error(body)?)?,
            b'S' => check_parameter(frames::parameter(body)?)?,
            b'Z' => return self.ready(body).map(Some),
            // BindComplete, CloseComplete, ParameterDescription, notices and notifications.
            b'2' | b'3' | b't' | b'N' | b'A' => {}
            _ => return Err(Malformed("a message out of place").into()),
        }
        Ok(None)
    }

    fn refused(&mut self, error: ServerError) -> Result<(), Failure> {
        if error.is_fatal() {
            return Err(Failure::Fatal(Box::new(error)));
        }
        self.error = Some(Box::new(error));
        Ok(())
    }

    fn parsed(&mut self, statements: &mut Statements) -> Result<(), Malformed> {
        if std::mem::take(&mut self.parsing.reset) {
            statements.reset = true;
        } else if let Some(bit) = self.parsing.settings.take() {
            statements.settings |= bit;
        } else if std::mem::take(&mut self.parsing.main) {
            self.described = true;
        } else {
            return Err(Malformed("ParseComplete unasked"));
        }
        Ok(())
    }

    fn prepared(&mut self, statements: &mut Statements) {
        if std::mem::take(&mut self.described)
            && let Some((name, sql)) = self.preparing.take()
        {
            statements.insert(sql, name, self.fields.clone());
        }
    }

    fn completed(&mut self, tag: u8, body: &[u8]) -> Result<(), Malformed> {
        self.completed = self.completed.saturating_add(1);
        if self.completed > 3 {
            return Err(Malformed("CommandComplete unasked"));
        }
        if self.completed == 3 {
            self.more = tag == b's';
            self.affected = if tag == b'C' { frames::affected(body)? } else { 0 };
        }
        Ok(())
    }

    fn ready(&self, body: &[u8]) -> Result<u8, Failure> {
        if self.error.is_none() && self.completed != 3 {
            return Err(Malformed("ReadyForQuery before the answer").into());
        }
        Ok(frames::ready(body)?)
    }

    pub(crate) fn into_reply(self) -> Reply {
        Reply {
            fields: self.fields,
            data: self.data.freeze(),
            ends: self.ends,
            affected: self.affected,
            more: self.more,
        }
    }
}

/// Appends Bind of the unnamed portal; values are in text form.
pub(crate) fn bind<'v>(
    statement: &str,
    values: impl Iterator<Item = Option<&'v [u8]>>,
    result_format: Option<i16>,
    out: &mut BytesMut,
) -> io::Result<()> {
    let write = |value: Option<&[u8]>, out: &mut BytesMut| match value {
        None => Ok(IsNull::Yes),
        Some(value) => {
            out.extend_from_slice(value);
            Ok(IsNull::No)
        }
    };
    frontend::bind("", statement, std::iter::empty(), values, write, result_format, out).map_err(|error| {
        match error {
            frontend::BindError::Conversion(error) => io::Error::other(error),
            frontend::BindError::Serialization(error) => error,
        }
    })
}

/// What `set_config` for so many settings is prepared as.
pub(crate) fn settings_name(count: usize) -> Result<&'static str, Failure> {
    const NAMES: [&str; SETTINGS_MAX + OWN_MAX + 1] = [
        "dw_set0", "dw_set1", "dw_set2", "dw_set3", "dw_set4", "dw_set5", "dw_set6", "dw_set7", "dw_set8",
        "dw_set9", "dw_set10", "dw_set11", "dw_set12", "dw_set13", "dw_set14", "dw_set15", "dw_set16",
        "dw_set17", "dw_set18", "dw_set19", "dw_set20",
    ];
    NAMES.get(count).copied().ok_or(Failure::Unsendable("too many settings"))
}

/// The bit of [`Statements::settings`] that stands for so many settings.
fn settings_bit(count: usize) -> u32 {
    1_u32.checked_shl(u32::try_from(count).unwrap_or(u32::MAX)).unwrap_or(0)
}

/// Sets all settings and answers no row: no value is ever NULL, so the whole condition is evaluated,
/// from left to right, and is false. Locks that code in the database left behind are released first.
fn settings_sql(count: usize) -> String {
    let mut sql = String::from("SELECT WHERE pg_catalog.pg_advisory_unlock_all() IS NULL");
    for index in 0..count {
        let (name, value) = (2 * index + 1, 2 * index + 2);
        sql.push_str(&format!(" OR pg_catalog.set_config(${name}, ${value}, true) IS NULL"));
    }
    sql
}

/// PostgREST's channel and the gateway's own: `reload schema`, or nothing.
fn asks_for_reload((channel, payload): (&str, &str)) -> bool {
    matches!(channel, "pgrst" | "doorward") && matches!(payload, "" | "reload schema")
}

/// All text is UTF-8; a session that has been talked into something else is not read any further.
fn check_parameter((name, value): (&str, &str)) -> Result<(), Malformed> {
    if name == "client_encoding" && value != "UTF8" {
        return Err(Malformed("client_encoding is no longer UTF8"));
    }
    Ok(())
}

fn is_large_error(head: Head) -> bool {
    head.tag == b'E' && head.body > FRAME_MAX
}

fn server_failure(error: ServerError) -> Failure {
    if error.is_fatal() { Failure::Fatal(Box::new(error)) } else { Failure::Server(Box::new(error)) }
}

fn end_of_stream() -> Failure {
    Failure::Io(io::ErrorKind::UnexpectedEof.into())
}
