//! The one way in which identity talks to issuers: small, bounded requests.

use bytes::Bytes;
use doorward_core::{BoxFuture, Secret};

/// One request. A form makes it a POST.
#[derive(Clone, Debug)]
pub struct FetchRequest {
    /// Absolute `https://` URL, or `http://` where the configuration allows it.
    pub url: Box<str>,
    /// The `Authorization` header.
    pub authorization: Option<Secret>,
    /// An `application/x-www-form-urlencoded` body.
    pub form: Option<Secret>,
    /// A body larger than this many bytes is an error.
    pub body_bytes_max: usize,
}

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The status code.
    pub status: u16,
    /// The `Content-Type` header.
    pub content_type: Option<Box<str>>,
    /// The `Cache-Control` header.
    pub cache_control: Option<Box<str>>,
    /// The body, at most [`FetchRequest::body_bytes_max`] bytes.
    pub body: Bytes,
}

/// No answer, or one that is too large; the text is for the operator.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct FetchError(pub String);

/// Fetches. Implementations verify TLS certificates, bound the time that a request takes, do not follow
/// redirects (a redirect is an answer like any other, and identity refuses it) and add nothing to the
/// request that names the caller.
pub trait Fetch: Send + Sync {
    /// Sends one request and reads its answer whole.
    fn fetch(&self, request: FetchRequest) -> BoxFuture<'_, Result<Fetched, FetchError>>;
}
