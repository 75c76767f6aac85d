//! Client certificates: SPIFFE IDs, subjects, and forms that are not right.

use std::sync::Arc;

use doorward_core::{Authenticator, ClientCertificate, Credentials, Fault, Principal, Timestamp};
use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DnType, DnValue, IsCa, KeyPair, SanType};

use super::support::*;
use crate::{Identity, KeySources};

const YAML: &str = r#"
certificates:
  trust_domains: [corp.example]
  entries:
    - { spiffe: spiffe://corp.example/ns/etl/sa/loader, groups: [loaders], kind: task }
    - { spiffe: "spiffe://corp.example/ns/etl/**", groups: [etl] }
    - { dn: 'CN=loader,OU=etl,O=Corp\, Inc.', groups: [loaders], email: loader@corp.example }
    - { cn: sole, kind: agent }
"#;

fn identity() -> Identity {
    super::support::identity(YAML, &KeySources::new(Arc::new(Web::default())))
}

fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = rcgen::date_time_ymd(2026, 12, 1);
    params.not_after = rcgen::date_time_ymd(2027, 2, 1);
    params
}

fn with_uris(uris: &[&str]) -> CertificateParams {
    let mut params = params();
    let uri = |uri: &&str| SanType::URI(Ia5String::try_from(*uri).unwrap());
    params.subject_alt_names = uris.iter().map(uri).collect();
    params
}

fn with_subject(attributes: &[(DnType, &str)]) -> CertificateParams {
    let mut params = params();
    for (kind, value) in attributes {
        params.distinguished_name.push(kind.clone(), *value);
    }
    params
}

fn der(params: CertificateParams) -> Vec<u8> {
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

async fn show(identity: &Identity, der: Vec<u8>, now: Timestamp) -> Result<Arc<Principal>, Fault> {
    let credentials = Credentials::Certificate(ClientCertificate { der: der.into() });
    identity.authenticate(&credentials, &ARRIVAL, now).await
}

async fn check(params: CertificateParams, expected: &str) {
    let outcome = show(&identity(), der(params), NOW).await;
    let got = outcome.map(|principal| {
        let kind = principal.kind.as_str();
        format!("{kind} {} {}", principal.subject.reveal(), principal.groups.join(","))
    });
    let got = got.unwrap_or_else(|fault| fault.code().name.trim_start_matches("authenticate.").to_owned());
    assert_eq!(got, expected);
}

#[tokio::test]
async fn spiffe_ids() {
    for (uris, expected) in [
        (
            &["spiffe://corp.example/ns/etl/sa/loader"][..],
            "task spiffe://corp.example/ns/etl/sa/loader loaders",
        ),
        (&["spiffe://corp.example/ns/etl/sa/other"], "service spiffe://corp.example/ns/etl/sa/other etl"),
        (&["spiffe://corp.example/ns/etl-2"], "service spiffe://corp.example/ns/etl-2 "),
        (&["spiffe://evil.example/ns/etl/sa/loader"], "unknown-certificate"),
        (&["spiffe://corp.example.evil.example/ns/etl/sa/loader"], "unknown-certificate"),
        (&["spiffe://corp.example"], "malformed-certificate"),
        (&["spiffe://corp.example/"], "malformed-certificate"),
        (&["spiffe://corp.example/ns/etl/sa/loader/"], "malformed-certificate"),
        (&["spiffe://corp.example/ns//etl"], "malformed-certificate"),
        (&["spiffe://corp.example/ns/../etl"], "malformed-certificate"),
        (&["spiffe://corp.example/ns/%65tl"], "malformed-certificate"),
        (&["spiffe://corp.example/ns?x"], "malformed-certificate"),
        (&["spiffe://corp.example:443/ns"], "malformed-certificate"),
        (&["spiffe://user@corp.example/ns"], "malformed-certificate"),
        (&["spiffe://CORP.example/ns"], "malformed-certificate"),
        (&["SPIFFE://corp.example/ns"], "malformed-certificate"),
        (&["spiffe:corp.example/ns"], "malformed-certificate"),
        (&["spiffe://corp.example/a", "spiffe://corp.example/b"], "malformed-certificate"),
        (&["https://corp.example", "spiffe://corp.example/a"], "malformed-certificate"),
        (&["spiffe://corp.example/a", "https://corp.example"], "malformed-certificate"),
        (&["https://corp.example"], "malformed-certificate"),
        (&[], "malformed-certificate"),
    ] {
        check(with_uris(uris), expected).await;
    }
    // A certificate with a SPIFFE ID is judged by that alone, whatever its subject says.
    let mut both = with_uris(&["spiffe://evil.example/x"]);
    both.distinguished_name.push(DnType::CommonName, "sole");
    check(both, "unknown-certificate").await;
}

#[tokio::test]
async fn subjects() {
    let corp = [
        (DnType::OrganizationName, "Corp, Inc."),
        (DnType::OrganizationalUnitName, "etl"),
        (DnType::CommonName, "loader"),
    ];
    check(with_subject(&corp), r"service CN=loader,OU=etl,O=Corp\, Inc. loaders").await;
    check(with_subject(&[(DnType::CommonName, "sole")]), "agent CN=sole ").await;
    check(with_subject(&[(DnType::CommonName, "sole"), (DnType::CountryName, "SE")]), "agent C=SE,CN=sole ")
        .await;
    for subject in ["Sole", "sole ", "loader", "sole,O=Corp", "CN=sole"] {
        check(with_subject(&[(DnType::CommonName, subject)]), "unknown-certificate").await;
    }
    // The order of a name is part of it.
    check(with_subject(&[corp[2].clone(), corp[1].clone(), corp[0].clone()]), "unknown-certificate").await;
    check(params(), "malformed-certificate").await;
}

#[test]
fn names_are_written_as_rfc_4514_does() {
    use x509_parser::prelude::{FromDer, X509Certificate};

    let written = |params: CertificateParams| {
        let der = der(params);
        let (_, parsed) = X509Certificate::from_der(&der).unwrap();
        crate::dn::rfc4514(parsed.subject()).unwrap()
    };
    let cn = |text: &str| written(with_subject(&[(DnType::CommonName, text)]));
    assert_eq!(cn(" a#b "), r"CN=\ a#b\ ");
    assert_eq!(cn("#a"), r"CN=\#a");
    assert_eq!(cn(" "), r"CN=\ ");
    assert_eq!(cn("a+b\"c;d<e>f\\g=h"), r#"CN=a\+b\"c\;d\<e\>f\\g=h"#);
    assert_eq!(cn("a\nb\u{0}"), r"CN=a\0ab\00");
    assert_eq!(cn("Łukasz 🦀"), "CN=Łukasz 🦀");
    let uid = DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 1]);
    assert_eq!(written(with_subject(&[(uid, "ann")])), "UID=ann");
    let odd = DnType::CustomDnType(vec![1, 2, 3, 4]);
    assert_eq!(written(with_subject(&[(odd, "a")])), "1.2.3.4=#0c0161");
    let mut bmp = params();
    bmp.distinguished_name.push(DnType::CommonName, DnValue::BmpString("a".try_into().unwrap()));
    assert_eq!(written(bmp), "CN=#1e020061");
}

#[tokio::test]
async fn validity_and_form() {
    let good = der(with_subject(&[(DnType::CommonName, "sole")]));
    let at = |seconds| Timestamp::from_seconds(seconds);
    let (from, to) = (1_796_083_200, 1_801_440_000);
    for (now, expected) in [
        (from - 1, "certificate-expired"),
        (from, "ok CN=sole"),
        (to, "ok CN=sole"),
        (to + 1, "certificate-expired"),
    ] {
        assert_eq!(word(show(&identity(), good.clone(), at(now)).await), expected, "{now}");
    }
    let principal = show(&identity(), good.clone(), NOW).await.unwrap();
    assert_eq!(principal.expires_at, Some(at(to)));
    assert_eq!(principal.credential_id.as_ref().unwrap().len(), 64);

    let mut authority = with_subject(&[(DnType::CommonName, "sole")]);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    check(authority, "malformed-certificate").await;
    let mut broken_names = with_subject(&[(DnType::CommonName, "sole")]);
    let names = CustomExtension::from_oid_content(&[2, 5, 29, 17], vec![0x30, 0x05, 0x86]);
    broken_names.custom_extensions.push(names);
    check(broken_names, "malformed-certificate").await;

    let trailing = [good.as_slice(), b"x"].concat();
    for bytes in
        [Vec::new(), b"-----BEGIN CERTIFICATE-----".to_vec(), trailing, good[..good.len() / 2].to_vec()]
    {
        assert_eq!(word(show(&identity(), bytes, NOW).await), "malformed-certificate");
    }
    // Whatever is changed in it, nothing panics.
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 0xff;
        let _ = show(&identity(), changed, NOW).await;
    }
}

#[tokio::test]
async fn a_removed_entry_ends_its_sessions() {
    let holders = [
        with_uris(&["spiffe://corp.example/ns/etl/sa/loader"]),
        with_subject(&[(DnType::CommonName, "sole")]),
        with_uris(&["spiffe://corp.example/other"]),
    ];
    let sources = KeySources::new(Arc::new(Web::default()));
    for (index, params) in holders.into_iter().enumerate() {
        let principal = show(&identity(), der(params), NOW).await.unwrap();
        for (yaml, stands) in [
            (YAML.to_owned(), [true, true, true]),
            (YAML.replace("groups: [loaders]", "groups: [admins]"), [false, true, true]),
            (YAML.replace("sole", "nobody"), [true, false, true]),
            (YAML.replace("corp.example", "new.example"), [false, true, false]),
            (String::from("certificates: {}\n"), [false, false, false]),
        ] {
            let identity = super::support::identity(&yaml, &sources);
            assert_eq!(identity.stands(&principal, NOW).is_ok(), stands[index], "{index} {yaml}");
        }
    }
}
