//! Takes encodings off, so that a secret is seen for what it is.

use std::borrow::Cow;

/// A percent-encoded text, decoded. What is no encoding stays as it is.
pub(crate) fn percent(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        match (first, after) {
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                bytes.push(hex(*high) << 4 | hex(*low));
                rest = after;
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

/// The content of a literal between its quotes, with doubled quotes made single.
pub(crate) fn doubled(content: &str, quote: char) -> String {
    let mut text = String::with_capacity(content.len());
    let mut chars = content.chars().peekable();
    while let Some(char) = chars.next() {
        text.push(char);
        if char == quote && chars.peek() == Some(&quote) {
            chars.next();
        }
    }
    text
}

/// The content of an `E'…'` literal.
pub(crate) fn escaped(content: &str) -> String {
    let mut text = Vec::with_capacity(content.len());
    let mut rest = content.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        match (first, after) {
            (b'\'', [b'\'', after @ ..]) => {
                text.push(b'\'');
                rest = after;
            }
            (b'\\', [kind, after @ ..]) => {
                rest = after;
                match kind {
                    b'n' => text.push(b'\n'),
                    b't' => text.push(b'\t'),
                    b'r' => text.push(b'\r'),
                    b'b' => text.push(8),
                    b'f' => text.push(12),
                    b'x' => rest = number(after, 16, 2, &mut text),
                    b'u' => rest = unicode(after, 4, &mut text),
                    b'U' => rest = unicode(after, 8, &mut text),
                    b'0'..=b'7' => rest = number(rest_from(kind, content, after), 8, 3, &mut text),
                    other => text.push(*other),
                }
            }
            _ => text.push(first),
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// The content of a `U&'…'` literal, with the usual escape character.
pub(crate) fn unicode_escaped(content: &str) -> String {
    let content = doubled(content, '\'');
    let mut text = Vec::with_capacity(content.len());
    let mut rest = content.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = match (first, after) {
            (b'\\', [b'\\', after @ ..]) => {
                text.push(b'\\');
                after
            }
            (b'\\', [b'+', after @ ..]) => unicode(after, 6, &mut text),
            (b'\\', _) => unicode(after, 4, &mut text),
            _ => {
                text.push(first);
                after
            }
        };
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// The bytes from `kind` on; `after` follows it in `content`.
fn rest_from<'a>(_: &u8, content: &'a str, after: &[u8]) -> &'a [u8] {
    content.as_bytes().get(content.len() - after.len() - 1..).unwrap_or_default()
}

fn number<'a>(rest: &'a [u8], radix: u32, digits_max: usize, text: &mut Vec<u8>) -> &'a [u8] {
    let is_digit = |byte: &&u8| char::from(**byte).is_digit(radix);
    let count = rest.iter().take(digits_max).take_while(is_digit).count();
    let (digits, rest) = rest.split_at_checked(count).unwrap_or((&[], rest));
    let value = digits
        .iter()
        .fold(0, |value, byte| value * radix + char::from(*byte).to_digit(radix).unwrap_or_default());
    text.push((value & 0xff) as u8);
    rest
}

fn unicode<'a>(rest: &'a [u8], digits: usize, text: &mut Vec<u8>) -> &'a [u8] {
    let Some((code, after)) = rest.split_at_checked(digits) else { return rest };
    if !code.iter().all(u8::is_ascii_hexdigit) {
        return rest;
    }
    let code = code.iter().fold(0u32, |code, digit| code << 4 | u32::from(hex(*digit)));
    let char = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
    text.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
    after
}

fn hex(digit: u8) -> u8 {
    // Callers have checked that it is a digit, so it fits.
    char::from(digit).to_digit(16).unwrap_or_default() as u8
}
