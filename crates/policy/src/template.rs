//! Templates: `${sub}`, `${email}`, `${group}` and `${claims.NAME}` inside patterns and roles.
//!
//! Filled in a single pass: what a claim holds is never read as a template or a pattern again. A claim
//! that is missing, empty or no scalar, and a value that could climb out of its segment, fill nothing; the
//! rule then does not hold (a deny rule does).

use doorward_core::Principal;
use serde_json::Value;

/// The longest value that fills a template, in bytes.
const VALUE_BYTES_MAX: usize = 512;

/// One variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Variable {
    Subject,
    Email,
    Group,
    /// The names on the way into the claims.
    Claim(Vec<Box<str>>),
}

impl Variable {
    /// Reads what stands between `${` and `}`.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        match name {
            "sub" => Ok(Self::Subject),
            "email" => Ok(Self::Email),
            "group" => Ok(Self::Group),
            _ => match name.strip_prefix("claims.") {
                Some(path) if path.split('.').all(|part| !part.is_empty()) => {
                    Ok(Self::Claim(path.split('.').map(Into::into).collect()))
                }
                _ => Err(format!(
                    "${{{name}}} is unknown; there are ${{sub}}, ${{email}}, ${{group}} and ${{claims.NAME}}"
                )),
            },
        }
    }

    /// The value, if there is one that is safe to put into a path or a name.
    pub(crate) fn fill(&self, principal: &Principal, group: Option<&str>) -> Option<String> {
        let value = match self {
            // Nobody vouches for the subject of a caller who has shown nothing.
            Self::Subject if principal.authenticated() => principal.subject.reveal().to_string(),
            Self::Subject => return None,
            Self::Email => principal.email.as_ref()?.reveal().to_string(),
            Self::Group => group?.to_owned(),
            Self::Claim(path) => claim(principal, path)?,
        };
        safe(&value).then_some(value)
    }

    pub(crate) fn text(&self) -> String {
        match self {
            Self::Subject => "${sub}".to_owned(),
            Self::Email => "${email}".to_owned(),
            Self::Group => "${group}".to_owned(),
            Self::Claim(path) => format!("${{claims.{}}}", path.join(".")),
        }
    }
}

fn claim(principal: &Principal, path: &[Box<str>]) -> Option<String> {
    let (first, rest) = path.split_first()?;
    let mut value = principal.claims.get(&**first)?;
    for name in rest {
        value = value.as_object()?.get(&**name)?;
    }
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn safe(value: &str) -> bool {
    !value.is_empty()
        && value.len() <= VALUE_BYTES_MAX
        && value != "."
        && !value.contains("..")
        && !value.contains(|c: char| matches!(c, '/' | '\\' | '*' | '?' | '%') || c.is_control())
}

/// A name with variables in it: a backend role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Text(Box<str>),
    Variable(Variable),
}

impl Template {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Ok(Self(split(text)?))
    }

    /// The text, when there is no variable in it.
    pub(crate) fn literal(&self) -> Option<&str> {
        match self.0.as_slice() {
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    pub(crate) fn uses_group(&self) -> bool {
        self.0.contains(&Part::Variable(Variable::Group))
    }

    pub(crate) fn fill(&self, principal: &Principal, group: Option<&str>) -> Option<String> {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Variable(variable) => out.push_str(&variable.fill(principal, group)?),
            }
        }
        Some(out)
    }

    pub(crate) fn text(&self) -> String {
        self.0
            .iter()
            .map(|part| match part {
                Part::Text(text) => text.to_string(),
                Part::Variable(variable) => variable.text(),
            })
            .collect()
    }
}

/// Splits text into plain parts and variables.
pub(crate) fn split(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, tail) = after.split_once('}').ok_or("a \"${\" here has no \"}\"")?;
        if !before.is_empty() {
            parts.push(Part::Text(before.into()));
        }
        parts.push(Part::Variable(Variable::parse(name)?));
        rest = tail;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.into()));
    }
    Ok(parts)
}
