//! The admin address: `/metrics`, `/healthz`, `/readyz`. It tells names and numbers, never what was called.

use std::sync::Arc;

use doorward_http::{Body, PlainHandler, full};
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Response, StatusCode};

use crate::state::State;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// Prometheus' text format, as OpenMetrics 1.0 writes it.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers the admin address.
pub(crate) fn handler(state: Arc<State>) -> PlainHandler {
    Arc::new(move |method, path| answer(&state, method, path))
}

fn answer(state: &State, method: &Method, path: &str) -> Response<Body> {
    if method != Method::GET && method != Method::HEAD {
        let mut refused = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET and HEAD only\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match path {
        "/healthz" => page(StatusCode::OK, TEXT, "ok\n"),
        "/readyz" => readiness(state),
        "/metrics" => match state.metrics_text() {
            Ok(text) => page(StatusCode::OK, OPEN_METRICS, text),
            Err(_) => page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "the metrics cannot be written\n"),
        },
        _ => page(StatusCode::NOT_FOUND, TEXT, "there are /healthz, /readyz and /metrics\n"),
    }
}

fn readiness(state: &State) -> Response<Body> {
    let readiness = state.readiness();
    let status = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match serde_json::to_string_pretty(&readiness) {
        Ok(text) => page(status, JSON, text + "\n"),
        Err(_) => page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "the state cannot be written\n"),
    }
}

fn page(status: StatusCode, kind: &'static str, text: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
