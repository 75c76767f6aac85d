//! The first packets of a PostgreSQL client, as the proxy reads and changes them (PostgreSQL documentation, "Message
//! Formats").
//!
//! Invariants: pure functions over bounded bytes; nothing panics on any input.

/// The largest first packet, as in PostgreSQL itself.
pub(crate) const PACKET_BYTES_MAX: usize = 10_000;
const CANCEL: u32 = 80_877_102;
pub(crate) const SSL: u32 = 80_877_103;
const GSSENC: u32 = 80_877_104;
const MAJOR: u32 = 3;

/// A first packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// A wish for encryption.
    Encryption,
    /// A cancel request: goes on as it is.
    Cancel,
    /// The start of a session.
    Startup(Startup),
}

/// The start of a session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Startup {
    version: u32,
    parameters: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads a packet without its length; `None` is no packet of a client.
pub(crate) fn read(body: &[u8]) -> Option<First> {
    let (code, mut rest) = body.split_first_chunk::<4>()?;
    match u32::from_be_bytes(*code) {
        SSL | GSSENC if rest.is_empty() => Some(First::Encryption),
        CANCEL => Some(First::Cancel),
        version if version >> 16 == MAJOR => {
            let mut parameters = Vec::new();
            loop {
                let name = text(&mut rest)?;
                if name.is_empty() {
                    break;
                }
                parameters.push((name, text(&mut rest)?));
            }
            rest.is_empty().then_some(First::Startup(Startup { version, parameters }))
        }
        _ => None,
    }
}

fn text(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let end = rest.iter().position(|byte| *byte == 0)?;
    let (text, after) = rest.split_at(end);
    *rest = after.get(1..).unwrap_or_default();
    Some(text.to_vec())
}

impl Startup {
    /// Sets a parameter, in place of what the client says.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.parameters.retain(|(known, _)| !known.eq_ignore_ascii_case(name.as_bytes()));
        self.parameters.push((name.as_bytes().to_vec(), value.as_bytes().to_vec()));
    }

    /// The packet, with its length.
    pub(crate) fn packet(&self) -> Vec<u8> {
        let mut body = self.version.to_be_bytes().to_vec();
        for text in self.parameters.iter().flat_map(|(name, value)| [name, value]) {
            body.extend_from_slice(text);
            body.push(0);
        }
        body.push(0);
        with_length(&body)
    }
}

/// A packet of start-up: its length, which counts itself, and its body.
pub(crate) fn with_length(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len().saturating_add(4)).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(code: u32, rest: &[u8]) -> Vec<u8> {
        [&code.to_be_bytes()[..], rest].concat()
    }

    #[test]
    fn a_start_is_changed_in_what_was_said() {
        let body = packet(3 << 16 | 2, b"user\0ann\0DataBase\0postgres\0options\0-c a=b\0\0");
        let Some(First::Startup(mut startup)) = read(&body) else { panic!("it is read") };
        startup.set("database", "shop");
        startup.set("doorward.auth", "password");
        let expected =
            packet(3 << 16 | 2, b"user\0ann\0options\0-c a=b\0database\0shop\0doorward.auth\0password\0\0");
        assert_eq!(startup.packet(), with_length(&expected));
    }

    #[test]
    fn other_packets() {
        assert_eq!(read(&packet(SSL, b"")), Some(First::Encryption));
        assert_eq!(read(&packet(GSSENC, b"")), Some(First::Encryption));
        assert_eq!(read(&packet(CANCEL, &[0; 8])), Some(First::Cancel));
        let none: [&[u8]; 6] = [
            b"",
            b"GET ",
            &packet(SSL, b"x"),
            &packet(3 << 16, b"user\0ann"),
            &packet(3 << 16, b"\0x"),
            &packet(2 << 16, b"\0"),
        ];
        for body in none {
            assert_eq!(read(body), None, "{body:?}");
        }
    }
}
