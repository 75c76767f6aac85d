//! Bodies, each with its bounds.

use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use doorward_core::Fault;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, Sleep};

use crate::codes;
use crate::gate::Violation;

/// What can go wrong in the middle of an answer; hyper then cuts the connection or resets the stream.
pub type BodyError = Box<dyn Error + Send + Sync>;

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// How long [`read_body`] waits for a whole body, however steadily it drips.
pub const BODY_READ_SPAN_MAX: Duration = Duration::from_secs(60);

/// A whole body.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// No body.
pub fn empty() -> Body {
    full(Bytes::new())
}

/// The body of a request: at most so many bytes, and never silent for long. Its errors are faults.
pub struct RequestBody {
    inner: UnsyncBoxBody<Bytes, BodyError>,
    bytes_max: u64,
    bytes_seen: u64,
    idle_max: Duration,
    clock: Option<Pin<Box<Sleep>>>,
    waiting: bool,
    whole: Whole,
}

/// Whether a request's body has been read to its end; the listener asks once the answer is there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Whole(Arc<AtomicBool>);

impl Whole {
    pub(crate) fn is_read(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl RequestBody {
    /// Puts bounds around a body from the wire.
    pub fn new<B>(body: B, bytes_max: u64, idle_max: Duration) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        let inner = body.map_err(Into::into).boxed_unsync();
        let whole = Whole::default();
        if inner.is_end_stream() {
            whole.set();
        }
        Self { inner, bytes_max, bytes_seen: 0, idle_max, clock: None, waiting: false, whole }
    }

    /// A body that is there already: tests walk a door without a listener.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        let inner = full(bytes);
        Self {
            inner,
            bytes_max: u64::MAX,
            bytes_seen: 0,
            idle_max: BODY_READ_SPAN_MAX,
            clock: None,
            waiting: false,
            whole: Whole::default(),
        }
    }

    /// Tells, later too, whether the body has been read to its end.
    pub(crate) fn whole(&self) -> Whole {
        self.whole.clone()
    }

    /// Bytes taken in so far.
    pub fn bytes_seen(&self) -> u64 {
        self.bytes_seen
    }

    fn too_large(&self) -> Fault {
        too_large(self.bytes_max)
    }

    /// Whether the sender has been silent for too long. One timer serves the whole body.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let clock = self.clock.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.idle_max)));
        if !self.waiting {
            self.waiting = true;
            clock.as_mut().reset(Instant::now() + self.idle_max);
        }
        clock.as_mut().poll(cx)
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        if this.inner.size_hint().lower() > this.bytes_max.saturating_sub(this.bytes_seen) {
            return Poll::Ready(Some(Err(this.too_large())));
        }
        let Poll::Ready(next) = Pin::new(&mut this.inner).poll_frame(cx) else {
            return this.poll_silence(cx).map(|()| Some(Err(slow_body())));
        };
        this.waiting = false;
        Poll::Ready(match next {
            None => {
                this.whole.set();
                None
            }
            Some(Err(error)) => Some(Err(body_fault(&*error))),
            Some(Ok(frame)) => {
                let size = frame.data_ref().map_or(0, Bytes::len);
                this.bytes_seen = this.bytes_seen.saturating_add(u64::try_from(size).unwrap_or(u64::MAX));
                if this.bytes_seen > this.bytes_max {
                    return Poll::Ready(Some(Err(this.too_large())));
                }
                Some(Ok(frame))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl std::fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestBody").field("bytes_seen", &self.bytes_seen).finish_non_exhaustive()
    }
}

/// Reads a body whole, at most `bytes_max` bytes of it, within [`BODY_READ_SPAN_MAX`].
pub async fn read_body(body: &mut RequestBody, bytes_max: u64) -> Result<Bytes, Fault> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    if body.size_hint().lower() > bytes_max {
        return Err(too_large(bytes_max));
    }
    tokio::time::timeout(BODY_READ_SPAN_MAX, gather(body, bytes_max))
        .await
        .unwrap_or_else(|_| Err(slow_body()))
}

/// Whether a JSON text has more levels of objects and arrays than this. Brackets are counted outside of strings; nothing
/// else is looked at, so the text need not be well-formed.
pub fn is_nested_deeper(json: &[u8], levels: usize) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    json.iter().any(|byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > levels
    })
}

async fn gather(body: &mut RequestBody, bytes_max: u64) -> Result<Bytes, Fault> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        // Trailers are read off the wire and dropped: nothing decides on them.
        let Ok(data) = frame?.into_data() else { continue };
        let size = first.len().saturating_add(all.len()).saturating_add(data.len());
        if u64::try_from(size).unwrap_or(u64::MAX) > bytes_max {
            return Err(too_large(bytes_max));
        }
        // The common body is one frame and is not copied.
        if first.is_empty() && all.is_empty() {
            first = data;
            continue;
        }
        all.extend_from_slice(&std::mem::take(&mut first));
        all.extend_from_slice(&data);
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

fn too_large(bytes_max: u64) -> Fault {
    Fault::new(codes::BODY_TOO_LARGE, format!("the request's body is larger than {bytes_max} bytes"))
        .hint("Send less at once, or ask the gateway's operator for a larger bound.")
}

fn slow_body() -> Fault {
    Fault::new(codes::SLOW_CLIENT, "the request's body did not come in time").hint("Send the request again.")
}

/// What a broken body means: the gate saw bad framing, or the sender went away.
fn body_fault(error: &(dyn Error + 'static)) -> Fault {
    let mut link = Some(error);
    while let Some(cause) = link {
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(violation) = inner.and_then(|inner| inner.downcast_ref::<Violation>()) {
            return violation.fault();
        }
        link = cause.source();
    }
    Fault::new(codes::BODY_BROKEN, "the request's body ended before it was whole").cause(error)
}
