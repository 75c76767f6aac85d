//! `doorward explain`: which grant decides a call, and why the others do not. Offline, counts nothing.

use std::fmt::Write;
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use doorward_core::{
    Action, Actions, Arrival, Case, Clock, IssuerName, Object, Personal, Principal, PrincipalKind,
    ResourceName, SystemClock, Verb,
};
use doorward_policy::{Considered, Explanation, Reason, RuleKind, Verdict};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

use super::{EXIT_DENIED, Source, out, read};
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    who: Who,
    #[command(flatten)]
    wanted: Wanted,
    /// One JSON object.
    #[arg(long)]
    json: bool,
    /// Shows the rules that are for others, too.
    #[arg(long)]
    all: bool,
}

/// A made-up caller.
#[derive(Debug, clap::Args)]
struct Who {
    /// The caller's subject or e-mail address; without it the caller is anonymous.
    #[arg(long = "as")]
    subject: Option<String>,
    /// The caller's groups, separated by commas.
    #[arg(long, value_delimiter = ',')]
    groups: Vec<String>,
    /// The issuer's name; the first configured one unless given.
    #[arg(long)]
    issuer: Option<String>,
    /// The OAuth client.
    #[arg(long)]
    client: Option<String>,
    /// user, service, task or agent.
    #[arg(long, default_value = "user", value_parser = ["user", "service", "task", "agent"])]
    kind: String,
    /// Further claims: `team=emea`; a value that reads as JSON is taken as such. May be given again.
    #[arg(long = "claim", value_name = "NAME=VALUE")]
    claims: Vec<String>,
    /// The address that the call comes from.
    #[arg(long)]
    source_ip: Option<IpAddr>,
}

/// A verb and what it is for.
#[derive(Debug, clap::Args)]
pub(super) struct Wanted {
    /// read, list, write, delete, execute …
    verb: String,
    /// RESOURCE/OBJECT: `shop/public/orders`.
    target: String,
}

impl Wanted {
    pub(super) fn action(&self) -> anyhow::Result<Action> {
        let known = || Verb::ALL.map(Verb::as_str).join(", ");
        let verb = Verb::parse(&self.verb)
            .with_context(|| format!("{:?} is no verb; verbs: {}", self.verb, known()))?;
        let (resource, object) = self
            .target
            .split_once('/')
            .context("the target is RESOURCE/OBJECT, for example shop/public/orders")?;
        // Written as in rules and records: a segment's odd characters are percent-encoded.
        let segments: Result<Vec<_>, _> =
            object.split('/').map(|segment| percent_decode_str(segment).decode_utf8()).collect();
        let segments = segments.context("the object is not UTF-8 once decoded")?;
        let object = Object::from_segments(segments.iter().map(|segment| &**segment));
        Ok(Action { verb, resource: ResourceName::new(resource), object })
    }
}

impl Who {
    fn principal(&self, config: &Config) -> anyhow::Result<Principal> {
        let Some(subject) = &self.subject else { return Ok(Principal::public()) };
        let first = || config.root.issuers.keys().next().cloned().unwrap_or_else(|| "api-key".to_owned());
        let issuer = self.issuer.clone().unwrap_or_else(first);
        let mut claims = Map::new();
        claims.insert("sub".into(), subject.as_str().into());
        claims.insert("groups".into(), self.groups.clone().into());
        let email = subject.contains('@').then(|| Personal::from(subject.as_str()));
        if email.is_some() {
            claims.insert("email".into(), subject.as_str().into());
        }
        for claim in &self.claims {
            let (name, value) =
                claim.split_once('=').with_context(|| format!("--claim {claim:?} is not NAME=VALUE"))?;
            claims.insert(name.into(), serde_json::from_str(value).unwrap_or_else(|_| Value::from(value)));
        }
        Ok(Principal {
            issuer: IssuerName::new(issuer),
            subject: Personal::from(subject.as_str()),
            kind: PrincipalKind::parse(&self.kind).context("no such kind")?,
            email,
            groups: self.groups.iter().map(|group| group.as_str().into()).collect(),
            client_id: self.client.as_deref().map(Into::into),
            claims_json: serde_json::to_string(&claims)?.into(),
            claims,
            ..Principal::public()
        })
    }
}

pub(super) fn run(source: &Source, args: &Args) -> anyhow::Result<ExitCode> {
    let config = read(source, Arc::default())?;
    let action = args.wanted.action()?;
    let known = config.resources.iter().find(|entry| entry.name == action.resource);
    let entry = known.with_context(|| format!("no resource is named {:?}", action.resource.as_str()))?;
    let arrival = Arrival { door: entry.door.name, source_ip: args.who.source_ip, confidential: true };
    let principal = args.who.principal(&config)?;
    let actions = Actions::one(action);
    let case = Case {
        principal: &principal,
        actions: &actions,
        arrival: &arrival,
        now: SystemClock.now(),
        role: None,
    };
    let explanation = config.policy.explain(&case);
    out(&if args.json {
        format!("{}\n", as_json(&explanation))
    } else {
        as_text(&explanation, &actions, args.all)?
    })?;
    let allowed = matches!(explanation.verdict, Verdict::Allowed { .. });
    Ok(if allowed { ExitCode::SUCCESS } else { ExitCode::from(EXIT_DENIED) })
}

fn as_text(explanation: &Explanation, actions: &Actions, all: bool) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let action = actions.as_slice().first().map(ToString::to_string).unwrap_or_default();
    match &explanation.verdict {
        Verdict::Allowed { grant, obligations, limit } => {
            writeln!(text, "allowed: {action}")?;
            writeln!(text, "  by grant      {grant}")?;
            writeln!(
                text,
                "  backend role  {}",
                obligations.role.as_ref().map_or("(none)", |role| role.as_str())
            )?;
            for (name, value) in
                [("rows at most", obligations.rows_max), ("bytes at most", obligations.bytes_max)]
            {
                if let Some(value) = value {
                    writeln!(text, "  {name:<13} {value}")?;
                }
            }
            if let Some(timeout) = obligations.timeout {
                writeln!(text, "  timeout       {timeout:?}")?;
            }
            writeln!(text, "  limit         {}", limit.as_deref().unwrap_or("none"))?;
        }
        Verdict::Forbidden { rule } => writeln!(text, "denied: {action}\n  by deny rule  {rule}")?,
        Verdict::NoGrant => writeln!(text, "denied: {action}\n  no grant allows it")?,
    }
    let mut others = 0;
    for considered in &explanation.considered {
        let elsewhere = matches!(considered.reason, Reason::OtherPrincipals | Reason::OtherActions(_));
        if elsewhere && !all && !matches!(explanation.verdict, Verdict::NoGrant) {
            others += 1;
            continue;
        }
        let kind = if considered.kind == RuleKind::Deny { "deny " } else { "grant" };
        writeln!(text, "{kind} {}: {} ({})", considered.name, reason(considered), considered.position)?;
    }
    if others > 0 {
        writeln!(text, "{others} more rules do not apply; --all shows them")?;
    }
    Ok(text)
}

fn reason(considered: &Considered) -> String {
    match &considered.reason {
        Reason::OtherPrincipals => "is for others".to_owned(),
        Reason::OtherActions(action) => format!("does not speak of {action}"),
        Reason::Unfilled => "has a template that this caller's claims cannot fill".to_owned(),
        Reason::OtherRole => "is for another role than the session's".to_owned(),
        Reason::ConditionFalse(condition) => format!("its condition is false: {condition}"),
        Reason::ConditionFailed(condition, why) => {
            format!("its condition cannot be evaluated ({why}): {condition}")
        }
        Reason::Decides => "decides".to_owned(),
        Reason::Holds => "would decide, had no rule before it".to_owned(),
    }
}

fn as_json(explanation: &Explanation) -> Value {
    let considered: Vec<Value> = explanation
        .considered
        .iter()
        .map(|considered| {
            json!({
                "kind": if considered.kind == RuleKind::Deny { "deny" } else { "grant" },
                "rule": considered.name.as_str(),
                "at": considered.position.to_string(),
                "reason": reason(considered),
            })
        })
        .collect();
    match &explanation.verdict {
        Verdict::Allowed { grant, obligations, limit } => json!({
            "allowed": true, "rule": grant.as_str(), "limit": limit,
            "role": obligations.role.as_ref().map(|role| role.as_str()),
            "max_rows": obligations.rows_max, "max_bytes": obligations.bytes_max,
            "considered": considered,
        }),
        Verdict::Forbidden { rule } => {
            json!({ "allowed": false, "rule": rule.as_str(), "considered": considered })
        }
        Verdict::NoGrant => json!({ "allowed": false, "rule": null, "considered": considered }),
    }
}
