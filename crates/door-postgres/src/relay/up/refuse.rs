//! Refusals: each is an error in its place among the answers.

use bytes::{BufMut, BytesMut};
use doorward_core::Fault;
use doorward_pgclient::HEADER;
use tokio::io::AsyncRead;

use super::{Step, Up};
use crate::call::Verdict;
use crate::codes;
use crate::message::{Severity, error_bytes, put, put_text, ready};
use crate::relay::Ended;
use crate::relay::frontend::{Message, SQL_BYTES_MAX};
use crate::relay::link::{Expected, IDLE};

/// What is sent in the place of what was refused: it cannot be parsed, in any state of the transaction and whatever
/// the client has made.
const REFUSED: &str = "refused by doorward";
/// What that would be prepared as: a name, so that the statement without one stays.
const REFUSED_NAME: &str = "doorward refused";

impl<R: AsyncRead + Unpin> Up<'_, R> {
    /// A simple query is refused: an error, and the transaction's state.
    pub(super) fn refuse_query(&mut self, told: &[u8]) -> Step {
        let mut own = BytesMut::from(told);
        if self.is_local() {
            ready(&mut own, IDLE);
            self.link.expect(Expected::Local(own.freeze(), None));
            self.disengage();
            return Ok(());
        }
        self.forget_unnamed();
        put(&mut self.out, b'Q', |out| put_text(out, REFUSED));
        self.link.expect(Expected::FailingQuery(own.freeze()));
        self.batch_open = false;
        self.batch += 1;
        self.disengage();
        Ok(())
    }

    /// Whether the next answer can be given without the backend.
    fn is_local(&self) -> bool {
        !self.batch_open && self.link.state().is_local()
    }

    /// A message of the extended protocol is refused: an error, and nothing until Sync.
    pub(super) fn refuse_extended(&mut self, told: &[u8]) {
        self.skip = true;
        let own = BytesMut::from(told).freeze();
        if self.is_local() {
            self.link.expect(Expected::Local(own, None));
            self.disengage();
            return;
        }
        put(&mut self.out, b'P', |out| {
            put_text(out, REFUSED_NAME);
            put_text(out, REFUSED);
            out.put_u16(0);
        });
        self.link.expect(Expected::Failing(own));
        self.batch_open = true;
    }

    pub(super) fn refused(&mut self, verdict: Verdict) -> Step {
        match verdict {
            Verdict::No(told) => {
                self.refuse_extended(&told);
                Ok(())
            }
            Verdict::Over(fault) => Err(Ended::Over(fault)),
            // A new configuration has just allowed it. The client may ask again; this call is abandoned.
            Verdict::Go(pass) => {
                let fault = Fault::new(codes::UNKNOWN_EFFECT, "the configuration has just changed");
                let told = error_bytes(Severity::Error, &fault, Some(pass.id()));
                pass.fail(&fault);
                self.refuse_extended(&told);
                Ok(())
            }
        }
    }

    /// Refuses a message whose bytes have been taken.
    pub(super) async fn refuse_read(&mut self, text: &str, fault: &Fault, bytes: usize) -> Step {
        let verdict = self.walk(text, None, Err(fault.clone()), bytes).await;
        self.refused(verdict)
    }

    /// The extended protocol is not spoken in a session of replication, as at the server.
    pub(super) async fn refuse_in_replication(&mut self, message: Message) -> Step {
        if self.ignored() {
            return self.discard(message).await;
        }
        let text = "the extended protocol is not spoken in a session of replication";
        let fault = Fault::new(codes::UNSUPPORTED, text).hint("Send simple queries, without parameters.");
        self.refuse_message(message, "", &fault).await
    }

    /// Refuses a message of the extended protocol.
    pub(super) async fn refuse_message(&mut self, message: Message, text: &str, fault: &Fault) -> Step {
        self.discard(message).await?;
        self.refuse_read(text, fault, HEADER + message.body).await
    }

    pub(super) async fn too_large(&mut self, message: Message, simple: bool) -> Step {
        self.discard(message).await?;
        let fault =
            Fault::new(codes::MESSAGE_TOO_LARGE, format!("a statement has at most {SQL_BYTES_MAX} bytes"))
                .hint("Send values as parameters, or with COPY, and many statements one by one.");
        let verdict = self.walk("", None, Err(fault), HEADER + message.body).await;
        match verdict {
            Verdict::No(told) if simple => self.refuse_query(&told),
            verdict => self.refused(verdict),
        }
    }
}
