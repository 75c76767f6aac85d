//! One entry for fuzzers: bytes as an answer of a cloud's endpoint.

use super::ask::one_line;
use super::wire::{self, AwsCredentials, ExternalAccount, ImpersonatedToken, TokenAnswer};
use super::{LIFE_MAX, Token};

/// Whatever an endpoint answers: what is told of it is one line, and what is taken for a token may stand in a
/// password message and has an end.
pub fn cloud_answer(bytes: &[u8]) {
    let line = one_line(&wire::words(bytes));
    assert!(!line.chars().any(char::is_control), "what is told is one line");
    if let Ok(said) = serde_json::from_slice::<TokenAnswer>(bytes) {
        let life = said.good_for().unwrap_or_default();
        if let Ok(token) = Token::new("fuzz", &said.access_token.unwrap_or_default(), life) {
            let text = token.secret.expose();
            assert!(!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()), "a token is plain");
            assert!(token.good_for <= LIFE_MAX, "a token has an end");
        }
    }
    if let Ok(said) = serde_json::from_slice::<ImpersonatedToken>(bytes) {
        let _ = said.expire_time.as_deref().map(wire::until);
    }
    if let Ok(said) = serde_json::from_slice::<AwsCredentials>(bytes) {
        let _ = said.expiration.as_deref().map(wire::until);
    }
    let _ = serde_json::from_slice::<ExternalAccount>(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let said = AwsCredentials::of_xml(text);
        let values = [said.access_key_id, said.secret_access_key, said.token, said.expiration];
        let plain = values.iter().flatten().all(|value| !value.contains(['<', '&']));
        assert!(plain, "a value holds no element");
    }
}
