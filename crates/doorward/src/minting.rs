//! `POST /gateway/logins`: mints a login for the Postgres door, for the bearer of a token. And the key under which
//! the gateway mints.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use doorward_core::{
    Access, Answered, BoxFuture, Completion, Fault, Gateway, LoginWish, NewLogin, ResourceName, RoleName,
    Timestamp, unknown_resource,
};
use doorward_http::{Body, Inbound, OwnPaths, full, problem, read_body};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Response};

use crate::config::Root;
use crate::wire::{LoginAnswer, LoginRequest};

/// The first path segment of what the gateway itself answers.
pub(crate) const SEGMENT: &str = "gateway";
/// What is behind it.
const LOGINS: &str = "logins";
/// The operation's name in records.
const OPERATION: &str = "mint login";
/// The largest request.
const REQUEST_BYTES_MAX: u64 = 4 << 10;
/// The longest name of a role.
const ROLE_BYTES_MAX: usize = 63;
/// The file of the gateway's own key, beside the spool's folder.
const KEY_FILE: &str = "login.key";

/// The gateway's own paths.
#[derive(Debug)]
pub(crate) struct Gatekeeper;

impl OwnPaths for Gatekeeper {
    fn serve<'a>(
        &'a self,
        gateway: &'a Gateway,
        access: Access,
        inbound: Inbound,
    ) -> BoxFuture<'a, Answered<Response<Body>>> {
        Box::pin(async move {
            let Inbound { mut request, credentials } = inbound;
            let wish = wish(&mut request).await;
            let authenticator = access.snapshot().authenticator.clone();
            let now = gateway.now();
            let mint = |principal: &doorward_core::Principal| {
                if !principal.authenticated() {
                    return Err(Fault::new(
                        doorward_http::codes::CREDENTIALS_MISSING,
                        "this call shows no credentials",
                    )
                    .hint("Send Authorization: Bearer TOKEN."));
                }
                let login = authenticator.mint(principal, &wish?, now)?;
                answer(&login, now)
            };
            gateway.attest(access, &credentials, OPERATION, mint, problem).await
        })
    }
}

/// Reads what is wished for. What is wrong with it is said to those who say who they are.
async fn wish(request: &mut http::Request<doorward_http::RequestBody>) -> Result<LoginWish, Fault> {
    let path = request.uri().path();
    if path.trim_start_matches('/').split('/').skip(1).ne([LOGINS]) {
        return Err(unknown_resource(SEGMENT));
    }
    if request.method() != Method::POST {
        return Err(Fault::new(crate::codes::OWN_REQUEST, "logins are minted by POST"));
    }
    let malformed = |why: String| {
        Fault::new(crate::codes::OWN_REQUEST, "the request for a login is malformed")
            .hint("Send JSON such as {\"resource\": \"shop\", \"role\": \"analyst\"}, or nothing.")
            .cause(why)
    };
    let body = read_body(request.body_mut(), REQUEST_BYTES_MAX).await?;
    let LoginRequest { resource, role } = match body.is_empty() {
        true => LoginRequest::default(),
        false => serde_json::from_slice(&body).map_err(|error| malformed(error.to_string()))?,
    };
    let plain =
        |text: &String| (1..=ROLE_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
    if !resource.iter().chain(&role).all(plain) {
        return Err(malformed("a name is empty, too long, or has control characters".to_owned()));
    }
    Ok(LoginWish { resource: resource.map(ResourceName::new), role: role.map(RoleName::new) })
}

fn answer(login: &NewLogin, now: Timestamp) -> Result<(Response<Body>, Completion), Fault> {
    let answer = LoginAnswer {
        user: login.user.to_string(),
        password: login.password.expose().to_string(),
        expires_at: doorward_audit::time::rfc3339(login.expires_at),
        expires_in: login.expires_at.since(now).max(Duration::ZERO).as_secs(),
    };
    let text = serde_json::to_string(&answer).map_err(|error| {
        Fault::new(doorward_core::codes::PANIC, "the answer cannot be written").cause(error)
    })?;
    let completion =
        Completion { status: Some(200), rows: None, bytes_out: u64::try_from(text.len()).unwrap_or(0) };
    let mut response = Response::new(full(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok((response, completion))
}

/// Where the gateway's own key is.
pub(crate) fn own_key(spool: &Path) -> PathBuf {
    spool.parent().unwrap_or(Path::new("")).join(KEY_FILE)
}

/// Makes the gateway's own key where one is needed and none is there. Blocks: at start only.
pub(crate) fn ensure_key(root: &Root) -> anyhow::Result<()> {
    let Some(logins) = root.identity().minted_logins.filter(|logins| logins.key.is_none()) else {
        return Ok(());
    };
    let Some(path) = logins.own_key else { return Ok(()) };
    make_key(&path).with_context(|| format!("the key for logins cannot be made: {}", path.display()))
}

fn make_key(path: &Path) -> anyhow::Result<()> {
    if path.exists() {
        return Ok(());
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    let key = doorward_identity::new_login_key()?;
    let draft = path.with_extension(format!("draft-{}", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&draft)?;
    file.write_all(key.expose().as_bytes())?;
    file.sync_all()?;
    // Whole, or not there; and the first of two gateways that start at once wins.
    let linked = std::fs::hard_link(&draft, path);
    std::fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        linked => Ok(linked?),
    }
}
