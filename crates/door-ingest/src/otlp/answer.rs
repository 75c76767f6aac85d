//! Answers to OTLP exporters: `ExportLogsServiceResponse`, and `google.rpc.Status` for refusals, each in the
//! form in which the request came.

use serde_json::json;

use super::Encoding;

/// The media type of a form.
pub(crate) const fn media_type(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Json => "application/json",
        Encoding::Protobuf => "application/x-protobuf",
    }
}

/// All was taken, or so many records were not and why.
pub(crate) fn response(encoding: Encoding, rejected: u64, why: &str) -> Vec<u8> {
    match encoding {
        Encoding::Json if rejected == 0 => b"{}".to_vec(),
        Encoding::Json => {
            json!({ "partialSuccess": { "rejectedLogRecords": rejected.to_string(), "errorMessage": why } })
                .to_string()
                .into_bytes()
        }
        Encoding::Protobuf if rejected == 0 => Vec::new(),
        Encoding::Protobuf => {
            let mut partial = vec![1 << 3];
            put_varint(&mut partial, rejected);
            put_bytes(&mut partial, 2, why.as_bytes());
            let mut message = Vec::new();
            put_bytes(&mut message, 1, &partial);
            message
        }
    }
}

/// A refusal: gRPC's code for it, and the text.
pub(crate) fn status(encoding: Encoding, code: u8, text: &str) -> Vec<u8> {
    match encoding {
        Encoding::Json => json!({ "code": code, "message": text }).to_string().into_bytes(),
        Encoding::Protobuf => {
            let mut message = vec![1 << 3, code];
            put_bytes(&mut message, 2, text.as_bytes());
            message
        }
    }
}

fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    put_varint(out, u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}
