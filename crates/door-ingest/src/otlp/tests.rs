use serde_json::json;

use super::answer::response;
use super::*;

/// A field of bytes.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(content);
    out
}

fn fixed64(number: u8, value: u64) -> Vec<u8> {
    [vec![number << 3 | 1], value.to_le_bytes().to_vec()].concat()
}

fn pair(key: &str, value: &[u8]) -> Vec<u8> {
    [field(1, key.as_bytes()), field(2, value)].concat()
}

fn sample() -> Vec<u8> {
    let minus_one = [vec![3 << 3], vec![0xff; 9], vec![1]].concat();
    let list = field(5, &[field(1, &field(1, b"a")), field(1, &[2 << 3, 1])].concat());
    let map = field(6, &field(1, &pair("deep", &field(7, &[1, 2, 3]))));
    let record = [
        fixed64(1, 1_795_319_861_000_000_000),
        vec![2 << 3, 9],
        field(3, b"INFO"),
        field(5, &field(1, b"{\"status\":503}")),
        field(6, &pair("http.request.method", &field(1, b"GET"))),
        field(6, &pair("number", &minus_one)),
        field(6, &pair("half", &fixed64(4, 0.5_f64.to_bits()))),
        field(6, &pair("list", &list)),
        field(6, &pair("map", &map)),
        field(9, &[0xab; 16]),
        field(10, &[0xcd; 8]),
        fixed64(11, 7),
        field(13, b"from a later version"),
    ]
    .concat();
    let scope = field(1, &[field(1, b"app"), field(2, b"1.0")].concat());
    let resource = field(1, &field(1, &pair("service.name", &field(1, b"edge"))));
    // The resource stands behind its records here, as protobuf allows.
    field(1, &[field(2, &[field(2, &record), scope].concat()), resource].concat())
}

fn expected() -> Value {
    json!({
        "status": 503, "http.request.method": "GET", "number": -1, "half": 0.5, "list": ["a", true],
        "map": { "deep": "AQID" },
        "otlp": {
            "time_unix_nano": 1_795_319_861_000_000_000_u64, "observed_time_unix_nano": 7, "severity_number": 9,
            "severity_text": "INFO", "trace_id": "ab".repeat(16), "span_id": "cd".repeat(8),
            "resource": { "service.name": "edge" }, "scope": { "name": "app", "version": "1.0" }
        }
    })
}

#[test]
fn both_forms_give_the_same_records() {
    assert_eq!(read(Encoding::Protobuf, &sample()).unwrap(), [expected()]);
    let json = json!({ "resourceLogs": [{
        "resource": { "attributes": [{ "key": "service.name", "value": { "stringValue": "edge" } }] },
        "scopeLogs": [{
            "scope": { "name": "app", "version": "1.0" },
            "logRecords": [{
                "timeUnixNano": "1795319861000000000", "observedTimeUnixNano": 7, "severityNumber": 9,
                "severityText": "INFO", "body": { "stringValue": "{\"status\":503}" },
                "attributes": [
                    { "key": "http.request.method", "value": { "stringValue": "GET" } },
                    { "key": "number", "value": { "intValue": "-1" } },
                    { "key": "half", "value": { "doubleValue": 0.5 } },
                    { "key": "list", "value": { "arrayValue": { "values": [{ "stringValue": "a" }, { "boolValue": true }] } } },
                    { "key": "map", "value": { "kvlistValue": { "values": [
                        { "key": "deep", "value": { "bytesValue": "AQID" } }
                    ] } } }
                ],
                "traceId": "ab".repeat(16), "spanId": "cd".repeat(8)
            }]
        }]
    }]});
    assert_eq!(read(Encoding::Json, json.to_string().as_bytes()).unwrap(), [expected()]);
}

#[test]
fn what_is_cut_or_broken_is_refused_without_harm() {
    let whole = sample();
    for end in 1..whole.len() {
        assert!(read(Encoding::Protobuf, &whole[..end]).is_err(), "cut at {end}");
    }
    assert_eq!(read(Encoding::Protobuf, b"").unwrap(), Vec::<Value>::new());
    for broken in [
        &b"\x0b"[..],
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x0a\x05ab",
    ] {
        assert!(read(Encoding::Protobuf, broken).is_err(), "{broken:?}");
    }
    let mut deep = field(1, b"x");
    for _ in 0..100 {
        deep = field(5, &field(1, &deep));
    }
    let record = field(1, &field(2, &field(2, &field(5, &deep))));
    assert_eq!(read(Encoding::Protobuf, &record), Err("a value is nested too deep"));
    for broken in [
        "",
        "[]",
        "{",
        "{\"resourceLogs\":{}}",
        "{\"resourceLogs\":[{\"scopeLogs\":[{\"logRecords\":[{\"timeUnixNano\":\"x\"}]}]}]}",
        "{\"resourceLogs\":[{\"scopeLogs\":[{\"logRecords\":[{\"body\":{\"intValue\":{}}}]}]}]}",
        "{\"resourceLogs\":[{\"scopeLogs\":[{\"logRecords\":[{\"attributes\":[{}]}]}]}]}",
    ] {
        assert!(read(Encoding::Json, broken.as_bytes()).is_err(), "{broken}");
    }
}

#[test]
fn answers_are_written_in_the_form_of_the_request() {
    assert_eq!(response(Encoding::Protobuf, 0, ""), b"");
    assert_eq!(response(Encoding::Json, 0, ""), b"{}");
    assert_eq!(response(Encoding::Protobuf, 300, "why"), b"\x0a\x08\x08\xac\x02\x12\x03why");
    let partial: Value = serde_json::from_slice(&response(Encoding::Json, 3, "why")).unwrap();
    assert_eq!(partial, json!({ "partialSuccess": { "rejectedLogRecords": "3", "errorMessage": "why" } }));
}
