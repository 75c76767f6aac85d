//! One compiled rule, grant or deny alike, and the reasons for which it may not hold.

use std::time::Duration;

use doorward_core::{Action, GrantName, Obligations, Principal, ResourceName, RoleName, Verb};
use doorward_settings::Position;

use crate::condition::Condition;
use crate::limiter::Limit;
use crate::pattern::{Pattern, Unfilled};
use crate::selector::{Names, Selector};
use crate::template::Template;

/// A set of verbs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verbs(u16);

impl Verbs {
    pub(crate) fn insert(&mut self, verb: Verb) {
        self.0 |= 1 << (verb as u16);
    }

    pub(crate) fn contains(self, verb: Verb) -> bool {
        self.0 & (1 << (verb as u16)) != 0
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Verb> {
        Verb::ALL.into_iter().filter(move |verb| self.contains(*verb))
    }
}

/// `read,write shop/public/*`.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) verbs: Verbs,
    pub(crate) resource: ResourceName,
    pub(crate) pattern: Pattern,
}

impl Scope {
    pub(crate) fn text(&self) -> String {
        let verbs: Vec<&str> = self.verbs.iter().map(Verb::as_str).collect();
        format!("{} {}/{}", verbs.join(","), self.resource, self.pattern.source())
    }

    fn concerns(&self, action: &Action) -> bool {
        self.verbs.contains(action.verb) && self.resource == action.resource
    }
}

/// What a rule speaks of: at least one scope. The first, which is often the only one, lies in the rule.
#[derive(Clone, Debug)]
pub(crate) struct Scopes {
    first: Scope,
    others: Box<[Scope]>,
}

impl Scopes {
    /// `None` of an empty list.
    pub(crate) fn new(scopes: Vec<Scope>) -> Option<Self> {
        let mut scopes = scopes.into_iter();
        let first = scopes.next()?;
        Some(Self { first, others: scopes.collect() })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Scope> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

/// The backend role of a grant.
#[derive(Debug)]
pub(crate) enum Role {
    Named(RoleName),
    Filled(Box<Template>),
}

impl Role {
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Named(name) => name.to_string(),
            Self::Filled(template) => template.text(),
        }
    }
}

/// A grant or a deny rule. What a decision looks at stands first and close together; of 10,000 rules
/// the one that decides is seldom in the processor's caches.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Rule {
    /// Whether a template uses `${group}`: then only a group in `to` can select.
    pub(crate) uses_group: bool,
    pub(crate) scopes: Scopes,
    pub(crate) when: Option<Box<Condition>>,
    pub(crate) role: Option<Role>,
    pub(crate) name: GrantName,
    pub(crate) rows_max: Option<u64>,
    pub(crate) bytes_max: Option<u64>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) limit: Option<Limit>,
    pub(crate) to: Vec<Selector>,
    /// What only people read.
    pub(crate) said: Box<Said>,
}

/// A rule as the configuration says it.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) position: Position,
    pub(crate) limit: Option<String>,
}

/// Whether a set of scopes speaks of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    Yes,
    No,
    /// Nothing matched, and a template that could have cannot be filled for this caller.
    Unfilled,
}

impl Rule {
    /// The group that matched `to`, or `Some(None)` when something else did; `None` when nothing does.
    pub(crate) fn selects<'p>(&self, principal: &'p Principal, names: Names) -> Option<Option<&'p str>> {
        let mut hits = self.to.iter().filter_map(|selector| selector.selects(principal, names));
        if self.uses_group { hits.find(Option::is_some) } else { hits.next() }
    }

    /// Whether it says anything about the resource.
    pub(crate) fn speaks_of(&self, resource: &ResourceName) -> bool {
        self.scopes.iter().any(|scope| scope.resource == *resource)
    }

    pub(crate) fn matches(&self, action: &Action, principal: &Principal, group: Option<&str>) -> Match {
        let mut result = Match::No;
        for scope in self.scopes.iter().filter(|scope| scope.concerns(action)) {
            match scope.pattern.matches(action.object.as_str(), principal, group) {
                Ok(true) => return Match::Yes,
                Ok(false) => {}
                Err(Unfilled) if scope.pattern.could_match(action.object.as_str()) => {
                    result = Match::Unfilled
                }
                Err(Unfilled) => {}
            }
        }
        result
    }

    /// What the grant adds to its permission; fails when the role's template cannot be filled.
    pub(crate) fn obligations(
        &self,
        principal: &Principal,
        group: Option<&str>,
    ) -> Result<Obligations, Unfilled> {
        let role = match &self.role {
            Some(Role::Named(name)) => Some(name.clone()),
            Some(Role::Filled(template)) => {
                Some(RoleName::new(template.fill(principal, group).ok_or(Unfilled)?))
            }
            None => None,
        };
        Ok(Obligations { role, rows_max: self.rows_max, bytes_max: self.bytes_max, timeout: self.timeout })
    }
}
