//! The reader of backend messages over bytes that no server would send.

use doorward_pgclient::read_all;
use proptest::prelude::*;

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

#[test]
fn well_formed_messages_are_read() {
    let row = [&[0, 2][..], &[0, 0, 0, 1], b"a", &[255, 255, 255, 255]].concat();
    let bytes = [
        frame(b'D', &row),
        frame(b'C', b"SELECT 1\0"),
        frame(b'E', b"SERROR\0C42601\0Mno\0\0"),
        frame(b'Z', b"I"),
    ]
    .concat();
    // Two values and four messages.
    assert_eq!(read_all(&bytes), Ok(6));
    // What is cut off is waited for.
    assert_eq!(read_all(&bytes[..bytes.len() - 1]), Ok(5));
}

#[test]
fn malformed_messages_are_refused() {
    let cases: [(&str, Vec<u8>); 10] = [
        ("length below four", vec![b'Z', 0, 0, 0, 3]),
        ("length beyond i32", vec![b'D', 255, 255, 255, 255]),
        ("row shorter than its count", frame(b'D', &[0, 1])),
        ("row with a negative length", frame(b'D', &[0, 1, 255, 255, 255, 254])),
        ("row with a length beyond its body", frame(b'D', &[0, 1, 0, 0, 0, 9, 1])),
        ("row with bytes after it", frame(b'D', &[0, 0, 1])),
        ("error without an end", frame(b'E', b"SERROR\0")),
        ("more columns than there can be", frame(b'T', &[255, 255])),
        ("two statuses", frame(b'Z', b"II")),
        ("key of another length", frame(b'K', &[0; 7])),
    ];
    for (what, bytes) in cases {
        assert!(read_all(&bytes).is_err(), "{what}");
    }
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_all(&bytes);
    }

    #[test]
    fn any_bodies(tag in prop::sample::select(b"TDENCZSAKR12".to_vec()), body in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_all(&frame(tag, &body));
    }
}
