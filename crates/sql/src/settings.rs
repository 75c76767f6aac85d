//! Settings that a statement sets: which of them are refused, whoever asks.

use crate::error::{Unknown, Why};
use crate::statement::{SessionEffects, Setting};

/// Where a setting is noted.
pub(crate) struct Sink<'a> {
    pub(crate) settings: &'a mut Vec<Setting>,
    pub(crate) session: &'a mut SessionEffects,
    pub(crate) refused: &'a mut Option<Unknown>,
}

/// Notes a setting; `computed` when a missing value means that it is not known, and not that it is the default.
pub(crate) fn set(sink: Sink<'_>, setting: Setting, computed: bool) {
    if let Some(unknown) = refused(&setting, computed) {
        sink.refused.get_or_insert(unknown);
    }
    sink.session.sets |= !setting.local;
    sink.settings.push(setting);
}

fn refused(setting: &Setting, computed: bool) -> Option<Unknown> {
    let value = setting.value.as_deref();
    match &*setting.name {
        "role" | "session_authorization" => {
            Some(Unknown::new(Why::Role, "the role of a session cannot be changed"))
        }
        "search_path" if computed && value.is_none() => {
            Some(Unknown::new(Why::Computed, "the search path is computed"))
        }
        // The grammar here reads strings as they are read under these settings.
        "standard_conforming_strings" if !is_on(value) && (computed || value.is_some()) => {
            Some(Unknown::new(Why::Lexing, "standard_conforming_strings must stay on"))
        }
        "client_encoding" | "names" if !is_utf8(value) && (computed || value.is_some()) => {
            Some(Unknown::new(Why::Lexing, "the client's encoding must stay UTF8"))
        }
        _ => None,
    }
}

fn is_on(value: Option<&str>) -> bool {
    value.is_some_and(|value| ["on", "true", "yes", "1", "t", "y"].contains(&&*value.to_ascii_lowercase()))
}

fn is_utf8(value: Option<&str>) -> bool {
    value.is_some_and(|value| {
        let plain: String = value.chars().filter(char::is_ascii_alphanumeric).collect();
        ["utf8", "unicode"].contains(&&*plain.to_ascii_lowercase())
    })
}
