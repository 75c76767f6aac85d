//! Redaction inside JSON values.

use doorward_core::Form;
use serde_json::{Map, Value};

use crate::span::MARK;
use crate::{Redactor, SCAN_BYTES_MAX};

/// Redacts a value that `key` names. Depth is bounded by the parser that made it.
pub(crate) fn redact(redactor: &Redactor, key: &str, value: &mut Value) {
    if let Some(detector) = redactor.rules.secret_header(key)
        && !matches!(value, Value::Null | Value::Bool(_))
    {
        *value = Value::String(format!("{MARK}{detector}]"));
        return;
    }
    match value {
        Value::Null | Value::Bool(_) => {}
        Value::Number(number) => {
            let text = number.to_string();
            if redactor.redact(Form::Text, &text, SCAN_BYTES_MAX) != text {
                *value = Value::String(redactor.redact(Form::Text, &text, SCAN_BYTES_MAX).into_owned());
            }
        }
        Value::String(text) => {
            if let std::borrow::Cow::Owned(kept) = redactor.redact(Form::Text, text, SCAN_BYTES_MAX) {
                *text = kept;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| redact(redactor, "", item)),
        Value::Object(fields) => fields_of(redactor, fields),
    }
}

fn fields_of(redactor: &Redactor, fields: &mut Map<String, Value>) {
    for (key, value) in fields.iter_mut() {
        redact(redactor, key, value);
    }
    let named = |key: &String| redactor.redact(Form::Template, key, SCAN_BYTES_MAX) == *key;
    if fields.keys().all(named) {
        return;
    }
    let old = std::mem::take(fields);
    for (key, value) in old {
        fields.insert(redactor.redact(Form::Template, &key, SCAN_BYTES_MAX).into_owned(), value);
    }
}
