//! The access record: what the timeline keeps of one governed call. Plain data; the audit organ gives
//! it columns. Names follow OCSF and OpenTelemetry where those have one.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::action::Actions;
use crate::hex::unhex;
use crate::name::{AccessId, ConfigDigest, GrantName, LeaseId, ResourceName, RoleName};
use crate::organs::{Form, Redactor};
use crate::principal::Principal;
use crate::secret::Personal;
use crate::time::Timestamp;

/// The most bytes of an operation's text that a record keeps.
pub const OPERATION_BYTES_MAX: usize = 8 << 10;
/// The most bytes of an object that a record keeps.
pub const OBJECT_BYTES_MAX: usize = 4 << 10;
/// The most bytes of what the client says it is that a record keeps.
pub const USER_AGENT_BYTES_MAX: usize = 256;
/// The most bytes of any other text that a record keeps.
pub const TEXT_BYTES_MAX: usize = 2 << 10;

/// The stages of the main road, in order. Their names are the names of spans, of `Server-Timing`
/// metrics and of the record's duration columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// Opening the record and checking the form of the message.
    Accept,
    /// Who is calling.
    Authenticate,
    /// Which actions the call needs.
    Decode,
    /// Which grant allows them.
    Authorize,
    /// Whether there is room under the grant's limits.
    Limit,
    /// With which backend credential.
    Lease,
    /// The backend's work.
    Forward,
    /// Putting the answer in the door's form.
    Shape,
    /// Making the record durable.
    Record,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Self; 9] = [
        Self::Accept,
        Self::Authenticate,
        Self::Decode,
        Self::Authorize,
        Self::Limit,
        Self::Lease,
        Self::Forward,
        Self::Shape,
        Self::Record,
    ];

    /// The stage's name, everywhere.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Authenticate => "authenticate",
            Self::Decode => "decode",
            Self::Authorize => "authorize",
            Self::Limit => "limit",
            Self::Lease => "lease",
            Self::Forward => "forward",
            Self::Shape => "shape",
            Self::Record => "record",
        }
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Carried, and the backend did it.
    Allowed,
    /// Refused: malformed, unauthenticated, or no grant.
    Denied,
    /// Refused: a limit was used up.
    Limited,
    /// Permitted, but the backend or the gateway failed.
    Failed,
    /// The caller went away before the end.
    Abandoned,
    /// The gateway died between intent and completion.
    Unknown,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Self; 6] =
        [Self::Allowed, Self::Denied, Self::Limited, Self::Failed, Self::Abandoned, Self::Unknown];

    /// The outcome as records spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Limited => "limited",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
            Self::Unknown => "unknown",
        }
    }
}

/// Microseconds spent in each stage; a stage that was not reached has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings([Option<u32>; Stage::ALL.len()]);

impl Timings {
    pub(crate) fn add(&mut self, stage: Stage, micros: u32) {
        if let Some(slot) = self.0.get_mut(stage as usize) {
            *slot = Some(slot.unwrap_or(0).saturating_add(micros));
        }
    }

    /// The stages that were reached, in order, with their microseconds.
    pub fn iter(&self) -> impl Iterator<Item = (Stage, u32)> + '_ {
        Stage::ALL.into_iter().filter_map(|stage| Some((stage, self.of(stage)?)))
    }

    /// The microseconds of one stage.
    pub fn of(&self, stage: Stage) -> Option<u32> {
        self.0.get(stage as usize).copied().flatten()
    }
}

/// W3C trace context: where this call stands in a distributed trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace's 16 bytes.
    pub trace_id: [u8; 16],
    /// This call's span.
    pub span_id: [u8; 8],
    /// The caller's span, if it sent one.
    pub parent_span_id: Option<[u8; 8]>,
    /// Whether the caller samples this trace.
    pub sampled: bool,
}

impl TraceContext {
    /// A trace that begins with this call.
    pub fn own(id: AccessId) -> Self {
        let bytes = *id.as_bytes();
        let mut span_id = [0; 8];
        for (to, from) in span_id.iter_mut().zip(bytes.iter().skip(8)) {
            *to = *from;
        }
        Self { trace_id: bytes, span_id, parent_span_id: None, sampled: false }
    }
}

/// The caller's place in a trace, as a W3C `traceparent` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace's 16 bytes.
    pub trace_id: [u8; 16],
    /// The caller's span.
    pub span_id: [u8; 8],
    /// Whether the caller samples this trace.
    pub sampled: bool,
}

impl TraceParent {
    /// Reads a `traceparent` strictly (W3C Trace Context, 3.2); anything else is none.
    pub fn read(text: &str) -> Option<Self> {
        let mut parts = text.splitn(5, '-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let [version] = unhex::<1>(version)?;
        if version == 0xff || (version == 0 && parts.next().is_some()) {
            return None;
        }
        let (trace_id, span_id, [flags]) = (unhex::<16>(trace)?, unhex::<8>(span)?, unhex::<1>(flags)?);
        let told = trace_id != [0; 16] && span_id != [0; 8];
        told.then_some(Self { trace_id, span_id, sampled: flags & 1 == 1 })
    }
}

/// What is known of the refusal or failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultRecord {
    /// The stable code's name.
    pub code: &'static str,
    /// Whose side it was on: `client`, `gateway` or `backend`.
    pub side: &'static str,
    /// What the caller was told.
    pub public: Box<str>,
    /// What only the operator is told.
    pub cause: Option<Box<str>>,
}

/// Whose decision a record tells of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// This gateway decided.
    #[default]
    Gateway,
    /// Another gateway says so; the resource is the one that imports its records.
    Imported(ResourceName),
}

impl Origin {
    /// The origin as records spell it: `gateway`, which no resource may be called, or the resource's name.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Gateway => "gateway",
            Self::Imported(resource) => resource.as_str(),
        }
    }
}

/// The pipeline task on whose behalf a call is made, as the caller says. It is kept for correlation and
/// never decides anything; who the caller is, is proven apart from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskRef {
    /// The pipeline: Airflow's `dag_id`.
    pub dag_id: Option<Box<str>>,
    /// Its run.
    pub run_id: Option<Box<str>>,
    /// The task.
    pub task_id: Option<Box<str>>,
    /// Which attempt, from 1.
    pub try_number: Option<u32>,
    /// Which of a mapped task's instances, from 0.
    pub map_index: Option<u32>,
}

impl TaskRef {
    /// The longest name that is kept, in bytes: Airflow's own bound.
    pub const NAME_BYTES_MAX: usize = 250;

    /// Takes one pair in Airflow's words: `dag_id`, `run_id` (or `dag_run_id`), `task_id`, `try_number`,
    /// `map_index`. What is none of these, or cannot be read, is left out.
    pub fn take(&mut self, key: &str, value: &str) {
        let name = || {
            let plain = !value.is_empty() && value.len() <= Self::NAME_BYTES_MAX;
            (plain && !value.chars().any(char::is_control)).then(|| value.into())
        };
        match key {
            "dag_id" => self.dag_id = name(),
            "run_id" | "dag_run_id" => self.run_id = name(),
            "task_id" => self.task_id = name(),
            "try_number" => self.try_number = value.parse().ok(),
            "map_index" => self.map_index = value.parse().ok(),
            _ => {}
        }
    }

    /// Whether nothing is named.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The names as a record may keep them.
    pub(crate) fn redact(&mut self, redactor: &dyn Redactor) {
        for name in [&mut self.dag_id, &mut self.run_id, &mut self.task_id] {
            redact_in_place(redactor, name, Form::Text, TEXT_BYTES_MAX);
        }
    }
}

/// One governed call, first byte to last. The spool adds `gateway_id`, `epoch` and `seq`.
#[derive(Clone, Debug)]
pub struct AccessRecord {
    // — key —
    /// Whose decision it tells of.
    pub origin: Origin,
    /// When the first byte came in.
    pub ts: Timestamp,
    /// The call's id, which the caller sees too.
    pub access_id: AccessId,
    /// The call that this one is a part of.
    pub parent_access_id: Option<AccessId>,
    // — who —
    /// The configured environment: `prod`.
    pub environment: Arc<str>,
    /// Who called, once known.
    pub principal: Option<Arc<Principal>>,
    /// The long session that this call belongs to.
    pub session_id: Option<AccessId>,
    /// The client's address.
    pub source_ip: Option<Personal<IpAddr>>,
    /// What the client says it is; at most 256 bytes.
    pub user_agent: Option<Box<str>>,
    // — what —
    /// The door's name.
    pub door: &'static str,
    /// The actions that the call needs, once known.
    pub actions: Option<Actions>,
    /// The route template: `GET /shop/{table}`; low in cardinality.
    pub endpoint: Option<Box<str>>,
    /// The operation's text, redacted at capture.
    pub operation: Option<Personal>,
    /// Groups operations that differ in values alone.
    pub operation_fingerprint: Option<u64>,
    /// The interface's version, where the door has one.
    pub api_version: Option<Box<str>>,
    // — decision —
    /// How it ended.
    pub outcome: Outcome,
    /// Why it did not end well.
    pub fault: Option<FaultRecord>,
    /// The grant or deny rule that decided.
    pub rule: Option<GrantName>,
    /// The configuration that decided; none for what another gateway decided.
    pub config_digest: Option<ConfigDigest>,
    /// The backend role that the call acted as.
    pub backend_role: Option<RoleName>,
    /// The lent credential.
    pub lease_id: Option<LeaseId>,
    /// Calls left under the grant's limit.
    pub limit_remaining: Option<u64>,
    /// What a cache did with the call: `hit`, `miss`, `stale`, `bypass`.
    pub cache_status: Option<Box<str>>,
    // — result —
    /// The status in the door's own terms (HTTP status).
    pub status: Option<u16>,
    /// The backend's SQLSTATE, when it refused.
    pub sqlstate: Option<Box<str>>,
    /// Rows answered or changed.
    pub rows: Option<u64>,
    /// Bytes of body taken in.
    pub bytes_in: u64,
    /// Bytes of body answered.
    pub bytes_out: u64,
    /// First byte to record, microseconds.
    pub duration_us: u64,
    /// Microseconds of each stage.
    pub timings: Timings,
    /// The backend's process that the call ran in; kept in `ext`.
    pub backend_pid: Option<i32>,
    // — correlation —
    /// Where the call stands in a distributed trace.
    pub trace: TraceContext,
    /// The pipeline task that the caller names.
    pub task: Option<Box<TaskRef>>,
    /// What only one door or a later version knows.
    pub ext: Map<String, Value>,
}

impl AccessRecord {
    /// The record of a call of which nothing is known but that it has begun: of this gateway, in a trace of its own,
    /// and abandoned unless something better becomes of it.
    pub fn begin(access_id: AccessId, ts: Timestamp, environment: Arc<str>, door: &'static str) -> Self {
        Self {
            origin: Origin::Gateway,
            ts,
            access_id,
            parent_access_id: None,
            environment,
            principal: None,
            session_id: None,
            source_ip: None,
            user_agent: None,
            door,
            actions: None,
            endpoint: None,
            operation: None,
            operation_fingerprint: None,
            api_version: None,
            outcome: Outcome::Abandoned,
            fault: None,
            rule: None,
            config_digest: None,
            backend_role: None,
            lease_id: None,
            limit_remaining: None,
            cache_status: None,
            status: None,
            sqlstate: None,
            rows: None,
            bytes_in: 0,
            bytes_out: 0,
            duration_us: 0,
            timings: Timings::default(),
            backend_pid: None,
            trace: TraceContext::own(access_id),
            task: None,
            ext: Map::new(),
        }
    }

    /// Redacts every text of a record that did not come by the road, an imported one; what an [`crate::Access`]
    /// notes is redacted as it is noted. `operation` says what kind of text the operation's is.
    pub fn redact(&mut self, redactor: &dyn Redactor, operation: Form) {
        let short = |text: &mut Option<Box<str>>, form: Form, bytes_max: usize| {
            redact_in_place(redactor, text, form, bytes_max);
        };
        short(&mut self.user_agent, Form::Text, USER_AGENT_BYTES_MAX);
        short(&mut self.endpoint, Form::Path, TEXT_BYTES_MAX);
        short(&mut self.api_version, Form::Text, TEXT_BYTES_MAX);
        short(&mut self.cache_status, Form::Text, TEXT_BYTES_MAX);
        if let Some(task) = &mut self.task {
            task.redact(redactor);
        }
        if let Some(text) = &self.operation {
            let kept = redactor.redact(operation, text.reveal(), OPERATION_BYTES_MAX).into();
            self.operation = Some(Personal::new(kept));
        }
        if let Some(fault) = &mut self.fault {
            fault.public = redactor.redact(Form::Text, &fault.public, TEXT_BYTES_MAX).into();
            short(&mut fault.cause, Form::Text, TEXT_BYTES_MAX);
        }
        if let Some(actions) = &mut self.actions {
            *actions = actions.redacted(redactor, OBJECT_BYTES_MAX);
        }
        for (key, value) in &mut self.ext {
            redactor.redact_json(key, value);
        }
    }
}

fn redact_in_place(redactor: &dyn Redactor, text: &mut Option<Box<str>>, form: Form, bytes_max: usize) {
    if let Some(text) = text
        && let Cow::Owned(kept) = redactor.redact(form, text, bytes_max)
    {
        *text = kept.into();
    }
}
