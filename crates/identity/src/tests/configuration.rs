//! What is wrong with a configuration, and where.

use doorward_core::Authenticator;
use expect_test::expect;
use serde_json::json;

use super::support::*;
use crate::config::IdentityConfig;
use crate::{KeySources, Plan};

fn problems(yaml: &str) -> String {
    match try_config(yaml) {
        Err(problems) => format!("{problems}\n"),
        Ok(config) => Plan::check(&config).into_iter().map(|problem| format!("{problem}\n")).collect(),
    }
}

#[test]
fn problems_say_where_and_what() {
    let corp = |lines: &str| format!("issuers:\n  corp:\n{lines}");
    let mut texts = String::new();
    for yaml in [
        YAML.to_owned(),
        corp("    url: https://idp.example\n"),
        corp("    url: https://idp.example\n    audience: []\n"),
        corp("    url: http://idp.example\n    audience: a\n"),
        corp("    url: https://idp.example?x=1\n    audience: a\n"),
        format!("{YAML}    algorithms: [HS256]\n"),
        format!("{YAML}    algorithms: []\n"),
        format!("{YAML}    leeway: 61s\n"),
        format!("{YAML}    kind: public\n"),
        format!("{YAML}    token_type: opaque\n"),
        format!("{YAML}    audiense: a\n"),
        format!("{YAML}    jwks_url: file:///etc/passwd\n"),
        format!("{YAML}  Other:\n    url: https://b.example\n    audience: a\n"),
        format!("{YAML}  api-key:\n    url: https://b.example\n    audience: a\n"),
        format!("{YAML}  other:\n    url: https://idp.example\n    audience: a\n"),
        "certificates: { trust_domains: [Corp], entries: [ { cn: a, dn: b } ] }".to_owned(),
        "certificates: { entries: [ { spiffe: spiffe://corp/a } ] }".to_owned(),
    ] {
        texts += &problems(&yaml);
    }
    expect![[r#"
        doorward.yaml:3:5: issuers.corp: the key "audience" is missing
        doorward.yaml:4:15: issuers.corp.audience: an audience is needed: whom the tokens must be issued for
        doorward.yaml:3:10: issuers.corp.url: the url is http, and only https is safe on another machine (or set dangerous_plaintext: true)
        doorward.yaml:3:10: issuers.corp.url: an issuer's url has no query
        doorward.yaml:5:18: issuers.corp.algorithms[0]: this is none of the words that can stand here; did you mean "RS256"?
        doorward.yaml:5:17: issuers.corp.algorithms: at least one algorithm is needed
        doorward.yaml:5:13: issuers.corp.leeway: the leeway is at most 60s
        doorward.yaml:5:11: issuers.corp.kind: expected user, service, task or agent
        doorward.yaml:5:17: issuers.corp.token_type: this is none of the words that can stand here; known here: access, at+jwt, id
        doorward.yaml:5:5: issuers.corp.audiense: unknown key; did you mean "audience"?
        doorward.yaml:5:15: issuers.corp.jwks_url: the url is not a URL
        doorward.yaml:6:5: issuers.Other: an issuer's name is of lower-case letters, digits and hyphens
        doorward.yaml:6:5: issuers.api-key: the issuer name "api-key" is the gateway's own
        doorward.yaml:6:10: issuers.other.url: another issuer has the same url; give one issuer a list of audiences
        doorward.yaml:1:33: certificates.trust_domains[0]: this is not a trust domain (lower-case, without spiffe://)
        doorward.yaml:1:51: certificates.entries[0]: exactly one of spiffe, dn and cn is needed
        doorward.yaml:1:28: certificates.entries[0]: the trust domain of "spiffe://corp/a" is not in trust_domains
    "#]].assert_eq(&texts);
}

#[test]
fn missing_files_are_problems_at_load() {
    let load = |yaml: &str| Plan::load(&config(yaml)).err().unwrap().to_string();
    let yaml = "api_keys: { file: no-such-file.jsonl }\n";
    assert!(Plan::check(&config(yaml)).is_empty());
    assert!(
        load(yaml).starts_with("doorward.yaml:1:19: api_keys.file: the API key file no-such-file.jsonl: ")
    );
    let asked =
        "introspection: { url: https://idp.example/i, client_id: gw, client_secret: env:DOORWARD_NONE }";
    assert!(load(&format!("{YAML}    {asked}\n")).contains("DOORWARD_NONE is not set"));
}

#[test]
fn opaque_tokens_of_one_issuer_are_not_shown_to_another() {
    let asked = |more: &str| {
        format!(
            "    introspection: {{ url: https://idp.example/i, client_id: gw, client_secret: env:X{more} }}\n"
        )
    };
    let two = |more: &str| {
        let (first, second) = (asked(""), asked(more));
        format!("{YAML}{first}  other:\n    url: https://b.example\n    audience: a\n{second}")
    };
    assert!(problems(&two("")).contains("only one issuer can be asked about opaque tokens"));
    assert_eq!(problems(&two(", tokens: all")), "");
}

#[tokio::test]
async fn a_reload_ends_sessions_that_the_new_configuration_would_not_open() {
    let key = Signer::ed25519("k1");
    let sources = KeySources::new(Web::with_keys(&[&key]));
    let principal = show(&identity(YAML, &sources), &key.token("EdDSA", &claims())).await.unwrap();
    for (yaml, stands) in [
        (YAML.to_owned(), true),
        (format!("{YAML}    groups: roles\n"), true),
        (format!("{YAML}    clients: [cli]\n"), true),
        (format!("{YAML}    clients: [other]\n"), false),
        (YAML.replace("doorward", "other"), false),
        (YAML.replace("idp.example", "new.example"), false),
        (YAML.replace("corp:", "renamed:"), false),
        ("issuers: {}\n".to_owned(), false),
    ] {
        assert_eq!(identity(&yaml, &sources).stands(&principal, NOW).is_ok(), stands, "{yaml}");
    }
    let public = doorward_core::Principal::public();
    assert!(identity("issuers: {}\n", &sources).stands(&public, NOW).is_ok());
}

#[test]
fn the_schema_describes_every_key() {
    let schema = serde_json::to_value(schemars::schema_for!(IdentityConfig)).unwrap();
    let issuer = &schema["$defs"]["IssuerConfig"]["properties"];
    for (name, property) in issuer.as_object().unwrap() {
        assert!(property.get("description").is_some(), "{name}");
    }
    assert_eq!(schema["$defs"]["IssuerConfig"]["required"], json!(["url", "audience"]));
}
