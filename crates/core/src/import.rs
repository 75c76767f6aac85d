//! Imported records: what another gateway says of a call that it carried, put on the same timeline.
//!
//! Invariants: an [`Importer`] is made of a pass whose permit covers `write RESOURCE/records`, and that
//! resource is the record's source; what the source says has no field for a grant, a backend role, a lease
//! or a configuration of ours; who called stands under the issuer `import:RESOURCE`, which no configured
//! issuer can be called. So nobody takes an imported record for a decision of this gateway. Every text of it
//! is redacted here.
//!
//! ```compile_fail,E0451
//! // An imported record cannot be made without a pass.
//! use doorward_core::{AccessRecord, ImportedRecord};
//! fn forge(record: Box<AccessRecord>) -> ImportedRecord {
//!     ImportedRecord { record, repeatable: true }
//! }
//! ```

use std::marker::PhantomData;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::access::Pass;
use crate::action::{Action, Actions, Object, Verb};
use crate::fault::Code;
use crate::name::{AccessId, IssuerName, ResourceName};
use crate::organs::{Durable, Form, Observer, Recorder, Redactor};
use crate::principal::{AuthMethod, Principal, PrincipalKind};
use crate::record::{AccessRecord, FaultRecord, Origin, Outcome, Stage, TaskRef, Timings, TraceContext};
use crate::secret::Personal;
use crate::time::Timestamp;

/// The object that a caller must be allowed to write, to import records.
pub const RECORDS: &str = "records";
/// What the issuer of an imported record's principal begins with; the source's name follows.
pub const IMPORT_ISSUER_PREFIX: &str = "import:";

/// What a source says of one call. All of it is claimed, nothing proven.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The id that repeats of this record have too; `None` for a record that cannot be told from another.
    pub id: Option<AccessId>,
    /// When the call began.
    pub ts: Timestamp,
    /// Who called.
    pub caller: Option<ClaimedCaller>,
    /// The client's address.
    pub source_ip: Option<Personal<IpAddr>>,
    /// What the client says it is.
    pub user_agent: Option<Box<str>>,
    /// What was done, and to what.
    pub action: Option<(Verb, Object)>,
    /// The route.
    pub endpoint: Option<Box<str>>,
    /// The operation's text.
    pub operation: Option<ClaimedText>,
    /// The interface's version.
    pub api_version: Option<Box<str>>,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it did not end well.
    pub fault: Option<ClaimedFault>,
    /// What a cache did.
    pub cache_status: Option<Box<str>>,
    /// The status answered.
    pub status: Option<u16>,
    /// Rows answered or changed.
    pub rows: Option<u64>,
    /// Bytes of body taken in.
    pub bytes_in: u64,
    /// Bytes of body answered.
    pub bytes_out: u64,
    /// First byte to last, microseconds.
    pub duration_us: u64,
    /// The backend's part of it, microseconds.
    pub forward_us: Option<u32>,
    /// The distributed trace; `None` gives the record one of its own.
    pub trace: Option<TraceContext>,
    /// The pipeline task.
    pub task: Option<Box<TaskRef>>,
    /// Everything else.
    pub ext: Map<String, Value>,
}

/// The text of an operation, or of a record that could not be read. It is redacted before it is kept.
#[derive(Clone, Debug)]
pub enum ClaimedText {
    /// Without values: `GET /v1/orders?id=?`.
    Template(String),
    /// As it came.
    Raw(String),
    /// A record as it came, whose members' names say what they hold.
    Json(Value),
}

/// Who called, as the source says.
#[derive(Clone, Debug)]
pub struct ClaimedCaller {
    /// The source's name for the caller.
    pub subject: Personal,
    /// Person, service, task or agent.
    pub kind: PrincipalKind,
    /// E-mail address.
    pub email: Option<Personal>,
    /// Groups.
    pub groups: Vec<Box<str>>,
    /// The client application.
    pub client_id: Option<Box<str>>,
}

/// Why a call did not end well, as the source says; or why the source's record could not be read.
#[derive(Clone, Debug)]
pub struct ClaimedFault {
    /// A code of the importing door.
    pub code: &'static Code,
    /// The text.
    pub text: Box<str>,
}

impl Claimed {
    /// A record of which no more is known than when, and how it ended.
    pub fn new(ts: Timestamp, outcome: Outcome) -> Self {
        Self {
            id: None,
            ts,
            caller: None,
            source_ip: None,
            user_agent: None,
            action: None,
            endpoint: None,
            operation: None,
            api_version: None,
            outcome,
            fault: None,
            cache_status: None,
            status: None,
            rows: None,
            bytes_in: 0,
            bytes_out: 0,
            duration_us: 0,
            forward_us: None,
            trace: None,
            task: None,
            ext: Map::new(),
        }
    }
}

/// A record of another gateway's call. Only an [`Importer`] makes one.
#[derive(Debug)]
pub struct ImportedRecord {
    record: Box<AccessRecord>,
    repeatable: bool,
}

impl ImportedRecord {
    /// The record's id.
    pub fn id(&self) -> AccessId {
        self.record.access_id
    }

    /// Whether a repeat of it has the same id.
    pub fn is_repeatable(&self) -> bool {
        self.repeatable
    }

    /// The record, for the recorder.
    pub fn into_record(self) -> Box<AccessRecord> {
        self.record
    }
}

/// What became of an imported record.
pub enum Import {
    /// It is on its way to the disk.
    Taken(Durable),
    /// It was taken before; resolves when it is on the disk, if it is not yet.
    Repeated(Durable),
    /// There is no room: nothing was taken.
    NoRoom,
}

/// How many records of one request went where; metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImportTally {
    /// Taken.
    pub accepted: u64,
    /// Taken before.
    pub duplicates: u64,
    /// Not readable as records; kept as dead letters.
    pub rejected: u64,
    /// Fields that no mapping knows, in all records together.
    pub unknown_fields: u64,
}

/// Takes in what one source says, under one pass.
pub struct Importer<'p> {
    recorder: Arc<dyn Recorder>,
    observer: Arc<dyn Observer>,
    redactor: Arc<dyn Redactor>,
    source: ResourceName,
    issuer: IssuerName,
    environment: Arc<str>,
    door: &'static str,
    parent: AccessId,
    /// It lives no longer than the pass, and looks at nothing of it, so that it may cross threads.
    _pass: PhantomData<&'p ()>,
}

impl<'p> Importer<'p> {
    /// For the resource whose records the pass permits to write; `None` when it permits none.
    pub(crate) fn of(
        pass: &'p Pass,
        recorder: Arc<dyn Recorder>,
        observer: Arc<dyn Observer>,
    ) -> Option<Self> {
        let actions = pass.permit().actions().as_slice();
        let permitted = |action: &&Action| action.verb == Verb::Write && action.object.as_str() == RECORDS;
        let source = actions.iter().find(permitted)?.resource.clone();
        Some(Self {
            recorder,
            observer,
            issuer: IssuerName::new(format!("{IMPORT_ISSUER_PREFIX}{source}")),
            source,
            redactor: pass.snapshot().redactor.clone(),
            environment: pass.snapshot().environment.clone(),
            door: pass.door(),
            parent: pass.id(),
            _pass: PhantomData,
        })
    }

    /// The resource that the records stand under.
    pub fn source(&self) -> &ResourceName {
        &self.source
    }

    /// Whether the spool fills faster than it empties: nothing should be read that can wait.
    pub fn is_crowded(&self) -> bool {
        self.recorder.is_crowded()
    }

    /// Hands one record over to the recorder. Does not wait.
    pub fn import(&self, claimed: Claimed) -> Import {
        let repeatable = claimed.id.is_some();
        let record = Box::new(self.record(claimed));
        self.recorder.import(ImportedRecord { record, repeatable })
    }

    /// Tells the observer what became of a request's records.
    pub fn tell(&self, tally: &ImportTally) {
        self.observer.imported(&self.source, tally);
    }

    fn record(&self, claimed: Claimed) -> AccessRecord {
        let access_id = claimed.id.unwrap_or_else(AccessId::fresh);
        let action = claimed
            .action
            .map(|(verb, object)| Actions::one(Action { verb, resource: self.source.clone(), object }));
        let mut timings = Timings::default();
        if let Some(micros) = claimed.forward_us {
            timings.add(Stage::Forward, micros);
        }
        let fault = claimed.fault.map(|fault| FaultRecord {
            code: fault.code.name,
            side: fault.code.side.as_str(),
            public: fault.text,
            cause: None,
        });
        let (operation, form) = match claimed.operation {
            None => (None, Form::Template),
            Some(ClaimedText::Template(text)) => (Some(text), Form::Template),
            Some(ClaimedText::Raw(text)) => (Some(text), Form::Text),
            Some(ClaimedText::Json(mut value)) => {
                self.redactor.redact_json("", &mut value);
                (Some(value.to_string()), Form::Text)
            }
        };
        let begun = AccessRecord::begin(access_id, claimed.ts, self.environment.clone(), self.door);
        let mut record = AccessRecord {
            origin: Origin::Imported(self.source.clone()),
            parent_access_id: Some(self.parent),
            principal: claimed.caller.map(|caller| Arc::new(self.principal(caller))),
            source_ip: claimed.source_ip,
            user_agent: claimed.user_agent,
            actions: action,
            endpoint: claimed.endpoint,
            operation: operation.map(Personal::from),
            api_version: claimed.api_version,
            outcome: claimed.outcome,
            fault,
            cache_status: claimed.cache_status,
            status: claimed.status,
            rows: claimed.rows,
            bytes_in: claimed.bytes_in,
            bytes_out: claimed.bytes_out,
            duration_us: claimed.duration_us,
            timings,
            trace: claimed.trace.unwrap_or(begun.trace),
            task: claimed.task,
            ext: claimed.ext,
            ..begun
        };
        record.redact(&*self.redactor, form);
        record
    }

    fn principal(&self, caller: ClaimedCaller) -> Principal {
        Principal {
            issuer: self.issuer.clone(),
            subject: caller.subject,
            kind: caller.kind,
            email: caller.email,
            groups: caller.groups,
            client_id: caller.client_id,
            auth_method: AuthMethod::Claimed,
            ..Principal::public()
        }
    }
}

impl std::fmt::Debug for Importer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Importer").field("source", &self.source).finish_non_exhaustive()
    }
}
