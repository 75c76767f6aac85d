//! The table of known attacks and mistakes, each refused by its own code.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use doorward_core::{Arrival, Authenticator, Credentials, Secret};
use expect_test::expect;
use serde_json::{Value, json};

use super::support::*;
use crate::token;

#[tokio::test]
async fn headers() {
    let key = Signer::rsa("k1");
    let (identity, web) = trusting(&[&key]);
    let stranger = Signer::ed25519("k1");
    for (header, code) in [
        (json!({"alg": "RS256", "kid": "k1", "typ": "at+jwt"}), "ok ann"),
        (json!({"alg": "RS256", "kid": "k1", "typ": "application/AT+JWT"}), "ok ann"),
        (json!({"alg": "RS256", "kid": "k1", "typ": "JWT"}), "ok ann"),
        (json!({"alg": "RS256", "kid": "k1"}), "ok ann"),
        (json!({"alg": "RS256"}), "ok ann"),
        (json!({"alg": "none", "kid": "k1"}), "algorithm-not-allowed"),
        (json!({"alg": "None", "kid": "k1"}), "algorithm-not-allowed"),
        (json!({"alg": "HS256", "kid": "k1"}), "algorithm-not-allowed"),
        (json!({"alg": "rs256", "kid": "k1"}), "algorithm-not-allowed"),
        (json!({"alg": "RSA-OAEP", "kid": "k1"}), "algorithm-not-allowed"),
        (json!({"alg": "", "kid": "k1"}), "algorithm-not-allowed"),
        (json!({"alg": ["RS256"], "kid": "k1"}), "malformed-token"),
        (json!({"kid": "k1"}), "malformed-token"),
        (json!({"alg": "RS256", "kid": "k1", "crit": ["exp"]}), "malformed-token"),
        (json!({"alg": "RS256", "kid": "k1", "b64": false}), "malformed-token"),
        (json!({"alg": "RS256", "kid": 1}), "malformed-token"),
        (json!({"alg": "RS256", "kid": "k".repeat(129)}), "malformed-token"),
        (json!({"alg": "RS256", "kid": "../../../../dev/null"}), "unknown-key"),
        (json!({"alg": "RS256", "kid": "k1' OR '1'='1"}), "unknown-key"),
        (json!({"alg": "ES256", "kid": "k1"}), "unknown-key"),
        (json!({"alg": "RS256", "kid": "k1", "typ": "logout+jwt"}), "wrong-token-type"),
        (json!({"alg": "RS256", "kid": "k1", "typ": "dpop+jwt"}), "wrong-token-type"),
    ] {
        assert_eq!(outcome(&identity, &key.token_with(&header, &claims())).await, code, "{header}");
    }
    // Keys that a token brings with it, or points to, are as if they were not there.
    for header in [
        json!({"alg": "EdDSA", "jwk": stranger.jwk()}),
        json!({"alg": "EdDSA", "kid": "k1", "jku": "https://evil.example/jwks"}),
        json!({"alg": "EdDSA", "kid": "k1", "x5u": "https://evil.example/cert"}),
        json!({"alg": "EdDSA", "kid": "k1", "x5c": ["AAAA"]}),
    ] {
        assert_eq!(outcome(&identity, &stranger.token_with(&header, &claims())).await, "unknown-key");
    }
    assert!(web.asked("evil").is_none());
}

#[tokio::test]
async fn claims_of_every_bad_kind() {
    let key = Signer::ed25519("k1");
    let (identity, _) = trusting(&[&key]);
    let now = NOW.seconds();
    for (changes, code) in [
        (json!({}), "ok ann"),
        // Issuer: to the last character.
        (json!({"iss": "https://idp.example/"}), "unknown-issuer"),
        (json!({"iss": "https://IDP.example"}), "unknown-issuer"),
        (json!({"iss": "https://evil.example"}), "unknown-issuer"),
        (json!({"iss": ["https://idp.example"]}), "bad-claim"),
        (json!({"iss": null}), "bad-claim"),
        // Audience: required, exact.
        (json!({"aud": ["other", "doorward"]}), "ok ann"),
        (json!({"aud": "other"}), "wrong-audience"),
        (json!({"aud": "Doorward"}), "wrong-audience"),
        (json!({"aud": "doorward/"}), "wrong-audience"),
        (json!({"aud": []}), "wrong-audience"),
        (json!({"aud": ["doorward", 1]}), "wrong-audience"),
        (json!({"aud": {"doorward": true}}), "wrong-audience"),
        (json!({"aud": null}), "wrong-audience"),
        // Times, with a leeway of 30 s.
        (json!({"exp": now - 29}), "ok ann"),
        (json!({"exp": now - 30}), "token-expired"),
        (json!({"exp": now as f64 + 1.5}), "ok ann"),
        (json!({"exp": null}), "bad-claim"),
        (json!({"exp": "1900000000"}), "bad-claim"),
        (json!({"exp": -1}), "bad-claim"),
        (json!({"exp": u64::MAX}), "bad-claim"),
        (json!({"exp": 1e300}), "bad-claim"),
        (json!({"nbf": now + 30}), "ok ann"),
        (json!({"nbf": now + 31}), "token-not-yet-valid"),
        (json!({"iat": now + 31}), "token-not-yet-valid"),
        (json!({"nbf": "soon"}), "bad-claim"),
        (json!({"exp": now + 30 * 3600 - 60}), "ok ann"),
        (json!({"exp": now + 30 * 3600}), "token-lifetime"),
        (json!({"iat": null, "exp": now + 30 * 3600 + 1}), "token-lifetime"),
        (json!({"iat": now, "exp": now - 1}), "token-lifetime"),
        (json!({"exp": 253_402_300_799_i64}), "token-lifetime"),
        // Subject.
        (json!({"sub": null}), "bad-claim"),
        (json!({"sub": ""}), "bad-claim"),
        (json!({"sub": 7}), "bad-claim"),
        (json!({"sub": "a\nb"}), "bad-claim"),
        (json!({"sub": "a\u{0}"}), "bad-claim"),
        (json!({"sub": "s".repeat(256)}), "bad-claim"),
        // What cannot be read is not "none".
        (json!({"groups": null}), "ok ann"),
        (json!({"groups": "analysts"}), "ok ann"),
        (json!({"groups": {"analysts": true}}), "bad-claim"),
        (json!({"groups": ["analysts", 1]}), "bad-claim"),
        (json!({"groups": ["analysts", ""]}), "bad-claim"),
        (json!({"groups": null, "_claim_names": {"groups": "src1"}}), "groups-overage"),
        (json!({"groups": null, "hasgroups": true}), "groups-overage"),
        (json!({"email": ["ann@corp.example"]}), "bad-claim"),
        // Delegation.
        (json!({"act": {"sub": "agent-1"}}), "ok ann"),
        (json!({"act": "agent-1"}), "bad-claim"),
        (json!({"act": {"act": {"sub": "x"}}}), "bad-claim"),
        (json!({"act": {"sub": ""}}), "bad-claim"),
        // Bound to a key that nobody has shown.
        (json!({"cnf": {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}}), "bound-token"),
    ] {
        assert_eq!(
            outcome(&identity, &key.token("EdDSA", &claims_with(changes.clone()))).await,
            code,
            "{changes}"
        );
    }
}

#[tokio::test]
async fn a_chain_of_actors_is_read_up_to_its_bound() {
    let key = Signer::ed25519("k1");
    let (identity, _) = trusting(&[&key]);
    let chain = |links: usize| {
        (0..links).rev().fold(Value::Null, |inner, link| match inner {
            Value::Null => json!({"sub": format!("a{link}")}),
            inner => json!({"sub": format!("a{link}"), "iss": ISSUER, "act": inner}),
        })
    };
    let token = key.token("EdDSA", &claims_with(json!({"act": chain(8)})));
    let principal = show(&identity, &token).await.unwrap();
    assert_eq!(principal.actors.len(), 8);
    assert_eq!(&**principal.actors[0].subject.reveal(), "a0");
    assert_eq!(principal.actors[0].issuer.as_deref(), Some(ISSUER));
    let token = key.token("EdDSA", &claims_with(json!({"act": chain(9)})));
    assert_eq!(outcome(&identity, &token).await, "bad-claim");
}

#[tokio::test]
async fn types_of_tokens() {
    let key = Signer::ed25519("k1");
    let yaml = |token_type: &str| format!("{YAML}    token_type: {token_type}\n");
    let rows = [
        ("at+jwt", json!({}), ["ok ann", "ok ann", "wrong-token-type"]),
        ("JWT", json!({}), ["ok ann", "wrong-token-type", "ok ann"]),
        ("JWT", json!({"nonce": "n"}), ["id-token", "wrong-token-type", "ok ann"]),
        ("JWT", json!({"at_hash": "h"}), ["id-token", "wrong-token-type", "ok ann"]),
        ("JWT", json!({"c_hash": "h"}), ["id-token", "wrong-token-type", "ok ann"]),
        // Cognito and Keycloak say it outright; Keycloak before 24 put a nonce into access tokens.
        ("JWT", json!({"token_use": "id"}), ["id-token", "wrong-token-type", "ok ann"]),
        ("JWT", json!({"token_use": "access"}), ["ok ann", "wrong-token-type", "ok ann"]),
        ("JWT", json!({"typ": "ID"}), ["id-token", "wrong-token-type", "ok ann"]),
        ("JWT", json!({"typ": "Refresh"}), ["wrong-token-type", "wrong-token-type", "wrong-token-type"]),
        ("JWT", json!({"typ": "Bearer", "nonce": "n"}), ["ok ann", "wrong-token-type", "ok ann"]),
        ("JWT", json!({"events": {}}), ["wrong-token-type", "wrong-token-type", "wrong-token-type"]),
        ("secevent+jwt", json!({}), ["wrong-token-type", "wrong-token-type", "wrong-token-type"]),
    ];
    for (column, token_type) in ["access", "at+jwt", "id"].into_iter().enumerate() {
        let (identity, _) = trusting_with(&yaml(token_type), &[&key]);
        for (typ, changes, codes) in &rows {
            let header = json!({"alg": "EdDSA", "kid": "k1", "typ": typ});
            let token = key.token_with(&header, &claims_with(changes.clone()));
            assert_eq!(outcome(&identity, &token).await, codes[column], "{token_type} {typ} {changes}");
        }
    }
}

#[tokio::test]
async fn algorithms_and_keys() {
    let (rsa, p256, p384, ed) =
        (Signer::rsa("rsa"), Signer::p256("p256"), Signer::p384("p384"), Signer::ed25519("ed"));
    let (identity, _) = trusting(&[&rsa, &p256, &p384, &ed]);
    for (key, alg) in [
        (&rsa, "RS256"),
        (&rsa, "RS384"),
        (&rsa, "RS512"),
        (&rsa, "PS256"),
        (&p256, "ES256"),
        (&p384, "ES384"),
        (&ed, "EdDSA"),
    ] {
        let token = key.token(alg, &claims());
        assert_eq!(outcome(&identity, &token).await, "ok ann", "{alg}");
        // A signature of another token is none of this one.
        let (body, _) = token.rsplit_once('.').unwrap();
        let other = key.token(alg, &claims_with(json!({"sub": "bob"})));
        let mixed = format!("{body}.{}", other.rsplit_once('.').unwrap().1);
        assert_eq!(outcome(&identity, &mixed).await, "bad-signature", "{alg}");
    }
    // A header that names another algorithm than the key's, or another key than the signer's.
    for (header, signer, code) in [
        (json!({"alg": "ES256", "kid": "p384"}), &p384, "unknown-key"),
        (json!({"alg": "ES384", "kid": "p256"}), &p256, "unknown-key"),
        (json!({"alg": "RS256", "kid": "ed"}), &rsa, "unknown-key"),
        (json!({"alg": "ES256", "kid": "p256"}), &p384, "bad-signature"),
        (json!({"alg": "EdDSA", "kid": "ed"}), &Signer::ed25519("ed"), "bad-signature"),
    ] {
        assert_eq!(outcome(&identity, &signer.token_with(&header, &claims())).await, code, "{header}");
    }
    // PS256 that says RS256, and the other way round.
    let signed = |says: &str, is: &str| {
        let header = json!({"alg": says, "kid": "rsa"}).to_string();
        let body =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims().to_string()));
        let signature = URL_SAFE_NO_PAD.encode(rsa.sign(is, body.as_bytes()));
        format!("{body}.{signature}")
    };
    assert_eq!(outcome(&identity, &signed("RS256", "PS256")).await, "bad-signature");
    assert_eq!(outcome(&identity, &signed("PS256", "RS256")).await, "bad-signature");

    // Only what the issuer's list says.
    let (narrow, _) = trusting_with(&format!("{YAML}    algorithms: [ES256]\n"), &[&rsa, &p256]);
    assert_eq!(outcome(&narrow, &p256.token("ES256", &claims())).await, "ok ann");
    assert_eq!(outcome(&narrow, &rsa.token("RS256", &claims())).await, "algorithm-not-allowed");
}

#[tokio::test]
async fn a_public_key_is_no_hmac_secret() {
    let key = Signer::rsa("k1");
    let (identity, _) = trusting(&[&key]);
    let jwk = key.jwk();
    let modulus = URL_SAFE_NO_PAD.decode(jwk["n"].as_str().unwrap()).unwrap();
    for (says, secret) in [("HS256", jwk.to_string().into_bytes()), ("RS256", modulus)] {
        let header = json!({"alg": says, "kid": "k1"}).to_string();
        let body =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims().to_string()));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), body.as_bytes());
        let token = format!("{body}.{}", URL_SAFE_NO_PAD.encode(tag));
        let code = outcome(&identity, &token).await;
        assert!(matches!(&*code, "algorithm-not-allowed" | "bad-signature"), "{says}: {code}");
    }
}

#[tokio::test]
async fn forms_of_tokens() {
    let key = Signer::ed25519("k1");
    let (identity, web) = trusting(&[&key]);
    let header = r#"{"alg":"EdDSA","kid":"k1"}"#;
    let body = claims().to_string();
    let good = key.token_of_text(header, &body);
    let twice = |member: &str| body.replacen('{', &format!("{{{member},"), 1);
    let parts: Vec<&str> = good.split('.').collect();
    let rows = [
        (good.clone(), "ok ann"),
        (key.token_of_text(header, &twice(r#""sub":"root""#)), "malformed-token"),
        (key.token_of_text(header, &twice(r#""\u0073ub":"root""#)), "malformed-token"),
        (key.token_of_text(header, &twice(r#""act":{"sub":"a","sub":"b"}"#)), "malformed-token"),
        (key.token_of_text(r#"{"alg":"EdDSA","alg":"none","kid":"k1"}"#, &body), "malformed-token"),
        (key.token_of_text(header, &format!("{body} ")), "ok ann"),
        (key.token_of_text(header, &format!("{body}x")), "malformed-token"),
        (key.token_of_text(header, "[]"), "malformed-token"),
        (key.token_of_text(header, ""), "malformed-token"),
        (key.token_of_text(header, &"[".repeat(5000)), "malformed-token"),
        (format!("{good}="), "malformed-token"),
        (format!("{good}."), "malformed-token"),
        (format!("{good}.x"), "malformed-token"),
        (format!("{good}.x.y"), "malformed-token"),
        (format!("{}.{}.", parts[0], parts[1]), "malformed-token"),
        (format!("{}.{}", parts[0], parts[1]), "malformed-token"),
        (format!("{}..{}", parts[0], parts[2]), "malformed-token"),
        (format!(" {good}"), "malformed-token"),
        (format!("{good}\n"), "malformed-token"),
        (format!("{}+.{}.{}", parts[0], parts[1], parts[2]), "malformed-token"),
        ("..".to_owned(), "malformed-token"),
        (".".to_owned(), "malformed-token"),
        (String::new(), "opaque-token"),
        ("ya29.a0AfH6SMB".to_owned(), "malformed-token"),
        ("opaque".to_owned(), "opaque-token"),
        ("🦀.🦀.🦀".to_owned(), "malformed-token"),
        ("a".repeat(16 * 1024 + 1), "token-too-large"),
        (key.token("EdDSA", &claims_with(json!({"x": "x".repeat(12 * 1024)}))), "token-too-large"),
        (key.token("EdDSA", &claims_with(json!({"x": "x".repeat(11 * 1024)}))), "ok ann"),
    ];
    for (token, code) in rows {
        assert_eq!(outcome(&identity, &token).await, code, "{}", &token[..token.len().min(60)]);
    }
    assert_eq!(web.count(), 2, "nothing malformed makes the gateway fetch");
}

/// Whatever is done to a token, it is refused, and nothing panics.
#[tokio::test]
async fn no_bit_of_a_token_can_be_changed() {
    let key = Signer::ed25519("k1");
    let (identity, _) = trusting(&[&key]);
    let good = key.token("EdDSA", &claims());
    for at in 0..good.len() {
        for replacement in ["A", "_", ".", "=", "\u{0}", ""] {
            let changed = format!("{}{replacement}{}", &good[..at], &good[at + 1..]);
            if changed != good {
                assert!(show(&identity, &changed).await.is_err(), "{changed}");
            }
        }
        // A part of a token parses or does not; it never panics.
        let _ = token::parse(&good[..at]);
        let _ = token::parse(&good[at..]);
    }
}

#[tokio::test]
async fn plaintext_and_malformed_credentials() {
    let key = Signer::ed25519("k1");
    let (identity, web) = trusting(&[&key]);
    let bearer = Credentials::Bearer(Secret::from(key.token("EdDSA", &claims())));
    let open = Arrival { confidential: false, ..ARRIVAL };
    let api_key = Credentials::Bearer(Secret::from("dw_a_b"));
    let at = |credentials| identity.authenticate(credentials, &open, NOW);
    assert_eq!(word(at(&bearer).await), "plaintext");
    assert_eq!(word(at(&api_key).await), "plaintext");
    assert_eq!(word(at(&Credentials::Malformed("two Authorization headers")).await), "malformed-credentials");
    assert_eq!(word(at(&Credentials::None).await), "ok public");
    // A token that was accepted over TLS a moment ago is not accepted over plaintext either.
    assert_eq!(word(identity.authenticate(&bearer, &ARRIVAL, NOW).await), "ok ann");
    assert_eq!(word(at(&bearer).await), "plaintext");

    let sources = crate::KeySources::new(web);
    let lenient = super::support::identity(&format!("{YAML}dangerous_plaintext_tokens: true\n"), &sources);
    assert_eq!(word(lenient.authenticate(&bearer, &open, NOW).await), "ok ann");
}

/// The caller learns which check failed and what to do, and nothing that the token did not prove; the
/// operator learns what was expected and what came.
#[tokio::test]
async fn texts_for_the_caller_and_for_the_operator() {
    let key = Signer::ed25519("k1");
    let (identity, _) = trusting(&[&key]);
    let mut texts = String::new();
    for changes in [
        json!({"aud": "other\u{1b}[31m"}),
        json!({"iss": "https://evil.example"}),
        json!({"exp": NOW.seconds() - 100}),
        json!({"sub": null}),
    ] {
        let fault = show(&identity, &key.token("EdDSA", &claims_with(changes))).await.unwrap_err();
        texts += &format!("{}\n  {}\n", fault, fault.hint_text().unwrap());
        texts += &format!("  ({})\n", fault.cause_text().unwrap());
    }
    expect![[r#"
        authenticate.wrong-audience: the token was not issued for this gateway
          Request a token with the gateway's audience (the `audience`, `resource` or scope that its operator gave you).
          (aud is "\"other\\u001b[31m\"", expected doorward)
        authenticate.unknown-issuer: the token's issuer is not one that this gateway trusts
          Check that the token comes from the issuer that the gateway's operator named, character by character.
          (no configured issuer has the url "https://evil.example"; the token's iss must equal it to the last character)
        authenticate.token-expired: the token has expired
          Get a fresh access token from your issuer.
          (the token expired at 1799999900, now is 1800000000 (Unix seconds), leeway 30 s)
        authenticate.bad-claim: the token lacks a claim that is required, or has it in a wrong form
          Ask the gateway's operator; the record of this call says more.
          (the claim sub is missing)
    "#]]
    .assert_eq(&texts);
}
