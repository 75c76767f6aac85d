//! The witness that a gateway is to its peers: listens, and answers `POST /add-checkpoint`.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use doorward_audit::Audit;
use doorward_audit::log::peers::{Peers, Records};
use doorward_audit::log::witness::Answer;
use doorward_http::{Body, ClientCertificates, PlainTls, bind, full, serve_posts, server_config};
use doorward_settings::{Node, Problem, Problems};
use doorward_tlog::witness::REQUEST_MAX;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Response, StatusCode};

use crate::config::Root;
use crate::wiring::blocking;

/// Says what is wrong with the listener's place in the configuration.
pub(crate) fn check(root: &Root, node: &Node) -> Problems {
    let mut problems = Problems::new();
    let Some(peers) = &root.peers else { return problems };
    let of = |key: &str| node.get("peers").and_then(|peers| peers.get(key)).unwrap_or(node);
    match &root.tls {
        None if !peers.listen.ip().is_loopback() && !peers.dangerous_plaintext => problems.push(
            of("listen")
                .problem("without TLS, peers are heard on loopback only")
                .hint("set `tls`, or `peers.dangerous_plaintext: true`: what they ask and get is signed"),
        ),
        tls if peers.client_certificate_required
            && tls.as_ref().is_none_or(|tls| tls.client_ca.is_none()) =>
        {
            problems.push(
                of("client_certificate_required")
                    .problem("peers are to show certificates, and none are believed")
                    .hint("set `tls`, with the authority of the peers' certificates in `tls.client_ca`"),
            );
        }
        _ => {}
    }
    problems
}

/// Lets new connections speak TLS as the HTTP listener does, but that each peer may have to show a certificate.
pub(crate) async fn set_tls(listener: &PlainTls, root: &Root) -> Result<(), Problems> {
    let required = root.peers.as_ref().is_some_and(|peers| peers.client_certificate_required);
    let Some(mut tls) = root.tls.clone() else {
        listener.set(None);
        return Ok(());
    };
    if required {
        tls.client_certificates = ClientCertificates::Required;
    }
    let loaded = blocking(move || server_config(&tls)).await?;
    let loaded = loaded.map_err(|error| Problem::of_file("tls", error.to_string()))?;
    listener.set(Some(&loaded));
    Ok(())
}

/// Begins to listen, if that is configured: how it speaks TLS, and the address, because port 0 takes a free one.
pub(crate) async fn start(
    root: &Root,
    audit: &Audit,
    records: Records,
) -> anyhow::Result<Option<(PlainTls, SocketAddr)>> {
    let Some(config) = root.peers.clone() else { return Ok(None) };
    let (spool, gateway_id) = (root.spool.dir.clone(), audit.status().gateway_id);
    let address = config.listen;
    let opened = blocking(move || Peers::open(&config, &spool, &gateway_id, records)).await?;
    let peers = opened.context("peers: the witness cannot work")?;
    let vkey = peers.vkey().to_string();
    let tls = PlainTls::default();
    set_tls(&tls, root).await?;
    let listener = bind(address).await.with_context(|| format!("peers.listen: {address}"))?;
    let address = listener.local_addr()?;
    let handler =
        move |method: &Method, path: &str, body: &[u8]| answer(method, path, || peers.add_checkpoint(body));
    tokio::spawn(serve_posts(listener, tls.clone(), Arc::new(handler), REQUEST_MAX));
    tracing::info!(%address, vkey, "cosigns checkpoints of peers");
    Ok(Some((tls, address)))
}

/// Answers a request of tlog-witness.
pub(crate) fn answer(method: &Method, path: &str, add: impl FnOnce() -> Answer) -> Response<Body> {
    if path != "/add-checkpoint" {
        return page(404, "text/plain; charset=utf-8", "there is /add-checkpoint\n".to_owned());
    }
    if method != Method::POST {
        return page(405, "text/plain; charset=utf-8", "POST only\n".to_owned());
    }
    let answer = add();
    page(answer.status, answer.content_type, answer.text)
}

fn page(status: u16, kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
