//! Database URLs: what is read, and what is refused with which words.

use doorward_pgclient::{Endpoint, SslMode, Target};
use expect_test::{Expect, expect};

fn show(url: &str, dangerous: bool) -> String {
    match Target::parse(url, dangerous) {
        Ok(target) => format!("{target} {:?}", target.ssl),
        Err(error) => format!("refused: {error}"),
    }
}

fn check(url: &str, expected: Expect) {
    expected.assert_eq(&show(url, false));
}

#[test]
fn urls_that_are_read() {
    check("postgres://localhost/shop", expect!["localhost:5432/shop Disable"]);
    check("postgresql://127.0.0.1:6000/shop?sslmode=prefer", expect!["127.0.0.1:6000/shop Prefer"]);
    check("postgres://[::1]:6000/shop", expect!["::1:6000/shop Disable"]);
    check("postgres://db.internal/shop", expect!["db.internal:5432/shop VerifyFull"]);
    check("postgres://db.internal/my%20shop?sslmode=require", expect!["db.internal:5432/my shop Require"]);
    // Over a network there is no falling back to plain text.
    check("postgres://db.internal/shop?sslmode=prefer", expect!["db.internal:5432/shop Require"]);
    check("postgres:///shop?host=/run/postgresql", expect!["/run/postgresql/.s.PGSQL.5432/shop Disable"]);
    check("postgres://%2Frun%2Fpg:6000/shop", expect!["/run/pg/.s.PGSQL.6000/shop Disable"]);
    // A primary and its replicas, as libpq writes them.
    check("postgres://a.test,b.test:6000/shop", expect!["a.test:5432,b.test:6000/shop VerifyFull"]);
    check(
        "postgres://localhost:1,[::1]:2,127.0.0.1:3/shop",
        expect!["localhost:1,::1:2,127.0.0.1:3/shop Disable"],
    );
    // One of them is elsewhere.
    check("postgres://localhost,b.test/shop", expect!["localhost:5432,b.test:5432/shop VerifyFull"]);
}

#[test]
fn urls_that_are_refused() {
    check("mysql://h/d", expect!["refused: a database URL begins with postgres://"]);
    let password = "postgres://me:hunter2@db/shop";
    check(
        password,
        expect![
            "refused: a password must not stand in the URL; put it under `login:` as `password: env:NAME` or `file:PATH`"
        ],
    );
    check(
        "postgres://db/shop?password=hunter2",
        expect![
            "refused: a password must not stand in the URL; put it under `login:` as `password: env:NAME` or `file:PATH`"
        ],
    );
    assert!(!show(password, false).contains("hunter2"));
    check(
        "postgres://me@db/shop",
        expect!["refused: the user does not stand in the URL; put it under `login:` as `user:`"],
    );
    check("postgres://db", expect!["refused: the URL names no database; write postgres://HOST/DATABASE"]);
    check("postgres://db/", expect!["refused: the URL names no database; write postgres://HOST/DATABASE"]);
    check(
        "postgres://db/a%00b",
        expect!["refused: the URL names no database; write postgres://HOST/DATABASE"],
    );
    check("postgres:///shop", expect!["refused: the URL names no host"]);
    check("postgres://a.test,/shop", expect!["refused: the URL names no host"]);
    check(
        "postgres://a.test,b.test,a.test:5432/shop",
        expect!["refused: the URL names at most 16 hosts, and none of them twice"],
    );
    let many: Vec<String> = (0..17).map(|n| format!("h{n}.test")).collect();
    check(
        &format!("postgres://{}/shop", many.join(",")),
        expect!["refused: the URL names at most 16 hosts, and none of them twice"],
    );
    check(
        "postgres://localhost,b.test/shop?sslmode=disable",
        expect![
            "refused: a database that is not on this machine is reached over TLS only; set sslmode=verify-full, or `dangerous_plaintext: true`"
        ],
    );
    check("postgres://[::1/shop", expect!["refused: the URL names no host"]);
    check("postgres://db:0/shop", expect!["refused: the URL's port is not a number from 1 to 65535"]);
    check("postgres://db:99999/shop", expect!["refused: the URL's port is not a number from 1 to 65535"]);
    check(
        "postgres://db/shop?sslmode=allow",
        expect!["refused: sslmode is one of disable, prefer, require, verify-full"],
    );
    check(
        "postgres://db/shop?options=-c",
        expect!["refused: unknown parameter `options`; known are sslmode, sslrootcert and host"],
    );
    check(
        "postgres://db.internal/shop?sslmode=disable",
        expect![
            "refused: a database that is not on this machine is reached over TLS only; set sslmode=verify-full, or `dangerous_plaintext: true`"
        ],
    );
    check(
        "postgres://127.0.0.1.evil.example/shop?sslmode=disable",
        expect![
            "refused: a database that is not on this machine is reached over TLS only; set sslmode=verify-full, or `dangerous_plaintext: true`"
        ],
    );
}

#[test]
fn plain_text_over_a_network_needs_the_dangerous_word() {
    assert_eq!(show("postgres://db/shop?sslmode=disable", true), "db:5432/shop Disable");
    assert_eq!(show("postgres://db/shop?sslmode=prefer", true), "db:5432/shop Prefer");
    // The word only permits; nobody gets plain text without asking for it.
    assert_eq!(show("postgres://db/shop", true), "db:5432/shop VerifyFull");
    assert!(matches!(Target::parse("postgres://db/shop", true).unwrap().endpoint, Endpoint::Tcp(_, 5432)));
    assert_eq!(Target::parse("postgres://localhost/shop", false).unwrap().ssl, SslMode::Disable);
}
