//! The configuration of identity: who vouches for callers, and where their claims are.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use doorward_core::PrincipalKind;
use doorward_settings::{HumanDuration, SecretRef, Spanned};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

/// All of identity. The binary puts it together of its top-level keys.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentityConfig {
    /// OpenID Connect / OAuth 2 issuers, by the name that grants and records use for them.
    #[serde(default)]
    pub issuers: BTreeMap<String, Spanned<IssuerConfig>>,
    /// API keys of the gateway itself.
    pub api_keys: Option<ApiKeysConfig>,
    /// Client certificates (mTLS).
    pub certificates: Option<CertificatesConfig>,
    /// Logins that the gateway mints for its Postgres door; `None` where it has no such door.
    pub minted_logins: Option<MintedLoginsConfig>,
    /// Accept tokens and API keys over transports that do not hide them (plain HTTP from another machine).
    #[serde(default)]
    pub dangerous_plaintext_tokens: bool,
}

/// Short-lived logins for clients that know no tokens: a user name and a password for SCRAM-SHA-256 at the Postgres
/// door. The user name carries who it is for, sealed; nothing is kept, so gateways with the same key take each
/// other's.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MintedLoginsConfig {
    /// For how long a login opens sessions: 15m unless told otherwise, at most 12h, and never longer than the token
    /// that it was minted for. A session lives as long as one that the token itself has opened.
    pub ttl: Option<Spanned<HumanDuration>>,
    /// The key under which logins are sealed: 32 random bytes as base64 or hex. Left out, the gateway makes one and
    /// keeps it in `login.key` beside the spool's folder; gateways behind one name share theirs.
    pub key: Option<SecretRef>,
    /// Keys of before, whose logins still count; at most 16.
    pub old_keys: Vec<SecretRef>,
    /// Where the gateway's own key is.
    #[serde(skip)]
    pub own_key: Option<PathBuf>,
}

/// One issuer of access tokens.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// The issuer's identifier, exactly as its tokens' `iss` spells it (a trailing slash counts). Its
    /// metadata is found under it.
    pub url: Spanned<String>,
    /// Whom tokens must be issued for: one name, or a list of which one must match. The identifier that
    /// this gateway has at the issuer.
    pub audience: Spanned<OneOrMany>,
    /// The claim that must hold the audience, for issuers that send no `aud` (Amazon Cognito: `client_id`).
    #[serde(default = "default_audience_claim")]
    pub audience_claim: String,
    /// Where the groups are: a claim's name, a path with dots (`realm_access.roles`), or a JSON pointer
    /// (`/a/b`). A name with `://` in it is taken as it is.
    #[serde(default = "default_groups")]
    pub groups: String,
    /// Where the e-mail address is; written like `groups`. The address of a token
    /// that says `email_verified: false` is not used.
    #[serde(default = "default_email")]
    pub email: String,
    /// What kind of callers these are: one word for all, or a claim that tells. Left out, a token whose
    /// subject is its own client (or that says so: Entra's `idtyp`, Auth0's `gty`) is a service, any
    /// other a user.
    pub kind: Option<KindConfig>,
    /// Signature algorithms that this issuer may use; all that can be written here, unless told otherwise.
    #[serde(default = "default_algorithms")]
    pub algorithms: Spanned<Vec<Algorithm>>,
    /// Which tokens are accepted.
    #[serde(default)]
    pub token_type: TokenType,
    /// OAuth clients whose tokens are accepted; left out, all.
    pub clients: Option<Vec<String>>,
    /// How far the issuer's clock may be from ours: 30s unless told otherwise, at most 60s.
    #[serde(default = "default_leeway")]
    pub leeway: Spanned<HumanDuration>,
    /// Tokens that live longer are refused. The default, 30h, leaves room for the longest that Entra ID issues.
    #[serde(default = "default_lifetime_max")]
    pub lifetime_max: Spanned<HumanDuration>,
    /// Where the keys are, for issuers without metadata.
    pub jwks_url: Option<Spanned<String>>,
    /// Ask the issuer about tokens (RFC 7662).
    pub introspection: Option<Spanned<IntrospectionConfig>>,
    /// Let the issuer's URLs be `http://` on other machines than this one. Whoever is on the way between
    /// can then be anybody.
    #[serde(default)]
    pub dangerous_plaintext: bool,
}

/// How an issuer is asked about tokens.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IntrospectionConfig {
    /// The introspection endpoint.
    pub url: Spanned<String>,
    /// The gateway's client id there.
    pub client_id: String,
    /// The gateway's client secret there.
    pub client_secret: SecretRef,
    /// Which tokens it is asked about.
    #[serde(default)]
    pub tokens: IntrospectedTokens,
}

/// Which tokens an issuer is asked about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum IntrospectedTokens {
    /// Those that are not JWTs; JWTs are verified here.
    #[default]
    Opaque,
    /// All of the issuer's, JWTs too: a revoked one is then refused within a minute.
    All,
}

/// Which tokens of an issuer are accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TokenType {
    /// Access tokens, marked as such or not; what shows signs of being an ID, refresh or logout token is
    /// refused. For Entra ID, Auth0, Keycloak and others, which mark access tokens as plain `JWT`.
    #[default]
    Access,
    /// Only tokens that are marked `at+jwt` (RFC 9068). Best where the issuer marks them, as oidc-provider,
    /// Duende and newer Okta authorization servers do.
    #[serde(rename = "at+jwt")]
    AtJwt,
    /// ID tokens, for issuers whose access tokens are not for others (Google service identities, CI
    /// systems). Any login of the same audience is then accepted as a call.
    Id,
}

/// Signature algorithms. Symmetric ones and `none` cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Algorithm {
    /// RSA PKCS #1 v1.5 with SHA-256.
    RS256,
    /// RSA PKCS #1 v1.5 with SHA-384.
    RS384,
    /// RSA PKCS #1 v1.5 with SHA-512.
    RS512,
    /// RSA-PSS with SHA-256.
    PS256,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// ECDSA on P-384 with SHA-384.
    ES384,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl Algorithm {
    /// All of them: what an issuer may use unless its configuration says otherwise.
    pub const ALL: [Self; 7] =
        [Self::RS256, Self::RS384, Self::RS512, Self::PS256, Self::ES256, Self::ES384, Self::EdDsa];

    /// As `alg` spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    /// Reads an `alg`.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == text)
    }
}

/// A caller's kind, as the configuration and the API key file spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KindName {
    /// A person.
    User,
    /// A service with an identity of its own.
    Service,
    /// One run of a pipeline's task.
    Task,
    /// An AI agent.
    Agent,
}

impl KindName {
    /// As the road knows it.
    pub const fn kind(self) -> PrincipalKind {
        match self {
            Self::User => PrincipalKind::User,
            Self::Service => PrincipalKind::Service,
            Self::Task => PrincipalKind::Task,
            Self::Agent => PrincipalKind::Agent,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text {
            "user" => Some(Self::User),
            "service" => Some(Self::Service),
            "task" => Some(Self::Task),
            "agent" => Some(Self::Agent),
            _ => None,
        }
    }
}

/// How callers' kinds are told: `kind: service`, or a claim and what its values mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KindConfig {
    /// All the same.
    Constant(KindName),
    /// By a claim.
    Claim(KindByClaim),
}

/// A claim that tells a caller's kind.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KindByClaim {
    /// Where the claim is; written like `groups`.
    pub claim: String,
    /// Its values, and the kind that each means.
    pub values: BTreeMap<String, KindName>,
    /// The kind when the claim is missing or has another value; left out, as if `kind` were.
    pub default: Option<KindName>,
}

/// One text or a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneOrMany(pub Vec<String>);

/// The gateway's own API keys.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKeysConfig {
    /// The file that holds their hashes, one JSON object a line; relative to this file's folder.
    pub file: Spanned<String>,
}

impl ApiKeysConfig {
    /// Where the file is: a relative path is relative to the folder of the configuration file.
    pub fn path(&self) -> PathBuf {
        let folder = Path::new(&*self.file.position().file).parent().unwrap_or(Path::new(""));
        folder.join(self.file.get())
    }
}

/// Who the holders of client certificates are. The TLS listener checks their chains; this says who they
/// are once it has.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificatesConfig {
    /// SPIFFE trust domains whose identities are accepted. Each is a service, without groups unless an
    /// entry gives it some.
    #[serde(default)]
    pub trust_domains: Vec<Spanned<String>>,
    /// What is known of single certificates; the first entry that matches counts.
    #[serde(default)]
    pub entries: Vec<Spanned<CertificateEntry>>,
}

/// One certificate's holder, or several: exactly one of `spiffe`, `dn` and `cn` is given.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateEntry {
    /// A SPIFFE ID; with `/**` at its end, all below it.
    pub spiffe: Option<String>,
    /// The whole subject as RFC 4514 writes it: `CN=loader,OU=etl,O=Corp`.
    pub dn: Option<String>,
    /// The subject's only common name.
    pub cn: Option<String>,
    /// The holder's kind.
    #[serde(default = "default_certificate_kind")]
    pub kind: KindName,
    /// The holder's groups.
    #[serde(default)]
    pub groups: Vec<String>,
    /// The holder's e-mail address.
    pub email: Option<String>,
}

fn default_audience_claim() -> String {
    "aud".to_owned()
}

fn default_groups() -> String {
    "groups".to_owned()
}

fn default_email() -> String {
    "email".to_owned()
}

fn default_algorithms() -> Spanned<Vec<Algorithm>> {
    unplaced(Algorithm::ALL.to_vec())
}

fn default_leeway() -> Spanned<HumanDuration> {
    unplaced(HumanDuration::new(std::time::Duration::from_secs(30)))
}

fn default_lifetime_max() -> Spanned<HumanDuration> {
    unplaced(HumanDuration::new(std::time::Duration::from_secs(30 * 3600)))
}

fn default_certificate_kind() -> KindName {
    KindName::Service
}

/// A default stands nowhere in the file, and is never the subject of a problem.
fn unplaced<T>(value: T) -> Spanned<T> {
    Spanned::new(value, doorward_settings::Position { file: "".into(), line: 0, column: 0 }, "")
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a list of texts")
            }

            fn visit_str<E>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<OneOrMany, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(OneOrMany(list))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl JsonSchema for OneOrMany {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "OneOrMany".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let text = json_schema!({ "type": "string", "minLength": 1 });
        json_schema!({ "anyOf": [text, { "type": "array", "items": text, "minItems": 1 }] })
    }
}

impl<'de> Deserialize<'de> for KindConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = KindConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("user, service, task, agent, or a mapping with `claim` and `values`")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<KindConfig, E> {
                KindName::parse(text)
                    .map(KindConfig::Constant)
                    .ok_or_else(|| E::custom("expected user, service, task or agent"))
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, members: A) -> Result<KindConfig, A::Error> {
                let members = serde::de::value::MapAccessDeserializer::new(members);
                KindByClaim::deserialize(members).map(KindConfig::Claim)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl JsonSchema for KindConfig {
    fn schema_name() -> Cow<'static, str> {
        "KindConfig".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (name, by_claim) =
            (generator.subschema_for::<KindName>(), generator.subschema_for::<KindByClaim>());
        json_schema!({
            "description": "One kind for all callers of the issuer, or a claim that tells.",
            "anyOf": [name, by_claim],
        })
    }
}
