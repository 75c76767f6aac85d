//! Keys of the design that later versions bring: each is refused with a text that says so, so that nobody
//! believes a mask to be in force that is not.

/// Key paths (`*` stands for one key), and what each will be.
const LATER: &[(&str, &str)] = &[
    ("resources.*.credentials", "credentials of S3, HTTP and Airflow backends"),
    ("resources.*.pool.mode", "the pooling of wire sessions"),
    ("resources.*.catalog", "the visibility of the catalogue"),
    ("resources.*.cache", "response caching"),
    ("resources.*.retry", "retries"),
    ("grants.*.mask", "masking of columns"),
    ("grants.*.rows", "row filters"),
    ("grants.*.quota", "quotas over long periods"),
    ("grants.*.per", "what quotas count by (a limit takes it: limit: { rate: 50/s, per: grant })"),
    ("grants.*.concurrency", "limits on calls in flight"),
    ("grants.*.approve", "approvals"),
    ("grants.*.shadow", "shadow mode"),
    ("deny.*.shadow", "shadow mode"),
    ("sts", "the security token service"),
    ("oauth", "the gateway's own OAuth endpoints"),
    ("redis", "counters shared by a fleet"),
    ("console", "the web console"),
    ("products", "API products and plans"),
];

/// What the key at this path will be in a later version; `None` when no version knows it.
///
/// An unknown key that is in this list is refused as "not available in this version yet" by
/// [`Node::deserialize`](crate::Node::deserialize) already.
pub fn later(path: &str) -> Option<&'static str> {
    LATER.iter().find(|(pattern, _)| matches(pattern, path)).map(|(_, what)| *what)
}

pub(crate) fn message(path: &str) -> Option<(String, String)> {
    let key = path.rsplit('.').next().unwrap_or(path);
    later(path).map(|what| {
        (
            format!("\"{key}\" is not available in this version yet: {what} will come with a later one"),
            "remove the key; it is refused so that nobody relies on it".to_owned(),
        )
    })
}

fn matches(pattern: &str, path: &str) -> bool {
    // A key may itself hold dots, so the middle of the path is whatever is left between the two ends.
    match pattern.split_once(".*.") {
        None => pattern == path,
        Some((first, last)) => path
            .strip_prefix(first)
            .and_then(|rest| rest.strip_prefix('.'))
            .and_then(|rest| rest.strip_suffix(last))
            .and_then(|rest| rest.strip_suffix('.'))
            .is_some_and(|middle| !middle.is_empty()),
    }
}
