//! PostgreSQL's errors as HTTP: the table of statuses is PostgREST's, but for a statement that took too
//! long, which is 504 here: that is what it is, and what clients and proxies know to repeat.

use std::borrow::Cow;

use doorward_core::{Code, Fault};
use doorward_pgclient::ServerError;

use crate::answer;
use crate::codes;
use crate::problem::{Form, Problem};
use crate::sql;
use crate::wire;

/// The HTTP status of an error.
fn status(error: &ServerError, authenticated: bool) -> u16 {
    let (state, message) = (&*error.sqlstate, &*error.message);
    match state {
        "23503" | "23505" => 409,
        "25006" => 405,
        "21000" if message.ends_with("requires a WHERE clause") => 400,
        "21000" => 500,
        "22023" if message.starts_with("role") && message.ends_with("does not exist") => 500,
        "53400" => 500,
        "57014" => 504,
        "57P01" | "57P02" | "57P03" => 503,
        "P0001" => 400,
        "42883" | "42P01" => 404,
        "42P17" => 500,
        "42501" if authenticated => 403,
        "42501" => 401,
        _ => match state.get(..2).unwrap_or_default() {
            "08" | "53" => 503,
            "0L" | "0P" | "28" => 403,
            "PT" => raised_status(state.get(2..).unwrap_or_default()),
            "09" | "25" | "2D" | "38" | "39" | "3B" | "40" | "54" | "55" | "57" | "58" | "F0" | "HV"
            | "P0" | "XX" => 500,
            _ => 400,
        },
    }
}

/// `RAISE SQLSTATE 'PT402'` answers 402.
fn raised_status(digits: &str) -> u16 {
    digits.parse().ok().filter(|status| (200..600).contains(status)).unwrap_or(500)
}

/// The refusal that an error of the database becomes. The record is told the SQLSTATE and the object;
/// the server's own words, which quote values, are for the caller alone.
pub(crate) fn problem(error: &ServerError, authenticated: bool) -> Problem {
    if &*error.sqlstate == "PGRST" {
        return raised(error);
    }
    if let Some(rows) = rows_of_not_one(error) {
        return answer::not_one_row(rows);
    }
    let status = status(error, authenticated);
    let fault =
        Fault::new(fault_code(error, status), format!("the database answered SQLSTATE {}", error.sqlstate))
            .hint(default_hint(error, status))
            .cause(object(error))
            .backend_code(error.sqlstate.clone());
    let form = Form {
        status,
        code: Cow::Owned(error.sqlstate.to_string()),
        message: Some(error.message.clone()),
        details: error.detail.clone(),
        hint: error.hint.clone(),
    };
    Problem { fault, form: Some(form) }
}

/// How many rows there were, when the statement failed because there was not exactly one.
fn rows_of_not_one(error: &ServerError) -> Option<u64> {
    let (_, rows) = error.message.split_once(sql::NOT_ONE_ROW).filter(|_| &*error.sqlstate == "22P02")?;
    rows.trim_end_matches('"').parse().ok()
}

fn fault_code(error: &ServerError, status: u16) -> &'static Code {
    match (&*error.sqlstate, status) {
        ("57014", _) => codes::TIMEOUT,
        (_, 503) => codes::BUSY,
        (_, 500..) => codes::FAILED,
        _ => codes::REFUSED,
    }
}

/// What the error is about, by names alone.
fn object(error: &ServerError) -> String {
    let named = |label: &str, name: &Option<Box<str>>| {
        name.as_deref().map(|name| format!(", {label} {name}")).unwrap_or_default()
    };
    format!(
        "SQLSTATE {}{}{}{}{}",
        error.sqlstate,
        named("schema", &error.schema),
        named("table", &error.table),
        named("column", &error.column),
        named("constraint", &error.constraint)
    )
}

/// What to do next, where the server does not say.
fn default_hint(error: &ServerError, status: u16) -> &'static str {
    match (&*error.sqlstate, status) {
        ("42501", _) => {
            "The role that the grant names lacks this right, or a row-level security policy forbids the row; the database's owner can grant it."
        }
        ("25006", _) => "A call by GET is read only; call the function by POST.",
        ("57014", _) => {
            "Ask for less: a filter, a limit, fewer columns; or ask the operator for a longer timeout."
        }
        ("23505", _) => "A row with this key is there already; change it by PATCH.",
        ("23503", _) => "The row refers to one that is not there, or is referred to; mend that first.",
        (_, 503) => "Try again in a moment.",
        (_, 500..) => "The database's operator finds the cause in its log.",
        _ => "Check the names and values of the request.",
    }
}

/// `RAISE SQLSTATE 'PGRST'`: the function says the whole refusal, in two JSON texts.
fn raised(error: &ServerError) -> Problem {
    let detail = error.detail.as_deref().unwrap_or_default();
    let Some((said, status)) = wire::read_raised(&error.message, detail) else {
        return Problem::new(
            500,
            "PGRST121",
            codes::FAILED,
            "Could not parse JSON in the \"RAISE SQLSTATE 'PGRST'\" error",
        )
        .hint("MESSAGE is an object with code, message, details and hint; DETAIL is an object with status and headers.");
    };
    let status = if (200..600).contains(&status.status) { status.status } else { 500 };
    let fault = Fault::new(fault_code(error, status), "the database raised a refusal of its own")
        .hint("The function that was called says why.")
        .backend_code("PGRST");
    let form = Form {
        status,
        code: Cow::Owned(said.code),
        message: Some(said.message.into()),
        details: said.details.map(Into::into),
        hint: said.hint.map(Into::into),
    };
    Problem { fault, form: Some(form) }
}
