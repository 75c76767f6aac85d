//! The witness that a gateway is to its peers: listens, and answers `POST /add-checkpoint`.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use doorward_audit::Audit;
use doorward_audit::log::peers::{Peers, Records};
use doorward_audit::log::witness::Answer;
use doorward_core::ConfigDigest;
use doorward_http::{Body, bind, full, serve_posts};
use doorward_tlog::witness::REQUEST_MAX;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Response, StatusCode};

use crate::config::Root;
use crate::wiring::blocking;

/// Begins to listen, if that is configured; the address too, because port 0 takes a free one.
pub(crate) async fn start(
    root: &Root,
    audit: &Audit,
    digest: &ConfigDigest,
) -> anyhow::Result<Option<SocketAddr>> {
    let Some(config) = root.peers.clone() else { return Ok(None) };
    let records = Records {
        recorder: audit.recorder(),
        environment: root.environment.as_str().into(),
        digest: digest.clone(),
        runtime: tokio::runtime::Handle::current(),
    };
    let (spool, gateway_id) = (root.spool.dir.clone(), audit.status().gateway_id);
    let address = config.listen;
    let opened = blocking(move || Peers::open(&config, &spool, &gateway_id, records)).await?;
    let peers = opened.context("peers: the witness cannot work")?;
    let vkey = peers.vkey().to_string();
    let listener = bind(address).await.with_context(|| format!("peers.listen: {address}"))?;
    let address = listener.local_addr()?;
    let handler =
        move |method: &Method, path: &str, body: &[u8]| answer(method, path, || peers.add_checkpoint(body));
    tokio::spawn(serve_posts(listener, Arc::new(handler), REQUEST_MAX));
    tracing::info!(%address, vkey, "cosigns checkpoints of peers");
    Ok(Some(address))
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
