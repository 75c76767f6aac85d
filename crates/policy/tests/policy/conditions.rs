use expect_test::{Expect, expect};

use crate::support::{asked, try_policy};

fn policy_text(condition: &str) -> String {
    let quoted = serde_json::to_string(condition).unwrap();
    format!("grants:\n  g:\n    to: anyone\n    allow: 'read,write shop/**'\n    when: {quoted}\n")
}

/// The error of a condition, or `ok`.
fn check(condition: &str, expected: Expect) {
    match try_policy(&policy_text(condition)) {
        Ok(_) => expected.assert_eq("ok"),
        Err(problems) => expected.assert_eq(&problems),
    }
}

#[test]
fn type_errors_are_found_at_load() {
    check(
        "prncipal.subject == 'a'",
        expect![[
            r#"doorward.yaml:5:11: grants.g.when: "prncipal" is unknown (at column 1 of the condition); did you mean "principal"?"#
        ]],
    );
    check(
        "principal.subjct == 'a'",
        expect![[
            r#"doorward.yaml:5:11: grants.g.when: principal has no field "subjct" (at column 10 of the condition); did you mean "subject"?"#
        ]],
    );
    check(
        "principal.task.dag_id == 'daily'",
        expect![
            "doorward.yaml:5:11: grants.g.when: principal.task is not available in this version yet (at column 10 of the condition); claims that the issuer sends are in principal.claims"
        ],
    );
    check(
        "principal.subject == 1",
        expect![
            "doorward.yaml:5:11: grants.g.when: a string is never equal to an int (at column 19 of the condition)"
        ],
    );
    check(
        "principal.subject",
        expect![
            "doorward.yaml:5:11: grants.g.when: the condition gives a string, not true or false (at column 1 of the condition)"
        ],
    );
    check(
        "principal.claims.admin",
        expect![
            "doorward.yaml:5:11: grants.g.when: the condition gives the value of a claim, not true or false (at column 1 of the condition); compare it: … == true"
        ],
    );
    check("principal.claims.admin == true", expect!["ok"]);
    check(
        "principal.subject && true",
        expect![
            "doorward.yaml:5:11: grants.g.when: true or false is expected here, found a string (at column 19 of the condition)"
        ],
    );
    check(
        "!principal.groups",
        expect![
            "doorward.yaml:5:11: grants.g.when: true or false is expected here, found a list (at column 1 of the condition)"
        ],
    );
    check(
        "1 in principal.groups",
        expect![
            "doorward.yaml:5:11: grants.g.when: an int is never in this list (at column 3 of the condition)"
        ],
    );
    check(
        "'a' in principal.subject",
        expect![[
            r#"doorward.yaml:5:11: grants.g.when: "in" looks into a list or a map, not into a string (at column 5 of the condition)"#
        ]],
    );
    check(
        "has(principal.email)",
        expect![
            "doorward.yaml:5:11: grants.g.when: principal.email is always there; if it is absent it is empty (at column 4 of the condition)"
        ],
    );
    check("has(principal.claims.x) && principal.claims.x > 3", expect!["ok"]);
    check(
        "principal.groups.exists(g, g == 1)",
        expect![
            "doorward.yaml:5:11: grants.g.when: a string is never equal to an int (at column 30 of the condition)"
        ],
    );
    check("principal.groups.exists(g, g.startsWith('a'))", expect!["ok"]);
    check("principal.groups.filter(g, g != 'x').size() > 1", expect!["ok"]);
    check("principal.groups.map(g, size(g)).all(n, n < 9)", expect!["ok"]);
    check(
        "principal.groups.map(g, size(g)).all(n, n == 'a')",
        expect![
            "doorward.yaml:5:11: grants.g.when: an int is never equal to a string (at column 43 of the condition)"
        ],
    );
    check(
        "principal.claims.exists(c, true)",
        expect![
            "doorward.yaml:5:11: grants.g.when: the claims cannot be walked (at column 24 of the condition)"
        ],
    );
    check(
        "principal.subject.startWith('a')",
        expect![[
            r#"doorward.yaml:5:11: grants.g.when: there is no method startWith() (at column 28 of the condition); did you mean "startsWith"?"#
        ]],
    );
    check(
        "principal.subject.matches('a.*')",
        expect![
            "doorward.yaml:5:11: grants.g.when: matches() is not available (at column 26 of the condition); use startsWith(), endsWith() or contains()"
        ],
    );
    check(
        "principal.subject.startsWith(1)",
        expect![
            "doorward.yaml:5:11: grants.g.when: startsWith() does not take a string and an int (at column 29 of the condition)"
        ],
    );
    check(
        "startsWith(principal.subject, 'a')",
        expect![
            "doorward.yaml:5:11: grants.g.when: there is no function startsWith() (at column 11 of the condition); known here: size, has, int, uint, double, string, bool, timestamp, duration, dyn"
        ],
    );
    check("request.time.getHours('Europe/Berlin') >= 8", expect!["ok"]);
    check(
        "request.time.getHours('Mars/Phobos') >= 8",
        expect![
            "doorward.yaml:5:11: grants.g.when: expected a time zone such as Europe/Berlin, UTC or +02:00 (at column 22 of the condition)"
        ],
    );
    check("request.time < timestamp('2027-01-01T00:00:00Z')", expect!["ok"]);
    check(
        "request.time < timestamp('tomorrow')",
        expect![
            "doorward.yaml:5:11: grants.g.when: expected an RFC 3339 time such as 2027-01-31T00:00:00Z (at column 25 of the condition)"
        ],
    );
    check(
        "request.time < '2027-01-01'",
        expect![
            "doorward.yaml:5:11: grants.g.when: this operator does not take a timestamp and a string (at column 14 of the condition)"
        ],
    );
    check("request.time - timestamp('2026-01-01T00:00:00Z') < duration('24h')", expect!["ok"]);
    check(
        "request.source_ip == '10.1.2.3' ? 'a' : 'b'",
        expect![
            "doorward.yaml:5:11: grants.g.when: the condition gives a string, not true or false (at column 1 of the condition)"
        ],
    );
    check("principal.act[0].subject == 'bot'", expect!["ok"]);
    check(
        "principal.act.all(a, a.sub == 'bot')",
        expect![[
            r#"doorward.yaml:5:11: grants.g.when: an actor has no field "sub" (at column 23 of the condition); known here: subject, issuer"#
        ]],
    );
    check(
        "Foo{a: 1} == 2",
        expect![
            "doorward.yaml:5:11: grants.g.when: messages cannot be made in a condition (at column 4 of the condition)"
        ],
    );
    check(
        "principal['subject'] == 'a'",
        expect!["doorward.yaml:5:11: grants.g.when: write principal.FIELD (at column 10 of the condition)"],
    );
    check("principal.claims['https://x/team'] == 'red'", expect!["ok"]);
}

#[test]
fn text_that_is_no_condition_is_refused() {
    check("", expect!["doorward.yaml:5:11: grants.g.when: the condition is empty"]);
    check(
        "true &&",
        expect![
            "doorward.yaml:5:11: grants.g.when: the condition ends too early (at column 8 of the condition)"
        ],
    );
    check(
        "true\n&& (false",
        expect![
            "doorward.yaml:5:11: grants.g.when: the condition ends too early (at line 2, column 10 of the condition)"
        ],
    );
    check(
        "'a",
        expect![
            "doorward.yaml:5:11: grants.g.when: the condition is not valid CEL: token recognition error at: ''a' (at column 1 of the condition)"
        ],
    );
    check(
        &"!".repeat(200),
        expect![
            "doorward.yaml:5:11: grants.g.when: the condition ends too early (at column 201 of the condition)"
        ],
    );
    check(
        &format!("{}true{}", "(".repeat(300), ")".repeat(300)),
        expect![
            "doorward.yaml:5:11: grants.g.when: the condition nests too deeply (at column 97 of the condition)"
        ],
    );
    check(
        &format!("'{}' == 'a'", "a".repeat(5_000)),
        expect!["doorward.yaml:5:11: grants.g.when: a condition has at most 4096 bytes"],
    );
    check(
        "[1].all(a, [2].all(b, [3].all(c, a + b + c > 0)))",
        expect![
            "doorward.yaml:5:11: grants.g.when: exists, all, map and filter nest at most 2 times (at column 30 of the condition)"
        ],
    );
    let flat = vec!["principal.subject=='a'"; 120].join("||");
    check(&flat, expect!["ok"]);
    let sum = vec!["1"; 1_000].join("+");
    check(
        &format!("{sum} == 1000"),
        expect![
            "doorward.yaml:5:11: grants.g.when: the condition nests too deeply (at column 1872 of the condition)"
        ],
    );
}

#[test]
fn conditions_hold_or_do_not() {
    let alice = r#"alice in:a in:staff email:alice@corp.example client:app claims:{"level":4,"deep":{"x":["y"]},"ratio":0.5,"none":null}"#;
    let cases = [
        ("true", true),
        ("principal.subject == 'alice' && principal.issuer == 'corp' && principal.kind == 'user'", true),
        ("principal.email.endsWith('@corp.example')", true),
        ("principal.client_id == 'app'", true),
        ("'staff' in principal.groups && !('x' in principal.groups)", true),
        ("principal.groups.exists(g, g.startsWith('sta'))", true),
        ("principal.groups.filter(g, g != 'a') == ['staff']", true),
        ("principal.groups.map(g, size(g)).all(n, n < 9)", true),
        ("size(principal.act) == 0", true),
        ("principal.claims.level > 3", true),
        ("principal.claims['level'] == 4", true),
        ("principal.claims.deep.x[0] == 'y'", true),
        ("principal.claims.ratio < 1.0", true),
        ("principal.claims.none == null", true),
        ("'level' in principal.claims && !('y' in principal.claims)", true),
        ("has(principal.claims.level) && !has(principal.claims.nope)", true),
        ("has(principal.claims.nope) && principal.claims.nope > 3", false),
        ("principal.claims.nope > 3", false),
        ("principal.claims.nope != 3", false),
        ("!(principal.claims.nope == 3)", false),
        ("principal.claims.deep > 3", false),
        ("principal.act[0].subject == 'bot'", false),
        ("request.door == 'rest' && request.source_ip == '10.1.2.3'", true),
        ("request.time == timestamp('2026-11-22T04:00:00Z')", true),
        ("request.time.getHours() == 4 && request.time.getDayOfWeek() == 0", true),
        ("request.time.getHours('Europe/Berlin') == 5", true),
        (
            "request.time.getMonth() == 10 && request.time.getDate() == 22 && request.time.getFullYear() == 2026",
            true,
        ),
        ("request.time.getMinutes() + request.time.getSeconds() + request.time.getMilliseconds() == 0", true),
        ("request.time.getDayOfMonth() == 21 && request.time.getDayOfYear() == 325", true),
        ("request.time - timestamp('2026-11-22T03:00:00Z') == duration('1h')", true),
        ("(request.time - timestamp('2026-11-22T03:00:00Z')).getMinutes() == 60", true),
        ("request.time + duration('1h') > request.time", true),
        ("action.verb == 'read' && action.resource == 'shop' && action.object.startsWith('a/')", true),
        ("int('4') == principal.claims.level && string(4) == '4' && double(4) == 4.0", true),
        ("principal.claims.level / 0 == 1", false),
    ];
    for (condition, expected) in cases {
        let policy =
            try_policy(&policy_text(condition)).unwrap_or_else(|problems| panic!("{condition}: {problems}"));
        let answer = asked(&policy, alice, "read shop/a/b");
        assert_eq!(answer == "g", expected, "{condition}: {answer}");
    }
}

#[test]
fn a_condition_on_actions_holds_for_each_of_them() {
    let policy = try_policy(&policy_text("action.verb == 'read' || action.object == 'a'")).unwrap();
    assert_eq!(asked(&policy, "x", "read shop/a; read shop/b"), "g");
    assert_eq!(asked(&policy, "x", "read shop/b; write shop/a"), "g");
    assert_eq!(asked(&policy, "x", "read shop/a; write shop/b"), "authorize.no-grant");
}

#[test]
fn what_is_absent_is_empty() {
    let policy = try_policy(&policy_text("principal.email == '' && principal.client_id == ''")).unwrap();
    assert_eq!(asked(&policy, "x", "read shop/a"), "g");
}
