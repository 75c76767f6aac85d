//! A collector of the tests, which answers as it is told.

use std::sync::atomic::{AtomicU16, Ordering};

use doorward_core::{BoxFuture, Secret};
use parking_lot::Mutex;

use crate::transport::{Answer, Transport};

#[derive(Default)]
pub(crate) struct Collector {
    /// What it answers: 0 means that it hangs.
    pub(crate) status: AtomicU16,
    /// It answers 400 to what has this in it.
    pub(crate) refuses: Mutex<Option<String>>,
    /// Where to it was sent what it took, and what that was.
    pub(crate) taken: Mutex<Vec<(String, String)>>,
}

impl Transport for Collector {
    fn post<'a>(
        &'a self,
        url: &'a str,
        _: &'a [(String, Secret)],
        body: Vec<u8>,
    ) -> BoxFuture<'a, Result<u16, String>> {
        Box::pin(async move {
            let status = self.status.load(Ordering::Relaxed);
            let body = String::from_utf8(body).unwrap();
            if self.refuses.lock().as_ref().is_some_and(|refused| body.contains(refused)) {
                return Ok(400);
            }
            match status {
                0 => std::future::pending().await,
                200 => self.taken.lock().push((url.to_owned(), body)),
                _ => {}
            }
            Ok(status)
        })
    }

    fn put<'a>(
        &'a self,
        _: &'a str,
        _: &'a [(String, Secret)],
        _: Vec<u8>,
    ) -> BoxFuture<'a, Result<Answer, String>> {
        Box::pin(async { Err("a collector takes posts".to_owned()) })
    }
    fn get<'a>(
        &'a self,
        _: &'a str,
        _: &'a [(String, Secret)],
        _: usize,
    ) -> BoxFuture<'a, Result<Answer, String>> {
        Box::pin(async { Err("a collector takes posts".to_owned()) })
    }
}
