//! The operation as the record keeps it: names and operators stay, values go.

use std::fmt::Write;

use super::syntax::{Condition, Field, Filter, Item, Quantifier, Test};
use super::{Operation, Request, Target};

/// The operation's text, without any value: `GET /shop/orders?select=id&status=eq.?`.
pub(crate) fn operation(request: &Request, method: &str, resource: &str) -> String {
    let mut text = Text::begin(request, method, resource);
    let query = &request.query;
    if !query.select.is_empty() {
        text.parameter("select=", |text| list(text, &query.select, item));
    }
    for (name, _) in &query.arguments {
        text.parameter(name, |text| text.push_str("=?"));
    }
    for condition in &query.conditions {
        text.parameter("", |text| condition_text(text, condition, "="));
    }
    if !query.order.is_empty() {
        text.parameter("order=", |text| list(text, &query.order, order));
    }
    if let Some(columns) = &query.columns {
        text.parameter("columns=", |text| list(text, columns, |text, name| text.push_str(name)));
    }
    if query.limit.is_some() {
        text.parameter("limit=?", |_| {});
    }
    if query.offset > 0 {
        text.parameter("offset=?", |_| {});
    }
    if matches!(request.operation, Operation::Insert | Operation::Update)
        && query.columns.is_none()
        && !request.payload.keys().is_empty()
    {
        text.parameter("body=", |text| {
            list(text, request.payload.keys(), |text, key| text.push_str(key));
        });
    }
    text.text
}

/// The text while it is written. Every call has one, so nothing of it is formatted or put together twice.
struct Text {
    text: String,
    separator: char,
    full: bool,
}

impl Text {
    fn begin(request: &Request, method: &str, resource: &str) -> Self {
        let mut text = String::with_capacity(TEXT_ROOM);
        for part in [method, " /", resource, "/"] {
            text.push_str(part);
        }
        if matches!(request.target, Target::Function(_)) {
            text.push_str("rpc/");
        }
        text.push_str(request.target.name());
        Self { text, separator: '?', full: false }
    }

    /// A name stays whole or goes: half of one might be half of something that the redactor knows.
    fn parameter(&mut self, name: &str, write: impl FnOnce(&mut String)) {
        if self.full {
            return;
        }
        let before = self.text.len();
        self.text.push(self.separator);
        self.text.push_str(name);
        write(&mut self.text);
        if self.text.len() + 1 + ELLIPSIS.len() > TEXT_BYTES_MAX {
            self.full = true;
            self.text.truncate(before);
            self.text.push(self.separator);
            self.text.push_str(ELLIPSIS);
        }
        self.separator = '&';
    }
}

/// Stands for the parameters that there was no room for.
const ELLIPSIS: &str = "…";

/// How long the text may be.
pub(crate) const TEXT_BYTES_MAX: usize = 2_048;
/// Room that a text finds at once.
const TEXT_ROOM: usize = 128;

/// FNV-1a of the text: the same in every build, so that fingerprints group over years.
pub(crate) fn fingerprint(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn list<T>(text: &mut String, parts: &[T], write: impl Fn(&mut String, &T)) {
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        write(text, part);
    }
}

/// Appends a field as it was written. Writing to a string cannot fail.
fn field(text: &mut String, field: &Field) {
    match field.path.is_empty() {
        true => text.push_str(&field.name),
        false => {
            let _ = write!(text, "{field}");
        }
    }
}

fn item(text: &mut String, item: &Item) {
    match item {
        Item::Star => text.push('*'),
        Item::Column { field: column, alias, cast } => {
            if let Some(alias) = alias {
                text.push_str(alias);
                text.push(':');
            }
            field(text, column);
            if let Some(cast) = cast {
                text.push_str("::");
                text.push_str(cast);
            }
        }
    }
}

fn order(text: &mut String, order: &super::syntax::Order) {
    field(text, &order.field);
    text.push_str(match order.descending {
        Some(true) => ".desc",
        Some(false) => ".asc",
        None => "",
    });
    text.push_str(match order.nulls_first {
        Some(true) => ".nullsfirst",
        Some(false) => ".nullslast",
        None => "",
    });
}

fn condition_text(text: &mut String, condition: &Condition, separator: &str) {
    match condition {
        Condition::Filter(filter) => filter_text(text, filter, separator),
        Condition::Group { negated, any, parts } => {
            if *negated {
                text.push_str("not.");
            }
            text.push_str(if *any { "or" } else { "and" });
            if separator == "=" {
                text.push('=');
            }
            text.push('(');
            list(text, parts, |text, part| condition_text(text, part, "."));
            text.push(')');
        }
    }
}

fn filter_text(text: &mut String, filter: &Filter, separator: &str) {
    field(text, &filter.field);
    text.push_str(separator);
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
}
