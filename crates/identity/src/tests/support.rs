//! Keys, tokens and an issuer to test with. Everything is signed for real; only the network is not there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use doorward_core::{Arrival, Authenticator, BoxFuture, Credentials, Fault, Principal, Secret, Timestamp};
use doorward_settings::{Document, Problems};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{Fetch, FetchError, FetchRequest, Fetched, Identity, IdentityConfig, KeySources, Plan};

pub(crate) const ISSUER: &str = "https://idp.example";
/// 2027-01-15T08:00:00Z.
pub(crate) const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
pub(crate) const YAML: &str = "issuers:\n  corp:\n    url: https://idp.example\n    audience: doorward\n";

static RSA: LazyLock<Arc<RsaKeyPair>> =
    LazyLock::new(|| Arc::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()));

/// A signing key with its name.
#[derive(Clone)]
pub(crate) struct Signer {
    pub(crate) kid: &'static str,
    pair: Pair,
}

#[derive(Clone)]
enum Pair {
    Rsa(Arc<RsaKeyPair>),
    P256(Arc<EcdsaKeyPair>),
    P384(Arc<EcdsaKeyPair>),
    Ed25519(Arc<Ed25519KeyPair>),
}

impl Signer {
    /// All RSA signers share one key: making one is slow.
    pub(crate) fn rsa(kid: &'static str) -> Self {
        Self { kid, pair: Pair::Rsa(RSA.clone()) }
    }

    pub(crate) fn p256(kid: &'static str) -> Self {
        let pair = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { kid, pair: Pair::P256(Arc::new(pair)) }
    }

    pub(crate) fn p384(kid: &'static str) -> Self {
        let pair = EcdsaKeyPair::generate(&signature::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        Self { kid, pair: Pair::P384(Arc::new(pair)) }
    }

    pub(crate) fn ed25519(kid: &'static str) -> Self {
        Self { kid, pair: Pair::Ed25519(Arc::new(Ed25519KeyPair::generate().unwrap())) }
    }

    pub(crate) fn jwk(&self) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let ec = |crv: &str, pair: &EcdsaKeyPair| {
            let (x, y) = pair.public_key().as_ref()[1..].split_at((pair.public_key().as_ref().len() - 1) / 2);
            json!({"kty": "EC", "kid": self.kid, "use": "sig", "crv": crv, "x": encode(x), "y": encode(y)})
        };
        match &self.pair {
            Pair::Rsa(pair) => {
                // PKCS #1 ends with the modulus of 256 bytes, two bytes of header, and the exponent 65537.
                let der = pair.public_key().as_ref();
                let (n, e) = (&der[der.len() - 261..der.len() - 5], &der[der.len() - 3..]);
                json!({"kty": "RSA", "kid": self.kid, "use": "sig", "n": encode(n), "e": encode(e)})
            }
            Pair::P256(pair) => ec("P-256", pair),
            Pair::P384(pair) => ec("P-384", pair),
            Pair::Ed25519(pair) => {
                let x = encode(pair.public_key().as_ref());
                json!({"kty": "OKP", "kid": self.kid, "use": "sig", "crv": "Ed25519", "x": x})
            }
        }
    }

    /// Signs, whatever the algorithm's name says it is (an RSA key obeys it).
    pub(crate) fn sign(&self, alg: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let padding: &'static dyn signature::RsaEncoding = match alg {
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut signature).unwrap();
                signature
            }
            Pair::P256(pair) | Pair::P384(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// A token with a plain header.
    pub(crate) fn token(&self, alg: &str, claims: &Value) -> String {
        self.token_with(&json!({"alg": alg, "kid": self.kid, "typ": "at+jwt"}), claims)
    }

    pub(crate) fn token_with(&self, header: &Value, claims: &Value) -> String {
        self.token_of_text(&header.to_string(), &claims.to_string())
    }

    pub(crate) fn token_of_text(&self, header: &str, claims: &str) -> String {
        let alg = serde_json::from_str::<Value>(header).ok();
        let alg = alg.as_ref().and_then(|header| header["alg"].as_str()).unwrap_or("RS256").to_owned();
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.sign(&alg, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// Claims that are accepted.
pub(crate) fn claims() -> Value {
    let now = NOW.seconds();
    json!({
        "iss": ISSUER, "aud": "doorward", "sub": "ann", "iat": now - 60, "exp": now + 600,
        "client_id": "cli", "jti": "t-1", "groups": ["analysts"], "email": "ann@corp.example",
    })
}

/// The same with some of them changed; `null` takes one away.
pub(crate) fn claims_with(changes: Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    claims
}

/// The network: answers by URL, and a count of what was asked.
#[derive(Default)]
pub(crate) struct Web {
    pages: Mutex<HashMap<String, Fetched>>,
    requests: Mutex<Vec<FetchRequest>>,
    count: AtomicUsize,
    delay: Mutex<Duration>,
}

impl Web {
    /// An issuer with metadata and these keys.
    pub(crate) fn with_keys(keys: &[&Signer]) -> Arc<Self> {
        let web = Arc::new(Self::default());
        web.put(
            &format!("{ISSUER}/.well-known/openid-configuration"),
            &json!({"issuer": ISSUER, "jwks_uri": format!("{ISSUER}/jwks")}),
        );
        web.publish(keys);
        web
    }

    pub(crate) fn publish(&self, keys: &[&Signer]) {
        let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
        self.put(&format!("{ISSUER}/jwks"), &json!({ "keys": keys }));
    }

    pub(crate) fn put(&self, url: &str, body: &Value) {
        self.put_page(url, 200, "application/json", &body.to_string());
    }

    pub(crate) fn put_page(&self, url: &str, status: u16, content_type: &str, body: &str) {
        let page = Fetched {
            status,
            content_type: Some(content_type.into()),
            cache_control: None,
            body: Bytes::copy_from_slice(body.as_bytes()),
        };
        self.pages.lock().insert(url.to_owned(), page);
    }

    pub(crate) fn cache_control(&self, url: &str, value: &str) {
        self.pages.lock().get_mut(url).unwrap().cache_control = Some(value.into());
    }

    pub(crate) fn take_down(&self) {
        self.pages.lock().clear();
    }

    pub(crate) fn slow_down(&self, delay: Duration) {
        *self.delay.lock() = delay;
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// The last request of which the URL has this in it.
    pub(crate) fn asked(&self, part: &str) -> Option<FetchRequest> {
        self.requests.lock().iter().rfind(|request| request.url.contains(part)).cloned()
    }
}

impl Fetch for Web {
    fn fetch(&self, request: FetchRequest) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        self.count.fetch_add(1, Ordering::SeqCst);
        let page = self.pages.lock().get(&*request.url).cloned();
        self.requests.lock().push(request);
        let delay = *self.delay.lock();
        Box::pin(async move {
            tokio::time::sleep(delay).await;
            page.ok_or_else(|| FetchError("connection refused".to_owned()))
        })
    }
}

pub(crate) fn config(yaml: &str) -> IdentityConfig {
    try_config(yaml).unwrap()
}

pub(crate) fn try_config(yaml: &str) -> Result<IdentityConfig, Problems> {
    Ok(Document::parse("doorward.yaml", yaml)?.root().deserialize()?)
}

pub(crate) fn identity(yaml: &str, sources: &KeySources) -> Identity {
    Identity::new(Plan::load(&config(yaml)).unwrap(), sources)
}

/// Identity that trusts one issuer with these keys.
pub(crate) fn trusting(keys: &[&Signer]) -> (Identity, Arc<Web>) {
    trusting_with(YAML, keys)
}

pub(crate) fn trusting_with(yaml: &str, keys: &[&Signer]) -> (Identity, Arc<Web>) {
    let web = Web::with_keys(keys);
    let sources = KeySources::new(web.clone());
    (identity(yaml, &sources), web)
}

pub(crate) const ARRIVAL: Arrival = Arrival { door: "rest", source_ip: None, confidential: true };

pub(crate) async fn show(identity: &Identity, token: &str) -> Result<Arc<Principal>, Fault> {
    show_at(identity, token, NOW).await
}

pub(crate) async fn show_at(
    identity: &Identity,
    token: &str,
    now: Timestamp,
) -> Result<Arc<Principal>, Fault> {
    identity.authenticate(&Credentials::Bearer(Secret::from(token)), &ARRIVAL, now).await
}

/// The outcome as one word: the subject, or the fault's code.
pub(crate) async fn outcome(identity: &Identity, token: &str) -> String {
    word(show(identity, token).await)
}

pub(crate) fn word(outcome: Result<Arc<Principal>, Fault>) -> String {
    match outcome {
        Ok(principal) => format!("ok {}", principal.subject.reveal()),
        Err(fault) => fault.code().name.strip_prefix("authenticate.").unwrap().to_owned(),
    }
}
