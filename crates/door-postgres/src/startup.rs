//! The first packet of a connection: start-up, cancel, or the wish for encryption (PostgreSQL
//! documentation, chapter "Message Formats").
//!
//! Invariants: pure functions over bounded bytes; nothing panics on any input.

use bytes::{BufMut, BytesMut};

use crate::message::{put, put_text};

/// The largest first packet, as in PostgreSQL itself.
pub(crate) const PACKET_BYTES_MAX: usize = 10_000;
/// The most parameters of a start-up packet.
const PARAMETERS_MAX: usize = 64;
/// The longest key of a cancel request.
const KEY_BYTES_MAX: usize = 256;
/// The newest minor version of protocol 3 that is spoken.
const MINOR_MAX: u16 = 2;

const CANCEL: u32 = 80_877_102;
const SSL: u32 = 80_877_103;
const GSSENC: u32 = 80_877_104;

/// A first packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum First {
    Ssl,
    Gssenc,
    Cancel { process: i32, secret: Vec<u8> },
    Startup(Startup),
}

/// A start-up packet of protocol 3.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Startup {
    /// The minor version that the client asks for.
    pub(crate) minor: u16,
    /// User, database, and settings of the session.
    pub(crate) parameters: Vec<(String, String)>,
    /// Protocol options (`_pq_.…`); none is known.
    pub(crate) options: Vec<String>,
}

/// Why a first packet is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// Another major version.
    Version(u16, u16),
    /// Anything else.
    Malformed(&'static str),
}

/// Reads a first packet, without its length.
pub(crate) fn read(body: &[u8]) -> Result<First, Unread> {
    let (code, rest) = body.split_first_chunk::<4>().ok_or(Unread::Malformed("a packet without a code"))?;
    let code = u32::from_be_bytes(*code);
    match code {
        SSL | GSSENC if !rest.is_empty() => Err(Unread::Malformed("bytes behind a request for encryption")),
        SSL => Ok(First::Ssl),
        GSSENC => Ok(First::Gssenc),
        CANCEL => {
            let (process, secret) = rest
                .split_first_chunk::<4>()
                .ok_or(Unread::Malformed("a cancel request without a process"))?;
            if !(4..=KEY_BYTES_MAX).contains(&secret.len()) {
                return Err(Unread::Malformed("a cancel key of an impossible length"));
            }
            Ok(First::Cancel { process: i32::from_be_bytes(*process), secret: secret.to_vec() })
        }
        version => {
            let (major, minor) = ((version >> 16) as u16, (version & 0xffff) as u16);
            if major != 3 {
                return Err(Unread::Version(major, minor));
            }
            startup(minor, rest).map(First::Startup)
        }
    }
}

fn startup(minor: u16, mut rest: &[u8]) -> Result<Startup, Unread> {
    let mut startup = Startup { minor, ..Startup::default() };
    loop {
        let name = text(&mut rest)?;
        if name.is_empty() {
            break;
        }
        let value = text(&mut rest)?;
        if startup.parameters.len() + startup.options.len() >= PARAMETERS_MAX {
            return Err(Unread::Malformed("too many parameters"));
        }
        if name.starts_with("_pq_.") {
            startup.options.push(name);
        } else if startup.parameter(&name).is_some() {
            return Err(Unread::Malformed("a parameter is given twice"));
        } else {
            startup.parameters.push((name, value));
        }
    }
    if rest.is_empty() { Ok(startup) } else { Err(Unread::Malformed("bytes behind the last parameter")) }
}

fn text(rest: &mut &[u8]) -> Result<String, Unread> {
    let end = rest.iter().position(|byte| *byte == 0).ok_or(Unread::Malformed("a text without an end"))?;
    let (text, after) = rest.split_at(end);
    *rest = after.get(1..).unwrap_or_default();
    let text = std::str::from_utf8(text).map_err(|_| Unread::Malformed("a text that is not UTF-8"))?;
    if text.chars().any(char::is_control) {
        return Err(Unread::Malformed("a text with control characters"));
    }
    Ok(text.to_owned())
}

impl Startup {
    /// A parameter's value.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The minor version that is spoken with this client.
    pub(crate) fn spoken(&self) -> u16 {
        self.minor.min(MINOR_MAX)
    }

    /// NegotiateProtocolVersion, where the client asks for more than there is.
    pub(crate) fn negotiation(&self, out: &mut BytesMut) {
        if self.minor <= MINOR_MAX && self.options.is_empty() {
            return;
        }
        put(out, b'v', |out| {
            out.put_u32(3 << 16 | u32::from(self.spoken()));
            out.put_u32(u32::try_from(self.options.len()).unwrap_or(0));
            for option in &self.options {
                put_text(out, option);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(code: u32, rest: &[u8]) -> Vec<u8> {
        [&code.to_be_bytes()[..], rest].concat()
    }

    #[test]
    fn the_first_packets_of_the_protocol() {
        assert_eq!(read(&packet(SSL, b"")), Ok(First::Ssl));
        assert_eq!(read(&packet(GSSENC, b"")), Ok(First::Gssenc));
        let long = [7_u8; 36];
        assert_eq!(
            read(&packet(CANCEL, &[&[0, 0, 0, 9][..], &long].concat())),
            Ok(First::Cancel { process: 9, secret: long.to_vec() })
        );
        let Ok(First::Startup(startup)) = read(&packet(3 << 16, b"user\0ann\0database\0shop\0\0")) else {
            panic!("a plain start-up packet is read")
        };
        assert_eq!((startup.parameter("user"), startup.parameter("database")), (Some("ann"), Some("shop")));
        let mut out = BytesMut::new();
        startup.negotiation(&mut out);
        assert!(out.is_empty(), "nothing to negotiate");
    }

    #[test]
    fn a_newer_client_is_told_what_is_spoken() {
        let body = packet(3 << 16 | 9999, b"user\0a\0_pq_.test_protocol_negotiation\0\0\0");
        let Ok(First::Startup(startup)) = read(&body) else { panic!("it is read") };
        assert_eq!(startup.spoken(), 2);
        let mut out = BytesMut::new();
        startup.negotiation(&mut out);
        assert_eq!(&out[5..13], [0, 3, 0, 2, 0, 0, 0, 1]);
        assert_eq!(&out[13..], b"_pq_.test_protocol_negotiation\0");
    }

    #[test]
    fn what_is_no_first_packet_is_refused() {
        let refused: [&[u8]; 7] = [
            b"",
            b"GET ",
            &packet(SSL, b"x"),
            &packet(CANCEL, &[0; 5]),
            &packet(3 << 16, b"user\0ann"),
            &packet(3 << 16, b"user\0a\0user\0b\0\0"),
            &packet(3 << 16, b"user\0a\nb\0\0"),
        ];
        for body in refused {
            assert!(read(body).is_err(), "{body:?}");
        }
        assert_eq!(read(&packet(2 << 16, b"")), Err(Unread::Version(2, 0)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&body);
            let _ = read(&packet(3 << 16, &body));
        }
    }
}
