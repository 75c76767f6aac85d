//! Frames there and back, and bytes that are no frames.

use proptest::prelude::*;

use doorward_core::{Action, Actions, Object, Personal, ResourceName, Verb};

use super::*;
use crate::columns::{COLUMNS, Source};
use crate::spool::model::record;

fn frame(salt: u64, input: Input<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut sealing, key) = crate::personal::testing::sealing(&[]);
    let seal = sealing.call(&key, input.record.access_id.as_bytes());
    put_access(&mut bytes, (salt, 7), false, input, seal);
    bytes
}

#[test]
fn a_record_comes_back_as_it_went() {
    let record = record();
    let subject = Some(Uuid::from_u128(5));
    let input = Input { record: &record, subject };
    let bytes = frame(11, input);
    let (seq, decoded) = decode(payload(&bytes, 11).unwrap()).unwrap();
    let Frame::Completion(access) = decoded else { panic!("{decoded:?}") };
    assert_eq!(seq, 7);
    assert_eq!(access.access_id.as_bytes(), record.access_id.as_bytes());
    let personal = |name: &&str| COLUMNS.iter().any(|column| column.name == *name && column.personal);
    for ((name, value), kept) in CALL_COLUMNS.iter().zip(&access.values) {
        if !personal(name) {
            assert_eq!(*kept, value(input), "{name}");
        }
    }
    assert_eq!(access.actions.len(), 1);
    assert_eq!(access.actions[0].object, "public/orders");
}

#[test]
fn headers_and_gaps_come_back_as_they_went() {
    let header = Header {
        salt: 9,
        epoch: 3,
        gateway_id: "gw".into(),
        columns: vec!["ts".into(), "door".into()],
        encryption: None,
    };
    let gap = Gap { lost: 4, from_us: -1, until_us: i64::MAX, reason: "full".into() };
    let mut bytes = Vec::new();
    put_header(&mut bytes, 1, &header);
    let first = bytes.len();
    put_gap(&mut bytes, 9, 2, &gap);
    assert_eq!(decode(payload(&bytes, 0).unwrap()), Ok((1, Frame::Header(header))));
    assert_eq!(decode(payload(&bytes[first..], 9).unwrap()), Ok((2, Frame::Gap(gap))));
    // The salt keeps frames of one segment from passing for another's.
    assert_eq!(payload(&bytes[first..], 8), Err(Malformed::Checksum));
}

#[test]
fn any_flipped_bit_and_any_cut_is_found() {
    let record = record();
    let bytes = frame(11, Input { record: &record, subject: None });
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(payload(&bytes, 11).is_err(), "bit {bit}");
    }
    for length in 0..bytes.len() {
        assert_eq!(payload(&bytes[..length], 11), Err(Malformed::Short));
    }
}

#[test]
fn the_largest_record_is_one_frame_and_says_what_was_cut() {
    let mut record = record();
    let long = "ä".repeat(1 << 20);
    let action = Action {
        verb: Verb::Delete,
        resource: ResourceName::new("shop"),
        object: Object::from_segments([&*"ä".repeat(OBJECT_MAX)]),
    };
    record.actions = Actions::new(vec![action; Actions::MAX]);
    record.operation = Some(Personal::new(long.as_str().into()));
    record.user_agent = Some(long.as_str().into());
    record.ext.insert("blob".to_owned(), long.clone().into());
    let mut principal = (**record.principal.as_ref().unwrap()).clone();
    principal.groups = vec![long.as_str().into()];
    principal.claims_json = format!("{{\"x\":\"{long}\"}}").into();
    record.principal = Some(principal.into());
    let bytes = frame(1, Input { record: &record, subject: None });
    let sealed = bytes.len() + crate::personal::xaes::TAG_BYTES;
    assert!(sealed <= PAYLOAD_MAX, "{sealed}");
    let (_, Frame::Completion(access)) = decode(payload(&bytes, 1).unwrap()).unwrap() else { panic!() };
    assert!(access.actions[0].object.ends_with("bytes in all]"));
    assert!(access.values.contains(&Value::Json("{\"truncated_bytes\":2097163}".into())));
}

#[test]
fn what_is_personal_is_sealed_and_nothing_else_is() {
    let mut record = record();
    record.operation = Some("select 1".into());
    record.source_ip = Some(Personal::new("10.0.0.1".parse().unwrap()));
    record.fault = Some(doorward_core::FaultRecord {
        code: "authorize.no-grant",
        side: "client",
        public: "no".into(),
        cause: Some("because".into()),
    });
    let mut principal = (**record.principal.as_ref().unwrap()).clone();
    principal.actors = vec![doorward_core::Actor { issuer: None, subject: "bot".into() }];
    record.principal = Some(principal.into());
    let bytes = frame(3, Input { record: &record, subject: None });
    let (_, Frame::Completion(access)) = decode(payload(&bytes, 3).unwrap()).unwrap() else { panic!() };
    let mut values = access.values.iter();
    for column in COLUMNS {
        let Source::Call(_) = column.source else {
            assert!(!column.personal);
            continue;
        };
        let value = values.next().unwrap();
        assert_eq!(matches!(value, Value::Personal(_)), column.personal, "{}", column.name);
        if let Value::Personal(sealed) = value {
            let mark = if column.ty == crate::columns::Type::Json { "\"p1." } else { "p1." };
            assert!(sealed.as_stored().starts_with(mark), "{}", column.name);
        }
    }
}

#[test]
fn names_of_columns_are_unique() {
    let mut names: Vec<&str> = COLUMNS.iter().map(|column| column.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), COLUMNS.len());
}

proptest! {
    #[test]
    fn foreign_bytes_are_refused_and_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = payload(&bytes, 0);
        let _ = peek_seq(&bytes);
        let _ = decode(&bytes);
    }

    #[test]
    fn damaged_payloads_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let record = record();
        let mut bytes = frame(0, Input { record: &record, subject: None });
        let at = at.index(bytes.len() - PREFIX) + PREFIX;
        bytes[at] = byte;
        let _ = decode(&bytes[PREFIX..]);
    }

    #[test]
    fn numbers_come_back(number in any::<i64>()) {
        let mut bytes = Vec::new();
        put_value(&mut bytes, &Value::Int(number));
        prop_assert_eq!(Reader(&bytes).value(), Ok(Value::Int(number)));
    }
}
