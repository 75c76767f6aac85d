//! Finds secrets in free text: one pass from left to right, in which each byte is looked at a bounded number
//! of times.
//!
//! What is found at a place is skipped, so spans come in order. Whatever looks back does so for a bounded
//! number of bytes, whatever looks ahead without a bound either finds something, and is skipped, or remembers
//! how far it saw.

use crate::decode;
use crate::detector::Detector;
use crate::names::NAME_BYTES_MAX;
use crate::rules::Rules;
use crate::span::{Span, With, mark_end, merge};
use crate::{numbers, shapes};

/// How much of a text's grammar is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Context {
    /// Whether `name=value` and `name: value` are looked for.
    named: bool,
    /// How many encodings were taken off.
    depth: u8,
}

impl Context {
    /// Anything may be in it.
    pub(crate) const FREE: Self = Self { named: true, depth: 0 };
    /// It holds names, but no values beside them.
    pub(crate) const NAMES_ONLY: Self = Self { named: false, depth: 0 };
}

/// How many percent-encodings are taken off, one within the other.
const DEPTH_MAX: u8 = 2;
/// How far back the beginning of an encoded run or of an address is looked for.
const LOOK_BACK_MAX: usize = 256;
/// The most matches of one pattern of the operator's own in one text: to look for the next match may cost a
/// pass over the text, so what follows so many is redacted as a whole.
const MATCHES_MAX: usize = 256;

/// What is to be redacted in a text, in order and without overlap.
pub(crate) fn find(text: &str, rules: &Rules, context: Context) -> Vec<Span> {
    let mut scan = Scan::new(text, rules, context);
    scan.run();
    let Scan { mut spans, marks, aws_key_seen, .. } = scan;
    if aws_key_seen {
        let secrets = shapes::aws_secrets(text.as_bytes());
        spans.extend(secrets.into_iter().map(|(start, end)| Span::new(start, end, Detector::AwsKey.name())));
    }
    own_patterns(text, rules, &marks, &mut spans);
    if aws_key_seen || !rules.patterns.is_empty() {
        merge(&mut spans);
    }
    spans
}

fn own_patterns(text: &str, rules: &Rules, marks: &[(usize, usize)], spans: &mut Vec<Span>) {
    for pattern in &rules.patterns {
        for (count, found) in pattern.regex.find_iter(text).enumerate() {
            let mut span = Span {
                start: found.start(),
                end: if count + 1 == MATCHES_MAX { text.len() } else { found.end() },
                with: With::Pattern(pattern.name.clone()),
                quote: "",
            };
            if span.start == span.end || marks.iter().any(|mark| mark.0 <= span.start && span.end <= mark.1) {
                continue;
            }
            // A mark is not cut in two.
            for mark in marks {
                if mark.0 < span.end && span.start < mark.1 {
                    (span.start, span.end) = (span.start.min(mark.0), span.end.max(mark.1));
                }
            }
            spans.push(span);
            if count + 1 == MATCHES_MAX {
                break;
            }
        }
    }
}

struct Scan<'a> {
    text: &'a str,
    bytes: &'a [u8],
    rules: &'a Rules,
    context: Context,
    spans: Vec<Span>,
    marks: Vec<(usize, usize)>,
    /// The end of the last span: nothing looks back beyond it.
    floor: usize,
    /// The end of the last percent-encoded run that was looked into.
    decoded_to: usize,
    /// The end of the run without spaces in which a URL was found, and its last `@`.
    url_run: (usize, Option<usize>),
    aws_key_seen: bool,
}

impl<'a> Scan<'a> {
    fn new(text: &'a str, rules: &'a Rules, context: Context) -> Self {
        Self {
            text,
            bytes: text.as_bytes(),
            rules,
            context,
            spans: Vec::new(),
            marks: Vec::new(),
            floor: 0,
            decoded_to: 0,
            url_run: (0, None),
            aws_key_seen: false,
        }
    }

    fn at(&self, index: usize) -> u8 {
        self.bytes.get(index).copied().unwrap_or(0)
    }

    fn rest(&self, from: usize) -> &'a [u8] {
        self.bytes.get(from..).unwrap_or_default()
    }

    fn slice(&self, start: usize, end: usize) -> &'a [u8] {
        self.bytes.get(start..end).unwrap_or_default()
    }

    fn run(&mut self) {
        let mut at = 0;
        while at < self.bytes.len() {
            let byte = self.at(at);
            let next = match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => self.word(at),
                b'[' => self.mark(at),
                b':' | b'=' => self.separator(at),
                b'-' => self.private_key(at),
                b'%' => self.encoded(at),
                b'@' => self.email(at),
                _ => None,
            };
            at = next.unwrap_or(at + 1);
        }
    }

    /// Notes a span, and says where to go on.
    fn found(&mut self, start: usize, end: usize, detector: Detector) -> Option<usize> {
        let start = start.max(self.floor);
        if !self.rules.on.has(detector) || start >= end {
            return None;
        }
        self.spans.push(Span::new(start, end, detector.name()));
        self.floor = end;
        Some(end)
    }

    fn mark(&mut self, at: usize) -> Option<usize> {
        let end = mark_end(self.text, at, |name| self.rules.known_mark(name))?;
        self.marks.push((at, end));
        Some(end)
    }

    /// Looks at the word that begins here; goes on behind it.
    fn word(&mut self, at: usize) -> Option<usize> {
        let rest = self.rest(at);
        let length = rest.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
        let word = rest.get(..length).unwrap_or_default();
        let end = at + length;
        if let Some((detector, length)) = shapes::token(rest, self.rules.on)
            && let Some(next) = self.found(at, at + length, detector)
        {
            return Some(next);
        }
        if shapes::aws_key_id(word) && self.rules.on.has(Detector::AwsKey) {
            self.aws_key_seen = true;
            return self.found(at, end, Detector::AwsKey);
        }
        if let Some(next) = self.number(at, rest, word) {
            return Some(next);
        }
        if matches!(length, 5 | 6)
            && (word.eq_ignore_ascii_case(b"basic") || word.eq_ignore_ascii_case(b"bearer"))
            && let Some((from, to)) = shapes::login(self.rest(end))
            && let Some(next) = self.found(end + from, self.extended(end + from, end + to), Detector::Login)
        {
            return Some(next);
        }
        Some(end)
    }

    fn number(&mut self, at: usize, rest: &[u8], word: &[u8]) -> Option<usize> {
        let first = *word.first()?;
        let on = self.rules.on;
        if first.is_ascii_digit() {
            // What follows a decimal point is no number of its own.
            let fraction = at > 1 && self.at(at - 1) == b'.' && self.at(at - 2).is_ascii_digit();
            if !fraction {
                if let Some(length) = numbers::card(rest).filter(|_| on.has(Detector::Card)) {
                    return self.found(at, at + length, Detector::Card);
                }
                if let Some(length) = on.has(Detector::BrCpf).then(|| numbers::br_cpf(rest)).flatten() {
                    return self.found(at, at + length, Detector::BrCpf);
                }
                if let Some(length) = on.has(Detector::FrNir).then(|| numbers::fr_nir(rest)).flatten() {
                    return self.found(at, at + length, Detector::FrNir);
                }
            }
        } else if let Some(length) = numbers::iban(rest).filter(|_| on.has(Detector::Iban)) {
            return self.found(at, at + length, Detector::Iban);
        }
        if on.has(Detector::EsDni) && numbers::es_dni(word) {
            return self.found(at, at + word.len(), Detector::EsDni);
        }
        if on.has(Detector::ItCodiceFiscale) && numbers::it_codice_fiscale(word) {
            return self.found(at, at + word.len(), Detector::ItCodiceFiscale);
        }
        None
    }

    /// The end of a value, moved behind the secrets that begin in it and go on after what looked like its
    /// end: a card number with spaces, a private key of many lines.
    fn extended(&self, from: usize, to: usize) -> usize {
        let (mut at, mut end) = (from, to);
        while at < to {
            let rest = self.rest(at);
            let mut next = at + 1;
            let length = match self.at(at) {
                b'-' => shapes::private_key(rest),
                byte if byte.is_ascii_alphanumeric() => {
                    next = at + rest.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
                    let token = shapes::token(rest, self.rules.on).map(|(_, length)| length);
                    let number = || numbers::card(rest).or_else(|| numbers::iban(rest));
                    token.or_else(number).or_else(|| numbers::fr_nir(rest))
                }
                _ => None,
            };
            if let Some(length) = length {
                next = at + length;
                end = end.max(next);
            }
            at = next;
        }
        end
    }

    fn private_key(&mut self, at: usize) -> Option<usize> {
        if !self.rules.on.has(Detector::PrivateKey) {
            return None;
        }
        let length = shapes::private_key(self.rest(at))?;
        self.found(at, at + length, Detector::PrivateKey)
    }

    /// A `:` or `=`: a URL's login, or a value with its name before it.
    fn separator(&mut self, at: usize) -> Option<usize> {
        if self.at(at) == b':' && self.rest(at).starts_with(b"://") {
            return self.url(at);
        }
        if self.context.named { self.named(at) } else { None }
    }

    /// The login of the URL whose `://` stands here.
    fn url(&mut self, at: usize) -> Option<usize> {
        let start = at + 3;
        let (run_end, last_at) = self.url_run(start);
        let run = self.slice(start, run_end);
        let authority = run.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(run.len());
        let authority = run.get(..authority)?;
        let userinfo_end = match authority.iter().rposition(|byte| *byte == b'@') {
            Some(place) => start + place,
            None => {
                // A password with a `/` in it ends what looks like the authority too early.
                let after_colon = authority
                    .iter()
                    .position(|byte| *byte == b':')
                    .and_then(|colon| authority.get(colon + 1..));
                let no_port = after_colon.is_some_and(|port| port.iter().any(|byte| !byte.is_ascii_digit()));
                let database = !self.is_web_scheme(at) && after_colon.is_some();
                last_at.filter(|last| (no_port || database) && *last > start)?
            }
        };
        let userinfo = self.slice(start, userinfo_end);
        let from = match userinfo.iter().position(|byte| *byte == b':') {
            Some(colon) => start + colon + 1,
            None if self.is_web_scheme(at) => start,
            None => return None,
        };
        if self.mark(from) == Some(userinfo_end) {
            return Some(userinfo_end);
        }
        self.found(from, userinfo_end, Detector::Login)
    }

    fn is_web_scheme(&self, colon: usize) -> bool {
        let before = self.slice(colon.saturating_sub(5), colon);
        before.ends_with(b"http") || before.ends_with(b"https")
    }

    /// Where the run without spaces and quotes ends that `start` is in, and the last `@` in it.
    fn url_run(&mut self, start: usize) -> (usize, Option<usize>) {
        if start >= self.url_run.0 {
            let over = |byte: &u8| byte.is_ascii_whitespace() || b"\"'<>`".contains(byte);
            let rest = self.rest(start);
            let length = rest.iter().position(over).unwrap_or(rest.len());
            let run = rest.get(..length).unwrap_or_default();
            let last_at = run.iter().rposition(|byte| *byte == b'@').map(|place| start + place);
            self.url_run = (start + length, last_at);
        }
        self.url_run
    }

    /// The value behind the separator at `at`, when the name before it names a secret.
    fn named(&mut self, at: usize) -> Option<usize> {
        let (start, end, quoted) = self.name_before(at)?;
        let name = self.text.get(start..end)?;
        let ends = self.kind_of_name(name, start, at)?;
        let (from, to) = self.value(at, ends.1, quoted)?;
        if self.mark(from) == Some(to) {
            return Some(to);
        }
        if is_placeholder(self.slice(from, to)) {
            return None;
        }
        self.found(from, self.extended(from, to), ends.0)
    }

    fn kind_of_name(&self, name: &str, start: usize, at: usize) -> Option<(Detector, Ends)> {
        let parameter = self.at(at) == b'=' && start > 0 && b"?&;".contains(&self.at(start - 1));
        if parameter && self.rules.secret_parameter(name) {
            return Some((Detector::Query, Ends::Parameter));
        }
        if self.at(at) == b':'
            && let Some(Detector::Header) = self.rules.secret_header(name)
        {
            return Some((Detector::Header, Ends::Line));
        }
        let ends = if parameter { Ends::Parameter } else { Ends::Word };
        let decoded = decode::percent(name);
        self.rules.secret_name(decoded.as_bytes()).then_some((Detector::Secret, ends))
    }

    /// The name before a separator: its place, and whether it is quoted.
    fn name_before(&self, at: usize) -> Option<(usize, usize, bool)> {
        let floor = self.floor.max(at.saturating_sub(NAME_BYTES_MAX + 8));
        let before = |end: usize, of: fn(u8) -> bool, max: usize| {
            let slice = self.slice(floor, end);
            end - slice.iter().rev().take(max).take_while(|byte| of(**byte)).count()
        };
        // `name := value` has its name before the colon.
        let end = before(at, |byte| byte == b':', 1);
        let end = before(end, |byte| byte == b' ' || byte == b'\t', 4);
        let bare = before(end, |byte| byte == b'"' || byte == b'\'' || byte == b'\\', 2);
        let of_name =
            |byte: u8| byte.is_ascii_alphanumeric() || b"_-.%[]$".contains(&byte) || !byte.is_ascii();
        let mut start = before(bare, of_name, NAME_BYTES_MAX);
        while start < bare && !self.text.is_char_boundary(start) {
            start += 1;
        }
        (start < bare).then_some((start, bare, bare < end))
    }

    /// The place of the value behind a separator.
    fn value(&self, at: usize, ends: Ends, quoted: bool) -> Option<(usize, usize)> {
        let mut from = at + 1;
        if ends != Ends::Parameter {
            while matches!(self.at(from), b'=' | b'>') {
                from += 1;
            }
            from += self.rest(from).iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        }
        let rest = self.rest(from);
        let length = match ends {
            Ends::Line => rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(rest.len()),
            Ends::Parameter => {
                let over = |byte: &u8| byte.is_ascii_whitespace() || b"&#\"'<>".contains(byte);
                rest.iter().position(over).unwrap_or(rest.len())
            }
            Ends::Word => match rest {
                [quote @ (b'"' | b'\'' | b'`'), ..] => {
                    let (start, length) = (from + 1, quoted_length(rest.get(1..)?, *quote));
                    return (length > 0).then_some((start, start + length));
                }
                [b'\\', b'"', ..] => {
                    let inner = rest.get(2..)?;
                    let length = inner.iter().position(|byte| *byte == b'"').unwrap_or(inner.len());
                    return (length > 0).then_some((from + 2, from + 2 + length));
                }
                _ => unquoted_length(rest, quoted),
            },
        };
        (length > 0).then_some((from, from + length))
    }

    /// Looks into a percent-encoded run, once.
    fn encoded(&mut self, at: usize) -> Option<usize> {
        let hex = self.at(at + 1).is_ascii_hexdigit() && self.at(at + 2).is_ascii_hexdigit();
        if at < self.decoded_to || !hex || self.context.depth >= DEPTH_MAX {
            return None;
        }
        let over = |byte: &u8| byte.is_ascii_whitespace() || b"&=?#/\"'<>,;".contains(byte);
        let floor = self.floor.max(self.decoded_to).max(at.saturating_sub(LOOK_BACK_MAX));
        let before = self.slice(floor, at);
        let mut start = before.iter().rposition(over).map_or(floor, |place| floor + place + 1);
        while !self.text.is_char_boundary(start) {
            start += 1;
        }
        let rest = self.rest(at);
        let end = at + rest.iter().position(over).unwrap_or(rest.len());
        self.decoded_to = end;
        let decoded = decode::percent(self.text.get(start..end)?);
        let deeper = Context { named: true, depth: self.context.depth + 1 };
        let mut inner = Scan::new(&decoded, self.rules, deeper);
        inner.run();
        let first = inner.spans.first()?;
        let With::Name(name) = first.with else { return None };
        self.spans.push(Span::new(start, end, name));
        self.floor = end;
        Some(end)
    }

    fn email(&mut self, at: usize) -> Option<usize> {
        const LOCAL_MAX: usize = 64;
        if !self.rules.on.has(Detector::Email) {
            return None;
        }
        let local = |byte: &&u8| byte.is_ascii_alphanumeric() || b"._%+-!#$&'*/=?^`{|}~".contains(byte);
        let before = self.slice(self.floor.max(at.saturating_sub(LOCAL_MAX)), at);
        let start = at - before.iter().rev().take_while(local).count();
        let rest = self.rest(at + 1);
        let domain = rest
            .iter()
            .take(LOOK_BACK_MAX)
            .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
            .count();
        let domain = rest.get(..domain)?.trim_ascii_end();
        let last = domain.split(|byte| *byte == b'.').rfind(|label| !label.is_empty())?;
        let dots = domain.iter().take(domain.len().saturating_sub(1)).any(|byte| *byte == b'.');
        if start == at || !dots || last.len() < 2 {
            return None;
        }
        self.found(start, at + 1 + domain.len(), Detector::Email)
    }
}

/// How a value ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    /// At the end of the line.
    Line,
    /// As a URL's parameter does.
    Parameter,
    /// At its closing quote, or at the next space.
    Word,
}

/// How long a quoted value is; one without an end goes on to the end of the text.
fn quoted_length(rest: &[u8], quote: u8) -> usize {
    let mut at = 0;
    while let Some(byte) = rest.get(at) {
        let next = rest.get(at + 1);
        if *byte == b'\\' {
            at += 2;
        } else if *byte == quote && next == Some(&quote) {
            // Doubled, or an empty value; with nothing before it, it is the latter.
            if at == 0 && quote == b'"' {
                return 0;
            }
            at += 2;
        } else if *byte == quote {
            return at;
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// Words after which the rest of the line belongs to the value.
const SCHEMES: &[&[u8]] = &[
    b"bearer",
    b"basic",
    b"token",
    b"digest",
    b"negotiate",
    b"apikey",
    b"api-key",
    b"aws4-hmac-sha256",
    b"scram-sha-256",
];

/// How long a value without quotes is.
fn unquoted_length(rest: &[u8], in_json: bool) -> usize {
    let over = |byte: &u8| byte.is_ascii_whitespace() || (in_json && b",}]".contains(byte));
    let length = rest.iter().position(over).unwrap_or(rest.len());
    let word = rest.get(..length).unwrap_or_default();
    if SCHEMES.iter().any(|scheme| word.eq_ignore_ascii_case(scheme)) {
        return rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(rest.len());
    }
    length
}

/// Whether a value only stands for one.
fn is_placeholder(value: &[u8]) -> bool {
    const WORDS: &[&[u8]] = &[b"null", b"none", b"true", b"false", b"?", b"%s"];
    let parameter =
        value.strip_prefix(b"$").is_some_and(|rest| !rest.is_empty() && rest.iter().all(u8::is_ascii_digit));
    parameter
        || value.iter().all(|byte| *byte == b'*')
        || WORDS.iter().any(|word| value.eq_ignore_ascii_case(word))
}
