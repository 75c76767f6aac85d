use expect_test::{Expect, expect};

use crate::support::try_policy;

/// Puts the lines into one grant (`to` and `allow` are there unless a line brings them).
fn check(lines: &str, expected: Expect) {
    let mut text = "grants:\n  g:\n".to_owned();
    for (key, line) in [("to:", "to: anyone"), ("allow:", "allow: read shop/**")] {
        if !lines.contains(key) {
            text.push_str(&format!("    {line}\n"));
        }
    }
    for line in lines.lines() {
        text.push_str(&format!("    {line}\n"));
    }
    check_file(&text, expected);
}

fn check_file(text: &str, expected: Expect) {
    match try_policy(text) {
        Ok(policy) => {
            let lints: Vec<String> = policy.lints().iter().map(ToString::to_string).collect();
            expected.assert_eq(&format!("ok\n{}", lints.join("\n")));
        }
        Err(problems) => expected.assert_eq(&problems),
    }
}

#[test]
fn who() {
    check(
        "to: nobody",
        expect![
            "doorward.yaml:4:9: grants.g.to: this names nobody: expected user:EMAIL|SUB, group:NAME, client:ID, issuer:NAME, task:PATTERN, agent:PATTERN, anyone or public"
        ],
    );
    check(
        "to: anyon",
        expect![[
            r#"doorward.yaml:4:9: grants.g.to: this names nobody: expected user:EMAIL|SUB, group:NAME, client:ID, issuer:NAME, task:PATTERN, agent:PATTERN, anyone or public; did you mean "anyone"?"#
        ]],
    );
    check(
        "to: grop:a",
        expect![[r#"doorward.yaml:4:9: grants.g.to: "grop:" selects nobody; did you mean "group"?"#]],
    );
    check("to: 'group:'", expect!["doorward.yaml:4:9: grants.g.to: group: is followed by a name"]);
    check(
        "to: user:*@corp.example",
        expect![
            "doorward.yaml:4:9: grants.g.to: a wildcard cannot stand in user:; use group:, issuer: or a condition"
        ],
    );
    check("to: []", expect![[r#"doorward.yaml:2:3: grants.g: "to" is empty, so the rule never holds"#]]);
    check(
        "to: [group:a, 'x:y']",
        expect![[
            r#"doorward.yaml:4:19: grants.g.to[1]: "x:" selects nobody; known here: user, group, client, issuer, task, agent"#
        ]],
    );
}

#[test]
fn what() {
    check(
        "allow: read",
        expect![[
            r#"doorward.yaml:4:12: grants.g.allow: this is not one action rule; write VERB[,VERB…] RESOURCE/OBJECT, for example "read shop/public/*""#
        ]],
    );
    check(
        "allow: read shop",
        expect![[
            r#"doorward.yaml:4:12: grants.g.allow: the object is missing after the resource; to mean all of it, write "shop/**""#
        ]],
    );
    check(
        "allow: raed shop/x",
        expect![[r#"doorward.yaml:4:12: grants.g.allow: "raed" is no verb; did you mean "read"?"#]],
    );
    check(
        "allow: '* shop/x'",
        expect![[
            r#"doorward.yaml:4:12: grants.g.allow: "*" is no verb; name the verbs: read,list,write,delete,execute,trigger,manage,connect,tag,read-versions"#
        ]],
    );
    check(
        "allow: GET shop/x",
        expect![[
            r#"doorward.yaml:4:12: grants.g.allow: rules by HTTP method ("GET") are not available in this version yet; use read, write or delete"#
        ]],
    );
    check(
        "allow: read shp/x",
        expect![[r#"doorward.yaml:4:12: grants.g.allow: there is no resource "shp"; did you mean "shop"?"#]],
    );
    check(
        "allow: read shop/a, write shop/b",
        expect![[
            r#"doorward.yaml:4:12: grants.g.allow: this is not one action rule; write VERB[,VERB…] RESOURCE/OBJECT, for example "read shop/public/*""#
        ]],
    );
    check(
        "allow: read shop//x",
        expect![[
            r#"doorward.yaml:4:12: grants.g.allow: an empty segment matches nothing; to mean all objects write "**""#
        ]],
    );
    check(
        "allow: read shop/",
        expect![[
            r#"doorward.yaml:4:12: grants.g.allow: an empty segment matches nothing; to mean all objects write "**""#
        ]],
    );
    check(
        "allow: read shop/../x",
        expect![[r#"doorward.yaml:4:12: grants.g.allow: ".." cannot be a segment"#]],
    );
    check(
        "allow: read shop/a**",
        expect![[
            r#"doorward.yaml:4:12: grants.g.allow: "**" stands for whole segments, alone between slashes"#
        ]],
    );
    check(
        "allow: 'read shop/a?b'",
        expect![[r#"doorward.yaml:4:12: grants.g.allow: "?" is written %3F in a pattern"#]],
    );
    check(
        "allow: 'read shop/a:b'",
        expect![[r#"doorward.yaml:4:12: grants.g.allow: ":" is written %3A in a pattern"#]],
    );
    check(
        "allow: 'read shop/%zz'",
        expect![[
            r#"doorward.yaml:4:12: grants.g.allow: "%" is followed by two hex digits, and a percent sign is written %25"#
        ]],
    );
    check(
        "allow: 'read shop/%ff'",
        expect!["doorward.yaml:4:12: grants.g.allow: the escapes are not UTF-8 text"],
    );
    check(
        "allow: 'read shop/${sub'",
        expect![[r#"doorward.yaml:4:12: grants.g.allow: a "${" here has no "}""#]],
    );
    check(
        "allow: 'read shop/${name}'",
        expect![
            "doorward.yaml:4:12: grants.g.allow: ${name} is unknown; there are ${sub}, ${email}, ${group} and ${claims.NAME}"
        ],
    );
    check(
        "allow: 'read shop/${group}'",
        expect![[
            r#"doorward.yaml:2:3: grants.g: "${group}" is the group that matched, and "to" names no group"#
        ]],
    );
    check(
        "as: '${group}'",
        expect![[
            r#"doorward.yaml:2:3: grants.g: "${group}" is the group that matched, and "to" names no group"#
        ]],
    );
    check(
        "as: ''",
        expect!["doorward.yaml:5:9: grants.g.as: a role has 1 to 128 bytes and no control characters"],
    );
}

#[test]
fn keys_and_limits() {
    check(
        "mask: {}",
        expect![[
            r#"doorward.yaml:5:5: grants.g.mask: "mask" is not available in this version yet: masking of columns will come with a later one; remove the key; it is refused so that nobody relies on it"#
        ]],
    );
    check(
        "quota: 1M rows/day",
        expect![[
            r#"doorward.yaml:5:5: grants.g.quota: "quota" is not available in this version yet: quotas over long periods will come with a later one; remove the key; it is refused so that nobody relies on it"#
        ]],
    );
    check(
        "per: grant",
        expect![[
            r#"doorward.yaml:5:5: grants.g.per: "per" is not available in this version yet: what quotas count by (a limit takes it: limit: { rate: 50/s, per: grant }) will come with a later one; remove the key; it is refused so that nobody relies on it"#
        ]],
    );
    check(
        "alow: read shop/x",
        expect![[r#"doorward.yaml:5:5: grants.g.alow: unknown key; did you mean "allow"?"#]],
    );
    check(
        "limit: 50/s burst 100",
        expect![[r#"
        ok
    "#]],
    );
    check(
        "limit: { rate: 10/m, burst: 3, per: resource }",
        expect![[r#"
        ok
    "#]],
    );
    check(
        "limit: 50 per second",
        expect![[
            r#"doorward.yaml:5:12: grants.g.limit: expected a limit such as "50/s burst 100", or a mapping of rate, burst and per"#
        ]],
    );
    check(
        "limit: 0/s",
        expect![[
            r#"doorward.yaml:5:12: grants.g.limit: expected a limit such as "50/s burst 100", or a mapping of rate, burst and per"#
        ]],
    );
    check(
        "limit: 5",
        expect![[
            r#"doorward.yaml:5:12: grants.g.limit: expected a limit such as "50/s burst 100", or a mapping of rate, burst and per, found a whole number"#
        ]],
    );
    check(
        "limit: { rate: 10/w }",
        expect![
            "doorward.yaml:5:20: grants.g.limit.rate: expected a rate such as 50/s, 10/m, 1000/h or 10000/d"
        ],
    );
    check(
        "limit: { rate: 10/m, brst: 3 }",
        expect![[r#"doorward.yaml:5:26: grants.g.limit.brst: unknown key; did you mean "burst"?"#]],
    );
    check(
        "limit: { rate: 10/m, per: principl }",
        expect![[
            r#"doorward.yaml:5:31: grants.g.limit.per: this is none of the words that can stand here; did you mean "principal"?"#
        ]],
    );
    check(
        "limit: { rate: 10/m, burst: 0 }",
        expect!["doorward.yaml:5:33: grants.g.limit.burst: expected a number from 1 to 1000000"],
    );
    check(
        "max_rows: many",
        expect!["doorward.yaml:5:15: grants.g.max_rows: expected a whole number, found text"],
    );
}

#[test]
fn all_problems_are_found_at_once() {
    check_file(
        "grants:\n  a: { to: x, allow: read shop }\n  b: { to: anyone, allow: read shop/x, when: prncipal.subject == 1 }\n\
         deny:\n  c: { to: anyone, allow: read shop/x }\n  d: { to: anyone, what: 'read nope/x' }\n",
        expect![[r#"
            doorward.yaml:2:12: grants.a.to: this names nobody: expected user:EMAIL|SUB, group:NAME, client:ID, issuer:NAME, task:PATTERN, agent:PATTERN, anyone or public
            doorward.yaml:2:22: grants.a.allow: the object is missing after the resource; to mean all of it, write "shop/**"
            doorward.yaml:5:20: deny.c.allow: unknown key; known here: to, what, when
            doorward.yaml:6:26: deny.d.what: there is no resource "nope"; known here: shop, reports, etl
            doorward.yaml:3:46: grants.b.when: "prncipal" is unknown (at column 1 of the condition); did you mean "principal"?"#]],
    );
    check_file(
        "grants: [a]\ndeny: x\n",
        expect![[r#"
        doorward.yaml:1:9: grants: expected a mapping of names to rules
        doorward.yaml:2:7: deny: expected a mapping of names to rules"#]],
    );
    check_file(
        "grants:\n",
        expect![[r#"
        ok
    "#]],
    );
}

#[test]
fn lints() {
    check_file(
        "grants:\n  \
         wide: { to: group:a, allow: 'read,list shop/**' }\n  \
         hidden: { to: group:a, allow: read shop/public/*, when: 'true' }\n  \
         other-verb: { to: group:a, allow: 'read,write shop/public/*' }\n  \
         other-group: { to: [group:a, group:b], allow: read shop/public/* }\n  \
         all: { to: anyone, allow: 'read reports/*/x' }\n  \
         hidden-too: { to: user:x, allow: ['read reports/a/x', 'read reports/*/x', 'read reports/${sub}/x'] }\n  \
         seen: { to: user:x, allow: read reports/**/x }\n  \
         conditional: { to: group:c, allow: read etl/**, when: request.door == 'rest' }\n  \
         not-hidden: { to: group:c, allow: read etl/** }\n  \
         globs: { to: 'group:t-*', allow: read etl/** }\n  \
         under-glob: { to: group:t-1, allow: read etl/a }\n  \
         open: { to: public, allow: write shop/** }\n  \
         anyone-writes: { to: anyone, allow: delete etl/** }\n\
         deny:\n  total: { to: public, what: read shop/a }\n",
        expect![[r#"
            ok
            doorward.yaml:3:3: hidden: can never decide: "wide" before it allows the same to the same callers
            doorward.yaml:7:3: hidden-too: can never decide: "all" before it allows the same to the same callers
            doorward.yaml:12:3: under-glob: can never decide: "globs" before it allows the same to the same callers
            doorward.yaml:13:3: open: is open to callers who show no credentials
            doorward.yaml:13:3: open: lets everybody change all of "shop": write shop/**
            doorward.yaml:14:3: anyone-writes: lets anyone who is authenticated change all of "etl": delete etl/**
            doorward.yaml:16:3: total: holds for everybody, whatever is granted"#]],
    );
}

#[test]
fn issuers_that_are_not_configured() {
    let text = "grants:\n  a: { to: [issuer:corp, issuer:copr], allow: read shop/x }\ndeny:\n  b: { to: issuer:other, what: read shop/x }\n";
    let policy = try_policy(text).unwrap();
    let lints: Vec<String> =
        policy.issuer_lints(&["corp", "api-key"]).iter().map(ToString::to_string).collect();
    expect![[r#"
        doorward.yaml:2:3: a: names an issuer that is not configured: "copr"; did you mean "corp"?
        doorward.yaml:4:3: b: names an issuer that is not configured: "other"; known here: corp, api-key"#]]
    .assert_eq(&lints.join("\n"));
}
