//! Each way to a token, against recorded endpoints: what they are asked, what comes of it, and what is said when
//! nothing does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use doorward_core::{ResourceName, RoleName};
use doorward_pgclient::{
    AwsRdsConfig, AzureCloud, AzureEntraConfig, CloudConfig, GcpCloudSqlConfig, Impersonate, Target,
};
use doorward_testkit::cloud::{CloudEndpoints, Recorded};
use serde_json::json;

use super::Clouds;
use crate::source::{CredentialSource, Issued, SourceError, Wanted};

const HOUR: Duration = Duration::from_secs(3600);
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const TOKEN: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.recorded.token";
const AZURE_LINE: &str = "GET /metadata/identity/oauth2/token";

/// Endpoints, and the environment that names them.
struct Bed {
    endpoints: CloudEndpoints,
    variables: HashMap<&'static str, String>,
}

impl Bed {
    fn new() -> Result<Self> {
        Ok(Self { endpoints: CloudEndpoints::start()?, variables: HashMap::new() })
    }

    fn set(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.insert(name, value.into());
        self
    }

    /// Sets a variable to an address of the endpoints.
    fn at(self, name: &'static str, path: &str) -> Self {
        let url = format!("{}{path}", self.endpoints.url());
        self.set(name, url)
    }

    fn aws() -> Result<Self> {
        Ok(Self::new()?.at("AWS_EC2_METADATA_SERVICE_ENDPOINT", ""))
    }

    fn azure() -> Result<Self> {
        Ok(Self::new()?.at("AZURE_POD_IDENTITY_AUTHORITY_HOST", "/"))
    }

    fn gcp() -> Result<Self> {
        let bed = Self::new()?.at("CLOUDSDK_API_ENDPOINT_OVERRIDES_IAMCREDENTIALS", "/");
        let authority = bed.endpoints.authority();
        Ok(bed.set("GCE_METADATA_HOST", authority))
    }

    fn clouds(&self) -> Clouds {
        let variables = self.variables.clone();
        Clouds::within(move |name| variables.get(name).cloned())
    }

    fn source(&self, config: &CloudConfig) -> Result<Arc<dyn CredentialSource>> {
        source(&self.clouds(), config)
    }

    /// What comes of asking once.
    async fn issue(&self, config: &CloudConfig) -> Result<Result<Issued, String>> {
        Ok(issue(&*self.source(config)?, "analyst").await.map_err(|error| format!("{error:?}")))
    }
}

fn source(clouds: &Clouds, config: &CloudConfig) -> Result<Arc<dyn CredentialSource>> {
    let url = match config {
        CloudConfig::AwsRds(_) => "postgres://shop.c1.eu-west-1.rds.amazonaws.com/shop",
        _ => "postgres://db.internal/shop",
    };
    Ok(clouds.source(config, &Target::parse(url, false)?, Some("gateway"))?)
}

async fn issue(source: &dyn CredentialSource, role: &str) -> Result<Issued, SourceError> {
    let role = (!role.is_empty()).then(|| RoleName::new(role));
    source.issue(&Wanted { resource: ResourceName::new("shop"), role, principal: None }).await
}

fn password(issued: &Issued) -> &str {
    issued.login.password().map_or("", |password| password.expose())
}

fn aws() -> CloudConfig {
    CloudConfig::AwsRds(AwsRdsConfig::default())
}

fn azure() -> CloudConfig {
    CloudConfig::AzureEntra(AzureEntraConfig::default())
}

fn gcp(impersonate: Option<Impersonate>) -> CloudConfig {
    CloudConfig::GcpCloudSql(GcpCloudSqlConfig { impersonate })
}

/// A file that a platform keeps a token in.
fn token_file(token: &str) -> Result<(tempfile::TempDir, String)> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("token");
    std::fs::write(&path, format!("{token}\n"))?;
    let path = path.to_str().context("a path")?.to_owned();
    Ok((folder, path))
}

#[tokio::test]
async fn aws_signs_with_the_environments_key() -> Result<()> {
    let bed = Bed::aws()?
        .set("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
        .set("AWS_SECRET_ACCESS_KEY", SECRET)
        .set("AWS_SESSION_TOKEN", "a/b+c=");
    let source = bed.source(&aws())?;
    let issued = issue(&*source, "analyst").await?;
    assert_eq!((&*issued.login.user, issued.good_for), ("analyst", Some(Duration::from_secs(900))));
    let token = password(&issued);
    let start = "shop.c1.eu-west-1.rds.amazonaws.com:5432/?Action=connect&DBUser=analyst&X-Amz-Algorithm=AWS4-HMAC-SHA256\
                 &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F";
    assert!(token.starts_with(start), "{token}");
    assert!(token.contains("%2Feu-west-1%2Frds-db%2Faws4_request&X-Amz-Date="), "{token}");
    let middle =
        "&X-Amz-Expires=900&X-Amz-Security-Token=a%2Fb%2Bc%3D&X-Amz-SignedHeaders=host&X-Amz-Signature=";
    assert!(token.contains(middle) && !token.contains("wJalr"), "{token}");
    // The gateway's own login is the user that is configured.
    assert_eq!(&*issue(&*source, "").await?.login.user, "gateway");
    assert!(bed.endpoints.lines().is_empty());
    Ok(())
}

#[tokio::test]
async fn aws_takes_the_instances_role_once_for_all_database_roles() -> Result<()> {
    let bed = Bed::aws()?;
    bed.endpoints.aws_instance("doorward", SECRET, HOUR);
    let clouds = bed.clouds();
    let (one, two) = (source(&clouds, &aws())?, source(&clouds, &aws())?);
    let issued = issue(&*one, "analyst").await?;
    assert_eq!(issued.good_for, Some(Duration::from_secs(900)));
    assert!(password(&issued).contains("X-Amz-Security-Token=session%2Ftoken%2Bof%3Dinstance"));
    assert!(password(&issue(&*two, "loader").await?).contains("DBUser=loader"));
    let folder = "GET /latest/meta-data/iam/security-credentials/";
    let lines = bed.endpoints.lines();
    assert_eq!(lines, ["PUT /latest/api/token", folder, &format!("{folder}doorward")]);
    // What the database refuses is not signed with the same credentials again.
    let wanted = Wanted { resource: ResourceName::new("shop"), role: None, principal: None };
    one.refused(&wanted);
    issue(&*two, "loader").await?;
    assert_eq!(bed.endpoints.lines().len(), 3);
    // A token is good for as long as what signed it.
    bed.endpoints.aws_instance("doorward", SECRET, Duration::from_secs(300));
    one.refused(&wanted);
    let short = issue(&*one, "analyst").await?.good_for.context("an end")?;
    assert!(short <= Duration::from_secs(300), "{short:?}");
    Ok(())
}

#[tokio::test]
async fn aws_assumes_a_role_for_a_web_identity() -> Result<()> {
    let (_folder, file) = token_file(TOKEN)?;
    let bed = Bed::aws()?
        .at("AWS_ENDPOINT_URL_STS", "")
        .set("AWS_WEB_IDENTITY_TOKEN_FILE", file)
        .set("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/doorward");
    bed.endpoints.aws_sts(SECRET);
    let issued = bed.issue(&aws()).await?.map_err(anyhow::Error::msg)?;
    assert!(password(&issued).contains("Credential=ASIAWEBIDENTITYEXAMPLE%2F"));
    let seen = bed.endpoints.seen();
    let body = &seen.first().context("a request")?.body;
    assert_eq!(
        *body,
        format!(
            "Action=AssumeRoleWithWebIdentity&Version=2011-06-15\
             &RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fdoorward&RoleSessionName=doorward&WebIdentityToken={TOKEN}"
        )
    );
    let refusal = format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
         <Code>AccessDenied</Code><Message>Not authorized to perform sts:AssumeRoleWithWebIdentity {}</Message></Error></ErrorResponse>",
        "with this token"
    );
    bed.endpoints.answer("POST /", Recorded::new(403, refusal));
    let said = bed.issue(&aws()).await?.expect_err("refused");
    for part in ["Refused", "403 AccessDenied Not authorized", "AWS_ROLE_ARN", &bed.endpoints.authority()] {
        assert!(said.contains(part), "{said}");
    }
    // An endpoint that repeats what it was sent is not repeated.
    let echo = format!("<Error><Code>InvalidIdentityToken</Code><Message>{TOKEN}</Message></Error>");
    bed.endpoints.answer("POST /", Recorded::new(400, echo));
    let said = bed.issue(&aws()).await?.expect_err("refused");
    assert!(said.contains("400") && !said.contains("recorded.token"), "{said}");
    Ok(())
}

#[tokio::test]
async fn aws_asks_the_containers_endpoint() -> Result<()> {
    let (_folder, file) = token_file("token-of-the-pod")?;
    let bed = Bed::aws()?
        .at("AWS_CONTAINER_CREDENTIALS_FULL_URI", "/v1/credentials")
        .set("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file);
    bed.endpoints.aws_container("/v1/credentials", "token-of-the-pod", SECRET);
    let issued = bed.issue(&aws()).await?.map_err(anyhow::Error::msg)?;
    assert!(password(&issued).contains("Credential=ASIACONTAINEREXAMPLE%2F"));
    Ok(())
}

#[tokio::test]
async fn azure_asks_the_instances_metadata() -> Result<()> {
    let bed = Bed::azure()?;
    bed.endpoints.azure_instance(TOKEN);
    let clouds = bed.clouds();
    let one = source(&clouds, &azure())?;
    let issued = issue(&*one, "analyst").await?;
    assert_eq!((password(&issued), &*issued.login.user), (TOKEN, "analyst"));
    assert_eq!(issued.good_for.map(|life| life.as_secs()), Some(86_399));
    // The same token serves all roles, and another identity has another.
    issue(&*source(&clouds, &azure())?, "loader").await?;
    let other = AzureEntraConfig { client_id: Some("712eac09".into()), cloud: AzureCloud::UsGovernment };
    issue(&*source(&clouds, &CloudConfig::AzureEntra(other))?, "loader").await?;
    let queries: Vec<_> = bed.endpoints.seen().into_iter().map(|seen| seen.query).collect();
    assert_eq!(
        queries,
        [
            "api-version=2018-02-01&resource=https%3A%2F%2Fossrdbms-aad.database.windows.net",
            "api-version=2018-02-01&resource=https%3A%2F%2Fossrdbms-aad.database.usgovcloudapi.net&client_id=712eac09",
        ]
    );
    Ok(())
}

#[tokio::test]
async fn azure_asks_the_apps_endpoint() -> Result<()> {
    let bed = Bed::azure()?.at("IDENTITY_ENDPOINT", "/msi/token").set("IDENTITY_HEADER", "853b9a84-5bfa");
    bed.endpoints.azure_app("853b9a84-5bfa", TOKEN);
    let issued = bed.issue(&azure()).await?.map_err(anyhow::Error::msg)?;
    assert_eq!(password(&issued), TOKEN);
    assert!(issued.good_for.is_some_and(|life| life > HOUR * 23));
    let seen = bed.endpoints.seen();
    assert!(seen.first().context("a request")?.query.starts_with("api-version=2019-08-01&resource="));
    Ok(())
}

#[tokio::test]
async fn azure_exchanges_a_workloads_token() -> Result<()> {
    let (_folder, file) = token_file("eyJ.assertion.of-the-cluster")?;
    let bed = Bed::azure()?
        .at("AZURE_AUTHORITY_HOST", "/")
        .set("AZURE_FEDERATED_TOKEN_FILE", file)
        .set("AZURE_CLIENT_ID", "712eac09")
        .set("AZURE_TENANT_ID", "contoso");
    bed.endpoints.azure_authority("contoso", TOKEN);
    let issued = bed.issue(&azure()).await?.map_err(anyhow::Error::msg)?;
    assert_eq!((password(&issued), issued.good_for.map(|life| life.as_secs())), (TOKEN, Some(3599)));
    let seen = bed.endpoints.seen();
    assert_eq!(
        seen.first().context("a request")?.body,
        "client_id=712eac09&scope=https%3A%2F%2Fossrdbms-aad.database.windows.net%2F.default\
         &client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer\
         &client_assertion=eyJ.assertion.of-the-cluster&grant_type=client_credentials"
    );
    Ok(())
}

#[tokio::test]
async fn gcp_asks_the_metadata_server_and_impersonates() -> Result<()> {
    let bed = Bed::gcp()?;
    bed.endpoints.gcp_metadata(TOKEN);
    let issued = bed.issue(&gcp(None)).await?.map_err(anyhow::Error::msg)?;
    assert_eq!((password(&issued), issued.good_for.map(|life| life.as_secs())), (TOKEN, Some(3599)));
    let seen = bed.endpoints.seen();
    let query = &seen.first().context("a request")?.query;
    assert_eq!(*query, "scopes=https%3A%2F%2Fwww.googleapis.com%2Fauth%2Fsqlservice.login");

    let account = "reader@shop.iam.gserviceaccount.com";
    bed.endpoints.gcp_credentials(account, TOKEN, "ya29.of-the-reader");
    let named = bed.issue(&gcp(Some(Impersonate::Account(account.into())))).await?;
    assert_eq!(password(&named.map_err(anyhow::Error::msg)?), "ya29.of-the-reader");
    let source = bed.source(&gcp(Some(Impersonate::ByRole)))?;
    assert_eq!(password(&issue(&*source, "reader@shop.iam").await?), "ya29.of-the-reader");
    let seen = bed.endpoints.seen();
    let asked = seen.last().context("a request")?;
    assert!(asked.line.ends_with("/serviceAccounts/reader@shop.iam.gserviceaccount.com:generateAccessToken"));
    let body: serde_json::Value = serde_json::from_str(&asked.body)?;
    assert_eq!(
        body,
        json!({ "scope": ["https://www.googleapis.com/auth/sqlservice.login"], "lifetime": "3600s" })
    );
    for role in ["analyst", "a/b.iam", "../x@shop.iam"] {
        let refused = issue(&*source, role).await.expect_err("refused");
        assert!(refused.to_string().contains("not named after a service account"), "{refused}");
    }
    Ok(())
}

#[tokio::test]
async fn gcp_exchanges_another_issuers_token() -> Result<()> {
    let (folder, file) = token_file("eyJ.subject.of-the-cluster")?;
    let account = "gateway@shop.iam.gserviceaccount.com";
    let bed = Bed::gcp()?;
    let url = bed.endpoints.url();
    let config = |source: serde_json::Value| {
        json!({
            "type": "external_account",
            "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": format!("{url}/v1/token"),
            "service_account_impersonation_url":
                format!("{url}/v1/projects/-/serviceAccounts/{account}:generateAccessToken"),
            "credential_source": source,
        })
    };
    let path = folder.path().join("config.json");
    std::fs::write(&path, config(json!({ "file": file })).to_string())?;
    let bed = bed.set("GOOGLE_APPLICATION_CREDENTIALS", path.to_str().context("a path")?);
    let exchanged = json!({
        "access_token": "ya29.d.federated", "expires_in": 3599, "token_type": "Bearer",
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token" });
    bed.endpoints.answer("POST /v1/token", Recorded::json(200, &exchanged));
    bed.endpoints.gcp_credentials(account, "ya29.d.federated", TOKEN);
    let issued = bed.issue(&gcp(None)).await?.map_err(anyhow::Error::msg)?;
    assert_eq!(password(&issued), TOKEN);
    let seen = bed.endpoints.seen();
    let body = &seen.first().context("a request")?.body;
    let start = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&audience=%2F%2Fiam.googleapis.com%2F";
    assert!(body.starts_with(start), "{body}");
    assert!(body.contains("&subject_token=eyJ.subject.of-the-cluster&subject_token_type=urn"), "{body}");
    // The token may stand in a field.
    let inside = folder.path().join("token.json");
    std::fs::write(&inside, json!({ "id": "eyJ.subject.inside" }).to_string())?;
    let source = json!({ "file": inside, "format": { "type": "json", "subject_token_field_name": "id" } });
    std::fs::write(&path, config(source).to_string())?;
    assert!(bed.issue(&gcp(None)).await?.is_ok());
    assert!(bed.endpoints.seen().iter().any(|seen| seen.body.contains("subject_token=eyJ.subject.inside")));
    let mut plain = config(json!({ "file": file }));
    plain["token_url"] = json!("http://sts.example/v1/token");
    for (content, text) in [
        (
            json!({ "type": "service_account", "private_key": "x" }).to_string(),
            "keys of service accounts are not taken",
        ),
        (config(json!({ "url": url })).to_string(), "other sources are not read"),
        (plain.to_string(), "plain http reaches this machine"),
        ("garbage".to_owned(), "create-cred-config"),
    ] {
        std::fs::write(&path, content)?;
        let said = bed.issue(&gcp(None)).await?.expect_err(text);
        assert!(said.starts_with("Refused") && said.contains(text), "{text}: {said}");
        assert!(!said.contains("eyJ.subject"), "{said}");
    }
    Ok(())
}

/// What is said of each refusal, and that it holds nothing of a token.
#[tokio::test]
async fn refusals_name_the_endpoint_and_what_is_wrong() -> Result<()> {
    let identity = json!({ "error": "invalid_request", "error_description": "Identity not found" });
    let scope = json!({ "error": "invalid_scope", "error_description": "scope\tis\nnot valid" });
    let token = |fields: serde_json::Value| {
        let mut said = json!({ "access_token": TOKEN, "expires_in": 3599 });
        for (key, value) in fields.as_object().into_iter().flatten() {
            said[key] = value.clone();
        }
        Recorded::json(200, &said)
    };
    for (answer, kind, text) in [
        (
            Recorded::json(400, &identity),
            "Refused",
            "400 invalid_request Identity not found; is the identity assigned",
        ),
        (Recorded::json(400, &scope), "Refused", "400 invalid_scope scope is not valid"),
        (Recorded::new(403, "<html>no</html>"), "Refused", "/metadata/identity/oauth2/token: 403; is"),
        (Recorded::new(302, "").header("location", "http://evil.example/"), "Refused", "302"),
        (Recorded::new(404, ""), "Away", "404"),
        (Recorded::json(429, &json!({ "error": "too_many_requests" })), "Away", "429 too_many_requests"),
        (Recorded::new(503, format!("oops {TOKEN}")), "Away", "503; is"),
        (Recorded::new(200, format!("garbage {TOKEN}")), "Away", "not the JSON"),
        (Recorded::new(200, vec![b' '; 300 << 10]), "Away", "larger than 131072 bytes"),
        (token(json!({ "access_token": null })), "Away", "the answer has no access_token"),
        (token(json!({ "access_token": "" })), "Away", "token is none"),
        (token(json!({ "access_token": "two words" })), "Away", "token is none"),
        (token(json!({ "access_token": "x".repeat(60_000) })), "Away", "token is none"),
        (token(json!({ "expires_in": 2 })), "Away", "has ended, or is about to"),
        (token(json!({ "expires_in": null })), "Away", "the answer has no expires_in"),
        (token(json!({ "expires_in": -5 })), "Away", "not the JSON"),
    ] {
        let bed = Bed::azure()?;
        bed.endpoints.answer(AZURE_LINE, answer);
        let said = bed.issue(&azure()).await?.expect_err(text);
        assert!(said.starts_with(kind) && said.contains(text), "{text}: {said}");
        assert!(!said.contains("recorded.token") && !said.contains('\n'), "{said}");
    }
    Ok(())
}

#[tokio::test]
async fn what_passes_is_asked_again() -> Result<()> {
    let bed = Bed::azure()?;
    bed.endpoints.azure_instance(TOKEN);
    bed.endpoints.answer_next(AZURE_LINE, Recorded::new(429, "").header("retry-after", "1"));
    bed.endpoints.answer_next(AZURE_LINE, Recorded::new(500, ""));
    assert!(bed.issue(&azure()).await?.is_ok());
    assert_eq!(bed.endpoints.lines().len(), 3);
    // What does not mend itself is not.
    bed.endpoints.answer(AZURE_LINE, Recorded::new(400, ""));
    assert!(bed.issue(&azure()).await?.is_err());
    assert_eq!(bed.endpoints.lines().len(), 1);
    Ok(())
}

#[tokio::test]
async fn who_does_not_answer_is_not_waited_for() -> Result<()> {
    let bed = Bed::azure()?;
    bed.endpoints.answer(AZURE_LINE, Recorded::new(200, "").after(HOUR));
    let said = bed.issue(&azure()).await?.expect_err("no answer");
    assert!(said.starts_with("Away") && said.contains("no answer within 3s"), "{said}");
    let gone = bed.endpoints.authority();
    drop(bed);
    let bed = Bed::gcp()?.set("GCE_METADATA_HOST", gone.clone());
    let said = bed.issue(&gcp(None)).await?.expect_err("nobody");
    assert!(said.starts_with("Away") && said.contains(&gone), "{said}");
    Ok(())
}

#[tokio::test]
async fn an_environment_that_is_not_whole_is_said() -> Result<()> {
    let (_folder, file) = token_file(TOKEN)?;
    let empty = token_file("")?;
    for (variables, config, text) in [
        (vec![("AWS_ACCESS_KEY_ID", "A")], aws(), "AWS_SECRET_ACCESS_KEY is not"),
        (vec![("AWS_WEB_IDENTITY_TOKEN_FILE", &*file)], aws(), "AWS_ROLE_ARN is not"),
        (
            vec![("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere"), ("AWS_ROLE_ARN", "arn")],
            aws(),
            "the file that AWS_WEB_IDENTITY_TOKEN_FILE names cannot be read",
        ),
        (vec![("AWS_EC2_METADATA_DISABLED", "true")], aws(), "no credentials of AWS"),
        (
            vec![("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://10.1.2.3/creds")],
            aws(),
            "10.1.2.3: plain http reaches this machine and its link only",
        ),
        (vec![("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "@evil.example/x")], aws(), "has a user in it"),
        (vec![("GCE_METADATA_HOST", "evil.example")], gcp(None), "plain http reaches this machine"),
        (vec![("AZURE_FEDERATED_TOKEN_FILE", &*file)], azure(), "AZURE_CLIENT_ID is not"),
        (
            vec![
                ("AZURE_FEDERATED_TOKEN_FILE", &*empty.1),
                ("AZURE_CLIENT_ID", "c"),
                ("AZURE_TENANT_ID", "t"),
            ],
            azure(),
            "holds no token",
        ),
        (
            vec![
                ("AZURE_FEDERATED_TOKEN_FILE", &*file),
                ("AZURE_CLIENT_ID", "c"),
                ("AZURE_TENANT_ID", "t"),
                ("AZURE_AUTHORITY_HOST", "http://login.example"),
            ],
            azure(),
            "plain http reaches this machine",
        ),
    ] {
        let mut bed = Bed::new()?;
        for (name, value) in variables {
            bed = bed.set(name, value);
        }
        let said = bed.issue(&config).await?.expect_err(text);
        assert!(said.starts_with("Refused") && said.contains(text), "{text}: {said}");
        assert!(!said.contains("recorded.token"), "{said}");
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_of_somebody_else_is_no_token() -> Result<()> {
    let bed = Bed::gcp()?;
    // A captive portal, or whoever answers at that address where there is no cloud.
    let answer = Recorded::json(200, &json!({ "access_token": TOKEN, "expires_in": 3599 }));
    bed.endpoints.answer(CloudEndpoints::GCP_TOKEN, answer);
    let said = bed.issue(&gcp(None)).await?.expect_err("no flavor");
    assert!(said.starts_with("Refused") && said.contains("not the metadata server's"), "{said}");
    let bed = Bed::aws()?;
    bed.endpoints.aws_instance("doorward", SECRET, HOUR);
    let line = "GET /latest/meta-data/iam/security-credentials/doorward";
    bed.endpoints.answer(line, Recorded::json(200, &json!({ "Code": "AssumeRoleUnauthorizedAccess" })));
    let said = bed.issue(&aws()).await?.expect_err("no role");
    assert!(said.starts_with("Refused") && said.contains("AssumeRoleUnauthorizedAccess"), "{said}");
    Ok(())
}
