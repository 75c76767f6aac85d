//! OAUTHBEARER (RFC 7628) as PostgreSQL 18 speaks it: the token crosses inside of SASL, and a client that has none
//! is told where to get one.
//!
//! Invariants: pure functions over bounded bytes, which do not panic on any input; a token appears in no error.

use doorward_core::Secret;

/// The mechanism's name.
pub(crate) const OAUTHBEARER: &str = "OAUTHBEARER";
/// What stands between the parts of a message.
const SEPARATOR: char = '\u{1}';
/// What a client answers to a refusal.
pub(crate) const DUMMY: &[u8] = b"\x01";

/// Where clients get their tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OAuthOffer {
    /// The issuer's metadata: `https://…/.well-known/openid-configuration`.
    pub discovery_url: Box<str>,
    /// The scope that a client should ask for.
    pub scope: Box<str>,
    /// Whether clients that do not say what they want are offered this, in place of being asked for a password.
    pub always: bool,
}

impl OAuthOffer {
    /// What a client is told that has shown no token, or one that does not count (RFC 7628, 3.2.2).
    pub(crate) fn refusal(&self) -> String {
        serde_json::json!({
            "status": "invalid_token",
            "openid-configuration": self.discovery_url,
            "scope": self.scope,
        })
        .to_string()
    }
}

/// Reads the client's message; `None` is a client without a token, which asks where to get one.
pub(crate) fn read(message: &[u8]) -> Result<Option<Secret>, &'static str> {
    let message = std::str::from_utf8(message).map_err(|_| "a message that is no text")?;
    let (header, rest) = message.split_once(SEPARATOR).ok_or("no header")?;
    match header {
        "n,," | "y,," => {}
        _ if header.starts_with("p=") => return Err("channel binding, which the mechanism does not have"),
        _ => return Err("an authorization identity, or a broken header"),
    }
    let pairs = rest.strip_suffix("\u{1}\u{1}").ok_or("no end")?;
    let mut token = None;
    for pair in pairs.split(SEPARATOR) {
        let (key, value) = pair.split_once('=').ok_or("a part that is no pair")?;
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Err("a key that is none");
        }
        // Other keys are for the future, and mean nothing (RFC 7628, 3.1).
        if key == "auth" && token.replace(value).is_some() {
            return Err("two values of auth");
        }
    }
    let value = token.ok_or("no auth")?;
    if value.is_empty() {
        return Ok(None);
    }
    let (scheme, token) = value.split_at_checked(7).ok_or("a value that is no bearer token")?;
    let token = token.trim_start_matches(' ');
    let plain = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    match plain && scheme.eq_ignore_ascii_case("bearer ") {
        true => Ok(Some(Secret::from(token))),
        false => Err("a value that is no bearer token"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_clients_send() {
        let token = |message: &str| {
            read(message.as_bytes()).map(|token| token.map(|token| token.expose().to_string()))
        };
        assert_eq!(token("n,,\u{1}auth=Bearer abc.def\u{1}\u{1}"), Ok(Some("abc.def".to_owned())));
        assert_eq!(token("y,,\u{1}host=x\u{1}auth=bearer  abc\u{1}\u{1}"), Ok(Some("abc".to_owned())));
        assert_eq!(token("n,,\u{1}auth=\u{1}\u{1}"), Ok(None));
        for message in [
            "",
            "n,,",
            "n,,\u{1}",
            "n,,\u{1}\u{1}\u{1}",
            "n,,\u{1}auth=Bearer abc\u{1}",
            "p=x,,\u{1}auth=\u{1}\u{1}",
            "n,a=bob,\u{1}auth=\u{1}\u{1}",
            "n,,\u{1}auth=Basic abc\u{1}\u{1}",
            "n,,\u{1}auth=Bearer \u{1}\u{1}",
            "n,,\u{1}auth=Bearer a b\u{1}\u{1}",
            "n,,\u{1}auth=\u{1}auth=\u{1}\u{1}",
            "n,,\u{1}=x\u{1}\u{1}",
            "n,,\u{1}host=x\u{1}\u{1}",
            "n,,\u{1}auth\u{1}\u{1}",
        ] {
            assert!(token(message).is_err(), "{message:?}");
        }
    }

    #[test]
    fn a_refusal_says_where_to_get_a_token() {
        let offer = OAuthOffer {
            discovery_url: "https://idp.example/.well-known/openid-configuration".into(),
            scope: "openid \"data\"".into(),
            always: false,
        };
        let told: serde_json::Value = serde_json::from_str(&offer.refusal()).unwrap();
        assert_eq!(told["status"], "invalid_token");
        assert_eq!(told["openid-configuration"], &*offer.discovery_url);
        assert_eq!(told["scope"], "openid \"data\"");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(message in any::<Vec<u8>>(), text in ".{0,60}") {
            let _ = read(&message);
            let _ = read(format!("n,,\u{1}{text}\u{1}\u{1}").as_bytes());
        }
    }
}
