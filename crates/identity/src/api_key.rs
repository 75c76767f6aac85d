//! The gateway's own API keys: `dw_ID_SECRET`.
//!
//! A key is shown once, when it is made; what is kept is its SHA-256. A fast hash is right here: the
//! secret is 256 random bits, so there is nothing to guess, and a slow hash would only let callers burn
//! our time. (Passwords are another matter, and are not taken.) The hash covers the id too, so a secret
//! counts only under its own id.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use doorward_core::{AuthMethod, IssuerName, Personal, Principal, Secret, Timestamp, hex, rfc3339, unhex};
use serde_json::{Map, Value};

use crate::config::KindName;
use crate::keys::sha256;
use crate::refusal::{Refusal, shown};
use crate::wire::ApiKeyLine;

/// The issuer of those who hold API keys; no configured issuer can have this name.
pub const API_KEY_ISSUER: &str = "api-key";
/// What API keys begin with; no JWT does.
pub const API_KEY_PREFIX: &str = "dw_";
/// Keys in one file.
pub const API_KEYS_MAX: usize = 100_000;
/// The key file.
pub(crate) const API_KEY_FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;
const ID_LEN_MAX: usize = 64;

/// Whom a new key is for.
#[derive(Clone, Debug)]
pub struct NewApiKey {
    /// The holder's name.
    pub subject: String,
    /// The holder's kind.
    pub kind: KindName,
    /// The holder's groups.
    pub groups: Vec<String>,
    /// When the key ends.
    pub expires_at: Option<Timestamp>,
}

/// A new key, to be shown once, and the line to keep of it.
#[derive(Debug)]
pub struct IssuedApiKey {
    /// The key's id, which records name.
    pub id: String,
    /// The whole key.
    pub key: Secret,
    /// The line for the key file, without its line end.
    pub line: String,
}

/// Why an API key could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiKeyError {
    /// The operating system gave no random bytes.
    #[error("no random bytes")]
    Random,
    /// The subject is empty or has control characters, or a group is or has.
    #[error("a subject and groups are plain texts of 1 to 255 bytes")]
    Text,
}

/// Makes a key.
pub fn new_api_key(new: &NewApiKey) -> Result<IssuedApiKey, ApiKeyError> {
    if !plain(&new.subject) || !new.groups.iter().all(|group| plain(group)) {
        return Err(ApiKeyError::Text);
    }
    let id = random_hex::<ID_BYTES>()?;
    let key = format!("{API_KEY_PREFIX}{id}_{}", random_hex::<SECRET_BYTES>()?);
    let line = ApiKeyLine {
        id: id.clone(),
        sha256: hex(&sha256(key.as_bytes())),
        subject: new.subject.clone(),
        kind: new.kind,
        groups: new.groups.clone(),
        expires: new.expires_at.map(rfc3339::format),
    };
    let line = serde_json::to_string(&line).map_err(|_| ApiKeyError::Text)?;
    Ok(IssuedApiKey { id, key: Secret::from(key), line })
}

/// All keys that count.
pub(crate) struct ApiKeys(HashMap<Box<str>, ApiKey>);

struct ApiKey {
    sha256: [u8; 32],
    principal: Arc<Principal>,
}

impl ApiKeys {
    /// Reads the key file. Empty lines and lines that begin with `#` mean nothing. The error says which line.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut keys = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (id, key) = ApiKey::parse(line).map_err(|why| format!("line {}: {why}", index + 1))?;
            if keys.len() == API_KEYS_MAX {
                return Err(format!("there are more than {API_KEYS_MAX} keys"));
            }
            if keys.insert(id, key).is_some() {
                return Err(format!("line {}: the id stands twice", index + 1));
            }
        }
        Ok(Self(keys))
    }

    /// Who holds the key.
    pub(crate) fn authenticate(&self, key: &Secret, now: Timestamp) -> Result<Arc<Principal>, Refusal> {
        let key = key.expose();
        let id =
            id_of(key).ok_or_else(|| Refusal::UnknownApiKey("not of the form dw_ID_SECRET".to_owned()))?;
        // The hash is computed for unknown ids too, so that the time does not tell which ids exist.
        let hash = sha256(key.as_bytes());
        let found = self.0.get(id);
        let expected = found.map_or(&[0; 32], |found| &found.sha256);
        let matches = verify_slices_are_equal(&hash, expected).is_ok();
        match found {
            Some(found) if matches => found.not_expired(now),
            Some(_) => Err(Refusal::UnknownApiKey(format!("a wrong secret for the id {id}"))),
            None => Err(Refusal::UnknownApiKey(format!("no key has the id {}", shown(id)))),
        }
    }

    /// Whether a key that was shown once still counts.
    pub(crate) fn stands(&self, principal: &Principal, now: Timestamp) -> bool {
        principal
            .credential_id
            .as_deref()
            .and_then(|id| self.0.get(id))
            .is_some_and(|key| *key.principal == *principal && key.not_expired(now).is_ok())
    }
}

impl ApiKey {
    fn parse(line: &str) -> Result<(Box<str>, Self), String> {
        // serde's message names the key, not the text.
        let line: ApiKeyLine = serde_json::from_str(line).map_err(|error| error.to_string())?;
        if !id_is_well_formed(&line.id) {
            return Err("the id is not of 1 to 64 lower-case letters and digits".to_owned());
        }
        if !plain(&line.subject) || !line.groups.iter().all(|group| plain(group)) {
            return Err("the subject or a group is not a plain text of 1 to 255 bytes".to_owned());
        }
        let sha256 = unhex(&line.sha256).ok_or("sha256 is not of 64 lower-case hexadecimal digits")?;
        let expires_at = match &line.expires {
            None => None,
            Some(text) => Some(rfc3339::parse(text).ok_or("expires is not like 2027-01-31T12:00:00Z")?),
        };
        let id: Box<str> = line.id.as_str().into();
        Ok((id, Self { sha256, principal: Arc::new(principal(&line, expires_at)) }))
    }

    fn not_expired(&self, now: Timestamp) -> Result<Arc<Principal>, Refusal> {
        match self.principal.expires_at {
            Some(expires_at) if expires_at <= now => Err(Refusal::ApiKeyExpired(
                self.principal.credential_id.as_deref().unwrap_or_default().to_owned(),
            )),
            _ => Ok(self.principal.clone()),
        }
    }
}

fn principal(line: &ApiKeyLine, expires_at: Option<Timestamp>) -> Principal {
    let mut claims = Map::new();
    claims.insert("iss".to_owned(), Value::from(API_KEY_ISSUER));
    claims.insert("sub".to_owned(), Value::from(line.subject.as_str()));
    claims.insert("groups".to_owned(), Value::from(line.groups.clone()));
    Principal {
        issuer: IssuerName::new(API_KEY_ISSUER),
        subject: Personal::from(line.subject.as_str()),
        kind: line.kind.kind(),
        email: None,
        groups: line.groups.iter().map(|group| group.as_str().into()).collect(),
        client_id: None,
        actors: Vec::new(),
        claims_json: Arc::from(Value::Object(claims.clone()).to_string()),
        claims,
        auth_method: AuthMethod::ApiKey,
        credential_id: Some(line.id.as_str().into()),
        expires_at,
    }
}

fn id_of(key: &str) -> Option<&str> {
    let (id, secret) = key.strip_prefix(API_KEY_PREFIX)?.split_once('_')?;
    (id_is_well_formed(id) && unhex::<SECRET_BYTES>(secret).is_some()).then_some(id)
}

fn id_is_well_formed(id: &str) -> bool {
    (1..=ID_LEN_MAX).contains(&id.len()) && id.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9'))
}

fn plain(text: &str) -> bool {
    (1..=255).contains(&text.len()) && !text.chars().any(char::is_control)
}

fn random_hex<const N: usize>() -> Result<String, ApiKeyError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| ApiKeyError::Random)?;
    Ok(hex(&bytes))
}
