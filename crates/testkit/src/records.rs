//! Records as doors leave them, for benchmarks and tests of what becomes of them.

use std::sync::Arc;

use anyhow::{Context, Result};
use doorward_core::{
    AccessRecord, Action, Actions, Arrival, IssuerName, Object, Outcome, Personal, Principal, PrincipalKind,
    ResourceName, SystemClock, Verb,
};

use crate::organs::{self, MemoryRecorder, Rules, Tokens};

/// A record as an allowed read through the REST door leaves it.
///
/// # Errors
/// When the road leaves no record.
pub fn read_record() -> Result<AccessRecord> {
    let (tokens, rules, recorder) = (Tokens::new(), Rules::allow_all(), MemoryRecorder::new());
    let gateway =
        organs::gateway(organs::snapshot(&tokens, &rules, Vec::new()), &recorder, Arc::new(SystemClock));
    drop(gateway.open(Arrival { door: "rest", source_ip: Some([127, 0, 0, 1].into()), confidential: true }));
    let mut record = recorder.records().pop().context("no record")?;
    let claims =
        r#"{"iss":"https://id.example","sub":"u77","aud":"doorward","groups":["readers"],"exp":1795000000}"#;
    record.principal = Some(Arc::new(Principal {
        issuer: IssuerName::new("idp"),
        subject: Personal::from("u77"),
        kind: PrincipalKind::User,
        groups: vec!["readers".into()],
        claims_json: claims.into(),
        ..Principal::public()
    }));
    let object = Object::from_segments(["public", "items"]);
    record.actions =
        Some(Actions::one(Action { verb: Verb::Read, resource: ResourceName::new("shop"), object }));
    record.operation = Some(Personal::from("GET /shop/items?id=eq.?"));
    record.endpoint = Some("GET /shop/{table}".into());
    record.outcome = Outcome::Allowed;
    record.status = Some(200);
    Ok(record)
}
