//! The fuzz targets as plain functions: each takes any bytes, and must neither panic nor hang nor break
//! the promise that it states. `fuzz_targets/` wraps them for libFuzzer, which needs a nightly compiler;
//! `tests/it/fuzz.rs` runs them over the corpus and over mutations of it with the stable one.

/// Names one of the functions below.
pub type Target = (&'static str, fn(&[u8]));

/// All targets. The corpus of each is in `fuzz/corpus/NAME/`.
pub const TARGETS: &[Target] = &[
    ("settings", settings),
    ("token", token),
    ("frame", frame),
    ("backend", backend),
    ("rest", rest),
    ("http", http),
    ("cloud", cloud),
    ("redact", redact),
    ("sql", sql),
    ("wire_startup", wire_startup),
    ("wire_client", wire_client),
    ("wire_server", wire_server),
    ("wire_scram", wire_scram),
    ("wire_oauth", wire_oauth),
    ("wire_values", wire_values),
    ("wire_replication", wire_replication),
    ("ingest_records", ingest_records),
    ("ingest_otlp", ingest_otlp),
    ("ingest_syslog", ingest_syslog),
];

/// The configuration file: whatever it says, there is a document or a problem with a place.
pub fn settings(bytes: &[u8]) {
    match doorward_settings::Document::parse("fuzz.yaml", bytes) {
        Ok(document) => {
            let again = doorward_settings::Document::parse("fuzz.yaml", bytes).map(|again| again.digest());
            assert_eq!(again.ok(), Some(document.digest()), "one text has one digest");
        }
        Err(problem) => assert!(!problem.to_string().is_empty(), "a problem says what is wrong"),
    }
}

/// The token before anything is believed of it.
pub fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(token) = doorward_identity::token::parse(text) {
        assert!(text.as_bytes().starts_with(token.signed), "what is signed is the token's own beginning");
        assert!(token.kid.is_none_or(|kid| kid.len() <= doorward_identity::token::KID_BYTES_MAX));
    }
}

/// What an endpoint of a cloud answers, or whoever answers in its place.
pub fn cloud(bytes: &[u8]) {
    doorward_lease::cloud_answer(bytes);
}

/// A frame of the spool, as recovery reads it from a disk that may hold anything.
pub fn frame(bytes: &[u8]) {
    use doorward_audit::wire;
    let _ = wire::peek_seq(bytes);
    for salt in [0, 1] {
        if let Ok(payload) = wire::payload(bytes, salt) {
            let _ = wire::decode(payload);
        }
    }
    // The checksum keeps random bytes out; behind it the decoder must hold by itself.
    let _ = wire::decode(bytes);
}

/// What a PostgreSQL server, or whoever stands in its place, sends.
pub fn backend(bytes: &[u8]) {
    if let Ok(frames) = doorward_pgclient::read_all(bytes) {
        assert!(frames <= bytes.len(), "a frame takes bytes");
    }
}

/// A request of the REST door, down to its statement.
pub fn rest(bytes: &[u8]) {
    doorward_door_rest::fuzz_request(bytes);
}

/// Records of other gateways: cut, read and mapped.
pub fn ingest_records(bytes: &[u8]) {
    doorward_door_ingest::fuzz_records(bytes);
}

/// OTLP requests.
pub fn ingest_otlp(bytes: &[u8]) {
    doorward_door_ingest::fuzz_otlp(bytes);
}

/// A syslog stream.
pub fn ingest_syslog(bytes: &[u8]) {
    doorward_door_ingest::fuzz_syslog(bytes);
}

/// A client's bytes at the wire gate: how the network cuts them changes nothing of what passes, or why
/// the rest does not.
pub fn http(bytes: &[u8]) {
    const PIECE_BYTES: usize = 7;
    // A complaint about a head may wait for the next line end; it must have come by the last one.
    let bytes = [bytes, b"\n"].concat();
    let whole = through_gate(&bytes, bytes.len());
    assert!(whole.0 <= bytes.len(), "what passes was sent");
    assert_eq!(whole, through_gate(&bytes, PIECE_BYTES), "the cuts of the stream change its meaning");
}

/// A text on its way into a record, taken for each kind of text: what is left is its own redaction, and keeps to
/// its bound.
pub fn redact(bytes: &[u8]) {
    use doorward_core::Form;
    let text = String::from_utf8_lossy(bytes);
    let redactor = doorward_redact::Redactor::default();
    for form in [Form::Text, Form::Template, Form::Path, Form::Url, Form::Sql] {
        let once = redactor.redact(form, &text, usize::MAX);
        assert_eq!(redactor.redact(form, &once, usize::MAX), once, "twice is as once");
        assert!(redactor.redact(form, &text, 64).len() <= 64, "a bound is kept");
    }
}

/// A text of SQL, down to what its statements need: from memory it is what it was when it was read.
pub fn sql(bytes: &[u8]) {
    doorward_sql::fuzz_text(bytes);
}

/// The first packets of a client of the Postgres door, down to the settings that are passed on.
pub fn wire_startup(bytes: &[u8]) {
    doorward_door_postgres::fuzz_startup(bytes);
}

/// A client's messages in a session of the Postgres door.
pub fn wire_client(bytes: &[u8]) {
    doorward_door_postgres::fuzz_client(bytes);
}

/// What a database, or whoever stands in its place, answers in a session of the Postgres door.
pub fn wire_server(bytes: &[u8]) {
    doorward_door_postgres::fuzz_server(bytes);
}

/// A client of the Postgres door that proves a password, or claims to.
pub fn wire_scram(bytes: &[u8]) {
    doorward_door_postgres::fuzz_scram(bytes);
}

/// A client of the Postgres door that brings a token by OAUTHBEARER.
pub fn wire_oauth(bytes: &[u8]) {
    doorward_door_postgres::fuzz_oauth(bytes);
}

/// The values that a statement of the Postgres door is bound to, on their way into its record.
pub fn wire_values(bytes: &[u8]) {
    doorward_door_postgres::fuzz_values(&doorward_redact::Redactor::default(), bytes);
}

/// A text in a session of replication: a command, or a statement that is decided as one.
pub fn wire_replication(bytes: &[u8]) {
    doorward_door_postgres::fuzz_replication(bytes);
}

/// Sends bytes through the gate's framing in pieces: how many pass, and what stops the others.
fn through_gate(bytes: &[u8], piece: usize) -> (usize, Option<doorward_http::gate::Stop>) {
    use doorward_http::gate::{Framing, HeadLimits, Stop};
    let mut framing = Framing::new(HeadLimits { head_bytes_max: 64 << 10, uri_bytes_max: 512 });
    let mut passed = 0;
    let mut end = 0;
    while end < bytes.len() {
        end = (end + piece).min(bytes.len());
        let advance = framing.advance(&bytes[passed..end]);
        assert!(advance.clean <= end - passed, "no more passes than there is");
        passed += advance.clean;
        if advance.stop != Stop::More {
            assert!(framing.is_over(), "nothing follows a refusal");
            return (passed, Some(advance.stop));
        }
    }
    (passed, None)
}
