//! The query string: split, decoded once, each parameter read by the grammar.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::grammar::{Cursor, Unread};
use super::syntax::{Condition, Filter, Query};
use crate::codes;
use crate::problem::Problem;

/// How many parameters one query string may have.
pub(crate) const PARAMETERS_MAX: usize = 256;

/// Who may send parameters that are no filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arguments {
    /// Nobody: such a parameter is an error.
    Refused,
    /// A function called by GET: they are its arguments.
    Taken,
}

/// Reads a query string (without `?`).
pub(crate) fn read(text: &str, arguments: Arguments) -> Result<Query, Problem> {
    let mut query = Query::default();
    let mut seen = Seen::default();
    for (index, pair) in text.split('&').filter(|pair| !pair.is_empty()).enumerate() {
        if index == PARAMETERS_MAX {
            return Err(Problem::new(400, "PGRST100", codes::QUERY, "too many query parameters")
                .details(format!("at most {PARAMETERS_MAX} are read"))
                .hint("Ask with fewer parameters; `in.(…)` tests one column for many values."));
        }
        // A name without a value says nothing, as in PostgREST.
        if let Some((key, value)) = pair.split_once('=') {
            parameter(&mut query, &mut seen, &decode(key)?, &decode(value)?, arguments)?;
        }
    }
    Ok(query)
}

/// Parameters of which the first counts.
#[derive(Default)]
struct Seen {
    select: bool,
    order: bool,
    columns: bool,
}

fn parameter(
    query: &mut Query,
    seen: &mut Seen,
    key: &str,
    value: &str,
    arguments: Arguments,
) -> Result<(), Problem> {
    match key {
        "select" => {
            if !std::mem::replace(&mut seen.select, true) && !value.trim().is_empty() {
                query.select =
                    Cursor::new(value).whole_select().map_err(|why| unread("select parameter", why))?;
            }
        }
        "order" => {
            if !std::mem::replace(&mut seen.order, true) && !value.is_empty() {
                query.order = Cursor::new(value).whole_order().map_err(|why| unread("order", why))?;
            }
        }
        "columns" => {
            if !std::mem::replace(&mut seen.columns, true) && !value.is_empty() {
                let columns = Cursor::new(value).whole_columns();
                query.columns = Some(columns.map_err(|why| unread("columns parameter", why))?);
            }
        }
        "limit" => query.limit = limit(value)?.or(query.limit),
        "offset" => query.offset = value.parse().unwrap_or(query.offset),
        "on_conflict" => return Err(not_implemented("upsert with on_conflict")),
        "and" | "or" | "not.and" | "not.or" => {
            let tree = Cursor::new(value).whole_group(key.starts_with("not."), key.ends_with("or"));
            query.conditions.push(tree.map_err(|why| unread("logic tree", why))?);
        }
        _ => filter_or_argument(query, key, value, arguments)?,
    }
    Ok(())
}

fn filter_or_argument(
    query: &mut Query,
    key: &str,
    value: &str,
    arguments: Arguments,
) -> Result<(), Problem> {
    let test = match (Cursor::new(value).whole_test(), arguments) {
        (Ok(test), _) => test,
        (Err(_), Arguments::Taken) => {
            query.arguments.push((key.into(), value.into()));
            return Ok(());
        }
        (Err(why), Arguments::Refused) => return Err(unread("filter", why)),
    };
    if let Some((relation, _)) = key.split_once('.')
        && !key.contains('"')
    {
        let message = format!("'{relation}' is not an embedded resource in this request");
        return Err(Problem::new(400, "PGRST108", codes::QUERY, message)
            .hint("Embedded relations are not supported in this version; filter the table's own columns."));
    }
    let field = Cursor::new(key).whole_field().map_err(|why| unread("tree path", why))?;
    let (negated, test) = test;
    query.conditions.push(Condition::Filter(Filter { field, negated, test }));
    Ok(())
}

/// `limit=` reads a count; what is no number is passed over, and a negative one is refused, as in PostgREST.
fn limit(value: &str) -> Result<Option<u64>, Problem> {
    if value.strip_prefix('-').is_some_and(|digits| digits.parse::<u64>().is_ok_and(|limit| limit > 0)) {
        return Err(Problem::new(416, "PGRST103", codes::RANGE, "Requested range not satisfiable")
            .details("Limit should be greater than or equal to zero.")
            .hint("Send a limit of zero or more."));
    }
    Ok(value.parse().ok())
}

/// Percent-decoding with `+` for a space; bytes that are no UTF-8 text are refused.
fn decode(text: &str) -> Result<Cow<'_, str>, Problem> {
    let spaced: Cow<'_, str> =
        if text.contains('+') { text.replace('+', " ").into() } else { Cow::Borrowed(text) };
    let decoded = match spaced {
        Cow::Borrowed(text) => percent_decode_str(text).decode_utf8(),
        Cow::Owned(text) => percent_decode_str(&text).decode_utf8().map(|text| Cow::Owned(text.into_owned())),
    };
    match decoded {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(Problem::new(400, "PGRST100", codes::QUERY, "a query parameter is not UTF-8 text")
            .details("percent-decoding gives bytes that are not UTF-8, or a NUL character")
            .hint("Encode parameters as UTF-8 and percent-encode them once.")),
    }
}

/// The refusal of a parameter that cannot be read. Its text never repeats the parameter's value.
pub(crate) fn unread(what: &'static str, why: Unread) -> Problem {
    match why {
        Unread::Expected { column, found, expected } => {
            let message = format!("\"failed to parse {what}\" (line 1, column {column})");
            let unexpected = match found {
                Some(found) => format!("unexpected {:?} expecting {expected}", found.to_string()),
                None => format!("unexpected end of input expecting {expected}"),
            };
            Problem::new(400, "PGRST100", codes::QUERY, message).details(unexpected).hint(
                "See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax.",
            )
        }
        Unread::TooMuch(what) => {
            Problem::new(400, "PGRST100", codes::QUERY, what).hint("Ask with a simpler query.")
        }
        Unread::NotImplemented(feature) => not_implemented(feature),
        Unread::Aggregate => {
            Problem::new(400, "PGRST123", codes::NOT_IMPLEMENTED, "Use of aggregate functions is not allowed")
                .hint("Aggregate in a view or a function, and ask for that.")
        }
    }
}

pub(crate) fn not_implemented(feature: &str) -> Problem {
    Problem::new(400, "PGRST127", codes::NOT_IMPLEMENTED, "Feature not implemented")
        .details(format!("{feature}: not supported in this version"))
        .hint("Leave it out; a later version of the gateway brings it.")
}
