//! What a client asks of the gateway itself: a minted login.

use anyhow::{Context, bail};
use doorward_core::Secret;
use http::Method;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::Value;

use super::config::Profile;
use super::issuer::{CAPS, client, plain};
use crate::wire::{LoginAnswer, LoginRequest};

/// Mints a login for the bearer of a token.
pub(crate) async fn mint(
    profile: &Profile,
    token: &Secret,
    request: &LoginRequest,
) -> anyhow::Result<LoginAnswer> {
    let gateway =
        profile.gateway.as_deref().context("where the gateway is, is not known: log in with --gateway")?;
    let url = format!("{}/gateway/logins", gateway.trim_end_matches('/'));
    let mut headers = HeaderMap::new();
    let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.expose()))?;
    bearer.set_sensitive(true);
    headers.insert(AUTHORIZATION, bearer);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let body = serde_json::to_vec(request)?;
    let client = client(profile.ca.as_deref())?;
    let reply = client.send(Method::POST, &url, headers, body.into(), CAPS).await;
    let reply = reply.with_context(|| url.clone())?;
    if !reply.status.is_success() {
        let problem: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        let text = |name: &str| problem.get(name).and_then(Value::as_str).map(plain).unwrap_or_default();
        bail!("the gateway refuses ({}): {} {}", reply.status, text("detail"), text("hint"));
    }
    serde_json::from_slice(&reply.body)
        .map_err(|_| anyhow::anyhow!("{url} does not answer as a gateway does"))
}
