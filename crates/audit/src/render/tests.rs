//! Drawings and sentences, from rows made by hand.

use expect_test::{Expect, expect};

use super::*;
use crate::columns::position;

fn row(cells: &[(&str, Cell)]) -> Row {
    let mut row = vec![Cell::Null; COLUMNS.len()];
    for (name, cell) in cells {
        row[position(name).unwrap_or_else(|| panic!("{name}"))] = cell.clone();
    }
    Row::new(row)
}

fn text(text: &str) -> Cell {
    Cell::Text(text.to_owned())
}

#[test]
fn the_timeline_of_a_limited_call() {
    let row = row(&[
        ("ts", Cell::Int(1_795_000_000_123_456)),
        ("access_id", text("00000000-0000-0000-0000-000000000001")),
        ("outcome", text("limited")),
        ("principal_subject", text("loader")),
        ("principal_kind", text("service")),
        ("verb", text("read")),
        ("resource", text("shop")),
        ("object", text("public/orders")),
        ("door", text("rest")),
        ("grant", text("analysts")),
        ("limit_remaining", Cell::Int(0)),
        ("fault_code", text("limit.exhausted")),
        ("fault_side", text("client")),
        ("fault_public", text("the grant allows 50 calls a second")),
        ("status", Cell::Int(429)),
        ("duration_us", Cell::Int(1_650)),
        ("accept_us", Cell::Int(20)),
        ("authenticate_us", Cell::Int(400)),
        ("decode_us", Cell::Int(30)),
        ("authorize_us", Cell::Int(2)),
        ("limit_us", Cell::Int(1)),
        ("record_us", Cell::Int(1_200)),
    ]);
    expect![[r#"
        00000000-0000-0000-0000-000000000001  limited  2026-11-18T11:06:40.123456Z

          who         loader (service)
          what        read shop/public/orders
          through     rest
          decided by  rule analysts, 0 calls left
          result      status 429

          accept            20 µs  █
          authenticate     400 µs  ██████████
          decode            30 µs            █
          authorize          2 µs            █
          limit              1 µs            █
          record           1.2 ms            ██████████████████████████████
          total            1.6 ms

        Held back at stage limit (limit.exhausted), on the caller's side.
        What failed: exhausted.
        The caller was told: the grant allows 50 calls a second
        The limit of grant `analysts` was used up. Next: wait, or raise its `limit`.
    "#]]
    .assert_eq(&trace(&[row]));
}

fn words(cells: &[(&str, Cell)], expected: Expect) {
    expected.assert_eq(&explanation(&row(cells)).join("\n"));
}

#[test]
fn what_went_wrong_is_said_in_words() {
    words(&[("outcome", text("allowed"))], expect![[""]]);
    words(
        &[("outcome", text("abandoned")), ("forward_us", Cell::Int(9))],
        expect!["The caller went away while the call was in stage forward."],
    );
    words(
        &[("outcome", text("unknown"))],
        expect![
            "The gateway ended between this call's intent and its completion. Whether the backend did it is not known; look there."
        ],
    );
    words(
        &[
            ("outcome", text("denied")),
            ("fault_code", text("authorize.denied-by-rule")),
            ("fault_side", text("client")),
            ("grant", text("frozen-tables")),
            ("principal_subject", text("it's me; rm -rf")),
            ("verb", text("write")),
            ("resource", text("shop")),
            ("object", text("ledger/*")),
        ],
        expect![[r#"
            Refused at stage authorize (authorize.denied-by-rule), on the caller's side.
            What failed: denied by rule.
            The rule `frozen-tables` decided. Next: `doorward explain --as 'it'\''s me; rm -rf' write 'shop/ledger/*'`"#]],
    );
    words(
        &[
            ("outcome", text("failed")),
            ("fault_code", text("forward.backend-refused")),
            ("fault_side", text("backend")),
            ("sqlstate", text("42501")),
            ("fault_cause", text("permission denied for table x")),
        ],
        expect![[r#"
            Failed at stage forward (forward.backend-refused), on the backend's side.
            What failed: backend refused.
            The cause: permission denied for table x
            The backend's code: 42501
            Next: look at the backend's own log at this time."#]],
    );
}

#[test]
fn gaps_stand_where_they_belong() {
    let at = |seconds: i64| row(&[("ts", Cell::Int(seconds * 1_000_000)), ("outcome", text("allowed"))]);
    let gap = |seconds: i64, lost| GapRow {
        from: Timestamp::from_seconds(seconds),
        until: Timestamp::from_seconds(seconds),
        lost,
        gateway_id: "gw".to_owned(),
        reason: "full".to_owned(),
    };
    expect![[r#"
        TIME                         OUTCOME  WHO  ACTION  STATUS  ROWS  TOOK  WHY  ACCESS ID
        1970-01-01T00:00:01.000000Z  allowed  -    -       -       -     -     -    -
        -- gap: 1 record lost by gw between 1970-01-01T00:00:02.000000Z and 1970-01-01T00:00:02.000000Z: full --
        1970-01-01T00:00:03.000000Z  allowed  -    -       -       -     -     -    -
        -- gap: an unknown number of records lost by gw between 1970-01-01T00:00:09.000000Z and 1970-01-01T00:00:09.000000Z: full --
    "#]].assert_eq(&table(&[at(1), at(3)], &[gap(2, 1), gap(9, 0)]));
    expect![[r#"
        {"gap":{"lost":7,"from":"1970-01-01T00:00:02.000000Z","until":"1970-01-01T00:00:02.000000Z","gateway_id":"gw","reason":"full"}}
    "#]].assert_eq(&gap_json(&gap(2, 7)));
}
