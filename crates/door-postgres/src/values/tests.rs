use std::borrow::Cow;

use proptest::prelude::*;

use super::*;

/// Takes out what stands in a column called word, and the text 4711.
struct Rules;

impl Redactor for Rules {
    fn redact<'a>(&self, _: Form, text: &'a str, _: usize) -> Cow<'a, str> {
        let mut kept = text.replace("'4711'", "'[redacted:test]'");
        if let Some((before, after)) = text.split_once("word = '") {
            let after = after.split_once('\'').map_or("", |(_, after)| after);
            kept = format!("{before}word = '[redacted:secret]'{after}");
        }
        if kept == text { Cow::Borrowed(text) } else { Cow::Owned(kept) }
    }

    fn redact_json(&self, _: &str, _: &mut Json) {}
}

/// The end of a Bind message: formats, values.
fn front(formats: &[u16], values: &[Option<&[u8]>]) -> Vec<u8> {
    let mut out = u16::try_from(formats.len()).unwrap().to_be_bytes().to_vec();
    formats.iter().for_each(|format| out.extend(format.to_be_bytes()));
    out.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
    for value in values {
        let length = value.map_or(-1, |value| i32::try_from(value.len()).unwrap());
        out.extend(length.to_be_bytes());
        out.extend(value.unwrap_or_default());
    }
    out
}

fn kept(text: &str, types: &[u32], front: &[u8]) -> String {
    let hidden = hidden_places(&Rules, text);
    spelled(&Rules, Values::read(front, types).unwrap(), &hidden).into()
}

#[test]
fn values_are_spelled_as_sql_would() {
    let int4 = 7_i32.to_be_bytes();
    let timestamp = 825_552_000_250_000_i64.to_be_bytes();
    let numeric = [0, 3, 0, 1, 0x40, 0, 0, 2, 0, 1, 0, 23, 0x04, 0x4c];
    let uuid: Vec<u8> = (0..16).collect();
    let cases: [(u32, u16, &[u8], &str); 14] = [
        (23, 1, &int4, "7"),
        (23, 0, b"7", "7"),
        (0, 0, b"it's", "'it''s'"),
        (25, 1, b"text", "'text'"),
        (16, 1, &[1], "'t'"),
        (701, 1, &1.5_f64.to_be_bytes(), "1.5"),
        (1082, 1, &(-1_i32).to_be_bytes(), "'1999-12-31'"),
        (1114, 1, &timestamp, "'2026-02-28 00:00:00.250000'"),
        (1184, 1, &timestamp, "'2026-02-28 00:00:00.250000+00'"),
        (1700, 1, &numeric, "-10023.11"),
        (2950, 1, &uuid, "'00010203-0405-0607-0809-0a0b0c0d0e0f'"),
        (17, 1, &[1, 2, 3], "(bytea, 3 bytes)"),
        (600, 1, &[0; 16], "(type 600, 16 bytes)"),
        (0, 1, &[0; 16], "(16 bytes)"),
    ];
    for (oid, format, bytes, wanted) in cases {
        let front = front(&[format], &[Some(bytes)]);
        assert_eq!(kept("select $1", &[oid], &front), format!("\n-- $1 = {wanted}"));
    }
    let null = front(&[], &[None, Some(b"x")]);
    assert_eq!(kept("select $1, $2", &[], &null), "\n-- $1 = NULL, $2 = 'x'");
}

#[test]
fn what_a_literal_would_lose_in_its_place_the_value_loses() {
    let front = front(&[], &[Some(b"1"), Some(b"hunter2"), Some(b"4711"), Some(b"more")]);
    let text = "select * from t where id = $1 and word = $2 and n = $3 and \"a$4\" = 5";
    assert_eq!(kept(text, &[], &front), "\n-- $1 = '1', $2 = ?, $3 = '[redacted:test]', $4 = ?");
}

#[test]
fn the_places_of_a_long_text_are_not_known() {
    let front = front(&[], &[Some(b"open")]);
    let long = format!("select $1{}", ", 1".repeat(TEXT_BYTES_MAX / 3));
    assert_eq!(kept(&long, &[], &front), "\n-- $1 = ?");
    // Once secret, everywhere secret.
    assert_eq!(kept("select $1 from t where word = $1", &[], &front), "\n-- $1 = ?");
}

#[test]
fn what_is_large_is_bounded() {
    let long = vec![b'x'; 10_000];
    let front = front(&[], &[Some(&long), Some(b"behind")]);
    let seen = &front[..FRONT_BYTES_MAX];
    let text = kept("select $1, $2", &[], seen);
    assert!(text.len() <= VALUES_BYTES_MAX + 100 && text.contains("values in all"), "{}", text.len());
    let many: Vec<Option<&[u8]>> = vec![Some(b"1"); 1_000];
    let front = self::front(&[], &many);
    let places: Vec<String> = (1..=1_000).map(|number| format!("${number}")).collect();
    let text = kept(&format!("select {}", places.join(", ")), &[], &front);
    assert!(text.contains("$64 = '1'") && text.ends_with("[1000 values in all]"), "{text}");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(
        front in proptest::collection::vec(any::<u8>(), 0..200),
        types in proptest::collection::vec(prop_oneof![Just(0_u32), Just(1700), Just(1114), Just(1082), any::<u32>()], 0..5),
        text in ".{0,60}",
    ) {
        hidden_places(&Rules, &text);
        if let Some(values) = Values::read(&front, &types) {
            spelled(&Rules, values, &[false; 8]);
        }
    }
}
