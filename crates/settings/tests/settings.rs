//! What a user sees of the configuration reader: values, and above all what it says when it refuses.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail loudly")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use doorward_settings::{ByteSize, Document, HumanDuration, OneOrMany, SecretRef, Spanned, later};
use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read through Debug")]
struct Sample {
    port: Option<u16>,
    tls: Option<bool>,
    name: Option<String>,
    ttl: Option<HumanDuration>,
    size: Option<ByteSize>,
    #[serde(default)]
    list: Vec<String>,
    mode: Option<Mode>,
    #[serde(default)]
    grants: BTreeMap<String, Grant>,
    password: Option<SecretRef>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(dead_code, reason = "read through Debug")]
enum Mode {
    Required,
    BestEffort,
    Custom { level: u8 },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read through Debug")]
struct Grant {
    to: Spanned<String>,
    limit: Option<String>,
}

fn check(text: &str, expected: Expect) {
    let result =
        Document::parse("doorward.yaml", text).and_then(|document| document.root().deserialize::<Sample>());
    match result {
        Ok(sample) => expected.assert_eq(&format!("{sample:?}")),
        Err(problem) => expected.assert_eq(&problem.to_string()),
    }
}

#[test]
fn problems_say_where_and_what_next() {
    check("prot: 1\n", expect![[r#"doorward.yaml:1:1: prot: unknown key; did you mean "port"?"#]]);
    check(
        "zzzzzz: 1\n",
        expect![
            "doorward.yaml:1:1: zzzzzz: unknown key; known here: port, tls, name, ttl, size, list, mode, grants, password"
        ],
    );
    check(
        "grants:\n  analysts:\n    to: group:a\n    limt: 5/s\n",
        expect![[r#"doorward.yaml:4:5: grants.analysts.limt: unknown key; did you mean "limit"?"#]],
    );
    check(
        "grants:\n  analysts:\n    to: group:a\n    mask: {}\n",
        expect![[
            r#"doorward.yaml:4:5: grants.analysts.mask: "mask" is not available in this version yet: masking of columns will come with a later one; remove the key; it is refused so that nobody relies on it"#
        ]],
    );
    check(
        "grants:\n  a.b:\n    to: group:a\n    quota: 1\n",
        expect![[
            r#"doorward.yaml:4:5: grants.a.b.quota: "quota" is not available in this version yet: quotas over long periods will come with a later one; remove the key; it is refused so that nobody relies on it"#
        ]],
    );
    check(
        "grants:\n  analysts:\n    limit: 5/s\n",
        expect![[r#"doorward.yaml:3:5: grants.analysts: the key "to" is missing"#]],
    );
    check("grants: [1]\n", expect!["doorward.yaml:1:9: grants: expected a mapping, found a list"]);
    check("list: a\n", expect!["doorward.yaml:1:7: list: expected a list, found text"]);
    check("list: [a, [b]]\n", expect!["doorward.yaml:1:11: list[1]: expected text, found a list"]);
    check("name: {a: 1}\n", expect!["doorward.yaml:1:7: name: expected text, found a mapping"]);
    check(
        "name:\n",
        expect![
            "Sample { port: None, tls: None, name: None, ttl: None, size: None, list: [], mode: None, grants: {}, password: None }"
        ],
    );
    check(
        "mode: best-efort\n",
        expect![[
            r#"doorward.yaml:1:7: mode: this is none of the words that can stand here; did you mean "best-effort"?"#
        ]],
    );
    check(
        "mode: {custom: {level: 300}}\n",
        expect!["doorward.yaml:1:24: mode.custom.level: the number 300 is out of range here"],
    );
    check(
        "mode: {cstom: {level: 3}}\n",
        expect![[
            r#"doorward.yaml:1:8: mode.cstom: this is none of the words that can stand here; did you mean "custom"?"#
        ]],
    );
}

#[test]
fn scalars_mean_what_the_target_asks() {
    check(
        "port: 8080\n",
        expect![
            "Sample { port: Some(8080), tls: None, name: None, ttl: None, size: None, list: [], mode: None, grants: {}, password: None }"
        ],
    );
    check(
        "port: 0x1F\n",
        expect![
            "Sample { port: Some(31), tls: None, name: None, ttl: None, size: None, list: [], mode: None, grants: {}, password: None }"
        ],
    );
    check(
        "port: \"8080\"\n",
        expect!["doorward.yaml:1:7: port: expected a whole number, found quoted text; remove the quotes"],
    );
    check("port: 80800\n", expect!["doorward.yaml:1:7: port: the number 80800 is out of range here"]);
    check("port: 8_080\n", expect!["doorward.yaml:1:7: port: expected a whole number, found text"]);
    check("port: -1\n", expect!["doorward.yaml:1:7: port: the number -1 is out of range here"]);
    check("tls: on\n", expect!["doorward.yaml:1:6: tls: expected true or false, found text"]);
    check(
        "tls: true\n",
        expect![
            "Sample { port: None, tls: Some(true), name: None, ttl: None, size: None, list: [], mode: None, grants: {}, password: None }"
        ],
    );
    check(
        "name: on\n",
        expect![[
            r#"Sample { port: None, tls: None, name: Some("on"), ttl: None, size: None, list: [], mode: None, grants: {}, password: None }"#
        ]],
    );
    check(
        "name: 123\n",
        expect![[
            r#"Sample { port: None, tls: None, name: Some("123"), ttl: None, size: None, list: [], mode: None, grants: {}, password: None }"#
        ]],
    );
    check(
        "name: 'null'\n",
        expect![[
            r#"Sample { port: None, tls: None, name: Some("null"), ttl: None, size: None, list: [], mode: None, grants: {}, password: None }"#
        ]],
    );
    check(
        "ttl: 1h30m\n",
        expect![
            "Sample { port: None, tls: None, name: None, ttl: Some(HumanDuration(5400s)), size: None, list: [], mode: None, grants: {}, password: None }"
        ],
    );
    check(
        "ttl: 15\n",
        expect!["doorward.yaml:1:6: ttl: expected a duration such as 500ms, 30s, 15m, 1h30m or 1d"],
    );
    check(
        "ttl: 30m1h\n",
        expect!["doorward.yaml:1:6: ttl: expected a duration such as 500ms, 30s, 15m, 1h30m or 1d"],
    );
    check(
        "size: 1MiB\n",
        expect![
            "Sample { port: None, tls: None, name: None, ttl: None, size: Some(ByteSize(1048576)), list: [], mode: None, grants: {}, password: None }"
        ],
    );
    check(
        "size: 1 MiB\n",
        expect!["doorward.yaml:1:7: size: expected a size such as 512B, 64KB, 1MiB or 10GB"],
    );
    check(
        "size: 99999999999TiB\n",
        expect!["doorward.yaml:1:7: size: expected a size such as 512B, 64KB, 1MiB or 10GB"],
    );
}

#[test]
fn yaml_that_reads_differently_to_different_readers_is_refused() {
    check("port: 1\nport: 2\n", expect!["doorward.yaml:2:1: port: this key stands here twice"]);
    check(
        "name: &a x\n",
        expect![
            "doorward.yaml:1:7: name: anchors (&name) are not supported; write the value out where it is needed"
        ],
    );
    check(
        "list: &a [x]\n",
        expect![
            "doorward.yaml:1:7: list: anchors (&name) are not supported; write the value out where it is needed"
        ],
    );
    check(
        "name: *a\n",
        expect!["doorward.yaml:1:7: this is not valid YAML: while parsing node, found unknown anchor"],
    );
    check(
        "<<: {port: 1}\n",
        expect!["doorward.yaml:1:1: merge keys (<<) are not supported; write the keys out"],
    );
    check("name: !!str x\n", expect!["doorward.yaml:1:7: name: tags (!name) are not supported"]);
    check(
        "grants:\n\ta: 1\n",
        expect!["doorward.yaml:2:1: a tab stands in the indentation; indent with spaces"],
    );
    check(
        "port: 1\n---\nport: 2\n",
        expect![
            "doorward.yaml:3:1: a second document begins here; keep one document a file; further files are overlays"
        ],
    );
    check("? [a]\n: 1\n", expect!["doorward.yaml:1:3: a key must be plain text"]);
    check("- a\n", expect!["doorward.yaml:1:1: a mapping was expected, found a list"]);
    check(
        "name: [a\n",
        expect![
            "doorward.yaml:2:1: this is not valid YAML: while parsing a flow sequence, expected ',' or ']'"
        ],
    );
    check(
        "name: \"a\nport: 1\n",
        expect!["doorward.yaml:1:7: this is not valid YAML: invalid indentation in quoted scalar"],
    );
    check(
        &format!("name: {}{}\n", "[".repeat(40), "]".repeat(40)),
        expect![
            "doorward.yaml:1:39: name[0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0]: more than 32 levels are nested here"
        ],
    );
    check(
        "",
        expect![
            "Sample { port: None, tls: None, name: None, ttl: None, size: None, list: [], mode: None, grants: {}, password: None }"
        ],
    );
    let problem = Document::parse("d.yaml", b"name: a\nlist: \xff\n").unwrap_err();
    expect!["d.yaml:2:7: the file is not UTF-8 text from here on"].assert_eq(&problem.to_string());
    let problem = Document::parse("d.yaml", " ".repeat(5 << 20)).unwrap_err();
    expect!["d.yaml: the file is larger than 4 MiB"].assert_eq(&problem.to_string());
}

#[test]
fn secrets_do_not_stand_in_the_file() {
    check(
        "password: hunter2\n",
        expect![
            "doorward.yaml:1:11: password: a reference to a secret is expected here, not the secret itself; write env:NAME or file:PATH, and keep the secret there"
        ],
    );
    check(
        "password: hunter2:hunter3\n",
        expect![
            "doorward.yaml:1:11: password: a reference to a secret is expected here, not the secret itself; write env:NAME or file:PATH, and keep the secret there"
        ],
    );
    check(
        "password: postgres://u:hunter2@h/d\n",
        expect![
            "doorward.yaml:1:11: password: a reference to a secret is expected here, not the secret itself; write env:NAME or file:PATH, and keep the secret there"
        ],
    );
    check("password: [hunter2]\n", expect!["doorward.yaml:1:11: password: expected text, found a list"]);
    check("port: hunter2\n", expect!["doorward.yaml:1:7: port: expected a whole number, found text"]);
    check(
        "mode: hunter2\n",
        expect![
            "doorward.yaml:1:7: mode: this is none of the words that can stand here; known here: required, best-effort, custom"
        ],
    );
    check(
        "password: aws-sm:shop/password\n",
        expect![
            "doorward.yaml:1:11: password: aws-sm: references are not available in this version yet; use env:NAME or file:PATH"
        ],
    );
    check(
        "password: env:1X\n",
        expect!["doorward.yaml:1:11: password: env: is followed by the name of an environment variable"],
    );
    check(
        "password: env:DB_PASSWORD\n",
        expect![
            "Sample { port: None, tls: None, name: None, ttl: None, size: None, list: [], mode: None, grants: {}, password: Some(SecretRef(env:DB_PASSWORD)) }"
        ],
    );
}

#[derive(Deserialize)]
struct OneSecret {
    secret: SecretRef,
}

fn secret_of(folder: &std::path::Path, reference: &str) -> SecretRef {
    let file = folder.join("doorward.yaml");
    std::fs::write(&file, format!("secret: \"{reference}\"\n")).unwrap();
    let document = Document::load(&[file]).unwrap();
    document.root().deserialize::<OneSecret>().unwrap().secret
}

#[cfg(unix)]
#[test]
fn secret_files_are_relative_to_the_configuration_and_checked() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    let secret = secret_of(folder.path(), "file:key");
    assert!(secret.read().unwrap_err().message.contains("cannot be read"));

    std::fs::write(&path, "s3cret\r\n").unwrap();
    mode(0o600);
    assert_eq!(&**secret.read().unwrap().expose(), "s3cret");
    assert!(secret.warning().is_none());
    mode(0o644);
    assert_eq!(&**secret.read().unwrap().expose(), "s3cret");
    assert!(secret.warning().unwrap().message.contains("may read"));
    mode(0o666);
    assert!(secret.read().unwrap_err().message.contains("may change"));
    mode(0o600);

    for (content, says) in [("", "empty"), ("\n", "empty")] {
        std::fs::write(&path, content).unwrap();
        assert!(secret.read().unwrap_err().message.contains(says));
    }
    std::fs::write(&path, "x".repeat(65 * 1024)).unwrap();
    assert!(secret.read().unwrap_err().message.contains("larger than"));
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(secret.read().unwrap_err().message.contains("not UTF-8"));
    let unset = secret_of(folder.path(), "env:DOORWARD_TEST_SURELY_NOT_SET");
    assert!(unset.read().unwrap_err().message.contains("is not set"));
    let directory = secret_of(folder.path(), "file:.");
    assert!(directory.read().unwrap_err().message.contains("is not a file"));
}

#[test]
fn overlays_are_merged_key_by_key() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let base =
        write("base.yaml", "name: a\nlist: [x]\ngrants:\n  one: {to: a}\n  two: {to: b, limit: 1/s}\n");
    let over = write(
        "prod.yaml",
        "list: [y]\ngrants:\n  two: {limit: 9/s}\n  three: {to: c, limt: 1}\n  one: null\n",
    );
    let document = Document::load(&[base.clone(), over]).unwrap();
    let keys: Vec<_> = document.root().get("grants").unwrap().entries().iter().map(|e| &*e.key).collect();
    assert_eq!(keys, ["two", "three"]);
    let two = document.root().get("grants").unwrap().get("two").unwrap();
    assert_eq!(two.get("to").unwrap().as_str(), Some("b"));
    assert_eq!(two.get("limit").unwrap().as_str(), Some("9/s"));
    assert_eq!(two.get("limit").unwrap().position().line, 3);
    assert!(two.get("limit").unwrap().position().file.ends_with("prod.yaml"));
    let problem = document.root().deserialize::<Sample>().unwrap_err();
    assert!(problem.file.ends_with("prod.yaml"), "{problem}");
    assert_eq!((problem.line, &*problem.path), (4, "grants.three.limt"));

    let missing = folder.path().join("missing.yaml");
    let problems = Document::load(&[missing.clone(), base.clone(), missing]).unwrap_err();
    assert_eq!(problems.as_slice().len(), 2);
}

#[test]
fn the_digest_is_of_what_is_configured() {
    let digest = |text: &str| Document::parse("any", text).unwrap().digest();
    let one = digest("name: a # comment\nlist: [x, y]\n");
    assert_eq!(one, digest("name:   a\nlist:\n- x\n- y\n"));
    assert_ne!(one, digest("name: a\nlist: [xy]\n"));
    assert_ne!(one, digest("list: [x, y]\nname: a\n"));
    assert_ne!(digest("a: [b, [c]]\n"), digest("a: [[b], c]\n"));
    assert_ne!(digest("a: true\n"), digest("a: 'true'\n"));
    assert!(one.as_str().starts_with("sha256:") && one.as_str().len() == 23);
}

#[test]
fn one_or_many_keeps_places() {
    #[derive(Deserialize)]
    struct Rule {
        to: OneOrMany<Spanned<String>>,
    }
    let read = |text: &str| Document::parse("d", text).unwrap().root().deserialize::<Rule>();
    let one = read("to: a\n").unwrap();
    assert_eq!((one.to.len(), one.to[0].path(), one.to[0].position().column), (1, "to", 5));
    let two = read("to: [a, b]\n").unwrap();
    assert_eq!((two.to.len(), two.to[1].path(), two.to[1].position().column), (2, "to[1]", 9));
    let problem = read("to: [a, {b: c}]\n").err().unwrap();
    assert_eq!(problem.to_string(), "d:1:9: to[1]: expected text, found a mapping");
}

#[test]
fn later_keys_are_known_by_path() {
    assert!(later("grants.x.mask").is_some());
    assert!(later("grants.x.y.quota").is_some());
    assert!(later("redis").is_some());
    assert!(later("grants.mask").is_none());
    assert!(later("mask").is_none());
    assert!(later("grants..mask").is_none());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = Document::parse("fuzz", &bytes).map(|document| document.root().deserialize::<Sample>());
    }

    #[test]
    fn yaml_like_text_never_panics(text in "[a-c:\\-\\[\\]{}&*!|>'\"#%,? \n\t0-9~<]{0,120}") {
        let _ = Document::parse("fuzz", &text).map(|document| {
            let _ = document.root().deserialize::<Sample>();
            let _ = document.root().deserialize::<serde_json::Value>();
            document.digest()
        });
    }

    #[test]
    fn durations_and_sizes_read_what_they_print(number in 0_u64..1 << 50) {
        let span = HumanDuration::new(std::time::Duration::from_millis(number));
        prop_assert_eq!(HumanDuration::parse(&span.to_string()), Some(span));
        let size = ByteSize::new(number);
        prop_assert_eq!(ByteSize::parse(&size.to_string()), Some(size));
    }
}
