//! Random requests: each is read and planned, or refused; none panics, and no value reaches the text.

use super::*;
use crate::fuzz_request;

/// A small generator of its own, so that a failure repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound).expect("small")).expect("small")
    }
}

#[test]
fn random_requests_are_read_or_refused() {
    const WORDS: [&str; 48] = [
        "orders", "rpc/", "add", "?", "&", "=", ".", ",", "(", ")", "{", "}", "\"", "\\", "->", "->>", "::",
        ":", "*", "not.", "and", "or", "eq.", "in.", "is.null", "fts(", "select=", "order=", "limit=",
        "offset=", "columns=", "id", "data", "status", "1", "-1", "%", "%22", "%00", "%ff", "é", "+", "'",
        ";", " ", "any", "[", "]",
    ];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..60_000 {
        let length = random.below(24);
        let text: String = (0..length).map(|_| WORDS[random.below(WORDS.len())]).collect();
        let method = [b'g', b'p', b'u', b'd'][random.below(4)];
        let mut input = vec![method];
        input.extend_from_slice(text.as_bytes());
        fuzz_request(&input);
    }
}

#[test]
fn values_never_reach_the_text() {
    for marker in ["zq9", "zq9'; drop table x; --", "zq9\"", "$zq9$"] {
        let encoded: String = marker.bytes().map(|byte| format!("%{byte:02X}")).collect();
        for uri in [
            format!("orders?status=eq.{encoded}"),
            format!("orders?status=in.({encoded},b)"),
            format!("orders?or=(status.eq.%22{}%22,id.eq.1)", encoded.replace("%22", "%5C%22")),
            format!("orders?data->>%22{}%22=eq.1", encoded.replace("%22", "%5C%22")),
            format!("orders?status=like.*{encoded}"),
            format!("rpc/log?note={encoded}"),
        ] {
            let request = get(&uri).read().expect("a good request");
            let catalog = fixture::catalog();
            let bounds = crate::plan::Bounds { rows_max: None, may_name: &|_| true, may_read: &|_| true };
            let plan = crate::plan::plan(&request, &catalog, &bounds).expect("a plan");
            let statement = crate::sql::write(&plan);
            assert!(!statement.text.contains("zq9"), "{}", statement.text);
            assert!(statement.params.iter().any(|value| String::from_utf8_lossy(value).contains("zq9")));
        }
    }
}
