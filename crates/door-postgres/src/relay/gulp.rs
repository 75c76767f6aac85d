//! Reading from a connection that is mostly silent.
//!
//! Constraint: a connection that waits holds no buffer of its own. What comes is taken into the thread's, and
//! only as much as it is kept; while much comes, it is read straight into the connection's own.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::ready;

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};

/// Bytes asked for at once.
pub(crate) const GULP_BYTES: usize = 32 << 10;
/// A buffer of this size is kept while nothing is in it.
const KEPT_BYTES: usize = 1 << 10;

thread_local! {
    static TAKEN: RefCell<Box<[u8]>> = RefCell::new(vec![0; GULP_BYTES].into());
}

/// Reads what has come behind what is there; how much. None is the end.
pub(crate) async fn gulp<R: AsyncRead + Unpin>(stream: &mut R, bytes: &mut BytesMut) -> io::Result<usize> {
    let before = bytes.len();
    poll_fn(|cx| {
        TAKEN.with_borrow_mut(|taken| {
            let mut room = ReadBuf::new(taken);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut room))?;
            bytes.extend_from_slice(room.filled());
            io::Result::Ok(()).into()
        })
    })
    .await?;
    Ok(bytes.len() - before)
}

/// Gives the room back that nothing is in.
pub(crate) fn relax(bytes: &mut BytesMut) {
    if bytes.is_empty() && bytes.capacity() > KEPT_BYTES {
        *bytes = BytesMut::new();
    }
}
