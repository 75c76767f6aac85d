//! The database's row as HTTP, and its errors.

use bytes::Bytes;
use doorward_pgclient::ServerError;
use expect_test::{Expect, expect};
use http::Method;

use super::*;
use crate::answer::{self, Facts};
use crate::sqlstate;

fn facts(rows: u64, total: Option<u64>, body: &str) -> Facts {
    Facts {
        void: false,
        changed: false,
        total,
        rows,
        body: Some(Bytes::copy_from_slice(body.as_bytes())),
        headers: None,
        status: None,
        key: None,
        offset: 0,
    }
}

fn answers(ask: Ask, facts: Facts, expect: &Expect) {
    let request = ask.read().expect("a good request");
    let text = match answer::answer(&request, "shop", facts) {
        Err(problem) => fixture::told(&problem),
        Ok(response) => {
            let mut text = response.status().as_u16().to_string();
            for (name, value) in response.headers() {
                text.push_str(&format!("\n{name}: {}", value.to_str().expect("text")));
            }
            format!("{text}\n{}", String::from_utf8_lossy(response.body()))
        }
    };
    expect.assert_eq(&text);
}

#[test]
fn pages() {
    answers(
        get("orders"),
        facts(2, None, "[{},{}]"),
        &expect![[r#"
        200
        content-range: 0-1/*
        content-type: application/json; charset=utf-8
        content-profile: public
        [{},{}]"#]],
    );
    answers(
        get("orders"),
        facts(0, None, "[]"),
        &expect![[r#"
        200
        content-range: */*
        content-type: application/json; charset=utf-8
        content-profile: public
        []"#]],
    );
    answers(
        get("orders?offset=10&limit=5"),
        Facts { offset: 10, ..facts(5, Some(15), "[]") },
        &expect![[r#"
        206
        content-range: 10-14/15
        content-type: application/json; charset=utf-8
        content-profile: public
        []"#]],
    );
    answers(
        get("orders").with("prefer", "count=exact"),
        facts(5, Some(5), "[]"),
        &expect![[r#"
        200
        content-range: 0-4/5
        content-type: application/json; charset=utf-8
        content-profile: public
        preference-applied: count=exact
        []"#]],
    );
    answers(
        get("orders?offset=99"),
        Facts { offset: 99, ..facts(0, Some(15), "[]") },
        &expect![[r#"
        416 PGRST103 shape.rest-out-of-range: Requested range not satisfiable
        details: An offset of 99 was requested, but there are only 15 rows.
        hint: Ask for a smaller offset."#]],
    );
    answers(
        get("orders"),
        facts(0, Some(0), "[]"),
        &expect![[r#"
        200
        content-range: */0
        content-type: application/json; charset=utf-8
        content-profile: public
        []"#]],
    );
    answers(
        Ask::new(Method::HEAD, "orders"),
        Facts { body: None, ..facts(3, None, "") },
        &expect![[r#"
        200
        content-range: 0-2/*
        content-type: application/json; charset=utf-8
        content-profile: public
    "#]],
    );
}

#[test]
fn single_rows() {
    let one = || get("orders?id=eq.1").with("accept", "application/vnd.pgrst.object+json");
    answers(
        one(),
        facts(1, None, "{}"),
        &expect![[r#"
        200
        content-range: 0-0/*
        content-type: application/vnd.pgrst.object+json; charset=utf-8
        content-profile: public
        {}"#]],
    );
    answers(
        one(),
        facts(0, None, "null"),
        &expect![[r#"
        406 PGRST116 shape.rest-not-one-row: Cannot coerce the result to a single JSON object
        details: The result contains 0 rows
        hint: Filter for exactly one row, or accept an array."#]],
    );
    answers(
        one(),
        facts(2, None, "{}"),
        &expect![[r#"
        406 PGRST116 shape.rest-not-one-row: Cannot coerce the result to a single JSON object
        details: The result contains 2 rows
        hint: Filter for exactly one row, or accept an array."#]],
    );
}

#[test]
fn changes() {
    let none = || Facts { body: None, ..facts(1, None, "") };
    answers(
        post("orders", "{}"),
        none(),
        &expect![[r#"
        201
        content-range: */*
    "#]],
    );
    let keyed = Facts { key: Some(Bytes::from_static(b"{\"id\":\"a b&c\",\"x\":null}")), ..none() };
    answers(
        post("orders", "{}").with("prefer", "return=headers-only"),
        keyed,
        &expect![[r#"
        201
        content-range: */*
        preference-applied: return=headers-only
        location: /shop/orders?id=eq.a%20b%26c&x=is.null
    "#]],
    );
    let full = || "return=representation";
    answers(
        post("orders", "[]").with("prefer", full()),
        facts(0, Some(0), "[]"),
        &expect![[r#"
        201
        content-range: */0
        content-type: application/json; charset=utf-8
        content-profile: public
        preference-applied: return=representation
        []"#]],
    );
    answers(
        patch("orders", "{}"),
        none(),
        &expect![[r#"
        204
        content-range: */*
    "#]],
    );
    answers(
        patch("orders", "{}").with("prefer", full()),
        facts(3, None, "[]"),
        &expect![[r#"
        200
        content-range: 0-2/*
        content-type: application/json; charset=utf-8
        content-profile: public
        preference-applied: return=representation
        []"#]],
    );
    answers(
        Ask::new(Method::DELETE, "orders"),
        none(),
        &expect![[r#"
        204
        content-range: */*
    "#]],
    );
    answers(
        Ask::new(Method::DELETE, "orders").with("prefer", full()),
        facts(1, Some(1), "[]"),
        &expect![[r#"
        200
        content-range: */1
        content-type: application/json; charset=utf-8
        content-profile: public
        preference-applied: return=representation
        []"#]],
    );
    answers(
        post("rpc/log", "{}"),
        Facts { void: true, ..none() },
        &expect![[r#"
        204
        content-range: */*
    "#]],
    );
    answers(
        post("rpc/add", "{}"),
        facts(1, None, "3"),
        &expect![[r#"
        200
        content-range: 0-0/*
        content-type: application/json; charset=utf-8
        content-profile: public
        3"#]],
    );
}

#[test]
fn functions_may_set_status_and_headers() {
    let set = |status: &'static str, headers: &'static str| Facts {
        status: (!status.is_empty()).then(|| Bytes::from_static(status.as_bytes())),
        headers: (!headers.is_empty()).then(|| Bytes::from_static(headers.as_bytes())),
        ..facts(1, None, "1")
    };
    let call = || post("rpc/add", "{}");
    answers(
        call(),
        set("202", r#"[{"cache-control":"no-store"},{"x-a":"1"},{"x-a":"2"}]"#),
        &expect![[r#"
        202
        content-range: 0-0/*
        content-type: application/json; charset=utf-8
        content-profile: public
        cache-control: no-store
        x-a: 1
        x-a: 2
        1"#]],
    );
    answers(
        call(),
        set("", r#"[{"content-type":"text/plain"}]"#),
        &expect![[r#"
        200
        content-range: 0-0/*
        content-type: text/plain
        content-profile: public
        1"#]],
    );
    answers(
        call(),
        set("9", ""),
        &expect![[r#"
        500 PGRST112 shape.rest-response-setting: response.status guc must be a valid status code
        hint: The database function that sets it must set a number from 200 to 599."#]],
    );
    answers(
        call(),
        set("", r#"{"a":"b"}"#),
        &expect![[r#"
        500 PGRST111 shape.rest-response-setting: response.headers guc must be a JSON array composed of objects with a single key and a string value
        hint: The database function that sets it must name headers that are not the gateway's own."#]],
    );
    answers(
        call(),
        set("", r#"[{"a":"b","c":"d"}]"#),
        &expect![[r#"
        500 PGRST111 shape.rest-response-setting: response.headers guc must be a JSON array composed of objects with a single key and a string value
        hint: The database function that sets it must name headers that are not the gateway's own."#]],
    );
    answers(
        call(),
        set("", r#"[{"transfer-encoding":"chunked"}]"#),
        &expect![[r#"
        500 PGRST111 shape.rest-response-setting: response.headers guc must be a JSON array composed of objects with a single key and a string value
        hint: The database function that sets it must name headers that are not the gateway's own."#]],
    );
    answers(
        call(),
        set("", r#"[{"x":"a\r\nb"}]"#),
        &expect![[r#"
        500 PGRST111 shape.rest-response-setting: response.headers guc must be a JSON array composed of objects with a single key and a string value
        hint: The database function that sets it must name headers that are not the gateway's own."#]],
    );
}

#[test]
fn errors_of_the_database() {
    let error = |sqlstate: &str, message: &str| ServerError {
        severity: "ERROR".into(),
        sqlstate: sqlstate.into(),
        message: message.into(),
        table: Some("orders".into()),
        ..ServerError::default()
    };
    let mut table = String::new();
    for (state, message) in [
        ("23505", "duplicate"),
        ("23503", "no key"),
        ("23502", "null"),
        ("22P02", "invalid input"),
        ("42501", "permission denied"),
        ("42703", "column does not exist"),
        ("42P01", "relation does not exist"),
        ("42883", "function does not exist"),
        ("42P17", "recursion"),
        ("25006", "read only"),
        ("40001", "serialization"),
        ("53300", "too many"),
        ("53400", "limit"),
        ("57014", "timeout"),
        ("57P01", "shutdown"),
        ("08006", "connection"),
        ("28000", "login"),
        ("P0001", "raised"),
        ("P0002", "no data"),
        ("PT402", "pay"),
        ("PTxyz", "odd"),
        ("PT999", "odd"),
        ("21000", "UPDATE requires a WHERE clause"),
        ("21000", "more than one row"),
        ("54001", "stack"),
        ("55000", "state"),
        ("XX000", "internal"),
        ("é", "odd"),
    ] {
        let problem = sqlstate::problem(&error(state, message), true);
        assert!(!problem.fault.public().contains(message), "the record's text holds the server's words");
        assert!(problem.fault.cause_text().is_none_or(|cause| !cause.contains(message)));
        table.push_str(&format!("{state} {} {}\n", status_of(&problem), problem.fault.code().name));
    }
    expect![[r#"
        23505 409 forward.rest-refused
        23503 409 forward.rest-refused
        23502 400 forward.rest-refused
        22P02 400 forward.rest-refused
        42501 403 forward.rest-refused
        42703 400 forward.rest-refused
        42P01 404 forward.rest-refused
        42883 404 forward.rest-refused
        42P17 500 forward.rest-failed
        25006 405 forward.rest-refused
        40001 500 forward.rest-failed
        53300 503 forward.rest-busy
        53400 500 forward.rest-failed
        57014 504 forward.rest-timeout
        57P01 503 forward.rest-busy
        08006 503 forward.rest-busy
        28000 403 forward.rest-refused
        P0001 400 forward.rest-refused
        P0002 500 forward.rest-failed
        PT402 402 forward.rest-refused
        PTxyz 500 forward.rest-failed
        PT999 500 forward.rest-failed
        21000 400 forward.rest-refused
        21000 500 forward.rest-failed
        54001 500 forward.rest-failed
        55000 500 forward.rest-failed
        XX000 500 forward.rest-failed
        é 400 forward.rest-refused
    "#]]
    .assert_eq(&table);
    assert_eq!(status_of(&sqlstate::problem(&error("42501", ""), false)), 401);
    let mut raised = error("PGRST", r#"{"code":"X1","message":"no","details":"d","hint":"h"}"#);
    raised.detail = Some(r#"{"status":418,"headers":{}}"#.into());
    expect![[r#"
        418 X1 forward.rest-refused: no
        details: d
        hint: h"#]]
    .assert_eq(&fixture::told(&sqlstate::problem(&raised, true)));
    raised.detail = None;
    expect![[r#"
        500 PGRST121 forward.rest-failed: Could not parse JSON in the "RAISE SQLSTATE 'PGRST'" error
        hint: MESSAGE is an object with code, message, details and hint; DETAIL is an object with status and headers."#]].assert_eq(&fixture::told(&sqlstate::problem(&raised, true)));
}

fn status_of(problem: &crate::problem::Problem) -> u16 {
    problem.form.as_ref().map(|form| form.status).expect("a form")
}
