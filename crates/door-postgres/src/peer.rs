//! The bytes to and from a client, in the clear or through TLS.

use tokio::io::{AsyncRead, AsyncWrite};

/// A stream of either kind.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Duplex for S {}

/// A client's stream.
pub(crate) type BoxStream = Box<dyn Duplex>;
