//! URLs of foreign records: what of them may be kept, and the object that they name.

use std::fmt::Write;

use doorward_core::Object;
use percent_encoding::percent_decode_str;

/// The most segments of a path.
const SEGMENTS_MAX: usize = 64;
/// The most parameters of a query that are named.
const PARAMETERS_MAX: usize = 64;
/// The most bytes of a URL that are looked at.
const URL_BYTES_MAX: usize = 8 << 10;

/// The URL without a user's name, password, fragment and the values of its query.
pub(crate) fn without_values(url: &str) -> String {
    let (origin, path, query) = parts(url);
    let mut text = String::with_capacity(url.len().min(URL_BYTES_MAX));
    text.push_str(&origin);
    text.push_str(path);
    if let Some(query) = query {
        for (index, pair) in query.split('&').take(PARAMETERS_MAX).enumerate() {
            let name = pair.split('=').next().unwrap_or_default();
            let before = if index == 0 { '?' } else { '&' };
            // Writing to a string does not fail.
            let _ = write!(text, "{before}{name}=?");
        }
    }
    text
}

/// The object that the URL's path names: its segments, decoded once.
pub(crate) fn object(url: &str) -> Object {
    let (_, path, _) = parts(url);
    let segments: Vec<_> = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .take(SEGMENTS_MAX)
        .map(|segment| percent_decode_str(segment).decode_utf8_lossy())
        .collect();
    if segments.is_empty() {
        // The root of a service.
        return Object::from_segments(["/"]);
    }
    Object::from_segments(segments.iter().map(|segment| &**segment))
}

/// Scheme and host, path, query.
fn parts(url: &str) -> (String, &str, Option<&str>) {
    let url = url.get(..url.floor_char_boundary(URL_BYTES_MAX)).unwrap_or_default();
    let url = url.split('#').next().unwrap_or_default();
    let (url, query) = match url.split_once('?') {
        Some((url, query)) => (url, Some(query)),
        None => (url, None),
    };
    match url.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('/') => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit('@').next().unwrap_or_default();
            (format!("{scheme}://{host}"), path, query)
        }
        _ => (String::new(), url, query),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_users_go() {
        for (url, kept, named) in [
            ("/a/b?x=1&y=secret#z", "/a/b?x=?&y=?", "a/b"),
            ("https://user:pw@host:8443/a%2Fb/c?k", "https://host:8443/a%2Fb/c?k=?", "a%2Fb/c"),
            ("https://host", "https://host", "%2F"),
            ("/", "/", "%2F"),
            ("", "", "%2F"),
            ("//a//b/", "//a//b/", "a/b"),
            ("/redirect://x@y", "/redirect://x@y", "redirect%3A/x@y"),
        ] {
            assert_eq!(without_values(url), kept, "{url}");
            assert_eq!(object(url).as_str(), named, "{url}");
        }
    }
}
