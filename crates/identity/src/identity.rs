//! The organ itself: what was shown → who it is.

use std::collections::HashMap;
use std::sync::Arc;

use doorward_core::{
    Arrival, AuthMethod, Authenticator, BoxFuture, Credentials, Fault, IssuerName, LoginWish, MintedLogin,
    MintedProof, NewLogin, Principal, Secret, Timestamp, no_logins,
};

use crate::api_key::{API_KEY_PREFIX, ApiKeys};
use crate::certificate::Certificates;
use crate::config::IntrospectedTokens;
use crate::introspect::Introspection;
use crate::issuer::Issuer;
use crate::jwks::{KeySource, KeySourceHealth, KeySources, NoKey};
use crate::keys::sha256;
use crate::logins::Logins;
use crate::plan::{Plan, PlannedIssuer};
use crate::refusal::{Refusal, shown};
use crate::token::{self, TOKEN_BYTES_MAX, Unverified};
use crate::verified::VerifiedTokens;

/// Why what an issuer vouched for once may count no longer.
const REMOVED: &str = "the issuer was removed, or no longer vouches for this audience or client";

/// Identity under one configuration.
pub struct Identity {
    /// By `iss`, to the last character.
    issuers: HashMap<Box<str>, Voucher>,
    by_name: HashMap<IssuerName, Box<str>>,
    /// The `iss` of the one who is asked about opaque tokens.
    opaque: Option<Box<str>>,
    api_keys: Option<ApiKeys>,
    certificates: Certificates,
    logins: Option<Logins>,
    plaintext_tokens: bool,
    verified: VerifiedTokens,
    public: Arc<Principal>,
}

/// An issuer, and how its tokens are proven.
struct Voucher {
    issuer: Issuer,
    keys: Option<Arc<KeySource>>,
    introspection: Option<Introspection>,
}

impl Identity {
    /// Puts identity to work. Key sets that an earlier configuration of the same `sources` used are kept.
    /// Must be called within a tokio runtime; returns at once, whether issuers are reachable or not.
    pub fn new(plan: Plan, sources: &KeySources) -> Self {
        let mut identity = Self {
            issuers: HashMap::new(),
            by_name: HashMap::new(),
            opaque: None,
            api_keys: plan.api_keys,
            certificates: plan.certificates,
            logins: plan.logins,
            plaintext_tokens: plan.plaintext_tokens,
            verified: VerifiedTokens::new(),
            public: Arc::new(Principal::public()),
        };
        for PlannedIssuer { issuer, keys, introspection } in plan.issuers {
            let url = issuer.url.clone();
            identity.by_name.insert(issuer.name.clone(), url.clone());
            if introspection.as_ref().is_some_and(|asked| asked.tokens == IntrospectedTokens::Opaque) {
                identity.opaque = Some(url.clone());
            }
            let introspection = introspection.map(|asked| {
                Introspection::new(
                    &asked.url,
                    &asked.client_id,
                    &asked.client_secret,
                    sources.fetch().clone(),
                )
            });
            let keys = keys.map(|id| sources.source(id));
            identity.issuers.insert(url, Voucher { issuer, keys, introspection });
        }
        identity
    }

    /// How the issuers' key sets are, by the issuers' names.
    pub fn health(&self) -> Vec<(IssuerName, KeySourceHealth)> {
        let vouchers = self.issuers.values();
        let mut health: Vec<_> = vouchers
            .filter_map(|voucher| Some((voucher.issuer.name.clone(), voucher.keys.as_ref()?.health())))
            .collect();
        health.sort_by(|(a, _), (b, _)| a.cmp(b));
        health
    }

    /// Proves a token that was not seen before.
    async fn prove(&self, token: &Secret, hash: [u8; 32], now: Timestamp) -> Result<Arc<Principal>, Refusal> {
        let text = token.expose();
        if text.len() > TOKEN_BYTES_MAX {
            return Err(Refusal::TooLarge(text.len()));
        }
        if !text.contains('.') {
            return self.ask_about_opaque(token, hash, now).await;
        }
        // All that can be checked without a key is checked before a key is looked for, and the issuer
        // is chosen before all else: only its rules and its keys count.
        let unverified = match token::parse(text) {
            Ok(unverified) => unverified,
            // Some opaque tokens have dots in them.
            Err(Refusal::Malformed(_)) if self.opaque.is_some() && text.split('.').count() != 3 => {
                return self.ask_about_opaque(token, hash, now).await;
            }
            Err(refusal) => return Err(refusal),
        };
        let voucher = self.voucher(&unverified)?;
        match (&voucher.keys, &voucher.introspection) {
            (Some(keys), _) => {
                voucher.issuer.check_token(&unverified, now)?;
                self.verify(&voucher.issuer, keys, unverified, hash).await
            }
            (None, Some(introspection)) => {
                voucher.issuer.check_token(&unverified, now)?;
                introspection.ask(&voucher.issuer, token, hash, now).await
            }
            (None, None) => Err(Refusal::Opaque),
        }
    }

    fn voucher(&self, token: &Unverified<'_>) -> Result<&Voucher, Refusal> {
        let iss = token.claims.get("iss").and_then(serde_json::Value::as_str);
        let iss = iss.ok_or_else(|| Refusal::BadClaim("iss".to_owned(), "is missing or not a text"))?;
        self.issuers.get(iss).ok_or_else(|| Refusal::UnknownIssuer(shown(iss)))
    }

    async fn verify(
        &self,
        issuer: &Issuer,
        source: &KeySource,
        token: Unverified<'_>,
        hash: [u8; 32],
    ) -> Result<Arc<Principal>, Refusal> {
        let name = || issuer.name.to_string();
        let kid = token.kid.as_deref();
        let keys = source.find(kid, token.algorithm).await.map_err(|no_key| match no_key {
            NoKey::Unknown => Refusal::UnknownKey(name(), kid.map_or_else(|| "(none)".to_owned(), shown)),
            NoKey::Unavailable { cause, retry_after } => {
                Refusal::IssuerUnavailable { issuer: name(), cause, retry_after }
            }
        })?;
        let verifying =
            keys.into_iter().find(|key| key.verifies(token.algorithm, token.signed, &token.signature));
        let key = verifying.ok_or_else(|| Refusal::BadSignature(name()))?;
        let principal = Arc::new(issuer.principal(token.claims, AuthMethod::Jwt)?);
        self.verified.keep(hash, principal.clone(), key);
        Ok(principal)
    }

    async fn ask_about_opaque(
        &self,
        token: &Secret,
        hash: [u8; 32],
        now: Timestamp,
    ) -> Result<Arc<Principal>, Refusal> {
        let voucher = self.opaque.as_ref().and_then(|url| self.issuers.get(url)).ok_or(Refusal::Opaque)?;
        let introspection = voucher.introspection.as_ref().ok_or(Refusal::Opaque)?;
        introspection.ask(&voucher.issuer, token, hash, now).await
    }

    /// Whoever has proven the password of a minted login is who the token that it was minted for said, under
    /// today's rules of that token's issuer.
    fn holder(&self, proof: &MintedProof, now: Timestamp) -> Result<Arc<Principal>, Refusal> {
        let sealed =
            self.logins.as_ref().filter(|_| proof.proven).and_then(|logins| logins.open(&proof.user));
        let sealed = sealed.ok_or(Refusal::WrongPassword)?;
        if sealed.expires_at <= now {
            return Err(Refusal::LoginExpired { at: sealed.expires_at.seconds(), now: now.seconds() });
        }
        let url = self.by_name.get(sealed.issuer.as_str());
        let voucher = url.and_then(|url| self.issuers.get(url));
        let voucher = voucher.filter(|voucher| voucher.issuer.still_accepts(&sealed.claims));
        let voucher = voucher.ok_or(Refusal::NoLongerAccepted(REMOVED))?;
        Ok(Arc::new(voucher.issuer.principal(sealed.claims, AuthMethod::Scram)?))
    }

    /// What can be answered at once, or the hash of a token that must be proven.
    fn at_once(
        &self,
        credentials: &Credentials,
        arrival: &Arrival,
        now: Timestamp,
    ) -> Result<Result<Arc<Principal>, [u8; 32]>, Refusal> {
        match credentials {
            Credentials::None => Ok(Ok(self.public.clone())),
            Credentials::Malformed(why) => Err(Refusal::MalformedCredentials(why)),
            Credentials::Certificate(certificate) => self.certificates.authenticate(certificate, now).map(Ok),
            // The password did not cross the wire, so the wire need hide nothing.
            Credentials::Minted(proof) => self.holder(proof, now).map(Ok),
            Credentials::Bearer(_) if !arrival.confidential && !self.plaintext_tokens => {
                Err(Refusal::Plaintext)
            }
            Credentials::Bearer(key) if key.expose().starts_with(API_KEY_PREFIX) => match &self.api_keys {
                Some(keys) => keys.authenticate(key, now).map(Ok),
                None => Err(Refusal::UnknownApiKey("no api_keys are configured".to_owned())),
            },
            // Not hashed: a token of that size is refused by its size.
            Credentials::Bearer(token) if token.expose().len() > TOKEN_BYTES_MAX => {
                Err(Refusal::TooLarge(token.expose().len()))
            }
            Credentials::Bearer(token) => {
                let hash = sha256(token.expose().as_bytes());
                Ok(self.verified.find(&hash, now).ok_or(hash))
            }
        }
    }
}

impl Authenticator for Identity {
    fn authenticate<'a>(
        &'a self,
        credentials: &'a Credentials,
        arrival: &'a Arrival,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<Arc<Principal>, Fault>> {
        let known = match self.at_once(credentials, arrival, now) {
            Ok(Ok(principal)) => Ok(principal),
            Err(refusal) => Err(refusal.into()),
            Ok(Err(hash)) => {
                return Box::pin(async move {
                    let Credentials::Bearer(token) = credentials else {
                        return Err(Refusal::MalformedCredentials("no token was sent").into());
                    };
                    self.prove(token, hash, now).await.map_err(Fault::from)
                });
            }
        };
        Box::pin(std::future::ready(known))
    }

    fn stands(&self, principal: &Principal, now: Timestamp) -> Result<(), Fault> {
        let (stands, why) = match principal.auth_method {
            AuthMethod::None => (true, ""),
            AuthMethod::Claimed => (false, "nothing was proven: the source of an imported record said so"),
            AuthMethod::Jwt | AuthMethod::Introspection | AuthMethod::Scram => {
                let url = self.by_name.get(&principal.issuer);
                let voucher = url.and_then(|url| self.issuers.get(url));
                let stands = voucher.is_some_and(|voucher| voucher.issuer.still_accepts(&principal.claims));
                (stands, REMOVED)
            }
            AuthMethod::ApiKey => {
                let stands = self.api_keys.as_ref().is_some_and(|keys| keys.stands(principal, now));
                (stands, "the API key was removed or changed, or has expired")
            }
            AuthMethod::Certificate => {
                (self.certificates.stands(principal), "the certificate's entry was removed or changed")
            }
        };
        if stands { Ok(()) } else { Err(Refusal::NoLongerAccepted(why).into()) }
    }

    fn minted(&self, user: &str) -> Option<MintedLogin> {
        self.logins.as_ref()?.minted(user)
    }

    fn mint(&self, principal: &Principal, wish: &LoginWish, now: Timestamp) -> Result<NewLogin, Fault> {
        let logins = self.logins.as_ref().ok_or_else(no_logins)?;
        logins.mint(principal, wish, now).map_err(Fault::from)
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("issuers", &self.by_name.keys()).finish_non_exhaustive()
    }
}
