//! Minted logins, from the token to the session that one opens.

use std::sync::Arc;
use std::time::Duration;

use doorward_core::{
    AuthMethod, Authenticator, Credentials, LoginWish, MintedProof, NewLogin, Principal, ResourceName,
    RoleName, Timestamp,
};
use serde_json::json;

use super::support::*;
use crate::{Identity, KeySources, LOGIN_BYTES_MAX, Plan, new_login_key};

const TTL: Duration = Duration::from_secs(900);

/// Identity that mints under the first of these keys, and takes logins of the others.
fn minting(yaml: &str, keys: &[&str], signer: &Signer) -> Identity {
    let folder = std::env::temp_dir().join(format!("doorward-logins-{}", uuid()));
    std::fs::create_dir(&folder).unwrap();
    let mut references = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        let file = folder.join(index.to_string());
        std::fs::write(&file, key).unwrap();
        references.push(format!("\"file:{}\"", file.display()));
    }
    let (key, old) = references.split_first().unwrap();
    let yaml = format!("{yaml}minted_logins:\n  key: {key}\n  old_keys: [{}]\n", old.join(", "));
    let plan = Plan::load(&config(&yaml)).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    Identity::new(plan, &KeySources::new(Web::with_keys(&[signer])))
}

fn uuid() -> String {
    new_login_key().unwrap().expose().chars().filter(char::is_ascii_alphanumeric).take(20).collect()
}

fn key() -> String {
    new_login_key().unwrap().expose().to_string()
}

async fn mint(identity: &Identity, token: &str, wish: &LoginWish) -> (Arc<Principal>, NewLogin) {
    let principal = show(identity, token).await.unwrap();
    let login = identity.mint(&principal, wish, NOW).unwrap();
    (principal, login)
}

async fn enter(identity: &Identity, user: &str, proven: bool, now: Timestamp) -> String {
    word(proof(identity, user, proven, now).await)
}

async fn proof(
    identity: &Identity,
    user: &str,
    proven: bool,
    now: Timestamp,
) -> Result<Arc<Principal>, doorward_core::Fault> {
    let credentials = Credentials::Minted(MintedProof { user: user.into(), proven });
    let plain = doorward_core::Arrival { confidential: false, ..ARRIVAL };
    identity.authenticate(&credentials, &plain, now).await
}

#[tokio::test]
async fn a_login_is_who_its_token_is() {
    let signer = Signer::p256("k");
    let identity = minting(YAML, &[&key()], &signer);
    let claims =
        claims_with(json!({"team": "étoile", "n": 1.5, "act": {"sub": "bot"}, "exp": NOW.seconds() + 7200}));
    let wish = LoginWish { resource: Some(ResourceName::new("shop")), role: Some(RoleName::new("analyst")) };
    let (principal, login) = mint(&identity, &signer.token("ES256", &claims), &wish).await;
    assert_eq!(login.expires_at, NOW.plus(TTL));
    assert!(!format!("{login:?}").contains(&*login.password.expose().clone()), "the password is not printed");

    let minted = identity.minted(&login.user).unwrap();
    assert_eq!((&minted.password, &minted.wish), (&login.password, &wish));
    let holder = proof(&identity, &login.user, true, NOW).await.unwrap();
    let same = Principal { auth_method: AuthMethod::Scram, ..Principal::clone(&principal) };
    assert!(*holder == same, "the same person with the same claims, for as long");
    assert_eq!(holder.expires_at, principal.expires_at);
    assert!(identity.stands(&holder, NOW).is_ok());

    let end = NOW.plus(TTL);
    for (proven, now, expected) in
        [(true, NOW, "ok ann"), (false, NOW, "wrong-password"), (true, end, "login-expired")]
    {
        assert_eq!(enter(&identity, &login.user, proven, now).await, expected);
    }
    assert!(!login.user.contains("ann"), "the user name tells nobody who it is for");
}

#[tokio::test]
async fn names_that_were_not_minted_look_the_same_and_open_nothing() {
    let signer = Signer::p256("k");
    let identity = minting(YAML, &[&key()], &signer);
    let (_, login) = mint(&identity, &signer.token("ES256", &claims()), &LoginWish::default()).await;
    let cut = &login.user[..login.user.len() - 1];
    let changed = format!("{}{}", cut, if login.user.ends_with('A') { 'B' } else { 'A' });
    let mut passwords = vec![login.password];
    for user in [cut, &changed, "dw1.AAAAAA.AAAA", "dw1.AAAAAA."] {
        let minted = identity.minted(user).unwrap();
        let again = identity.minted(user).unwrap();
        assert_eq!((&minted.password, minted.salt), (&again.password, again.salt), "{user}");
        assert!(!passwords.contains(&minted.password));
        passwords.push(minted.password);
        assert_eq!(enter(&identity, user, true, NOW).await, "wrong-password");
    }
    let long = format!("dw1.AAAAAA.{}", "A".repeat(LOGIN_BYTES_MAX));
    for user in ["", "analyst", "dw1.", "dw1.x.y", "dw1.AAAAAA.a b", "dw2.AAAAAA.AAAA", &long] {
        assert!(identity.minted(user).is_none(), "{user} is not of the form");
    }
}

#[tokio::test]
async fn keys_rotate_and_gateways_share_them() {
    let signer = Signer::p256("k");
    let (old, new) = (key(), key());
    let before = minting(YAML, &[&old], &signer);
    let (_, login) = mint(&before, &signer.token("ES256", &claims()), &LoginWish::default()).await;
    let elsewhere = minting(YAML, &[&old], &signer);
    assert_eq!(elsewhere.minted(&login.user).unwrap().password, login.password);
    assert_eq!(enter(&elsewhere, &login.user, true, NOW).await, "ok ann");
    let during = minting(YAML, &[&new, &old], &signer);
    assert_eq!(during.minted(&login.user).unwrap().password, login.password);
    assert_eq!(enter(&during, &login.user, true, NOW).await, "ok ann");
    let after = minting(YAML, &[&new], &signer);
    assert_ne!(after.minted(&login.user).unwrap().password, login.password);
    assert_eq!(enter(&after, &login.user, true, NOW).await, "wrong-password");
}

#[tokio::test]
async fn todays_rules_decide() {
    let signer = Signer::p256("k");
    let key = key();
    let identity = minting(YAML, &[&key], &signer);
    let (_, login) = mint(&identity, &signer.token("ES256", &claims()), &LoginWish::default()).await;
    for (yaml, expected) in [
        (YAML.replace("audience: doorward", "audience: other"), "no-longer-accepted"),
        (YAML.replace("corp:", "other:"), "no-longer-accepted"),
        (format!("{YAML}    clients: [web]\n"), "no-longer-accepted"),
        (format!("{YAML}    groups: team\n"), "ok ann"),
    ] {
        let today = minting(&yaml, &[&key], &signer);
        let entered = proof(&today, &login.user, true, NOW).await;
        if let Ok(principal) = &entered {
            assert!(principal.groups.is_empty(), "groups are where the configuration says today");
        }
        assert_eq!(word(entered), expected, "{yaml}");
    }
}

#[tokio::test]
async fn what_cannot_be_minted_is_refused() {
    let signer = Signer::p256("k");
    let identity = minting(YAML, &[&key()], &signer);
    let random: String = (0..400).map(|_| uuid()).collect();
    let large =
        show(&identity, &signer.token("ES256", &claims_with(json!({ "blob": random })))).await.unwrap();
    let fault = identity.mint(&large, &LoginWish::default(), NOW).unwrap_err();
    assert_eq!(fault.code().name, "authenticate.not-mintable");
    assert!(fault.public().contains("too many claims"), "{fault}");
    let nobody = Principal::public();
    assert!(identity.mint(&nobody, &LoginWish::default(), NOW).is_err());
    let (without, _) = trusting(&[&signer]);
    let principal = show(&without, &signer.token("ES256", &claims())).await.unwrap();
    let fault = without.mint(&principal, &LoginWish::default(), NOW).unwrap_err();
    assert_eq!(fault.code().name, "authenticate.no-logins");
    assert!(without.minted("dw1.AAAAAA.AAAA").is_none());
}

#[test]
fn configurations_that_cannot_be() {
    for (yaml, wanted) in [
        ("minted_logins: { ttl: 13h }", "1s to 12h"),
        ("minted_logins: { ttl: 0s }", "1s to 12h"),
        ("minted_logins: { key: \"env:PATH\" }", "32 random bytes"),
        ("minted_logins: { key: \"literal\" }", "reference to a secret"),
    ] {
        let problems = try_config(yaml).and_then(|config| Plan::load(&config)).unwrap_err().to_string();
        assert!(problems.contains(wanted), "{yaml}: {problems}");
    }
}
