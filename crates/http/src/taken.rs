//! Whether an HTTP/2 peer takes its answers. The gate bounds this for HTTP/1 at the socket; over HTTP/2 the
//! socket goes on (the peer answers pings) while a stream's window stays shut and its answer stays here.
//!
//! Invariants: hyper asks a body for more only when the peer has opened the window for it, so the time since
//! an answer was last asked is the time for which the peer has taken nothing. An answer that waits for its
//! own backend is nobody's delay. Large frames are cut, so that what has left a body is little.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::body::{Body, BodyError};

/// The largest piece that is handed on at once.
const PIECE_BYTES_MAX: usize = 16 << 10;

/// The calls and answers of one connection; at most as many as it may have streams.
pub(crate) struct Answers(Mutex<State>);

struct State {
    calls: u32,
    last_end: Instant,
    /// When each was asked for more; `None` while it waits for its own source.
    under_way: HashMap<u64, Option<Instant>>,
    next: u64,
}

/// A call of the connection. Dropped, it has ended.
pub(crate) struct CallUnderWay(Arc<Answers>);

impl Answers {
    pub(crate) fn new() -> Arc<Self> {
        let state = State { calls: 0, last_end: Instant::now(), under_way: HashMap::new(), next: 0 };
        Arc::new(Self(Mutex::new(state)))
    }

    /// Counts a call that begins.
    pub(crate) fn begin(self: &Arc<Self>) -> CallUnderWay {
        self.0.lock().calls += 1;
        CallUnderWay(self.clone())
    }

    /// Watches over an answer.
    pub(crate) fn watch(self: &Arc<Self>, inner: Body) -> Body {
        if inner.is_end_stream() {
            return inner;
        }
        let id = {
            let mut state = self.0.lock();
            state.next += 1;
            let id = state.next;
            state.under_way.insert(id, Some(Instant::now()));
            id
        };
        Watched { answers: self.clone(), id, inner, rest: Bytes::new() }.boxed_unsync()
    }

    /// Whether the peer has not taken anything of an answer for so long.
    pub(crate) fn are_stalled(&self, span_max: Duration) -> bool {
        self.0.lock().under_way.values().flatten().any(|asked| asked.elapsed() >= span_max)
    }

    /// Whether nothing has been under way for so long.
    pub(crate) fn are_idle(&self, span_max: Duration) -> bool {
        let state = self.0.lock();
        state.calls == 0 && state.under_way.is_empty() && state.last_end.elapsed() >= span_max
    }

    fn note(&self, id: u64, asked: Option<Instant>) {
        self.0.lock().under_way.insert(id, asked);
    }
}

impl Drop for CallUnderWay {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.calls = state.calls.saturating_sub(1);
        state.last_end = Instant::now();
    }
}

struct Watched {
    answers: Arc<Answers>,
    id: u64,
    inner: Body,
    rest: Bytes,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            this.answers.note(this.id, None);
            let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
            this.answers.note(this.id, Some(Instant::now()));
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => this.rest = data,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        } else {
            this.answers.note(this.id, Some(Instant::now()));
        }
        let piece = this.rest.split_to(this.rest.len().min(PIECE_BYTES_MAX));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = u64::try_from(self.rest.len()).unwrap_or(u64::MAX);
        let inner = self.inner.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(rest));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut state = self.answers.0.lock();
        state.under_way.remove(&self.id);
        state.last_end = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::full;

    const SPAN: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken_is_stalled() {
        let answers = Answers::new();
        let mut body = answers.watch(full(vec![7; 40_000]));
        assert_eq!(body.size_hint().exact(), Some(40_000));
        for (length, left) in [(16_384, 23_616), (16_384, 7_232), (7_232, 0)] {
            tokio::time::advance(SPAN - Duration::from_secs(1)).await;
            assert!(!answers.are_stalled(SPAN));
            let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!((piece.len(), body.size_hint().exact()), (length, Some(left)));
        }
        assert!(body.is_end_stream());
        let parked = answers.watch(full("x"));
        drop(body);
        tokio::time::advance(SPAN).await;
        assert!(answers.are_stalled(SPAN) && !answers.are_idle(SPAN));
        drop(parked);
        assert!(!answers.are_stalled(SPAN) && !answers.are_idle(SPAN));
        tokio::time::advance(SPAN).await;
        assert!(answers.are_idle(SPAN));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_source_and_a_long_call_are_no_stall() {
        struct Never;
        impl HttpBody for Never {
            type Data = Bytes;
            type Error = BodyError;

            fn poll_frame(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
                Poll::Pending
            }
        }
        let answers = Answers::new();
        let mut body = answers.watch(Never.boxed_unsync());
        assert!(tokio::time::timeout(SPAN * 2, body.frame()).await.is_err());
        assert!(!answers.are_stalled(SPAN) && !answers.are_idle(SPAN));
        drop(body);
        let call = answers.begin();
        tokio::time::advance(SPAN * 2).await;
        assert!(!answers.are_idle(SPAN));
        drop(call);
        assert!(!answers.are_idle(SPAN));
    }
}
