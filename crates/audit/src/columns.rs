//! The one table of the record's columns: what each is called, what it holds, whether it is personal,
//! and where its value comes from. Frames, stores, queries and renderings all read this table.
//!
//! Constraints: names follow OCSF and OpenTelemetry where those have one. A column that is added goes to
//! the end of its group and raises [`SCHEMA_VERSION`]; a column is never given another meaning.

use std::sync::LazyLock;

use doorward_core::{AccessRecord, Origin, Outcome, PrincipalKind, Stage};

use crate::row::{Input, OPERATION_MAX, TEXT_MAX, Value, hex, int, maybe_int, text};

/// The version of this table; it is kept with each record.
pub const SCHEMA_VERSION: i64 = 2;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Microseconds since the epoch.
    Time,
    /// A whole number.
    Int,
    /// Text.
    Text,
    /// A UUID.
    Uuid,
    /// JSON.
    Json,
    /// A SHA-256 hash.
    Hash,
}

/// Where a column's value comes from.
#[derive(Clone, Copy)]
pub enum Source {
    /// The gateway that kept the record.
    Gateway,
    /// The gateway's start that kept it.
    Epoch,
    /// The frame's number in its epoch.
    Seq,
    /// The call's id, which frames are paired by.
    AccessId,
    /// Which of the call's actions this row is for, from 0.
    ActionIndex,
    /// How many actions the call has.
    ActionCount,
    /// The action's verb.
    Verb,
    /// The action's resource.
    Resource,
    /// The action's object.
    Object,
    /// The row's place in its epoch's transparency log.
    LogIndex,
    /// The row's leaf in that log.
    LeafHash,
    /// The call's record.
    Call(for<'a> fn(Input<'a>) -> Value<'a>),
}

/// One column.
#[derive(Clone, Copy)]
pub struct Column {
    /// Its name in stores, JSON and documents.
    pub name: &'static str,
    /// What it holds.
    pub ty: Type,
    /// Whether it tells something about a person.
    pub personal: bool,
    /// Where its value comes from.
    pub source: Source,
}

const fn column(name: &'static str, ty: Type, source: Source) -> Column {
    Column { name, ty, personal: false, source }
}

const fn personal(name: &'static str, ty: Type, source: Source) -> Column {
    Column { name, ty, personal: true, source }
}

/// All columns, in the order in which stores keep them.
pub static COLUMNS: &[Column] = {
    use Source::Call;
    use Type::{Hash, Int, Json, Text, Time, Uuid};
    &[
        // key
        column("ts", Time, Call(|i| int(i.record.ts.micros()))),
        column("gateway_id", Text, Source::Gateway),
        column("epoch", Int, Source::Epoch),
        column("seq", Int, Source::Seq),
        column("access_id", Uuid, Source::AccessId),
        column("action_index", Int, Source::ActionIndex),
        column("action_count", Int, Source::ActionCount),
        column("schema_version", Int, Call(|_| Value::Int(SCHEMA_VERSION))),
        column("parent_access_id", Uuid, Call(|i| id(i.record.parent_access_id.map(|id| *id.as_bytes())))),
        column("source", Text, Call(|i| text(Some(i.record.origin.as_str())))),
        column("class", Text, Call(|i| text(Some(class(i.record))))),
        // who
        column("environment", Text, Call(|i| text(Some(&i.record.environment)))),
        column("subject_id", Uuid, Call(|i| i.subject.map_or(Value::Null, Value::Uuid))),
        column("principal_issuer", Text, Call(|i| i.of_principal(|p| Some(p.issuer.as_str())))),
        personal(
            "principal_subject",
            Text,
            Call(|i| i.personal(i.principal().filter(known).map(|p| &**p.subject.reveal()), TEXT_MAX)),
        ),
        personal(
            "principal_email",
            Text,
            Call(|i| {
                let email = i.principal().and_then(|p| p.email.as_ref());
                i.personal(email.map(|email| &**email.reveal()), TEXT_MAX)
            }),
        ),
        column("principal_kind", Text, Call(|i| i.of_principal(|p| Some(p.kind.as_str())))),
        column("groups", Json, Call(|i| i.groups())),
        personal("on_behalf_of", Json, Call(|i| i.on_behalf_of())),
        personal("claims", Json, Call(|i| i.claims())),
        column("client_id", Text, Call(|i| i.of_principal(|p| p.client_id.as_deref()))),
        column("auth_method", Text, Call(|i| i.of_principal(|p| Some(p.auth_method.as_str())))),
        column("credential_id", Text, Call(|i| i.of_principal(|p| p.credential_id.as_deref()))),
        column("session_id", Uuid, Call(|i| id(i.record.session_id.map(|id| *id.as_bytes())))),
        personal("source_ip", Text, Call(|i| i.source_ip())),
        column("user_agent", Text, Call(|i| text(i.record.user_agent.as_deref()))),
        // what
        column("door", Text, Call(|i| text(Some(i.record.door)))),
        column("verb", Text, Source::Verb),
        column("resource", Text, Source::Resource),
        column("object", Text, Source::Object),
        column("endpoint", Text, Call(|i| text(i.record.endpoint.as_deref()))),
        personal(
            "operation",
            Text,
            Call(|i| i.personal(i.record.operation.as_ref().map(|text| &**text.reveal()), OPERATION_MAX)),
        ),
        column(
            "operation_fingerprint",
            Text,
            Call(|i| i.record.operation_fingerprint.map_or(Value::Null, |print| hex(&print.to_be_bytes()))),
        ),
        column("api_version", Text, Call(|i| text(i.record.api_version.as_deref()))),
        // decision
        column("outcome", Text, Call(|i| text(Some(i.record.outcome.as_str())))),
        column("fault_code", Text, Call(|i| text(i.record.fault.as_ref().map(|fault| fault.code)))),
        column("fault_side", Text, Call(|i| text(i.record.fault.as_ref().map(|fault| fault.side)))),
        personal(
            "fault_public",
            Text,
            Call(|i| i.personal(i.record.fault.as_ref().map(|fault| &*fault.public), TEXT_MAX)),
        ),
        personal(
            "fault_cause",
            Text,
            Call(|i| i.personal(i.record.fault.as_ref().and_then(|f| f.cause.as_deref()), TEXT_MAX)),
        ),
        column("grant", Text, Call(|i| text(i.record.rule.as_ref().map(|rule| rule.as_str())))),
        column(
            "config_digest",
            Text,
            Call(|i| text(i.record.config_digest.as_ref().map(|digest| digest.as_str()))),
        ),
        column("backend_role", Text, Call(|i| text(i.record.backend_role.as_ref().map(|r| r.as_str())))),
        column("lease_id", Uuid, Call(|i| id(i.record.lease_id.map(|id| *id.as_bytes())))),
        column("limit_remaining", Int, Call(|i| maybe_int(i.record.limit_remaining))),
        column("cache_status", Text, Call(|i| text(i.record.cache_status.as_deref()))),
        // result
        column("status", Int, Call(|i| maybe_int(i.record.status))),
        column("sqlstate", Text, Call(|i| text(i.record.sqlstate.as_deref()))),
        column("rows", Int, Call(|i| maybe_int(i.record.rows))),
        column("bytes_in", Int, Call(|i| int(i.record.bytes_in))),
        column("bytes_out", Int, Call(|i| int(i.record.bytes_out))),
        column("duration_us", Int, Call(|i| int(i.record.duration_us))),
        column("accept_us", Int, Call(|i| i.stage(Stage::Accept))),
        column("authenticate_us", Int, Call(|i| i.stage(Stage::Authenticate))),
        column("decode_us", Int, Call(|i| i.stage(Stage::Decode))),
        column("authorize_us", Int, Call(|i| i.stage(Stage::Authorize))),
        column("limit_us", Int, Call(|i| i.stage(Stage::Limit))),
        column("lease_us", Int, Call(|i| i.stage(Stage::Lease))),
        column("forward_us", Int, Call(|i| i.stage(Stage::Forward))),
        column("shape_us", Int, Call(|i| i.stage(Stage::Shape))),
        column("record_us", Int, Call(|i| i.stage(Stage::Record))),
        // correlation
        column("trace_id", Text, Call(|i| hex(&i.record.trace.trace_id))),
        column("span_id", Text, Call(|i| hex(&i.record.trace.span_id))),
        column(
            "parent_span_id",
            Text,
            Call(|i| i.record.trace.parent_span_id.map_or(Value::Null, |span| hex(&span))),
        ),
        column("dag_id", Text, Call(|i| i.of_task(|task| text(task.dag_id.as_deref())))),
        column("run_id", Text, Call(|i| i.of_task(|task| text(task.run_id.as_deref())))),
        column("task_id", Text, Call(|i| i.of_task(|task| text(task.task_id.as_deref())))),
        column("try_number", Int, Call(|i| i.of_task(|task| maybe_int(task.try_number)))),
        column("map_index", Int, Call(|i| i.of_task(|task| maybe_int(task.map_index)))),
        // integrity
        column("log_index", Int, Source::LogIndex),
        column("leaf_hash", Hash, Source::LeafHash),
        column("ext", Json, Call(|i| i.ext())),
    ]
};

/// How a row of a call gets its value for a column.
pub(crate) type CallValue = for<'a> fn(Input<'a>) -> Value<'a>;

/// The columns that a frame holds, in order: those that come from the call's record.
pub(crate) static CALL_COLUMNS: LazyLock<Vec<(&'static str, CallValue)>> = LazyLock::new(|| {
    COLUMNS
        .iter()
        .filter_map(|column| match column.source {
            Source::Call(value) => Some((column.name, value)),
            _ => None,
        })
        .collect()
});

/// The class by which retention tells records apart: what other gateways say, what was refused, what
/// administrators did to the timeline itself, and everything else.
fn class(record: &AccessRecord) -> &'static str {
    match (&record.origin, record.door, record.outcome) {
        (Origin::Imported(_), ..) => "imported",
        (Origin::Gateway, "admin", _) => "admin",
        (Origin::Gateway, _, Outcome::Denied | Outcome::Limited) => "refused",
        (Origin::Gateway, ..) => "access",
    }
}

/// The place of a column in the table.
pub fn position(name: &str) -> Option<usize> {
    COLUMNS.iter().position(|column| column.name == name)
}

fn id(bytes: Option<[u8; 16]>) -> Value<'static> {
    bytes.map_or(Value::Null, |bytes| Value::Uuid(uuid::Uuid::from_bytes(bytes)))
}

fn known(principal: &&doorward_core::Principal) -> bool {
    principal.kind != PrincipalKind::Public
}
