//! Names whose values are secret: of settings, columns, fields, headers and parameters.

/// A name with one of these in it, when separators are left out, names a secret.
const ANYWHERE: &[&str] =
    &["password", "passwd", "passphrase", "secret", "passwort", "kennwort", "privatekey"];
/// A name that ends with one of these does.
const AT_END: &[&str] = &[
    "token",
    "pwd",
    "apikey",
    "secretkey",
    "accesskey",
    "accountkey",
    "encryptionkey",
    "signingkey",
    "credential",
    "credentials",
    "authorization",
    "cookie",
    "sessionid",
    "jwt",
    "assertion",
    "signature",
    "connectionstring",
    "motdepasse",
    "contrasena",
    "senha",
];
/// A name that is just this does.
const WHOLE: &[&str] =
    &["pass", "pw", "pgpass", "otp", "totp", "cvv", "cvc", "cvv2", "bearer", "samlresponse"];

/// Headers that carry credentials.
pub(crate) const HEADERS: &[&str] = &[
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
    "api-key",
    "apikey",
    "x-auth-token",
    "x-csrf-token",
    "x-xsrf-token",
    "x-amz-security-token",
    "x-vault-token",
    "x-gitlab-token",
    "x-goog-api-key",
    "x-functions-key",
    "ocp-apim-subscription-key",
    "private-token",
    "x-forwarded-client-cert",
    "x-ms-client-principal",
];

/// Parameters of URLs that carry credentials or make the URL itself one.
pub(crate) const QUERY: &[&str] = &[
    "key",
    "code",
    "code_verifier",
    "sig",
    "hmac",
    "auth",
    "sid",
    "session",
    "password",
    "x-amz-signature",
    "x-amz-credential",
    "x-amz-security-token",
    "x-goog-signature",
    "x-goog-credential",
    "awsaccesskeyid",
    "googleaccessid",
    "subscription-key",
    "nonce",
    "ticket",
    "logout_token",
    "saml_response",
    "relaystate",
];

/// The longest name that is looked at; of a longer one, its end is.
pub(crate) const NAME_BYTES_MAX: usize = 64;

/// A name in small letters and without separators, for comparison.
pub(crate) struct Plain {
    bytes: [u8; NAME_BYTES_MAX],
    length: usize,
}

impl Plain {
    pub(crate) fn of(name: &[u8]) -> Self {
        let mut plain = Self { bytes: [0; NAME_BYTES_MAX], length: 0 };
        let of_name = |byte: &&u8| byte.is_ascii_alphanumeric() || !byte.is_ascii();
        let surplus = match name.len() > NAME_BYTES_MAX {
            true => name.iter().filter(of_name).count().saturating_sub(NAME_BYTES_MAX),
            false => 0,
        };
        for byte in name.iter().filter(of_name).skip(surplus) {
            let Some(to) = plain.bytes.get_mut(plain.length) else { break };
            *to = byte.to_ascii_lowercase();
            plain.length += 1;
        }
        plain
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// Whether it names a secret, by what is commonly called so.
    pub(crate) fn secret(&self) -> bool {
        let name = self.as_bytes();
        let Some(last) = name.last() else { return false };
        let at_end = |end: &&str| end.as_bytes().last() == Some(last) && name.ends_with(end.as_bytes());
        WHOLE.iter().any(|whole| name == whole.as_bytes()) || AT_END.iter().any(at_end) || anywhere(name)
    }
}

fn anywhere(name: &[u8]) -> bool {
    // Most names have none of these in them, and each name of a statement is asked.
    let likely = |part: &[u8]| matches!(part, b"pass" | b"secr" | b"kenn" | b"priv");
    name.windows(4).enumerate().filter(|(_, part)| likely(part)).any(|(at, _)| {
        let rest = name.get(at..).unwrap_or_default();
        ANYWHERE.iter().any(|part| rest.starts_with(part.as_bytes()))
    })
}
