//! Signed session claims: who is calling, for row-level security, in a way that client SQL cannot forge.
//!
//! A setting such as `request.jwt.claims` is as good as whoever may set it, and a session that runs a client's SQL
//! may set anything. So the claims are signed (HMAC-SHA-256, RFC 2104) for one session of the database, as the
//! server itself knows it, and functions in the schema `doorward` ([`install_sql`]) believe nothing else: what was
//! signed for another session, or under a key that they do not have, counts as no claims.
//!
//! Invariants: each resource's key is derived from the configured one, so that the administrator of one database
//! cannot sign for another; the key never leaves this module but for [`SessionClaims::key_sql`]; claims reach the
//! database as a parameter, never as a statement's text.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use doorward_core::{Fault, Principal, ResourceName, Secret, Timestamp, hex};
use doorward_settings::SecretRef;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::timeout;

use crate::ask::ask;
use crate::codes;
use crate::conn::Ask;
use crate::error::{Failure, unavailable};
use crate::login::ask_json;
use crate::pool::Pool;
use crate::request::Request;
use crate::stream::Stream;

/// The shortest key that is taken, in bytes.
pub const KEY_BYTES_MIN: usize = 32;
/// The most bytes of the claims of one session.
const CLAIMS_BYTES_MAX: usize = 32 << 10;
/// HMAC-SHA-256's block.
const BLOCK: usize = 64;
/// What keys are derived for.
const PURPOSE: &[u8] = b"doorward session claims 1\0";
/// The bytes of a key that its id shows.
const KID_BYTES: usize = 8;

/// Asks the session who it is.
const SESSION: &str = "SELECT doorward.session()";
/// Asks whether the database believes what was set.
const PROVEN: &str = "SELECT (doorward.claims() IS NOT NULL)::pg_catalog.text";
/// The most bytes of the answer to that.
const PROVEN_BYTES_MAX: u64 = 1 << 10;
/// Sets the claims of a session.
pub const SET: &str = "SELECT pg_catalog.set_config('doorward.claims', $1, false)";
/// What the database needs, once.
const INSTALL: &str = include_str!("claims.sql");
/// Where the key goes in it.
const KEY_MARK: &str = "-- KEY\n";

/// Signed claims for row-level security by person: see `doorward claims sql`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClaimsConfig {
    /// Where the key is that claims are signed with, of 32 bytes or more. The database has one that is derived
    /// from it, for this resource alone.
    pub key: SecretRef,
    /// Claims of the caller's token that are signed beside `iss`, `sub`, `kind`, `email`, `groups`, `client_id`
    /// and `act`.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub include: Vec<Box<str>>,
}

/// Signs claims for sessions of one resource.
pub struct SessionClaims {
    kid: Box<str>,
    derived: [u8; 32],
    key: hmac::Key,
    names: Vec<Box<str>>,
}

/// A key that is too short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key of session claims has at least {KEY_BYTES_MIN} bytes; make one with: openssl rand -hex 32")]
pub struct KeyTooShort;

impl SessionClaims {
    /// Signs for sessions of `resource` what `config` says.
    ///
    /// # Errors
    /// When the key is too short to be a secret.
    pub fn new(resource: &ResourceName, config: &ClaimsConfig, key: &Secret) -> Result<Self, KeyTooShort> {
        let bytes = key.expose().as_bytes();
        if bytes.len() < KEY_BYTES_MIN {
            return Err(KeyTooShort);
        }
        let root = hmac::Key::new(hmac::HMAC_SHA256, bytes);
        let mut derived = [0; 32];
        let tag = hmac::sign(&root, &[PURPOSE, resource.as_str().as_bytes()].concat());
        derived.iter_mut().zip(tag.as_ref()).for_each(|(byte, from)| *byte = *from);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &derived);
        let id = hmac::sign(&key, b"kid");
        let kid = hex(id.as_ref().get(..KID_BYTES).unwrap_or_default()).into();
        Ok(Self { kid, derived, key, names: config.include.clone() })
    }

    /// The id of its key, which the database knows it by.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The claims of `principal`, signed for the session that calls itself `session`, until `until`.
    pub(crate) fn sign(
        &self,
        session: &str,
        principal: &Principal,
        until: Option<Timestamp>,
    ) -> Result<Secret, Fault> {
        let text = Value::Object(self.claims(principal, until)).to_string();
        if text.len() > CLAIMS_BYTES_MAX {
            let what = format!("the claims of this session are larger than {CLAIMS_BYTES_MAX} bytes");
            return Err(Fault::new(codes::CLAIMS, what).hint(
                "The gateway's operator can put fewer of them under the resource's `claims.include`.",
            ));
        }
        let payload = STANDARD.encode(text);
        let proof = hmac::sign(&self.key, format!("{session}\n{payload}").as_bytes());
        Ok(Secret::from(format!("v1.{}.{payload}.{}", self.kid, hex(proof.as_ref()))))
    }

    fn claims(&self, principal: &Principal, until: Option<Timestamp>) -> Map<String, Value> {
        let named =
            self.names.iter().filter_map(|name| Some((name.to_string(), principal.claims.get(&**name)?)));
        let mut claims: Map<String, Value> = named.map(|(name, value)| (name, value.clone())).collect();
        // What the gateway itself knows stands over a claim of the same name.
        claims.insert("iss".into(), principal.issuer.as_str().into());
        claims.insert("sub".into(), (&**principal.subject.reveal()).into());
        claims.insert("kind".into(), principal.kind.as_str().into());
        let groups: Vec<Value> = principal.groups.iter().map(|group| (&**group).into()).collect();
        claims.insert("groups".into(), groups.into());
        let actors: Vec<Value> =
            principal.actors.iter().map(|actor| (&**actor.subject.reveal()).into()).collect();
        claims.insert("act".into(), actors.into());
        let optional = [
            ("email", principal.email.as_ref().map(|email| Value::from(&**email.reveal()))),
            ("client_id", principal.client_id.as_deref().map(Value::from)),
            ("exp", until.map(|until| until.seconds().into())),
        ];
        for (name, value) in optional {
            match value {
                Some(value) => claims.insert(name.into(), value),
                None => claims.remove(name),
            };
        }
        claims
    }

    /// The statement that gives the key to the database. It is as secret as the key.
    pub fn key_sql(&self, only: bool) -> Secret {
        let padded = |pad: u8| {
            let mut block = [pad; BLOCK];
            block.iter_mut().zip(self.derived).for_each(|(byte, key)| *byte ^= key);
            hex(&block)
        };
        let kid = &self.kid;
        let others =
            if only { format!("DELETE FROM doorward.keys WHERE kid <> '{kid}';\n") } else { String::new() };
        Secret::from(format!(
            "{others}INSERT INTO doorward.keys (kid, inner_pad, outer_pad)\n    \
             VALUES ('{kid}', decode('{}', 'hex'), decode('{}', 'hex'))\n    ON CONFLICT (kid) DO NOTHING;\n",
            padded(0x36),
            padded(0x5c),
        ))
    }
}

/// The script that makes the schema `doorward` with its functions, with this statement for the key in it.
pub fn install_sql(key: Option<&Secret>) -> Secret {
    let key = key.map_or("", |key| key.expose());
    Secret::from(INSTALL.replace(KEY_MARK, key))
}

impl Pool {
    /// Finds out, on a connection of the gateway's own login, whether the database has the functions of session claims
    /// and believes what these sign.
    ///
    /// # Errors
    /// What a session would be told, when it does not.
    pub async fn check_claims(&self, claims: &SessionClaims) -> Result<(), Fault> {
        let mut conn = self.own_connection().await?;
        let session = ask_json(&mut conn, SESSION, &[]).await.map_err(|failure| not_set(&failure))?;
        let token = claims.sign(&session, &Principal::public(), None)?;
        // They are there for this one question.
        let own = [("transaction_read_only", "on"), ("doorward.claims", &**token.expose())];
        let request = Request { read_only: true, sql: PROVEN, ..Request::default() };
        let ask = Ask { request: &request, own: &own, bytes_max: PROVEN_BYTES_MAX, discard: false };
        let reply = conn.exchange(&ask).await.map_err(|failure| not_set(&failure))?;
        match reply.first().and_then(|row| row.text(0)) {
            Some("true") => Ok(()),
            _ => Err(not_believed(claims)),
        }
    }
}

/// What one connection says of who is on it.
#[derive(Debug, Default)]
pub struct Badge {
    /// How the server knows the session, once it has been asked.
    session: Option<Box<str>>,
    /// What was set last.
    token: Option<Secret>,
}

impl Badge {
    /// Signs who the caller is for the connection's session, and sets it there. Nothing else may be under way.
    ///
    /// # Errors
    /// When the database does not have the functions, or does not believe the signature: such a session would
    /// see what belongs to nobody.
    pub async fn show(
        &mut self,
        (stream, input): (&mut Stream, &mut BytesMut),
        claims: &SessionClaims,
        principal: &Principal,
        until: Option<Timestamp>,
        span_max: Duration,
    ) -> Result<(), Fault> {
        self.token = None;
        let showing = async {
            let mut say = async |sql, params: &[&str]| {
                let said = ask(&mut *stream, &mut *input, sql, params).await;
                said.map_err(|failure| not_set(&failure))
            };
            let known = self.session.take();
            let session = match &known {
                Some(session) => session.clone(),
                None => say(SESSION, &[]).await?.unwrap_or_default().into(),
            };
            let token = claims.sign(&session, principal, until)?;
            say(SET, &[token.expose()]).await?;
            // Whether the two agree on the key is found out once.
            if known.is_none() && say(PROVEN, &[]).await?.as_deref() != Some("true") {
                return Err(not_believed(claims));
            }
            Ok((session, token))
        };
        let shown = timeout(span_max, showing).await;
        let (session, token) =
            shown.map_err(|_| unavailable("setting the session's claims took too long"))??;
        (self.session, self.token) = (Some(session), Some(token));
        Ok(())
    }

    /// What [`SET`] is to be told, to set again what was set last.
    pub fn token(&self) -> Option<&Secret> {
        self.token.as_ref()
    }
}

fn not_believed(claims: &SessionClaims) -> Fault {
    Fault::new(codes::CLAIMS, "the database does not believe this session's signed claims")
        .hint(
            "The database's administrator gives it the key that the gateway signs with: \
             `doorward claims sql RESOURCE --with-key`.",
        )
        .cause(format_args!("the gateway's key is {}", claims.kid()))
}

/// The fault of a session whose claims cannot be set.
fn not_set(failure: &Failure) -> Fault {
    let fault = Fault::new(codes::CLAIMS, "this session's signed claims cannot be set").cause(failure);
    match failure {
        Failure::Server(error) if matches!(&*error.sqlstate, "3F000" | "42883" | "42501") => {
            fault.hint("The database's administrator runs what `doorward claims sql RESOURCE` prints.")
        }
        _ => fault.hint("Try again in a moment."),
    }
}

impl std::fmt::Debug for SessionClaims {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionClaims").field("kid", &self.kid).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(include: &[&str]) -> ClaimsConfig {
        let include = include.iter().map(|name| (*name).into()).collect();
        let document = doorward_settings::Document::parse("doorward.yaml", "key: env:KEY").unwrap();
        ClaimsConfig { include, ..document.root().deserialize().unwrap() }
    }

    fn signer(resource: &str, include: &[&str]) -> SessionClaims {
        let key = Secret::from("0123456789abcdef0123456789abcdef");
        SessionClaims::new(&ResourceName::new(resource), &config(include), &key).unwrap()
    }

    fn principal(claims: Value) -> Principal {
        let Value::Object(claims) = claims else { panic!("an object") };
        Principal { claims, ..Principal::public() }
    }

    #[test]
    fn what_the_gateway_knows_stands_over_claims_of_the_same_name() {
        let forged = json!({ "sub": "root", "email": "root@x", "exp": 1, "groups": ["admins"], "team": "a", "secret": "s" });
        let claims =
            signer("shop", &["team", "sub", "email", "exp", "groups"]).claims(&principal(forged), None);
        let expected =
            json!({ "team": "a", "sub": "public", "iss": "none", "kind": "public", "groups": [], "act": [] });
        assert_eq!(Value::Object(claims), expected);
    }

    #[test]
    fn each_session_and_each_resource_has_a_signature_of_its_own() {
        let nobody = principal(json!({}));
        let sign = |resource: &str, session: &str| {
            let token = signer(resource, &[]).sign(session, &nobody, None).unwrap();
            token.expose().to_string()
        };
        assert_eq!(sign("shop", "1/a"), sign("shop", "1/a"));
        let proof = |token: String| token.rsplit('.').next().unwrap().to_owned();
        assert_ne!(proof(sign("shop", "1/a")), proof(sign("shop", "2/a")));
        assert_ne!(proof(sign("shop", "1/a")), proof(sign("other", "1/a")));
        assert_ne!(signer("shop", &[]).kid(), signer("other", &[]).kid());
    }

    #[test]
    fn claims_have_a_bound_and_keys_are_long() {
        let large = principal(json!({ "team": "x".repeat(CLAIMS_BYTES_MAX) }));
        assert!(signer("shop", &["team"]).sign("1/a", &large, None).is_err());
        let short = Secret::from("too short");
        assert_eq!(
            SessionClaims::new(&ResourceName::new("shop"), &config(&[]), &short).err(),
            Some(KeyTooShort)
        );
    }

    #[test]
    fn the_key_stands_in_the_script_only_when_it_is_asked_for() {
        let signer = signer("shop", &[]);
        let bare = install_sql(None);
        assert!(!bare.expose().contains(signer.kid()) && !bare.expose().contains("INSERT"));
        let whole = install_sql(Some(&signer.key_sql(true)));
        assert!(
            whole.expose().contains(signer.kid()) && whole.expose().contains("DELETE FROM doorward.keys")
        );
        assert!(!format!("{signer:?}").contains(&hex(&signer.derived)));
    }
}
