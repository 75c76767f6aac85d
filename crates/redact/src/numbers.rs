//! Numbers that carry check digits: payment cards, bank accounts, national ids.
//!
//! Each function gets the rest of the text from the beginning of a word on, and says how long the number is.
//! Groups of digits may be set apart by one space, hyphen or `+` (a space in a query), or `%20`.

/// The most digits of a card.
const CARD_DIGITS_MAX: usize = 19;
/// The fewest.
const CARD_DIGITS_MIN: usize = 13;

/// The separator at the beginning of `rest`, if there is one between two groups.
fn separator(rest: &[u8]) -> usize {
    match rest {
        [b' ' | b'-' | b'+', ..] => 1,
        [b'%', b'2', b'0', ..] => 3,
        _ => 0,
    }
}

/// Whether a number may end here.
fn ends(rest: &[u8]) -> bool {
    rest.first().is_none_or(|byte| !byte.is_ascii_alphanumeric())
}

/// The digits of a number, and how far it goes for each possible end.
struct Digits {
    digits: [u8; CARD_DIGITS_MAX],
    count: usize,
}

/// A payment card.
pub(crate) fn card(rest: &[u8]) -> Option<usize> {
    let mut number = Digits { digits: [0; CARD_DIGITS_MAX], count: 0 };
    let mut best = None;
    let mut at = 0;
    loop {
        let group = rest.get(at..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if group == 0 || number.count + group > CARD_DIGITS_MAX {
            return best;
        }
        for byte in rest.get(at..at + group)? {
            *number.digits.get_mut(number.count)? = byte - b'0';
            number.count += 1;
        }
        at += group;
        let digits = number.digits.get(..number.count)?;
        let after = rest.get(at..)?;
        if number.count >= CARD_DIGITS_MIN && ends(after) && issued(digits) && luhn(digits) {
            best = Some(at);
        }
        match separator(after) {
            0 => return best,
            width => at += width,
        }
    }
}

/// Whether a card network issues numbers with this beginning and this length.
fn issued(digits: &[u8]) -> bool {
    let first =
        |count: usize| digits.iter().take(count).fold(0u32, |number, digit| number * 10 + u32::from(*digit));
    let length = digits.len();
    match (first(1), first(2), first(3), first(4)) {
        // Visa
        (4, ..) => matches!(length, 13 | 16 | 19),
        // Mastercard
        (_, 51..=55, ..) | (_, _, _, 2221..=2720) => length == 16,
        // American Express
        (_, 34 | 37, ..) => length == 15,
        // Diners Club
        (_, 36 | 38 | 39, ..) | (_, _, 300..=305, _) => (14..=19).contains(&length),
        // JCB
        (_, _, _, 3528..=3589) => (16..=19).contains(&length),
        // Discover
        (_, 65, ..) | (_, _, 644..=649, _) | (_, _, _, 6011) => (16..=19).contains(&length),
        // UnionPay
        (_, 62, ..) => (16..=19).contains(&length),
        // Maestro
        (_, _, _, 5018 | 5020 | 5038 | 5893 | 6304 | 6759 | 6761..=6763) => (13..=19).contains(&length),
        _ => false,
    }
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| match (place % 2, u32::from(*digit)) {
            (0, digit) => digit,
            (_, digit @ 0..=4) => digit * 2,
            (_, digit) => digit * 2 - 9,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// The lengths of bank account numbers, by country (ISO 13616 registry).
const IBAN_LENGTHS: &[(&[u8; 2], usize)] = &[
    (b"AD", 24),
    (b"AE", 23),
    (b"AL", 28),
    (b"AT", 20),
    (b"AZ", 28),
    (b"BA", 20),
    (b"BE", 16),
    (b"BG", 22),
    (b"BH", 22),
    (b"BI", 27),
    (b"BR", 29),
    (b"BY", 28),
    (b"CH", 21),
    (b"CR", 22),
    (b"CY", 28),
    (b"CZ", 24),
    (b"DE", 22),
    (b"DJ", 27),
    (b"DK", 18),
    (b"DO", 28),
    (b"EE", 20),
    (b"EG", 29),
    (b"ES", 24),
    (b"FI", 18),
    (b"FK", 18),
    (b"FO", 18),
    (b"FR", 27),
    (b"GB", 22),
    (b"GE", 22),
    (b"GI", 23),
    (b"GL", 18),
    (b"GR", 27),
    (b"GT", 28),
    (b"HN", 28),
    (b"HR", 21),
    (b"HU", 28),
    (b"IE", 22),
    (b"IL", 23),
    (b"IQ", 23),
    (b"IS", 26),
    (b"IT", 27),
    (b"JO", 30),
    (b"KW", 30),
    (b"KZ", 20),
    (b"LB", 28),
    (b"LC", 32),
    (b"LI", 21),
    (b"LT", 20),
    (b"LU", 20),
    (b"LV", 21),
    (b"LY", 25),
    (b"MC", 27),
    (b"MD", 24),
    (b"ME", 22),
    (b"MK", 19),
    (b"MN", 20),
    (b"MR", 27),
    (b"MT", 31),
    (b"MU", 30),
    (b"NI", 28),
    (b"NL", 18),
    (b"NO", 15),
    (b"OM", 23),
    (b"PK", 24),
    (b"PL", 28),
    (b"PS", 29),
    (b"PT", 25),
    (b"QA", 29),
    (b"RO", 24),
    (b"RS", 22),
    (b"RU", 33),
    (b"SA", 24),
    (b"SC", 31),
    (b"SD", 18),
    (b"SE", 24),
    (b"SI", 19),
    (b"SK", 24),
    (b"SM", 27),
    (b"SO", 23),
    (b"ST", 25),
    (b"SV", 28),
    (b"TL", 23),
    (b"TN", 24),
    (b"TR", 26),
    (b"UA", 29),
    (b"VA", 22),
    (b"VG", 24),
    (b"XK", 20),
    (b"YE", 30),
];

/// A bank account number.
pub(crate) fn iban(rest: &[u8]) -> Option<usize> {
    let [first, second, third, fourth, ..] = rest else { return None };
    if !(first.is_ascii_alphabetic() && third.is_ascii_digit() && fourth.is_ascii_digit()) {
        return None;
    }
    let country = [first.to_ascii_uppercase(), second.to_ascii_uppercase()];
    let (_, wanted) = IBAN_LENGTHS.iter().find(|(known, _)| **known == country)?;
    let mut account = [0u8; 34];
    let (mut count, mut at) = (0, 0);
    while count < *wanted {
        let byte = *rest.get(at)?;
        if byte.is_ascii_alphanumeric() {
            *account.get_mut(count)? = byte.to_ascii_uppercase();
            count += 1;
            at += 1;
        } else {
            let width = separator(rest.get(at..)?);
            if width == 0 {
                return None;
            }
            at += width;
            if !rest.get(at)?.is_ascii_alphanumeric() {
                return None;
            }
        }
    }
    let (head, tail) = account.get(..count)?.split_at_checked(4)?;
    let remainder = tail.iter().chain(head).fold(0u32, |remainder, byte| match byte {
        b'0'..=b'9' => (remainder * 10 + u32::from(byte - b'0')) % 97,
        letter => (remainder * 100 + u32::from(letter - b'A') + 10) % 97,
    });
    (remainder == 1 && ends(rest.get(at..)?)).then_some(at)
}

/// Digits in a fixed pattern: `0` stands for one, all else for itself.
fn in_pattern<const N: usize>(rest: &[u8], pattern: &[u8]) -> Option<[u8; N]> {
    let mut digits = [0; N];
    let mut places = digits.iter_mut();
    let candidate = rest.get(..pattern.len())?;
    for (byte, wanted) in candidate.iter().zip(pattern) {
        match wanted {
            b'0' if byte.is_ascii_digit() => *places.next()? = byte - b'0',
            b'0' => return None,
            other if other == byte => {}
            _ => return None,
        }
    }
    ends(rest.get(pattern.len()..)?).then_some(digits)
}

/// Brazil's CPF: `000.000.000-00`, or 11 digits.
pub(crate) fn br_cpf(rest: &[u8]) -> Option<usize> {
    let (digits, length) = in_pattern::<11>(rest, b"000.000.000-00")
        .map(|digits| (digits, 14))
        .or_else(|| Some((in_pattern::<11>(rest, b"00000000000")?, 11)))?;
    let check = |count: usize| {
        let weights = (2..=count + 1).rev();
        let sum: usize = digits.iter().take(count).zip(weights).map(|(d, w)| usize::from(*d) * w).sum();
        let rest = sum * 10 % 11;
        if rest == 10 { 0 } else { rest }
    };
    let [first, .., ninth, tenth] = digits;
    let alike = digits.iter().all(|digit| *digit == first);
    (!alike && check(9) == usize::from(ninth) && check(10) == usize::from(tenth)).then_some(length)
}

/// Spain's DNI (`00000000X`) and NIE (`X0000000X`).
pub(crate) fn es_dni(word: &[u8]) -> bool {
    const LETTERS: &[u8; 23] = b"TRWAGMYFPDXBNJZSQVHLCKE";
    let [first, middle @ .., letter] = word else { return false };
    if word.len() != 9 || !middle.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let first = match first.to_ascii_uppercase() {
        digit @ b'0'..=b'9' => digit - b'0',
        letter @ b'X'..=b'Z' => letter - b'X',
        _ => return false,
    };
    let number =
        middle.iter().fold(usize::from(first), |number, digit| number * 10 + usize::from(digit - b'0'));
    LETTERS.get(number % 23) == Some(&letter.to_ascii_uppercase())
}

/// France's NIR: sex, year, month, department, commune, order, and the key, 97 less the rest of 97.
pub(crate) fn fr_nir(rest: &[u8]) -> Option<usize> {
    let mut text = [0u8; 15];
    let (mut count, mut at) = (0, 0);
    while count < text.len() {
        let byte = rest.get(at)?.to_ascii_uppercase();
        let corsican = count == 6 && matches!(byte, b'A' | b'B') && text.get(5) == Some(&b'2');
        if byte.is_ascii_digit() || corsican {
            *text.get_mut(count)? = byte;
            count += 1;
            at += 1;
        } else {
            let width = separator(rest.get(at..)?);
            if width == 0 || count == 0 || separator(rest.get(at + width..)?) > 0 {
                return None;
            }
            at += width;
        }
    }
    let month = text.get(3..5)?.iter().fold(0, |month, digit| month * 10 + u32::from(digit - b'0'));
    let plausible =
        matches!(text.first()?, b'1'..=b'4' | b'7' | b'8') && matches!(month, 1..=12 | 20..=42 | 50..=99);
    let (number, key) = text.split_at_checked(13)?;
    let mut value = 0u64;
    for byte in number {
        let digit = if byte.is_ascii_digit() { u64::from(byte - b'0') } else { 0 };
        value = value * 10 + digit;
    }
    // For the key, 2A counts as 19 and 2B as 18: a million or two less than 20.
    value -= match text.get(6) {
        Some(b'A') => 1_000_000,
        Some(b'B') => 2_000_000,
        _ => 0,
    };
    let key = key.iter().fold(0, |key, digit| key * 10 + u64::from(digit - b'0'));
    (plausible && 97 - value % 97 == key && ends(rest.get(at..)?)).then_some(at)
}

/// Italy's codice fiscale: 16 characters, the last of which checks the others.
pub(crate) fn it_codice_fiscale(word: &[u8]) -> bool {
    /// What a character at an odd place counts, by its place in the alphabet or its digit.
    const ODD: [u32; 26] =
        [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23];
    // L is a letter; D a digit, or the letter that stands for it where two people would have the same code.
    const PATTERN: &[u8; 16] = b"LLLLLLDDLDDLDDDL";
    if word.len() != PATTERN.len() {
        return false;
    }
    let mut sum = 0;
    for (place, (byte, kind)) in word.iter().zip(PATTERN).enumerate() {
        let byte = byte.to_ascii_uppercase();
        let fits = match kind {
            b'L' => byte.is_ascii_uppercase(),
            _ => byte.is_ascii_digit() || b"LMNPQRSTUV".contains(&byte),
        };
        let value = match byte {
            b'0'..=b'9' => byte - b'0',
            b'A'..=b'Z' => byte - b'A',
            _ => return false,
        };
        if !fits {
            return false;
        }
        if place == PATTERN.len() - 1 {
            return sum % 26 == u32::from(value);
        }
        sum += match place % 2 {
            0 => ODD.get(usize::from(value)).copied().unwrap_or_default(),
            _ => u32::from(value),
        };
    }
    false
}
