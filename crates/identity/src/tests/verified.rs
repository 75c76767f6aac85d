//! Tokens that were verified before.

use std::time::{Duration, Instant};

use serde_json::json;

use super::support::*;
use crate::keys::sha256;
use crate::verified::{VERIFIED_BYTES_MAX, VerifiedTokens};
use crate::{KeySources, Plan};
use doorward_core::Timestamp;
use doorward_core::hex;

#[tokio::test]
async fn a_cached_token_ends_when_it_expires() {
    let key = Signer::ed25519("k1");
    let (identity, _) = trusting(&[&key]);
    let token = key.token("EdDSA", &claims());
    let first = show(&identity, &token).await.unwrap();
    let again = show(&identity, &token).await.unwrap();
    assert!(std::sync::Arc::ptr_eq(&first, &again));
    assert_eq!(first.expires_at, Some(NOW.plus(Duration::from_secs(630))));
    let last = NOW.plus(Duration::from_millis(629_999));
    assert_eq!(word(show_at(&identity, &token, last).await), "ok ann");
    let over = NOW.plus(Duration::from_secs(630));
    assert_eq!(word(show_at(&identity, &token, over).await), "token-expired");
    // The session of such a token ends at the same moment.
    assert_eq!(first.expires_at, Some(over));
}

#[tokio::test]
async fn the_cache_is_bounded_in_bytes() {
    let key = Signer::ed25519("k1");
    let (identity, _) = trusting(&[&key]);
    let principal =
        show(&identity, &key.token("EdDSA", &claims_with(json!({"x": "x".repeat(8000)})))).await.unwrap();
    let jwk = serde_json::from_value(key.jwk()).unwrap();
    let key = std::sync::Arc::new(crate::keys::Key::from_jwk(&jwk).unwrap());
    let cache = VerifiedTokens::new();
    for index in 0..20_000_u32 {
        cache.keep(sha256(&index.to_be_bytes()), principal.clone(), key.clone());
    }
    assert!(cache.weight() <= VERIFIED_BYTES_MAX);
    assert!(cache.weight() > VERIFIED_BYTES_MAX / 2);
}

/// The measured figure is printed with `--nocapture` in release; here it only must not be absurd.
#[tokio::test]
async fn a_cached_verification_is_cheap() {
    let key = Signer::rsa("k1");
    let (identity, _) = trusting(&[&key]);
    let token = key.token("RS256", &claims());
    show(&identity, &token).await.unwrap();
    let credentials = doorward_core::Credentials::Bearer(doorward_core::Secret::from(token.as_str()));
    let rounds = 20_000;
    let began = Instant::now();
    for _ in 0..rounds {
        doorward_core::Authenticator::authenticate(&identity, &credentials, &ARRIVAL, NOW).await.unwrap();
    }
    let each = began.elapsed() / rounds;
    assert!(each < Duration::from_millis(1), "{each:?} for a token of {} bytes", token.len());
}

/// RFC 7515 A.2 and A.3, RFC 8037 A.4: signatures that others made.
#[test]
fn published_signatures_verify() {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    let rows = [
        (
            "RS256",
            json!({"kty": "RSA", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}),
            "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        ),
        (
            "ES256",
            json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}),
            "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
        (
            "EdDSA",
            json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}),
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
        ),
    ];
    for (alg, jwk, token) in rows {
        let key = crate::keys::Key::from_jwk(&serde_json::from_value(jwk).unwrap()).unwrap();
        let algorithm = crate::config::Algorithm::parse(alg).unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        assert!(key.verifies(algorithm, signed.as_bytes(), &signature), "{alg}");
        assert!(!key.verifies(algorithm, &signed.as_bytes()[1..], &signature), "{alg}");
    }
}

#[tokio::test]
async fn nothing_secret_is_printed() {
    let key = Signer::ed25519("k1");
    let web = Web::with_keys(&[&key]);
    let sources = KeySources::new(web);
    let plan = Plan::load(&config(YAML)).unwrap();
    let printed = format!("{plan:?} {sources:?}");
    let identity = crate::Identity::new(plan, &sources);
    let token = key.token("EdDSA", &claims_with(json!({"aud": "other"})));
    let fault = show_at(&identity, &token, Timestamp::from_seconds(0)).await.unwrap_err();
    let printed = format!("{printed} {identity:?} {fault:?} {fault} {:?}", fault.cause_text());
    for part in token.split('.') {
        assert!(!printed.contains(part));
    }
    assert!(!printed.contains(&hex(&sha256(token.as_bytes()))));
}
