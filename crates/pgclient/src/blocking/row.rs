//! Values of a row in the types that callers keep.

use crate::request::Row;

impl Row<'_> {
    /// The value of a column as a number; `None` when it is NULL, or none.
    pub fn int(&self, column: usize) -> Option<i64> {
        self.text(column)?.parse().ok()
    }

    /// The value of a column as a truth value; `None` when it is NULL, or none.
    pub fn bool(&self, column: usize) -> Option<bool> {
        match self.text(column)? {
            "t" => Some(true),
            "f" => Some(false),
            _ => None,
        }
    }

    /// The bytes of a `bytea` column; `None` when it is NULL, or not in the hex form that sessions of a
    /// blocking client are set to.
    pub fn bytes(&self, column: usize) -> Option<Vec<u8>> {
        let digits = self.value(column)?.strip_prefix(b"\\x")?;
        let (pairs, rest) = digits.as_chunks::<2>();
        if !rest.is_empty() {
            return None;
        }
        pairs.iter().map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?)).collect()
    }
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}
