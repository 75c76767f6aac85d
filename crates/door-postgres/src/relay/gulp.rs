//! Reading from a connection that is mostly silent.
//!
//! Constraint: a connection that waits holds no buffer of its own. What comes is taken into the thread's, and
//! only as much as it is kept; while much comes, it is read straight into the connection's own, which goes when nothing
//! more is there.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// Bytes asked for at once.
pub(crate) const GULP_BYTES: usize = 32 << 10;
/// The room that a connection has for itself while much comes.
const OWN_BYTES: usize = 2 * GULP_BYTES;
/// A buffer of this size is kept while nothing is in it.
const KEPT_BYTES: usize = 1 << 10;

thread_local! {
    static TAKEN: RefCell<Box<[u8]>> = RefCell::new(vec![0; GULP_BYTES].into());
}

/// Reads what has come behind what is there; how much. None is the end. May be dropped at any time.
pub(crate) async fn gulp<R: AsyncRead + Unpin>(stream: &mut R, bytes: &mut BytesMut) -> io::Result<usize> {
    poll_fn(|cx| {
        let polled = match bytes.try_reclaim(GULP_BYTES) {
            true => pin!(stream.read_buf(bytes)).poll(cx),
            false => take(stream, bytes, cx),
        };
        if polled.is_pending() {
            relax(bytes);
        }
        polled
    })
    .await
}

/// Reads by way of the thread's buffer. When that was not enough, there is room of the connection's own for what follows.
fn take<R: AsyncRead + Unpin>(
    stream: &mut R,
    bytes: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    TAKEN.with_borrow_mut(|taken| {
        let mut room = ReadBuf::new(taken);
        ready!(Pin::new(stream).poll_read(cx, &mut room))?;
        let count = room.filled().len();
        if count == GULP_BYTES {
            bytes.reserve(OWN_BYTES);
        }
        bytes.extend_from_slice(room.filled());
        Poll::Ready(Ok(count))
    })
}

/// Gives the room back that nothing is in, also where it was used and is behind what can be seen of it.
pub(crate) fn relax(bytes: &mut BytesMut) {
    if bytes.is_empty() && bytes.try_reclaim(KEPT_BYTES + 1) {
        *bytes = BytesMut::new();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn all_that_comes_is_read_and_a_silent_connection_holds_no_buffer() {
        let (mut one, mut other) = tokio::io::duplex(8 * OWN_BYTES);
        let all: Vec<u8> = (0..5 * OWN_BYTES + 1_234).map(|n| (n % 251) as u8).collect();
        one.write_all(&all).await.unwrap();
        let (mut bytes, mut read) = (BytesMut::new(), Vec::new());
        // Whether all of it is taken out each time, or a little stays.
        for stays in [0, 700] {
            read.extend_from_slice(&bytes.split_to(bytes.len().saturating_sub(stays)));
            while let Some(count) = gulp(&mut other, &mut bytes).now_or_never() {
                assert!(count.unwrap() <= OWN_BYTES);
                read.extend_from_slice(&bytes.split_to(bytes.len() - stays));
            }
            read.extend_from_slice(&bytes.split_to(bytes.len()));
            assert!(read == all, "{} of {} bytes", read.len(), all.len());
            assert!(gulp(&mut other, &mut bytes).now_or_never().is_none());
            assert!(!bytes.try_reclaim(KEPT_BYTES + 1), "nothing is kept");
            read.clear();
            one.write_all(&all).await.unwrap();
        }
        drop(one);
        while gulp(&mut other, &mut bytes).await.unwrap() > 0 {}
        assert_eq!(bytes.len(), all.len());
    }

    #[tokio::test]
    async fn a_small_buffer_is_used_again() {
        let (mut one, mut other) = tokio::io::duplex(1 << 10);
        let mut bytes = BytesMut::new();
        for _ in 0..3 {
            one.write_all(b"SELECT 1").await.unwrap();
            assert_eq!(gulp(&mut other, &mut bytes).await.unwrap(), 8);
            assert_eq!(&*bytes.split_to(8), b"SELECT 1");
        }
        assert!(gulp(&mut other, &mut bytes).now_or_never().is_none());
        assert!(bytes.try_reclaim(8), "it is kept");
    }
}
