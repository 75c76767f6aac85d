//! API keys, from making one to its removal.

use std::time::Duration;

use doorward_core::{Authenticator, PrincipalKind};
use expect_test::expect;

use super::support::*;
use crate::api_key::{ApiKeys, NewApiKey, new_api_key};
use crate::config::KindName;
use crate::{Identity, IssuedApiKey, KeySources, Plan};

fn make(subject: &str, expires: bool) -> IssuedApiKey {
    new_api_key(&NewApiKey {
        subject: subject.to_owned(),
        kind: KindName::Service,
        groups: vec!["loaders".to_owned()],
        expires_at: expires.then(|| NOW.plus(Duration::from_secs(3600))),
    })
    .unwrap()
}

/// Identity with a key file of these lines.
fn with_keys(lines: &[&str]) -> Identity {
    let folder = tempfile();
    let file = folder.join("keys.jsonl");
    std::fs::write(&file, lines.join("\n")).unwrap();
    let yaml = format!("api_keys: {{ file: {} }}\n", file.display());
    let plan = Plan::load(&config(&yaml)).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    Identity::new(plan, &KeySources::new(std::sync::Arc::new(Web::default())))
}

fn tempfile() -> std::path::PathBuf {
    let name = format!("doorward-identity-{}-{}", std::process::id(), make("x", false).id);
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir(&folder).unwrap();
    folder
}

#[tokio::test]
async fn keys_open_what_they_were_made_for() {
    let (plain, short) = (make("etl", false), make("ci", true));
    let identity = with_keys(&["# keys", "", &plain.line, &short.line]);
    let key = plain.key.expose();
    assert_eq!(key.len(), "dw__".len() + 16 + 64);
    let principal = show(&identity, key).await.unwrap();
    assert_eq!(principal.issuer.as_str(), "api-key");
    assert_eq!(principal.kind, PrincipalKind::Service);
    assert_eq!(principal.groups, ["loaders".into()]);
    assert_eq!(principal.credential_id.as_deref(), Some(&*plain.id));
    assert_eq!(&*principal.claims_json, r#"{"iss":"api-key","sub":"etl","groups":["loaders"]}"#);

    let wrong = format!("{}{}", &key[..key.len() - 1], if key.ends_with('0') { '1' } else { '0' });
    let swapped = format!("dw_{}_{}", short.id, key.rsplit_once('_').unwrap().1);
    for (shown, expected) in [
        (wrong.as_str(), "unknown-api-key"),
        (&swapped, "unknown-api-key"),
        (&key.to_uppercase().replacen("DW", "dw", 1), "unknown-api-key"),
        (&format!("dw_0000000000000000_{}", "0".repeat(64)), "unknown-api-key"),
        ("dw_", "unknown-api-key"),
        ("dw__", "unknown-api-key"),
        ("dw_a_🦀", "unknown-api-key"),
        (&format!("dw_{}", "a".repeat(100_000)), "unknown-api-key"),
    ] {
        assert_eq!(outcome(&identity, shown).await, expected, "{shown}");
    }
    // All of them read the same to the caller, whichever part is wrong.
    let said = show(&identity, "dw_x_y").await.unwrap_err().to_string();
    for key in [&wrong, &swapped] {
        assert_eq!(show(&identity, key).await.unwrap_err().to_string(), said);
    }

    let later = NOW.plus(Duration::from_secs(3600));
    assert_eq!(word(show_at(&identity, short.key.expose(), NOW).await), "ok ci");
    assert_eq!(word(show_at(&identity, short.key.expose(), later).await), "api-key-expired");
    let short_holder = show(&identity, short.key.expose()).await.unwrap();
    assert!(identity.stands(&short_holder, NOW).is_ok());
    assert!(identity.stands(&short_holder, later).is_err());
}

#[tokio::test]
async fn a_removed_key_ends_its_sessions() {
    let (kept, removed) = (make("etl", false), make("ci", false));
    let before = with_keys(&[&kept.line, &removed.line]);
    let after = with_keys(&[&kept.line]);
    let kept_holder = show(&before, kept.key.expose()).await.unwrap();
    let removed_holder = show(&before, removed.key.expose()).await.unwrap();
    assert!(before.stands(&removed_holder, NOW).is_ok());
    assert!(after.stands(&kept_holder, NOW).is_ok());
    let fault = after.stands(&removed_holder, NOW).unwrap_err();
    assert_eq!(fault.code().name, "authenticate.no-longer-accepted");
    assert_eq!(outcome(&after, removed.key.expose()).await, "unknown-api-key");
    // Other groups are another principal.
    let changed = with_keys(&[&kept.line.replace("loaders", "admins")]);
    assert!(changed.stands(&kept_holder, NOW).is_err());
}

#[tokio::test]
async fn without_a_file_no_key_counts() {
    let (identity, _) = trusting(&[&Signer::ed25519("k1")]);
    assert_eq!(outcome(&identity, make("etl", false).key.expose()).await, "unknown-api-key");
}

#[test]
fn lines_that_are_not_right_are_refused() {
    let good = make("etl", true).line;
    let mut texts = String::new();
    for lines in [
        good.replace("\"kind\"", "\"sort\""),
        good.replace("service", "root"),
        good.replace("\"id\":\"", "\"id\":\"A"),
        good.replace("\"sha256\":\"", "\"sha256\":\"0"),
        good.replace("etl", ""),
        good.replace("T", " "),
        format!("{good}\n{good}"),
        "dw_a_b".to_owned(),
    ] {
        texts += &ApiKeys::parse(&lines).err().unwrap_or_default();
        texts += "\n";
    }
    expect![[r#"
        line 1: unknown field `sort`, expected one of `id`, `sha256`, `subject`, `kind`, `groups`, `expires` at line 1 column 123
        line 1: unknown variant `root`, expected one of `user`, `service`, `task`, `agent` at line 1 column 130
        line 1: the id is not of 1 to 64 lower-case letters and digits
        line 1: sha256 is not of 64 lower-case hexadecimal digits
        line 1: the subject or a group is not a plain text of 1 to 255 bytes
        line 1: expires is not like 2027-01-31T12:00:00Z
        line 2: the id stands twice
        line 1: expected value at line 1 column 1
    "#]]
    .assert_eq(&texts);
}

#[test]
fn a_key_is_shown_once_and_not_kept() {
    let issued = make("etl", true);
    let secret = issued.key.expose().rsplit_once('_').unwrap().1;
    assert!(!issued.line.contains(secret));
    assert!(!format!("{issued:?}").contains(secret));
    assert!(issued.line.contains(r#""expires":"2027-01-15T09:00:00Z""#), "{}", issued.line);
    let bad =
        NewApiKey { subject: "a\nb".to_owned(), kind: KindName::User, groups: vec![], expires_at: None };
    assert!(new_api_key(&bad).is_err());
}
