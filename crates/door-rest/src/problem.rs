//! A refusal as PostgREST's clients know it: status, code, message, details, hint.
//!
//! A [`Problem`] is a [`Fault`] with the form in which the caller hears it. The two texts differ where
//! the caller's text holds values (PostgreSQL quotes them in its messages): the record keeps the
//! fault's text, which holds none.

use std::borrow::Cow;

use doorward_core::{Code, Fault, Kind, Refusal};

/// The form in which the caller hears of a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    /// The HTTP status.
    pub(crate) status: u16,
    /// PostgREST's code, or the SQLSTATE.
    pub(crate) code: Cow<'static, str>,
    /// The text for the caller, where it is not the fault's.
    pub(crate) message: Option<Box<str>>,
    /// More about the problem.
    pub(crate) details: Option<Box<str>>,
    /// What to do, where it is not the fault's.
    pub(crate) hint: Option<Box<str>>,
}

/// A fault and its form.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) fault: Fault,
    /// `None`: the form follows from the fault's kind.
    pub(crate) form: Option<Form>,
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        Self { fault, form: None }
    }
}

impl Problem {
    /// A problem whose text is the same for the caller and the record.
    pub(crate) fn new(
        status: u16,
        pgrst: &'static str,
        code: &'static Code,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        let form = Form { status, code: Cow::Borrowed(pgrst), message: None, details: None, hint: None };
        Self { fault: Fault::new(code, message), form: Some(form) }
    }

    /// Adds details, for the caller alone.
    pub(crate) fn details(mut self, details: impl Into<Box<str>>) -> Self {
        if let Some(form) = &mut self.form {
            form.details = Some(details.into());
        }
        self
    }

    /// Adds what the caller can do next.
    pub(crate) fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.fault = self.fault.hint(hint);
        self
    }
}

/// The form of a fault that another part of the road raised, by its kind.
pub(crate) fn form_of(refusal: &Refusal<'_>) -> Form {
    let fault = refusal.fault;
    let code = match fault.code().kind {
        Kind::Malformed => "PGRST100",
        Kind::TooLarge => "PGRST102",
        Kind::Unauthenticated => unauthenticated(fault.code().name),
        // PostgREST's clients know a refused right by PostgreSQL's own code.
        Kind::Denied => "42501",
        Kind::NotFound => "PGRST125",
        Kind::Unsupported => "PGRST117",
        Kind::Backend | Kind::Unavailable => "PGRST000",
        Kind::Limited | Kind::Timeout => "PGRST003",
        Kind::Internal => "PGRSTX00",
    };
    let status = doorward_http::status_of(fault.code()).as_u16();
    Form { status, code: Cow::Borrowed(code), message: None, details: None, hint: None }
}

/// PostgREST tells three refusals of a token apart: 302 nobody where somebody is needed, 303 a claim
/// that does not hold, 301 everything else.
fn unauthenticated(name: &str) -> &'static str {
    match name.strip_prefix("authenticate.").unwrap_or(name) {
        "credentials-missing" | "required" => "PGRST302",
        "token-expired"
        | "token-not-yet-valid"
        | "token-lifetime"
        | "token-inactive"
        | "session-expired"
        | "unknown-issuer"
        | "wrong-audience"
        | "wrong-client"
        | "wrong-token-type"
        | "id-token"
        | "bad-claim"
        | "groups-overage" => "PGRST303",
        _ => "PGRST301",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_refused_by_postgrest_s_codes() {
        assert_eq!(unauthenticated("authenticate.required"), "PGRST302");
        assert_eq!(unauthenticated("authenticate.token-expired"), "PGRST303");
        assert_eq!(unauthenticated("authenticate.bad-signature"), "PGRST301");
    }
}
