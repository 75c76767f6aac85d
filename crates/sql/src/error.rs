//! Why a text is no statement, and why a statement is refused whatever the grants say.

use std::borrow::Cow;
use std::fmt;

/// The text cannot be taken for statements.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParseError {
    /// The SQLSTATE that PostgreSQL would answer.
    pub sqlstate: &'static str,
    /// What is wrong, as PostgreSQL says it. It may quote a word of the statement.
    pub message: Box<str>,
    /// Where, in characters from 1, as PostgreSQL counts.
    pub position: Option<u32>,
    /// What to do.
    pub hint: Option<&'static str>,
}

impl ParseError {
    pub(crate) fn new(sqlstate: &'static str, message: impl Into<Box<str>>) -> Self {
        Self { sqlstate, message: message.into(), position: None, hint: None }
    }

    pub(crate) fn hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    /// The statement nests too deeply.
    pub(crate) fn too_complex() -> Self {
        Self::new("54001", "the statement is nested too deeply").hint(
            "Write it with fewer levels of nested expressions and sub-selects, or as several statements.",
        )
    }
}

/// Why it cannot be said, or may not be done, what a statement would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// The catalogue has no relation of that name.
    NoRelation,
    /// The catalogue has no function of that name.
    NoFunction,
    /// Code in a language of its own, run at once.
    Code,
    /// SQL that is given as a text, and is not there to be read.
    SqlAsText,
    /// The server's own files and programs, or other servers.
    Outside,
    /// Another role than the one that the session was opened for.
    Role,
    /// The server as a whole: databases, extensions, settings.
    Server,
    /// A setting under which statements would be read differently than here.
    Lexing,
    /// The name of an object is computed.
    Computed,
    /// A part of the grammar that is not understood here.
    Syntax,
}

impl Why {
    /// A word for records and tests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoRelation => "no-relation",
            Self::NoFunction => "no-function",
            Self::Code => "code",
            Self::SqlAsText => "sql-as-text",
            Self::Outside => "outside",
            Self::Role => "role",
            Self::Server => "server",
            Self::Lexing => "lexing",
            Self::Computed => "computed",
            Self::Syntax => "syntax",
        }
    }

    /// What to do instead.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::NoRelation | Self::NoFunction => {
                "Check the name, and the search path if the name has no schema."
            }
            Self::Code => {
                "Send the statements themselves, or have the code made a function that you may execute."
            }
            Self::SqlAsText => "Send the inner statement itself.",
            Self::Outside => {
                "Use COPY … FROM STDIN or TO STDOUT (in psql: \\copy), which pass through the connection."
            }
            Self::Role => "Connect as another of your roles: the startup user names it.",
            Self::Server => "Ask whoever runs the database server.",
            Self::Lexing => "Leave the setting as it is.",
            Self::Computed => "Write the object's name as a constant in the statement.",
            Self::Syntax => "Write the statement in another way, and report it: it should be understood.",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A statement of which it cannot be known what it needs, or which is refused whatever the grants say.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{what}")]
pub struct Unknown {
    /// What it is about: names only, never a value of the statement.
    pub what: Cow<'static, str>,
    /// Why.
    pub why: Why,
}

impl Unknown {
    pub(crate) fn new(why: Why, what: impl Into<Cow<'static, str>>) -> Self {
        Self { what: what.into(), why }
    }

    /// What to do instead.
    pub const fn hint(&self) -> &'static str {
        self.why.hint()
    }
}
