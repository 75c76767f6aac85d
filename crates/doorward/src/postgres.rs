//! The listener of the Postgres door: what its configuration must say, its TLS, and what it offers to clients.

use std::net::SocketAddr;
use std::sync::Arc;

use doorward_core::Gateway;
use doorward_door_postgres::{OAuthOffer, WireListener, WireOptions, WireTls};
use doorward_http::{bind, server_tls};
use doorward_settings::{Node, Problem, Problems};

use crate::config::{OAuthOffering, Root};
use crate::wiring::blocking;

/// What a client of OAUTHBEARER should ask its issuer for, unless the configuration says otherwise.
const SCOPE: &str = "openid";

/// Says what is wrong with the listener's place in the configuration.
pub(crate) fn check(root: &Root, node: &Node) -> Problems {
    let mut problems = Problems::new();
    let known = |name: &str| root.issuers.contains_key(name);
    if let Some(issuer) = root.oauth.issuer.as_ref().filter(|issuer| !known(issuer.get())) {
        problems.push(issuer.problem(format!("`issuers` has no {}", issuer.get())));
    }
    if root.oauth.offer == OAuthOffering::Always && oauth(root).is_none() && problems.is_empty() {
        let at = node.get("oauth").unwrap_or(node);
        problems.push(
            at.problem("there is not one issuer, but none or several").hint("name one: `oauth.issuer`"),
        );
    }
    let at = node.get("listen").and_then(|listen| listen.get("postgres")).unwrap_or(node);
    let Some(address) = root.listen.postgres else { return problems };
    if root.tls.is_none() && !address.ip().is_loopback() && !root.dangerous_plaintext_tokens {
        problems.push(
            at.problem("the Postgres door takes tokens over a network through TLS only").hint("set `tls`"),
        );
    }
    problems
}

/// Begins to listen, if that is configured; the address too, because port 0 takes a free one.
pub(crate) async fn start(
    root: &Root,
    gateway: Arc<Gateway>,
) -> anyhow::Result<Option<(WireListener, SocketAddr)>> {
    let Some(address) = root.listen.postgres else { return Ok(None) };
    let listener = bind(address).await?;
    let address = listener.local_addr()?;
    let tls = tls(root).await?;
    Ok(Some((WireListener::start(listener, gateway, tls.as_ref(), options(root)), address)))
}

/// Caps and times are those of the HTTP listener.
pub(crate) fn options(root: &Root) -> WireOptions {
    WireOptions {
        limits: Arc::new(root.http.limits()),
        plaintext_tokens: root.dangerous_plaintext_tokens,
        oauth: oauth(root),
    }
}

/// Where clients of OAUTHBEARER get their tokens; `None` where that is not said, and not plain.
fn oauth(root: &Root) -> Option<OAuthOffer> {
    let issuer = match &root.oauth.issuer {
        Some(name) => root.issuers.get(name.get())?,
        None if root.issuers.len() == 1 => root.issuers.values().next()?,
        None => return None,
    };
    let url = issuer.url.get().trim_end_matches('/');
    Some(OAuthOffer {
        discovery_url: format!("{url}/.well-known/openid-configuration").into(),
        scope: root.oauth.scope.as_deref().unwrap_or(SCOPE).into(),
        always: root.oauth.offer == OAuthOffering::Always,
    })
}

/// TLS as the HTTP listener has it.
pub(crate) async fn tls(root: &Root) -> Result<Option<WireTls>, Problems> {
    let Some(tls) = root.tls.clone() else { return Ok(None) };
    let loaded = blocking(move || server_tls(&tls)).await?;
    let loaded = loaded.map(|tls| Some(WireTls { config: tls.config, leaf: tls.leaf }));
    loaded.map_err(|error| Problem::of_file("tls", error.to_string()).into())
}
