//! Key sets: rotation, storms, outages, bad issuers. The clock of the runtime is a test's.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{advance, sleep};

use super::support::*;
use crate::{COOLDOWN, Identity, KeySources, NEGATIVE_TTL, STALE_MAX, WAIT_MAX};

const JWKS: &str = "https://idp.example/jwks";

/// A token that was not shown before.
fn fresh(key: &Signer) -> String {
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    key.token("EdDSA", &claims_with(json!({"jti": format!("t-{count}")})))
}

async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn an_unknown_key_is_asked_for_once_however_many_ask() {
    let old = Signer::ed25519("old");
    let (identity, web) = trusting(&[&old]);
    let identity = Arc::new(identity);
    assert_eq!(outcome(&identity, &fresh(&old)).await, "ok ann");
    assert_eq!(web.count(), 2);
    advance(COOLDOWN).await;

    // The issuer rotates, and a thousand tokens of the new key arrive before anybody has fetched it.
    let new = Signer::ed25519("new");
    web.publish(&[&old, &new]);
    web.slow_down(Duration::from_millis(200));
    let calls = (0..1000).map(|_| {
        let (identity, token) = (identity.clone(), fresh(&new));
        tokio::spawn(async move { outcome(&identity, &token).await })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap(), "ok ann");
    }
    assert_eq!(web.count(), 3);
    assert_eq!(outcome(&identity, &fresh(&old)).await, "ok ann");
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_invented_keys_causes_one_fetch_a_cooldown() {
    let key = Signer::ed25519("k1");
    let (identity, web) = trusting(&[&key]);
    assert_eq!(outcome(&identity, &fresh(&key)).await, "ok ann");
    let invented = |name: String| {
        key.token_with(&json!({"alg": "EdDSA", "kid": name}), &claims_with(json!({"jti": "invented"})))
    };
    for round in 0..3 {
        for index in 0..500 {
            assert_eq!(outcome(&identity, &invented(format!("{round}-{index}"))).await, "unknown-key");
        }
        assert_eq!(web.count(), 2 + round, "round {round}");
        advance(COOLDOWN).await;
    }
    // A key that was asked for is remembered as unknown, and causes no fetch for a while.
    assert_eq!(outcome(&identity, &invented("again".to_owned())).await, "unknown-key");
    let count = web.count();
    for _ in 0..8 {
        advance(COOLDOWN).await;
        assert_eq!(outcome(&identity, &invented("again".to_owned())).await, "unknown-key");
    }
    assert_eq!(web.count(), count);
    advance(NEGATIVE_TTL).await;
    assert_eq!(outcome(&identity, &invented("again".to_owned())).await, "unknown-key");
    assert_eq!(web.count(), count + 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_hangs_up_does_not_lose_the_fetch_for_the_others() {
    let old = Signer::ed25519("old");
    let (identity, web) = trusting(&[&old]);
    assert_eq!(outcome(&identity, &fresh(&old)).await, "ok ann");
    advance(COOLDOWN).await;
    let new = Signer::ed25519("new");
    web.publish(&[&new]);
    web.slow_down(Duration::from_secs(1));
    let token = fresh(&new);
    let hung_up = tokio::time::timeout(Duration::from_millis(10), outcome(&identity, &token)).await;
    assert!(hung_up.is_err());
    assert_eq!(outcome(&identity, &token).await, "ok ann");
    assert_eq!(web.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn keys_are_refreshed_in_the_background_within_bounds() {
    let key = Signer::ed25519("k1");
    for (header, earliest, latest) in [
        ("max-age=600", 540, 600),
        ("max-age=1", 270, 300),
        ("no-store", 270, 300),
        ("max-age=86400", 3240, 3600),
        ("", 3240, 3600),
    ] {
        let web = Web::with_keys(&[&key]);
        web.cache_control(JWKS, header);
        let _identity = identity(YAML, &KeySources::new(web.clone()));
        settle().await;
        assert_eq!(web.count(), 2);
        sleep(Duration::from_secs(earliest - 1)).await;
        assert_eq!(web.count(), 2, "{header}");
        sleep(Duration::from_secs(latest - earliest + 2)).await;
        assert_eq!(web.count(), 3, "{header}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_key_takes_its_tokens_with_it() {
    let (old, new) = (Signer::ed25519("old"), Signer::ed25519("new"));
    let (identity, web) = trusting(&[&old, &new]);
    let (of_old, of_new) = (fresh(&old), fresh(&new));
    assert_eq!(outcome(&identity, &of_old).await, "ok ann");
    assert_eq!(outcome(&identity, &of_new).await, "ok ann");
    web.publish(&[&new]);
    // The old one is answered from the cache until the keys are refreshed, at most an hour.
    assert_eq!(outcome(&identity, &of_old).await, "ok ann");
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(outcome(&identity, &of_old).await, "unknown-key");
    assert_eq!(outcome(&identity, &of_new).await, "ok ann");

    // The same name with other key material is another key.
    let impostor = Signer::ed25519("new");
    web.publish(&[&impostor]);
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(outcome(&identity, &of_new).await, "bad-signature");
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_is_down_at_start_stops_nobody_else_and_comes_back() {
    let key = Signer::ed25519("k1");
    let web = Arc::new(Web::default());
    let identity = identity(YAML, &KeySources::new(web.clone()));
    let fault = show(&identity, &fresh(&key)).await.unwrap_err();
    assert_eq!(fault.code().name, "authenticate.issuer-unavailable");
    assert!(fault.code().retry);
    assert!(fault.retry_after_span().unwrap() >= Duration::from_secs(1));
    assert_eq!(
        fault.cause_text().unwrap(),
        "issuer corp: https://idp.example/.well-known/openid-configuration: connection refused"
    );
    let (_, health) = identity.health().remove(0);
    assert_eq!((health.keys, health.age), (0, None));
    assert!(health.failure.is_some());

    // Refusals that need no key are as ever.
    assert_eq!(
        outcome(&identity, &key.token("EdDSA", &claims_with(json!({"aud": "x"})))).await,
        "wrong-audience"
    );

    // The issuer comes; within half a minute so do its keys, without a restart.
    let up = Web::with_keys(&[&key]);
    for page in ["/.well-known/openid-configuration", "/jwks"] {
        let url = format!("{ISSUER}{page}");
        let body = crate::Fetch::fetch(&*up, request(&url)).await.unwrap().body;
        web.put(&url, &serde_json::from_slice(&body).unwrap());
    }
    sleep(Duration::from_secs(31)).await;
    assert_eq!(outcome(&identity, &fresh(&key)).await, "ok ann");
    assert_eq!(identity.health()[0].1.failure, None);
}

fn request(url: &str) -> crate::FetchRequest {
    crate::FetchRequest { url: url.into(), authorization: None, form: None, body_bytes_max: 1024 }
}

#[tokio::test(start_paused = true)]
async fn callers_wait_for_a_slow_issuer_only_so_long() {
    let key = Signer::ed25519("k1");
    let web = Web::with_keys(&[&key]);
    web.slow_down(Duration::from_secs(3600));
    let identity = identity(YAML, &KeySources::new(web));
    let began = tokio::time::Instant::now();
    assert_eq!(outcome(&identity, &fresh(&key)).await, "issuer-unavailable");
    assert!(began.elapsed() <= WAIT_MAX + Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn last_keys_serve_while_the_issuer_is_away_but_not_for_ever() {
    let key = Signer::ed25519("k1");
    let (identity, web) = trusting(&[&key]);
    let cached = fresh(&key);
    assert_eq!(outcome(&identity, &cached).await, "ok ann");
    web.take_down();
    sleep(STALE_MAX - Duration::from_secs(60)).await;
    assert_eq!(outcome(&identity, &fresh(&key)).await, "ok ann");
    let stranger = Signer::ed25519("k2");
    // Whether the issuer knows this key cannot be said now.
    assert_eq!(outcome(&identity, &fresh(&stranger)).await, "issuer-unavailable");
    sleep(Duration::from_secs(70)).await;
    assert_eq!(outcome(&identity, &fresh(&key)).await, "issuer-unavailable");
    assert_eq!(outcome(&identity, &cached).await, "issuer-unavailable");
    assert!(web.count() < 400, "{} requests in a day's outage", web.count());
}

#[tokio::test(start_paused = true)]
async fn metadata_and_key_sets_that_are_not_right_are_refused() {
    let key = Signer::ed25519("k1");
    let keys = json!({"keys": [key.jwk()]});
    let page = format!("{ISSUER}/.well-known/openid-configuration");
    let metadata = |issuer: &str, jwks: &str| json!({"issuer": issuer, "jwks_uri": jwks}).to_string();
    let good = metadata(ISSUER, JWKS);
    let many: Vec<Value> = (0..65).map(|_| key.jwk()).collect();
    for (name, metadata, content_type, keys, keys_type, cause) in [
        (
            "good",
            good.clone(),
            "application/json; charset=utf-8",
            keys.to_string(),
            "application/jwk-set+json",
            "",
        ),
        (
            "other issuer",
            metadata("https://idp.example/", JWKS),
            "application/json",
            keys.to_string(),
            "application/json",
            "says issuer",
        ),
        (
            "tenant template",
            metadata("https://login.example/{tenantid}/v2.0", JWKS),
            "application/json",
            keys.to_string(),
            "application/json",
            "expected exactly",
        ),
        (
            "plain http",
            metadata(ISSUER, "http://idp.example/jwks"),
            "application/json",
            keys.to_string(),
            "application/json",
            "is http",
        ),
        (
            "home",
            metadata(ISSUER, "https://127.0.0.1/jwks"),
            "application/json",
            keys.to_string(),
            "application/json",
            "this machine",
        ),
        (
            "no keys named",
            json!({"issuer": ISSUER}).to_string(),
            "application/json",
            keys.to_string(),
            "application/json",
            "no jwks_uri",
        ),
        ("html", good.clone(), "text/html", keys.to_string(), "application/json", "content type"),
        ("html keys", good.clone(), "application/json", keys.to_string(), "text/html", "content type"),
        ("broken", good.clone(), "application/json", "{".to_owned(), "application/json", "not a key set"),
        (
            "empty",
            good.clone(),
            "application/json",
            json!({"keys": []}).to_string(),
            "application/json",
            "no key that can be used",
        ),
        (
            "too many",
            good.clone(),
            "application/json",
            json!({"keys": many}).to_string(),
            "application/json",
            "more than 64",
        ),
        (
            "too large",
            good,
            "application/json",
            " ".repeat(512 * 1024 + 1),
            "application/json",
            "more than 524288 bytes",
        ),
    ] {
        let web = Arc::new(Web::default());
        web.put_page(&page, 200, content_type, &metadata);
        web.put_page(JWKS, 200, keys_type, &keys);
        let identity = identity(YAML, &KeySources::new(web));
        match show(&identity, &fresh(&key)).await {
            Ok(_) => assert_eq!(cause, "", "{name}"),
            Err(fault) => {
                assert_eq!(fault.code().name, "authenticate.issuer-unavailable", "{name}");
                let text = fault.cause_text().unwrap();
                assert!(!cause.is_empty() && text.contains(cause), "{name}: {text}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn oauth_metadata_and_configured_key_urls_are_used() {
    let key = Signer::ed25519("k1");
    let web = Arc::new(Web::default());
    web.put_page(&format!("{ISSUER}/.well-known/openid-configuration"), 404, "text/html", "");
    web.put(
        &format!("{ISSUER}/.well-known/oauth-authorization-server"),
        &json!({"issuer": ISSUER, "jwks_uri": "https://keys.example/all"}),
    );
    web.put("https://keys.example/all", &json!({"keys": [key.jwk()]}));
    let sources = KeySources::new(web.clone());
    assert_eq!(outcome(&identity(YAML, &sources), &fresh(&key)).await, "ok ann");
    assert_eq!(web.count(), 3);

    let direct = identity(&format!("{YAML}    jwks_url: https://keys.example/all\n"), &sources);
    assert_eq!(outcome(&direct, &fresh(&key)).await, "ok ann");
    assert_eq!(web.count(), 4);
}

#[tokio::test(start_paused = true)]
async fn keys_that_are_not_for_signatures_or_weak_are_passed_over() {
    let key = Signer::ed25519("k1");
    let rsa = Signer::rsa("rsa");
    let with = |base: &Signer, changes: Value| {
        let mut jwk = base.jwk();
        for (name, value) in changes.as_object().unwrap() {
            jwk[name] = value.clone();
        }
        jwk
    };
    let web = Web::with_keys(&[]);
    web.put(
        JWKS,
        &json!({"keys": [
            "no key",
            {"kty": "oct", "kid": "k1", "k": "c2VjcmV0"},
            {"kty": "EC", "crv": "secp256k1", "kid": "k1", "x": "AA", "y": "AA"},
            with(&key, json!({"kid": "enc", "use": "enc"})),
            with(&key, json!({"kid": "ops", "key_ops": ["sign"]})),
            with(&key, json!({"kid": "alg", "alg": "RS256"})),
            with(&key, json!({"kid": "ecdh", "alg": "ECDH-ES"})),
            with(&key, json!({"kid": "short", "x": "AAAA"})),
            with(&key, json!({"kid": "k".repeat(129)})),
            with(&rsa, json!({"kid": "weak", "n": "A".repeat(170)})),
            with(&rsa, json!({"kid": "padded", "n": format!("{}{}", "A".repeat(200), "_".repeat(170))})),
            with(&rsa, json!({"kid": "huge", "n": "_".repeat(1400)})),
            with(&Signer::p256("x"), json!({"kid": "curve", "crv": "P-384"})),
            key.jwk(),
        ]}),
    );
    let identity = identity(YAML, &KeySources::new(web));
    assert_eq!(outcome(&identity, &fresh(&key)).await, "ok ann");
    assert_eq!(identity.health()[0].1.keys, 1);
}

#[tokio::test(start_paused = true)]
async fn a_reload_keeps_the_keys_of_issuers_that_stay_and_stops_the_others() {
    let key = Signer::ed25519("k1");
    let web = Web::with_keys(&[&key]);
    let sources = KeySources::new(web.clone());
    let first: Identity = identity(YAML, &sources);
    let token = fresh(&key);
    assert_eq!(outcome(&first, &token).await, "ok ann");

    // The same issuer with another audience: its keys stay, what was verified does not.
    let second = identity(&YAML.replace("doorward", "other"), &sources);
    drop(first);
    assert_eq!(outcome(&second, &token).await, "wrong-audience");
    assert_eq!(web.count(), 2);

    // Without the issuer nobody fetches any more.
    drop(second);
    sleep(Duration::from_secs(24 * 3600)).await;
    assert_eq!(web.count(), 2);
}
