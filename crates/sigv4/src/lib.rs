//! Signatures of AWS's Signature Version 4, for whatever is signed so: requests to a bucket, tokens for a database.
//!
//! Pure: no I/O and no clock. The caller brings paths and queries as they stand in the URL, in the order in which
//! they are signed; what is signed in a query is put in order here.
//!
//! Invariant: the secret key goes into the signature and nowhere else.

#[cfg(test)]
mod tests;

use aws_lc_rs::{digest, hmac};
use doorward_core::{Secret, Timestamp, calendar, hex};

/// The name of the algorithm.
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// What ends a scope.
const TERMINATOR: &str = "aws4_request";
/// What a path keeps beside letters, digits and `-._~`.
pub const KEPT_IN_PATHS: &str = "/";

/// Signs with a key, for one service in one region.
#[derive(Clone, Copy, Debug)]
pub struct Signer<'a> {
    /// The id of the access key.
    pub access_key_id: &'a str,
    /// Its secret.
    pub secret_access_key: &'a Secret,
    /// The region.
    pub region: &'a str,
    /// The service: `s3`, `rds-db`.
    pub service: &'a str,
}

/// What is signed of a request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its method.
    pub method: &'a str,
    /// Its path, encoded.
    pub path: &'a str,
    /// Its query, encoded, in the order of names.
    pub query: &'a str,
    /// Its headers, by names in small letters, in order.
    pub headers: &'a [(&'a str, String)],
    /// The hash of its body, as [`sha256_hex`] gives it, or the word that stands in its place.
    pub body_hash: &'a str,
}

/// A request that is signed in its query: a URL that whoever has it may use for a while.
#[derive(Clone, Copy, Debug)]
pub struct Presigned<'a> {
    /// Its method.
    pub method: &'a str,
    /// The host, with its port unless the scheme implies it.
    pub host: &'a str,
    /// The path, encoded.
    pub path: &'a str,
    /// What the query says beside the signature: names and plain values.
    pub query: &'a [(&'a str, &'a str)],
    /// For how many seconds it is good.
    pub expires_seconds: u64,
    /// The session's token, when the key is a temporary one.
    pub session_token: Option<&'a Secret>,
    /// As in [`Request`].
    pub body_hash: &'a str,
}

impl Signer<'_> {
    /// The `Authorization` of a request, of this [`date`], which is among its headers.
    pub fn authorization(&self, request: &Request<'_>, date: &str) -> String {
        let names = names(request.headers);
        let scope = self.scope(date);
        let signature = self.signature(request, date);
        format!(
            "{ALGORITHM} Credential={}/{scope},SignedHeaders={names},Signature={signature}",
            self.access_key_id
        )
    }

    /// The query of a presigned URL of this [`date`].
    pub fn presigned_query(&self, presigned: &Presigned<'_>, date: &str) -> String {
        let credential = format!("{}/{}", self.access_key_id, self.scope(date));
        let expires = presigned.expires_seconds.to_string();
        let mut pairs = presigned.query.to_vec();
        pairs.extend([
            ("X-Amz-Algorithm", ALGORITHM),
            ("X-Amz-Credential", &credential),
            ("X-Amz-Date", date),
            ("X-Amz-Expires", &expires),
            ("X-Amz-SignedHeaders", "host"),
        ]);
        if let Some(token) = presigned.session_token {
            pairs.push(("X-Amz-Security-Token", token.expose()));
        }
        pairs.sort_unstable();
        let pairs: Vec<String> = pairs
            .iter()
            .map(|(name, value)| format!("{}={}", encoded(name, ""), encoded(value, "")))
            .collect();
        let query = pairs.join("&");
        let headers = [("host", presigned.host.to_owned())];
        let Presigned { method, path, body_hash, .. } = *presigned;
        let request = Request { method, path, query: &query, headers: &headers, body_hash };
        let signature = self.signature(&request, date);
        format!("{query}&X-Amz-Signature={signature}")
    }

    fn signature(&self, request: &Request<'_>, date: &str) -> String {
        let Request { method, path, query, headers, body_hash } = *request;
        let names = names(headers);
        let lines: String =
            headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
        let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{body_hash}");
        let scope = self.scope(date);
        let text = format!("{ALGORITHM}\n{date}\n{scope}\n{}", sha256_hex(canonical.as_bytes()));
        let start = format!("AWS4{}", self.secret_access_key.expose());
        let mut key = start.into_bytes();
        for part in [day(date), self.region, self.service, TERMINATOR, &text] {
            let signer = hmac::Key::new(hmac::HMAC_SHA256, &key);
            key = hmac::sign(&signer, part.as_bytes()).as_ref().to_vec();
        }
        hex(&key)
    }

    fn scope(&self, date: &str) -> String {
        format!("{}/{}/{}/{TERMINATOR}", day(date), self.region, self.service)
    }
}

/// A point in time as signatures name it: `20130524T000000Z`.
pub fn date(now: Timestamp) -> String {
    let seconds = now.seconds();
    let (year, month, day) = calendar::date(seconds.div_euclid(86_400));
    let of_day = seconds.rem_euclid(86_400);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// A text as a request spells it: all but letters, digits, `-._~` and what is `kept` percent-encoded.
pub fn encoded(plain: &str, kept: &str) -> String {
    let mut text = String::with_capacity(plain.len());
    for byte in plain.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.as_bytes().contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push('%');
            text.push_str(&hex(&[byte]).to_ascii_uppercase());
        }
    }
    text
}

/// The hash of a body.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// The names of signed headers.
fn names(headers: &[(&str, String)]) -> String {
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    names.join(";")
}

/// The day of a date.
fn day(date: &str) -> &str {
    date.get(..8).unwrap_or_default()
}
