//! Decisions and tokens: what the road spends on deciding, without any I/O.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use doorward_core::{
    Action, Actions, Arrival, Authenticator, Case, Clock, Credentials, Decision, IssuerName, Object,
    Personal, Policy, Principal, PrincipalKind, ResourceName, Secret, SystemClock, Verb,
};
use doorward_identity::{Identity, KeySources, Plan};
use doorward_policy::{Compiled, Limiter, Sources, compile};
use doorward_settings::Document;
use doorward_testkit::issuer::{Alg, Issuer};

use crate::table::{Table, Target, median};

const GRANTS: usize = 10_000;
const PRINCIPALS: usize = 10_000;
/// Grants that match every caller, beside the caller's own.
const SHARED: usize = 7;
const ROUNDS: usize = 9;
const CALLS: u32 = 200_000;

pub fn run(table: &Table) -> Result<()> {
    table.heading("core: 10,000 grants, 10,000 principals, at most 8 grants matching");
    // Callers take turns, so each is cold in the processor's caches; each further group is a cold text more.
    let plain = micros_of_decision(1, None)?;
    table.judge("decision without condition, callers in 1 group", plain, "us", Target::AtMost(1.0));
    let wide = micros_of_decision(SHARED, None)?;
    table.judge("decision without condition, callers in 7 groups", wide, "us", Target::AtMost(1.0));
    let conditional = micros_of_decision(SHARED, Some("principal.claims.team == \"emea\""))?;
    table.judge("decision with one condition, callers in 7 groups", conditional, "us", Target::AtMost(5.0));
    table.judge("cached token verification", micros_of_cached_token()?, "us", Target::AtMost(1.0));
    Ok(())
}

/// A grant for each principal, and in front of them seven for the groups that everybody is in.
fn policy(groups: usize, condition: Option<&str>) -> Result<Compiled> {
    let mut text = String::from("grants:\n");
    for shared in 0..SHARED {
        let group = shared % groups;
        text += &format!("  shared-{shared}: {{ to: group:g{group}, allow: write shop/public/t{shared} }}\n");
    }
    let when = condition.map(|condition| format!(", when: '{condition}'")).unwrap_or_default();
    for user in 0..GRANTS - SHARED {
        text += &format!(
            "  user-{user}: {{ to: user:u{user}, allow: read shop/public/t{user}, as: reader{when} }}\n"
        );
    }
    let document = Document::parse("bench.yaml", text)?;
    let resources = [ResourceName::new("shop")];
    let sources = Sources { grants: document.root().get("grants"), deny: None, resources: &resources };
    Ok(compile(sources, Arc::new(Limiter::new()))?)
}

fn principal(user: usize, groups: usize) -> Principal {
    let claims = serde_json::json!({ "team": "emea" }).as_object().cloned().unwrap_or_default();
    Principal {
        issuer: IssuerName::new("idp"),
        subject: Personal::from(format!("u{user}")),
        kind: PrincipalKind::User,
        groups: (0..groups).map(|group| format!("g{group}").into()).collect(),
        claims,
        ..Principal::public()
    }
}

fn micros_of_decision(groups: usize, condition: Option<&str>) -> Result<f64> {
    let policy = policy(groups, condition)?;
    let arrival = Arrival { door: "rest", source_ip: None, confidential: true };
    let cases: Vec<(Principal, Actions)> = (0..PRINCIPALS)
        .map(|turn| {
            let user = turn * 7919 % (GRANTS - SHARED);
            let object = Object::from_segments(["public", &format!("t{user}")]);
            let action = Action { verb: Verb::Read, resource: ResourceName::new("shop"), object };
            (principal(user, groups), Actions::one(action))
        })
        .collect();
    let now = SystemClock.now();
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let mut allowed = 0;
        for (principal, actions) in cases.iter().cycle().take(CALLS as usize) {
            let case = Case { principal, actions, arrival: &arrival, now, role: None };
            allowed += u32::from(matches!(policy.decide(&case), Decision::Allow { .. }));
        }
        rounds.push(micros_each(start.elapsed()));
        ensure!(allowed == CALLS, "the bench's grants do not allow its calls");
    }
    Ok(median(&mut rounds))
}

fn micros_of_cached_token() -> Result<f64> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let issuer = Issuer::start_with(&[Alg::Es256])?;
    let token = issuer.token("bench").claim("groups", vec!["readers"]).expires_in(3600).sign()?;
    let config = format!("issuers: {{ idp: {{ url: \"{}\", audience: doorward }} }}", issuer.url());
    let plan = Plan::load(&Document::parse("bench.yaml", config)?.root().deserialize()?)?;
    runtime.block_on(async {
        let sources = KeySources::new(doorward::fetch::Outbound::new()?);
        let identity = Identity::new(plan, &sources);
        let credentials = Credentials::Bearer(Secret::from(token));
        let arrival = Arrival { door: "rest", source_ip: None, confidential: true };
        let now = SystemClock.now();
        let first = identity.authenticate(&credentials, &arrival, now).await;
        first.ok().context("the bench's token is refused")?;
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let start = Instant::now();
            for _ in 0..CALLS {
                let known = identity.authenticate(&credentials, &arrival, now).await;
                known.ok().context("the bench's token is refused")?;
            }
            rounds.push(micros_each(start.elapsed()));
        }
        Ok(median(&mut rounds))
    })
}

fn micros_each(span: Duration) -> f64 {
    span.as_secs_f64() * 1e6 / f64::from(CALLS)
}
