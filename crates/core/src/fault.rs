//! Refusals and failures: a stable code, a text for the caller, a cause for the operator.
//!
//! The public text says what is wrong and what to do next. The private cause goes to the operator's
//! log and the record's trace, never to the caller. Neither ever holds a secret.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::name::GrantName;
use crate::record::Stage;

/// What went wrong, coarsely: each door maps a kind to its own status or SQLSTATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request cannot be understood.
    Malformed,
    /// A body, header or message is larger than its bound.
    TooLarge,
    /// Nobody vouches for the caller.
    Unauthenticated,
    /// The caller is known and may not do this.
    Denied,
    /// There is no such resource or object.
    NotFound,
    /// The verb does not apply to the object.
    Unsupported,
    /// A limit is used up for now.
    Limited,
    /// The backend refused or failed the call itself.
    Backend,
    /// It took too long.
    Timeout,
    /// Something that the gateway needs is away.
    Unavailable,
    /// A defect in the gateway.
    Internal,
}

/// Whose side the cause is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The caller can mend it.
    Client,
    /// The gateway's operator can.
    Gateway,
    /// The backend's operator can.
    Backend,
}

impl Side {
    /// The side as records spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Gateway => "gateway",
            Self::Backend => "backend",
        }
    }
}

/// A stable fault code. Each crate declares its own, and `docs/errors.md` lists all.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// `STAGE.SLUG`, never changed once released: `authenticate.token-expired`.
    pub name: &'static str,
    /// Where on the road it happens.
    pub stage: Stage,
    /// What went wrong, coarsely.
    pub kind: Kind,
    /// Whose side the cause is on.
    pub side: Side,
    /// Whether the same call may succeed later.
    pub retry: bool,
    /// A few words, the same for every occurrence (problem+json's `title`).
    pub title: &'static str,
}

/// Declares fault codes, and the list of them for the documentation test.
#[macro_export]
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $stage:ident, $kind:ident, $side:ident, retry $retry:literal, $title:literal;)*) => {
        $($(#[$doc])* pub const $name: &$crate::Code = &$crate::Code {
            name: $text, stage: $crate::Stage::$stage, kind: $crate::Kind::$kind, side: $crate::Side::$side,
            retry: $retry, title: $title,
        };)*
        /// All codes of this crate.
        pub const CODES: &[&$crate::Code] = &[$($name),*];
    };
}

/// A refusal or failure of one call.
#[derive(Clone)]
pub struct Fault(Box<Inner>);

#[derive(Clone)]
struct Inner {
    code: &'static Code,
    public: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
    cause: Option<String>,
    rule: Option<GrantName>,
    retry_after: Option<Duration>,
    backend_code: Option<Box<str>>,
    limit: Option<crate::permit::Allowance>,
}

impl Fault {
    /// A fault with its public text: one sentence that names what is wrong.
    pub fn new(code: &'static Code, public: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            code,
            public: public.into(),
            hint: None,
            cause: None,
            rule: None,
            retry_after: None,
            backend_code: None,
            limit: None,
        }))
    }

    /// Adds what the caller can do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds the cause for the operator's eyes: never a secret, never shown to the caller.
    #[must_use]
    pub fn cause(mut self, cause: impl fmt::Display) -> Self {
        self.0.cause = Some(cause.to_string());
        self
    }

    /// Names the rule that decided.
    #[must_use]
    pub fn rule(mut self, rule: GrantName) -> Self {
        self.0.rule = Some(rule);
        self
    }

    /// Says when to come back.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    /// Keeps the backend's own code (a SQLSTATE).
    #[must_use]
    pub fn backend_code(mut self, code: impl Into<Box<str>>) -> Self {
        self.0.backend_code = Some(code.into());
        self
    }

    /// Keeps the state of the limit that was hit, for the door to show.
    #[must_use]
    pub fn limit(mut self, allowance: crate::permit::Allowance) -> Self {
        self.0.limit = Some(allowance);
        self
    }

    /// The stable code.
    pub fn code(&self) -> &'static Code {
        self.0.code
    }

    /// What the caller reads.
    pub fn public(&self) -> &str {
        &self.0.public
    }

    /// What the caller can do next.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// What the operator reads.
    pub fn cause_text(&self) -> Option<&str> {
        self.0.cause.as_deref()
    }

    /// The rule that decided.
    pub fn rule_name(&self) -> Option<&GrantName> {
        self.0.rule.as_ref()
    }

    /// When to come back.
    pub fn retry_after_span(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The backend's own code.
    pub fn backend_code_text(&self) -> Option<&str> {
        self.0.backend_code.as_deref()
    }

    /// The state of the limit that was hit.
    pub fn limit_state(&self) -> Option<&crate::permit::Allowance> {
        self.0.limit.as_ref()
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fault")
            .field("code", &self.0.code.name)
            .field("public", &self.0.public)
            .field("cause", &self.0.cause)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code.name, self.0.public)
    }
}

impl std::error::Error for Fault {}
