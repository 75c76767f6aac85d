//! One issuer's rules, compiled: which of its tokens are accepted, and what their claims mean.
//!
//! Everything here is pure. The same rules hold for the claims of a JWT and for those that introspection
//! answers with.

use std::sync::Arc;

use doorward_core::{Actor, AuthMethod, IssuerName, Personal, Principal, PrincipalKind, Timestamp};
use serde_json::{Map, Value};

use crate::config::{Algorithm, IssuerConfig, KindByClaim, KindConfig, TokenType};
use crate::refusal::{Refusal, shown};
use crate::token::Unverified;

/// OpenID Connect Core, 2: a subject has at most 255 characters.
const SUBJECT_BYTES_MAX: usize = 255;
/// Links of a delegation chain.
const ACTORS_MAX: usize = 8;
/// The last second of the year 9999: a later time is not a time.
const SECONDS_MAX: i64 = 253_402_300_799;
/// An id of a token that is longer is not kept.
const CREDENTIAL_ID_BYTES_MAX: usize = 256;

/// An issuer's compiled rules.
pub(crate) struct Issuer {
    pub(crate) name: IssuerName,
    pub(crate) url: Box<str>,
    audiences: Vec<String>,
    audience_claim: String,
    groups: ClaimPath,
    email: ClaimPath,
    kind: KindRule,
    algorithms: Vec<Algorithm>,
    token_type: TokenType,
    clients: Option<Vec<String>>,
    leeway_seconds: i64,
    lifetime_seconds_max: i64,
}

enum KindRule {
    Constant(PrincipalKind),
    Claim(ClaimPath, KindByClaim),
    Told,
}

impl Issuer {
    pub(crate) fn compile(name: &str, config: &IssuerConfig) -> Self {
        let seconds = |span: std::time::Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        Self {
            name: IssuerName::new(name),
            url: config.url.get().as_str().into(),
            audiences: config.audience.get().0.clone(),
            audience_claim: config.audience_claim.clone(),
            groups: ClaimPath::parse(&config.groups),
            email: ClaimPath::parse(&config.email),
            kind: match &config.kind {
                None => KindRule::Told,
                Some(KindConfig::Constant(kind)) => KindRule::Constant(kind.kind()),
                Some(KindConfig::Claim(by)) => KindRule::Claim(ClaimPath::parse(&by.claim), by.clone()),
            },
            algorithms: config.algorithms.get().clone(),
            token_type: config.token_type,
            clients: config.clients.clone(),
            leeway_seconds: seconds(config.leeway.get().get()),
            lifetime_seconds_max: seconds(config.lifetime_max.get().get()),
        }
    }

    /// Checks all of a JWT that needs no key, the cheapest first.
    pub(crate) fn check_token(&self, token: &Unverified<'_>, now: Timestamp) -> Result<(), Refusal> {
        if !self.algorithms.contains(&token.algorithm) {
            return Err(Refusal::AlgorithmNotListed(self.name.to_string(), token.algorithm));
        }
        self.check_type(token.typ.as_deref(), &token.claims)?;
        self.check_claims(&token.claims, now)
    }

    /// Checks claims that the issuer answered with (RFC 7662).
    pub(crate) fn check_answer(&self, claims: &Map<String, Value>, now: Timestamp) -> Result<(), Refusal> {
        match claims.get("iss") {
            None => {}
            Some(Value::String(iss)) if **iss == *self.url => {}
            Some(iss) => return Err(Refusal::UnknownIssuer(shown(&iss.to_string()))),
        }
        self.check_marks(claims)?;
        self.check_claims(claims, now)
    }

    /// Whether claims that were accepted once would be accepted under this configuration, time aside.
    pub(crate) fn still_accepts(&self, claims: &Map<String, Value>) -> bool {
        claims.get("iss").and_then(Value::as_str) == Some(&*self.url)
            && self.check_audience(claims).is_ok()
            && self.check_client(claims).is_ok()
    }

    fn check_claims(&self, claims: &Map<String, Value>, now: Timestamp) -> Result<(), Refusal> {
        // RFC 9449, 7.1 and RFC 8705, 3: a bound token is worth nothing without the proof.
        if claims.contains_key("cnf") {
            return Err(Refusal::Bound);
        }
        self.check_audience(claims)?;
        self.check_times(claims, now)?;
        self.check_client(claims)?;
        subject(claims)?;
        Ok(())
    }

    fn check_type(&self, typ: Option<&str>, claims: &Map<String, Value>) -> Result<(), Refusal> {
        let wrong = |expected| Refusal::WrongType { got: shown(typ.unwrap_or("missing")), expected };
        match (self.token_type, typ) {
            (TokenType::AtJwt | TokenType::Access, Some("at+jwt")) => Ok(()),
            (TokenType::AtJwt, _) => Err(wrong("at+jwt")),
            (TokenType::Access, None | Some("jwt")) => self.check_marks(claims),
            (TokenType::Access, Some(_)) => Err(wrong("JWT or at+jwt")),
            (TokenType::Id, None | Some("jwt")) => self.check_marks(claims),
            (TokenType::Id, Some(_)) => Err(wrong("JWT")),
        }
    }

    /// Looks for the marks that issuers leave in tokens that are not access tokens. A mark that speaks
    /// of the type outright (Keycloak's `typ`, Cognito's `token_use`) outweighs those that only hint.
    fn check_marks(&self, claims: &Map<String, Value>) -> Result<(), Refusal> {
        let id_accepted = self.token_type == TokenType::Id;
        if claims.contains_key("events") {
            return Err(Refusal::WrongType { got: "a logout or event token".to_owned(), expected: "access" });
        }
        for name in ["typ", "token_use"] {
            match claims.get(name).and_then(Value::as_str) {
                None => {}
                Some("Bearer" | "access") => return Ok(()),
                Some("ID" | "id") if id_accepted => return Ok(()),
                Some("ID" | "id") => return Err(Refusal::IdToken("a claim that says so")),
                Some(other) => return Err(Refusal::WrongType { got: shown(other), expected: "access" }),
            }
        }
        let hint =
            ["nonce", "at_hash", "c_hash", "s_hash"].into_iter().find(|name| claims.contains_key(*name));
        match hint {
            Some(name) if !id_accepted => Err(Refusal::IdToken(name)),
            _ => Ok(()),
        }
    }

    fn check_audience(&self, claims: &Map<String, Value>) -> Result<(), Refusal> {
        let ours = |text: &str| self.audiences.iter().any(|audience| audience == text);
        let value = claims.get(&self.audience_claim);
        let matches = match value {
            Some(Value::String(text)) => ours(text),
            Some(Value::Array(list)) => {
                // An audience that is no text makes the whole claim unreadable (RFC 7519, 4.1.3).
                list.iter().all(Value::is_string) && list.iter().filter_map(Value::as_str).any(ours)
            }
            _ => false,
        };
        if matches {
            return Ok(());
        }
        Err(Refusal::WrongAudience {
            claim: self.audience_claim.clone(),
            got: value.map_or_else(|| "missing".to_owned(), |value| shown(&value.to_string())),
            expected: self.audiences.join(" or "),
        })
    }

    fn check_times(&self, claims: &Map<String, Value>, now: Timestamp) -> Result<(), Refusal> {
        let (now, leeway) = (now.seconds(), self.leeway_seconds);
        let exp = numeric_date(claims, "exp")?.ok_or_else(|| missing("exp"))?;
        let nbf = numeric_date(claims, "nbf")?;
        let iat = numeric_date(claims, "iat")?;
        if now >= exp.saturating_add(leeway) {
            return Err(Refusal::Expired { exp, now, leeway });
        }
        for (claim, at) in [("nbf", nbf), ("iat", iat)] {
            if let Some(at) = at.filter(|at| at.saturating_sub(leeway) > now) {
                return Err(Refusal::NotYet { claim, at, now, leeway });
            }
        }
        let lifetime = exp.saturating_sub(iat.or(nbf).unwrap_or(now));
        if lifetime > self.lifetime_seconds_max || lifetime < 0 {
            return Err(Refusal::Lifetime { lifetime, max: self.lifetime_seconds_max });
        }
        Ok(())
    }

    fn check_client(&self, claims: &Map<String, Value>) -> Result<(), Refusal> {
        let Some(clients) = &self.clients else { return Ok(()) };
        match client_id(claims) {
            Some(client) if clients.iter().any(|listed| listed == client) => Ok(()),
            other => Err(Refusal::WrongClient(shown(other.unwrap_or("missing")))),
        }
    }

    /// Who the claims speak of. Call it with claims that are proven and checked.
    pub(crate) fn principal(
        &self,
        claims: Map<String, Value>,
        auth_method: AuthMethod,
    ) -> Result<Principal, Refusal> {
        let exp = numeric_date(&claims, "exp")?.ok_or_else(|| missing("exp"))?;
        let claims_json = serde_json::to_string(&claims).map_err(|_| Refusal::Malformed("its claims"))?;
        let credential_id = ["jti", "uti"]
            .into_iter()
            .find_map(|name| claims.get(name)?.as_str())
            .filter(|id| id.len() <= CREDENTIAL_ID_BYTES_MAX);
        Ok(Principal {
            issuer: self.name.clone(),
            subject: Personal::from(subject(&claims)?),
            kind: self.kind(&claims),
            email: self.email(&claims)?,
            groups: self.groups(&claims)?,
            client_id: client_id(&claims).map(Into::into),
            actors: actors(&claims)?,
            credential_id: credential_id.map(Into::into),
            // The leeway is part of the time for which the token is accepted, so a session has it too.
            expires_at: Some(Timestamp::from_seconds(exp.saturating_add(self.leeway_seconds))),
            auth_method,
            claims,
            claims_json: Arc::from(claims_json),
        })
    }

    fn kind(&self, claims: &Map<String, Value>) -> PrincipalKind {
        match &self.kind {
            KindRule::Constant(kind) => *kind,
            KindRule::Told => told_kind(claims),
            KindRule::Claim(path, rule) => path
                .find(claims)
                .and_then(Value::as_str)
                .and_then(|value| rule.values.get(value).copied())
                .or(rule.default)
                .map_or_else(|| told_kind(claims), |kind| kind.kind()),
        }
    }

    fn email(&self, claims: &Map<String, Value>) -> Result<Option<Personal>, Refusal> {
        // Cognito and some others write the boolean as text.
        let unverified = match claims.get("email_verified") {
            Some(Value::Bool(verified)) => !verified,
            Some(Value::String(text)) => text != "true",
            _ => false,
        };
        match self.email.find(claims) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(_)) if unverified => Ok(None),
            Some(Value::String(email)) if plain(email) => Ok(Some(Personal::from(email.as_str()))),
            Some(_) => Err(Refusal::BadClaim(self.email.to_string(), "is not a plain text")),
        }
    }

    /// A groups claim that cannot be read is a refusal, not "no groups": a deny rule may be about one.
    fn groups(&self, claims: &Map<String, Value>) -> Result<Vec<Box<str>>, Refusal> {
        let unusable = || Refusal::BadClaim(self.groups.to_string(), "is not a list of plain texts");
        match self.groups.find(claims) {
            None | Some(Value::Null) => {
                let moved = claims.get("_claim_names").and_then(Value::as_object);
                let overage = moved.is_some_and(|names| names.contains_key(self.groups.first()))
                    || claims.get("hasgroups") == Some(&Value::Bool(true));
                if overage { Err(Refusal::GroupsOverage) } else { Ok(Vec::new()) }
            }
            Some(Value::String(group)) if plain(group) => Ok(vec![group.as_str().into()]),
            Some(Value::Array(list)) => list
                .iter()
                .map(|group| group.as_str().filter(|group| plain(group)).map(Into::into).ok_or_else(unusable))
                .collect(),
            Some(_) => Err(unusable()),
        }
    }
}

/// Where a claim is.
#[derive(Debug)]
struct ClaimPath(Vec<String>);

impl ClaimPath {
    fn parse(text: &str) -> Self {
        if let Some(pointer) = text.strip_prefix('/') {
            return Self(pointer.split('/').map(|step| step.replace("~1", "/").replace("~0", "~")).collect());
        }
        // Auth0 wants custom claims to be named by URLs, which have dots of their own.
        if text.contains("://") {
            return Self(vec![text.to_owned()]);
        }
        Self(text.split('.').map(str::to_owned).collect())
    }

    fn find<'a>(&self, claims: &'a Map<String, Value>) -> Option<&'a Value> {
        let mut steps = self.0.iter();
        let first = claims.get(steps.next()?)?;
        steps.try_fold(first, |value, step| value.as_object()?.get(step))
    }

    fn first(&self) -> &str {
        self.0.first().map_or("", String::as_str)
    }
}

impl std::fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// What the token itself says of its subject's kind.
fn told_kind(claims: &Map<String, Value>) -> PrincipalKind {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    // RFC 9068, 2.2: of a client's own token, the subject is the client. Auth0 adds `@clients`.
    let own = client_id(claims)
        .zip(text("sub"))
        .is_some_and(|(client, sub)| sub.strip_suffix("@clients").unwrap_or(sub) == client);
    if own || text("idtyp") == Some("app") || text("gty") == Some("client-credentials") {
        PrincipalKind::Service
    } else {
        PrincipalKind::User
    }
}

/// The client, as RFC 9068, OpenID Connect, Entra ID v1 and Okta spell it.
fn client_id(claims: &Map<String, Value>) -> Option<&str> {
    ["client_id", "azp", "appid", "cid"].into_iter().find_map(|name| claims.get(name)?.as_str())
}

fn subject(claims: &Map<String, Value>) -> Result<&str, Refusal> {
    match claims.get("sub") {
        Some(Value::String(sub)) if plain(sub) && sub.len() <= SUBJECT_BYTES_MAX => Ok(sub),
        Some(_) => Err(Refusal::BadClaim("sub".to_owned(), "is not a plain text of 1 to 255 bytes")),
        None => Err(missing("sub")),
    }
}

/// Reads the chain of RFC 8693, 4.1, nearest first.
fn actors(claims: &Map<String, Value>) -> Result<Vec<Actor>, Refusal> {
    let bad = |why| Refusal::BadClaim("act".to_owned(), why);
    let mut actors = Vec::new();
    let mut next = claims.get("act");
    while let Some(value) = next {
        if actors.len() == ACTORS_MAX {
            return Err(bad("is a chain of more than 8 actors"));
        }
        let actor = value.as_object().ok_or_else(|| bad("is not an object"))?;
        let subject = actor.get("sub").and_then(Value::as_str).filter(|sub| plain(sub));
        let subject = subject.ok_or_else(|| bad("has an actor without a plain sub"))?;
        actors.push(Actor {
            issuer: actor.get("iss").and_then(Value::as_str).map(Into::into),
            subject: Personal::from(subject),
        });
        next = actor.get("act");
    }
    Ok(actors)
}

/// RFC 7519, 2: seconds since the epoch; a fraction is cut off.
fn numeric_date(claims: &Map<String, Value>, name: &str) -> Result<Option<i64>, Refusal> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = match (value.as_i64(), value.as_f64()) {
        (Some(seconds), _) => seconds,
        #[expect(clippy::cast_possible_truncation, reason = "cutting the fraction is the purpose")]
        (None, Some(seconds)) => seconds as i64,
        (None, None) => -1,
    };
    if (0..=SECONDS_MAX).contains(&seconds) {
        return Ok(Some(seconds));
    }
    Err(Refusal::BadClaim(name.to_owned(), "is not a time in seconds"))
}

fn plain(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control)
}

fn missing(claim: &str) -> Refusal {
    Refusal::BadClaim(claim.to_owned(), "is missing")
}
