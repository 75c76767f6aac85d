//! A batch of syslog messages for one resource, on the main road; and one that is for none.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use doorward_core::{
    Access, Actions, Call, Caller, Completion, Fault, NotDurable, Pass, Principal, Refusal, Resource,
    Session, Shaped, Timestamp,
};

use super::frame::Frame;
use super::message::{self, Message, Unreadable};
use crate::call::{action, backend, not_durable, note};
use crate::codes;
use crate::intake::{Intake, Report};
use crate::mapping::Rejection;

/// When a crowded spool is tried again.
const BUSY_RETRY_AFTER: Duration = Duration::from_secs(2);

/// A frame that was read, or why it could not be.
pub(super) struct Parcel {
    pub(super) bytes: Vec<u8>,
    pub(super) message: Result<Message, Rejection>,
}

impl Parcel {
    /// Reads a frame.
    pub(super) fn read(frame: Frame) -> Self {
        match frame {
            Frame::TooLong(bytes) => {
                let why = "the message is larger than the bound of syslog messages";
                Self { bytes, message: Err(Rejection::new(codes::RECORD_BOUND, why)) }
            }
            Frame::Cut(bytes) => {
                Self { bytes, message: Err(Rejection::new(codes::RECORD_FORM, "the message is cut short")) }
            }
            Frame::Message(bytes) => {
                let message = message::read(&bytes).map_err(|error| match error {
                    Unreadable::Rfc3164 => Rejection::new(
                        codes::RFC3164,
                        "the message is of the form of RFC 3164; RFC 5424 is read here",
                    ),
                    Unreadable::Broken(why) => {
                        Rejection::new(codes::SYSLOG, format!("the message is not read: {why}"))
                    }
                });
                Self { bytes, message }
            }
        }
    }
}

/// What becomes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// It is durable.
    Done,
    /// Nothing can be stored now; the same batch is brought again after a while.
    Again(Duration),
    /// Its sender may not bring it.
    Refused,
}

/// A batch for one resource.
pub(super) struct BatchCall<'a> {
    pub(super) session: &'a Session,
    pub(super) resource: &'a Resource,
    pub(super) parcels: &'a [&'a Parcel],
    /// Tells the batch from all others of this gateway: it may be brought several times.
    pub(super) key: String,
    pub(super) now: Timestamp,
}

impl BatchCall<'_> {
    async fn take_in(&self, pass: &mut Pass) -> Result<Report, Fault> {
        let lost = || not_durable();
        let importer = pass.importer().ok_or_else(lost)?;
        if importer.is_crowded() {
            return Err(Fault::new(
                codes::BUSY,
                "the gateway has more records than it can store at the moment",
            )
            .retry_after(BUSY_RETRY_AFTER));
        }
        let mut intake = Intake::new(backend(self.resource)?, importer, self.now, Some(self.key.clone()));
        for (number, parcel) in (1..).zip(self.parcels) {
            let taken = match &parcel.message {
                Ok(message) => intake.document(number, &message.document, &parcel.bytes).await,
                Err(rejection) => intake.reject(number, rejection.clone(), None, &parcel.bytes).await,
            };
            taken.map_err(|NotDurable| not_durable())?;
        }
        intake.land().await.map_err(|NotDurable| not_durable())?;
        Ok(intake.finish())
    }
}

impl Call for BatchCall<'_> {
    type Answer = Ending;
    type Reply = Report;

    fn caller(&self) -> Caller<'_> {
        Caller::Session { session: self.session, mid_transaction: false }
    }

    async fn decode(&mut self, access: &mut Access, _: &Arc<Principal>) -> Result<Actions, Fault> {
        access.note_endpoint(format!("SYSLOG /{}/records", self.resource.name));
        access.note("messages", self.parcels.len());
        let bytes: usize = self.parcels.iter().map(|parcel| parcel.bytes.len()).sum();
        access.count_in(u64::try_from(bytes).unwrap_or(u64::MAX));
        Ok(action(self.resource))
    }

    async fn forward(&mut self, pass: &mut Pass) -> Result<Report, Fault> {
        self.take_in(pass).await
    }

    fn shape(&mut self, report: Report, pass: &mut Pass) -> Result<Shaped<Ending>, Fault> {
        note(pass.access(), &report);
        let completion = Completion { rows: Some(report.accepted), ..Completion::default() };
        Ok(Shaped::Whole(Ending::Done, completion))
    }

    fn refuse(&mut self, refusal: &Refusal<'_>) -> (Ending, Completion) {
        let ending = match refusal.fault.retry_after_span() {
            Some(wait) => Ending::Again(wait),
            None if refusal.fault.code().retry => Ending::Again(BUSY_RETRY_AFTER),
            None => Ending::Refused,
        };
        (ending, Completion::default())
    }
}

/// Messages that are for no resource: one record says so.
pub(super) struct Stray<'a> {
    pub(super) session: &'a Session,
    pub(super) messages: usize,
    pub(super) fault: Option<Fault>,
}

impl Call for Stray<'_> {
    type Answer = ();
    type Reply = Infallible;

    fn caller(&self) -> Caller<'_> {
        Caller::Session { session: self.session, mid_transaction: false }
    }

    async fn decode(&mut self, access: &mut Access, _: &Arc<Principal>) -> Result<Actions, Fault> {
        access.note_endpoint("SYSLOG");
        access.note("messages", self.messages);
        Err(self.fault.take().unwrap_or_else(not_durable))
    }

    async fn forward(&mut self, _: &mut Pass) -> Result<Infallible, Fault> {
        Err(not_durable())
    }

    fn shape(&mut self, reply: Infallible, _: &mut Pass) -> Result<Shaped<()>, Fault> {
        match reply {}
    }

    fn refuse(&mut self, _: &Refusal<'_>) -> ((), Completion) {
        ((), Completion::default())
    }
}
