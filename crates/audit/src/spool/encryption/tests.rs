//! One segment's keys: what opens, what does not, and what is never sealed twice.

use super::*;
use crate::wire::{Gap, Header};

pub(crate) fn key(number: u8) -> SpoolKey {
    let hex: String = (0..32).map(|byte| format!("{:02x}", byte + number)).collect();
    SpoolKey::parse(&hex).unwrap()
}

fn keys(number: u8) -> Keys {
    Keys::new(Some(key(number)), Vec::new())
}

fn header(keys: &Keys) -> Vec<u8> {
    let encryption = keys.draw().unwrap();
    let columns = vec!["ts".into(), "door".into()];
    let header = Header { salt: 7, epoch: 3, gateway_id: "gw".into(), columns, encryption };
    let mut bytes = Vec::new();
    wire::put_header(&mut bytes, 1, &header);
    bytes.split_off(PREFIX)
}

fn gap(seq: u64, reason: &'static str) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::put_gap(&mut bytes, 7, seq, &Gap { lost: 1, from_us: 2, until_us: 3, reason: reason.into() });
    bytes
}

#[test]
fn a_sealed_frame_opens_to_what_it_was_and_shows_nothing() {
    let keys = keys(1);
    let header = header(&keys);
    let mut sealer = keys.sealer("a", &header).unwrap().unwrap();
    let opener = keys.opener("a", &header).unwrap().unwrap();
    let (plain, mut sealed) = (gap(2, "planted"), gap(2, "planted"));
    sealer.seal(&mut sealed, 0).unwrap();
    assert_eq!(sealed.len(), plain.len() + TAG_BYTES);
    assert!(!sealed.windows(7).any(|text| text == b"planted"));
    let payload = wire::payload(&sealed, 7).unwrap();
    assert_eq!((wire::peek_seq(&sealed), wire::seq(payload)), (Some((payload.len(), 2)), Some(2)));
    let mut opened = b"before".to_vec();
    opener.open(payload, &mut opened).unwrap();
    assert_eq!(opened[6..], plain[PREFIX..]);

    // Each bit is under the seal: kind and number too.
    for bit in 0..payload.len() * 8 {
        let mut changed = payload.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        let mut out = b"before".to_vec();
        assert_eq!(opener.open(&changed, &mut out), Err(Broken), "bit {bit}");
        assert_eq!(out, b"before");
    }
    for length in 0..payload.len() {
        assert_eq!(opener.open(&payload[..length], &mut Vec::new()), Err(Broken));
    }
}

#[test]
fn no_number_is_sealed_twice_under_one_key() {
    let keys = keys(1);
    let head = header(&keys);
    let mut sealer = keys.sealer("a", &head).unwrap().unwrap();
    sealer.seal(&mut gap(5, "once"), 0).unwrap();
    for seq in [1, 4, 5] {
        let mut frame = gap(seq, "again");
        assert_eq!(sealer.seal(&mut frame, 0), Err(Broken), "{seq}");
    }
    sealer.seal(&mut gap(6, "next"), 0).unwrap();
    // A segment that takes the place of a failed one has other random bytes, and what is sealed in it is another text.
    let other = header(&keys);
    assert_ne!(head, other);
    let seal = |header: &[u8]| {
        let mut frame = gap(5, "once");
        keys.sealer("a", header).unwrap().unwrap().seal(&mut frame, 0).unwrap();
        frame
    };
    assert_ne!(seal(&head), seal(&other));
}

#[test]
fn another_key_and_another_header_open_nothing() {
    let ours = keys(1);
    let head = header(&ours);
    let mut frame = gap(2, "planted");
    ours.sealer("a", &head).unwrap().unwrap().seal(&mut frame, 0).unwrap();
    let payload = wire::payload(&frame, 7).unwrap();
    let error = keys(2).opener("a.seg", &head).err().unwrap();
    let missing = error.get_ref().unwrap().downcast_ref::<NoKey>().unwrap();
    assert_eq!((missing.segment.as_str(), missing.key_id.as_str()), ("a.seg", &*key(1).id));
    let rotated = Keys::new(Some(key(2)), vec![key(3), key(1)]);
    rotated.opener("a", &head).unwrap().unwrap().open(payload, &mut Vec::new()).unwrap();
    // A header that names its columns in another order.
    let at = head.windows(2).position(|text| text == b"ts").unwrap();
    let mut changed = head.clone();
    changed[at..at + 2].copy_from_slice(b"st");
    let opener = ours.opener("a", &changed).unwrap().unwrap();
    assert_eq!(opener.open(payload, &mut Vec::new()), Err(Broken));
}

#[test]
fn keys_are_32_bytes_and_print_nothing() {
    let hex: String = (0..32).map(|byte| format!("{:02x}", byte + 1)).collect();
    let printed = format!("{:?} {:?}", key(1), keys(1));
    assert!(printed.contains(&*key(1).id) && !printed.contains(&hex), "{printed}");
    assert_ne!(key(1).id, key(2).id);
    for bad in ["", "correct horse battery staple", &hex[2..], &"0".repeat(64)] {
        assert!(SpoolKey::parse(bad).unwrap_err().contains("32 random bytes"), "{bad}");
    }
}

/// HKDF and GCM as any other implementation has them: the key of a segment by the formula in the module's docs.
#[test]
fn other_implementations_would_read_it() {
    let keys = keys(1);
    let header = header(&keys);
    let Ok((_, Frame::Header(wire::Header { encryption: Some(encryption), .. }))) = wire::decode(&header)
    else {
        panic!("a header")
    };
    let mac = |key: &[u8], parts: &[&[u8]]| {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
        parts.iter().for_each(|part| context.update(part));
        context.sign()
    };
    let extracted = mac(&encryption.random, &[&key(1).bytes[..]]);
    let digest = digest::digest(&digest::SHA256, &header);
    let derived = mac(extracted.as_ref(), &[b"doorward spool segment", digest.as_ref(), &[1]]);
    let mut frame = gap(2, "planted");
    keys.sealer("a", &header).unwrap().unwrap().seal(&mut frame, 0).unwrap();
    let aead = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, derived.as_ref()).unwrap());
    let nonce = Nonce::assume_unique_for_key([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    let (clear, body) = frame[PREFIX..].split_at_mut(KIND_AND_SEQ);
    let plain = aead.open_in_place(nonce, Aad::from(&*clear), body).unwrap();
    assert_eq!(plain, &gap(2, "planted")[PREFIX + KIND_AND_SEQ..]);
}
