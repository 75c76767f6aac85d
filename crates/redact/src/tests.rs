use std::fmt::Write as _;
use std::time::{Duration, Instant};

use doorward_core::Form;
use proptest::prelude::*;
use serde_json::json;

use super::*;

const ALL: usize = usize::MAX;

fn redactor(config: &RedactConfig) -> Redactor {
    Redactor::new(config).expect("a configuration that compiles")
}

fn everything_on() -> Redactor {
    let detectors = Detector::ALL.iter().map(|(detector, ..)| (*detector, true)).collect();
    redactor(&RedactConfig { detectors, ..RedactConfig::default() })
}

fn literals() -> Redactor {
    redactor(&RedactConfig { literals: Keep::Redact, ..RedactConfig::default() })
}

/// Each line: the text, and what becomes of it.
fn check(redactor: &Redactor, form: Form, cases: &[(&str, &str)]) {
    for (text, wanted) in cases {
        let kept = redactor.redact(form, text, ALL);
        assert_eq!(kept, *wanted, "of {text:?}");
        assert_eq!(redactor.redact(form, &kept, ALL), kept, "twice is as once, of {text:?}");
    }
}

#[test]
fn statements_lose_passwords_and_keep_the_rest() {
    check(
        &Redactor::default(),
        Form::Sql,
        &[
            (
                "SELECT * FROM orders WHERE id = 7 AND name = 'Ann'",
                "SELECT * FROM orders WHERE id = 7 AND name = 'Ann'",
            ),
            (
                "ALTER ROLE ann WITH PASSWORD 'hunter2' VALID UNTIL '2027-01-01'",
                "ALTER ROLE ann WITH PASSWORD '[redacted:secret]' VALID UNTIL '2027-01-01'",
            ),
            (
                "create user bob encrypted password $x$hunter2$x$;select 1",
                "create user bob encrypted password '[redacted:secret]';select 1",
            ),
            (
                "ALTER USER ann PASSWORD E'hun\\'ter2' LOGIN",
                "ALTER USER ann PASSWORD '[redacted:secret]' LOGIN",
            ),
            ("ALTER USER ann PASSWORD U&'\\0068unter2'", "ALTER USER ann PASSWORD '[redacted:secret]'"),
            (
                "ALTER USER ann PASSWORD 'hun'\n  'ter2' LOGIN",
                "ALTER USER ann PASSWORD '[redacted:secret]' LOGIN",
            ),
            (
                "ALTER USER ann PASSWORD /* it's */ 'hunter2'",
                "ALTER USER ann PASSWORD /* it's */ '[redacted:secret]'",
            ),
            ("ALTER USER ann PASSWORD NULL", "ALTER USER ann PASSWORD NULL"),
            (
                "CREATE SUBSCRIPTION s CONNECTION 'host=db password=hunter2 user=r' PUBLICATION p",
                "CREATE SUBSCRIPTION s CONNECTION '[redacted:secret]' PUBLICATION p",
            ),
            (
                "CREATE SUBSCRIPTION s CONNECTION 'postgres://r:hunter2@db/x' PUBLICATION p",
                "CREATE SUBSCRIPTION s CONNECTION '[redacted:login]' PUBLICATION p",
            ),
            (
                "CREATE USER MAPPING FOR ann SERVER s OPTIONS (user 'ann', password 'hunter2')",
                "CREATE USER MAPPING FOR ann SERVER s OPTIONS (user 'ann', password '[redacted:secret]')",
            ),
            (
                "ALTER SERVER s OPTIONS (SET \"password\" 'hunter2', host 'h')",
                "ALTER SERVER s OPTIONS (SET \"password\" '[redacted:secret]', host 'h')",
            ),
            (
                "SELECT * FROM dblink('dbname=x password=''hun ter2''', 'select 1')",
                "SELECT * FROM dblink('[redacted:secret]', 'select 1')",
            ),
            (
                "SELECT set_config('app.jwt_secret', 'hunter2', false)",
                "SELECT set_config('app.jwt_secret', '[redacted:secret]', false)",
            ),
            (
                "SET LOCAL app.api_key = hunter2; SELECT 1",
                "SET LOCAL app.api_key = [redacted:secret]; SELECT 1",
            ),
            (
                "ALTER ROLE ann SET app.client_secret TO 'hunter2'",
                "ALTER ROLE ann SET app.client_secret TO '[redacted:secret]'",
            ),
            (
                "UPDATE users SET password = crypt('hunter2', gen_salt('bf')), name = 'Ann' WHERE id = 1",
                "UPDATE users SET password = crypt('[redacted:secret]', gen_salt('[redacted:secret]')), name = 'Ann' WHERE id = 1",
            ),
            (
                "SELECT 1 FROM users WHERE api_token IN ('hunter2','x') AND id = 3",
                "SELECT 1 FROM users WHERE api_token IN ('[redacted:secret]','[redacted:secret]') AND id = 3",
            ),
            (
                "INSERT INTO u (name, password, n) VALUES ('Ann', 'hunter2', 1), ('Bob', lower('HUNTER2'), 2) RETURNING 'x'",
                "INSERT INTO u (name, password, n) VALUES ('Ann', '[redacted:secret]', 1), ('Bob', lower('[redacted:secret]'), 2) RETURNING 'x'",
            ),
            (
                "COPY t FROM PROGRAM 'curl -u ann:hunter2 x' WITH (FORMAT csv)",
                "COPY t FROM PROGRAM '[redacted:program]' WITH (FORMAT csv)",
            ),
            ("DO $$ BEGIN EXECUTE 'ALTER ROLE a PASSWORD ''hunter2'''; END $$", "DO '[redacted:secret]'"),
            (
                "SELECT json_build_object('password', 'hunter2', 'n', 'x')",
                "SELECT json_build_object('password', '[redacted:secret]', 'n', 'x')",
            ),
            ("SELECT '{\"api_key\": \"hunter2\"}'::jsonb", "SELECT '[redacted:secret]'::jsonb"),
            (
                "SELECT * FROM t WHERE doc->>'password' = 'hunter2'",
                "SELECT * FROM t WHERE doc->>'password' = '[redacted:secret]'",
            ),
            (
                "INSERT INTO notes VALUES ('card 4111 1111 1111 1111 of Ann')",
                "INSERT INTO notes VALUES ('[redacted:card]')",
            ),
            ("SELECT 4111111111111111", "SELECT [redacted:card]"),
            ("SELECT $1, $2 FROM t WHERE password = $3", "SELECT $1, $2 FROM t WHERE password = $3"),
            ("SELECT 1 -- password=hunter2\n, 2", "SELECT 1 -- password=[redacted:secret]\n, 2"),
            (
                "SELECT pg_get_userbyid(1), token FROM t ORDER BY token",
                "SELECT pg_get_userbyid(1), token FROM t ORDER BY token",
            ),
            ("SET SESSION AUTHORIZATION 'ann'", "SET SESSION AUTHORIZATION 'ann'"),
        ],
    );
}

#[test]
fn what_is_not_well_formed_is_redacted_to_its_end() {
    check(
        &Redactor::default(),
        Form::Sql,
        &[
            ("SELECT 'abc", "SELECT [redacted:unterminated]"),
            ("SELECT E'abc\\' , 1", "SELECT [redacted:unterminated]"),
            ("SELECT $q$abc $r$ x", "SELECT [redacted:unterminated]"),
            ("SELECT \"abc", "SELECT [redacted:unterminated]"),
            ("SELECT /* /* */ x 'hunter2'", "SELECT [redacted:unterminated]"),
            ("ALTER ROLE a PASSWORD 'hunter2", "ALTER ROLE a PASSWORD [redacted:unterminated]"),
            ("SELECT 'a\\' || ' PASSWORD ' || 'hunter2'", "SELECT [redacted:unterminated]"),
        ],
    );
}

#[test]
fn all_literals_go_when_it_is_asked() {
    check(
        &literals(),
        Form::Sql,
        &[
            (
                "SELECT name FROM t WHERE id = 7 AND city = 'Bern' -- for Ann\n LIMIT 5",
                "SELECT name FROM t WHERE id = ? AND city = ? [redacted:comment]\n LIMIT ?",
            ),
            ("ALTER ROLE ann PASSWORD 'hunter2'", "ALTER ROLE ann PASSWORD '[redacted:secret]'"),
            ("SELECT $$x$$, E'a\\'b', B'1', $1, 0x1F, 1e9", "SELECT ?, ?, ?, $1, ?, ?"),
        ],
    );
    let numbers_stay =
        RedactConfig { literals: Keep::Redact, numbers: Some(Keep::Keep), ..RedactConfig::default() };
    check(&redactor(&numbers_stay), Form::Sql, &[("SELECT 'a' LIMIT 5", "SELECT ? LIMIT 5")]);
}

#[test]
fn urls_headers_and_fields_lose_credentials() {
    check(
        &Redactor::default(),
        Form::Text,
        &[
            (
                "GET /v1/x?page=2&token=abc&X-Amz-Signature=ff00&q=a",
                "GET /v1/x?page=2&token=[redacted:secret]&X-Amz-Signature=[redacted:query]&q=a",
            ),
            ("/x?pass%77ord=abc&code=1234#top", "/x?pass%77ord=[redacted:query]&code=[redacted:query]#top"),
            ("https://ann:hunter2@example.org:8080/x", "https://ann:[redacted:login]@example.org:8080/x"),
            (
                "postgres://ann:hun/ter@2@db:5432/x?sslmode=require",
                "postgres://ann:[redacted:login]@db:5432/x?sslmode=require",
            ),
            ("https://example.org:8080/@ann?x=a@b", "https://example.org:8080/@ann?x=a@b"),
            ("next=https%3A%2F%2Fann%3Ahunter2%40example.org", "next=[redacted:login]"),
            (
                "host=db user=ann password = 'hun \\' ter2' port=5432",
                "host=db user=ann password = '[redacted:secret]' port=5432",
            ),
            ("password=hunter2", "password=[redacted:secret]"),
            ("Authorization: Bearer abcdefgh\nAccept: */*", "Authorization: [redacted:header]\nAccept: */*"),
            ("X-Api-Key: 12", "X-Api-Key: [redacted:header]"),
            ("curl -H 'Bearer abcdefgh.ijk'", "curl -H 'Bearer [redacted:login]'"),
            (
                "{\"user\":\"ann\",\"client_secret\":\"hun\\\"ter2\",\"n\":1}",
                "{\"user\":\"ann\",\"client_secret\":\"[redacted:secret]\",\"n\":1}",
            ),
            (
                "AWS_SECRET_ACCESS_KEY=abc/def+g region=eu",
                "AWS_SECRET_ACCESS_KEY=[redacted:secret] region=eu",
            ),
            ("psql/15 (Debian; time=12:30)", "psql/15 (Debian; time=12:30)"),
            ("basic authentication is off", "basic authentication is off"),
        ],
    );
}

#[test]
fn secrets_are_known_by_their_form() {
    let pem = "x -----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY----- y";
    check(
        &everything_on(),
        Form::Template,
        &[
            ("a eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2ln b", "a [redacted:jwt] b"),
            (
                "key AKIAIOSFODNN7EXAMPLE wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
                "key [redacted:aws-key] [redacted:aws-key]",
            ),
            (pem, "x [redacted:private-key] y"),
            ("-----BEGIN PRIVATE KEY-----\nMHc", "[redacted:private-key]"),
            ("-----BEGIN CERTIFICATE-----\nMHc", "-----BEGIN CERTIFICATE-----\nMHc"),
            ("ghp_0123456789abcdefghijABCDEFGHIJ456789", "[redacted:token]"),
            ("/repos/github_pat_11ABCDEFG0123456789_abcdef/x", "/repos/[redacted:token]/x"),
            ("xoxb-123456789012-abcdefghij", "[redacted:token]"),
            ("AIzaSyA1234567890abcdefghijklmnopqrstuv", "[redacted:token]"),
            ("dw_ci_0123456789abcdef0123456789", "[redacted:token]"),
            ("SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy", "[redacted:secret]"),
            ("ann.b@mail.example.org!", "[redacted:email]!"),
            ("md5 sums, skiing, eyJ", "md5 sums, skiing, eyJ"),
        ],
    );
}

#[test]
fn numbers_are_known_by_their_check_digits() {
    let found = [
        ("4111111111111111", "card"),
        ("4111 1111 1111 1111", "card"),
        ("4111-1111-1111-1111", "card"),
        ("4111%201111%201111%201111", "card"),
        ("5555555555554444", "card"),
        ("2223003122003222", "card"),
        ("378282246310005", "card"),
        ("3782 822463 10005", "card"),
        ("6011111111111117", "card"),
        ("3530111333300000", "card"),
        ("30569309025904", "card"),
        ("4222222222222", "card"),
        ("6205500000000000004", "card"),
        ("DE89370400440532013000", "iban"),
        ("DE89 3704 0044 0532 0130 00", "iban"),
        ("gb29 nwbk 6016 1331 9268 19", "iban"),
        ("NO9386011117947", "iban"),
        ("MT84MALT011000012345MTLCAST001S", "iban"),
        ("529.982.247-25", "br-cpf"),
        ("52998224725", "br-cpf"),
        ("12345678Z", "es-dni"),
        ("X1234567L", "es-dni"),
        ("1 84 12 76 451 089 46", "fr-nir"),
        ("184127645108946", "fr-nir"),
        ("RSSMRA85T10A562S", "it-codice-fiscale"),
    ];
    for (number, name) in found {
        for around in [["", ""], ["a ", " b"], ["x=", "&y"], ["(", ")"]] {
            let [before, after] = around;
            let text = format!("{before}{number}{after}");
            let wanted = format!("{before}[redacted:{name}]{after}");
            assert_eq!(everything_on().redact(Form::Template, &text, ALL), wanted, "{text}");
        }
    }
    let kept = [
        "4111111111111112",
        "1234567890123456",
        "0.4111111111111111",
        "41111111111111110",
        "a4111111111111111",
        "DE88370400440532013000",
        "DE8937040044053201300",
        "1763794800000000",
        "52998224724",
        "11111111111",
        "12345678A",
        "184127645108947",
        "RSSMRA85T10A562T",
        "2026-11-22 06:47:10.123456",
        "192.168.100.200:8080",
    ];
    for text in kept {
        assert_eq!(everything_on().redact(Form::Template, text, ALL), text);
    }
}

#[test]
fn paths_and_json_are_looked_into() {
    check(
        &Redactor::default(),
        Form::Path,
        &[
            ("public/orders", "public/orders"),
            ("cards/4111%201111%201111%201111/x", "cards/[redacted:card]/x"),
            ("u/https%3A%2F%2Fa%3Ab%40h", "u/[redacted:login]"),
        ],
    );
    let mut value = json!({
        "password": "x", "n": 4111111111111111u64, "list": ["a", "Bearer abcdefgh"],
        "deep": {"headers": {"Cookie": "a=b", "accept": "*/*"}, "4111111111111111": 1}, "api_key": ["x"], "ok": true
    });
    Redactor::default().json("ext", &mut value);
    assert_eq!(
        value,
        json!({
            "password": "[redacted:secret]", "n": "[redacted:card]", "list": ["a", "Bearer [redacted:login]"],
            "deep": {"headers": {"Cookie": "[redacted:header]", "accept": "*/*"}, "[redacted:card]": 1},
            "api_key": "[redacted:secret]", "ok": true
        })
    );
}

#[test]
fn detectors_names_and_patterns_are_the_operators() {
    let config: RedactConfig = serde_json::from_value(json!({
        "detectors": {"card": false, "email": true},
        "names": ["employee-no"], "headers": ["X-Badge"], "query_parameters": ["ref"],
        "patterns": [{"name": "order-no", "match": "\\bORD-\\d{4,}\\b"}, {"name": "word", "match": "redact\\w*"}]
    })).expect("a section of the configuration");
    check(
        &redactor(&config),
        Form::Text,
        &[
            ("4111111111111111 a@b.example", "4111111111111111 [redacted:email]"),
            ("employee_no=17 /x?ref=5&a=b", "employee_no=[redacted:secret] /x?ref=[redacted:query]&a=b"),
            ("X-Badge: 1 2 3", "X-Badge: [redacted:header]"),
            ("of ORD-12345, redacted", "of [redacted:order-no], [redacted:word]"),
            ("password=x redact", "password=[redacted:secret] [redacted:word]"),
        ],
    );
    for (pattern, key) in [
        (json!({"name": "Upper", "match": "x"}), "redact.patterns[0].name"),
        (json!({"name": "a", "match": "("}), "redact.patterns[0].match"),
        (json!({"name": "a", "match": "x*"}), "redact.patterns[0].match"),
        (json!({"name": "a", "match": "(?=x)"}), "redact.patterns[0].match"),
        (json!({"name": "a", "match": "\\w{900}{900}"}), "redact.patterns[0].match"),
    ] {
        let config = serde_json::from_value(json!({"patterns": [pattern]})).expect("its form is right");
        assert_eq!(Redactor::new(&config).expect_err("refused").key, key);
    }
    serde_json::from_value::<RedactConfig>(json!({"detectors": {"cards": false}}))
        .expect_err("no such detector");
}

#[test]
fn what_does_not_settle_is_not_kept() {
    let pattern = PatternConfig { name: "pair".to_owned(), matches: r"a(\[redacted:pair\])?b".to_owned() };
    let redactor = redactor(&RedactConfig { patterns: vec![pattern], ..RedactConfig::default() });
    let text = format!("password=hunter2 {}{}", "a".repeat(9), "b".repeat(9));
    // Callers keep a text of their own unless they are given another.
    let kept = redactor.redact(Form::Text, &text, ALL);
    assert!(matches!(&kept, Cow::Owned(kept) if kept == "[redacted:unsettled]"), "{kept:?}");
    let mut value = json!({ "note": text, text.clone(): 1 });
    redactor.json("", &mut value);
    let unsettled = "[redacted:unsettled]";
    assert_eq!(value, json!({ "note": unsettled, unsettled: "[redacted:secret]" }));
}

#[test]
fn names_of_any_length_are_looked_at() {
    let redactor = Redactor::default();
    let long = "properties.of_some_request.".repeat(8);
    for name in [format!("{long}x-access-token"), format!("password_{long}"), format!("{long}client_secret")]
    {
        let mut value = json!({ name.clone(): "hunter2" });
        redactor.json("", &mut value);
        assert!(!value.to_string().contains("hunter2"), "{value}");
    }
}

#[test]
fn what_is_cut_is_cut_after_the_redaction() {
    let redactor = Redactor::default();
    for before in [SCAN_BYTES_MAX - 5_000, SCAN_BYTES_MAX - MARGIN_BYTES - 8, SCAN_BYTES_MAX - 8, 100] {
        let mut text = "x ".repeat(before / 2);
        text.push_str("4111111111111111 password='hunter2hunter2' and more");
        text.push_str(&" y".repeat(SCAN_BYTES_MAX / 2));
        for max in [64, 128, 8 << 10, ALL] {
            for form in [Form::Text, Form::Sql] {
                let kept = redactor.redact(form, &text, max);
                assert!(
                    kept.len() <= max && !kept.contains("4111") && !kept.contains("hunter"),
                    "{before} {max}"
                );
                assert!(kept.ends_with("bytes in all]"));
            }
        }
    }
    let long = format!("SELECT '{}', 'x'", "a ".repeat(SCAN_BYTES_MAX));
    assert!(redactor.redact(Form::Sql, &long, ALL).starts_with("SELECT [redacted:unterminated]…"));
    assert_eq!(
        redactor.redact(Form::Text, "ab password=hunter2 and more words to come", 40),
        "ab password=…[42 bytes in all]"
    );
}

#[test]
fn time_is_linear_in_the_input() {
    let units = [
        "password=",
        "a://",
        "a://b:c",
        "eyJaaaaaaaa-",
        "-----BEGIN PRIVATE KEY-----",
        "=",
        ":",
        "%41",
        "%4",
        "'",
        "$a$",
        "/*",
        "@a.b",
        "[redacted:",
        "bearer ",
        "4111 ",
        "DE89 ",
        "INSERT INTO t (password) ",
        "insert into t (password);",
        "''",
        "E'\\'",
        "password,",
        "'password',",
        "(",
        "\"",
        "a=b&",
        "xoxb-",
        "token: ",
        "AKIAIOSFODNN7EXAMPLE ",
        "https://a:b@c ",
        "'''' ",
        "password = (",
        "$$'$$",
        "'$$''",
        "pw := ",
    ];
    for redactor in [Redactor::default(), everything_on(), literals()] {
        for unit in units {
            let text = unit.repeat(SCAN_BYTES_MAX / unit.len());
            for form in [Form::Text, Form::Sql, Form::Path] {
                let begun = Instant::now();
                let _ = redactor.redact(form, &text, ALL);
                // Without optimization and on a busy machine; what is quadratic takes minutes.
                assert!(begun.elapsed() < Duration::from_secs(30), "{unit:?} {form:?} {:?}", begun.elapsed());
            }
        }
    }
}

#[test]
fn what_was_clean_in_one_form_is_looked_at_in_another() {
    let redactor = Redactor::default();
    for _ in 0..2 {
        check(&redactor, Form::Template, &[("password=hunter2", "password=hunter2")]);
        check(&redactor, Form::Text, &[("password=hunter2", "password=[redacted:secret]")]);
        check(&redactor, Form::Text, &[("password=hunter", "password=[redacted:secret]")]);
    }
    // What is remembered is cut all the same.
    assert_eq!(redactor.redact(Form::Path, "/shop/orders", ALL), "/shop/orders");
    assert_eq!(redactor.redact(Form::Path, "/shop/orders", 8), "…[12 bytes in all]");
}

fn any_form() -> impl Strategy<Value = Form> {
    prop_oneof![Just(Form::Text), Just(Form::Template), Just(Form::Path), Just(Form::Url), Just(Form::Sql)]
}

/// Pieces that the rules look for, so that random texts reach them.
fn piece() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "password",
        "=",
        ":",
        "'",
        "''",
        "\"",
        " ",
        "$$",
        "$a$",
        "E'",
        "\\",
        "?token=",
        "&",
        "https://",
        "@",
        "%3A",
        "%2F%2F",
        "4111111111111111",
        "DE89370400440532013000",
        "eyJhbGciOiJFUzI1NiJ9.e30.x",
        "AKIAIOSFODNN7EXAMPLE",
        "[redacted:card]",
        "[redacted:",
        "]",
        "-----BEGIN PRIVATE KEY-----",
        "-----END PRIVATE KEY-----",
        "--",
        "/*",
        "*/",
        "\n",
        "PASSWORD ",
        "SET ",
        "INSERT INTO t (a, password) VALUES (",
        ",",
        "(",
        ")",
        ";",
        "Bearer abcdefgh1",
        "Authorization: ",
        "U&'",
        "é",
        "…",
        "{",
        "}",
        "a@b.example",
        "12345678Z",
        "bearer",
        "ghp_0123456789abcdefghij",
        "null",
        "$1",
        "?",
        "pw",
        "xoxb-",
        "%20",
    ]);
    prop_oneof![4 => known.prop_map(str::to_owned), 1 => "\\PC{0,12}"]
}

/// Numbers where statements have them.
fn number_piece() -> impl Strategy<Value = String> {
    let between =
        prop::sample::select(vec!["=", "= ", " = ", "(", ", ", ",", " ", "", " < ", " IN (", "-", " -", "."]);
    let behind =
        prop::sample::select(vec!["", " ", ")", ");", ",", ", ", " AND ", " OR password", "'", "-", ";"]);
    let number =
        prop_oneof![4 => "[0-9]{1,6}", 1 => "[0-9]{7,19}", 1 => Just("4111 1111 1111 1111".to_owned())];
    (between, number, behind).prop_map(|(before, number, behind)| format!("{before}{number}{behind}"))
}

#[test]
fn small_numbers_of_statements_are_remembered_as_one() {
    let redactor = Redactor::default();
    for id in 0..100 {
        let text = format!("SELECT abalance FROM accounts WHERE aid = {id} AND bid IN ({id}, 7);");
        assert_eq!(redactor.redact(Form::Sql, &text, ALL), text);
    }
    // Of two lengths.
    assert_eq!(format!("{redactor:?}").matches("texts: 2").count(), 1, "{redactor:?}");
    let card = "SELECT 1 FROM a WHERE n = 4111111111111111";
    assert!(redactor.redact(Form::Sql, card, ALL).contains("[redacted:card]"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn twice_is_as_once(form in any_form(), pieces in prop::collection::vec(piece(), 0..24)) {
        let text = pieces.concat();
        for redactor in [everything_on(), literals()] {
            let once = redactor.redact(form, &text, ALL);
            let twice = redactor.redact(form, &once, ALL);
            prop_assert_eq!(&twice, &once);
        }
    }

    #[test]
    fn a_bound_is_kept(form in any_form(), pieces in prop::collection::vec(piece(), 0..24), max in 40usize..200) {
        let text = pieces.concat();
        prop_assert!(everything_on().redact(form, &text, max).len() <= max);
    }

    /// Statements that differ in small numbers are remembered as one, and it changes nothing.
    #[test]
    fn what_is_remembered_of_other_numbers_changes_nothing(
        pieces in prop::collection::vec(prop_oneof![2 => piece(), 3 => number_piece()], 0..24),
        turn in 1u8..10,
    ) {
        let text = pieces.concat();
        let turned = |char: char| match char.to_digit(10) {
            Some(digit) => char::from_digit((digit + u32::from(turn)) % 10, 10).unwrap_or(char),
            None => char,
        };
        let other: String = text.chars().map(turned).collect();
        for config in [RedactConfig::default(), RedactConfig { numbers: Some(Keep::Redact), ..RedactConfig::default() }] {
            let warm = redactor(&config);
            warm.redact(Form::Sql, &other, ALL);
            prop_assert_eq!(warm.redact(Form::Sql, &text, ALL), redactor(&config).redact(Form::Sql, &text, ALL));
        }
    }

    /// What is known of a single value before it is looked into changes nothing.
    #[test]
    fn a_value_becomes_what_it_becomes_in_a_statement(value in "'[0-9]{0,8}'|[0-9]{1,8}|'[0-9]{1,3}|'[0-9a-f-]{1,12}'") {
        for redactor in [Redactor::default(), everything_on(), literals()] {
            let once = redactor.redact_once(Form::Sql, &value, ALL).into_owned();
            prop_assert_eq!(&once, &redactor.unbounded(Form::Sql, &value));
        }
    }

    /// Whatever stands around it, a secret with a form of its own goes.
    #[test]
    fn planted_secrets_do_not_survive(
        form in any_form(),
        before in prop::collection::vec(piece(), 0..8),
        after in prop::collection::vec(piece(), 0..8),
        which in 0usize..6,
        max in prop_oneof![Just(ALL), 40usize..400],
    ) {
        const PLANTED: [(&str, &str); 6] = [
            ("4012888888881881", "4012888888881881"),
            ("GB29NWBK60161331926819", "NWBK60161331926819"),
            ("ghp_PLANTEDplanted0123456789abcdef", "PLANTED"),
            ("eyJQTEFOVEVE.eyJQTEFOVEVE.QTEFOVEVE", "QTEFOVEVE"),
            ("AKIAPLANTEDPLANTED12", "PLANTED"),
            ("-----BEGIN RSA PRIVATE KEY-----\nPLANTED\n-----END RSA PRIVATE KEY-----", "PLANTED"),
        ];
        let (secret, trace) = PLANTED[which];
        let text = format!("{} {secret} {}", before.concat(), after.concat());
        let kept = everything_on().redact(form, &text, max);
        prop_assert!(!kept.contains(trace), "{kept}");
    }

    /// A password of any characters, spelled as each place spells it, goes with all its parts.
    #[test]
    fn passwords_of_any_characters_do_not_survive(password in "[a-z!-~é ]{0,6}QZQZ[ -~é]{0,12}") {
        let redactor = Redactor::default();
        let sql = password.replace('\'', "''");
        let plain_is_sure = !password.ends_with('\\');
        let conninfo = password.replace('\\', "\\\\").replace('\'', "\\'");
        let mut texts = vec![
            (Form::Sql, format!("ALTER ROLE a PASSWORD E'{}' LOGIN", sql.replace('\\', "\\\\"))),
            (Form::Sql, format!("SELECT dblink('host=h password=''{}'' user=a')", conninfo.replace('\'', "''"))),
            (Form::Text, format!("host=h password='{conninfo}' user=a")),
            (Form::Text, json!({"password": password, "n": 1}).to_string()),
        ];
        if plain_is_sure {
            texts.push((Form::Sql, format!("ALTER ROLE a PASSWORD '{sql}' LOGIN")));
            texts.push((Form::Sql, format!("INSERT INTO u (id, password) VALUES (1, '{sql}')")));
        }
        if !password.contains("$q$") && !password.ends_with("$q") {
            texts.push((Form::Sql, format!("ALTER ROLE a PASSWORD $q${password}$q$ LOGIN")));
        }
        let mut encoded = String::new();
        for byte in password.bytes() {
            let _ = write!(encoded, "%{byte:02X}");
        }
        texts.push((Form::Url, format!("postgres://a:{encoded}@h/db")));
        texts.push((Form::Url, format!("/x?a=1&password={encoded}&b=2")));
        for (form, text) in texts {
            let kept = redactor.redact(form, &text, ALL);
            prop_assert!(!kept.contains("QZQZ") && !kept.contains("%51%5A"), "{text} became {kept}");
        }
    }
}
