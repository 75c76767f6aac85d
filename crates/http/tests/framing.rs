//! The pure core of the gate: cutting the stream into reads changes nothing, and what passes is what the
//! HTTP library behind it takes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use doorward_http::gate::{Framing, HeadLimits, Stop};
use proptest::prelude::*;

const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 4_096, uri_bytes_max: 512 };

/// How much of the stream passes, and how it ends, when it comes in these pieces.
fn pass(stream: &[u8], cuts: &[usize]) -> (usize, Stop) {
    let mut framing = Framing::new(LIMITS);
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
    ends.push(stream.len());
    ends.sort_unstable();
    let mut passed = 0;
    for end in ends {
        let advance = framing.advance(&stream[passed..end]);
        passed += advance.clean;
        if advance.stop != Stop::More {
            return (passed, advance.stop);
        }
    }
    (passed, Stop::More)
}

fn message() -> impl Strategy<Value = String> {
    let field = prop_oneof![
        Just("Host: gw\r\n".to_owned()),
        Just("Content-Length: 3\r\n".to_owned()),
        Just("Transfer-Encoding: chunked\r\n".to_owned()),
        Just("X-A: b\n".to_owned()),
        "[A-Za-z-]{1,6}:[ -~\t]{0,8}\r\n",
    ];
    let body = prop_oneof![
        Just(String::new()),
        Just("abc".to_owned()),
        Just("3\r\nabc\r\n0\r\n\r\n".to_owned()),
        Just("2;x\r\nab\r\n0\r\nT: 1\r\n\r\n".to_owned()),
        Just("3\r\nabcd\r\n".to_owned()),
        Just("\r\n".to_owned()),
    ];
    let target =
        prop_oneof![Just("/shop/a?x=eq.1".to_owned()), "/[!-~]{0,6}", Just("http://gw/a".to_owned())];
    let fields = prop::collection::vec(field, 0..4);
    (target, fields, body).prop_map(|(target, fields, body)| {
        format!("POST {target} HTTP/1.1\r\nHost: gw\r\n{}\r\n{body}", fields.concat())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cuts_change_nothing(
        messages in prop::collection::vec(message(), 1..4),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let stream = messages.concat();
        let every: Vec<usize> = (0..stream.len()).collect();
        let whole = pass(stream.as_bytes(), &[]);
        prop_assert_eq!(pass(stream.as_bytes(), &cuts), whole);
        prop_assert_eq!(pass(stream.as_bytes(), &every), whole);
    }

    #[test]
    fn any_bytes_are_survived(stream in prop::collection::vec(any::<u8>(), 0..300), cut in any::<usize>()) {
        prop_assert_eq!(pass(&stream, &[cut]), pass(&stream, &[]));
    }

    /// hyper would answer a target that it cannot read by itself, without a record.
    #[test]
    fn what_passes_is_a_target_to_hyper_too(target in "(/|http://gw|\\*|[!-~]{0,3})[!-~\u{80}-\u{ff}]{0,12}") {
        let head = format!("GET {target} HTTP/1.1\r\nHost: gw\r\n\r\n");
        if pass(head.as_bytes(), &[]) == (head.len(), Stop::More) {
            prop_assert!(target.parse::<http::Uri>().is_ok(), "{}", target);
        }
    }
}
