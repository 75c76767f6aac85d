//! The compiled configuration: all that can be said to be wrong is said here, at load.

use doorward_core::Secret;
use doorward_settings::{Problem, Problems, Spanned};

use crate::api_key::{API_KEY_FILE_BYTES_MAX, API_KEY_ISSUER, ApiKeys};
use crate::certificate::{CERTIFICATE_ISSUER, Certificates};
use crate::config::{ApiKeysConfig, IdentityConfig, IntrospectedTokens, IssuerConfig, MintedLoginsConfig};
use crate::discovery::SourceId;
use crate::issuer::Issuer;
use crate::logins::{Logins, OLD_KEYS_MAX, TTL_MAX};
use crate::url;

/// A clock that is further off than this is broken.
const LEEWAY_SECONDS_MAX: u64 = 60;

/// A configuration that was found good, with its secrets read: what an
/// [`Identity`](crate::Identity) is made of.
pub struct Plan {
    pub(crate) issuers: Vec<PlannedIssuer>,
    pub(crate) api_keys: Option<ApiKeys>,
    pub(crate) certificates: Certificates,
    pub(crate) logins: Option<Logins>,
    pub(crate) plaintext_tokens: bool,
}

pub(crate) struct PlannedIssuer {
    pub(crate) issuer: Issuer,
    /// `None` when its tokens are only asked about.
    pub(crate) keys: Option<SourceId>,
    pub(crate) introspection: Option<PlannedIntrospection>,
}

pub(crate) struct PlannedIntrospection {
    pub(crate) url: String,
    pub(crate) client_id: String,
    pub(crate) client_secret: Secret,
    pub(crate) tokens: IntrospectedTokens,
}

impl Plan {
    /// Says what is wrong with a configuration without reading secrets or the key file.
    pub fn check(config: &IdentityConfig) -> Problems {
        let mut problems = Problems::new();
        check_issuers(config, &mut problems);
        if let Some(logins) = &config.minted_logins {
            check_logins(logins, &mut problems);
        }
        if let Some(certificates) = &config.certificates {
            Certificates::compile(certificates, &mut problems);
        }
        problems
    }

    /// Compiles a configuration and reads what it refers to. Blocks: at load only.
    pub fn load(config: &IdentityConfig) -> Result<Self, Problems> {
        let mut problems = Self::check(config);
        let issuers = config
            .issuers
            .iter()
            .filter_map(|(name, issuer)| problems.take(PlannedIssuer::load(name, issuer)))
            .collect();
        let api_keys = config.api_keys.as_ref().and_then(|keys| problems.take(load_api_keys(keys)));
        // What is wrong with certificates is among the problems already.
        let certificates = config.certificates.as_ref();
        let certificates = certificates
            .map(|config| Certificates::compile(config, &mut Problems::new()))
            .unwrap_or_default();
        let logins =
            config.minted_logins.as_ref().and_then(|logins| problems.take(Logins::load(logins))).flatten();
        let plaintext_tokens = config.dangerous_plaintext_tokens;
        problems.or(Self { issuers, api_keys, certificates, logins, plaintext_tokens })
    }
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan").field("issuers", &self.issuers.len()).finish_non_exhaustive()
    }
}

impl PlannedIssuer {
    fn load(name: &str, config: &IssuerConfig) -> Result<Self, Problem> {
        let introspection = match &config.introspection {
            None => None,
            Some(asked) => Some(PlannedIntrospection {
                url: asked.url.get().clone(),
                client_id: asked.client_id.clone(),
                client_secret: asked.client_secret.read()?,
                tokens: asked.tokens,
            }),
        };
        let only_asked = introspection.as_ref().is_some_and(|asked| asked.tokens == IntrospectedTokens::All);
        let keys = (!only_asked).then(|| SourceId {
            issuer: config.url.get().as_str().into(),
            jwks_url: config.jwks_url.as_ref().map(|url| url.get().as_str().into()),
            plaintext: config.dangerous_plaintext,
        });
        Ok(Self { issuer: Issuer::compile(name, config), keys, introspection })
    }
}

fn check_logins(logins: &MintedLoginsConfig, problems: &mut Problems) {
    if let Some(ttl) = &logins.ttl
        && !(1..=TTL_MAX.as_secs()).contains(&ttl.get().get().as_secs())
    {
        problems.push(ttl.problem("logins count for 1s to 12h"));
    }
    if let Some(key) = logins.old_keys.get(OLD_KEYS_MAX) {
        problems.push(key.problem("`old_keys` has more than 16 keys: take away those whose logins are over"));
    }
}

fn check_issuers(config: &IdentityConfig, problems: &mut Problems) {
    let mut urls: Vec<&str> = Vec::new();
    let mut asked_about_opaque_tokens = false;
    for (name, issuer) in &config.issuers {
        check_name(name, issuer, problems);
        check_issuer(issuer, problems);
        if urls.contains(&issuer.url.get().as_str()) {
            problems.push(
                issuer.url.problem("another issuer has the same url; give one issuer a list of audiences"),
            );
        }
        urls.push(issuer.url.get());
        if let Some(asked) = &issuer.introspection {
            // An opaque token does not say whose it is, and one issuer's must not be shown to another.
            if asked_about_opaque_tokens && asked.tokens == IntrospectedTokens::Opaque {
                problems.push(
                    asked
                        .problem("only one issuer can be asked about opaque tokens")
                        .hint("set tokens: all at the issuers whose tokens are JWTs"),
                );
            }
            asked_about_opaque_tokens |= asked.tokens == IntrospectedTokens::Opaque;
        }
    }
}

fn check_name(name: &str, issuer: &Spanned<IssuerConfig>, problems: &mut Problems) {
    if [API_KEY_ISSUER, CERTIFICATE_ISSUER, "none"].contains(&name) {
        problems.push(issuer.problem(format!("the issuer name \"{name}\" is the gateway's own")));
    }
    let mut bytes = name.bytes();
    let begins = bytes.next().is_some_and(|byte| byte.is_ascii_lowercase());
    if !begins || !bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
        problems.push(issuer.problem("an issuer's name is of lower-case letters, digits and hyphens"));
    }
}

fn check_issuer(issuer: &IssuerConfig, problems: &mut Problems) {
    let plaintext = issuer.dangerous_plaintext;
    let urls = [
        Some(&issuer.url),
        issuer.jwks_url.as_ref(),
        issuer.introspection.as_ref().map(|introspection| &introspection.url),
    ];
    for url in urls.into_iter().flatten() {
        if let Err(why) = url::vet(url, plaintext) {
            problems.push(url.problem(format!("the url {why}")));
        }
    }
    if issuer.url.contains('?') {
        problems.push(issuer.url.problem("an issuer's url has no query"));
    }
    let audiences = &issuer.audience.get().0;
    if audiences.is_empty() || audiences.iter().any(String::is_empty) {
        problems.push(issuer.audience.problem("an audience is needed: whom the tokens must be issued for"));
    }
    if issuer.algorithms.is_empty() {
        problems.push(issuer.algorithms.problem("at least one algorithm is needed"));
    }
    if issuer.leeway.get().get().as_secs() > LEEWAY_SECONDS_MAX {
        problems.push(issuer.leeway.problem("the leeway is at most 60s"));
    }
    if issuer.lifetime_max.get().get().as_secs() == 0 {
        problems.push(issuer.lifetime_max.problem("no token lives that short"));
    }
}

fn load_api_keys(config: &ApiKeysConfig) -> Result<ApiKeys, Problem> {
    let file = &config.file;
    let path = config.path();
    let cannot = |why: String| file.problem(format!("the API key file {}: {why}", path.display()));
    let size = std::fs::metadata(&path).map_err(|error| cannot(error.to_string()))?.len();
    if size > API_KEY_FILE_BYTES_MAX {
        return Err(cannot(format!("it has {size} bytes, more than {API_KEY_FILE_BYTES_MAX}")));
    }
    let text = std::fs::read_to_string(&path).map_err(|error| cannot(error.to_string()))?;
    ApiKeys::parse(&text).map_err(cannot)
}
