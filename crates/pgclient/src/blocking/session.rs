//! One session: frames out, frames in.
//!
//! Invariants: each wait for the server is bounded by `wait_max`, and so is each write; whatever leaves
//! the session out of step marks it broken, and a broken session is never used again.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Param;
use crate::error::{Failure, ServerError};
use crate::frames::{self, ERROR_KEPT, FRAME_MAX, Field, HEADER, Head, Malformed};
use crate::handshake::LoggedIn;
use crate::stream::Stream;

/// The most bytes of one row.
const ROW_MAX: usize = 64 << 20;
/// The most bytes of one statement with its values.
const STATEMENT_MAX: usize = 64 << 20;
/// Room that a read finds at least.
const READ_ROOM: usize = 16 * 1024;
/// The largest CopyData frame; more is cut into several.
const COPY_FRAME_MAX: usize = 256 * 1024;
/// How long a server that has closed the connection may take to say why.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What a statement answered beside its rows.
#[derive(Debug, Default)]
pub(super) struct Answered {
    pub(super) fields: Option<Arc<[Field]>>,
    pub(super) affected: u64,
}

pub(super) struct Session {
    stream: Stream,
    input: BytesMut,
    output: BytesMut,
    wait_max: Duration,
    /// `I` idle, `T` in a transaction, `E` in a failed one.
    status: u8,
    broken: bool,
}

impl Session {
    pub(super) fn new(logged_in: LoggedIn, wait_max: Duration) -> Self {
        let LoggedIn { stream, input, .. } = logged_in;
        Self { stream, input, output: BytesMut::new(), wait_max, status: b'I', broken: false }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    pub(super) fn in_transaction(&self) -> bool {
        self.status != b'I'
    }

    /// Never to be used again.
    pub(super) fn give_up(&mut self) {
        self.broken = true;
    }

    /// Keeps in mind what a failure means for the session: only an error that the server answered, or one
    /// that was found before anything was sent, leaves it in step.
    pub(super) fn note(&mut self, failure: &Failure) {
        let in_step = matches!(
            failure,
            Failure::Server(_) | Failure::TooLarge(_) | Failure::RequestTooLarge(_) | Failure::Unsendable(_)
        );
        self.broken |= !in_step;
    }

    /// Says goodbye if that needs no waiting; the server copes without.
    pub(super) fn say_goodbye(&mut self) {
        if !self.broken {
            let _ = self.stream.write_all(b"X\0\0\0\x04").now_or_never();
        }
    }

    /// Runs statements by the simple protocol; the last one's command tag.
    pub(super) async fn simple(&mut self, sql: &str) -> Result<Box<str>, Failure> {
        self.begin_query(sql)?;
        self.send().await?;
        let mut ending = Ending::default();
        loop {
            let (tag, body) = self.frame().await?;
            // The simple protocol answers rows too; nobody asked for them here.
            if let Some(ended) = ending.take(self, tag, &body)? {
                return ended;
            }
        }
    }

    /// Runs one statement with values; `each` is shown each DataRow's body. What it refuses is told after
    /// the rest of the answer has been passed over.
    pub(super) async fn ask(
        &mut self,
        sql: &str,
        params: &[Param<'_>],
        each: &mut dyn FnMut(Bytes) -> Result<(), Failure>,
    ) -> Result<Answered, Failure> {
        self.encode(sql, params)?;
        self.send().await?;
        let mut ending = Ending::default();
        let mut fields = None;
        let mut refused = None;
        loop {
            let (tag, body) = self.frame().await?;
            match tag {
                b'D' => {
                    frames::check_row(&body)?;
                    if refused.is_none() {
                        refused = each(body).err();
                    }
                    continue;
                }
                b'T' => fields = Some(frames::fields(&body)?),
                b'G' | b'H' | b'W' => return Err(Malformed("COPY where none was asked for").into()),
                _ => {}
            }
            if let Some(ended) = ending.take(self, tag, &body)? {
                ended?;
                let affected = ending.affected;
                return refused.map_or(Ok(Answered { fields, affected }), Err);
            }
        }
    }

    pub(super) async fn copy_begin(&mut self, sql: &str) -> Result<(), Failure> {
        self.begin_query(sql)?;
        self.send().await?;
        let mut ending = Ending::default();
        loop {
            let (tag, body) = self.frame().await?;
            if tag == b'G' {
                return Ok(());
            }
            if let Some(ended) = ending.take(self, tag, &body)? {
                ended?;
                return Err(Failure::Unsendable("a COPY that takes no data"));
            }
        }
    }

    pub(super) async fn copy_write(&mut self, data: &[u8]) -> Result<(), Failure> {
        for part in data.chunks(COPY_FRAME_MAX) {
            self.output.clear();
            self.output.put_u8(b'd');
            self.output.put_u32(u32::try_from(part.len() + 4).unwrap_or(u32::MAX));
            self.output.put_slice(part);
            self.send().await?;
            self.heed().await?;
        }
        Ok(())
    }

    pub(super) async fn copy_finish(&mut self) -> Result<u64, Failure> {
        self.output.clear();
        frontend::copy_done(&mut self.output);
        self.send().await?;
        let mut ending = Ending::default();
        loop {
            let (tag, body) = self.frame().await?;
            if let Some(ended) = ending.take(self, tag, &body)? {
                ended?;
                return Ok(ending.affected);
            }
        }
    }

    pub(super) async fn copy_abort(&mut self) -> Result<(), Failure> {
        self.output.clear();
        frontend::copy_fail("given up", &mut self.output)?;
        self.send().await?;
        let mut ending = Ending::default();
        loop {
            let (tag, body) = self.frame().await?;
            match ending.take(self, tag, &body)? {
                Some(Err(Failure::Server(_)) | Ok(_)) => return Ok(()),
                Some(Err(other)) => return Err(other),
                None => {}
            }
        }
    }

    /// Looks, without waiting, whether the server has refused the COPY already. After its error the server
    /// passes over what is still on the way.
    async fn heed(&mut self) -> Result<(), Failure> {
        self.input.reserve(READ_ROOM);
        match self.stream.read_buf(&mut self.input).now_or_never() {
            None => {}
            Some(Ok(0)) => return Err(end_of_stream()),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.into()),
        }
        if self.input.is_empty() {
            return Ok(());
        }
        let mut ending = Ending::default();
        while ending.error.is_some() || frames::head(&self.input)?.is_some_and(|head| self.is_here(head)) {
            let (tag, body) = self.frame().await?;
            if let Some(ended) = ending.take(self, tag, &body)? {
                ended?;
                return Err(Malformed("the end of a COPY that has not ended").into());
            }
        }
        Ok(())
    }

    fn is_here(&self, head: Head) -> bool {
        self.input.len() >= HEADER + head.body
    }

    fn begin_query(&mut self, sql: &str) -> Result<(), Failure> {
        check(sql, 0)?;
        self.output.clear();
        Ok(frontend::query(sql, &mut self.output)?)
    }

    fn encode(&mut self, sql: &str, params: &[Param<'_>]) -> Result<(), Failure> {
        let size = params.iter().map(|param| match param {
            Param::Text(text) => text.len() + 8,
            Param::Bytes(bytes) => bytes.len() + 8,
            Param::Null | Param::Int(_) | Param::Bool(_) => 32,
        });
        check(sql, size.sum())?;
        if params.len() > usize::from(u16::MAX) {
            return Err(Failure::Unsendable("more values than PostgreSQL takes"));
        }
        self.output.clear();
        let out = &mut self.output;
        frontend::parse("", sql, std::iter::empty(), out)?;
        let formats = params.iter().map(|param| i16::from(matches!(param, Param::Bytes(_))));
        let bound = frontend::bind("", "", formats, params, write_param, Some(0), out);
        bound.map_err(|error| match error {
            frontend::BindError::Conversion(error) => io::Error::other(error),
            frontend::BindError::Serialization(error) => error,
        })?;
        frontend::describe(b'P', "", out)?;
        frontend::execute("", 0, out)?;
        frontend::sync(out);
        Ok(())
    }

    async fn send(&mut self) -> Result<(), Failure> {
        let sending = async {
            self.stream.write_all(&self.output).await?;
            self.stream.flush().await
        };
        let failed = match tokio::time::timeout(self.wait_max, sending).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => Failure::Io(error),
            Err(_) => return Err(Failure::Io(io::ErrorKind::TimedOut.into())),
        };
        // A server that hangs up often says why first: that is worth more than "broken pipe".
        match tokio::time::timeout(LAST_WORDS, self.last_words()).await {
            Ok(Some(error)) => Err(Failure::Fatal(error)),
            Ok(None) | Err(_) => Err(failed),
        }
    }

    async fn last_words(&mut self) -> Option<Box<ServerError>> {
        loop {
            let (tag, body) = self.frame().await.ok()?;
            if tag == b'E' {
                return frames::server_error(&body).ok().map(Box::new);
            }
        }
    }

    /// One whole frame; of an error that is too large, its front.
    async fn frame(&mut self) -> Result<(u8, Bytes), Failure> {
        let head = loop {
            match frames::head(&self.input)? {
                Some(head) => break head,
                None => self.more(READ_ROOM).await?,
            }
        };
        let (most, kept) = match head.tag {
            b'D' => (ROW_MAX, head.body),
            b'E' => (usize::MAX, head.body.min(ERROR_KEPT)),
            _ => (FRAME_MAX, head.body),
        };
        if head.body > most {
            return Err(Malformed("a frame that is too large").into());
        }
        while self.input.len() < HEADER + kept {
            self.more((HEADER + kept).saturating_sub(self.input.len()).max(READ_ROOM)).await?;
        }
        self.input.advance(HEADER);
        let body = self.input.split_to(kept).freeze();
        let mut skip = head.body - kept;
        while skip > 0 {
            if self.input.is_empty() {
                self.more(READ_ROOM).await?;
            }
            let there = skip.min(self.input.len());
            self.input.advance(there);
            skip -= there;
        }
        let body = if kept < head.body { [&body[..], &[0, 0]].concat().into() } else { body };
        Ok((head.tag, body))
    }

    async fn more(&mut self, room: usize) -> Result<(), Failure> {
        self.input.reserve(room);
        match tokio::time::timeout(self.wait_max, self.stream.read_buf(&mut self.input)).await {
            Ok(Ok(0)) => Err(end_of_stream()),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Failure::Io(io::ErrorKind::TimedOut.into())),
        }
    }
}

/// What is known of an answer when its ReadyForQuery comes.
#[derive(Default)]
struct Ending {
    error: Option<Box<ServerError>>,
    tag: Box<str>,
    affected: u64,
}

impl Ending {
    /// Takes one frame; answers the end of the statement when it is ReadyForQuery.
    fn take(
        &mut self,
        session: &mut Session,
        tag: u8,
        body: &[u8],
    ) -> Result<Option<Result<Box<str>, Failure>>, Failure> {
        match tag {
            b'C' => {
                self.affected = frames::affected(body)?;
                let text = body.split_last().map_or(&[][..], |(_, text)| text);
                self.tag = String::from_utf8_lossy(text).into();
            }
            b'E' => {
                let error = frames::server_error(body)?;
                if error.is_fatal() {
                    return Err(Failure::Fatal(Box::new(error)));
                }
                self.error = Some(Box::new(error));
            }
            b'S' => {
                if let ("client_encoding", value) = frames::parameter(body)?
                    && value != "UTF8"
                {
                    return Err(Malformed("client_encoding is no longer UTF8").into());
                }
            }
            b'Z' => {
                session.status = frames::ready(body)?;
                return Ok(Some(match self.error.take() {
                    Some(error) => Err(Failure::Server(error)),
                    None => Ok(std::mem::take(&mut self.tag)),
                }));
            }
            // Rows of the simple protocol, ParseComplete, BindComplete, descriptions, an empty query, an
            // end of rows, notices and notifications.
            b'D' | b'T' | b'1' | b'2' | b't' | b'n' | b'I' | b's' | b'N' | b'A' => {}
            _ => return Err(Malformed("a message out of place").into()),
        }
        Ok(None)
    }
}

fn check(sql: &str, values: usize) -> Result<(), Failure> {
    if sql.contains('\0') {
        return Err(Failure::Unsendable("a statement with a zero byte"));
    }
    if sql.len().saturating_add(values) > STATEMENT_MAX {
        return Err(Failure::RequestTooLarge(STATEMENT_MAX));
    }
    Ok(())
}

fn write_param(
    param: &Param<'_>,
    out: &mut BytesMut,
) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
    match param {
        Param::Null => return Ok(IsNull::Yes),
        Param::Text(text) => out.put_slice(text.as_bytes()),
        Param::Int(number) => out.put_slice(number.to_string().as_bytes()),
        Param::Bool(value) => out.put_slice(if *value { b"t" } else { b"f" }),
        Param::Bytes(bytes) => out.put_slice(bytes),
    }
    Ok(IsNull::No)
}

fn end_of_stream() -> Failure {
    Failure::Io(io::ErrorKind::UnexpectedEof.into())
}
