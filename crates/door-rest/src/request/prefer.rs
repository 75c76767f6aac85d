//! The `Prefer` header (RFC 7240) as PostgREST reads it.

use crate::codes;
use crate::problem::Problem;

/// What a write answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Return {
    /// Nothing: the default.
    #[default]
    Minimal,
    /// Nothing but the `Location` of a new row.
    HeadersOnly,
    /// The rows.
    Representation,
}

/// The preferences that a request names; of several of a kind the first counts (RFC 7240).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Prefer {
    /// `return=`
    pub(crate) returns: Option<Return>,
    /// `missing=default`: absent columns take their defaults.
    pub(crate) missing_default: Option<bool>,
    /// `count=exact`
    pub(crate) count_exact: bool,
    /// `handling=strict`
    pub(crate) strict: Option<bool>,
}

impl Prefer {
    /// What a write answers.
    pub(crate) fn returns(&self) -> Return {
        self.returns.unwrap_or_default()
    }

    /// Reads all values of the header.
    pub(crate) fn read<'a>(values: impl Iterator<Item = &'a str>) -> Result<Self, Problem> {
        let mut prefer = Self::default();
        let mut unknown = Vec::new();
        let mut later = None;
        for token in
            values.flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
        {
            match token {
                "return=minimal" => set(&mut prefer.returns, Return::Minimal),
                "return=headers-only" => set(&mut prefer.returns, Return::HeadersOnly),
                "return=representation" => set(&mut prefer.returns, Return::Representation),
                "missing=default" => set(&mut prefer.missing_default, true),
                "missing=null" => set(&mut prefer.missing_default, false),
                "count=exact" => prefer.count_exact = true,
                "handling=strict" => set(&mut prefer.strict, true),
                "handling=lenient" => set(&mut prefer.strict, false),
                // These change what is written; to pass over one would do something else than was asked for.
                "resolution=merge-duplicates" | "resolution=ignore-duplicates" => later = Some("upsert"),
                "tx=rollback" => later = Some("tx=rollback"),
                token if token.starts_with("max-affected=") => later = Some("max-affected"),
                other => unknown.push(other),
            }
        }
        if let Some(feature) = later {
            return Err(Problem::new(400, "PGRST127", codes::NOT_IMPLEMENTED, "Feature not implemented")
                .details(format!("the preference for {feature} is not supported in this version"))
                .hint("Leave the preference out."));
        }
        if prefer.strict == Some(true) && !unknown.is_empty() {
            return Err(Problem::new(
                400,
                "PGRST122",
                codes::PREFERENCE,
                "Invalid preferences given with handling=strict",
            )
            .details(format!("Invalid preferences: {}", unknown.join(", ")))
            .hint("Leave them out, or send handling=lenient."));
        }
        Ok(prefer)
    }

    /// The `Preference-Applied` header; empty when nothing was asked for that was applied.
    pub(crate) fn applied(&self, is_write: bool) -> String {
        let mut applied = Vec::new();
        if let (true, Some(returns)) = (is_write, self.returns) {
            applied.push(match returns {
                Return::Minimal => "return=minimal",
                Return::HeadersOnly => "return=headers-only",
                Return::Representation => "return=representation",
            });
        }
        if let (true, Some(default)) = (is_write, self.missing_default) {
            applied.push(if default { "missing=default" } else { "missing=null" });
        }
        if self.count_exact {
            applied.push("count=exact");
        }
        if let Some(strict) = self.strict {
            applied.push(if strict { "handling=strict" } else { "handling=lenient" });
        }
        applied.join(", ")
    }
}

fn set<T>(slot: &mut Option<T>, value: T) {
    slot.get_or_insert(value);
}
