//! Recorded endpoints of clouds: metadata servers and token endpoints that answer as the documentation of AWS, Azure and
//! Google Cloud prints it, refusals included. There are no real ones where tests run.
//!
//! Like the real ones, an endpoint of metadata refuses who does not send its header.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use doorward_core::{Clock, SystemClock, rfc3339};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// Requests to these endpoints are small.
const REQUEST_BYTES_MAX: usize = 256 * 1024;

/// What an endpoint answers.
#[derive(Clone, Debug)]
pub struct Recorded {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    /// What the request must have, and the status without it.
    needs: Option<(&'static str, String, u16)>,
    delay: Duration,
}

impl Recorded {
    /// An answer of this status with this body.
    pub fn new(status: u16, body: impl Into<Bytes>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), needs: None, delay: Duration::ZERO }
    }

    /// The same as JSON.
    pub fn json(status: u16, body: &Value) -> Self {
        Self::new(status, body.to_string()).header("content-type", "application/json")
    }

    /// With this header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// To requests that have this header; to others with this status.
    #[must_use]
    pub fn needs(self, name: &'static str, value: impl Into<String>, otherwise: u16) -> Self {
        Self { needs: Some((name, value.into(), otherwise)), ..self }
    }

    /// After this time.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Method and path: `GET /latest/meta-data/`.
    pub line: String,
    /// The query.
    pub query: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: String,
}

#[derive(Default)]
struct State {
    answers: Mutex<HashMap<String, Recorded>>,
    next: Mutex<HashMap<String, VecDeque<Recorded>>>,
    seen: Mutex<Vec<Seen>>,
}

/// A running server. Dropped, it stops.
pub struct CloudEndpoints {
    address: SocketAddr,
    state: Arc<State>,
    server: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl CloudEndpoints {
    /// One that knows nothing yet, and answers 404.
    ///
    /// # Errors
    /// When no port can be bound.
    pub fn start() -> Result<Self> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let state = Arc::new(State::default());
        let (stop, stopped) = oneshot::channel();
        let serving = state.clone();
        let thread = std::thread::Builder::new().name("cloud".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, serving) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { address, state, server: Some((stop, thread)) })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `127.0.0.1:PORT`.
    pub fn authority(&self) -> String {
        self.address.to_string()
    }

    /// Answers requests of this line (`GET /path`) so from now on.
    pub fn answer(&self, line: &str, answer: Recorded) {
        self.state.answers.lock().insert(line.to_owned(), answer);
    }

    /// Answers the next request of this line so.
    pub fn answer_next(&self, line: &str, answer: Recorded) {
        self.state.next.lock().entry(line.to_owned()).or_default().push_back(answer);
    }

    /// The requests since the last look.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state.seen.lock())
    }

    /// Their lines.
    pub fn lines(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.line).collect()
    }

    /// An EC2 instance's metadata, version 2, with a role whose credentials end after this time.
    pub fn aws_instance(&self, role: &str, secret: &str, life: Duration) {
        const TOKEN: &str = "x-aws-ec2-metadata-token";
        let session = "AQAEAOGIdq-recorded-session-w==";
        let opened = Recorded::new(200, session).needs("x-aws-ec2-metadata-token-ttl-seconds", "300", 400);
        self.answer("PUT /latest/api/token", opened);
        let folder = "GET /latest/meta-data/iam/security-credentials/";
        self.answer(folder, Recorded::new(200, role.to_owned()).needs(TOKEN, session, 401));
        let credentials = json!({
            "Code": "Success", "LastUpdated": "2026-04-26T16:39:16Z", "Type": "AWS-HMAC",
            "AccessKeyId": "ASIAIOSFODNN7EXAMPLE", "SecretAccessKey": secret, "Token": "session/token+of=instance",
            "Expiration": end(life),
        });
        self.answer(&format!("{folder}{role}"), Recorded::json(200, &credentials).needs(TOKEN, session, 401));
    }

    /// The credentials endpoint of ECS and of EKS Pod Identity.
    pub fn aws_container(&self, path: &str, authorization: &str, secret: &str) {
        let credentials = json!({
            "RoleArn": "arn:aws:iam::123456789012:role/doorward", "AccessKeyId": "ASIACONTAINEREXAMPLE",
            "SecretAccessKey": secret, "Token": "session/token+of=container", "Expiration": end(HOUR),
        });
        let answer = Recorded::json(200, &credentials).needs("authorization", authorization, 401);
        self.answer(&format!("GET {path}"), answer);
    }

    /// AWS STS, which gives these credentials for a web identity.
    pub fn aws_sts(&self, secret: &str) {
        let body = format!(
            "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">
  <AssumeRoleWithWebIdentityResult>
    <SubjectFromWebIdentityToken>system:serviceaccount:shop:doorward</SubjectFromWebIdentityToken>
    <Audience>sts.amazonaws.com</Audience>
    <AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/doorward/doorward</Arn>
      <AssumedRoleId>AROACLKWSDQRAOEXAMPLE:doorward</AssumedRoleId></AssumedRoleUser>
    <Credentials>
      <SessionToken>session/token+of=sts</SessionToken>
      <SecretAccessKey>{secret}</SecretAccessKey>
      <Expiration>{}</Expiration>
      <AccessKeyId>ASIAWEBIDENTITYEXAMPLE</AccessKeyId>
    </Credentials>
  </AssumeRoleWithWebIdentityResult>
  <ResponseMetadata><RequestId>ad4156e9-bce1-11e2-82e6-6b6efEXAMPLE</RequestId></ResponseMetadata>
</AssumeRoleWithWebIdentityResponse>",
            end(HOUR)
        );
        self.answer("POST /", Recorded::new(200, body).header("content-type", "text/xml"));
    }

    /// Azure's instance metadata service.
    pub fn azure_instance(&self, token: &str) {
        let answer = Recorded::json(200, &azure_token(token)).needs("metadata", "true", 400);
        self.answer("GET /metadata/identity/oauth2/token", answer);
    }

    /// The identity endpoint of App Service at `/msi/token`.
    pub fn azure_app(&self, header: &str, token: &str) {
        let mut said = azure_token(token);
        // This one says when, not for how long.
        if let Some(fields) = said.as_object_mut() {
            fields.remove("expires_in");
        }
        self.answer("GET /msi/token", Recorded::json(200, &said).needs("x-identity-header", header, 401));
    }

    /// The token endpoint of a tenant of Microsoft Entra.
    pub fn azure_authority(&self, tenant: &str, token: &str) {
        let said = json!({ "token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599, "access_token": token });
        self.answer(&format!("POST /{tenant}/oauth2/v2.0/token"), Recorded::json(200, &said));
    }

    /// Google's metadata server, with a service account that has this token.
    pub fn gcp_metadata(&self, token: &str) {
        let said = json!({ "access_token": token, "expires_in": 3599, "token_type": "Bearer" });
        let answer = Recorded::json(200, &said).header("metadata-flavor", "Google");
        self.answer(Self::GCP_TOKEN, answer.needs("metadata-flavor", "Google", 403));
    }

    /// Where Google's metadata server has the token.
    pub const GCP_TOKEN: &str = "GET /computeMetadata/v1/instance/service-accounts/default/token";

    /// Google's IAM credentials, which impersonate this account for whoever has that token.
    pub fn gcp_credentials(&self, account: &str, own: &str, token: &str) {
        let said = json!({ "accessToken": token, "expireTime": end(HOUR) });
        let answer = Recorded::json(200, &said).needs("authorization", format!("Bearer {own}"), 401);
        self.answer(&format!("POST /v1/projects/-/serviceAccounts/{account}:generateAccessToken"), answer);
    }
}

impl Drop for CloudEndpoints {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.server.take() {
            // It may have ended by itself.
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for CloudEndpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CloudEndpoints").field("address", &self.address).finish_non_exhaustive()
    }
}

const HOUR: Duration = Duration::from_secs(3600);

fn end(life: Duration) -> String {
    rfc3339::format(SystemClock.now().plus(life))
}

/// Azure writes numbers as text.
fn azure_token(token: &str) -> Value {
    let end = SystemClock.now().plus(Duration::from_secs(86_399)).seconds();
    json!({
        "access_token": token, "client_id": "712eac09-e943-418c-9be6-9fd5c91078bl", "expires_in": "86399",
        "expires_on": end.to_string(), "not_before": (end - 86_399).to_string(),
        "resource": "https://ossrdbms-aad.database.windows.net", "token_type": "Bearer",
    })
}

async fn accept(listener: std::net::TcpListener, state: Arc<State>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let state = state.clone();
                async move { Ok::<_, Infallible>(answer(&state, request).await) }
            });
            // A client that hangs up is not the cloud's affair.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(state: &State, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    #[expect(clippy::disallowed_methods, reason = "the body is limited")]
    let body = Limited::new(body, REQUEST_BYTES_MAX).collect().await;
    let body = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
    let line = format!("{} {}", head.method, head.uri.path());
    let query = head.uri.query().unwrap_or_default().to_owned();
    state.seen.lock().push(Seen { line: line.clone(), query, headers: head.headers.clone(), body });
    let next = state.next.lock().get_mut(&line).and_then(VecDeque::pop_front);
    let known = next.or_else(|| state.answers.lock().get(&line).cloned());
    let answer = known.unwrap_or_else(|| Recorded::new(404, "<html><body>404 - Not Found</body></html>"));
    tokio::time::sleep(answer.delay).await;
    let has =
        |(name, value, _): &(&str, String, u16)| head.headers.get(*name).is_some_and(|has| has == value);
    if let Some((_, _, otherwise)) = answer.needs.as_ref().filter(|needs| !has(needs)) {
        return respond(*otherwise, &[], Bytes::new());
    }
    respond(answer.status, &answer.headers, answer.body)
}

fn respond(status: u16, headers: &[(&'static str, String)], body: Bytes) -> Response<Full<Bytes>> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    response.body(Full::new(body)).unwrap_or_default()
}
