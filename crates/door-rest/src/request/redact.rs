//! The operation as the record keeps it: names and operators stay, values go.

use std::fmt::Write;

use super::syntax::{Condition, Filter, Item, Quantifier, Test};
use super::{Operation, Request, Target};

/// The operation's text, without any value: `GET /shop/orders?select=id&status=eq.?`.
pub(crate) fn operation(request: &Request, method: &str, resource: &str) -> String {
    let mut text = format!("{method} /{resource}/");
    if matches!(request.target, Target::Function(_)) {
        text.push_str("rpc/");
    }
    text.push_str(request.target.name());
    let mut parameters = Vec::new();
    let query = &request.query;
    if !query.select.is_empty() {
        parameters.push(format!("select={}", list(query.select.iter().map(item))));
    }
    parameters.extend(query.arguments.iter().map(|(name, _)| format!("{name}=?")));
    parameters.extend(query.conditions.iter().map(|condition| condition_text(condition, "=")));
    if !query.order.is_empty() {
        parameters.push(format!("order={}", list(query.order.iter().map(order))));
    }
    if let Some(columns) = &query.columns {
        parameters.push(format!("columns={}", list(columns.iter().map(|name| name.to_string()))));
    }
    if query.limit.is_some() {
        parameters.push("limit=?".to_owned());
    }
    if query.offset > 0 {
        parameters.push("offset=?".to_owned());
    }
    if matches!(request.operation, Operation::Insert | Operation::Update)
        && request.query.columns.is_none()
        && !request.payload.keys().is_empty()
    {
        parameters.push(format!("body={}", list(request.payload.keys().iter().map(|key| key.to_string()))));
    }
    // A name stays whole or goes: half of one might be half of something that the redactor knows.
    for (index, parameter) in parameters.iter().enumerate() {
        let separator = if index == 0 { '?' } else { '&' };
        if text.len() + parameter.len() + 2 + ELLIPSIS.len() > TEXT_BYTES_MAX {
            text.push(separator);
            text.push_str(ELLIPSIS);
            break;
        }
        text.push(separator);
        text.push_str(parameter);
    }
    text
}

/// Stands for the parameters that there was no room for.
const ELLIPSIS: &str = "…";

/// How long the text may be.
pub(crate) const TEXT_BYTES_MAX: usize = 2_048;

/// FNV-1a of the text: the same in every build, so that fingerprints group over years.
pub(crate) fn fingerprint(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn list(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(",")
}

fn item(item: &Item) -> String {
    match item {
        Item::Star => "*".to_owned(),
        Item::Column { field, alias, cast } => {
            let alias = alias.as_deref().map(|alias| format!("{alias}:")).unwrap_or_default();
            let cast = cast.as_deref().map(|cast| format!("::{cast}")).unwrap_or_default();
            format!("{alias}{field}{cast}")
        }
    }
}

fn order(order: &super::syntax::Order) -> String {
    let direction = match order.descending {
        Some(true) => ".desc",
        Some(false) => ".asc",
        None => "",
    };
    let nulls = match order.nulls_first {
        Some(true) => ".nullsfirst",
        Some(false) => ".nullslast",
        None => "",
    };
    format!("{}{direction}{nulls}", order.field)
}

fn condition_text(condition: &Condition, separator: &str) -> String {
    match condition {
        Condition::Filter(filter) => filter_text(filter, separator),
        Condition::Group { negated, any, parts } => {
            let not = if *negated { "not." } else { "" };
            let word = if *any { "or" } else { "and" };
            let equals = if separator == "=" { "=" } else { "" };
            let parts = list(parts.iter().map(|part| condition_text(part, ".")));
            format!("{not}{word}{equals}({parts})")
        }
    }
}

fn filter_text(filter: &Filter, separator: &str) -> String {
    let mut text = format!("{}{separator}", filter.field);
    if filter.negated {
        text.push_str("not.");
    }
    match &filter.test {
        Test::Compare { operator, quantifier, .. } => {
            text.push_str(operator.name);
            text.push_str(match quantifier {
                None => ".?",
                Some(Quantifier::Any) => "(any).?",
                Some(Quantifier::All) => "(all).?",
            });
        }
        Test::In(_) => text.push_str("in.(?)"),
        Test::Is(name, _) => {
            text.push_str("is.");
            text.push_str(name);
        }
        Test::Distinct(_) => text.push_str("isdistinct.?"),
        Test::Search { name, config, .. } => {
            text.push_str(name);
            if let Some(config) = config {
                // Writing to a string cannot fail.
                let _ = write!(text, "({config})");
            }
            text.push_str(".?");
        }
    }
    text
}
