//! Logins that the gateway mints for clients that know no tokens: a user name and a password.
//!
//! The user name is `dw1.KID.SEALED`: what the token proved, sealed under the gateway's key (AES-256-GCM). The password
//! is a keyed hash of the user name. Nothing is kept, so every gateway with the same key takes the login.
//!
//! Invariants:
//! - a user name opens nothing: whoever reads it on the wire learns neither who it is for nor the password;
//! - each user name of this form has a password and a salt, minted or not, and computing them looks at nothing but the
//!   name: which names are good cannot be found out by trying;
//! - who a login is for is decided anew at each use, under today's rules of the issuer that the token came from;
//! - a login opens sessions until its own time is over; a session lives as long as the token's own would.

use std::io::{Read, Write};
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use doorward_core::{
    AuthMethod, LoginWish, MintedLogin, NewLogin, Principal, ResourceName, RoleName, Secret, Timestamp,
};
use doorward_settings::{KEY_BYTES, Problem, parse_key};
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;

use crate::config::MintedLoginsConfig;
use crate::refusal::Refusal;
use crate::wire::SealedLogin;

/// What minted user names begin with. No role of a database should.
pub const LOGIN_PREFIX: &str = "dw1.";
/// The longest minted user name: a start-up packet of PostgreSQL has at most 10,000 bytes.
pub const LOGIN_BYTES_MAX: usize = 8_192;
/// For how long a login opens sessions, and for how long it may.
pub(crate) const TTL: Duration = Duration::from_secs(15 * 60);
pub(crate) const TTL_MAX: Duration = Duration::from_secs(12 * 3_600);
/// Keys of before.
pub(crate) const OLD_KEYS_MAX: usize = 16;
/// What a seal may hold, expanded: no token has more claims than itself.
const SEALED_BYTES_MAX: u64 = 64 * 1024;
const KEY_ID_CHARS: usize = 6;

/// The keys, and for how long a login counts.
pub(crate) struct Logins {
    current: LoginKey,
    old: Vec<LoginKey>,
    ttl: Duration,
}

/// What a user name says of whom it is for.
pub(crate) struct Sealed {
    /// Until when it opens sessions.
    pub(crate) expires_at: Timestamp,
    /// The configured issuer's name, and the claims that its token proved.
    pub(crate) issuer: String,
    pub(crate) claims: serde_json::Map<String, serde_json::Value>,
    wish: LoginWish,
}

struct LoginKey {
    id: String,
    seal: LessSafeKey,
    password: hmac::Key,
    salt: hmac::Key,
}

impl Logins {
    /// Reads the keys; `None` when none is named and the gateway has made none. Blocks: at load only.
    pub(crate) fn load(config: &MintedLoginsConfig) -> Result<Option<Self>, Problem> {
        let current = match (&config.key, &config.own_key) {
            (Some(reference), _) => {
                let text = reference.read()?;
                LoginKey::parse(text.expose()).map_err(|why| reference.problem(why))?
            }
            (None, Some(path)) if path.exists() => {
                let told = |why: String| Problem::of_file(&path.display().to_string(), why);
                let text = std::fs::read_to_string(path).map_err(|error| told(error.to_string()))?;
                LoginKey::parse(text.trim_end()).map_err(|why| told(why.to_owned()))?
            }
            (None, _) => return Ok(None),
        };
        let mut old = Vec::new();
        for reference in config.old_keys.iter().take(OLD_KEYS_MAX) {
            let text = reference.read()?;
            old.push(LoginKey::parse(text.expose()).map_err(|why| reference.problem(why))?);
        }
        let ttl = config.ttl.as_ref().map_or(TTL, |ttl| ttl.get().get());
        Ok(Some(Self { current, old, ttl }))
    }

    /// Mints a login for somebody whom a token has proven.
    pub(crate) fn mint(
        &self,
        principal: &Principal,
        wish: &LoginWish,
        now: Timestamp,
    ) -> Result<NewLogin, Refusal> {
        if !matches!(principal.auth_method, AuthMethod::Jwt | AuthMethod::Introspection) {
            return Err(Refusal::NotMintable("logins are minted for access tokens of an issuer"));
        }
        let until = now.plus(self.ttl);
        let expires_at = principal.expires_at.map_or(until, |token| token.min(until));
        let sealed = SealedLogin {
            expires: expires_at.seconds(),
            issuer: principal.issuer.as_str().to_owned(),
            claims: principal.claims.clone(),
            resource: wish.resource.as_ref().map(ToString::to_string),
            role: wish.role.as_ref().map(ToString::to_string),
        };
        let failed = |_| Refusal::NotMintable("the login could not be sealed");
        let text = serde_json::to_vec(&sealed).map_err(|_| Refusal::NotMintable("its claims"))?;
        let user = self.current.seal(&text).map_err(failed)?;
        if user.len() > LOGIN_BYTES_MAX {
            return Err(Refusal::NotMintable("the token has too many claims for a user name"));
        }
        let password = self.current.password_of(&user);
        let expires_at = Timestamp::from_seconds(expires_at.seconds());
        Ok(NewLogin { user: user.into(), password, expires_at })
    }

    /// The login of a user name of our form, whether it was ever minted or not.
    pub(crate) fn minted(&self, user: &str) -> Option<MintedLogin> {
        let (id, _) = parts(user)?;
        // The same work for all names; of a key that is not ours nobody can know the password.
        let key = self.key(id).unwrap_or(&self.current);
        let mut salt = [0; 16];
        salt.iter_mut()
            .zip(hmac::sign(&key.salt, user.as_bytes()).as_ref())
            .for_each(|(to, from)| *to = *from);
        let wish = self.open(user).map(|sealed| sealed.wish).unwrap_or_default();
        Some(MintedLogin { password: key.password_of(user), salt, wish })
    }

    /// What a user name holds; `None` when it was not minted here.
    pub(crate) fn open(&self, user: &str) -> Option<Sealed> {
        let (id, sealed) = parts(user)?;
        let text = self.key(id)?.open(id, sealed)?;
        let sealed: SealedLogin = serde_json::from_slice(&text).ok()?;
        Some(Sealed {
            expires_at: Timestamp::from_seconds(sealed.expires),
            issuer: sealed.issuer,
            claims: sealed.claims,
            wish: LoginWish {
                resource: sealed.resource.map(ResourceName::new),
                role: sealed.role.map(RoleName::new),
            },
        })
    }

    fn key(&self, id: &str) -> Option<&LoginKey> {
        std::iter::once(&self.current).chain(&self.old).find(|key| key.id == id)
    }
}

/// Draws a key, as the text that a key's file holds.
pub fn new_login_key() -> Result<Secret, aws_lc_rs::error::Unspecified> {
    let mut key = [0; KEY_BYTES];
    rand::fill(&mut key)?;
    Ok(Secret::from(STANDARD.encode(key)))
}

/// The key's id and the sealed part of a user name of our form.
fn parts(user: &str) -> Option<(&str, &str)> {
    if user.len() > LOGIN_BYTES_MAX {
        return None;
    }
    let (id, sealed) = user.strip_prefix(LOGIN_PREFIX)?.split_once('.')?;
    let plain =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    (id.len() == KEY_ID_CHARS && plain(id) && plain(sealed)).then_some((id, sealed))
}

impl LoginKey {
    /// Reads the secret's text: 32 random bytes, as base64 or as 64 hex digits.
    fn parse(text: &str) -> Result<Self, &'static str> {
        let bytes = parse_key(text)?;
        let master = hmac::Key::new(hmac::HMAC_SHA256, &bytes[..]);
        let part = |name: &str| hmac::sign(&master, format!("doorward login {name}").as_bytes());
        let mac = |name: &str| hmac::Key::new(hmac::HMAC_SHA256, part(name).as_ref());
        let id = URL_SAFE_NO_PAD.encode(part("key id"));
        let seal = UnboundKey::new(&AES_256_GCM, part("seal").as_ref())
            .map_err(|_| "the login key cannot be used")?;
        Ok(Self {
            id: id.chars().take(KEY_ID_CHARS).collect(),
            seal: LessSafeKey::new(seal),
            password: mac("password"),
            salt: mac("salt"),
        })
    }

    fn password_of(&self, user: &str) -> Secret {
        Secret::from(URL_SAFE_NO_PAD.encode(hmac::sign(&self.password, user.as_bytes())))
    }

    fn seal(&self, text: &[u8]) -> Result<String, aws_lc_rs::error::Unspecified> {
        let broken = |_: std::io::Error| aws_lc_rs::error::Unspecified;
        let mut packed = DeflateEncoder::new(Vec::new(), Compression::best());
        packed.write_all(text).map_err(broken)?;
        let mut sealed = packed.finish().map_err(broken)?;
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce)?;
        let aad = Aad::from(self.id.as_bytes());
        self.seal.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed)?;
        let sealed = URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat());
        Ok(format!("{LOGIN_PREFIX}{}.{sealed}", self.id))
    }

    fn open(&self, id: &str, sealed: &str) -> Option<Vec<u8>> {
        let bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let packed = self.seal.open_in_place(nonce, Aad::from(id.as_bytes()), &mut sealed).ok()?;
        let mut text = Vec::new();
        DeflateDecoder::new(&*packed).take(SEALED_BYTES_MAX).read_to_end(&mut text).ok()?;
        Some(text)
    }
}
