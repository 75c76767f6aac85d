//! From bytes as they come in to pieces that may be records, without holding a whole body.

pub(crate) mod gzip;
pub(crate) mod split;
