//! Statements that differ in small numbers alone: callers without parameters send a new text each time.

/// The longest text that is blinded.
pub const TEXT_BYTES_MAX: usize = 256;

/// Room for one blinded text.
#[derive(Debug)]
pub struct Blinded([u8; TEXT_BYTES_MAX]);

impl Blinded {
    /// Room that nothing is in.
    pub const fn new() -> Self {
        Self([0; TEXT_BYTES_MAX])
    }

    /// The statement with a zero for each digit of its small numbers, those of up to `digits_max` digits; `None`
    /// when it has none or is too long. A number counts as one when it stands alone between an operator, bracket or
    /// comma and the end of a value, so that it is no part of a larger one. Where literals, comments and quoted
    /// names begin and end is not looked at.
    pub fn of(&mut self, text: &str, digits_max: usize) -> Option<&str> {
        let bytes = text.as_bytes();
        let room = self.0.get_mut(..bytes.len())?;
        room.copy_from_slice(bytes);
        let mut at = 0;
        let mut found = false;
        while let Some(start) = bytes.get(at..).and_then(|rest| rest.iter().position(u8::is_ascii_digit)) {
            let start = at + start;
            let digits = bytes.get(start..).unwrap_or_default();
            let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
            at = start + count;
            let before = bytes.get(..start).unwrap_or_default();
            let before = before.strip_suffix(b" ").unwrap_or(before);
            let begins = before.last().is_some_and(|byte| b"=<>(,".contains(byte));
            let ends = match bytes.get(at..).unwrap_or_default() {
                [] | [b';' | b')' | b',', ..] => true,
                [b' ', next @ ..] => {
                    !next.first().is_some_and(|byte| byte.is_ascii_digit() || b"-+".contains(byte))
                }
                _ => false,
            };
            if begins && ends && count <= digits_max {
                found = true;
                room.get_mut(start..at).unwrap_or_default().fill(b'0');
            }
        }
        let blinded: &[u8] = room;
        if found { std::str::from_utf8(blinded).ok() } else { None }
    }
}

impl Default for Blinded {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_numbers_that_stand_alone_are_blinded() {
        for (text, wanted) in [
            ("select * from t where id = 12345;", Some("select * from t where id = 00000;")),
            ("values (1,22), ( 3 ,444)", Some("values (0,00), ( 0 ,000)")),
            ("select a1 from t2 where b>=7 and c", Some("select a1 from t2 where b>=0 and c")),
            ("select 1", None),
            ("select f(1234567)", None),
            ("select f(1.5), f(0x1), f(1_0), f(1e3), f($1)", None),
            ("select f(12 34), f(1 -2), f(-3)", None),
            ("", None),
        ] {
            assert_eq!(Blinded::new().of(text, 6), wanted, "{text}");
        }
        assert_eq!(Blinded::new().of(&format!("f(1){}", " ".repeat(TEXT_BYTES_MAX)), 6), None);
    }
}
