//! Puts objects into a bucket, gets and lists them: S3 with Signature Version 4, over the HTTP client that is
//! handed in.
//!
//! Whole objects only: what the gateway puts (archives of segments, checkpoints, tiles) is bounded. The URL
//! names the place as it is, so both forms of address work: `https://HOST/BUCKET/PREFIX` and
//! `https://BUCKET.HOST/PREFIX`; `s3://BUCKET/PREFIX` is Amazon's second form. Each object goes with its
//! checksum, which a bucket with Object Lock asks for.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use doorward_core::{Secret, Timestamp};
use doorward_settings::{Problem, SecretRef};
use doorward_sigv4::{self as sigv4, KEPT_IN_PATHS, Signer, encoded, sha256_hex};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::transport::{Answer, Transport};

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

/// The most bytes of one answer to a listing.
const LIST_BYTES_MAX: usize = 4 << 20;
/// The most answers to one listing; each has up to 1,000 keys.
const LIST_PAGES_MAX: usize = 1_000;

/// Why a bucket does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
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
    /// The service answers something else than a listing.
    #[error("the bucket's listing cannot be read")]
    Listing,
}

impl BucketError {
    fn refused(answer: &Answer) -> Self {
        Self::Refused { status: answer.status, code: code_of(&answer.body) }
    }
}

/// A place that can be written and read.
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

/// An object that is put.
#[derive(Debug)]
pub struct Object<'k> {
    /// Its key, below the configured place.
    pub key: &'k str,
    /// Its media type.
    pub content_type: &'static str,
    /// What it holds.
    pub bytes: Vec<u8>,
}

/// A request before it is signed.
#[derive(Default)]
struct Unsigned {
    method: &'static str,
    path: String,
    /// In the order of names, as it stands in the URL.
    query: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Of the answer to a GET.
    bytes_max: usize,
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

    /// Puts an object; one that is there already is replaced.
    pub async fn put(
        &self,
        transport: &dyn Transport,
        object: Object<'_>,
        now: Timestamp,
    ) -> Result<(), BucketError> {
        let answer = self.send_object(transport, object, Vec::new(), now).await?;
        match answer.status {
            200..300 => Ok(()),
            _ => Err(BucketError::refused(&answer)),
        }
    }

    /// Puts an object where there is none; one that is there already stays. Whether it was put.
    pub async fn put_new(
        &self,
        transport: &dyn Transport,
        object: Object<'_>,
        now: Timestamp,
    ) -> Result<bool, BucketError> {
        let only_new = vec![("if-none-match", "*".to_owned())];
        let answer = self.send_object(transport, object, only_new, now).await?;
        match answer.status {
            200..300 => Ok(true),
            412 => Ok(false),
            _ => Err(BucketError::refused(&answer)),
        }
    }

    async fn send_object(
        &self,
        transport: &dyn Transport,
        object: Object<'_>,
        mut headers: Vec<(&'static str, String)>,
        now: Timestamp,
    ) -> Result<Answer, BucketError> {
        if object.bytes.len() > OBJECT_BYTES_MAX {
            return Err(BucketError::TooLarge);
        }
        let hash = digest::digest(&digest::SHA256, &object.bytes);
        headers.extend([
            ("content-type", object.content_type.to_owned()),
            ("x-amz-checksum-sha256", BASE64.encode(hash.as_ref())),
            ("x-amz-sdk-checksum-algorithm", "SHA256".to_owned()),
        ]);
        let path = format!("{}/{}", self.path, encoded(object.key, KEPT_IN_PATHS));
        let request = Unsigned { method: "PUT", path, headers, body: object.bytes, ..Unsigned::default() };
        self.send(transport, request, now).await
    }

    /// Gets an object of up to `bytes_max`; `None` when there is none.
    pub async fn get(
        &self,
        transport: &dyn Transport,
        key: &str,
        bytes_max: usize,
        now: Timestamp,
    ) -> Result<Option<Vec<u8>>, BucketError> {
        let path = format!("{}/{}", self.path, encoded(key, KEPT_IN_PATHS));
        let request = Unsigned { method: "GET", path, bytes_max, ..Unsigned::default() };
        let answer = self.send(transport, request, now).await?;
        match answer.status {
            200 => Ok(Some(answer.body)),
            // A bucket that is not there is another matter.
            404 if code_of(&answer.body) != "NoSuchBucket" => Ok(None),
            _ => Err(BucketError::refused(&answer)),
        }
    }

    /// The names right below `prefix`, which ends in `/` or is empty, in order: objects as they are, folders with
    /// a `/` at the end. Only those behind `after`, when that is not empty.
    pub async fn list(
        &self,
        transport: &dyn Transport,
        prefix: &str,
        after: &str,
        now: Timestamp,
    ) -> Result<Vec<String>, BucketError> {
        let (bucket, above) = self.bucket_path();
        let above = if above.is_empty() { prefix.to_owned() } else { format!("{above}/{prefix}") };
        let mut names = Vec::new();
        let mut token: Option<String> = None;
        for _ in 0..LIST_PAGES_MAX {
            let all = |text: &str| encoded(text, "");
            let mut query = String::new();
            if let Some(token) = &token {
                query += &format!("continuation-token={}&", all(token));
            }
            query += &format!("delimiter=%2F&list-type=2&prefix={}", all(&above));
            if !after.is_empty() {
                query += &format!("&start-after={}", all(&format!("{above}{after}")));
            }
            let (path, bytes_max) = (bucket.clone(), LIST_BYTES_MAX);
            let request = Unsigned { method: "GET", path, query, bytes_max, ..Unsigned::default() };
            let answer = self.send(transport, request, now).await?;
            if answer.status != 200 {
                return Err(BucketError::refused(&answer));
            }
            let text = String::from_utf8(answer.body).map_err(|_| BucketError::Listing)?;
            token = read_listing(&text, &above, &mut names).ok_or(BucketError::Listing)?;
            if token.is_none() {
                names.sort();
                return Ok(names);
            }
        }
        Err(BucketError::Listing)
    }

    /// The bucket's own path and what of the place is a prefix of keys. In the host's name the bucket is before
    /// `.s3.` or `.s3-`, or the path is empty; otherwise it is the path's first segment.
    fn bucket_path(&self) -> (String, &str) {
        let path = self.path.strip_prefix('/').unwrap_or_default();
        let in_host = self.host.contains(".s3.") || self.host.contains(".s3-") || path.is_empty();
        if in_host {
            return ("/".to_owned(), path);
        }
        let (bucket, above) = path.split_once('/').unwrap_or((path, ""));
        (format!("/{bucket}"), above)
    }

    async fn send(
        &self,
        transport: &dyn Transport,
        request: Unsigned,
        now: Timestamp,
    ) -> Result<Answer, BucketError> {
        let Unsigned { method, path, query, mut headers, body, bytes_max } = request;
        let body_hash = sha256_hex(&body);
        let date = sigv4::date(now);
        headers.extend([
            ("host", self.host.clone()),
            ("x-amz-content-sha256", body_hash.clone()),
            ("x-amz-date", date.clone()),
        ]);
        if let Some(token) = &self.session_token {
            headers.push(("x-amz-security-token", token.expose().to_string()));
        }
        headers.sort_unstable();
        let signed =
            sigv4::Request { method, path: &path, query: &query, headers: &headers, body_hash: &body_hash };
        let authorization = self.signer().authorization(&signed, &date);
        headers.retain(|(name, _)| *name != "host");
        headers.push(("authorization", authorization));
        let headers: Vec<(String, Secret)> =
            headers.into_iter().map(|(name, value)| (name.to_owned(), Secret::from(value))).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        let url = format!("{}{path}{mark}{query}", self.origin);
        let answer = match method {
            "PUT" => transport.put(&url, &headers, body).await,
            _ => transport.get(&url, &headers, bytes_max).await,
        };
        answer.map_err(BucketError::Unreachable)
    }

    fn signer(&self) -> Signer<'_> {
        Signer {
            access_key_id: self.access_key_id.expose(),
            secret_access_key: &self.secret_access_key,
            region: &self.region,
            service: "s3",
        }
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
        let path = if path.is_empty() { String::new() } else { format!("/{}", encoded(path, KEPT_IN_PATHS)) };
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

/// Adds the names of one answer to a listing, what stands `above` taken off; how the next answer is asked for.
/// `None` when it is no listing. Names with characters that XML or URLs escape are passed over: the gateway makes
/// none.
fn read_listing(text: &str, above: &str, names: &mut Vec<String>) -> Option<Option<String>> {
    let inside = |text: &str, tag: &str| -> Option<String> {
        let (_, rest) = text.split_once(&format!("<{tag}>"))?;
        Some(rest.split_once(&format!("</{tag}>"))?.0.to_owned())
    };
    let (_, whole) = text.split_once("<ListBucketResult")?;
    for (part, tag) in [("<Contents>", "Key"), ("<CommonPrefixes>", "Prefix")] {
        let found = whole.split(part).skip(1).filter_map(|rest| inside(rest, tag));
        let plain = |name: &String| !name.contains(['&', '%', '<']);
        names.extend(found.filter(plain).filter_map(|name| Some(name.strip_prefix(above)?.to_owned())));
    }
    let truncated = inside(whole, "IsTruncated").is_some_and(|text| text == "true");
    match truncated {
        true => Some(Some(inside(whole, "NextContinuationToken")?.replace("&amp;", "&"))),
        false => Some(None),
    }
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

    #[test]
    fn a_listing_is_read_as_far_as_the_gateway_names_things() {
        let page = "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"x\"><Name>b</Name><Prefix>p/gw/</Prefix>\
            <NextContinuationToken>a&amp;b=</NextContinuationToken><IsTruncated>true</IsTruncated>\
            <Contents><Key>p/gw/7</Key></Contents><Contents><Key>p/gw/a&amp;b</Key></Contents>\
            <Contents><Key>other/x</Key></Contents>\
            <CommonPrefixes><Prefix>p/gw/8/</Prefix></CommonPrefixes></ListBucketResult>";
        let mut names = Vec::new();
        assert_eq!(read_listing(page, "p/gw/", &mut names), Some(Some("a&b=".to_owned())));
        assert_eq!(names, ["7", "8/"]);
        assert_eq!(read_listing("<html>no</html>", "", &mut names), None);
        let last = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
        assert_eq!(read_listing(last, "", &mut names), Some(None));
    }

    #[test]
    fn the_bucket_is_in_the_path_or_in_the_host() {
        let of = |host: &str, path: &str| {
            let bucket = Bucket { host: host.to_owned(), path: path.to_owned(), ..bucket() };
            let (bucket, above) = bucket.bucket_path();
            format!("{bucket} {above}")
        };
        for (host, path, wanted) in [
            ("logs.s3.eu-west-1.amazonaws.com", "/prod/x", "/ prod/x"),
            ("s3.eu-west-1.amazonaws.com", "/logs/prod/x", "/logs prod/x"),
            ("127.0.0.1:9000", "/logs", "/logs "),
            ("logs.example.org", "", "/ "),
        ] {
            assert_eq!(of(host, path), wanted);
        }
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
