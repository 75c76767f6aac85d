//! The HTTP client that exporters, sinks and the log's publisher are handed by the binary.

use std::sync::Arc;

use doorward_core::{BoxFuture, Secret};
use tokio::runtime::Handle;

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

    /// Gets an object of up to `bytes_max`.
    fn get<'a>(
        &'a self,
        url: &'a str,
        headers: &'a [(String, Secret)],
        bytes_max: usize,
    ) -> BoxFuture<'a, Result<Answer, String>>;
}

/// The client, and where its requests run.
#[derive(Clone)]
pub struct Reach {
    /// The client.
    pub transport: Arc<dyn Transport>,
    /// The runtime; it has a thread of its own at least.
    pub runtime: Handle,
}

impl std::fmt::Debug for Reach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reach").finish_non_exhaustive()
    }
}

/// Buckets of the tests: they take and give objects, and nobody posts to them.
#[cfg(test)]
pub(crate) mod bucket {
    use super::{Answer, BoxFuture, Secret, Transport};

    /// What stands behind the addresses.
    pub(crate) trait Bucket: Send + Sync {
        fn put_object(
            &self,
            url: &str,
            headers: &[(String, Secret)],
            body: Vec<u8>,
        ) -> Result<Answer, String>;

        fn get_object(&self, url: &str) -> Result<Answer, String>;
    }

    impl<B: Bucket> Transport for B {
        fn post<'a>(
            &'a self,
            _: &'a str,
            _: &'a [(String, Secret)],
            _: Vec<u8>,
        ) -> BoxFuture<'a, Result<u16, String>> {
            Box::pin(async { Err("nobody posts to a bucket".to_owned()) })
        }

        fn put<'a>(
            &'a self,
            url: &'a str,
            headers: &'a [(String, Secret)],
            body: Vec<u8>,
        ) -> BoxFuture<'a, Result<Answer, String>> {
            Box::pin(async move { self.put_object(url, headers, body) })
        }

        fn get<'a>(
            &'a self,
            url: &'a str,
            _: &'a [(String, Secret)],
            _: usize,
        ) -> BoxFuture<'a, Result<Answer, String>> {
            Box::pin(async move { self.get_object(url) })
        }
    }
}
