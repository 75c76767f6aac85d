//! Tokens as issuers really send them, and whom we take their holders for.

use std::fmt::Write;

use doorward_core::{Authenticator, Principal};
use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::support::*;

fn described(principal: &Principal) -> String {
    let mut text =
        format!("{} {} {}\n", principal.issuer, principal.kind.as_str(), principal.subject.reveal());
    let email = principal.email.as_ref().map(|email| email.reveal().to_string());
    writeln!(text, "email {email:?} groups {:?}", principal.groups).unwrap();
    writeln!(text, "client {:?} credential {:?}", principal.client_id, principal.credential_id).unwrap();
    text
}

/// `yaml` is what stands below the issuer's `url`; the token's `iss` is put in its place.
async fn check(yaml: &str, header: Value, token: Value, expected: Expect) {
    let key = Signer::rsa("k1");
    let yaml = format!("issuers:\n  corp:\n    url: {ISSUER}\n{yaml}");
    let (identity, _) = trusting_with(&yaml, &[&key]);
    let mut token = token;
    token["iss"] = json!(ISSUER);
    token["iat"] = json!(NOW.seconds() - 300);
    token["exp"] = json!(NOW.seconds() + 3600);
    let mut header = header;
    header["alg"] = json!("RS256");
    header["kid"] = json!("k1");
    let text = match show(&identity, &key.token_with(&header, &token)).await {
        Ok(principal) => {
            assert_eq!(serde_json::from_str::<Value>(&principal.claims_json).unwrap(), token);
            assert!(identity.stands(&principal, NOW).is_ok());
            described(&principal)
        }
        Err(fault) => format!("{}\n", fault.code().name),
    };
    expected.assert_eq(&text);
}

#[tokio::test]
async fn okta() {
    let claims = json!({
        "ver": 1, "jti": "AT.0mP4JKAZX1iACIT4vbEDF7LpvDVjxypPMf0D7uX39RE", "aud": "api://default",
        "cid": "0oa8o4xcpnjTUbQYb0h7", "uid": "00u1", "scp": ["openid", "doorward"], "auth_time": 1_799_999_000,
        "sub": "ann@corp.example", "groups": ["analysts", "Everyone"],
    });
    let yaml = "    audience: api://default\n";
    check(
        yaml,
        json!({}),
        claims.clone(),
        expect![[r#"
        corp user ann@corp.example
        email None groups ["analysts", "Everyone"]
        client Some("0oa8o4xcpnjTUbQYb0h7") credential Some("AT.0mP4JKAZX1iACIT4vbEDF7LpvDVjxypPMf0D7uX39RE")
    "#]],
    )
    .await;
    // Of a client's own token, `sub` is the client.
    let mut own = claims;
    own["sub"] = own["cid"].clone();
    own.as_object_mut().unwrap().remove("groups");
    check(
        yaml,
        json!({"typ": "application/okta-internal-at+jwt"}),
        own.clone(),
        expect![[r#"
        authenticate.wrong-token-type
    "#]],
    )
    .await;
    check(
        yaml,
        json!({}),
        own,
        expect![[r#"
        corp service 0oa8o4xcpnjTUbQYb0h7
        email None groups []
        client Some("0oa8o4xcpnjTUbQYb0h7") credential Some("AT.0mP4JKAZX1iACIT4vbEDF7LpvDVjxypPMf0D7uX39RE")
    "#]],
    )
    .await;
}

#[tokio::test]
async fn entra_id_v2() {
    let claims = json!({
        "aud": "6e74172b-be56-4843-9ff4-e66a39bb12e3", "aio": "AXQA", "azp": "04f0c124", "azpacr": "0",
        "name": "Ann", "oid": "690222be", "preferred_username": "ann@corp.example", "rh": "I",
        "roles": ["Analyst"], "scp": "access_as_user", "sub": "HKZpfaHyWadeOouYlitjrI", "tid": "72f988bf",
        "uti": "fqiBqXLPj0eQa82S", "ver": "2.0", "nbf": NOW.seconds() - 300,
    });
    let yaml = "    audience: 6e74172b-be56-4843-9ff4-e66a39bb12e3\n    groups: roles\n    email: preferred_username\n";
    check(
        yaml,
        json!({"typ": "JWT", "x5t": "x"}),
        claims.clone(),
        expect![[r#"
        corp user HKZpfaHyWadeOouYlitjrI
        email Some("ann@corp.example") groups ["Analyst"]
        client Some("04f0c124") credential Some("fqiBqXLPj0eQa82S")
    "#]],
    )
    .await;
    let mut app = claims.clone();
    app["idtyp"] = json!("app");
    app.as_object_mut().unwrap().remove("preferred_username");
    check(
        yaml,
        json!({"typ": "JWT"}),
        app,
        expect![[r#"
        corp service HKZpfaHyWadeOouYlitjrI
        email None groups ["Analyst"]
        client Some("04f0c124") credential Some("fqiBqXLPj0eQa82S")
    "#]],
    )
    .await;
    let mut overage = claims;
    overage["_claim_names"] = json!({"groups": "src1"});
    overage["_claim_sources"] = json!({"src1": {"endpoint": "https://graph.example/users/690222be"}});
    let by_groups = "    audience: 6e74172b-be56-4843-9ff4-e66a39bb12e3\n";
    check(
        by_groups,
        json!({"typ": "JWT"}),
        overage.clone(),
        expect![[r#"
        authenticate.groups-overage
    "#]],
    )
    .await;
    check(
        yaml,
        json!({"typ": "JWT"}),
        overage,
        expect![[r#"
        corp user HKZpfaHyWadeOouYlitjrI
        email Some("ann@corp.example") groups ["Analyst"]
        client Some("04f0c124") credential Some("fqiBqXLPj0eQa82S")
    "#]],
    )
    .await;
}

#[tokio::test]
async fn auth0() {
    let yaml = "    audience: https://doorward.example/\n    groups: https://corp.example/groups\n";
    let user = json!({
        "sub": "auth0|65f1", "aud": ["https://doorward.example/", "https://corp.auth0.example/userinfo"],
        "scope": "openid profile", "azp": "my_client", "https://corp.example/groups": ["analysts"],
    });
    check(
        yaml,
        json!({"typ": "JWT"}),
        user,
        expect![[r#"
        corp user auth0|65f1
        email None groups ["analysts"]
        client Some("my_client") credential None
    "#]],
    )
    .await;
    let machine = json!({
        "sub": "my_client@clients", "aud": "https://doorward.example/", "gty": "client-credentials", "azp": "my_client",
    });
    check(
        yaml,
        json!({"typ": "at+jwt"}),
        machine,
        expect![[r#"
        corp service my_client@clients
        email None groups []
        client Some("my_client") credential None
    "#]],
    )
    .await;
}

#[tokio::test]
async fn keycloak() {
    let claims = json!({
        "jti": "onrtac:6a1b", "aud": ["doorward", "account"], "sub": "f2d0", "typ": "Bearer", "azp": "cli",
        "sid": "s", "acr": "1", "allowed-origins": ["*"], "realm_access": {"roles": ["analyst", "offline_access"]},
        "resource_access": {"account": {"roles": ["view-profile"]}}, "scope": "email profile",
        "email_verified": true, "preferred_username": "ann", "email": "ann@corp.example", "nonce": "old Keycloak",
    });
    let yaml = "    audience: doorward\n    groups: realm_access.roles\n";
    check(
        yaml,
        json!({"typ": "JWT"}),
        claims.clone(),
        expect![[r#"
        corp user f2d0
        email Some("ann@corp.example") groups ["analyst", "offline_access"]
        client Some("cli") credential Some("onrtac:6a1b")
    "#]],
    )
    .await;
    let mut unverified = claims.clone();
    unverified["email_verified"] = json!(false);
    let pointer = "    audience: doorward\n    groups: /resource_access/account/roles\n";
    check(
        pointer,
        json!({"typ": "JWT"}),
        unverified,
        expect![[r#"
        corp user f2d0
        email None groups ["view-profile"]
        client Some("cli") credential Some("onrtac:6a1b")
    "#]],
    )
    .await;
    let mut id = claims;
    id["typ"] = json!("ID");
    check(
        yaml,
        json!({"typ": "JWT"}),
        id,
        expect![[r#"
        authenticate.id-token
    "#]],
    )
    .await;
}

#[tokio::test]
async fn google() {
    let claims = json!({
        "aud": "https://doorward.example", "azp": "1080", "email": "loader@corp.iam.example",
        "email_verified": true, "sub": "1080",
    });
    let yaml = "    audience: https://doorward.example\n    token_type: id\n";
    check(
        yaml,
        json!({"typ": "JWT"}),
        claims,
        expect![[r#"
        corp service 1080
        email Some("loader@corp.iam.example") groups []
        client Some("1080") credential None
    "#]],
    )
    .await;
}

#[tokio::test]
async fn cognito_has_no_audience() {
    let claims = json!({
        "sub": "aaaa", "cognito:groups": ["analysts"], "token_use": "access", "scope": "openid",
        "client_id": "1example23456789", "username": "ann", "jti": "j", "email": "a@b", "email_verified": "false",
    });
    let yaml = "    audience: 1example23456789\n    audience_claim: client_id\n    groups: cognito:groups\n";
    check(
        yaml,
        json!({}),
        claims.clone(),
        expect![[r#"
        corp user aaaa
        email None groups ["analysts"]
        client Some("1example23456789") credential Some("j")
    "#]],
    )
    .await;
    check(
        "    audience: 1example23456789\n",
        json!({}),
        claims,
        expect![[r#"
        authenticate.wrong-audience
    "#]],
    )
    .await;
}

#[tokio::test]
async fn kinds_and_clients_as_configured() {
    let claims = json!({"aud": "d", "sub": "s", "client_id": "airflow", "role": {"of": "job"}});
    let by_claim =
        "    audience: d\n    kind: { claim: role.of, values: { job: task, bot: agent }, default: user }\n";
    for (yaml, of, word) in [
        ("    audience: d\n    kind: agent\n", "job", "agent"),
        (by_claim, "job", "task"),
        (by_claim, "bot", "agent"),
        (by_claim, "public", "user"),
        ("    audience: d\n    clients: [airflow]\n", "job", "user"),
        ("    audience: d\n    clients: [dagster]\n", "job", "wrong-client"),
    ] {
        let key = Signer::ed25519("k1");
        let (identity, _) = trusting_with(&format!("issuers:\n  corp:\n    url: {ISSUER}\n{yaml}"), &[&key]);
        let mut changes = claims.clone();
        changes["role"]["of"] = json!(of);
        let token = key.token("EdDSA", &claims_with(changes));
        let got = match show(&identity, &token).await {
            Ok(principal) => principal.kind.as_str().to_owned(),
            Err(fault) => word_of(&fault),
        };
        assert_eq!(got, word, "{yaml}");
    }
}

fn word_of(fault: &doorward_core::Fault) -> String {
    fault.code().name.trim_start_matches("authenticate.").to_owned()
}

/// Two issuers: each has its own keys, audience and subjects.
#[tokio::test]
async fn issuers_do_not_vouch_for_each_other() {
    let (a, b) = (Signer::ed25519("same-kid"), Signer::ed25519("same-kid"));
    let web = Web::with_keys(&[&a]);
    web.put(
        "https://b.example/.well-known/openid-configuration",
        &json!({"issuer": "https://b.example", "jwks_uri": "https://b.example/jwks"}),
    );
    web.put("https://b.example/jwks", &json!({"keys": [b.jwk()]}));
    let yaml = format!("{YAML}  partner:\n    url: https://b.example\n    audience: [doorward-b]\n");
    let identity = identity(&yaml, &crate::KeySources::new(web));
    let of_b = json!({"iss": "https://b.example", "aud": "doorward-b"});
    for (key, changes, expected) in [
        (&a, json!({}), "ok ann"),
        (&b, of_b.clone(), "ok ann"),
        (&a, of_b, "bad-signature"),
        (&b, json!({}), "bad-signature"),
        (&b, json!({"iss": "https://b.example"}), "wrong-audience"),
    ] {
        assert_eq!(
            outcome(&identity, &key.token("EdDSA", &claims_with(changes.clone()))).await,
            expected,
            "{changes}"
        );
    }
    let principal = show(
        &identity,
        &b.token("EdDSA", &claims_with(json!({"iss": "https://b.example", "aud": "doorward-b"}))),
    )
    .await;
    assert_eq!(principal.unwrap().issuer.as_str(), "partner");
}
