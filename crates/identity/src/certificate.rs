//! Who the holder of a client certificate is.
//!
//! The TLS listener has checked the chain and that the client has the key. What is left: the certificate
//! is a leaf, is valid now, and names somebody who is configured, by SPIFFE ID (X.509-SVID) or by subject.
//! A certificate that has a SPIFFE ID is judged by that alone.

use std::sync::Arc;

use doorward_core::{
    AuthMethod, ClientCertificate, IssuerName, Personal, Principal, PrincipalKind, Timestamp, hex,
};
use doorward_settings::{Problems, Spanned};
use serde_json::{Map, Value};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::config::{CertificateEntry, CertificatesConfig, KindName};
use crate::dn;
use crate::keys::sha256;
use crate::refusal::{Refusal, shown};

/// The issuer of those who hold certificates; no configured issuer can have this name.
pub const CERTIFICATE_ISSUER: &str = "certificate";
/// SPIFFE-ID, 2.3.
const SPIFFE_ID_BYTES_MAX: usize = 2048;
const TRUST_DOMAIN_BYTES_MAX: usize = 255;
const SPIFFE: &str = "spiffe://";

/// The compiled configuration.
#[derive(Default)]
pub(crate) struct Certificates {
    trust_domains: Vec<String>,
    entries: Vec<Entry>,
}

struct Entry {
    pattern: Pattern,
    holder: Holder,
}

#[derive(Clone)]
struct Holder {
    kind: PrincipalKind,
    groups: Vec<Box<str>>,
    email: Option<String>,
}

enum Pattern {
    Spiffe(String),
    SpiffeBelow(String),
    Dn(String),
    Cn(String),
}

/// What a certificate says of its holder.
struct Subject {
    /// SPIFFE ID or distinguished name.
    name: String,
    spiffe: bool,
    common_name: Option<String>,
}

impl Certificates {
    pub(crate) fn compile(config: &CertificatesConfig, problems: &mut Problems) -> Self {
        for domain in config.trust_domains.iter().filter(|domain| !is_trust_domain(domain)) {
            problems.push(domain.problem("this is not a trust domain (lower-case, without spiffe://)"));
        }
        let trust_domains: Vec<String> =
            config.trust_domains.iter().map(|domain| domain.get().clone()).collect();
        let entries =
            config.entries.iter().filter_map(|entry| problems.take(Entry::compile(entry, &trust_domains)));
        Self { entries: entries.collect(), trust_domains }
    }

    /// Who holds the certificate.
    pub(crate) fn authenticate(
        &self,
        certificate: &ClientCertificate,
        now: Timestamp,
    ) -> Result<Arc<Principal>, Refusal> {
        let malformed = Refusal::MalformedCertificate;
        let (rest, parsed) =
            X509Certificate::from_der(&certificate.der).map_err(|_| malformed("it is not X.509"))?;
        if !rest.is_empty() {
            return Err(malformed("something follows it"));
        }
        if parsed.is_ca() {
            return Err(malformed("it is an authority's"));
        }
        let validity = parsed.validity();
        let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        if now.seconds() < not_before || now.seconds() > not_after {
            return Err(Refusal::CertificateExpired { not_before, not_after, now: now.seconds() });
        }
        let subject = subject(&parsed)?;
        let holder =
            self.holder(&subject).ok_or_else(|| Refusal::UnknownCertificate(shown(&subject.name)))?;
        let fingerprint = hex(&sha256(&certificate.der));
        Ok(Arc::new(principal(subject, holder, fingerprint, Timestamp::from_seconds(not_after))))
    }

    /// Whether a holder who was known once is still who they were.
    pub(crate) fn stands(&self, principal: &Principal) -> bool {
        let name = principal.subject.reveal();
        let common_name = principal.claims.get("cn").and_then(Value::as_str).map(str::to_owned);
        let subject = Subject { name: name.to_string(), spiffe: name.starts_with(SPIFFE), common_name };
        self.holder(&subject).is_some_and(|holder| {
            holder.groups == principal.groups
                && holder.kind == principal.kind
                && holder.email.as_deref() == principal.email.as_ref().map(|email| &**email.reveal())
        })
    }

    fn holder(&self, subject: &Subject) -> Option<Holder> {
        let trusted = |id: &str| {
            let domain = trust_domain(id);
            self.trust_domains.iter().any(|trusted| Some(trusted.as_str()) == domain)
        };
        if subject.spiffe && !trusted(&subject.name) {
            return None;
        }
        if let Some(entry) = self.entries.iter().find(|entry| entry.pattern.matches(subject)) {
            return Some(entry.holder.clone());
        }
        let service = KindName::Service.kind();
        subject.spiffe.then(|| Holder { kind: service, groups: Vec::new(), email: None })
    }
}

impl Entry {
    fn compile(
        entry: &Spanned<CertificateEntry>,
        trust_domains: &[String],
    ) -> Result<Self, doorward_settings::Problem> {
        let pattern = match (&entry.spiffe, &entry.dn, &entry.cn) {
            (Some(id), None, None) => {
                let exact = id.strip_suffix("/**");
                let bare = exact.unwrap_or(id);
                let whole_domain = exact.is_some() && bare.strip_prefix(SPIFFE).is_some_and(is_trust_domain);
                if !whole_domain && !is_spiffe_id(bare) {
                    return Err(entry.problem(format!("{id:?} is not a SPIFFE ID (spiffe://domain/path)")));
                }
                if !trust_domains.iter().any(|trusted| Some(trusted.as_str()) == trust_domain(bare)) {
                    return Err(entry.problem(format!("the trust domain of {id:?} is not in trust_domains")));
                }
                match exact {
                    Some(above) => Pattern::SpiffeBelow(format!("{above}/")),
                    None => Pattern::Spiffe(id.clone()),
                }
            }
            (None, Some(dn), None) if !dn.is_empty() => Pattern::Dn(dn.clone()),
            (None, None, Some(cn)) if !cn.is_empty() => Pattern::Cn(cn.clone()),
            _ => return Err(entry.problem("exactly one of spiffe, dn and cn is needed")),
        };
        let groups = entry.groups.iter().map(|group| group.as_str().into()).collect();
        let holder = Holder { kind: entry.kind.kind(), groups, email: entry.email.clone() };
        Ok(Self { pattern, holder })
    }
}

impl Pattern {
    fn matches(&self, subject: &Subject) -> bool {
        match self {
            Self::Spiffe(id) => subject.spiffe && subject.name == *id,
            Self::SpiffeBelow(above) => subject.spiffe && subject.name.starts_with(above.as_str()),
            Self::Dn(dn) => !subject.spiffe && subject.name == *dn,
            Self::Cn(cn) => !subject.spiffe && subject.common_name.as_deref() == Some(cn.as_str()),
        }
    }
}

/// X509-SVID, 2: exactly one URI, which is the SPIFFE ID. Other certificates are known by their subject.
fn subject(parsed: &X509Certificate<'_>) -> Result<Subject, Refusal> {
    let malformed = Refusal::MalformedCertificate;
    let names =
        parsed.subject_alternative_name().map_err(|_| malformed("its alternative names cannot be read"))?;
    let mut uris = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let (first, more) = (uris.next(), uris.next().is_some());
    let is_spiffe = |uri: &str| uri.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:"));
    let any_spiffe = first.is_some_and(is_spiffe) || (more && all_uris(parsed).any(is_spiffe));
    if any_spiffe {
        let id = first.filter(|id| !more && is_spiffe_id(id));
        let id = id.ok_or_else(|| malformed("its SPIFFE ID is malformed, or not its only URI"))?;
        return Ok(Subject { name: id.to_owned(), spiffe: true, common_name: None });
    }
    let name = dn::rfc4514(parsed.subject()).filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| malformed("it has neither a SPIFFE ID nor a subject"))?;
    Ok(Subject { name, spiffe: false, common_name: dn::common_name(parsed.subject()) })
}

fn all_uris<'a>(parsed: &'a X509Certificate<'_>) -> impl Iterator<Item = &'a str> {
    let names = parsed.subject_alternative_name().ok().flatten();
    names.into_iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    })
}

fn principal(subject: Subject, holder: Holder, fingerprint: String, not_after: Timestamp) -> Principal {
    let mut claims = Map::new();
    claims.insert("iss".to_owned(), Value::from(CERTIFICATE_ISSUER));
    claims.insert("sub".to_owned(), Value::from(subject.name.as_str()));
    if let Some(common_name) = subject.common_name {
        claims.insert("cn".to_owned(), Value::from(common_name));
    }
    if let Some(email) = &holder.email {
        claims.insert("email".to_owned(), Value::from(email.as_str()));
    }
    let groups: Vec<Value> = holder.groups.iter().map(|group| Value::from(&**group)).collect();
    claims.insert("groups".to_owned(), Value::from(groups));
    Principal {
        issuer: IssuerName::new(CERTIFICATE_ISSUER),
        subject: Personal::from(subject.name),
        kind: holder.kind,
        email: holder.email.map(Personal::from),
        groups: holder.groups,
        client_id: None,
        actors: Vec::new(),
        claims_json: Arc::from(Value::Object(claims.clone()).to_string()),
        claims,
        auth_method: AuthMethod::Certificate,
        credential_id: Some(fingerprint.into()),
        expires_at: Some(not_after),
    }
}

/// SPIFFE-ID, 2: `spiffe://trust-domain/segment/…`, nothing percent-encoded, no dot segments. The bare
/// trust domain names its authority, not a workload.
fn is_spiffe_id(id: &str) -> bool {
    let segment = |segment: &str| {
        !matches!(segment, "" | "." | "..")
            && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
    };
    id.len() <= SPIFFE_ID_BYTES_MAX
        && id
            .strip_prefix(SPIFFE)
            .and_then(|rest| rest.split_once('/'))
            .is_some_and(|(domain, path)| is_trust_domain(domain) && path.split('/').all(segment))
}

fn is_trust_domain(domain: &str) -> bool {
    let byte = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_');
    (1..=TRUST_DOMAIN_BYTES_MAX).contains(&domain.len()) && domain.bytes().all(byte)
}

fn trust_domain(id: &str) -> Option<&str> {
    id.strip_prefix(SPIFFE)?.split('/').next()
}
