//! Texts that want to be too much: all on the stack of an ordinary thread.

use crate::{Limits, ParseError, Script, parse};

/// What a thread of the runtime has.
const STACK_BYTES: usize = 2 << 20;

/// Reads a text on a stack of its own, as small as the runtime's.
fn read(text: String) -> Result<Script, ParseError> {
    std::thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(move || parse(&text, &Limits::default()))
        .unwrap()
        .join()
        .expect("no text makes the parser crash")
}

/// A text that nests as often as it is told.
type Nest = (&'static str, fn(usize) -> String);

const NESTS: &[Nest] = &[
    ("operators", |n| format!("select 1{}", "+1".repeat(n))),
    ("sub-selects", |n| format!("{}select 1{}", "select * from (".repeat(n), ") x".repeat(n))),
    ("scalar sub-selects", |n| format!("{}1{}", "select (select ".repeat(n), ")".repeat(n))),
    ("brackets", |n| format!("select {}1{}", "(".repeat(n), ")".repeat(n))),
    ("functions", |n| format!("select {}1{}", "f(".repeat(n), ")".repeat(n))),
    ("arrays", |n| format!("select {}1{}", "array[".repeat(n), "]".repeat(n))),
    ("rows", |n| format!("select {}1,2{}", "(1,".repeat(n), ")".repeat(n))),
    ("NOT", |n| format!("select {}true", "not ".repeat(n))),
    ("signs", |n| format!("select {}x", "- ".repeat(n))),
    ("casts", |n| format!("select 1{}", "::int".repeat(n))),
    ("subscripts", |n| format!("select a{}", "[1]".repeat(n))),
    ("CASE", |n| format!("select {}1{}", "case when a and b then ".repeat(n), " end".repeat(n))),
    ("CASE in ELSE", |n| {
        format!("select {}1{}", "case when a or b then 1 else ".repeat(n), " end".repeat(n))
    }),
    ("AND", |n| format!("select 1 where a{}", " and a".repeat(n))),
    ("OR and AND", |n| format!("select 1 where a{}", " or a and b".repeat(n))),
    ("BETWEEN", |n| format!("select a{}", " between 1 and 2 is null".repeat(n))),
    ("DISTINCT FROM", |n| format!("select a{}", " is distinct from 1 is null".repeat(n))),
    ("COLLATE", |n| format!("select a{}", " collate \"C\"".repeat(n))),
    ("AT TIME ZONE", |n| format!("select a{}", " at time zone 'x'".repeat(n))),
    ("WITHIN GROUP", |n| format!("select 1{}", " + f(1) within group (order by 1)".repeat(n))),
    ("LIKE ESCAPE", |n| format!("select {}a{}", "a like (".repeat(n), ")".repeat(n))),
    ("UNION", |n| format!("select 1{}", " union select 1".repeat(n))),
    ("EXCEPT in brackets", |n| format!("{}select 1{}", "(select 1 except ".repeat(n), ")".repeat(n))),
    ("joins", |n| format!("select * from a{}", " join b on true".repeat(n))),
    ("joins to the right", |n| format!("select * from a{}{}", " join b".repeat(n), " on true".repeat(n))),
    ("joins in brackets", |n| format!("select * from {}a{}", "(".repeat(n), " join b on true)".repeat(n))),
    ("natural joins", |n| format!("select * from a{}", " natural join b".repeat(n))),
    ("CTEs", |n| format!("{}select 1{}", "with a as (".repeat(n), ") select 1".repeat(n))),
    ("EXISTS", |n| format!("select 1 where {}true{}", "exists (select 1 where ".repeat(n), ")".repeat(n))),
    ("IN", |n| format!("select 1 where {}1{}", "1 in (select ".repeat(n), ")".repeat(n))),
    ("JSON", |n| format!("select {}1{}", "json_object('a': ".repeat(n), ")".repeat(n))),
    ("columns", |n| format!("select (a){}", ".b".repeat(n))),
    ("fields", |n| format!("select a{}", ".b".repeat(n))),
    ("explains", |n| format!("{}select 1", "explain ".repeat(n))),
    ("IS NULL", |n| format!("select a{}", " is null".repeat(n))),
    ("lists", |n| format!("select 1{}", ",1".repeat(n))),
    ("statements", |n| "select 1;".repeat(n)),
    ("open brackets", |n| format!("select {}", "(".repeat(n))),
    ("closed brackets", |n| format!("select {}", ")".repeat(n))),
    ("CASE without END", |n| "case ".repeat(n)),
    ("END without CASE", |n| "end ".repeat(n)),
];

#[test]
fn no_depth_is_too_much_for_it() {
    for (what, nest) in NESTS {
        // The depths around which the stack changes, and those that nobody writes.
        for depth in [2, 5, 8, 12, 16, 17, 40, 200, 10_000] {
            if let Err(error) = read(nest(depth)) {
                let expected = ["54001", "54000", "42601"];
                assert!(expected.contains(&error.sqlstate), "{what} of {depth}: {error:?}");
            }
        }
    }
}

#[test]
fn what_is_too_deep_says_so() {
    let text = |what: &str, depth| {
        NESTS.iter().find(|(name, _)| *name == what).map(|(_, nest)| nest(depth)).unwrap()
    };
    for (what, depth) in
        [("operators", 50_000), ("sub-selects", 10_000), ("functions", 10_000), ("casts", 50_000)]
    {
        let error = read(text(what, depth)).unwrap_err();
        assert_eq!(error.sqlstate, "54001", "{what}: {error:?}");
        assert!(error.hint.is_some(), "{what} says what to do");
    }
}

#[test]
fn what_people_write_is_not_too_deep() {
    let columns = (0..2_000).map(|n| format!("t.c{n} as \"c{n}\"")).collect::<Vec<_>>().join(", ");
    let cases = [
        format!("select {columns} from t"),
        format!("select 1 where {}", vec!["a = 1 and b = 'x'"; 2_000].join(" or ")),
        format!("select 1 where a in ({})", vec!["1"; 20_000].join(", ")),
        format!("insert into t values {}", vec!["(1, 'a', null, now())"; 5_000].join(", ")),
        format!("select case {} end", vec!["when a = 1 then upper(b)"; 1_000].join(" ")),
        format!("select {}", vec!["a"; 150].join(" || ' ' || ")),
        format!("select * from a {}", "left join b using (id) ".repeat(100)),
        vec!["select a, b from t where c = 1 group by a, b"; 100].join(" union all "),
        format!("{}select 1{}", "select * from (".repeat(60), ") x".repeat(60)),
    ];
    for text in cases {
        let start: String = text.chars().take(60).collect();
        assert!(read(text).is_ok(), "{start}");
    }
}

/// Pieces of statements, of which texts are put together.
const PIECES: &[&str] = &[
    "select",
    "*",
    "from",
    "orders",
    "o",
    "(",
    ")",
    ",",
    "where",
    "a",
    "=",
    "1",
    "'x'",
    "$1",
    ".",
    "union",
    "with",
    "as",
    "insert into",
    "values",
    "update",
    "set",
    "delete",
    "returning",
    "on conflict",
    "do",
    "nothing",
    "join",
    "on",
    "for update",
    "of",
    "order by",
    "limit",
    "case",
    "when",
    "then",
    "else",
    "end",
    "and",
    "or",
    "not",
    "between",
    "in",
    "exists",
    "::",
    "regclass",
    "nextval",
    "set_config",
    "'role'",
    "begin",
    ";",
    "create table",
    "int",
    "primary key",
    "references",
    "drop",
    "if exists",
    "cascade",
    "grant",
    "to",
    "copy",
    "stdin",
    "execute",
    "prepare",
    "explain",
    "analyze",
    "declare",
    "cursor",
    "/*a='1'*/",
    "-- x\n",
    "\"Q\"",
    "null",
    "array",
    "[",
    "]",
    "json_object",
    ":",
    "lateral",
    "merge into",
    "using",
    "matched",
    "listen",
    "lock",
    "function",
    "returns",
    "language",
    "sql",
    "$$ $$",
    "E'\\n'",
    "U&\"!0061\"",
    "uescape",
    "'!'",
    "😀",
    "public",
    "in schema",
    "row",
];

#[test]
fn texts_of_any_pieces_are_read_or_refused() {
    use proptest::prelude::*;
    let pieces = proptest::collection::vec(proptest::sample::select(PIECES), 0..24);
    proptest!(ProptestConfig::with_cases(3_000), |(pieces in pieces, glue in "[ \n]?")| {
        let glue = if glue.is_empty() { " " } else { &glue };
        crate::fuzz_text(pieces.join(glue).as_bytes());
    });
}

#[test]
fn any_text_is_read_or_refused() {
    use proptest::prelude::*;
    proptest!(ProptestConfig::with_cases(2_000), |(text in "\\PC{0,40}|[ -~\t\n]{0,60}")| {
        crate::fuzz_text(text.as_bytes());
    });
}
