//! The compiled index decides exactly as a naive walk over the rules does.

use doorward_core::{Action, Actions, Object, Principal, PrincipalKind, ResourceName, Verb};
use proptest::prelude::*;

use crate::support::{decide, policy, who};

/// A rule as the reference keeps it: texts only.
#[derive(Clone, Debug)]
struct Plain {
    to: Vec<&'static str>,
    what: Vec<(&'static str, &'static str, String)>,
    when: bool,
}

const SELECTORS: [&str; 12] = [
    "user:alice",
    "user:bob@x",
    "group:red",
    "group:r*",
    "group:blue",
    "client:app",
    "issuer:corp",
    "task:ali*",
    "task:alice",
    "agent:*",
    "anyone",
    "public",
];
const VERBS: [&str; 3] = ["read", "write", "list"];
const NAMES: [&str; 3] = ["shop", "reports", "etl"];
const SEGMENTS: [&str; 7] = ["a", "b", "ab", "*", "a*", "**", "*b*"];

fn rule() -> impl Strategy<Value = Plain> {
    let pattern =
        prop::collection::vec(prop::sample::select(&SEGMENTS[..]), 1..4).prop_map(|parts| parts.join("/"));
    let scope = (prop::sample::select(&VERBS[..]), prop::sample::select(&NAMES[..]), pattern);
    (
        prop::collection::vec(prop::sample::select(&SELECTORS[..]), 1..3),
        prop::collection::vec(scope, 1..4),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(to, what, when)| Plain { to, what, when })
}

fn principal() -> impl Strategy<Value = Principal> {
    prop::sample::select(vec![
        "public",
        "alice",
        "bob",
        "x email:bob@x",
        "alice in:red",
        "x in:blue in:red",
        "x client:app",
        "x issuer:other",
        "alice kind:task",
        "x kind:task in:rose",
        "alice kind:agent email:bob@x",
        "x kind:service in:green",
    ])
    .prop_map(who)
}

fn call() -> impl Strategy<Value = Vec<(&'static str, &'static str, Vec<&'static str>)>> {
    let object = prop::collection::vec(prop::sample::select(vec!["a", "b", "ab", "bb", "c"]), 1..4);
    prop::collection::vec((prop::sample::select(&VERBS[..]), prop::sample::select(&NAMES[..]), object), 1..3)
}

fn selects(selector: &str, who: &Principal, deny: bool) -> bool {
    if selector == "public" || !who.authenticated() {
        return selector == "public";
    }
    let subject: &str = who.subject.reveal();
    let glob = |pattern: &str, text: &str| match pattern.strip_suffix('*') {
        Some(prefix) => text.starts_with(prefix),
        None => text == pattern,
    };
    let named = deny || matches!(who.kind, PrincipalKind::User | PrincipalKind::Service);
    match selector.split_once(':') {
        None => true,
        Some(("user", name)) => {
            named && (subject == name || who.email.as_ref().is_some_and(|email| &**email.reveal() == name))
        }
        Some(("group", name)) => who.groups.iter().any(|group| glob(name, group)),
        Some(("client", name)) => who.client_id.as_deref() == Some(name),
        Some(("issuer", name)) => who.issuer.as_str() == name,
        Some(("task", name)) => who.kind == PrincipalKind::Task && glob(name, subject),
        Some((_, name)) => who.kind == PrincipalKind::Agent && glob(name, subject),
    }
}

fn segment(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) if segment(rest, text) => true,
        (Some((b'*', _)), Some((_, tail))) => segment(pattern, tail),
        (Some((one, rest)), Some((other, tail))) => one == other && segment(rest, tail),
        _ => false,
    }
}

fn path(pattern: &[&str], object: &[&str]) -> bool {
    match (pattern.split_first(), object.split_first()) {
        (None, None) => true,
        (Some((&"**", rest)), _) if path(rest, object) => true,
        (Some((&"**", _)), Some((_, tail))) => path(pattern, tail),
        (Some((one, rest)), Some((head, tail))) => {
            segment(one.as_bytes(), head.as_bytes()) && path(rest, tail)
        }
        _ => false,
    }
}

fn allows(rule: &Plain, (verb, resource, object): &(&str, &str, Vec<&str>)) -> bool {
    rule.what.iter().any(|(verb_, resource_, pattern)| {
        let pattern: Vec<&str> = pattern.split('/').collect();
        verb == verb_ && resource == resource_ && path(&pattern, object)
    })
}

fn reference(
    grants: &[Plain],
    denies: &[Plain],
    who: &Principal,
    call: &[(&'static str, &'static str, Vec<&'static str>)],
) -> String {
    let meant = |deny: bool| {
        move |rule: &&(usize, &Plain)| {
            !rule.1.when && rule.1.to.iter().any(|selector| selects(selector, who, deny))
        }
    };
    let denies: Vec<_> = denies.iter().enumerate().collect();
    if let Some((place, _)) =
        denies.iter().filter(meant(true)).find(|(_, rule)| call.iter().any(|one| allows(rule, one)))
    {
        return format!("authorize.denied-by-rule [d{place}]");
    }
    let grants: Vec<_> = grants.iter().enumerate().collect();
    match grants.iter().filter(meant(false)).find(|(_, rule)| call.iter().all(|one| allows(rule, one))) {
        Some((place, _)) => format!("g{place}"),
        None if who.authenticated() => "authorize.no-grant".to_owned(),
        None => "authenticate.required".to_owned(),
    }
}

fn text(grants: &[Plain], denies: &[Plain]) -> String {
    let mut out = String::new();
    for (section, letter, key, rules) in [("grants", 'g', "allow", grants), ("deny", 'd', "what", denies)] {
        out.push_str(&format!("{section}:\n"));
        for (place, rule) in rules.iter().enumerate() {
            let what: Vec<_> = rule
                .what
                .iter()
                .map(|(verb, resource, pattern)| format!("{verb} {resource}/{pattern}"))
                .collect();
            out.push_str(&format!("  {letter}{place}:\n    to: {:?}\n    {key}: {what:?}\n", rule.to));
            if rule.when {
                out.push_str("    when: principal.subject == 'nobody'\n");
            }
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_index_decides_as_a_walk_over_all_rules(
        grants in prop::collection::vec(rule(), 0..12),
        denies in prop::collection::vec(rule(), 0..2),
        cases in prop::collection::vec((principal(), call()), 1..12),
    ) {
        let policy = policy(&text(&grants, &denies));
        for (principal, call) in cases {
            let actions = call.iter().map(|(verb, resource, object)| Action {
                verb: Verb::parse(verb).unwrap(),
                resource: ResourceName::new(*resource),
                object: Object::from_segments(object.iter().copied()),
            });
            let actions = Actions::new(actions.collect()).unwrap();
            let expected = reference(&grants, &denies, &principal, &call);
            prop_assert_eq!(decide(&policy, &principal, &actions), expected);
        }
    }

    #[test]
    fn rules_of_any_text_never_panic(to in "\\PC{0,12}", allow in "(read |\\PC{0,3})?shop/[a-z*/%${}.]{0,20}", when in "[a-z.()'&|<=!0-9 \\[\\]{}?:+]{0,40}") {
        let quote = |text: &str| serde_json::to_string(text).unwrap();
        let text = format!("grants:\n  g:\n    to: {}\n    allow: {}\n    when: {}\n", quote(&to), quote(&allow), quote(&when));
        let _ = crate::support::try_policy(&text);
    }
}
