//! Who calls: every way to say it, and every way to say it wrongly, over the wire and in the record.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use doorward_testkit::gateway::{Running, Setup};
use doorward_testkit::issuer::{Alg, INTROSPECTION_CLIENT, Issuer};
use doorward_testkit::postgres::Cluster;
use doorward_testkit::program::Bounded;
use http::Method;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, SanType};
use serde_json::{Value, json};

use crate::bed::{Bed, GRANTS, SHOP, block_on, id_of, later, record_of, record_of_answer, records};

const ORDERS: &str = "/shop/orders?limit=1";

#[test]
fn api_keys_count_until_they_are_taken_away() -> Result<()> {
    let mut keys = Vec::new();
    let bed = Bed::start_with(Cluster::shared()?, SHOP, |_, config| {
        let setup = Setup::new(&format!("{config}{GRANTS}api_keys: {{ file: keys.jsonl }}\n"))?;
        for (subject, groups) in [("reports", "readers"), ("gone", "readers"), ("old", "readers")] {
            let made = setup.run(&["api-key", subject, "--groups", groups, "--expires", "90d"])?;
            ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            let text = String::from_utf8(made.stdout)?;
            let (key, line) = text.trim_end().split_once('\n').context("a key and a line")?;
            keys.push((key.to_owned(), line.to_owned()));
        }
        // What the hash does not cover is the operator's to change: this one ended long ago.
        let mut old: Value = serde_json::from_str(&keys[2].1)?;
        old["expires"] = json!("2001-01-01T00:00:00Z");
        keys[2].1 = old.to_string();
        let file = format!("# who may call\n{}\n{}\n{}\n", keys[0].1, keys[1].1, keys[2].1);
        setup.file("keys.jsonl", file)
    })?;
    let (good, gone, old) = (&keys[0].0, &keys[1].0, &keys[2].0);
    let mut wrong = good.clone();
    let last = wrong.pop().context("a key")?;
    wrong.push(if last == '0' { '1' } else { '0' });
    block_on(async {
        let client = bed.anonymous()?;
        let mut answered = Vec::new();
        for (key, status, code) in [
            (good, 200, Value::Null),
            (gone, 200, Value::Null),
            (&wrong, 401, json!("authenticate.unknown-api-key")),
            (old, 401, json!("authenticate.api-key-expired")),
        ] {
            for header in ["authorization", "apikey", "x-api-key"] {
                let value = if header == "authorization" { format!("Bearer {key}") } else { key.clone() };
                let answer = client.send(Method::GET, ORDERS, &[(header, &value)], "").await?;
                ensure!(answer.status == status, "{header}: {}", answer.text());
                answered.push((id_of(&answer)?, key, code.clone()));
            }
        }
        let ids: Vec<String> = answered.iter().map(|(id, _, _)| id.clone()).collect();
        let found = records(&bed.gateway, &ids)?;
        for (id, key, code) in answered {
            let row = &found[&id][0];
            ensure!(row["fault_code"] == code, "{row}");
            if code.is_null() {
                ensure!(row["auth_method"] == "api-key" && row["principal_issuer"] == "api-key", "{row}");
                ensure!(row["credential_id"].as_str().is_some_and(|id| key.contains(id)), "{row}");
            }
        }
        // The change of the file is enough; the other keys go on.
        bed.gateway.write("keys.jsonl", format!("{}\n", keys[0].1))?;
        let gone = client.bearer(gone.clone());
        ensure!(later(|| async { Ok(gone.get(ORDERS).await?.status == 401) }).await, "{}", bed.gateway.log());
        ensure!(client.bearer(good.clone()).get(ORDERS).await?.status == 200, "the others go on");
        Ok(())
    })?
}

/// An authority, and what it has signed.
pub(crate) struct Authority {
    issuer: rcgen::Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: rcgen::Issuer::new(params, key), pem })
    }

    /// A certificate and its key, PEM.
    pub(crate) fn sign(&self, params: &CertificateParams) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        Ok((params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }
}

/// A workload's certificate.
pub(crate) fn spiffe(id: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.try_into()?)];
    Ok(params)
}

/// A certificate with a name of the old kind.
pub(crate) fn named(parts: &[(DnType, &str)]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    for (kind, value) in parts {
        params.distinguished_name.push(kind.clone(), *value);
    }
    params
}

/// curl with a client certificate of the gateway's folder.
fn curl_as(gateway: &Running, certificate: &str, more: &[&str]) -> Result<Output> {
    let url = format!("https://127.0.0.1:{}{ORDERS}", gateway.address("http")?.port());
    let mut curl = Command::new("curl");
    curl.current_dir(gateway.folder()).args(["-sS", "-i", "--max-time", "30", "--cacert", "ca.pem"]);
    if !certificate.is_empty() {
        curl.args(["--cert", &format!("{certificate}.crt"), "--key", &format!("{certificate}.key")]);
    }
    curl.args(more).arg(url).run()
}

const MTLS: &str = "
tls: { cert: \"file:server.crt\", key: \"file:server.key\", client_ca: \"file:ca.pem\" }
certificates:
  trust_domains: [example.com]
  entries:
    - { spiffe: \"spiffe://example.com/etl/**\", groups: [readers] }
    - { dn: 'CN=report-runner,OU=Finance,O=Example', groups: [readers] }
";

#[test]
fn client_certificates_name_their_holders() -> Result<()> {
    let (ours, others) = (Authority::new("Ours")?, Authority::new("Others")?);
    let dn = [
        (DnType::OrganizationName, "Example"),
        (DnType::OrganizationalUnitName, "Finance"),
        (DnType::CommonName, "report-runner"),
    ];
    let bed = Bed::start_with(Cluster::shared()?, SHOP, |_, config| {
        let mut setup = Setup::new(&format!("{config}{GRANTS}{MTLS}"))?.file("ca.pem", &ours.pem)?;
        let server = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        for (name, authority, params) in [
            ("server", &ours, server),
            ("loader", &ours, spiffe("spiffe://example.com/etl/loader")?),
            ("idle", &ours, spiffe("spiffe://example.com/idle")?),
            ("foreign", &ours, spiffe("spiffe://example.org/etl/loader")?),
            ("runner", &ours, named(&dn)),
            ("unnamed", &ours, named(&dn[..2])),
            ("forged", &others, spiffe("spiffe://example.com/etl/loader")?),
        ] {
            let (certificate, key) = authority.sign(&params)?;
            setup = setup.file(&format!("{name}.crt"), certificate)?.file(&format!("{name}.key"), key)?;
        }
        Ok(setup)
    })?;
    let loader = "spiffe://example.com/etl/loader";
    for (name, http, status, code, subject) in [
        ("loader", "--http1.1", 200, Value::Null, json!(loader)),
        ("loader", "--http2", 200, Value::Null, json!(loader)),
        ("runner", "--http2", 200, Value::Null, json!("CN=report-runner,OU=Finance,O=Example")),
        ("idle", "--http1.1", 403, json!("authorize.no-grant"), json!("spiffe://example.com/idle")),
        ("foreign", "--http1.1", 401, json!("authenticate.unknown-certificate"), Value::Null),
        ("unnamed", "--http1.1", 401, json!("authenticate.unknown-certificate"), Value::Null),
        ("", "--http1.1", 401, json!("authenticate.required"), Value::Null),
    ] {
        let output = curl_as(&bed.gateway, name, &[http])?;
        let text = String::from_utf8_lossy(&output.stdout).to_lowercase();
        ensure!(text.split(' ').nth(1) == Some(&status.to_string()), "{name}: {text} {output:?}");
        let id = text.lines().find_map(|line| line.strip_prefix("doorward-access-id: "));
        let row = record_of(&bed.gateway, id.context("no access id")?.trim())?;
        ensure!(row["fault_code"] == code && row["principal_subject"] == subject, "{name}: {row}");
        if status == 200 {
            ensure!(row["principal_issuer"] == "certificate", "{row}");
        }
    }
    // An authority that nobody configured does not get as far as a call.
    let forged = curl_as(&bed.gateway, "forged", &["--http1.1"])?;
    ensure!(!forged.status.success() && forged.stdout.is_empty(), "{forged:?}");
    // A token counts over TLS as it does elsewhere, and before the certificate.
    let token = format!("Authorization: Bearer {}", bed.token("rea", &["readers"])?);
    let both = curl_as(&bed.gateway, "idle", &["-H", &token])?;
    ensure!(String::from_utf8_lossy(&both.stdout).contains(" 200"), "{both:?}");
    Ok(())
}

#[test]
fn opaque_tokens_are_asked_about() -> Result<()> {
    let bed = Bed::start_with(Cluster::shared()?, SHOP, |issuer, config| {
        let introspection = format!(
            "introspection: {{ url: \"{}\", client_id: {}, client_secret: \"env:IDP_SECRET\" }}",
            issuer.introspection_url(),
            INTROSPECTION_CLIENT.0,
        );
        let config =
            config.replace("audience: doorward }", &format!("audience: doorward, {introspection} }}"));
        Ok(Setup::new(&format!("{config}{GRANTS}"))?.env("IDP_SECRET", INTROSPECTION_CLIENT.1))
    })?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let says = json!({
        "active": true, "iss": bed.issuer.url(), "sub": "ann", "aud": "doorward", "groups": ["readers"],
        "client_id": "helpdesk", "iat": now, "exp": now + 600,
    });
    let mut elsewhere = says.clone();
    elsewhere["aud"] = json!("somebody-else");
    let good = bed.issuer.opaque(says.clone());
    let foreign = bed.issuer.opaque(elsewhere);
    block_on(async {
        let client = bed.anonymous()?;
        let row = {
            let answer = client.bearer(good.clone()).get(ORDERS).await?;
            ensure!(answer.status == 200, "{}", answer.text());
            record_of_answer(&bed.gateway, &answer)?
        };
        ensure!(row["principal_subject"] == "ann" && row["client_id"] == "helpdesk", "{row}");
        ensure!(row["auth_method"] == "introspection", "{row}");
        let asked = bed.issuer.fetches().introspection;
        for _ in 0..5 {
            ensure!(client.bearer(good.clone()).get(ORDERS).await?.status == 200, "again");
        }
        ensure!(bed.issuer.fetches().introspection == asked, "what was said is remembered");

        for (token, status, code) in [
            ("nobody-knows-this-token", 401, "authenticate.token-inactive"),
            (foreign.as_str(), 401, "authenticate.wrong-audience"),
        ] {
            let answer = client.bearer(token).get(ORDERS).await?;
            ensure!(answer.status == status, "{}", answer.text());
            let row = record_of_answer(&bed.gateway, &answer)?;
            ensure!(row["fault_code"] == code && row["principal_subject"].is_null(), "{row}");
        }
        bed.issuer.misbehave_introspection(Some(doorward_testkit::issuer::Misbehaviour::Status(500)));
        let answer = client.bearer(bed.issuer.opaque(says.clone())).get(ORDERS).await?;
        ensure!(answer.status == 503 && answer.header("retry-after").is_some(), "{}", answer.text());
        let row = record_of_answer(&bed.gateway, &answer)?;
        ensure!(row["fault_code"] == "authenticate.issuer-unavailable", "{row}");
        ensure!(client.bearer(good.clone()).get(ORDERS).await?.status == 200, "those remembered go on");
        bed.issuer.misbehave_introspection(None);
        let fresh = client.bearer(bed.issuer.opaque(says.clone()));
        ensure!(later(|| async { Ok(fresh.get(ORDERS).await?.status == 200) }).await, "mended");
        Ok(())
    })?
}

#[test]
fn two_issuers_vouch_each_for_their_own() -> Result<()> {
    let second = Issuer::start_with(&[Alg::Ps256, Alg::Es384])?;
    let bed = Bed::start_with(Cluster::shared()?, SHOP, |_, config| {
        let config = config.replace(
            "issuers: { idp:",
            &format!(
                "issuers: {{ partner: {{ url: \"{}\", audience: partners, groups: team.roles }}, idp:",
                second.url()
            ),
        );
        let grants = "grants: { ours: { to: issuer:idp, allow: read shop/public/orders, as: reader },
  theirs: { to: group:partners, allow: read shop/public/orders, as: customer } }\n";
        Setup::new(&format!("{config}{grants}"))
    })?;
    let of_second = |subject: &str| {
        let token = second.token(subject).claim("aud", "partners");
        token.claim("team", json!({ "roles": ["partners"] }))
    };
    block_on(async {
        let client = bed.anonymous()?;
        for (token, issuer, grant, rows) in [
            (bed.token("ann", &[])?, "idp", "ours", 20),
            (of_second("ann").sign()?, "partner", "theirs", 10),
            (of_second("ann").alg(Alg::Es384).sign()?, "partner", "theirs", 10),
        ] {
            let answer = client.bearer(token).get("/shop/orders").await?;
            ensure!(answer.json()?.as_array().is_some_and(|all| all.len() == rows), "{}", answer.text());
            let row = record_of_answer(&bed.gateway, &answer)?;
            ensure!(row["principal_issuer"] == issuer && row["grant"] == grant, "{row}");
        }
        // Neither may speak for the other: not with its own key, nor for the other's audience.
        let stolen = bed.issuer.token("ann").key(&second.key(Alg::Es384)?).sign()?;
        let crossed = second.token("ann").sign()?;
        for (token, code) in [(stolen, "authenticate.unknown-key"), (crossed, "authenticate.wrong-audience")]
        {
            let answer = client.bearer(token).get("/shop/orders").await?;
            ensure!(answer.status == 401, "{}", answer.text());
            let row = record_of_answer(&bed.gateway, &answer)?;
            ensure!(row["fault_code"] == code, "{row}");
        }
        Ok(())
    })?
}

#[test]
fn an_issuer_that_is_away_stops_nobody_whose_keys_are_known() -> Result<()> {
    let mut late = Issuer::start_with(&[Alg::Es256])?;
    late.stop();
    let mut bed = Bed::start_with(Cluster::shared()?, SHOP, |_, config| {
        let entry = format!("issuers: {{ late: {{ url: \"{}\", audience: doorward }}, idp:", late.url());
        Setup::new(&format!("{}{GRANTS}", config.replace("issuers: { idp:", &entry)))
    })?;
    block_on(async {
        let client = bed.anonymous()?;
        let of_late = |subject: &str| late.token(subject).claim("groups", vec!["readers"]).sign();
        // Down at start: its callers are told to come back, the others do not notice.
        let answer = client.bearer(of_late("ann")?).get(ORDERS).await?;
        ensure!(answer.status == 503 && answer.header("retry-after").is_some(), "{}", answer.text());
        let row = record_of_answer(&bed.gateway, &answer)?;
        ensure!(
            row["fault_code"] == "authenticate.issuer-unavailable" && row["outcome"] == "failed",
            "{row}"
        );
        ensure!(bed.client("rea", &["readers"])?.get(ORDERS).await?.status == 200, "another issuer's");
        let token = of_late("ann")?;
        late.restart()?;
        let ann = client.bearer(token);
        ensure!(later(|| async { Ok(ann.get(ORDERS).await?.status == 200) }).await, "{}", bed.gateway.log());

        // Away again: its keys are known, so a token that was never seen is checked all the same.
        bed.issuer.stop();
        ensure!(bed.client("new", &["readers"])?.get(ORDERS).await?.status == 200, "cached keys go on");
        bed.issuer.rotate(Alg::Es256)?;
        let rotated = bed.issuer.token("rea").claim("groups", vec!["readers"]).alg(Alg::Es256);
        let rotated = client.bearer(rotated.sign()?);
        let answer = rotated.get(ORDERS).await?;
        ensure!(matches!(answer.status.as_u16(), 401 | 503), "{}", answer.text());
        let row = record_of_answer(&bed.gateway, &answer)?;
        let code = row["fault_code"].as_str().unwrap_or_default();
        ensure!(["authenticate.issuer-unavailable", "authenticate.unknown-key"].contains(&code), "{row}");
        let old = bed.issuer.token("rea").claim("groups", vec!["readers"]).alg(Alg::EdDsa).sign()?;
        ensure!(client.bearer(old).get(ORDERS).await?.status == 200, "the other keys go on");
        Ok::<_, anyhow::Error>(())
    })??;
    bed.issuer.restart()?;
    Ok(())
}

#[test]
fn tokens_that_are_wrong_are_refused_by_name() -> Result<()> {
    let bed = Bed::shop()?;
    let stranger = Issuer::start_with(&[Alg::Es256])?;
    let forged = stranger.key(Alg::Es256)?;
    ensure!(forged.kid() == bed.issuer.key(Alg::Es256)?.kid(), "a forger chooses the id of a known key");
    let token = || bed.issuer.token("ann").claim("groups", vec!["readers"]);
    let two_subjects = token().payload_text().replace(r#""sub":"#, r#""sub":"root","sub":"#);
    let cases = [
        ("expired", token().issued_in(-7200).expires_in(-3600).sign()?, "token-expired"),
        ("our clock is ahead", token().issued_in(-300).expires_in(-45).sign()?, "token-expired"),
        ("not yet valid", token().not_before_in(3600).sign()?, "token-not-yet-valid"),
        ("our clock is behind", token().not_before_in(90).sign()?, "token-not-yet-valid"),
        ("issued in the future", token().issued_in(3600).sign()?, "token-not-yet-valid"),
        ("absurd lifetime", token().expires_in(10 * 365 * 86_400).sign()?, "token-lifetime"),
        ("no expiry", token().without("exp").sign()?, "bad-claim"),
        ("wrong audience", token().claim("aud", "somebody-else").sign()?, "wrong-audience"),
        ("no audience", token().without("aud").sign()?, "wrong-audience"),
        ("no subject", token().without("sub").sign()?, "bad-claim"),
        ("unknown issuer", stranger.token("ann").sign()?, "unknown-issuer"),
        (
            "issuer with a slash",
            token().claim("iss", format!("{}/", bed.issuer.url())).sign()?,
            "unknown-issuer",
        ),
        ("alg none", token().unsigned(), "algorithm-not-allowed"),
        ("HS256 with the public key", token().confused()?, "algorithm-not-allowed"),
        ("signature turned", token().tampered()?, "bad-signature"),
        ("unknown kid", token().header("kid", "nobody's").sign()?, "unknown-key"),
        ("kid of a path", token().header("kid", "../../../../dev/null").sign()?, "unknown-key"),
        ("another's key under our kid", token().key(&forged).sign()?, "bad-signature"),
        ("embedded key", token().header("jwk", json!({ "kty": "oct", "k": "AAAA" })).tampered()?, ""),
        ("crit", token().header("crit", vec!["exp"]).sign()?, "malformed-token"),
        ("two subjects", token().payload(two_subjects).sign()?, "malformed-token"),
        (
            "an ID token",
            token().header("typ", "JWT").claim("nonce", "n").claim("at_hash", "x").sign()?,
            "id-token",
        ),
        ("a huge token", token().claim("padding", "x".repeat(40_000)).sign()?, "token-too-large"),
        ("three words", "not.a.token".to_owned(), "malformed-token"),
        ("an opaque token", "4f1g23a12aa".to_owned(), "opaque-token"),
    ];
    block_on(async {
        let client = bed.anonymous()?;
        let mut refused = Vec::new();
        for (name, token, code) in cases {
            let answer = client.bearer(token).get(ORDERS).await?;
            ensure!(answer.status == 401, "{name}: {} {}", answer.status, answer.text());
            let challenge = answer.header("www-authenticate").unwrap_or_default();
            ensure!(challenge.starts_with("Bearer"), "{name}: {challenge}");
            refused.push((name, id_of(&answer)?, code));
        }
        let ids: Vec<String> = refused.iter().map(|(_, id, _)| id.clone()).collect();
        let found = records(&bed.gateway, &ids)?;
        for (name, id, code) in refused {
            let row = &found[&id][0];
            let fault = row["fault_code"].as_str().and_then(|fault| fault.strip_prefix("authenticate."));
            ensure!(fault.is_some_and(|fault| code.is_empty() || fault == code), "{name}: {row}");
            ensure!(row["principal_subject"].is_null() && row["outcome"] == "denied", "{name}: {row}");
        }
        // A small difference between two clocks is no reason to refuse.
        for (name, token) in [
            ("just expired", token().issued_in(-300).expires_in(-10).sign()?),
            ("about to be valid", token().not_before_in(10).issued_in(10).sign()?),
        ] {
            let answer = client.bearer(token).get(ORDERS).await?;
            ensure!(answer.status == 200, "{name}: {}", answer.text());
        }
        Ok(())
    })?
}

/// Where proxies and applications write who somebody is; the gateway believes none of it, and none of it
/// reaches the database.
const CLAIMED: &[(&str, &str)] = &[
    ("X-Forwarded-User", "bob-the-forged"),
    ("X_Forwarded_User", "bob-the-forged"),
    ("X-Forwarded-Email", "bob-the-forged"),
    ("X-Forwarded-Groups", "bob-the-forged"),
    ("X-Auth-Request-User", "bob-the-forged"),
    ("X-Remote-User", "bob-the-forged"),
    ("Remote-User", "bob-the-forged"),
    ("X-User-Id", "bob-the-forged"),
    ("X-Real-IP", "203.0.113.77"),
    ("X-Forwarded-For", "203.0.113.77"),
    ("X-Goog-Authenticated-User-Email", "bob-the-forged"),
    ("X-Amzn-Oidc-Data", "bob-the-forged"),
    ("X-MS-Client-Principal-Name", "bob-the-forged"),
    ("X-SSL-Client-S-DN", "bob-the-forged"),
    ("X-Role", "bob-the-forged"),
    ("Connection", "X-Odd"),
    ("X-Odd", "bob-the-forged"),
];

const SEEN: &str = "
create function seen() returns json language sql stable as $$
  select json_build_object('headers', current_setting('request.headers', true)::json, 'role', current_user,
    'claims', current_setting('request.jwt.claims', true)::json) $$;
grant execute on function seen to reader;
";

#[test]
fn identity_in_headers_means_nothing() -> Result<()> {
    let bed = Bed::start(Cluster::shared()?, &format!("{SHOP}{SEEN}"), GRANTS)?;
    block_on(async {
        let nobody = bed.anonymous()?.send(Method::GET, ORDERS, CLAIMED, "").await?;
        ensure!(nobody.status == 401, "{}", nobody.text());
        let row = record_of_answer(&bed.gateway, &nobody)?;
        ensure!(row["principal_subject"].is_null() && !row.to_string().contains("forged"), "{row}");

        let ann = bed.client("ann", &["readers"])?;
        let plain = [("X-Plain", "kept"), ("Cookie", "session=a-secret-session")];
        let headers: Vec<_> = CLAIMED.iter().chain(&plain).copied().collect();
        let answer = ann.send(Method::GET, "/shop/rpc/seen", &headers, "").await?;
        ensure!(answer.status == 200, "{}", answer.text());
        let seen = answer.json()?;
        ensure!(seen["role"] == "reader" && seen["claims"]["sub"] == "ann", "{seen}");
        ensure!(seen["headers"]["x-plain"] == "kept", "what is the caller's own business passes: {seen}");
        for trace in ["forged", "203.0.113.77", "a-secret-session", "Bearer", "x-odd"] {
            ensure!(!seen.to_string().contains(trace), "{trace} reaches the database: {seen}");
        }
        let row = record_of_answer(&bed.gateway, &answer)?;
        ensure!(row["principal_subject"] == "ann" && row["source_ip"] == "127.0.0.1", "{row}");
        ensure!(!row.to_string().contains("forged"), "{row}");
        Ok(())
    })?
}
