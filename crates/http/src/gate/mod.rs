//! The wire gate: a strict reading of each HTTP/1 byte stream in front of hyper.
//!
//! hyper lets several smuggling forms through: `Content-Length` with `Transfer-Encoding`, two `Host`
//! fields, a target that contradicts `Host`, bare line feeds. [`Gated`] follows the framing and passes only
//! what reads one way. The first head that does not is replaced by a marker request, so that the ordinary
//! handler refuses it, in its turn behind pipelined predecessors; nothing follows it.
//!
//! Invariants: a byte passes unchanged or not at all; after a violation nothing is interpreted; a head that
//! is not whole is never shown to hyper.

mod framing;
mod head;

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

pub use framing::{
    Advance, CHUNK_LINE_BYTES_MAX, Framing, HEADERS_MAX, HeadLimits, Stop, TRAILER_BYTES_MAX, Violation,
};

use crate::codes;

/// What stands in the place of the first offending head. The gate passes no other request of this target
/// as a violation: without one in the slot it is a path like any other.
const MARKER: &[u8] = b"GET /.malformed HTTP/1.1\r\nhost: gate.invalid\r\nconnection: close\r\n\r\n";
const MARKER_PATH: &str = "/.malformed";
/// How much is read at a time.
const READ_BYTES: usize = 8 << 10;
/// How much of what a refused peer goes on sending is read, and for how long: a socket that is closed with
/// unread bytes in it resets the connection, and the refusal is lost on its way.
const LINGER_BYTES_MAX: usize = 256 << 10;
const LINGER_SPAN_MAX: Duration = Duration::from_secs(1);

/// Where the gate leaves what it found, for the handler.
#[derive(Clone, Debug, Default)]
pub struct Slot(Arc<OnceLock<Violation>>);

impl Slot {
    /// The violation that this request stands for, if it is the marker.
    pub fn violation_of(&self, path: &str) -> Option<Violation> {
        if path == MARKER_PATH { self.0.get().copied() } else { None }
    }
}

/// The gate's times.
#[derive(Clone, Copy, Debug)]
pub struct Spans {
    /// How long a head may take from its first byte.
    pub head_max: Duration,
    /// How long the peer may leave an answer untaken.
    pub write_stall_max: Duration,
}

/// A byte stream behind the gate.
pub struct Gated<S> {
    inner: S,
    framing: Framing,
    spans: Spans,
    slot: Slot,
    /// Bytes from the wire that have not passed yet; the first `clean` of them may.
    held: BytesMut,
    clean: usize,
    end: End,
    /// Runs while a head is under way.
    head_clock: Option<Pin<Box<Sleep>>>,
    /// Runs while a write is pending.
    write_clock: Option<Pin<Box<Sleep>>>,
    /// Runs after the answer to a refused peer.
    linger: Option<Linger>,
}

/// What may still be read and dropped.
struct Linger {
    clock: Pin<Box<Sleep>>,
    bytes_left: usize,
}

/// What comes after the clean bytes.
enum End {
    /// More from the wire.
    Open,
    /// The marker, and then the end.
    Marker(&'static [u8]),
    /// Silence behind the marker. An end of the stream would tell hyper that the peer has gone, and hyper
    /// would drop the refusal while its record is being written.
    Silent,
    /// A body that is broken.
    Broken(Violation),
    /// The end.
    Over,
}

impl<S> Gated<S> {
    /// Puts the gate in front of a fresh connection.
    pub fn new(inner: S, limits: HeadLimits, spans: Spans) -> Self {
        Self {
            inner,
            framing: Framing::new(limits),
            spans,
            slot: Slot::default(),
            held: BytesMut::new(),
            clean: 0,
            end: End::Open,
            head_clock: None,
            write_clock: None,
            linger: None,
        }
    }

    /// Where violations are left.
    pub fn slot(&self) -> Slot {
        self.slot.clone()
    }

    fn refuse(&mut self, violation: Violation) {
        // The first one counts; the stream ends with it.
        let _ = self.slot.0.set(violation);
        self.end = End::Marker(MARKER);
    }

    /// Whether a head is under way and takes too long.
    fn head_is_late(&mut self, cx: &mut Context<'_>) -> bool {
        if self.held.len() == self.clean || self.framing.in_body() {
            self.head_clock = None;
            return false;
        }
        let head_max = self.spans.head_max;
        let clock = self.head_clock.get_or_insert_with(|| Box::pin(tokio::time::sleep(head_max)));
        clock.as_mut().poll(cx).is_ready()
    }

    fn found(&mut self, stop: Stop) {
        match stop {
            Stop::More => {}
            Stop::Refused(violation) => self.refuse(violation),
            Stop::Broken(violation) => self.end = End::Broken(violation),
        }
    }

    fn pass(&mut self, buf: &mut ReadBuf<'_>) {
        let count = self.clean.min(buf.remaining());
        buf.put_slice(self.held.get(..count).unwrap_or_default());
        self.held.advance(count);
        self.clean -= count;
    }
}

impl<S: AsyncRead + Unpin> Gated<S> {
    /// The common case: reads straight into the reader's buffer, and takes back what may not pass yet.
    fn read_through(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let fresh = buf.filled().get(before..).unwrap_or_default();
        let count = fresh.len();
        let Advance { clean, stop } = self.framing.advance(fresh);
        self.held.extend_from_slice(fresh.get(clean..).unwrap_or_default());
        buf.set_filled(before + clean);
        self.found(stop);
        Poll::Ready(Ok(count))
    }

    /// Reads behind what is held, and examines both together.
    fn read_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [MaybeUninit::uninit(); READ_BYTES];
        let mut buf = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buf))?;
        self.held.extend_from_slice(buf.filled());
        let Advance { clean, stop } = self.framing.advance(&self.held);
        self.clean = clean;
        if clean > 0 {
            // The head that the clock ran for is whole; what is held now is another one's beginning.
            self.head_clock = None;
        }
        self.found(stop);
        Poll::Ready(Ok(buf.filled().len()))
    }

    /// Whether the peer may still be sending what nobody will read.
    fn is_cut_short(&self) -> bool {
        matches!(self.end, End::Silent) || self.framing.is_over() || self.framing.in_body()
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let linger = self.linger.get_or_insert_with(|| Linger {
            clock: Box::pin(tokio::time::sleep(LINGER_SPAN_MAX)),
            bytes_left: LINGER_BYTES_MAX,
        });
        let mut space = [MaybeUninit::uninit(); READ_BYTES];
        while linger.bytes_left > 0 && linger.clock.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::uninit(&mut space);
            match ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {
                    linger.bytes_left = linger.bytes_left.saturating_sub(buf.filled().len());
                }
                Ok(()) | Err(_) => break,
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gated<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.clean > 0 {
                this.pass(buf);
                return Poll::Ready(Ok(()));
            }
            match &mut this.end {
                End::Open => {}
                End::Marker(rest) => {
                    let (now, later) = rest.split_at(rest.len().min(buf.remaining()));
                    buf.put_slice(now);
                    *rest = later;
                    if later.is_empty() {
                        this.end = End::Silent;
                    }
                    return Poll::Ready(Ok(()));
                }
                End::Silent => return Poll::Pending,
                End::Broken(violation) => {
                    let error = io::Error::new(io::ErrorKind::InvalidData, *violation);
                    this.end = End::Over;
                    return Poll::Ready(Err(error));
                }
                End::Over => return Poll::Ready(Ok(())),
            }
            let read = if this.held.is_empty() && buf.remaining() >= READ_BYTES {
                this.read_through(cx, buf)
            } else {
                this.read_held(cx)
            };
            let Poll::Ready(count) = read else {
                if this.head_is_late(cx) {
                    this.refuse(Violation::new(
                        codes::SLOW_CLIENT,
                        "the request's head did not come in time",
                    ));
                    continue;
                }
                return Poll::Pending;
            };
            if count? == 0 {
                // What is held is the beginning of a head that will never be whole.
                this.end = End::Over;
                continue;
            }
            if !buf.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> Gated<S> {
    /// A peer that takes nothing for too long is cut off, so that it cannot hold an answer for ever.
    fn unless_stalled<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write_clock = None;
            return written;
        }
        let stall_max = self.spans.write_stall_max;
        let clock = self.write_clock.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall_max)));
        match clock.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gated<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write(cx, bytes);
        this.unless_stalled(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write_vectored(cx, slices);
        this.unless_stalled(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.inner).poll_flush(cx);
        this.unless_stalled(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
        }
        if this.is_cut_short() { this.poll_linger(cx).map(Ok) } else { Poll::Ready(Ok(())) }
    }
}

impl<S> std::fmt::Debug for Gated<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gated").field("framing", &self.framing).finish_non_exhaustive()
    }
}
