//! Puts objects into a bucket: S3's PUT with Signature Version 4, over the HTTP client that is handed in.
//!
//! Whole objects only: what the gateway puts (archives of segments, checkpoints, tiles) is bounded. The URL
//! names the place as it is, so both forms of address work: `https://HOST/BUCKET/PREFIX` and
//! `https://BUCKET.HOST/PREFIX`; `s3://BUCKET/PREFIX` is Amazon's second form.

use aws_lc_rs::{digest, hmac};
use doorward_core::{Secret, Timestamp, calendar};
use doorward_settings::{Problem, SecretRef};
use schemars::JsonSchema;
use serde::Deserialize;

use super::transport::Transport;

/// The most bytes of one object.
pub const OBJECT_BYTES_MAX: usize = 64 << 20;

/// A place in a bucket, and the key with which it is written.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct S3Config {
    /// Where objects go: `https://s3.eu-west-1.amazonaws.com/BUCKET/PREFIX`, or `s3://BUCKET/PREFIX`.
    pub url: String,
    /// The region that signatures name.
    #[serde(default = "default_region")]
    pub region: String,
    /// The id of the access key; a secret reference.
    pub access_key_id: SecretRef,
    /// The secret of the access key; a secret reference.
    pub secret_access_key: SecretRef,
    /// The session's token, when the key is a temporary one; a secret reference.
    pub session_token: Option<SecretRef>,
}

pub(crate) fn default_region() -> String {
    "us-east-1".to_owned()
}

/// Why an object could not be put.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// The object is too large.
    #[error("an object has at most {OBJECT_BYTES_MAX} bytes")]
    TooLarge,
    /// The service cannot be reached.
    #[error("{0}")]
    Unreachable(String),
    /// The service says no.
    #[error("the bucket answers {status} {code}")]
    Refused {
        /// Its HTTP status.
        status: u16,
        /// Its error code: `AccessDenied`.
        code: String,
    },
}

/// A place that can be written.
#[derive(Debug)]
pub struct Bucket {
    /// Scheme and authority: `https://s3.eu-west-1.amazonaws.com`.
    origin: String,
    host: String,
    /// The path of the place, without a slash at its end.
    path: String,
    region: String,
    access_key_id: Secret,
    secret_access_key: Secret,
    session_token: Option<Secret>,
}

impl Bucket {
    /// Reads the key's secrets: blocks, at start only.
    pub fn open(config: &S3Config) -> Result<Self, Problem> {
        let place = Place::parse(&config.url, &config.region)
            .map_err(|text| config.access_key_id.problem(format!("url: {text}")))?;
        let session_token = config.session_token.as_ref().map(SecretRef::read).transpose()?;
        Ok(Self {
            origin: place.origin,
            host: place.host,
            path: place.path,
            region: config.region.clone(),
            access_key_id: config.access_key_id.read()?,
            secret_access_key: config.secret_access_key.read()?,
            session_token,
        })
    }

    /// Puts an object under `key`, below the configured place; one that is there already is replaced.
    pub async fn put(
        &self,
        transport: &dyn Transport,
        key: &str,
        content_type: &'static str,
        bytes: Vec<u8>,
        now: Timestamp,
    ) -> Result<(), PutError> {
        if bytes.len() > OBJECT_BYTES_MAX {
            return Err(PutError::TooLarge);
        }
        let path = format!("{}/{}", self.path, encoded(key));
        let body_hash = hex(digest::digest(&digest::SHA256, &bytes).as_ref());
        let date = amz_date(now);
        let mut headers = vec![
            ("content-type", content_type.to_owned()),
            ("host", self.host.clone()),
            ("x-amz-content-sha256", body_hash.clone()),
            ("x-amz-date", date),
        ];
        if let Some(token) = &self.session_token {
            headers.push(("x-amz-security-token", token.expose().to_string()));
        }
        let authorization = self.sign("PUT", &path, &headers, &body_hash);
        headers.retain(|(name, _)| *name != "host");
        headers.push(("authorization", authorization));
        let headers: Vec<(String, Secret)> =
            headers.into_iter().map(|(name, value)| (name.to_owned(), Secret::from(value))).collect();
        let url = format!("{}{path}", self.origin);
        let answer = transport.put(&url, &headers, bytes).await.map_err(PutError::Unreachable)?;
        match answer.status {
            200..300 => Ok(()),
            status => Err(PutError::Refused { status, code: code_of(&answer.body) }),
        }
    }

    /// The `Authorization` of a request without a query. Headers are in small letters and in order.
    fn sign(&self, method: &str, path: &str, headers: &[(&str, String)], body_hash: &str) -> String {
        let date = headers.iter().find(|(name, _)| *name == "x-amz-date").map_or("", |(_, date)| date);
        let day = date.get(..8).unwrap_or_default();
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let lines: String =
            headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
        let request = format!("{method}\n{path}\n\n{lines}\n{names}\n{body_hash}");
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let request_hash = hex(digest::digest(&digest::SHA256, request.as_bytes()).as_ref());
        let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{request_hash}");
        let start = format!("AWS4{}", self.secret_access_key.expose());
        let parts = [day, &self.region, "s3", "aws4_request", &text];
        let mut key = start.into_bytes();
        for part in parts {
            let signer = hmac::Key::new(hmac::HMAC_SHA256, &key);
            key = hmac::sign(&signer, part.as_bytes()).as_ref().to_vec();
        }
        format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope},SignedHeaders={names},Signature={}",
            self.access_key_id.expose(),
            hex(&key)
        )
    }
}

/// A URL, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    origin: String,
    host: String,
    path: String,
}

impl Place {
    fn parse(url: &str, region: &str) -> Result<Self, String> {
        let whole = match url.strip_prefix("s3://") {
            Some(rest) => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                format!("https://{bucket}.s3.{region}.amazonaws.com/{prefix}")
            }
            None => url.to_owned(),
        };
        let (scheme, rest) = whole.split_once("://").ok_or("expected `https://HOST/BUCKET/PREFIX`")?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if !matches!(scheme, "http" | "https") || host.is_empty() || host.starts_with('.') {
            return Err("expected `https://HOST/BUCKET/PREFIX` or `s3://BUCKET/PREFIX`".to_owned());
        }
        if host.contains('@') || path.contains(['?', '#']) {
            return Err("it holds neither a login nor a query; the key is configured beside it".to_owned());
        }
        let path = path.trim_matches('/');
        let path = if path.is_empty() { String::new() } else { format!("/{}", encoded(path)) };
        // The port that a scheme implies is not part of `Host`.
        let default_port = if scheme == "https" { ":443" } else { ":80" };
        let host = host.strip_suffix(default_port).unwrap_or(host);
        Ok(Self { origin: format!("{scheme}://{host}"), host: host.to_owned(), path })
    }
}

/// Whether a URL names a place that objects can be put in.
pub fn check_url(url: &str) -> Result<(), String> {
    Place::parse(url, "region").map(drop)
}

/// A key as a request's path spells it: all but letters, digits and `-._~/` percent-encoded.
fn encoded(key: &str) -> String {
    let mut text = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push('%');
            text.push_str(&hex(&[byte]).to_ascii_uppercase());
        }
    }
    text
}

/// `20130524T000000Z`.
fn amz_date(now: Timestamp) -> String {
    let seconds = now.seconds();
    let (year, month, day) = calendar::date(seconds.div_euclid(86_400));
    let of_day = seconds.rem_euclid(86_400);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// The code in an XML error; what it says beside may repeat the request's signature.
fn code_of(body: &[u8]) -> String {
    const CODE_BYTES_MAX: usize = 64;
    let text = String::from_utf8_lossy(body);
    let code =
        text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map(|(code, _)| code);
    let plain =
        |code: &&str| code.len() <= CODE_BYTES_MAX && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    code.filter(plain).unwrap_or("without a code").to_owned()
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0'));
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket() -> Bucket {
        Bucket {
            origin: "https://examplebucket.s3.amazonaws.com".to_owned(),
            host: "examplebucket.s3.amazonaws.com".to_owned(),
            path: String::new(),
            region: "us-east-1".to_owned(),
            access_key_id: Secret::from("AKIAIOSFODNN7EXAMPLE"),
            secret_access_key: Secret::from("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            session_token: None,
        }
    }

    /// The examples of Amazon's documentation of Signature Version 4 in headers.
    #[test]
    fn signatures_are_those_of_the_published_examples() {
        let body_hash = hex(digest::digest(&digest::SHA256, b"Welcome to Amazon S3.").as_ref());
        assert_eq!(body_hash, "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072");
        let headers = [
            ("date", "Fri, 24 May 2013 00:00:00 GMT".to_owned()),
            ("host", "examplebucket.s3.amazonaws.com".to_owned()),
            ("x-amz-content-sha256", body_hash.clone()),
            ("x-amz-date", amz_date(Timestamp::from_seconds(1_369_353_600))),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY".to_owned()),
        ];
        let path = format!("/{}", encoded("test$file.text"));
        assert_eq!(
            bucket().sign("PUT", &path, &headers, &body_hash),
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
             SignedHeaders=date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class,\
             Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        );
        let empty = hex(digest::digest(&digest::SHA256, b"").as_ref());
        let headers = [
            ("host", "examplebucket.s3.amazonaws.com".to_owned()),
            ("range", "bytes=0-9".to_owned()),
            ("x-amz-content-sha256", empty.clone()),
            ("x-amz-date", "20130524T000000Z".to_owned()),
        ];
        let signed = bucket().sign("GET", "/test.txt", &headers, &empty);
        assert!(
            signed.ends_with("Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"),
            "{signed}"
        );
    }

    #[test]
    fn a_place_is_a_url_or_a_bucket_of_amazon() {
        let place = |url: &str| {
            Place::parse(url, "eu-west-1")
                .map(|place| format!("{} {} {}", place.origin, place.host, place.path))
        };
        for (url, wanted) in [
            (
                "s3://logs/a b/",
                "https://logs.s3.eu-west-1.amazonaws.com logs.s3.eu-west-1.amazonaws.com /a%20b",
            ),
            ("http://127.0.0.1:9000/logs", "http://127.0.0.1:9000 127.0.0.1:9000 /logs"),
            ("https://minio.internal:443/logs/x/", "https://minio.internal minio.internal /logs/x"),
            ("https://logs.example.org", "https://logs.example.org logs.example.org "),
        ] {
            assert_eq!(place(url).as_deref(), Ok(wanted));
        }
        for url in ["ftp://h/b", "s3:///x", "https:///b", "https://u:p@h/b", "https://h/b?x=1", "logs"] {
            assert!(place(url).is_err(), "{url}");
        }
    }

    #[test]
    fn an_error_tells_its_code_alone() {
        let xml = b"<Error><Code>SignatureDoesNotMatch</Code><StringToSign>secret</StringToSign></Error>";
        assert_eq!(code_of(xml), "SignatureDoesNotMatch");
        assert_eq!(code_of(b"<Code><b></Code>"), "without a code");
    }
}
