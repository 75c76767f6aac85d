//! The HTTP client that exporters and sinks are handed by the binary.

use doorward_core::{BoxFuture, Secret};

/// What a service answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body's beginning; it may repeat what was sent, so it is not for logs.
    pub body: Vec<u8>,
}

/// Sends a body and says what was answered. Each request is bounded in time; an error is a sentence for the
/// operator.
pub trait Transport: Send + Sync {
    /// Posts JSON: the status.
    fn post<'a>(
        &'a self,
        url: &'a str,
        headers: &'a [(String, Secret)],
        body: Vec<u8>,
    ) -> BoxFuture<'a, Result<u16, String>>;

    /// Puts an object.
    fn put<'a>(
        &'a self,
        url: &'a str,
        headers: &'a [(String, Secret)],
        body: Vec<u8>,
    ) -> BoxFuture<'a, Result<Answer, String>>;
}
