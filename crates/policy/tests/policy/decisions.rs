use doorward_core::{Action, Actions, Case, Decision, Object, Policy, ResourceName, Verb};
use expect_test::expect;

use crate::support::{NOW, actions, arrival, asked, decide, policy, who};

const SHOP: &str = r#"
grants:
  analysts:
    to: group:analysts
    allow: read shop/public/*
    as: analyst
  orders:
    to: [user:alice, "user:bob@corp.example", client:airflow]
    allow: ["read,write shop/public/orders", "trigger etl/dags/daily"]
    as: loader
  by-issuer: { to: issuer:partner, allow: read reports/shared/** }
  tasks: { to: "task:daily.*", allow: "read reports/daily/2026*/**" }
  agents: { to: "agent:*", allow: list reports/** }
  staff-roles: { to: "group:db-*", allow: read shop/audit/*, as: "${group}" }
  uploads:
    to: anyone
    allow: "read,write reports/uploads/${sub}/**"
  team:
    to: anyone
    allow: "read reports/teams/${claims.team}/x-${claims.unit}.csv"
  open: { to: public, allow: read reports/open/** }
deny:
  frozen: { to: anyone, what: "write,delete shop/ledger/*" }
  no-secret: { to: group:interns, what: "read shop/**", when: principal.claims.clearance < 3 }
"#;

#[test]
fn the_first_grant_that_holds_and_allows_all_decides() {
    let policy = policy(SHOP);
    let cases = [
        // Selectors.
        ("carol in:analysts", "read shop/public/orders", "analysts as analyst"),
        ("carol in:analyst", "read shop/public/orders", "authorize.no-grant"),
        ("carol", "read shop/public/orders", "authorize.no-grant"),
        ("alice", "read shop/public/orders", "orders as loader"),
        ("alice in:analysts", "read shop/public/orders", "analysts as analyst"),
        ("alice in:analysts", "write shop/public/orders", "orders as loader"),
        ("u17 email:bob@corp.example", "write shop/public/orders", "orders as loader"),
        ("bob@corp.example", "write shop/public/orders", "orders as loader"),
        ("svc client:airflow", "trigger etl/dags/daily", "orders as loader"),
        ("airflow", "trigger etl/dags/daily", "authorize.no-grant"),
        ("x issuer:partner", "read reports/shared/a/b/c", "by-issuer"),
        ("partner", "read reports/shared/a", "authorize.no-grant"),
        // Tasks and agents are not the person whose name they carry.
        ("alice kind:agent", "read shop/public/orders", "authorize.no-grant"),
        ("bot kind:agent email:bob@corp.example", "read shop/public/orders", "authorize.no-grant"),
        ("bot kind:agent", "list reports/a", "agents"),
        ("bot", "list reports/a", "authorize.no-grant"),
        ("daily.load kind:task", "read reports/daily/20261122/a.csv", "tasks"),
        ("hourly.load kind:task", "read reports/daily/20261122/a.csv", "authorize.no-grant"),
        ("daily.load", "read reports/daily/20261122/a.csv", "authorize.no-grant"),
        // Patterns.
        ("carol in:analysts", "read shop/public/orders/x", "authorize.no-grant"),
        ("carol in:analysts", "read shop/public", "authorize.no-grant"),
        ("carol in:analysts", "read shop/public/", "authorize.no-grant"),
        ("carol in:analysts", "read shop/Public/orders", "authorize.no-grant"),
        ("carol in:analysts", "list shop/public/orders", "authorize.no-grant"),
        ("carol in:analysts", "read reports/public/orders", "authorize.no-grant"),
        ("daily.load kind:task", "read reports/daily/2025/a.csv", "authorize.no-grant"),
        ("daily.load kind:task", "read reports/daily/2026", "tasks"),
        ("x issuer:partner", "read reports/shared", "by-issuer"),
        // All actions, by one grant.
        (
            "alice",
            "read shop/public/orders; write shop/public/orders; trigger etl/dags/daily",
            "orders as loader",
        ),
        ("alice in:analysts", "read shop/public/orders; write shop/public/orders", "orders as loader"),
        ("alice in:analysts", "read shop/public/items; write shop/public/orders", "authorize.no-grant"),
        // Deny beats all.
        ("alice", "write shop/ledger/x", "authorize.denied-by-rule [frozen]"),
        ("alice", "read shop/public/orders; delete shop/ledger/x", "authorize.denied-by-rule [frozen]"),
        // Public.
        ("public", "read reports/open/a", "open"),
        ("alice", "read reports/open/a", "open"),
        ("public", "read shop/public/orders", "authenticate.required"),
        ("public", "read reports/uploads/public/x", "authenticate.required"),
        ("public", "write shop/ledger/x", "authenticate.required"),
        // Nothing configured.
        ("alice", "read nowhere/x", "authorize.no-grant"),
    ];
    for (principal, wanted, expected) in cases {
        assert_eq!(asked(&policy, principal, wanted), expected, "{principal}: {wanted}");
    }
}

#[test]
fn deny_rules_hold_when_they_cannot_be_evaluated() {
    let policy = policy(SHOP);
    let read = "read shop/public/orders";
    for (principal, expected) in [
        (r#"i in:interns in:analysts claims:{"clearance":3}"#, "analysts as analyst"),
        (r#"i in:interns in:analysts claims:{"clearance":2}"#, "authorize.denied-by-rule [no-secret]"),
        (r#"i in:interns in:analysts claims:{"clearance":"high"}"#, "authorize.denied-by-rule [no-secret]"),
        ("i in:interns in:analysts", "authorize.denied-by-rule [no-secret]"),
        ("i in:analysts", "analysts as analyst"),
    ] {
        assert_eq!(asked(&policy, principal, read), expected, "{principal}");
    }
    let policy = crate::support::policy(
        "grants:\n  all: { to: anyone, allow: read shop/** }\ndeny:\n  own: { to: anyone, what: 'read shop/x/${claims.team}' }\n",
    );
    for (principal, wanted, expected) in [
        (r#"a claims:{"team":"red"}"#, "read shop/x/red", "authorize.denied-by-rule [own]"),
        (r#"a claims:{"team":"red"}"#, "read shop/x/blue", "all"),
        ("a", "read shop/x/blue", "authorize.denied-by-rule [own]"),
        // No filling could make the rule speak of this.
        ("a", "read shop/y/blue", "all"),
        (r#"a claims:{"team":"../y"}"#, "read shop/x/blue", "authorize.denied-by-rule [own]"),
    ] {
        assert_eq!(asked(&policy, principal, wanted), expected, "{principal}: {wanted}");
    }
}

#[test]
fn who_works_for_a_person_inherits_their_deny_rules_and_not_their_grants() {
    let policy = policy(
        "grants:\n  own: { to: user:alice, allow: 'read shop/**' }\n  bots: { to: 'agent:*', allow: 'read shop/public/*' }\n\
         deny:\n  off: { to: user:alice, what: 'read shop/public/secret' }\n",
    );
    for (principal, wanted, expected) in [
        ("alice", "read shop/x", "own"),
        ("alice kind:agent", "read shop/x", "authorize.no-grant"),
        ("alice kind:agent", "read shop/public/x", "bots"),
        ("alice kind:agent", "read shop/public/secret", "authorize.denied-by-rule [off]"),
        ("bot kind:agent", "read shop/public/secret", "bots"),
    ] {
        assert_eq!(asked(&policy, principal, wanted), expected, "{principal}: {wanted}");
    }
}

fn one(verb: Verb, resource: &str, segments: &[&str]) -> Actions {
    let object = Object::from_segments(segments.iter().copied());
    Actions::one(Action { verb, resource: ResourceName::new(resource), object })
}

#[test]
fn templates_cannot_be_climbed_out_of() {
    let policy = policy(SHOP);
    let upload = |subject: &str, segments: &[&str]| {
        let mut principal = who("x");
        principal.subject = subject.to_owned().into();
        decide(&policy, &principal, &one(Verb::Write, "reports", segments))
    };
    assert_eq!(upload("alice", &["uploads", "alice", "a", "b"]), "uploads");
    assert_eq!(upload("auth0|alice", &["uploads", "auth0|alice", "a"]), "uploads");
    assert_eq!(upload("zoë", &["uploads", "zoë", "a"]), "uploads");
    assert_eq!(upload("alice", &["uploads", "bob", "a"]), "authorize.no-grant");
    for subject in ["*", "**", "a*", "?", "a/b", "..", ".", "a..b", "", "a\0", "a\n", "%2F", "a\\b"] {
        for object in [subject, "bob", "a", ""] {
            assert_eq!(
                upload(subject, &["uploads", object, "x"]),
                "authorize.no-grant",
                "{subject:?} {object:?}"
            );
        }
    }
    // What a claim holds is never read as a template again.
    assert_eq!(upload("${email}", &["uploads", "${email}", "x"]), "uploads");
    assert_eq!(upload("${email}", &["uploads", "bob@x", "x"]), "authorize.no-grant");
    assert_eq!(upload(&"a".repeat(600), &["uploads", &"a".repeat(600), "x"]), "authorize.no-grant");

    let team = |claims: &str, file: &str| {
        let principal = who(&format!("x claims:{claims}"));
        decide(&policy, &principal, &one(Verb::Read, "reports", &["teams", "red", file]))
    };
    assert_eq!(team(r#"{"team":"red","unit":7}"#, "x-7.csv"), "team");
    assert_eq!(team(r#"{"team":"red","unit":true}"#, "x-true.csv"), "team");
    for claims in [
        r#"{"team":"red"}"#,
        r#"{"team":"red","unit":null}"#,
        r#"{"team":"red","unit":""}"#,
        r#"{"team":["red"],"unit":7}"#,
        r#"{"team":{"a":1},"unit":7}"#,
        r#"{"team":"*","unit":7}"#,
        r#"{"team":"red","unit":"*"}"#,
        r#"{"team":"red/x-7.csv#","unit":7}"#,
    ] {
        assert_eq!(team(claims, "x-7.csv"), "authorize.no-grant", "{claims}");
    }
}

#[test]
fn the_group_that_matched_is_the_role() {
    let policy = policy(SHOP);
    let read = "read shop/audit/x";
    assert_eq!(asked(&policy, "a in:web in:db-read in:db-write", read), "staff-roles as db-read");
    assert_eq!(asked(&policy, "a in:db-", read), "staff-roles as db-");
    assert_eq!(asked(&policy, "a in:web", read), "authorize.no-grant");
    // A name that is no name of a role is no role.
    assert_eq!(asked(&policy, "a in:db-../x", read), "authorize.no-grant");
}

#[test]
fn escapes_are_one_character_of_a_pattern() {
    let policy = policy(
        "grants:\n  a: { to: anyone, allow: 'read shop/a%2Fb/order%20items' }\n  b: { to: anyone, allow: 'read shop/*2F' }\n  c: { to: anyone, allow: 'read shop/%2A/x' }\n  d: { to: anyone, allow: 'read shop/é*/x' }\n",
    );
    let read = |segments: &[&str]| decide(&policy, &who("x"), &one(Verb::Read, "shop", segments));
    assert_eq!(read(&["a/b", "order items"]), "a");
    assert_eq!(read(&["a", "b", "order items"]), "authorize.no-grant");
    assert_eq!(read(&["x2F"]), "b");
    assert_eq!(read(&["x/"]), "authorize.no-grant");
    assert_eq!(read(&["*", "x"]), "c");
    assert_eq!(read(&["y", "x"]), "authorize.no-grant");
    assert_eq!(read(&["été", "x"]), "d");
    assert_eq!(read(&["è", "x"]), "authorize.no-grant");
}

#[test]
fn refusals_say_why_and_what_next_and_nothing_of_others() {
    let policy = policy(
        "grants:\n  night: { to: group:ops, allow: read shop/**, when: request.time.getHours() > 22 }\n  \
         vip: { to: user:secret-person, allow: 'read,write shop/**' }\n  half: { to: group:ops, allow: write shop/a }\n  \
         clear: { to: group:ops, allow: read shop/**, when: principal.claims.level > 3 }\n",
    );
    let fault = |principal: &str, wanted: &str| {
        let (principal, wanted, arrival) = (who(principal), actions(wanted), arrival());
        let case = Case { principal: &principal, actions: &wanted, arrival: &arrival, now: NOW, role: None };
        match policy.decide(&case) {
            Decision::Deny(fault) => {
                assert!(!fault.public().contains("vip") && !fault.hint_text().unwrap().contains("vip"));
                let cause = fault.cause_text().unwrap_or("-");
                format!("{}\n{}\n{}\n{cause}", fault.code().name, fault.public(), fault.hint_text().unwrap())
            }
            Decision::Allow { grant, .. } => panic!("{grant}"),
        }
    };
    expect![[r#"
        authorize.no-grant
        no grant allows: read shop/public/orders
        Ask the gateway's operator for a grant such as: allow: read shop/public/orders
        "night" would allow it, but its condition does not hold: request.time.getHours() > 22; "clear" would allow it, but its condition cannot be evaluated (there is no "level"; ask has(…) first): principal.claims.level > 3"#]].assert_eq(&fault("a in:ops", "read shop/public/orders"));
    expect![[r#"
        authorize.no-grant
        no single grant allows all that this call needs: write shop/a, read shop/b, write shop/c, and 1 more
        Ask the gateway's operator for a grant such as: allow: ["write shop/a", "read shop/b", "write shop/c", …]
        "half" does not speak of: read shop/b"#]].assert_eq(&fault("a in:ops", "write shop/a; read shop/b; write shop/c; write shop/d"));
    expect![[r#"
        authorize.no-grant
        no grant allows: read shop/x
        Ask the gateway's operator for a grant such as: allow: read shop/x
        -"#]]
    .assert_eq(&fault("a", "read shop/x"));
    expect![[r#"
        authenticate.required
        only who is known here may: read shop/x
        Show who you are, for example with an Authorization: Bearer header.
        -"#]]
    .assert_eq(&fault("public", "read shop/x"));
}

#[test]
fn obligations_are_the_grants() {
    let policy = policy(
        "grants:\n  a: { to: anyone, allow: read shop/**, as: r, max_rows: 10, max_bytes: 1MiB, timeout: 5s, limit: 5/s }\n",
    );
    let (principal, wanted, arrival) = (who("x"), actions("read shop/x"), arrival());
    let case = Case { principal: &principal, actions: &wanted, arrival: &arrival, now: NOW, role: None };
    let Decision::Allow { obligations, .. } = policy.decide(&case) else { panic!("denied") };
    expect![[
        r#"Obligations { role: Some("r"), rows_max: Some(10), bytes_max: Some(1048576), timeout: Some(5s) }"#
    ]]
    .assert_eq(&format!("{obligations:?}"));
}
