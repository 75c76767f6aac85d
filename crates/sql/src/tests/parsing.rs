//! What a text is, before names are looked up.

use super::script;
use crate::{Direction, Kind, Limits, Literals, Parser, SessionEffects, Setting, Transaction, parse, redact};

#[test]
fn statements_know_their_place_and_their_literals() {
    let text = "/* a */ select 'ä', $1 ; -- b\n insert into orders values (1, -2.5) ;; select 1";
    let script = script(text);
    let spans: Vec<_> = script.statements.iter().map(|statement| &text[statement.span.clone()]).collect();
    assert_eq!(spans, ["select 'ä', $1", "insert into orders values (1, -2.5)", "select 1"]);
    let literals: Vec<Vec<_>> = script
        .statements
        .iter()
        .map(|statement| statement.literals.iter().map(|span| &text[span.clone()]).collect())
        .collect();
    assert_eq!(literals, [vec!["'ä'"], vec!["1", "2.5"], vec!["1"]]);
    assert_eq!(script.statements.iter().map(|statement| statement.parameters).collect::<Vec<_>>(), [1, 0, 0]);
    assert_eq!(
        script.statements.iter().map(|statement| statement.tag).collect::<Vec<_>>(),
        ["SELECT", "INSERT", "SELECT"]
    );
}

#[test]
fn an_empty_text_has_no_statement() {
    for text in ["", "  \n", ";", ";;", "-- nothing", "/* nothing */ ;"] {
        assert!(script(text).statements.is_empty(), "{text:?}");
    }
}

#[test]
fn kinds_and_effects() {
    let pins = |sql: &str| script(sql).statements[0].session.pins();
    let cases = [
        ("select 1", Kind::Select, true, false),
        ("insert into orders values (1)", Kind::Insert, false, false),
        ("select * from orders for update", Kind::Select, false, false),
        ("select nextval('orders_id_seq')", Kind::Select, false, false),
        ("with d as (delete from orders) select 1", Kind::Select, false, false),
        ("copy orders from stdin", Kind::Copy(Direction::In), false, false),
        ("copy orders to stdout", Kind::Copy(Direction::Out), true, false),
        ("prepare \"P\" as select 1", Kind::Prepare("P".into()), true, true),
        ("execute p(1)", Kind::Execute("p".into()), false, false),
        ("deallocate p", Kind::Deallocate(Some("p".into())), true, false),
        ("deallocate all", Kind::Deallocate(None), true, false),
        ("declare c cursor for select 1", Kind::Declare("c".into()), true, false),
        ("declare c cursor with hold for select 1", Kind::Declare("c".into()), true, true),
        ("fetch c", Kind::Fetch("c".into()), true, false),
        ("close all", Kind::Close(None), true, false),
        ("listen a", Kind::Listen("a".into()), true, true),
        ("notify a", Kind::Notify("a".into()), false, false),
        ("unlisten *", Kind::Unlisten(None), true, false),
        ("set x.y = 1", Kind::Set, true, true),
        ("set local x.y = 1", Kind::Set, true, false),
        ("show timezone", Kind::Show("timezone".into()), true, false),
        ("create temp table t (id int)", Kind::Ddl, false, true),
        ("select pg_advisory_lock(1)", Kind::Select, true, true),
        ("select pg_advisory_xact_lock(1)", Kind::Select, true, false),
        ("explain insert into orders values (1)", Kind::Explain { analyze: false }, true, false),
        ("explain analyze insert into orders values (1)", Kind::Explain { analyze: true }, false, false),
        (
            "explain (analyze off) insert into orders values (1)",
            Kind::Explain { analyze: false },
            true,
            false,
        ),
        ("call close_books()", Kind::Call, false, false),
        ("lock orders", Kind::Lock, false, false),
        ("begin", Kind::Transaction, true, false),
    ];
    for (sql, kind, reads_only, pinned) in cases {
        let script = script(sql);
        let statement = &script.statements[0];
        assert_eq!(statement.kind, kind, "{sql}");
        assert_eq!(statement.reads_only, reads_only, "{sql}");
        assert_eq!(pins(sql), pinned, "{sql}");
    }
    assert_eq!(script("select 1").statements[0].session, SessionEffects::default());
}

#[test]
fn transactions() {
    let effect = |sql: &str| script(sql).statements[0].transaction.clone();
    assert_eq!(effect("begin"), Transaction::Begin { read_only: None });
    assert_eq!(effect("begin read only"), Transaction::Begin { read_only: Some(true) });
    assert_eq!(effect("start transaction read write"), Transaction::Begin { read_only: Some(false) });
    assert_eq!(effect("commit and chain"), Transaction::Commit { chain: true });
    assert_eq!(effect("end"), Transaction::Commit { chain: false });
    assert_eq!(effect("abort"), Transaction::Rollback { chain: false });
    assert_eq!(effect("savepoint \"A\""), Transaction::Savepoint("A".into()));
    assert_eq!(effect("rollback to a"), Transaction::RollbackTo("a".into()));
    assert_eq!(effect("prepare transaction 'x'"), Transaction::Prepare("x".into()));
    assert_eq!(effect("select 1"), Transaction::None);
}

#[test]
fn settings() {
    let set = |sql: &str| script(sql).statements[0].settings.clone();
    let one = |name: &str, value: Option<&str>, local| {
        vec![Setting { name: name.into(), value: value.map(Into::into), local }]
    };
    assert_eq!(set("set Search_Path to sales, \"A\""), one("search_path", Some("sales, A"), false));
    assert_eq!(set("set local lock_timeout = 5"), one("lock_timeout", Some("5"), true));
    assert_eq!(set("set x.y to default"), one("x.y", None, false));
    assert_eq!(set("reset x.y"), one("x.y", None, false));
    assert_eq!(set("reset all"), one("all", None, false));
    assert_eq!(set("set transaction read only"), one("transaction_read_only", Some("1"), true));
    assert_eq!(
        set("set session characteristics as transaction read only"),
        one("default_transaction_read_only", Some("1"), false)
    );
    assert_eq!(set("select set_config('Search_path', 'x', true)"), one("search_path", Some("x"), true));
    assert_eq!(set("select set_config('a.b', 'x', $1)"), one("a.b", Some("x"), false));
    assert!(set("create function f() returns int set search_path = x language sql as ''").is_empty());
}

#[test]
fn errors_are_those_of_postgresql() {
    let cases = [
        ("selec 1", "42601", "syntax error at or near \"selec\"", Some(1)),
        ("select 1 from", "42601", "syntax error at end of input", Some(14)),
        ("select 'ä' frm orders where", "42601", "syntax error at or near \"orders\"", Some(16)),
        ("select 1; selec 2", "42601", "syntax error at or near \"selec\"", Some(11)),
        ("select a a from a a a", "42601", "syntax error at or near \"a\"", Some(21)),
        ("select 'abc", "42601", "unterminated quoted string at or near \"'abc\"", Some(8)),
        ("select /* abc", "42601", "unterminated /* comment at or near \"/* abc\"", Some(8)),
        ("select \"\"", "42601", "zero-length delimited identifier at or near \"\"\"\"", Some(8)),
    ];
    for (sql, sqlstate, message, position) in cases {
        let error = parse(sql, &Limits::default()).unwrap_err();
        assert_eq!((error.sqlstate, &*error.message, error.position), (sqlstate, message, position), "{sql}");
    }
}

#[test]
fn limits() {
    let limits = Limits { text_bytes_max: 40, statements_max: 2 };
    assert_eq!(parse(&"x".repeat(41), &limits).unwrap_err().sqlstate, "54000");
    assert_eq!(parse("select 1; select 2; select 3", &limits).unwrap_err().sqlstate, "54000");
    assert_eq!(parse("select 1; select 2", &limits).unwrap().statements.len(), 2);
    assert_eq!(parse("select '\0'", &limits).unwrap_err().sqlstate, "22021");
}

#[test]
fn tags_of_sqlcommenter() {
    let tags = |sql: &str| {
        let script = script(sql);
        let tags = script.statements.last().unwrap().tags.clone();
        tags.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        tags(
            "select 1 /*action='%2Flist%20it',traceparent='00-5bd66ef5095369c7b0d1f8f4bd33716a-c532cb4098ac3dd2-01'*/"
        ),
        "action=/list it traceparent=00-5bd66ef5095369c7b0d1f8f4bd33716a-c532cb4098ac3dd2-01"
    );
    assert_eq!(tags("/* a='1' */ select 1"), "a=1");
    assert_eq!(tags("select 1 /* a='1' */; select 2"), "");
    assert_eq!(tags("select 1; /* a='1' */ select 2"), "a=1");
    assert_eq!(tags("select 1 /* name='O\\'Neill' */"), "name=O'Neill");
    assert_eq!(tags("select 1 /* just a comment, it's one */"), "");
    assert_eq!(tags("select '/* a=''1'' */'"), "");
    assert_eq!(tags("select 1 -- a='1'"), "");
    assert_eq!(tags("select 1; /* a='1' */"), "a=1");
}

#[test]
fn redacted_texts() {
    let cases = [
        (
            "select * from orders where id = 5 and name = 'O''Neill'",
            "select * from orders where id = ? and name = ?",
        ),
        ("select $1, null, true, E'\\x41', U&'a', B'1', x'f', 1.5e3", "select $1, null, true, ?, ?, ?, ?, ?"),
        ("alter role bob password 'secret'", "alter role bob password ?"),
        ("select 1 -- a secret", "select ?"),
        ("select $$a$$ /* b */ from orders", "select ?  from orders"),
        ("select 'unfinished", "[unreadable]"),
        ("slect from 'x'", "slect from ?"),
    ];
    for (sql, expected) in cases {
        assert_eq!(redact(sql, Literals::Replace), expected, "{sql}");
        assert_eq!(redact(sql, Literals::Keep), sql, "{sql}");
    }
}

#[test]
fn fingerprints_do_without_literals() {
    let of = |sql: &str| script(sql).statements[0].fingerprint;
    assert!(of("select 1").is_some());
    assert_eq!(of("select * from orders where id = 1"), of("SELECT * FROM orders WHERE id = 22"));
    assert_ne!(of("select * from orders where id = 1"), of("select * from items where id = 1"));
    let two = script("select 1; delete from orders");
    assert_eq!(two.statements[1].fingerprint, of("delete from orders"));
}

#[test]
fn what_is_remembered_is_what_would_be_read() {
    let parser = Parser::new(Limits::default(), 1 << 20);
    let texts = [
        "select * from orders where id = 1",
        "select * from orders where id = 'a'  /* a='1' */",
        "SELECT * from orders where id = 2 ;",
        "/* b='2' */ select * from orders where id = 333 /*c='3'*/",
        "select nextval('orders_id_seq')",
        "select nextval('hibernate_sequence')",
        "select set_config('a.b', 'c', false)",
        "select set_config('role', 'c', false)",
        "set x.y = 1",
        "set x.y = 2",
        "explain (analyze 'on') delete from orders",
        "explain (analyze 'off') delete from orders",
        "select 1; select 2",
        "select 'a' 'b'",
        "select interval '1' day, float '1', 1::int[]",
        "select 1.5",
        "select 2.5; /* a='1' */ ;",
        ";; select 3.5; -- a",
        "select -1",
        "select * from U&\"!0061\" uescape '!'",
        "select * from U&\"!0061\" uescape '#'",
        "",
        "select * from orders where id = 12",
        "select * from orders where id = 34",
        "select * from orders where id = 1234567890",
        "select * from orders where id = 9876543210",
        "select * from \"t (1)\" where id = 1",
        "select * from \"t (2)\" where id = 2",
        "select * from orders where id = 1 -- a='(1)'",
        "select * from orders where id = 1 -- a='(2)'",
        "select pg_advisory_lock(12)",
        "select pg_advisory_lock(34)",
        "set statement_timeout = 12",
        "set statement_timeout = 34",
        "select f(12), 'it (1)'",
        "select f(34), 'it (2)'",
        "select f( 1 ,22) from t limit 5",
        "select f( 2 ,33) from t limit 6",
    ];
    for _ in 0..2 {
        for text in texts {
            let read = parse(text, &Limits::default());
            assert_eq!(parser.parse(text).map(|script| (*script).clone()), read, "{text}");
        }
    }
    let (first, second) =
        (parser.parse(texts[0]).unwrap(), parser.parse("select * from orders where id = 99").unwrap());
    assert!(
        std::sync::Arc::ptr_eq(&first.statements[0].shape, &second.statements[0].shape),
        "one shape for both"
    );
    let (first, second) = (
        parser.parse("select a from orders where id = 123456789 and b").unwrap(),
        parser.parse("select a from orders where id = 987654321 and b").unwrap(),
    );
    assert!(std::sync::Arc::ptr_eq(&first, &second), "they differ in a small number alone");
    let (first, second) = (parser.parse(texts[4]).unwrap(), parser.parse(texts[5]).unwrap());
    assert_ne!(first.statements[0].shape, second.statements[0].shape, "their literals are what they need");
}
