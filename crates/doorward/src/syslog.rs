//! The syslog listener of the ingest door: what its configuration must say, and its TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use doorward_core::Gateway;
use doorward_door_ingest::{SyslogListener, SyslogTls};
use doorward_http::{ClientCertificates, bind, server_config};
use doorward_settings::{Node, Problem, Problems};

use crate::config::Root;
use crate::wiring::blocking;

/// Says what is wrong with the listener's place in the configuration.
pub(crate) fn check(root: &Root, node: &Node) -> Problems {
    let mut problems = Problems::new();
    let at = node.get("listen").and_then(|listen| listen.get("syslog")).unwrap_or(node);
    let Some(address) = root.listen.syslog else {
        let resources = node.get("resources").map(Node::entries).unwrap_or_default();
        for entry in resources {
            if let Some(key) = entry.value.get("syslog") {
                problems.push(
                    key.problem("nothing listens for syslog").hint("set `listen.syslog: ADDRESS:PORT`"),
                );
            }
        }
        return problems;
    };
    match &root.tls {
        None if !address.ip().is_loopback() => problems.push(
            at.problem("syslog without TLS is heard on loopback only")
                .hint("set `tls`, with the authority of the senders' certificates in `tls.client_ca`"),
        ),
        Some(tls) if tls.client_ca.is_none() => problems.push(
            at.problem("syslog senders are known by their certificates, and none are believed")
                .hint("set `tls.client_ca`"),
        ),
        _ => {}
    }
    problems
}

/// Begins to listen, if that is configured; the address too, because port 0 takes a free one.
pub(crate) async fn start(
    root: &Root,
    gateway: Arc<Gateway>,
) -> anyhow::Result<Option<(SyslogListener, SocketAddr)>> {
    let Some(address) = root.listen.syslog else { return Ok(None) };
    let listener = bind(address).await?;
    let address = listener.local_addr()?;
    let tls = tls(root).await?;
    Ok(Some((SyslogListener::start(listener, gateway, tls), address)))
}

/// TLS as the HTTP listener has it, but that every sender must show a certificate.
pub(crate) async fn tls(root: &Root) -> Result<Option<SyslogTls>, Problems> {
    let Some(mut tls) = root.tls.clone() else { return Ok(None) };
    tls.client_certificates = ClientCertificates::Required;
    let loaded = blocking(move || server_config(&tls)).await?;
    let loaded = loaded.map_err(|error| Problem::of_file("tls", error.to_string()))?;
    let mut server = rustls::ServerConfig::clone(&loaded);
    // RFC 5425 knows no protocol names.
    server.alpn_protocols.clear();
    Ok(Some(Arc::new(server)))
}
