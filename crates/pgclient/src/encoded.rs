//! A read that is written before it is known on which connection: all of it but the statement's name.

use std::io;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use postgres_protocol::message::frontend;

use crate::conn::{PARAMS_MAX, bind, settings_name};
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
    bytes: BytesMut,
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
        let mut bytes = BytesMut::with_capacity(size(request, own) + 256);
        let texts = request.settings.iter().chain(own).flat_map(|(name, value)| [*name, *value]);
        bind(settings_name(settings)?, texts.map(|text| Some(text.as_bytes())), None, &mut bytes)?;
        frontend::execute("", 0, &mut bytes)?;
        let values = bytes.len();
        // No formats of values: all are text. One format of results, for all columns.
        bytes.put_i16(0);
        // The count is 16 bits wide, without a sign.
        bytes.put_u16(u16::try_from(request.params.len()).unwrap_or(u16::MAX));
        for value in request.params {
            match value {
                None => bytes.put_i32(-1),
                Some(value) => {
                    bytes.put_i32(length(value.len())?);
                    bytes.put_slice(value);
                }
            }
        }
        bytes.put_i16(1);
        bytes.put_i16(i16::from(request.binary));
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

fn length(bytes: usize) -> io::Result<i32> {
    i32::try_from(bytes).map_err(|_| io::Error::other("a message that is too large"))
}
