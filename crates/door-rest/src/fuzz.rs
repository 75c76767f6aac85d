//! One entry for fuzzers: bytes as a request.

use bytes::Bytes;
use doorward_pgclient::catalog::{Catalog, Column, Generated, Relation, RelationKind};
use http::{HeaderMap, Method};

use crate::plan::{self, Bounds};
use crate::request::body::{Expect, Payload};
use crate::request::{Head, Operation, Request, redact};
use crate::sql;

/// Reads bytes as a request: the first one chooses the method, the first line is the target, the rest
/// is the body. Panics only when the door is broken.
pub fn fuzz_request(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else { return };
    let line = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    let (target, body) = rest.split_at_checked(line).unwrap_or_default();
    let target = String::from_utf8_lossy(target);
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let method = match choice {
        b'p' => Method::POST,
        b'u' => Method::PATCH,
        b'd' => Method::DELETE,
        _ => Method::GET,
    };
    let headers = HeaderMap::new();
    let head = Head { method: &method, path, query, headers: &headers, schemas: &["public".into()] };
    let Ok(mut request) = Request::read(head) else { return };
    if request.takes_body() {
        let expect = if request.operation == Operation::Call { Expect::Arguments } else { Expect::Rows };
        let Ok(payload) = Payload::read(Bytes::copy_from_slice(body), expect, false) else { return };
        request.payload = payload;
    }
    let text = redact::operation(&request, method.as_str(), "fuzz");
    debug_assert!(text.len() <= redact::TEXT_BYTES_MAX.max(path.len() + 64));
    let catalog = Catalog::of(vec![orders()], Vec::new());
    let bounds = Bounds { rows_max: Some(100), may_name: &|_| true, may_read: &|_| true };
    if let Ok(plan) = plan::plan(&request, &catalog, &bounds) {
        let statement = sql::write(&plan);
        debug_assert!(!statement.text.is_empty());
    }
}

fn orders() -> Relation {
    let column = |name: &str, type_name: &str, oid| Column {
        name: name.into(),
        type_name: type_name.into(),
        type_oid: oid,
        base_oid: oid,
        nullable: true,
        default: None,
        generated: Generated::No,
        comment: None,
    };
    Relation {
        schema: "public".into(),
        name: "orders".into(),
        kind: RelationKind::Table,
        insertable: true,
        updatable: true,
        deletable: true,
        columns: vec![
            column("id", "integer", 23),
            column("data", "jsonb", 3802),
            column("status", "text", 25),
        ],
        primary_key: vec!["id".into()],
        comment: None,
    }
}
