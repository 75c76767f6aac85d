//! COPY IN: data flows to the server while the caller encodes more.

use super::{Client, ClientError};

/// A `COPY … FROM STDIN` under way. Dropped before its end, it takes the connection with it: the server
/// undoes what it had taken.
#[derive(Debug)]
pub struct CopyIn<'c> {
    client: &'c mut Client,
    open: bool,
}

impl<'c> CopyIn<'c> {
    pub(super) fn new(client: &'c mut Client) -> Self {
        Self { client, open: true }
    }

    /// Sends a part of the data, cut wherever the caller likes. The server's error, if it has refused
    /// something already, comes here or at the end.
    pub fn write(&mut self, data: &[u8]) -> Result<(), ClientError> {
        let sent = self.client.run(async |session| session.copy_write(data).await);
        self.open = sent.is_ok();
        sent
    }

    /// Ends the data and answers how many rows were taken.
    pub fn finish(mut self) -> Result<u64, ClientError> {
        self.open = false;
        self.client.run(async |session| session.copy_finish().await)
    }

    /// Ends the COPY without keeping anything of it; the connection lives on, its transaction has failed.
    pub fn abort(mut self) -> Result<(), ClientError> {
        self.open = false;
        self.client.run(async |session| session.copy_abort().await)
    }
}

impl Drop for CopyIn<'_> {
    fn drop(&mut self) {
        if self.open {
            self.client.session.give_up();
        }
    }
}
