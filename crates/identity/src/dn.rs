//! Writes a certificate's subject as RFC 4514 does, in one canonical form, so that texts can be compared.
//!
//! Most specific first, `CN=loader,OU=etl,O=Corp`; parts of one relative name joined with `+`; values
//! that are not text, and types without a short name, as `OID=#HEX`.

use doorward_core::hex;
use x509_parser::asn1_rs::Tag;
use x509_parser::der_parser::asn1_rs::ToDer;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// RFC 4514, 3: the types that have a short name.
const SHORT_NAMES: &[(&str, &str)] = &[
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

/// Writes the whole name.
pub(crate) fn rfc4514(name: &X509Name<'_>) -> Option<String> {
    let relative: Option<Vec<String>> = name
        .iter()
        .map(|relative| {
            let parts: Option<Vec<String>> = relative.iter().map(attribute).collect();
            parts.map(|parts| parts.join("+"))
        })
        .collect();
    relative.map(|mut parts| {
        parts.reverse();
        parts.join(",")
    })
}

/// The only common name; `None` when there is none, or more than one.
pub(crate) fn common_name(name: &X509Name<'_>) -> Option<String> {
    let mut names = name.iter_common_name();
    let only = names.next()?;
    if names.next().is_some() {
        return None;
    }
    text(only).map(str::to_owned)
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    let oid = attribute.attr_type().to_id_string();
    let short = SHORT_NAMES.iter().find(|(known, _)| *known == oid);
    match (short, text(attribute)) {
        (Some((_, name)), Some(value)) => Some(format!("{name}={}", escape(value))),
        (short, _) => {
            let name = short.map_or(oid.as_str(), |(_, name)| name);
            Some(format!("{name}=#{}", hex(&attribute.attr_value().to_der_vec().ok()?)))
        }
    }
}

fn text<'a>(attribute: &'a AttributeTypeAndValue<'_>) -> Option<&'a str> {
    let value = attribute.attr_value();
    let textual = matches!(value.header.tag(), Tag::Utf8String | Tag::PrintableString | Tag::Ia5String);
    textual.then(|| std::str::from_utf8(value.data).ok())?
}

fn escape(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut escaped = String::with_capacity(value.len());
    for (index, c) in value.chars().enumerate() {
        match c {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => escaped.extend(['\\', c]),
            ' ' if index == 0 || index == last => escaped.push_str("\\ "),
            '#' if index == 0 => escaped.push_str("\\#"),
            c if c.is_control() => {
                let mut buffer = [0; 4];
                for byte in c.encode_utf8(&mut buffer).bytes() {
                    escaped.push_str(&format!("\\{byte:02x}"));
                }
            }
            c => escaped.push(c),
        }
    }
    escaped
}
