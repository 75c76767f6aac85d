//! Rows in the binary form of COPY (PostgreSQL documentation, chapter "COPY", "Binary Format").

use super::StoreError;
use crate::columns::Type;
use crate::leaf::{Field, RowOf};

/// What a COPY begins with: signature, flags, no extension.
pub(super) const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What it ends with.
pub(super) const TRAILER: &[u8] = &(-1i16).to_be_bytes();
/// PostgreSQL's times begin in 2000: microseconds from 1970 until then.
const EPOCH_2000_US: i64 = 946_684_800_000_000;

/// Appends one row. What PostgreSQL could not take is refused here, because it would end the whole COPY.
pub(super) fn row(out: &mut Vec<u8>, row: &RowOf<'_>) -> Result<(), StoreError> {
    let count_at = out.len();
    out.extend_from_slice(&[0; 2]);
    let mut count = 0i16;
    for (column, field) in row.fields() {
        count = count.saturating_add(1);
        match field {
            Field::Null => out.extend_from_slice(&(-1i32).to_be_bytes()),
            Field::Int(number) => {
                let number = if column.ty == Type::Time { time(number)? } else { number };
                value(out, &number.to_be_bytes());
            }
            Field::Text(text) => value(out, text.as_bytes()),
            Field::Uuid(id) => value(out, id.as_bytes()),
            Field::Hash(hash) => value(out, &hash[..]),
        }
    }
    if let Some(place) = out.get_mut(count_at..count_at + 2) {
        place.copy_from_slice(&count.to_be_bytes());
    }
    Ok(())
}

fn value(out: &mut Vec<u8>, bytes: &[u8]) {
    // A frame of the spool is far smaller than what a length can say.
    out.extend_from_slice(&i32::try_from(bytes.len()).unwrap_or(i32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Microseconds since 1970 as PostgreSQL's. The ends of the range mean infinity there.
fn time(micros: i64) -> Result<i64, StoreError> {
    micros
        .checked_sub(EPOCH_2000_US)
        .filter(|time| *time > i64::MIN && *time < i64::MAX)
        .ok_or_else(|| StoreError::Rejected(format!("the time {micros} is out of range")))
}
