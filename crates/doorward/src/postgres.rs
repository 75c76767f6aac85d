//! The listener of the Postgres door: what its configuration must say, and its TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use doorward_core::Gateway;
use doorward_door_postgres::{WireListener, WireOptions, WireTls};
use doorward_http::{bind, server_config};
use doorward_settings::{Node, Problem, Problems};

use crate::config::Root;
use crate::wiring::blocking;

/// Says what is wrong with the listener's place in the configuration.
pub(crate) fn check(root: &Root, node: &Node) -> Problems {
    let mut problems = Problems::new();
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
    WireOptions { limits: Arc::new(root.http.limits()), plaintext_tokens: root.dangerous_plaintext_tokens }
}

/// TLS as the HTTP listener has it.
pub(crate) async fn tls(root: &Root) -> Result<Option<WireTls>, Problems> {
    let Some(tls) = root.tls.clone() else { return Ok(None) };
    let loaded = blocking(move || server_config(&tls)).await?;
    loaded.map(Some).map_err(|error| Problem::of_file("tls", error.to_string()).into())
}
