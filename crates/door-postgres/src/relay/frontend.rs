//! The messages of a client, as far as the gateway looks into them.
//!
//! Invariants: a message is read whole only where its text or its names are needed, and those have bounds;
//! values stream through, and only their front is looked at; nothing panics on any input.

use std::ffi::CStr;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use doorward_core::Fault;
use doorward_pgclient::{HEADER, head};
use tokio::io::AsyncRead;

use super::gulp::gulp;
use crate::codes;

/// The largest statement.
pub(crate) const SQL_BYTES_MAX: usize = 1 << 20;
/// The longest name of a prepared statement or portal.
pub(crate) const NAME_BYTES_MAX: usize = 1_024;
/// How much is read ahead, to learn whether the client is still there.
const AHEAD_BYTES_MAX: usize = 64 << 10;
/// As much of a message as its names may take.
pub(crate) const NAMES_BYTES_MAX: usize = 2 * NAME_BYTES_MAX + 2;

/// What a client has sent and is not looked at yet.
#[derive(Debug)]
pub(crate) struct Inbox<R> {
    stream: R,
    bytes: BytesMut,
}

/// The head of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) tag: u8,
    /// Bytes of body.
    pub(crate) body: usize,
}

impl<R: AsyncRead + Unpin> Inbox<R> {
    /// What comes stands behind what has been read already.
    pub(crate) fn new(stream: R, bytes: BytesMut) -> Self {
        Self { stream, bytes }
    }

    /// Returns when the client has gone. What it sends meanwhile is kept; behind more than that its end is not
    /// looked for, and it is noticed when the wait is over, which has a bound of its own.
    pub(crate) async fn gone(&mut self) {
        gone(&mut self.stream, &mut self.bytes).await;
    }

    /// The next message's head, which stays where it is; `None` at the end.
    pub(crate) async fn next(&mut self) -> std::io::Result<Option<Result<Message, Fault>>> {
        loop {
            match head(&self.bytes) {
                Err(malformed) => return Ok(Some(Err(protocol(malformed)))),
                Ok(Some(head)) => return Ok(Some(Ok(Message { tag: head.tag, body: head.body }))),
                Ok(None) => {
                    if !self.more().await? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Whether a whole head is there already: no need to send off what is gathered.
    pub(crate) fn has_next(&self) -> bool {
        self.bytes.len() >= HEADER
    }

    /// Whether this much is there.
    pub(crate) fn has(&self, bytes: usize) -> bool {
        self.bytes.len() >= bytes
    }

    /// Waits until this much of a message (head included) is there; `false` at the end.
    pub(crate) async fn want(&mut self, bytes: usize) -> std::io::Result<bool> {
        while self.bytes.len() < bytes {
            if !self.more().await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// All that is there.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Puts messages that have been taken back in front.
    pub(crate) fn put_back(&mut self, messages: &[u8]) {
        let mut bytes = BytesMut::with_capacity(messages.len() + self.bytes.len());
        bytes.extend_from_slice(messages);
        bytes.extend_from_slice(&self.bytes);
        self.bytes = bytes;
    }

    /// What is there of the next message's body, up to its end.
    pub(crate) fn body(&self, message: Message) -> &[u8] {
        let end = self.bytes.len().min(HEADER.saturating_add(message.body));
        self.bytes.get(HEADER..end).unwrap_or_default()
    }

    /// Takes up to `bytes` of what is there.
    pub(crate) fn take(&mut self, bytes: usize) -> BytesMut {
        let count = self.bytes.len().min(bytes);
        self.bytes.split_to(count)
    }

    /// Skips up to `bytes` of what is there; how many were there.
    pub(crate) fn skip(&mut self, bytes: usize) -> usize {
        let count = self.bytes.len().min(bytes);
        self.bytes.advance(count);
        count
    }

    /// Reads on; `false` at the end.
    pub(crate) async fn more(&mut self) -> std::io::Result<bool> {
        Ok(gulp(&mut self.stream, &mut self.bytes).await? > 0)
    }
}

/// Returns when the other side has gone, for somebody who takes no messages at the moment: what comes is kept, up to a
/// bound. May be dropped at any time.
pub(crate) async fn gone<R: AsyncRead + Unpin>(stream: &mut R, bytes: &mut BytesMut) {
    while bytes.len() < AHEAD_BYTES_MAX {
        if !matches!(gulp(stream, bytes).await, Ok(count) if count > 0) {
            return;
        }
    }
    std::future::pending().await
}

pub(crate) fn protocol(what: impl std::fmt::Display) -> Fault {
    Fault::new(codes::PROTOCOL, "the message does not follow the protocol").cause(what)
}

/// Takes a text with its end from the front of a body.
pub(crate) fn text<'a>(rest: &mut &'a [u8], bytes_max: usize) -> Result<&'a str, Fault> {
    let looked_at = rest.get(..bytes_max.saturating_add(1)).unwrap_or(rest);
    // Which looks at words of bytes at a time.
    let found = CStr::from_bytes_until_nul(looked_at);
    let Ok(end) = found.map(CStr::count_bytes) else {
        if rest.len() > bytes_max {
            return Err(Fault::new(
                codes::MESSAGE_TOO_LARGE,
                "a name or statement in the message is too long",
            ));
        }
        return Err(protocol("a text without an end"));
    };
    let (text, after) = rest.split_at(end);
    *rest = after.get(1..).unwrap_or_default();
    std::str::from_utf8(text)
        .map_err(|_| Fault::new(codes::PROTOCOL, "a text in the message is not UTF-8").backend_code("22021"))
}

/// The body of Query: one text and nothing else.
pub(crate) fn query(mut body: &[u8]) -> Result<&str, Fault> {
    let sql = text(&mut body, SQL_BYTES_MAX)?;
    if body.is_empty() { Ok(sql) } else { Err(protocol("bytes behind the statement")) }
}

/// The body of Parse: the statement's name and text, and what stands behind them: types of parameters, whose form
/// is the backend's affair.
pub(crate) fn parse(mut body: &[u8]) -> Result<(&str, &str, &[u8]), Fault> {
    let name = text(&mut body, NAME_BYTES_MAX)?;
    Ok((name, text(&mut body, SQL_BYTES_MAX)?, body))
}

/// Types of parameters, as Parse and ParameterDescription have them: a count, and four bytes each.
pub(crate) fn types(body: &[u8]) -> Arc<[u32]> {
    let types = body.get(2..).unwrap_or_default().as_chunks::<4>().0;
    types.iter().map(|oid| u32::from_be_bytes(*oid)).collect()
}

/// The front of Bind: portal and statement, and what is there of the values.
pub(crate) fn bind(mut body: &[u8]) -> Result<(&str, &str, &[u8]), Fault> {
    let portal = text(&mut body, NAME_BYTES_MAX)?;
    Ok((portal, text(&mut body, NAME_BYTES_MAX)?, body))
}

/// The body of Describe and Close: `S` or `P`, and a name.
pub(crate) fn named(body: &[u8]) -> Result<(u8, &str), Fault> {
    let (kind, mut rest) = body.split_first().ok_or_else(|| protocol("an empty message"))?;
    let name = text(&mut rest, NAME_BYTES_MAX)?;
    match kind {
        b'S' | b'P' if rest.is_empty() => Ok((*kind, name)),
        _ => Err(protocol("neither a statement nor a portal")),
    }
}

/// The body of Execute: the portal.
pub(crate) fn execute(mut body: &[u8]) -> Result<&str, Fault> {
    let portal = text(&mut body, NAME_BYTES_MAX)?;
    if body.len() == 4 { Ok(portal) } else { Err(protocol("length of Execute")) }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[test]
    fn messages_are_read_as_far_as_needed() {
        assert_eq!(query(b"select 1\0").unwrap(), "select 1");
        let (name, text, behind) = parse(b"s\0select $1\0\0\x01\0\0\0\x17").unwrap();
        assert_eq!((name, text, &*types(behind)), ("s", "select $1", &[23][..]));
        assert_eq!(bind(b"p\0s\0\0\0\0").unwrap(), ("p", "s", &b"\0\0\0"[..]));
        assert_eq!(named(b"Sname\0").unwrap(), (b'S', "name"));
        assert_eq!(execute(b"\0\0\0\0\x05").unwrap(), "");
        for wrong in [&b"select 1"[..], b"select 1\0x", b"\xff\0"] {
            assert!(query(wrong).is_err(), "{wrong:?}");
        }
        assert!(named(b"X\0").is_err() && named(b"").is_err() && execute(b"\0").is_err());
    }

    #[test]
    fn the_end_of_a_text_behind_the_bound_is_not_looked_for() {
        let long = [vec![b'x'; NAME_BYTES_MAX + 1], vec![0]].concat();
        assert_eq!(bind(&long).unwrap_err().code(), codes::MESSAGE_TOO_LARGE);
    }

    #[tokio::test]
    async fn a_client_that_goes_is_noticed_and_what_it_sent_is_kept() {
        let (mut client, server) = tokio::io::duplex(4 * AHEAD_BYTES_MAX);
        let mut inbox = Inbox::new(server, BytesMut::from(&b"Q"[..]));
        assert_eq!(inbox.gone().now_or_never(), None);
        client.write_all(b"\0\0\0\x0dselect 1\0").await.unwrap();
        assert_eq!(inbox.gone().now_or_never(), None);
        let message = inbox.next().await.unwrap().unwrap().unwrap();
        assert_eq!(query(inbox.body(message)).unwrap(), "select 1");
        // Who sends on and on is not read on and on.
        client.write_all(&vec![0; 3 * AHEAD_BYTES_MAX]).await.unwrap();
        drop(client);
        assert_eq!(inbox.gone().now_or_never(), None);
        assert!(inbox.bytes.len() < 2 * AHEAD_BYTES_MAX);
        inbox.skip(usize::MAX);
        while inbox.more().await.unwrap() {
            inbox.skip(usize::MAX);
        }
        assert_eq!(inbox.gone().now_or_never(), Some(()));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = (query(&body), parse(&body), bind(&body), named(&body), execute(&body));
        }
    }
}
