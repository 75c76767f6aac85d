//! Principals, calls and policies in one line each.

use std::sync::Arc;

use doorward_core::{
    Action, Actions, Arrival, Case, Decision, IssuerName, Object, Personal, Policy, Principal, PrincipalKind,
    ResourceName, Timestamp, Verb,
};
use doorward_policy::{Compiled, Limiter, Sources, compile};
use doorward_settings::Document;

pub(crate) const RESOURCES: [&str; 3] = ["shop", "reports", "etl"];

/// 2026-11-22T04:00:00Z, a Sunday.
pub(crate) const NOW: Timestamp = Timestamp::from_seconds(1_795_320_000);

pub(crate) fn try_policy(text: &str) -> Result<Compiled, String> {
    let document = Document::parse("doorward.yaml", text).map_err(|problem| problem.to_string())?;
    let resources = RESOURCES.map(ResourceName::new);
    let sources = Sources {
        grants: document.root().get("grants"),
        deny: document.root().get("deny"),
        resources: &resources,
    };
    compile(sources, Arc::new(Limiter::new())).map_err(|problems| problems.to_string())
}

pub(crate) fn policy(text: &str) -> Compiled {
    try_policy(text).unwrap_or_else(|problems| panic!("{problems}"))
}

/// `alice in:a in:b email:a@x client:app issuer:corp kind:task claims:{"team":"red"}`; `public` is nobody.
pub(crate) fn who(text: &str) -> Principal {
    let mut principal = Principal::public();
    if text == "public" {
        return principal;
    }
    principal.kind = PrincipalKind::User;
    principal.issuer = IssuerName::new("corp");
    for (index, word) in text.split_ascii_whitespace().enumerate() {
        match word.split_once(':') {
            Some(("in", group)) => principal.groups.push(group.into()),
            Some(("email", email)) => principal.email = Some(Personal::from(email)),
            Some(("client", id)) => principal.client_id = Some(id.into()),
            Some(("issuer", name)) => principal.issuer = IssuerName::new(name),
            Some(("kind", kind)) => principal.kind = PrincipalKind::parse(kind).unwrap(),
            Some(("claims", json)) => principal.claims = serde_json::from_str(json).unwrap(),
            _ => {
                assert_eq!(index, 0, "{word}");
                principal.subject = Personal::from(word);
            }
        }
    }
    principal
}

pub(crate) fn action(text: &str) -> Action {
    let (verb, path) = text.split_once(' ').unwrap();
    let (resource, object) = path.split_once('/').unwrap();
    Action {
        verb: Verb::parse(verb).unwrap(),
        resource: ResourceName::new(resource),
        object: Object::from_segments(object.split('/')),
    }
}

/// `read shop/a; write shop/b`
pub(crate) fn actions(text: &str) -> Actions {
    Actions::new(text.split("; ").map(action).collect()).unwrap()
}

pub(crate) fn arrival() -> Arrival {
    Arrival { door: "rest", source_ip: Some([10, 1, 2, 3].into()), confidential: true }
}

/// `grant-name`, `grant-name as role`, or the fault's code, rule and texts.
pub(crate) fn decide(policy: &Compiled, principal: &Principal, wanted: &Actions) -> String {
    let arrival = arrival();
    let case = Case { principal, actions: wanted, arrival: &arrival, now: NOW, role: None };
    match policy.decide(&case) {
        Decision::Allow { grant, obligations } => match obligations.role {
            Some(role) => format!("{grant} as {role}"),
            None => grant.to_string(),
        },
        Decision::Deny(fault) => {
            let rule = fault.rule_name().map(|rule| format!(" [{rule}]")).unwrap_or_default();
            format!("{}{rule}", fault.code().name)
        }
    }
}

pub(crate) fn asked(policy: &Compiled, principal: &str, wanted: &str) -> String {
    decide(policy, &who(principal), &actions(wanted))
}
