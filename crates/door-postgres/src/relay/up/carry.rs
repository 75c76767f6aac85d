//! The bytes of messages: taken whole, passed on as they come, or dropped.

use bytes::BytesMut;
use doorward_pgclient::HEADER;
use tokio::io::AsyncRead;

use super::{GATHERED_MAX, Step, Up};
use crate::message::put;
use crate::relay::Ended;
use crate::relay::frontend::{Message, protocol};
use crate::relay::link::{Expected, State};

impl<R: AsyncRead + Unpin> Up<'_, R> {
    pub(super) fn forward(&mut self, frame: &[u8], expected: Expected) {
        self.link.expect(expected);
        self.out.extend_from_slice(frame);
        self.batch_open = true;
    }

    /// Sends what is gathered.
    pub(super) async fn send(&mut self) -> Step {
        if self.out.is_empty() {
            return Ok(());
        }
        if self.port.write_all(&self.out).await.is_err() {
            // The other half reads why, or that the backend is gone.
            std::future::pending::<()>().await;
        }
        self.out.clear();
        Ok(())
    }

    /// Sends what is gathered, and waits until it is so. A backend that waits for data meanwhile would wait
    /// forever: the client has sent something else.
    pub(super) async fn until(&mut self, so: impl Fn(&State) -> bool) -> Step {
        self.send().await?;
        tokio::select! {
            biased;
            () = self.link.wait(|state| so(state) || state.taking_in) => {}
            () = self.inbox.gone() => return Err(Ended::ClientGone),
        }
        if so(&self.link.state()) {
            return Ok(());
        }
        Err(Ended::Over(protocol("another message than data during COPY")))
    }

    /// The same, of what the backend keeps to itself, small as it is, until it is asked for it.
    pub(super) async fn until_answered(&mut self, so: impl Fn(&State) -> bool) -> Step {
        if self.port.is_bound() {
            put(&mut self.out, b'H', |_| {});
        }
        self.until(so).await
    }

    pub(super) async fn want(&mut self, bytes: usize) -> Step {
        if !self.inbox.has(bytes) {
            // The client may wait for the answers to what came before.
            self.send().await?;
        }
        match self.inbox.want(bytes).await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(Ended::ClientGone),
        }
    }

    /// All of a message whose size has been looked at.
    pub(super) async fn whole(&mut self, message: Message) -> Result<BytesMut, Ended> {
        let bytes = HEADER + message.body;
        self.want(bytes).await?;
        Ok(self.inbox.take(bytes))
    }

    /// All of a message without a body.
    pub(super) async fn small(&mut self, message: Message) -> Result<BytesMut, Ended> {
        if message.body != 0 {
            return Err(Ended::Over(protocol("a body where there is none")));
        }
        self.whole(message).await
    }

    /// Passes a message on as it comes, whatever its size.
    pub(super) async fn stream(&mut self, message: Message) -> Step {
        self.stream_from(message, 0).await
    }

    /// The same for what is left of it.
    pub(super) async fn stream_from(&mut self, message: Message, taken: usize) -> Step {
        let mut left = (HEADER + message.body).saturating_sub(taken);
        while left > 0 {
            left -= {
                // Not held while more is read: the room that it takes is used again for that.
                let piece = self.inbox.take(left);
                self.out.extend_from_slice(&piece);
                piece.len()
            };
            if left == 0 {
                break;
            }
            if self.out.len() >= GATHERED_MAX {
                self.send().await?;
            }
            self.want(1).await?;
        }
        Ok(())
    }

    /// Drops a message as it comes.
    pub(super) async fn discard(&mut self, message: Message) -> Step {
        let mut left = HEADER + message.body;
        loop {
            left -= self.inbox.skip(left);
            if left == 0 {
                return Ok(());
            }
            self.want(1).await?;
        }
    }
}
