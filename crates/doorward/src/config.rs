//! The root of the configuration: reads the file and its overlays, gives each section to the crate that
//! owns it, and compiles what can be compiled offline. Opening what it names is `wiring.rs`'s work.
//!
//! Invariant: nothing here touches the network, so `doorward check` tells the truth on a laptop.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use doorward_audit::config::{AuditConfig, OtlpConfig, PersonalConfig, Retention, SpoolConfig, StoreUrl};
use doorward_audit::log::config::{CheckpointsConfig, PeersConfig};
use doorward_audit::sinks::SinkConfig;
use doorward_core::{ConfigDigest, Deadlines, ResourceName};
use doorward_http::config::{LimitsConfig, TlsConfig};
use doorward_identity::config::{
    ApiKeysConfig, CertificatesConfig, IdentityConfig, IssuerConfig, MintedLoginsConfig,
};
use doorward_lease::config::VaultConfig;
use doorward_policy::config::{DenyConfig, GrantConfig};
use doorward_policy::{Compiled, Limiter, Sources};
use doorward_redact::{RedactConfig, RedactError, Redactor};
use doorward_settings::{Document, HumanDuration, Node, Problem, Problems, SecretRef, Spanned, suggest};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::doors::{self, Door};

/// The version of the configuration's form that this program reads.
const VERSION: u64 = 1;

/// First path segments that the gateway keeps for itself.
const RESERVED: &[&str] = &[
    "aws",
    "sts",
    "oauth",
    "mcp",
    "gateway",
    "healthz",
    "readyz",
    "metrics",
    "console",
    "api",
    "well-known",
];

/// The configuration of a gateway.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// The version of this file's form: 1.
    pub version: Spanned<u64>,
    /// The environment's name, in every record.
    #[serde(default = "default_environment")]
    pub environment: String,
    /// Where the gateway listens.
    #[serde(default)]
    pub listen: ListenConfig,
    /// The certificate that the HTTP listener shows, and the authorities of client certificates.
    pub tls: Option<TlsConfig>,
    /// Bounds on connections, headers and time.
    #[serde(default)]
    pub http: LimitsConfig,
    /// Who vouches for callers, by the name that grants use.
    #[serde(default)]
    pub issuers: BTreeMap<String, Spanned<IssuerConfig>>,
    /// API keys of the gateway itself.
    pub api_keys: Option<ApiKeysConfig>,
    /// Client certificates.
    pub certificates: Option<CertificatesConfig>,
    /// Short-lived logins for clients of the Postgres door that know no tokens.
    #[serde(default)]
    pub minted_logins: MintedLoginsConfig,
    /// OAUTHBEARER at the Postgres door, for libpq 18 and later.
    #[serde(default)]
    pub oauth: OAuthConfig,
    /// Accept tokens over transports that do not hide them.
    #[serde(default)]
    pub dangerous_plaintext_tokens: bool,
    /// The backends, by name: `[a-z][a-z0-9-]*`.
    #[schemars(with = "BTreeMap<String, doors::ResourceSchema>")]
    #[serde(rename = "resources")]
    _resources: IgnoredAny,
    /// Who may do what. The first grant in this order that allows all of a call decides it.
    #[schemars(with = "BTreeMap<String, GrantConfig>")]
    #[serde(rename = "grants", default)]
    _grants: IgnoredAny,
    /// What is forbidden, whatever the grants say.
    #[schemars(with = "BTreeMap<String, DenyConfig>")]
    #[serde(rename = "deny", default)]
    _deny: IgnoredAny,
    /// How long a session may finish its transaction after its token has expired.
    pub session_grace: Option<HumanDuration>,
    /// HashiCorp Vault or OpenBao, from which backend logins come.
    pub vault: Option<VaultConfig>,
    /// Where records are kept.
    #[serde(default)]
    pub store: StoreUrl,
    /// The local durable log that records pass through.
    #[serde(default)]
    pub spool: SpoolConfig,
    /// For how long records are kept.
    #[serde(default)]
    pub retention: Retention,
    /// What is taken out of texts before they enter a record.
    #[serde(default)]
    pub redact: RedactConfig,
    /// Personal data in records: what is sealed, and where the keys are.
    #[serde(default)]
    pub personal: PersonalConfig,
    /// How the log of records is signed, and who keeps its checkpoints.
    #[serde(default)]
    pub checkpoints: CheckpointsConfig,
    /// Cosigns the checkpoints of other gateways, as their witness.
    pub peers: Option<PeersConfig>,
    /// Where records go beside the store, by names of your choice.
    #[serde(default)]
    pub sinks: BTreeMap<String, SinkConfig>,
    /// Where traces are sent.
    pub otlp: Option<OtlpConfig>,
}

impl Root {
    /// Identity's part.
    pub fn identity(&self) -> IdentityConfig {
        IdentityConfig {
            issuers: self.issuers.clone(),
            api_keys: self.api_keys.clone(),
            certificates: self.certificates.clone(),
            minted_logins: self.listen.postgres.map(|_| MintedLoginsConfig {
                own_key: Some(crate::minting::own_key(&self.spool.dir)),
                ..self.minted_logins.clone()
            }),
            dangerous_plaintext_tokens: self.dangerous_plaintext_tokens,
        }
    }

    /// The files that it refers to, whose change asks for a reload: certificates, keys of logins, the API key file.
    pub fn files(&self) -> Vec<PathBuf> {
        let tls = self.tls.iter().flat_map(|tls| [Some(&tls.cert), Some(&tls.key), tls.client_ca.as_ref()]);
        let tls = tls.flatten().filter_map(|source| source.file().map(Path::to_owned));
        let logins = self.minted_logins.key.iter().chain(&self.minted_logins.old_keys);
        let logins = logins.filter_map(|source| source.file().map(Path::to_owned));
        tls.chain(self.api_keys.iter().map(ApiKeysConfig::path)).chain(logins).collect()
    }

    /// Audit's part.
    pub fn audit(&self) -> AuditConfig {
        AuditConfig {
            store: self.store.clone(),
            spool: self.spool.clone(),
            retention: self.retention.clone(),
            sinks: self.sinks.clone(),
            personal: self.personal.clone(),
            checkpoints: self.checkpoints.clone(),
            ..AuditConfig::default()
        }
    }

    /// The road's timeouts.
    pub fn deadlines(&self) -> Deadlines {
        self.session_grace.map_or_else(Deadlines::default, |grace| Deadlines { session_grace: grace.get() })
    }
}

/// OAUTHBEARER (RFC 7628): a client without a token is told at which issuer to get one.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OAuthConfig {
    /// The issuer, by its name under `issuers`; left out, the only one.
    pub issuer: Option<Spanned<String>>,
    /// The scope that clients should ask for: `openid` unless told otherwise.
    pub scope: Option<String>,
    /// To whom it is offered.
    pub offer: OAuthOffering,
}

/// To whom OAUTHBEARER is offered. A server can ask for one way of authentication only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OAuthOffering {
    /// Clients that ask for it, with `-c doorward.auth=oauth` among their options.
    #[default]
    Asked,
    /// All that do not ask for something else: clients that know passwords only then say `doorward.auth=password`.
    Always,
}

/// Where the gateway listens.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenConfig {
    /// The doors: REST. `ADDRESS:PORT`; port 0 takes a free one.
    #[serde(default = "default_http")]
    #[schemars(with = "String")]
    pub http: SocketAddr,
    /// The PostgreSQL wire protocol: `psql` and any driver, with a token as the password. Over a network tokens
    /// are taken through TLS only. Nothing listens when it is not set.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub postgres: Option<SocketAddr>,
    /// Syslog messages for resources of the ingest door: RFC 5424 over TLS, with client certificates; plain
    /// TCP on loopback. Nothing listens when it is not set.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub syslog: Option<SocketAddr>,
    /// Metrics and health. Keep it on loopback, or behind a firewall.
    #[serde(default = "default_admin")]
    #[schemars(with = "String")]
    pub admin: SocketAddr,
}

impl Default for ListenConfig {
    fn default() -> Self {
        Self { http: default_http(), postgres: None, syslog: None, admin: default_admin() }
    }
}

fn default_http() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8080))
}

fn default_admin() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9090))
}

fn default_environment() -> String {
    "default".to_owned()
}

/// One configured backend, before it is opened.
#[derive(Clone, Debug)]
pub struct ResourceEntry {
    /// Its name.
    pub name: ResourceName,
    /// The door that serves it, by the scheme of its URL.
    pub door: &'static Door,
    /// Its section.
    pub node: Node,
}

/// A configuration that has been read, checked and compiled offline.
#[derive(Debug)]
pub struct Config {
    /// Identifies it in every record.
    pub digest: ConfigDigest,
    /// The top-level keys.
    pub root: Root,
    /// The backends.
    pub resources: Vec<ResourceEntry>,
    /// The grants and deny rules.
    pub policy: Arc<Compiled>,
    /// What records may keep.
    pub redactor: Arc<Redactor>,
    document: Document,
}

impl Config {
    /// Reads, checks and compiles the configuration. Limits count in `limiter`, so that they outlive a
    /// reload. Blocks on the disk.
    pub fn read(files: &[PathBuf], limiter: Arc<Limiter>) -> Result<Self, Problems> {
        let document = Document::load(files)?;
        Self::compile(&document, limiter)
    }

    /// Checks and compiles a parsed configuration.
    pub fn compile(document: &Document, limiter: Arc<Limiter>) -> Result<Self, Problems> {
        let node = document.root();
        let mut problems = Problems::new();
        let root: Option<Root> = problems.take(node.deserialize());
        if let Some(root) = &root {
            check_version(&root.version, &mut problems);
            problems.append(doorward_identity::Plan::check(&root.identity()));
            problems.append(crate::postgres::check(root, node));
            problems.append(crate::syslog::check(root, node));
            problems.append(crate::peers::check(root, node));
            let peers = root.peers.as_ref().and_then(PeersConfig::problem);
            let vault = root.vault.as_ref().and_then(VaultConfig::problem);
            for (key, text) in root.audit().problem().into_iter().chain(peers).chain(vault) {
                problems.push(placed(node, key, &text));
            }
        }
        let redactor = root.as_ref().map(|root| compile_redactor(&root.redact, node));
        let redactor = redactor.and_then(|redactor| problems.take(redactor));
        let resources = read_resources(node.get("resources"), &mut problems);
        problems.append(crate::logins::check(node, &resources));
        // Grants may speak of a resource whose own section is wrong; that is said once, where it is wrong.
        let named = node.get("resources").map(Node::entries).unwrap_or_default();
        let names: Vec<ResourceName> = named.iter().map(|entry| ResourceName::new(&*entry.key)).collect();
        let sources = Sources { grants: node.get("grants"), deny: node.get("deny"), resources: &names };
        let policy = match doorward_policy::compile(sources, limiter) {
            Ok(policy) => Some(policy),
            Err(more) => {
                problems.append(more);
                None
            }
        };
        match (root, policy, redactor) {
            (Some(root), Some(policy), Some(redactor)) if problems.is_empty() => {
                let (digest, document) = (document.digest(), document.clone());
                let (policy, redactor) = (Arc::new(policy), Arc::new(redactor));
                Ok(Self { digest, root, resources, policy, redactor, document })
            }
            _ => Err(problems),
        }
    }
}

/// A problem at the innermost key that it names: first `key` (`a.b[0].c`), then each `NAME: ` at the text's start.
fn placed(root: &Node, key: &str, text: &str) -> Problem {
    let step = |node: &'_ Node, name: &str| -> Option<Node> {
        let Some((name, index)) = name.strip_suffix(']').and_then(|name| name.split_once('[')) else {
            return node.get(name).cloned();
        };
        node.get(name)?.items().get(index.parse::<usize>().ok()?).cloned()
    };
    let (mut node, mut rest, mut text) = (root.clone(), Vec::new(), text);
    for name in key.split('.') {
        match step(&node, name).filter(|_| rest.is_empty()) {
            Some(inner) => node = inner,
            None => rest.push(name),
        }
    }
    while let Some((inner, more)) =
        text.split_once(": ").and_then(|(name, more)| Some((node.get(name)?.clone(), more)))
    {
        (node, text) = (inner, more);
    }
    match rest.is_empty() {
        true => node.problem(text),
        false => node.problem(format!("{}: {text}", rest.join("."))),
    }
}

impl Config {
    /// Reads the key of hashed values. Blocks on the disk.
    pub(crate) fn keyed(redactor: &Redactor, key: &SecretRef) -> Result<(), Problem> {
        let secret = key.read()?;
        redactor.key(&secret).map_err(|error| key.problem(error.text))
    }

    /// Identifies what a top-level key says; `None` when it is not there.
    pub fn section(&self, key: &str) -> Option<String> {
        self.document.root().get(key).map(Node::fingerprint)
    }

    /// Warnings of grants that name no backend role, on resources whose door needs one.
    pub fn grants_without_role(&self) -> Vec<String> {
        let needs_role = |action: &String| {
            let resource = action.split(' ').nth(1).and_then(|target| target.split('/').next());
            self.resources.iter().any(|entry| entry.door.needs_role && resource == Some(entry.name.as_str()))
        };
        let grants = self.policy.rules().grants;
        let bare = grants.iter().filter(|grant| grant.role.is_none() && grant.actions.iter().any(needs_role));
        bare.map(|grant| format!("{}: {}: names no backend role; add `as: ROLE`", grant.position, grant.name))
            .collect()
    }

    /// Warnings of one backend role that is used on several resources: a change of it on one is easily
    /// taken for a change on all.
    pub fn shared_roles(&self) -> Vec<String> {
        let mut by_role: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (role, resource) in self.policy.roles() {
            let resources = by_role.entry(role.as_str()).or_default();
            if !resources.contains(&resource.as_str()) {
                resources.push(resource.as_str());
            }
        }
        by_role
            .into_iter()
            .filter(|(_, resources)| resources.len() > 1)
            .map(|(role, resources)| format!("the backend role {role} is shared by {}", resources.join(", ")))
            .collect()
    }
}

fn compile_redactor(config: &RedactConfig, root: &Node) -> Result<Redactor, Problem> {
    Redactor::new(config).map_err(|error: RedactError| {
        let text = error.to_string();
        let (key, text) = text.split_once(": ").unwrap_or(("redact", &text));
        placed(root, key, text)
    })
}

fn check_version(version: &Spanned<u64>, problems: &mut Problems) {
    if *version.get() != VERSION {
        problems.push(version.problem(format!("this program reads version {VERSION} of the configuration")));
    }
}

fn read_resources(node: Option<&Node>, problems: &mut Problems) -> Vec<ResourceEntry> {
    let Some(node) = node else { return Vec::new() };
    let mut resources = Vec::new();
    for entry in node.entries() {
        if let Some(problem) = bad_name(&entry.key).map(|why| entry.problem(why)) {
            problems.push(problem);
            continue;
        }
        let Some(door) = problems.take(door_of(&entry.value)) else { continue };
        if problems.take((door.check)(&entry.value)).is_none() {
            continue;
        }
        let name = ResourceName::new(&*entry.key);
        resources.push(ResourceEntry { name, door, node: entry.value.clone() });
    }
    resources
}

fn bad_name(name: &str) -> Option<String> {
    let good = name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.len() <= 63
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !good {
        return Some("a resource's name is a lower-case letter and then letters, digits and `-`".to_owned());
    }
    RESERVED
        .contains(&name)
        .then(|| format!("`/{name}` is one of the gateway's own paths; choose another name"))
}

fn door_of(node: &Node) -> Result<&'static Door, Problem> {
    let url = node.as_str().or_else(|| node.get("url").and_then(Node::as_str));
    let Some(url) = url else {
        return Err(node.problem("a resource needs a `url`, for example `postgres://db.internal/shop`"));
    };
    // `ingest:kong` has no place in the network to speak of.
    let scheme = url.split_once("://").or_else(|| url.split_once(':')).map_or("", |(scheme, _)| scheme);
    if let Some(door) = doors::DOORS.iter().find(|door| door.schemes.contains(&scheme)) {
        return Ok(door);
    }
    let at = node.get("url").unwrap_or(node);
    if let Some((_, what)) = doors::LATER_SCHEMES.iter().find(|(later, _)| *later == scheme) {
        return Err(at.problem(format!(
            "`{scheme}://` is not available in this version yet: {what} will come with a later one"
        )));
    }
    let known = || doors::DOORS.iter().flat_map(|door| door.schemes.iter().copied());
    let problem = at.problem(format!("no door serves `{scheme}://`"));
    let hint = suggest(scheme, known())
        .unwrap_or_else(|| format!("known schemes: {}", known().collect::<Vec<_>>().join(", ")));
    Err(problem.hint(hint))
}
