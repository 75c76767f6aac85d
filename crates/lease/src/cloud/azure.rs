//! Azure: tokens of Microsoft Entra for Azure Database for PostgreSQL.
//!
//! Who the gateway is comes from where it runs, in the order of Azure's own libraries: a workload identity
//! (Kubernetes), the identity endpoint of App Service and Container Apps, an instance's metadata.

use std::sync::Arc;

use doorward_core::Secret;
use doorward_pgclient::{AzureCloud, AzureEntraConfig};
use doorward_sigv4::encoded;
use http::{Method, StatusCode};

use super::Token;
use super::ask::{Answer, Ask, FORM, Line, form, read_file};
use super::shelf::{Given, Shelf};
use super::wire::TokenAnswer;
use crate::source::SourceError;

/// Where an instance's metadata are.
const METADATA: &str = "http://169.254.169.254";
/// What a client assertion is (RFC 7523).
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// One identity of the gateway, for databases of one of Azure's clouds.
pub(super) struct AzureIdentity {
    line: Arc<Line>,
    config: AzureEntraConfig,
    shelf: Shelf<Secret>,
}

impl AzureIdentity {
    pub(super) fn new(line: Arc<Line>, config: AzureEntraConfig) -> Self {
        Self { line, config, shelf: Shelf::default() }
    }

    pub(super) fn forget(&self) {
        self.shelf.forget();
    }

    pub(super) async fn token(&self) -> Result<Token, SourceError> {
        self.shelf.get(self.fetch()).await.map(Token::from)
    }

    async fn fetch(&self) -> Result<Given<Secret>, SourceError> {
        let env = &self.line.environment;
        let answer = if let Some(file) = env.get("AZURE_FEDERATED_TOKEN_FILE") {
            self.of_workload(file).await?
        } else if let (Some(endpoint), Some(header)) =
            (env.get("IDENTITY_ENDPOINT"), env.get("IDENTITY_HEADER"))
        {
            self.of_app(&endpoint, Secret::from(header)).await?
        } else {
            self.of_instance().await?
        };
        let said: TokenAnswer = answer.json()?;
        let good_for = said.good_for().ok_or_else(|| answer.lacks("expires_in"))?;
        let text = said.access_token.ok_or_else(|| answer.lacks("access_token"))?;
        Token::new(&answer.from, &text, good_for).map(Given::from)
    }

    /// For a token of the cluster's own issuer.
    async fn of_workload(&self, file: String) -> Result<Answer, SourceError> {
        let env = &self.line.environment;
        let missing = |name: &str| {
            SourceError::Refused(format!("AZURE_FEDERATED_TOKEN_FILE is set, and {name} is not"))
        };
        let own = self.config.client_id.as_deref().map(str::to_owned);
        let client = own.or_else(|| env.get("AZURE_CLIENT_ID")).ok_or_else(|| missing("AZURE_CLIENT_ID"))?;
        let tenant = env.get("AZURE_TENANT_ID").ok_or_else(|| missing("AZURE_TENANT_ID"))?;
        let authority = env.get("AZURE_AUTHORITY_HOST").unwrap_or_else(|| self.authority().to_owned());
        let assertion = read_file("AZURE_FEDERATED_TOKEN_FILE", file).await?;
        let form = form(&[
            ("client_id", &client),
            ("scope", &format!("{}/.default", self.resource())),
            ("client_assertion_type", ASSERTION_TYPE),
            ("client_assertion", assertion.expose()),
            ("grant_type", "client_credentials"),
        ]);
        let ask = Ask {
            method: Method::POST,
            url: format!("{}/{}/oauth2/v2.0/token", authority.trim_end_matches('/'), encoded(&tenant, "")),
            headers: &[],
            body: Some((FORM, form)),
            proof: Some(&assertion),
            hint: "; the identity needs a federated credential for this service account",
            passing: &[],
        };
        self.line.send(&ask).await
    }

    /// App Service, Functions, Container Apps.
    async fn of_app(&self, endpoint: &str, header: Secret) -> Result<Answer, SourceError> {
        let mark = if endpoint.contains('?') { '&' } else { '?' };
        let url = format!("{endpoint}{mark}api-version=2019-08-01{}", self.query());
        let ask = Ask {
            method: Method::GET,
            url,
            headers: &[("x-identity-header", header.expose())],
            body: None,
            proof: Some(&header),
            hint: "; is the identity assigned to the app?",
            passing: &[],
        };
        self.line.send(&ask).await
    }

    async fn of_instance(&self) -> Result<Answer, SourceError> {
        let base = self.line.environment.get("AZURE_POD_IDENTITY_AUTHORITY_HOST");
        let base = base.unwrap_or_else(|| METADATA.to_owned());
        let query = self.query();
        let ask = Ask {
            method: Method::GET,
            url: format!(
                "{}/metadata/identity/oauth2/token?api-version=2018-02-01{query}",
                base.trim_end_matches('/')
            ),
            headers: &[("metadata", "true")],
            body: None,
            proof: None,
            hint: "; is the identity assigned to the machine?",
            // While the service is updated.
            passing: &[StatusCode::NOT_FOUND, StatusCode::GONE],
        };
        self.line.send(&ask).await
    }

    fn query(&self) -> String {
        let client = self.config.client_id.as_deref();
        let client = client.map(|id| format!("&client_id={}", encoded(id, ""))).unwrap_or_default();
        format!("&resource={}{client}", encoded(self.resource(), ""))
    }

    fn resource(&self) -> &'static str {
        match self.config.cloud {
            AzureCloud::Public => "https://ossrdbms-aad.database.windows.net",
            AzureCloud::UsGovernment => "https://ossrdbms-aad.database.usgovcloudapi.net",
            AzureCloud::China => "https://ossrdbms-aad.database.chinacloudapi.cn",
        }
    }

    fn authority(&self) -> &'static str {
        match self.config.cloud {
            AzureCloud::Public => "https://login.microsoftonline.com",
            AzureCloud::UsGovernment => "https://login.microsoftonline.us",
            AzureCloud::China => "https://login.chinacloudapi.cn",
        }
    }
}
