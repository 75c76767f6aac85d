//! A read that is written before it is known on which connection: all of it but the statement's name.

use std::io;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use postgres_protocol::message::frontend;

use crate::conn::{PARAMS_MAX, settings_name};
use crate::error::Failure;
use crate::request::Request;

/// The most bytes of values and settings of a read that shares a connection: it is kept until it is written.
pub(crate) const ENCODED_MAX: usize = 16 << 10;

/// One read.
pub(crate) struct Encoded {
    pub(crate) sql: Arc<str>,
    /// How many settings there are.
    pub(crate) settings: usize,
    /// Bind and Execute of the settings; then, from `values` on, Bind's formats and values.
    bytes: Vec<u8>,
    values: usize,
    rows_max: i32,
}

impl Encoded {
    /// Encodes a request with the pool's own settings after its own.
    pub(crate) fn new(request: &Request<'_>, own: &[(&str, &str)]) -> Result<Self, Failure> {
        if request.params.len() > PARAMS_MAX {
            return Err(Failure::Unsendable("more values than PostgreSQL takes"));
        }
        if request.sql.contains('\0') {
            return Err(Failure::Unsendable("a statement with a zero byte"));
        }
        let settings = request.settings.len() + own.len();
        let mut bytes = Vec::with_capacity(size(request, own) + 256);
        let pairs = request.settings.iter().chain(own);
        put_settings(&mut bytes, settings_name(settings)?, settings, pairs)?;
        let values = bytes.len();
        // No formats of values: all are text. One format of results, for all columns.
        bytes.extend_from_slice(&[0, 0]);
        // The count is 16 bits wide, without a sign.
        let count = u16::try_from(request.params.len()).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&count.to_be_bytes());
        for value in request.params {
            match value {
                None => bytes.extend_from_slice(&(-1_i32).to_be_bytes()),
                Some(value) => put_value(&mut bytes, value)?,
            }
        }
        bytes.extend_from_slice(&[0, 1, 0, u8::from(request.binary)]);
        let rows_max = request.rows_max.map_or(0, |max| i32::try_from(max).unwrap_or(i32::MAX));
        Ok(Self { sql: request.sql.into(), settings, bytes, values, rows_max })
    }

    /// Appends Bind and Execute of the settings.
    pub(crate) fn put_settings(&self, out: &mut BytesMut) {
        out.put_slice(self.bytes.get(..self.values).unwrap_or_default());
    }

    /// Appends Bind and Execute of the statement, which is prepared as `name`.
    pub(crate) fn put_statement(&self, name: &str, out: &mut BytesMut) -> io::Result<()> {
        let values = self.bytes.get(self.values..).unwrap_or_default();
        // The length counts itself, the unnamed portal's zero, the name with its zero, and the rest.
        let body = length(4 + 1 + name.len() + 1 + values.len())?;
        out.put_u8(b'B');
        out.put_i32(body);
        out.put_u8(0);
        out.put_slice(name.as_bytes());
        out.put_u8(0);
        out.put_slice(values);
        frontend::execute("", self.rows_max, out)
    }
}

/// Bytes of values and settings.
pub(crate) fn size(request: &Request<'_>, own: &[(&str, &str)]) -> usize {
    let values: usize = request.params.iter().flatten().map(|value| value.len() + 4).sum();
    let settings: usize =
        request.settings.iter().chain(own).map(|(name, value)| name.len() + value.len() + 8).sum();
    values + settings + 4 * request.params.len()
}

/// Appends Bind of the unnamed portal to the statement that sets so many settings, and its Execute. Every read
/// has some ten of them, so they are written here and not by the message builder, which goes back over each
/// value for its length.
fn put_settings<'v>(
    bytes: &mut Vec<u8>,
    statement: &str,
    count: usize,
    pairs: impl Iterator<Item = &'v (&'v str, &'v str)>,
) -> io::Result<()> {
    let start = bytes.len() + 1;
    bytes.extend_from_slice(b"B\0\0\0\0\0");
    bytes.extend_from_slice(statement.as_bytes());
    bytes.extend_from_slice(&[0, 0, 0]);
    let texts = u16::try_from(2 * count).map_err(|_| too_large())?;
    bytes.extend_from_slice(&texts.to_be_bytes());
    for (name, value) in pairs {
        put_value(bytes, name.as_bytes())?;
        put_value(bytes, value.as_bytes())?;
    }
    bytes.extend_from_slice(&[0, 0]);
    let body = length(bytes.len() - start)?.to_be_bytes();
    if let Some(place) = bytes.get_mut(start..start + body.len()) {
        place.copy_from_slice(&body);
    }
    // Execute: its length, the unnamed portal, all rows.
    bytes.extend_from_slice(b"E\0\0\0\x09\0\0\0\0\0");
    Ok(())
}

fn put_value(bytes: &mut Vec<u8>, value: &[u8]) -> io::Result<()> {
    bytes.extend_from_slice(&length(value.len())?.to_be_bytes());
    bytes.extend_from_slice(value);
    Ok(())
}

fn length(bytes: usize) -> io::Result<i32> {
    i32::try_from(bytes).map_err(|_| too_large())
}

fn too_large() -> io::Error {
    io::Error::other("a message that is too large")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::bind;

    #[test]
    fn settings_are_written_as_the_message_builder_writes_them() {
        for pairs in [&[][..], &[("role", "reader"), ("request.path", "/é"), ("x", "")][..]] {
            let mut ours = Vec::new();
            put_settings(&mut ours, "dw_set3", pairs.len(), pairs.iter()).unwrap();
            let mut theirs = BytesMut::new();
            let texts = pairs.iter().flat_map(|(name, value)| [*name, *value]);
            bind("dw_set3", texts.map(|text| Some(text.as_bytes())), None, &mut theirs).unwrap();
            frontend::execute("", 0, &mut theirs).unwrap();
            assert_eq!(ours, theirs);
        }
    }
}
