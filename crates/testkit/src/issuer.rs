//! A small real OpenID Connect issuer on loopback: discovery, keys, introspection, and a mint for tokens
//! that are right, wrong or forged. It signs with aws-lc by itself, so that a test of the gateway's JWT
//! library is not a test of that library against itself.
//!
//! It runs on a thread and a runtime of its own, so that blocking tests do not stall it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// The audience that tokens have unless a test says otherwise.
pub const AUDIENCE: &str = "doorward";
/// How long tokens live unless a test says otherwise.
pub const LIFETIME_SECONDS: i64 = 600;
/// Introspection requests are small.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// A signature algorithm of RFC 7518 or RFC 8037.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Alg {
    Es256,
    Es384,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    EdDsa,
}

impl Alg {
    /// The name in headers and key sets.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::EdDsa => "EdDSA",
        }
    }
}

enum Private {
    Ec(EcdsaKeyPair),
    Rsa(RsaKeyPair),
    Ed(Ed25519KeyPair),
}

/// A signing key with its public form.
pub struct Key {
    alg: Alg,
    kid: String,
    private: Private,
    public: Value,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl Key {
    /// A fresh key for one algorithm.
    ///
    /// # Errors
    /// When the library cannot make one.
    pub fn generate(alg: Alg, kid: impl Into<String>) -> Result<Self> {
        let kid = kid.into();
        let failed = |_| anyhow!("cannot make a {} key", alg.name());
        let (private, mut public) = match alg {
            Alg::Es256 | Alg::Es384 => {
                let (curve, name) = match alg {
                    Alg::Es256 => (&signature::ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"),
                    _ => (&signature::ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"),
                };
                let pair = EcdsaKeyPair::generate(curve).map_err(failed)?;
                // An uncompressed point: 4, x, y.
                let point = pair.public_key().as_ref().get(1..).unwrap_or_default();
                let (x, y) = point.split_at(point.len() / 2);
                let public = json!({"kty": "EC", "crv": name, "x": encode(x), "y": encode(y)});
                (Private::Ec(pair), public)
            }
            Alg::Rs256 | Alg::Rs384 | Alg::Rs512 | Alg::Ps256 => {
                let pair = RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).map_err(failed)?;
                let modulus = rsa_modulus(pair.public_key().as_ref())?;
                let public = json!({"kty": "RSA", "n": encode(modulus), "e": "AQAB"});
                (Private::Rsa(pair), public)
            }
            Alg::EdDsa => {
                let pair = Ed25519KeyPair::generate().map_err(failed)?;
                let public = json!({"kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref())});
                (Private::Ed(pair), public)
            }
        };
        if let Some(public) = public.as_object_mut() {
            public.insert("kid".into(), kid.clone().into());
            public.insert("alg".into(), alg.name().into());
            public.insert("use".into(), "sig".into());
        }
        Ok(Self { alg, kid, private, public })
    }

    /// The public key as a JWK.
    pub fn jwk(&self) -> &Value {
        &self.public
    }

    /// The key's id.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// A JWS signature over `message`.
    ///
    /// # Errors
    /// When the library cannot sign.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let random = SystemRandom::new();
        let failed = |_| anyhow!("cannot sign");
        match &self.private {
            Private::Ec(pair) => Ok(pair.sign(&random, message).map_err(failed)?.as_ref().to_vec()),
            Private::Ed(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Private::Rsa(pair) => {
                let padding: &dyn signature::RsaEncoding = match self.alg {
                    Alg::Rs384 => &signature::RSA_PKCS1_SHA384,
                    Alg::Rs512 => &signature::RSA_PKCS1_SHA512,
                    Alg::Ps256 => &signature::RSA_PSS_SHA256,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut out = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut out).map_err(failed)?;
                Ok(out)
            }
        }
    }
}

/// The modulus in the DER form of a 2048-bit RSA public key with the exponent 65537.
fn rsa_modulus(der: &[u8]) -> Result<&[u8]> {
    const HEAD: [u8; 9] = [0x30, 0x82, 0x01, 0x0a, 0x02, 0x82, 0x01, 0x01, 0x00];
    let rest = der.strip_prefix(&HEAD).context("an RSA key of an unknown form")?;
    rest.get(..256).context("a short RSA key")
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// How often each endpoint was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetches {
    /// Discovery documents.
    pub discovery: u64,
    /// Key sets.
    pub jwks: u64,
    /// Introspections.
    pub introspection: u64,
}

/// What the issuer answers instead of what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misbehaviour {
    /// This status, with an empty body.
    Status(u16),
    /// This body, with status 200.
    Body(String),
    /// Nothing, for this long.
    Stall(Duration),
}

#[derive(Debug, Default)]
struct Counts {
    discovery: AtomicU64,
    jwks: AtomicU64,
    introspection: AtomicU64,
}

#[derive(Debug)]
struct State {
    url: String,
    keys: Mutex<Vec<Arc<Key>>>,
    /// Keys that sign but are not published.
    hidden: Mutex<Vec<String>>,
    opaque: Mutex<HashMap<String, Value>>,
    misbehaviour: Mutex<HashMap<&'static str, Misbehaviour>>,
    counts: Counts,
    serial: AtomicU64,
}

#[derive(Debug)]
struct Server {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// The path of the key set.
const JWKS: &str = "/jwks";
/// The path of the discovery document.
const DISCOVERY: &str = "/.well-known/openid-configuration";
/// The path of introspection.
const INTROSPECTION: &str = "/introspect";

/// The client that may introspect, for the gateway's configuration.
pub const INTROSPECTION_CLIENT: (&str, &str) = ("gateway", "introspection-secret-of-the-gateway");

/// A running issuer. Dropped, it stops.
#[derive(Debug)]
pub struct Issuer {
    state: Arc<State>,
    address: SocketAddr,
    server: Option<Server>,
}

impl Issuer {
    /// Starts an issuer with an ES256, an RS256 and an EdDSA key.
    ///
    /// # Errors
    /// When no port can be bound.
    pub fn start() -> Result<Self> {
        Self::start_with(&[Alg::Es256, Alg::Rs256, Alg::EdDsa])
    }

    /// Starts an issuer with a key for each algorithm; the first one signs unless a test says otherwise.
    ///
    /// # Errors
    /// When no port can be bound.
    pub fn start_with(algs: &[Alg]) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, crate::free_port()?));
        let state = Arc::new(State {
            url: format!("http://{address}"),
            keys: Mutex::default(),
            hidden: Mutex::default(),
            opaque: Mutex::default(),
            misbehaviour: Mutex::default(),
            counts: Counts::default(),
            serial: AtomicU64::new(0),
        });
        let mut issuer = Self { state, address, server: None };
        for alg in algs {
            issuer.add_key(*alg)?;
        }
        issuer.restart()?;
        Ok(issuer)
    }

    /// The issuer's identifier: `iss`, and where discovery starts.
    pub fn url(&self) -> &str {
        &self.state.url
    }

    /// Where its keys are.
    pub fn jwks_url(&self) -> String {
        format!("{}{JWKS}", self.url())
    }

    /// Where opaque tokens are asked about.
    pub fn introspection_url(&self) -> String {
        format!("{}{INTROSPECTION}", self.url())
    }

    /// How often it has been asked.
    pub fn fetches(&self) -> Fetches {
        let counts = &self.state.counts;
        Fetches {
            discovery: counts.discovery.load(Ordering::SeqCst),
            jwks: counts.jwks.load(Ordering::SeqCst),
            introspection: counts.introspection.load(Ordering::SeqCst),
        }
    }

    /// Publishes one more key; it signs from now on when it is the only one of its algorithm.
    ///
    /// # Errors
    /// When the library cannot make one.
    pub fn add_key(&self, alg: Alg) -> Result<Arc<Key>> {
        let number = self.state.serial.fetch_add(1, Ordering::SeqCst);
        let key = Arc::new(Key::generate(alg, format!("{}-{number}", alg.name().to_lowercase()))?);
        self.state.keys.lock().push(key.clone());
        Ok(key)
    }

    /// Replaces the keys of one algorithm: the old ones are gone from the key set at once.
    ///
    /// # Errors
    /// When the library cannot make one.
    pub fn rotate(&self, alg: Alg) -> Result<Arc<Key>> {
        self.state.keys.lock().retain(|key| key.alg != alg);
        self.add_key(alg)
    }

    /// The key that signs with an algorithm.
    ///
    /// # Errors
    /// When there is none.
    pub fn key(&self, alg: Alg) -> Result<Arc<Key>> {
        let keys = self.state.keys.lock();
        keys.iter().find(|key| key.alg == alg).cloned().with_context(|| format!("no {} key", alg.name()))
    }

    /// Leaves a key out of the published set, though it goes on signing.
    pub fn hide(&self, kid: &str) {
        self.state.hidden.lock().push(kid.to_owned());
    }

    /// Makes the key set misbehave; `None` mends it.
    pub fn misbehave_jwks(&self, how: Option<Misbehaviour>) {
        self.misbehave(JWKS, how);
    }

    /// Makes discovery misbehave; `None` mends it.
    pub fn misbehave_discovery(&self, how: Option<Misbehaviour>) {
        self.misbehave(DISCOVERY, how);
    }

    /// Makes introspection misbehave; `None` mends it.
    pub fn misbehave_introspection(&self, how: Option<Misbehaviour>) {
        self.misbehave(INTROSPECTION, how);
    }

    fn misbehave(&self, path: &'static str, how: Option<Misbehaviour>) {
        let mut all = self.state.misbehaviour.lock();
        match how {
            Some(how) => all.insert(path, how),
            None => all.remove(path),
        };
    }

    /// Begins a token: an access token for [`AUDIENCE`], signed by the first key.
    pub fn token(&self, subject: &str) -> Token {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let jti = format!("jti-{}", self.state.serial.fetch_add(1, Ordering::SeqCst));
        let claims = json!({
            "iss": self.url(), "sub": subject, "aud": AUDIENCE, "client_id": "test-client", "jti": jti,
            "iat": now, "exp": now.saturating_add(LIFETIME_SECONDS),
        });
        let key = self.state.keys.lock().first().cloned();
        let mut header = Map::new();
        header.insert("typ".into(), "at+jwt".into());
        Token { keys: self.state.clone(), key, now, header, claims, payload: None }
    }

    /// An opaque token with what introspection says of it, for instance
    /// `{"active": true, "sub": …, "exp": …}`.
    pub fn opaque(&self, says: Value) -> String {
        let token =
            format!("opaque-{}-{}", self.address.port(), self.state.serial.fetch_add(1, Ordering::SeqCst));
        self.state.opaque.lock().insert(token.clone(), says);
        token
    }

    /// Revokes an opaque token.
    pub fn revoke(&self, token: &str) {
        self.state.opaque.lock().remove(token);
    }

    /// Stops answering: connections are refused.
    pub fn stop(&mut self) {
        if let Some(Server { stop, thread }) = self.server.take() {
            drop(stop);
            let _ = thread.join();
        }
    }

    /// Answers again, at the same address, with the same keys.
    ///
    /// # Errors
    /// When the port was taken meanwhile.
    pub fn restart(&mut self) -> Result<()> {
        self.stop();
        let listener = std::net::TcpListener::bind(self.address)?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let state = self.state.clone();
        let thread = std::thread::Builder::new().name("issuer".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, state) => {}
                    _ = stopped => {}
                }
            });
        })?;
        self.server = Some(Server { stop, thread });
        Ok(())
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A token in the making.
#[derive(Debug)]
pub struct Token {
    keys: Arc<State>,
    key: Option<Arc<Key>>,
    now: i64,
    header: Map<String, Value>,
    claims: Value,
    payload: Option<String>,
}

impl Token {
    /// Sets a claim.
    #[must_use]
    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        if let Some(claims) = self.claims.as_object_mut() {
            claims.insert(name.to_owned(), value.into());
        }
        self
    }

    /// Sets many claims.
    #[must_use]
    pub fn claims(self, claims: &Value) -> Self {
        let Some(claims) = claims.as_object() else { return self };
        claims.iter().fold(self, |token, (name, value)| token.claim(name, value.clone()))
    }

    /// Leaves a claim out.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        if let Some(claims) = self.claims.as_object_mut() {
            claims.remove(name);
        }
        self
    }

    /// Expires this many seconds from now; negative is in the past.
    #[must_use]
    pub fn expires_in(self, seconds: i64) -> Self {
        let at = self.now.saturating_add(seconds);
        self.claim("exp", at)
    }

    /// Is valid only from this many seconds from now.
    #[must_use]
    pub fn not_before_in(self, seconds: i64) -> Self {
        let at = self.now.saturating_add(seconds);
        self.claim("nbf", at)
    }

    /// Was issued this many seconds from now.
    #[must_use]
    pub fn issued_in(self, seconds: i64) -> Self {
        let at = self.now.saturating_add(seconds);
        self.claim("iat", at)
    }

    /// Signs with the issuer's key for this algorithm.
    #[must_use]
    pub fn alg(mut self, alg: Alg) -> Self {
        self.key = self.keys.keys.lock().iter().find(|key| key.alg == alg).cloned();
        self
    }

    /// Signs with this key: an old one, or a forger's.
    #[must_use]
    pub fn key(mut self, key: &Arc<Key>) -> Self {
        self.key = Some(key.clone());
        self
    }

    /// Sets a header field: `kid`, `typ`, `alg`, `jku`, `jwk`, `crit` …
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header.insert(name.to_owned(), value.into());
        self
    }

    /// Takes this text for the payload, whatever it is: duplicate claims, invalid JSON.
    #[must_use]
    pub fn payload(mut self, text: impl Into<String>) -> Self {
        self.payload = Some(text.into());
        self
    }

    /// The claims so far, to build a raw payload of.
    pub fn payload_text(&self) -> String {
        self.payload.clone().unwrap_or_else(|| self.claims.to_string())
    }

    /// The signed token. Header fields that a test has set stand; `alg` and `kid` are added to them.
    ///
    /// # Errors
    /// When the issuer has no such key.
    pub fn sign(mut self) -> Result<String> {
        let key = self.key.clone().context("the issuer has no such key")?;
        self.header.entry("alg").or_insert_with(|| key.alg.name().into());
        self.header.entry("kid").or_insert_with(|| key.kid.clone().into());
        let message = self.message();
        let signature = key.sign(message.as_bytes())?;
        Ok(format!("{message}.{}", encode(&signature)))
    }

    /// A token with `alg: none` and no signature (RFC 8725 section 2.1).
    pub fn unsigned(mut self) -> String {
        self.header.insert("alg".into(), "none".into());
        format!("{}.", self.message())
    }

    /// A token with `alg: HS256` whose secret is the public key: algorithm confusion.
    ///
    /// # Errors
    /// When the issuer has no such key.
    pub fn confused(mut self) -> Result<String> {
        let key = self.key.clone().context("the issuer has no such key")?;
        self.header.insert("alg".into(), "HS256".into());
        self.header.insert("kid".into(), key.kid.clone().into());
        let message = self.message();
        let secret =
            aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key.public.to_string().as_bytes());
        let tag = aws_lc_rs::hmac::sign(&secret, message.as_bytes());
        Ok(format!("{message}.{}", encode(tag.as_ref())))
    }

    /// A signed token with one bit of its signature turned.
    ///
    /// # Errors
    /// When the issuer has no such key.
    pub fn tampered(self) -> Result<String> {
        let signed = self.sign()?;
        let (message, signature) = signed.rsplit_once('.').context("a token has a signature")?;
        let mut bytes = URL_SAFE_NO_PAD.decode(signature)?;
        if let Some(byte) = bytes.last_mut() {
            *byte ^= 1;
        }
        Ok(format!("{message}.{}", encode(&bytes)))
    }

    fn message(&self) -> String {
        let header = Value::Object(self.header.clone()).to_string();
        format!("{}.{}", encode(header.as_bytes()), encode(self.payload_text().as_bytes()))
    }
}

/// Somebody of the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Person {
    /// What the demo calls them.
    pub name: &'static str,
    /// Their subject.
    pub subject: &'static str,
    /// Their e-mail address; services have none.
    pub email: Option<&'static str>,
    /// Their group.
    pub group: &'static str,
    /// The OAuth client that holds their token.
    pub client_id: &'static str,
}

impl Person {
    /// Their token from this issuer.
    ///
    /// # Errors
    /// When the issuer cannot sign.
    pub fn token(&self, issuer: &Issuer, lifetime: Duration) -> Result<String> {
        let seconds = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
        let token = issuer.token(self.subject).claim("groups", vec![self.group]);
        let token = match self.email {
            Some(email) => token.claim("email", email).claim("email_verified", true),
            None => token,
        };
        token.claim("client_id", self.client_id).expires_in(seconds).sign()
    }
}

/// The four people of the demo. `demo/people.sql` knows the support agent's address.
pub const PEOPLE: [Person; 4] = [
    Person {
        name: "analyst",
        subject: "ada",
        email: Some("ada@example.com"),
        group: "analysts",
        client_id: "notebook",
    },
    Person {
        name: "support",
        subject: "sam",
        email: Some("sam@example.com"),
        group: "support",
        client_id: "helpdesk",
    },
    Person {
        name: "administrator",
        subject: "ines",
        email: Some("ines@example.com"),
        group: "administrators",
        client_id: "console",
    },
    Person {
        name: "pipeline",
        subject: "daily-load",
        email: None,
        group: "pipelines",
        client_id: "pipeline",
    },
];

async fn accept(listener: std::net::TcpListener, state: Arc<State>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let state = state.clone();
                async move { Ok::<_, Infallible>(answer(&state, request).await) }
            });
            // A client that hangs up is not the issuer's affair.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(state: &State, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (path, count) = match request.uri().path() {
        DISCOVERY | "/.well-known/oauth-authorization-server" => (DISCOVERY, &state.counts.discovery),
        JWKS => (JWKS, &state.counts.jwks),
        INTROSPECTION => (INTROSPECTION, &state.counts.introspection),
        _ => return respond(StatusCode::NOT_FOUND, String::new()),
    };
    count.fetch_add(1, Ordering::SeqCst);
    let misbehaviour = state.misbehaviour.lock().get(path).cloned();
    match misbehaviour {
        Some(Misbehaviour::Status(status)) => {
            return respond(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY), String::new());
        }
        Some(Misbehaviour::Body(body)) => return respond(StatusCode::OK, body),
        Some(Misbehaviour::Stall(span)) => tokio::time::sleep(span).await,
        None => {}
    }
    match path {
        DISCOVERY => respond(StatusCode::OK, discovery(&state.url).to_string()),
        JWKS => respond(StatusCode::OK, key_set(state).to_string()),
        _ => introspect(state, request).await,
    }
}

fn discovery(url: &str) -> Value {
    json!({
        "issuer": url,
        "jwks_uri": format!("{url}{JWKS}"),
        "introspection_endpoint": format!("{url}{INTROSPECTION}"),
        "authorization_endpoint": format!("{url}/authorize"),
        "token_endpoint": format!("{url}/token"),
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256", "RS256", "EdDSA"],
    })
}

fn key_set(state: &State) -> Value {
    let hidden = state.hidden.lock();
    let keys = state.keys.lock();
    let keys: Vec<&Value> =
        keys.iter().filter(|key| !hidden.contains(&key.kid)).map(|key| &key.public).collect();
    json!({ "keys": keys })
}

/// RFC 7662: the token stands in a form, the caller authenticates by HTTP Basic.
async fn introspect(state: &State, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (user, password) = INTROSPECTION_CLIENT;
    let wanted =
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")));
    let shown = request.headers().get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if shown != Some(wanted.as_str()) {
        return respond(StatusCode::UNAUTHORIZED, json!({"error": "invalid_client"}).to_string());
    }
    let body = Limited::new(request.into_body(), REQUEST_BYTES_MAX);
    #[expect(clippy::disallowed_methods, reason = "the body is limited")]
    let Ok(form) = body.collect().await else { return respond(StatusCode::BAD_REQUEST, String::new()) };
    let form = form.to_bytes();
    let form = String::from_utf8_lossy(&form);
    let token = form.split('&').find_map(|pair| pair.strip_prefix("token="));
    let says = token.and_then(|token| state.opaque.lock().get(token).cloned());
    respond(StatusCode::OK, says.unwrap_or_else(|| json!({"active": false})).to_string())
}

fn respond(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}
