//! Who a rule is for.

use std::fmt;

use doorward_core::{Principal, PrincipalKind};

/// One entry of `to`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Selector {
    /// A person or a service, by subject or by e-mail address.
    User(Box<str>),
    /// Whoever is in the group; `*` in it stands for any text.
    Group(Glob),
    /// Whoever comes with a token of this OAuth client.
    Client(Box<str>),
    /// Whoever this issuer vouches for.
    Issuer(Box<str>),
    /// A pipeline's task, by subject.
    Task(Glob),
    /// An AI agent, by subject.
    Agent(Glob),
    /// Whoever shows who they are.
    Anyone,
    /// Everybody, also who shows nothing.
    Public,
}

/// Text in which `*` stands for any text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Glob(Box<str>);

impl Glob {
    /// The text, when there is no wildcard in it.
    pub(crate) fn literal(&self) -> Option<&str> {
        (!self.0.contains('*')).then_some(&*self.0)
    }

    pub(crate) fn matches(&self, text: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = text.strip_prefix(first) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

impl Selector {
    /// Reads one entry of `to`.
    pub(crate) fn parse(text: &str) -> Result<Self, (String, Option<String>)> {
        const FORMS: &str = "user:EMAIL|SUB, group:NAME, client:ID, issuer:NAME, task:PATTERN, agent:PATTERN, anyone or public";
        match text {
            "anyone" => return Ok(Self::Anyone),
            "public" => return Ok(Self::Public),
            _ => {}
        }
        let Some((kind, name)) = text.split_once(':') else {
            let message = format!("this names nobody: expected {FORMS}");
            return Err((
                message,
                doorward_settings::suggest(text, ["anyone", "public"]).filter(|hint| hint.starts_with("did")),
            ));
        };
        if name.is_empty() || name != name.trim() || name.contains(char::is_control) {
            return Err((format!("{kind}: is followed by a name"), None));
        }
        let literal = |make: fn(Box<str>) -> Self| {
            if name.contains('*') {
                return Err((
                    format!("a wildcard cannot stand in {kind}:"),
                    Some("use group:, issuer: or a condition".to_owned()),
                ));
            }
            Ok(make(name.into()))
        };
        match kind {
            "user" => literal(Self::User),
            "client" => literal(Self::Client),
            "issuer" => literal(Self::Issuer),
            "group" => Ok(Self::Group(Glob(name.into()))),
            "task" => Ok(Self::Task(Glob(name.into()))),
            "agent" => Ok(Self::Agent(Glob(name.into()))),
            _ => {
                let known = ["user", "group", "client", "issuer", "task", "agent"];
                Err((format!("\"{kind}:\" selects nobody"), doorward_settings::suggest(kind, known)))
            }
        }
    }

    /// Whether the principal is meant; for a group, which of the principal's groups.
    pub(crate) fn selects<'p>(&self, principal: &'p Principal, names: Names) -> Option<Option<&'p str>> {
        let subject = || -> &'p str { principal.subject.reveal() };
        let held = match self {
            Self::Public => true,
            _ if !principal.authenticated() => false,
            Self::Anyone => true,
            Self::User(name) => {
                let email = principal.email.as_ref().is_some_and(|email| email.reveal() == name);
                names.apply(principal) && (email || subject() == &**name)
            }
            Self::Group(glob) => {
                return principal.groups.iter().find(|group| glob.matches(group)).map(|group| Some(&**group));
            }
            Self::Client(id) => principal.client_id.as_deref() == Some(id),
            Self::Issuer(name) => principal.issuer.as_str() == &**name,
            Self::Task(glob) => principal.kind == PrincipalKind::Task && glob.matches(subject()),
            Self::Agent(glob) => principal.kind == PrincipalKind::Agent && glob.matches(subject()),
        };
        held.then_some(None)
    }

    /// Whether everybody whom `other` selects is selected by this one. Errs on the side of `false`.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Public, _) => true,
            (Self::Anyone, other) => *other != Self::Public,
            (Self::Group(wide), Self::Group(narrow))
            | (Self::Task(wide), Self::Task(narrow))
            | (Self::Agent(wide), Self::Agent(narrow)) => {
                wide == narrow || narrow.literal().is_some_and(|name| wide.matches(name))
            }
            (one, other) => one == other,
        }
    }
}

/// Whom `user:` names. A task or an agent often carries the subject or the address of the person it works
/// for: it must not inherit that person's grants by it, nor escape that person's deny rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// People and services: for grants.
    Own,
    /// Whoever carries the name: for deny rules.
    Carried,
}

impl Names {
    pub(crate) fn apply(self, principal: &Principal) -> bool {
        self == Self::Carried || matches!(principal.kind, PrincipalKind::User | PrincipalKind::Service)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "user:{name}"),
            Self::Group(glob) => write!(f, "group:{}", glob.0),
            Self::Client(name) => write!(f, "client:{name}"),
            Self::Issuer(name) => write!(f, "issuer:{name}"),
            Self::Task(glob) => write!(f, "task:{}", glob.0),
            Self::Agent(glob) => write!(f, "agent:{}", glob.0),
            Self::Anyone => f.write_str("anyone"),
            Self::Public => f.write_str("public"),
        }
    }
}
