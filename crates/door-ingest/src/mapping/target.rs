//! The columns that a mapping may fill, and those that it may not: whatever tells of a decision of this
//! gateway, or of the record's own place, is not for a source to say.

use super::convert::As;

/// A column that a mapping may fill.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    Ts,
    Subject,
    Email,
    Kind,
    Groups,
    ClientId,
    SourceIp,
    UserAgent,
    Verb,
    Object,
    Endpoint,
    Operation,
    ApiVersion,
    Outcome,
    FaultText,
    CacheStatus,
    Status,
    Rows,
    BytesIn,
    BytesOut,
    Duration,
    Forward,
    TraceId,
    SpanId,
    ParentSpanId,
    DagId,
    RunId,
    TaskId,
    TryNumber,
    MapIndex,
    Ext(Box<str>),
}

/// The columns by their names, and how each is read: the first way when nothing is said.
pub(crate) const MAPPABLE: &[(&str, Target, &[As])] = {
    use As::{Cache, EpochMs, EpochNs, EpochS, EpochUs, Int, Ip, List, Method, Ms, Ns, Outcome, Path};
    use As::{Rfc3339, S, SpanId, Status, Text, TraceId, Traceparent, Url, Us};
    const SPANS: &[As] = &[Us, Ms, S, Ns];
    &[
        ("ts", Target::Ts, &[Rfc3339, EpochS, EpochMs, EpochUs, EpochNs]),
        ("principal_subject", Target::Subject, &[Text]),
        ("principal_email", Target::Email, &[Text]),
        ("principal_kind", Target::Kind, &[Text]),
        ("groups", Target::Groups, &[List]),
        ("client_id", Target::ClientId, &[Text]),
        ("source_ip", Target::SourceIp, &[Ip]),
        ("user_agent", Target::UserAgent, &[Text]),
        ("verb", Target::Verb, &[Method]),
        ("object", Target::Object, &[Path]),
        ("endpoint", Target::Endpoint, &[Text]),
        ("operation", Target::Operation, &[Url, Text]),
        ("api_version", Target::ApiVersion, &[Text]),
        ("outcome", Target::Outcome, &[Outcome, Status]),
        ("fault_public", Target::FaultText, &[Text]),
        ("cache_status", Target::CacheStatus, &[Cache]),
        ("status", Target::Status, &[Int]),
        ("rows", Target::Rows, &[Int]),
        ("bytes_in", Target::BytesIn, &[Int]),
        ("bytes_out", Target::BytesOut, &[Int]),
        ("duration_us", Target::Duration, SPANS),
        ("forward_us", Target::Forward, SPANS),
        ("trace_id", Target::TraceId, &[TraceId, Traceparent]),
        ("span_id", Target::SpanId, &[SpanId]),
        ("parent_span_id", Target::ParentSpanId, &[SpanId]),
        ("dag_id", Target::DagId, &[Text]),
        ("run_id", Target::RunId, &[Text]),
        ("task_id", Target::TaskId, &[Text]),
        ("try_number", Target::TryNumber, &[Int]),
        ("map_index", Target::MapIndex, &[Int]),
    ]
};

/// How a value of `ext` is read.
pub(crate) const EXT_WAYS: &[As] = {
    use As::{Int, Ip, Json, List, Ms, Ns, Path, S, Text, Url, Us};
    &[Json, Text, Int, List, Url, Path, Ip, S, Ms, Us, Ns]
};

/// Columns that the gateway alone fills, with the reason.
pub(crate) const OURS: &[(&[&str], &str)] = &[
    (
        &["source", "class", "door", "resource", "parent_access_id", "environment", "schema_version"],
        "the gateway says where a record comes from",
    ),
    (
        &[
            "gateway_id",
            "epoch",
            "seq",
            "access_id",
            "action_index",
            "action_count",
            "log_index",
            "leaf_hash",
        ],
        "it is the record's own place in the timeline; for repeats there is `idempotency_key`",
    ),
    (
        &[
            "principal_issuer",
            "subject_id",
            "on_behalf_of",
            "claims",
            "auth_method",
            "credential_id",
            "session_id",
        ],
        "nothing of an imported caller is proven here",
    ),
    (
        &[
            "grant",
            "config_digest",
            "backend_role",
            "lease_id",
            "limit_remaining",
            "fault_code",
            "fault_side",
            "fault_cause",
            "operation_fingerprint",
            "sqlstate",
        ],
        "it tells of this gateway's own decision",
    ),
    (
        &[
            "accept_us",
            "authenticate_us",
            "decode_us",
            "authorize_us",
            "limit_us",
            "lease_us",
            "shape_us",
            "record_us",
        ],
        "it is a stage of this gateway's own road",
    ),
    (&["ext"], "name what is kept in it: `ext.NAME`"),
];
