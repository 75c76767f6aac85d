//! Where a session's backend is, while it has one. Both halves of the session use it, in one task.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use crate::pool::{Backend, Lent};

/// The place of a backend. The lock is never held across an await.
#[derive(Debug)]
pub(crate) struct Port {
    slot: Mutex<Option<Lent>>,
    /// A backend has come.
    pub(crate) turned: Notify,
}

impl Port {
    pub(crate) fn new(lent: Option<Lent>) -> Self {
        Self { slot: Mutex::new(lent), turned: Notify::new() }
    }

    pub(crate) fn is_bound(&self) -> bool {
        self.slot.lock().is_some()
    }

    pub(crate) fn bind(&self, lent: Lent) {
        *self.slot.lock() = Some(lent);
        self.turned.notify_one();
    }

    pub(crate) fn take(&self) -> Option<Lent> {
        self.slot.lock().take()
    }

    /// Looks at the backend, if there is one.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut Backend) -> T) -> Option<T> {
        self.slot.lock().as_mut().and_then(Lent::backend).map(look)
    }

    /// What the backend says.
    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader(self)
    }

    /// Says all of this to the backend.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = poll_fn(|cx| {
                let polled = self.with(|backend| Pin::new(&mut backend.stream).poll_write(cx, bytes));
                polled.unwrap_or_else(|| Poll::Ready(Err(io::ErrorKind::NotConnected.into())))
            });
            let written = written.await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = bytes.get(written..).unwrap_or_default();
        }
        poll_fn(|cx| {
            let polled = self.with(|backend| Pin::new(&mut backend.stream).poll_flush(cx));
            polled.unwrap_or(Poll::Ready(Ok(())))
        })
        .await
    }
}

/// Reads from the backend that is there.
#[derive(Debug)]
pub(crate) struct Reader<'p>(&'p Port);

impl AsyncRead for Reader<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = self.0.with(|backend| Pin::new(&mut backend.stream).poll_read(cx, buf));
        polled.unwrap_or(Poll::Pending)
    }
}
