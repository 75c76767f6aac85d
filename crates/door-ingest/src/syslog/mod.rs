//! Syslog: RFC 5424 messages over TLS (RFC 5425) or, on loopback, plain TCP (RFC 6587).
//!
//! Syslog knows no acknowledgement. What a sender has written is not safe before the gateway has read it and
//! made it durable, and the sender does not learn when that is. So the gateway reads no further than it can
//! store: while the spool refuses, it keeps the batch at hand and stops reading, TCP's window closes, and
//! the sender's own queue fills up.

mod call;
pub(crate) mod frame;
pub(crate) mod listener;
pub(crate) mod message;
