//! Entries for fuzzers: bytes as what senders bring.

use doorward_core::{ResourceName, Timestamp};
use serde_json::Value;

use crate::config::IngestConfig;
use crate::otlp::{self, Encoding};
use crate::read::gzip::Gunzip;
use crate::read::split::{Form, pieces};
use crate::resource::IngestResource;
use crate::syslog::{frame, message};

/// The largest record in these runs.
const BYTES_MAX: usize = 1 << 10;
/// What a fuzzer's gzip may expand to.
const EXPANDED_MAX: u64 = 1 << 20;

fn map(kind: u8, document: &Value) {
    const KINDS: [&str; 5] = ["apigee", "azure-apim", "kong", "envoy", "generic"];
    let Some(name) = KINDS.get(usize::from(kind) % KINDS.len()) else { return };
    let config = IngestConfig::of_url(&format!("ingest:{name}"));
    let Ok(resource) = IngestResource::compile(ResourceName::new("fuzz"), &config) else { return };
    if let Ok(mapped) = resource.mapping.map(document, Timestamp::from_seconds(1_795_319_861)) {
        debug_assert!(mapped.claimed.ext.len() <= 64, "ext is bounded");
    }
}

/// Reads bytes as records: the first one chooses the mapping and the form.
pub fn fuzz_records(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    let form = if choice & 0x80 == 0 { Form::Lines } else { Form::Json };
    let whole = pieces(form, BYTES_MAX, bytes, usize::MAX);
    debug_assert_eq!(whole, pieces(form, BYTES_MAX, bytes, 3), "the cuts of the stream change its meaning");
    for piece in whole.iter().filter(|piece| piece.flaw.is_none()) {
        debug_assert!(piece.bytes.len() <= BYTES_MAX, "a piece is bounded");
        if let Ok(document) = serde_json::from_slice(&piece.bytes) {
            map(*choice, &document);
        }
    }
    let mut gunzip = Gunzip::new(EXPANDED_MAX);
    let mut expanded = 0;
    for step in Gunzip::steps(bytes) {
        let Ok(plain) = gunzip.expand(step) else { return };
        expanded += plain.len();
    }
    debug_assert!(u64::try_from(expanded).unwrap_or(u64::MAX) <= EXPANDED_MAX, "what is expanded is bounded");
}

/// Reads bytes as an OTLP request: the first one chooses the form.
pub fn fuzz_otlp(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    let encoding = if choice & 1 == 0 { Encoding::Protobuf } else { Encoding::Json };
    for document in otlp::read(encoding, bytes).unwrap_or_default() {
        map(*choice, &document);
    }
}

/// Reads bytes as a syslog stream.
pub fn fuzz_syslog(data: &[u8]) {
    let whole = frame::frames(BYTES_MAX, data, usize::MAX);
    debug_assert_eq!(whole, frame::frames(BYTES_MAX, data, 3), "the cuts of the stream change its meaning");
    for frame in whole.0 {
        if let frame::Frame::Message(bytes) = frame
            && let Ok(message) = message::read(&bytes)
        {
            map(4, &message.document);
        }
    }
    // Behind its framing the parser must hold by itself.
    let _ = message::read(data);
}
