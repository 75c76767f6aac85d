//! An access: one governed call in flight, from its first byte to its record.
//!
//! Invariant: an [`Access`] that is dropped is a record that is written, whatever happened: a refusal,
//! a panic, a caller who hung up. So "answer without a record" cannot happen: an [`Answered`] is made
//! only here, of an access that has been completed or of one that lives on in the answer's body.
//!
//! ```compile_fail,E0423
//! // An answer cannot be made without an access.
//! let answer = doorward_core::Answered("200 OK");
//! ```

use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;

use crate::action::Actions;
use crate::codes;
use crate::fault::{Fault, Kind};
use crate::import::Importer;
use crate::name::AccessId;
use crate::organs::{AuditMode, Durable, Form, NotDurable, Observer, Recorder, Slot};
use crate::permit::{Allowance, Lease, Permit};
use crate::principal::{Arrival, Principal};
use crate::record::{AccessRecord, FaultRecord, Outcome, Stage, TaskRef, Timings, TraceContext, TraceParent};
use crate::record::{OBJECT_BYTES_MAX, OPERATION_BYTES_MAX, TEXT_BYTES_MAX, USER_AGENT_BYTES_MAX};
use crate::secret::Personal;
use crate::snapshot::Snapshot;
use crate::time::Timestamp;

/// What a door knows of a call's end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Completion {
    /// The status in the door's own terms.
    pub status: Option<u16>,
    /// Rows answered or changed.
    pub rows: Option<u64>,
    /// Bytes of body answered.
    pub bytes_out: u64,
}

/// An answer whose call has a record, or will have one when its body ends.
#[derive(Debug)]
pub struct Answered<T>(T);

impl<T> Answered<T> {
    pub(crate) const fn new(answer: T) -> Self {
        Self(answer)
    }

    /// The answer itself.
    pub fn into_inner(self) -> T {
        self.0
    }

    /// Puts the answer into another form.
    pub fn map<U>(self, form: impl FnOnce(T) -> U) -> Answered<U> {
        Answered(form(self.0))
    }
}

/// One governed call in flight. Dropped means recorded.
pub struct Access {
    /// `None` only while `Drop` hands it over.
    record: Option<Box<AccessRecord>>,
    slot: Option<Box<dyn Slot>>,
    recorder: Arc<dyn Recorder>,
    observer: Arc<dyn Observer>,
    snapshot: Arc<Snapshot>,
    arrival: Arrival,
    started: Instant,
    stage: Stage,
    stage_started: Instant,
    settled: bool,
    /// Whether an intent has been handed over.
    intended: bool,
    audit: AuditMode,
}

impl Access {
    pub(crate) fn new(
        arrival: Arrival,
        now: Timestamp,
        snapshot: Arc<Snapshot>,
        recorder: Arc<dyn Recorder>,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let slot = recorder.reserve();
        let started = Instant::now();
        let record = AccessRecord {
            source_ip: arrival.source_ip.map(Personal::new),
            config_digest: Some(snapshot.digest.clone()),
            ..AccessRecord::begin(AccessId::fresh(), now, snapshot.environment.clone(), arrival.door)
        };
        Self {
            record: Some(Box::new(record)),
            slot,
            recorder,
            observer,
            snapshot,
            arrival,
            started,
            stage: Stage::Accept,
            stage_started: started,
            settled: false,
            intended: false,
            audit: AuditMode::Required,
        }
    }

    /// The call's id.
    pub fn id(&self) -> AccessId {
        self.record.as_ref().map_or_else(AccessId::fresh, |record| record.access_id)
    }

    /// The configuration that the call lives under.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Where the call came from.
    pub fn arrival(&self) -> &Arrival {
        &self.arrival
    }

    /// A front that serves several doors has found the one that this call is for.
    pub fn at_door(&mut self, door: &'static str) {
        self.arrival.door = door;
        self.edit(|record| record.door = door);
    }

    /// Where the call stands in a distributed trace.
    pub fn trace(&self) -> TraceContext {
        self.record.as_ref().map_or_else(|| TraceContext::own(AccessId::fresh()), |record| record.trace)
    }

    /// Microseconds of each stage so far, for `Server-Timing`.
    pub fn timings(&self) -> Timings {
        self.record.as_ref().map(|record| record.timings).unwrap_or_default()
    }

    /// Joins the caller's trace (W3C `traceparent`).
    pub fn join_trace(&mut self, parent: TraceParent) {
        self.edit(|record| {
            record.trace.trace_id = parent.trace_id;
            record.trace.parent_span_id = Some(parent.span_id);
            record.trace.sampled = parent.sampled;
        });
    }

    /// Notes the pipeline task that the caller names.
    pub fn note_task(&mut self, mut task: Box<TaskRef>) {
        task.redact(&*self.snapshot.redactor);
        self.edit(|record| record.task = Some(task));
    }

    /// Notes what the client says it is.
    pub fn note_user_agent(&mut self, text: &str) {
        self.redact(Form::Text, text, USER_AGENT_BYTES_MAX, |record, text| record.user_agent = Some(text));
    }

    /// Notes the route template.
    pub fn note_endpoint(&mut self, template: impl AsRef<str>) {
        self.redact(Form::Path, template.as_ref(), TEXT_BYTES_MAX, |record, text| {
            record.endpoint = Some(text);
        });
    }

    /// Notes the operation's text, out of which the door has taken the values, and its fingerprint.
    pub fn note_operation(&mut self, template: impl AsRef<str>, fingerprint: Option<u64>) {
        self.note_operation_as(Form::Template, template.as_ref(), fingerprint);
    }

    /// Notes the text of PostgreSQL statements as the caller sent them, and their fingerprint.
    pub fn note_statement(&mut self, sql: &str, fingerprint: Option<u64>) {
        self.note_operation_as(Form::Sql, sql, fingerprint);
    }

    /// Notes, behind a statement's text, the values that it is bound to: redacted already, and bounded.
    pub fn note_parameters(&mut self, parameters: &str) {
        self.edit(|record| {
            let text = record.operation.as_ref().map_or("", |text| &**text.reveal());
            let room = OPERATION_BYTES_MAX.saturating_sub(parameters.len());
            let kept = text.get(..text.floor_char_boundary(room)).unwrap_or_default();
            record.operation = Some(Personal::new(format!("{kept}{parameters}").into()));
        });
    }

    /// Notes the call that this one is a part of.
    pub fn note_parent(&mut self, parent: AccessId) {
        self.edit(|record| record.parent_access_id = Some(parent));
    }

    fn note_operation_as(&mut self, form: Form, text: &str, fingerprint: Option<u64>) {
        self.redact(form, text, OPERATION_BYTES_MAX, |record, text| {
            record.operation = Some(Personal::new(text));
            record.operation_fingerprint = fingerprint;
        });
    }

    /// Adds to the bytes of body taken in.
    pub fn count_in(&mut self, bytes: u64) {
        self.edit(|record| record.bytes_in = record.bytes_in.saturating_add(bytes));
    }

    /// Adds to the bytes of body answered.
    pub fn count_out(&mut self, bytes: u64) {
        self.edit(|record| record.bytes_out = record.bytes_out.saturating_add(bytes));
    }

    /// Notes the backend's process that the call runs in.
    pub fn note_backend_pid(&mut self, process: i32) {
        self.edit(|record| record.backend_pid = Some(process));
    }

    /// Keeps something that only this door knows.
    pub fn note(&mut self, key: &str, value: impl Into<Value>) {
        let mut value = value.into();
        self.snapshot.redactor.redact_json(key, &mut value);
        self.edit(|record| {
            record.ext.insert(key.to_owned(), value);
        });
    }

    /// Begins the next stage; the time since the last one is the last one's.
    pub fn enter(&mut self, stage: Stage) {
        let now = Instant::now();
        let micros = micros32(now.duration_since(self.stage_started));
        let left = std::mem::replace(&mut self.stage, stage);
        self.stage_started = now;
        self.edit(|record| record.timings.add(left, micros));
    }

    /// The stage that the call is in.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    pub(crate) fn know_principal(&mut self, principal: &Arc<Principal>) {
        self.edit(|record| record.principal = Some(principal.clone()));
    }

    pub(crate) fn know_session(&mut self, session: AccessId) {
        self.edit(|record| record.session_id = Some(session));
    }

    pub(crate) fn know_actions(&mut self, actions: &Actions, audit: AuditMode) {
        self.audit = audit;
        let actions = actions.redacted(&*self.snapshot.redactor, OBJECT_BYTES_MAX);
        self.edit(|record| record.actions = Some(actions));
    }

    pub(crate) fn know_permit(&mut self, permit: &Permit) {
        self.edit(|record| {
            record.rule = Some(permit.grant().clone());
            record.backend_role.clone_from(&permit.obligations().role);
        });
    }

    pub(crate) fn know_allowance(&mut self, allowance: &Allowance) {
        self.edit(|record| record.limit_remaining = Some(allowance.remaining));
    }

    pub(crate) fn know_lease(&mut self, lease: &Lease) {
        self.edit(|record| record.lease_id = Some(lease.id()));
    }

    /// Whether the record has its place; without one a resource that requires records is closed.
    pub(crate) fn check_room(&self) -> Result<(), Fault> {
        match (self.slot.is_some(), self.audit) {
            (true, _) | (false, AuditMode::BestEffort) => Ok(()),
            (false, AuditMode::Required) => Err(no_room()),
        }
    }

    /// Writes the intent frame and waits until it is durable.
    pub(crate) async fn intend(&mut self) -> Result<(), Fault> {
        let Some(durable) = self.write_intent() else { return self.check_room() };
        match durable.await {
            Ok(()) => Ok(()),
            Err(NotDurable) if self.audit == AuditMode::BestEffort => Ok(()),
            Err(NotDurable) => Err(no_room()),
        }
    }

    fn write_intent(&mut self) -> Option<Durable> {
        let (slot, record) = (self.slot.as_mut()?, self.record.as_deref()?);
        self.intended = true;
        Some(slot.intent(record))
    }

    /// Whether an answer must be held back until a frame of the call is durable.
    fn owes_a_frame(&self) -> bool {
        self.audit == AuditMode::Required && !self.intended
    }

    pub(crate) fn settle_well(&mut self, completion: &Completion) {
        self.settled = true;
        self.edit(|record| record.outcome = Outcome::Allowed);
        self.note_end(completion);
    }

    pub(crate) fn note_end(&mut self, completion: &Completion) {
        self.edit(|record| {
            record.status = completion.status.or(record.status);
            record.rows = completion.rows.or(record.rows);
            record.bytes_out = record.bytes_out.max(completion.bytes_out);
        });
    }

    /// Settles the call as refused or failed.
    pub(crate) fn settle_fault(&mut self, fault: &Fault) {
        self.settled = true;
        // What was wrong with a request is often told in the request's own words.
        let redactor = self.snapshot.redactor.clone();
        let redacted = |text: &str| -> Box<str> { redactor.redact(Form::Text, text, TEXT_BYTES_MAX).into() };
        self.edit(|record| {
            record.outcome = match fault.code().kind {
                Kind::Malformed
                | Kind::TooLarge
                | Kind::Unauthenticated
                | Kind::Denied
                | Kind::NotFound
                | Kind::Unsupported => Outcome::Denied,
                Kind::Limited => Outcome::Limited,
                Kind::Backend | Kind::Timeout | Kind::Unavailable | Kind::Internal => Outcome::Failed,
            };
            record.fault = Some(FaultRecord {
                code: fault.code().name,
                side: fault.code().side.as_str(),
                public: redacted(fault.public()),
                cause: fault.cause_text().map(redacted),
            });
            if let Some(rule) = fault.rule_name() {
                record.rule = Some(rule.clone());
            }
            record.sqlstate = fault.backend_code_text().map(Into::into);
            if let Some(limit) = fault.limit_state() {
                record.limit_remaining = Some(limit.remaining);
            }
        });
    }

    /// Completes the record; resolves when it is durable. `Ok` at once under `audit: best-effort`.
    pub(crate) async fn complete(mut self) -> Result<(), NotDurable> {
        match self.audit {
            AuditMode::Required => self.hand_over().await,
            AuditMode::BestEffort => {
                self.leave();
                Ok(())
            }
        }
    }

    /// Hands the record over; what comes back resolves when it is durable.
    fn hand_over(&mut self) -> Durable {
        match self.finish() {
            Some((slot, record)) => slot.complete(record),
            None => Box::pin(std::future::ready(Err(NotDurable))),
        }
    }

    /// Hands the record over, and nobody waits for it.
    fn leave(&mut self) {
        if let Some((slot, record)) = self.finish() {
            slot.leave(record);
        }
    }

    /// The finished record and its place; without a place it is lost.
    fn finish(&mut self) -> Option<(Box<dyn Slot>, Box<AccessRecord>)> {
        let mut record = self.record.take()?;
        let now = Instant::now();
        record.timings.add(self.stage, micros32(now.duration_since(self.stage_started)));
        record.duration_us = u64::try_from(now.duration_since(self.started).as_micros()).unwrap_or(u64::MAX);
        self.observer.completed(&record);
        let Some(slot) = self.slot.take() else {
            self.recorder.lost(&record);
            return None;
        };
        Some((slot, record))
    }

    /// What came in passes the redactor on its way into the record.
    fn redact(
        &mut self,
        form: Form,
        text: &str,
        bytes_max: usize,
        keep: impl FnOnce(&mut AccessRecord, Box<str>),
    ) {
        let redacted = self.snapshot.redactor.redact(form, text, bytes_max).into();
        self.edit(|record| keep(record, redacted));
    }

    fn edit(&mut self, change: impl FnOnce(&mut AccessRecord)) {
        if let Some(record) = self.record.as_deref_mut() {
            change(record);
        }
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        if !self.settled && std::thread::panicking() {
            self.settle_fault(&Fault::new(codes::PANIC, "the gateway failed while it worked on this call"));
        }
        self.leave();
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("id", &self.id()).field("stage", &self.stage).finish_non_exhaustive()
    }
}

/// The owned guard of a permitted call: permit, lease and the open access. It moves into the streamed
/// body or the relay, so that the record ends when the last byte does. Only the road makes one.
///
/// ```compile_fail,E0451
/// use doorward_core::{Access, Lease, Pass, Permit};
/// fn forge(permit: Permit, lease: Lease, access: Access) -> Pass {
///     Pass { permit, lease, access }
/// }
/// ```
#[derive(Debug)]
pub struct Pass {
    permit: Permit,
    lease: Lease,
    access: Access,
    allowance: Option<Allowance>,
}

impl Pass {
    pub(crate) fn new(permit: Permit, lease: Lease, access: Access, allowance: Option<Allowance>) -> Self {
        Self { permit, lease, access, allowance }
    }

    /// What is permitted.
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// The lent backend credential.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The open access, for notes and stages.
    pub fn access(&mut self) -> &mut Access {
        &mut self.access
    }

    /// The call's id.
    pub fn id(&self) -> AccessId {
        self.access.id()
    }

    /// The state of the grant's limit after this call.
    pub fn allowance(&self) -> Option<&Allowance> {
        self.allowance.as_ref()
    }

    /// When the caller's proof ends; a stream is cut at this time plus the grace.
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.permit.principal().expires_at
    }

    /// Ends a streamed or relayed call well. The record is handed over; nobody waits for it, because
    /// its intent is durable already.
    pub fn end(mut self, completion: &Completion) {
        self.access.settle_well(completion);
    }

    /// Ends a streamed or relayed call with a fault.
    pub fn fail(mut self, fault: &Fault) {
        self.access.settle_fault(fault);
    }

    /// The answer begins to leave before its end is known. What must be durable first; `None` when a frame of the
    /// call is on disk already, or nobody waits for one. For a door that holds answers back ([`crate::Call::streams`]
    /// said no): it asks before the first byte leaves.
    pub fn begin_answer(&mut self) -> Option<Durable> {
        self.access.owes_a_frame().then(|| {
            let lost = || -> Durable { Box::pin(std::future::ready(Err(NotDurable))) };
            self.access.write_intent().unwrap_or_else(lost)
        })
    }

    /// As [`Self::end`], for a door that holds answers back: what must be durable before any of the answer leaves.
    #[must_use = "an answer leaves when its record is durable"]
    pub fn end_held(mut self, completion: &Completion) -> Option<Durable> {
        self.access.settle_well(completion);
        self.access.owes_a_frame().then(|| self.access.hand_over())
    }

    /// As [`Self::fail`], for a door that holds answers back.
    #[must_use = "an answer leaves when its record is durable"]
    pub fn fail_held(mut self, fault: &Fault) -> Option<Durable> {
        self.access.settle_fault(fault);
        self.access.owes_a_frame().then(|| self.access.hand_over())
    }

    /// Takes in another gateway's records; `None` when the permit is not for `write RESOURCE/records`.
    pub fn importer(&self) -> Option<Importer<'_>> {
        Importer::of(self, self.access.recorder.clone(), self.access.observer.clone())
    }

    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.access.snapshot
    }

    pub(crate) fn door(&self) -> &'static str {
        self.access.arrival.door
    }

    pub(crate) fn into_access(self) -> Access {
        self.access
    }
}

fn micros32(span: std::time::Duration) -> u32 {
    u32::try_from(span.as_micros()).unwrap_or(u32::MAX)
}

/// When a caller may try again whose call could not be recorded: the spool needs a moment to empty.
const NO_ROOM_RETRY_AFTER: std::time::Duration = std::time::Duration::from_secs(5);

fn no_room() -> Fault {
    Fault::new(
        codes::RECORD_UNAVAILABLE,
        "the call cannot be recorded, and this resource answers no call without a record",
    )
    .hint("Try again later; the gateway's operator sees the spool's state in /readyz.")
    .retry_after(NO_ROOM_RETRY_AFTER)
}
