//! Keys of 32 bytes, as a secret's text spells them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// A key, wiped when it is dropped.
pub type KeyBytes = Zeroizing<[u8; KEY_BYTES]>;

/// Reads a key from a secret's text: 32 random bytes, as base64 (either alphabet) or as 64 hex digits.
///
/// # Errors
/// What is expected, when it is anything else, or one byte 32 times: nobody draws such a key; somebody wrote
/// it in as a placeholder.
pub fn parse_key(text: &str) -> Result<KeyBytes, &'static str> {
    const EXPECTED: &str =
        "32 random bytes are expected, as base64 or as 64 hex digits: `openssl rand -base64 32` makes some";
    let bytes = Zeroizing::new(decode(text.trim()).ok_or(EXPECTED)?);
    let key: KeyBytes = Zeroizing::new(bytes.as_slice().try_into().map_err(|_| EXPECTED)?);
    if key.iter().all(|byte| Some(byte) == key.first()) {
        return Err(EXPECTED);
    }
    Ok(key)
}

fn decode(text: &str) -> Option<Vec<u8>> {
    if text.len() == 2 * KEY_BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let byte = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
        return (0..text.len()).step_by(2).map(byte).collect();
    }
    let unpadded = text.trim_end_matches('=').replace('+', "-").replace('/', "_");
    URL_SAFE_NO_PAD.decode(unpadded).ok()
}
