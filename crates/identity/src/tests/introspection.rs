//! Opaque tokens, and the issuer's word on them.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use doorward_core::{AuthMethod, Authenticator};
use serde_json::{Value, json};

use super::support::*;
use crate::{Identity, KeySources};

const URL: &str = "https://idp.example/introspect";

/// The secret is in a file, as in life.
fn asking(more: &str, web: &Arc<Web>) -> Identity {
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    let file = std::env::temp_dir().join(format!("doorward-introspection-{}-{count}", std::process::id()));
    std::fs::write(&file, "s3cret/+ä\n").unwrap();
    let yaml = format!(
        "{YAML}    introspection: {{ url: {URL}, client_id: gw, client_secret: \"file:{}\"{more} }}\n",
        file.display()
    );
    let identity = identity(&yaml, &KeySources::new(web.clone()));
    std::fs::remove_file(file).unwrap();
    identity
}

fn active(changes: Value) -> Value {
    let mut answer = claims_with(changes);
    if answer.get("active").is_none() {
        answer["active"] = json!(true);
    }
    answer
}

/// A web without keys, so that all that is counted is introspection.
fn answering(answer: &Value) -> Arc<Web> {
    let web = Arc::new(Web::default());
    web.put(URL, answer);
    web
}

const ALL: &str = ", tokens: all";

#[tokio::test]
async fn an_active_token_is_its_holder() {
    let web = answering(&active(json!({"iss": null})));
    let identity = asking(ALL, &web);
    // `tokens: all` is for JWTs; nobody is asked about opaque ones then.
    assert_eq!(outcome(&identity, "opaque").await, "opaque-token");
    let identity = asking("", &Web::with_keys(&[&Signer::ed25519("k1")]));
    assert_eq!(outcome(&identity, "opaque").await, "issuer-unavailable");

    let web = Web::with_keys(&[&Signer::ed25519("k1")]);
    web.put(URL, &active(json!({"iss": null})));
    let identity = asking("", &web);
    let principal = show(&identity, "op a/que+=").await.unwrap();
    assert_eq!(&**principal.subject.reveal(), "ann");
    assert_eq!(principal.auth_method, AuthMethod::Introspection);
    assert_eq!(principal.claims.get("iss"), Some(&json!(ISSUER)));
    assert_eq!(principal.claims.get("active"), None);
    assert!(identity.stands(&principal, NOW).is_ok());
    let request = web.asked(URL).unwrap();
    assert_eq!(&**request.form.unwrap().expose(), "token=op%20a%2Fque%2B%3D&token_type_hint=access_token");
    let basic = STANDARD.encode("gw:s3cret%2F%2B%C3%A4");
    assert_eq!(&**request.authorization.unwrap().expose(), format!("Basic {basic}"));
}

#[tokio::test]
async fn answers_are_checked_like_tokens() {
    for (changes, code) in [
        (json!({}), "ok ann"),
        (json!({"active": false}), "token-inactive"),
        (json!({"active": "true"}), "token-inactive"),
        (json!({"active": 1}), "token-inactive"),
        (json!({"iss": "https://evil.example"}), "unknown-issuer"),
        (json!({"aud": "other"}), "wrong-audience"),
        (json!({"aud": null}), "wrong-audience"),
        (json!({"exp": NOW.seconds() - 60}), "token-expired"),
        (json!({"exp": null}), "bad-claim"),
        (json!({"sub": null}), "bad-claim"),
        (json!({"token_use": "id"}), "id-token"),
        (json!({"typ": "Refresh"}), "wrong-token-type"),
        (json!({"cnf": {"jkt": "x"}}), "bound-token"),
    ] {
        let web = Web::with_keys(&[&Signer::ed25519("k1")]);
        web.put(URL, &active(changes.clone()));
        assert_eq!(outcome(&asking("", &web), "opaque.with.more.dots").await, code, "{changes}");
    }
    for (status, content_type, body) in [
        (200, "application/json", r#"{"active":true,"active":true}"#),
        (200, "application/json", "[]"),
        (200, "text/html", r#"{"active":true}"#),
        (200, "application/token-introspection+jwt", "a.b.c"),
        (401, "application/json", "{}"),
        (302, "application/json", r#"{"active":true}"#),
        (500, "application/json", r#"{"active":true}"#),
    ] {
        let web = Web::with_keys(&[&Signer::ed25519("k1")]);
        web.put_page(URL, status, content_type, body);
        let fault = show(&asking("", &web), "opaque").await.unwrap_err();
        assert_eq!(fault.code().name, "authenticate.issuer-unavailable", "{status} {body}");
        assert!(fault.retry_after_span().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn answers_are_cached_for_a_while_and_asked_for_once() {
    let web = Web::with_keys(&[&Signer::ed25519("k1")]);
    web.put(URL, &active(json!({"exp": NOW.seconds() + 90})));
    let identity = Arc::new(asking("", &web));
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(web.count(), 2);
    web.slow_down(Duration::from_millis(300));
    let ask = |seconds: u64| {
        let identity = identity.clone();
        async move { word(show_at(&identity, "opaque", NOW.plus(Duration::from_secs(seconds))).await) }
    };
    let asks: Vec<_> = (0..100).map(|_| tokio::spawn(ask(0))).collect();
    for ask in asks {
        assert_eq!(ask.await.unwrap(), "ok ann");
    }
    assert_eq!(web.count(), 3);
    assert_eq!(ask(59).await, "ok ann");
    assert_eq!(web.count(), 3);

    // Revoked: known within a minute, and then not asked about again for ten seconds.
    web.put(URL, &active(json!({"active": false})));
    assert_eq!(ask(60).await, "token-inactive");
    assert_eq!(ask(69).await, "token-inactive");
    assert_eq!(web.count(), 4);
    web.put(URL, &active(json!({"exp": NOW.seconds() + 90})));
    assert_eq!(ask(70).await, "ok ann");
    assert_eq!(web.count(), 5);
    // The answer counts until the token expires at the latest, with the leeway.
    assert_eq!(ask(119).await, "ok ann");
    assert_eq!(ask(120).await, "token-expired");
    assert_eq!(web.count(), 6);
}

#[tokio::test(start_paused = true)]
async fn whoever_hangs_up_or_fails_leaves_no_answer_behind() {
    let web = Web::with_keys(&[&Signer::ed25519("k1")]);
    let identity = asking("", &web);
    assert_eq!(outcome(&identity, "opaque").await, "issuer-unavailable");
    web.put(URL, &active(json!({})));
    web.slow_down(Duration::from_secs(1));
    let hung_up = tokio::time::timeout(Duration::from_millis(10), outcome(&identity, "opaque")).await;
    assert!(hung_up.is_err());
    assert_eq!(outcome(&identity, "opaque").await, "ok ann");
    web.slow_down(Duration::from_secs(60));
    assert_eq!(outcome(&identity, "another").await, "issuer-unavailable");
}

#[tokio::test]
async fn an_issuer_can_be_asked_about_its_jwts_too() {
    let key = Signer::ed25519("k1");
    let web = answering(&active(json!({})));
    let identity = asking(ALL, &web);
    let token = key.token("EdDSA", &claims());
    assert_eq!(outcome(&identity, &token).await, "ok ann");
    assert_eq!(web.count(), 1);
    // What can be seen without asking is not asked about.
    for changes in [json!({"aud": "other"}), json!({"exp": 1}), json!({"iss": "https://evil.example"})] {
        assert!(show(&identity, &key.token("EdDSA", &claims_with(changes))).await.is_err());
    }
    assert_eq!(web.count(), 1);
    web.put(URL, &json!({"active": false}));
    assert_eq!(
        outcome(&identity, &key.token("EdDSA", &claims_with(json!({"jti": "2"})))).await,
        "token-inactive"
    );
}
