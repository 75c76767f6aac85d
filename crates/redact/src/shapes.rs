//! Secrets that tell by their form what they are.

use crate::detector::{Detector, Set};

/// A token that begins with a known prefix.
struct Shape {
    prefix: &'static [u8],
    detector: Detector,
    /// Which bytes follow.
    of: fn(u8) -> bool,
    /// How many follow at least.
    least: usize,
}

const fn shape(prefix: &'static str, of: fn(u8) -> bool, least: usize) -> Shape {
    Shape { prefix: prefix.as_bytes(), detector: Detector::Token, of, least }
}

const fn of(detector: Detector, prefix: &'static str, of: fn(u8) -> bool, least: usize) -> Shape {
    Shape { prefix: prefix.as_bytes(), detector, of, least }
}

fn alnum(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

fn word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

fn dotted(byte: u8) -> bool {
    word(byte) || byte == b'.'
}

fn base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/=_-$:".contains(&byte)
}

/// What tokens begin with, by their first byte.
fn beginning_with(first: u8) -> &'static [Shape] {
    match first {
        b'A' => const { &[shape("AIza", word, 30), shape("ATATT3", base64, 20)] },
        b'G' => const { &[shape("GOCSPX-", word, 20)] },
        b'S' => const { &[shape("SG.", dotted, 30), of(Detector::Secret, "SCRAM-SHA-256$", base64, 20)] },
        b'd' => {
            const {
                &[
                    shape("dw_", word, 16),
                    shape("dop_v1_", alnum, 32),
                    shape("dapi", alnum, 32),
                    shape("doo_v1_", alnum, 32),
                ]
            }
        }
        b'e' => const { &[of(Detector::Jwt, "eyJ", dotted, 20)] },
        b'g' => {
            const {
                &[
                    shape("ghp_", alnum, 20),
                    shape("gho_", alnum, 20),
                    shape("ghu_", alnum, 20),
                    shape("ghs_", dotted, 20),
                    shape("ghr_", alnum, 20),
                    shape("github_pat_", word, 20),
                    shape("glpat-", dotted, 16),
                    shape("gldt-", word, 16),
                    shape("glrt-", word, 16),
                    shape("glsa_", word, 20),
                ]
            }
        }
        b'h' => const { &[shape("hf_", alnum, 20), shape("hvs.", word, 20), shape("hvb.", word, 20)] },
        b'l' => const { &[shape("lin_api_", alnum, 20)] },
        b'm' => const { &[of(Detector::Secret, "md5", hex, 32)] },
        b'n' => const { &[shape("npm_", alnum, 30)] },
        b'p' => const { &[shape("pypi-", word, 30)] },
        b'r' => const { &[shape("rk_live_", alnum, 16), shape("rk_test_", alnum, 16)] },
        b's' => {
            const {
                &[
                    shape("sk_live_", alnum, 16),
                    shape("sk_test_", alnum, 16),
                    shape("sk-", word, 20),
                    shape("shpat_", alnum, 20),
                    shape("shpss_", alnum, 20),
                ]
            }
        }
        b'w' => const { &[shape("whsec_", base64, 16)] },
        b'x' => {
            const {
                &[
                    shape("xoxa-", word, 10),
                    shape("xoxb-", word, 10),
                    shape("xoxc-", word, 10),
                    shape("xoxd-", base64, 10),
                    shape("xoxe-", word, 10),
                    shape("xoxe.", dotted, 10),
                    shape("xoxo-", word, 10),
                    shape("xoxp-", word, 10),
                    shape("xoxr-", word, 10),
                    shape("xoxs-", word, 10),
                    shape("xapp-", word, 10),
                ]
            }
        }
        b'y' => const { &[shape("ya29.", dotted, 20)] },
        _ => &[],
    }
}

fn hex(byte: u8) -> bool {
    byte.is_ascii_hexdigit()
}

/// The token at the beginning of `rest`: what found it, and how long it is.
///
/// A run that is too short is short, so that looking at it again from its next word on costs little.
pub(crate) fn token(rest: &[u8], on: Set) -> Option<(Detector, usize)> {
    for shape in beginning_with(*rest.first()?).iter().filter(|shape| on.has(shape.detector)) {
        let Some(after) = rest.strip_prefix(shape.prefix) else { continue };
        let length = after.iter().take_while(|byte| (shape.of)(**byte)).count();
        if length >= shape.least {
            return Some((shape.detector, shape.prefix.len() + length));
        }
    }
    None
}

/// Kinds of ids that name an access key of Amazon Web Services.
const AWS_PREFIXES: &[&[u8]] =
    &[b"AKIA", b"ASIA", b"ABIA", b"ACCA", b"AGPA", b"AIDA", b"AIPA", b"ANPA", b"ANVA", b"AROA", b"APKA"];
/// The length of such an id.
const AWS_KEY_ID_BYTES: usize = 20;
/// The length of a secret key.
const AWS_SECRET_BYTES: usize = 40;

/// Whether a whole word is the id of a key.
pub(crate) fn aws_key_id(word: &[u8]) -> bool {
    word.len() == AWS_KEY_ID_BYTES
        && AWS_PREFIXES.iter().any(|prefix| word.starts_with(prefix))
        && word.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
}

/// The places of what may be secret keys, in a text in which a key id was found.
pub(crate) fn aws_secrets(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut start = 0;
    for run in bytes.split(|byte| !(byte.is_ascii_alphanumeric() || *byte == b'/' || *byte == b'+')) {
        if run.len() == AWS_SECRET_BYTES {
            found.push((start, start + run.len()));
        }
        start += run.len() + 1;
    }
    found
}

/// The private key in PEM form at the beginning of `rest`: how long it is. One without an end goes on to
/// the end of the text.
pub(crate) fn private_key(rest: &[u8]) -> Option<usize> {
    const BEGIN: &[u8] = b"-----BEGIN ";
    const END: &[u8] = b"-----END ";
    const KEY: &[u8] = b"PRIVATE KEY";
    const LABEL_MAX: usize = 48;
    let after = rest.strip_prefix(BEGIN)?;
    let label = after.get(..after.len().min(LABEL_MAX))?;
    let label = label.split(|byte| *byte == b'-').next()?;
    if !label.windows(KEY.len()).any(|window| window == KEY) {
        return None;
    }
    let Some(end) = find(after, END) else { return Some(rest.len()) };
    let tail = after.get(end + END.len()..).unwrap_or_default();
    let dashes = find(tail, b"-----").map_or(tail.len(), |at| at + 5);
    Some(BEGIN.len() + end + END.len() + dashes)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// The login after the word `bearer` or `basic`: where it begins and ends in `rest`, which follows the word.
pub(crate) fn login(rest: &[u8]) -> Option<(usize, usize)> {
    const LEAST: usize = 8;
    const WORDS: &[&[u8]] =
        &[b"authentication", b"authorization", b"credentials", b"features", b"requests", b"realm="];
    let spaces = rest.iter().take_while(|byte| **byte == b' ').count();
    let token = rest.get(spaces..)?;
    let length =
        token.iter().take_while(|byte| byte.is_ascii_alphanumeric() || b"._~+/=-".contains(byte)).count();
    let word = token.get(..length)?;
    let known = WORDS.iter().any(|known| word.to_ascii_lowercase().starts_with(known));
    (spaces > 0 && length >= LEAST && !known).then_some((spaces, spaces + length))
}
