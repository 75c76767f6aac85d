//! Why a case is decided as it is, and who may do something.

use doorward_core::{Action, Case, GrantName, Object, Obligations, ResourceName, Verb};
use doorward_settings::Position;

use crate::compile::Compiled;
use crate::decide::Miss;
use crate::rule::{Role, Rule, Scope};

/// Whether a rule grants or denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleKind {
    /// A grant.
    Grant,
    /// A deny rule.
    Deny,
}

/// Why one rule did or did not decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is for others.
    OtherPrincipals,
    /// It does not speak of this action.
    OtherActions(Action),
    /// A template in it cannot be filled for this caller.
    Unfilled,
    /// It is for another role than the session's.
    OtherRole,
    /// Its condition is false.
    ConditionFalse(String),
    /// Its condition cannot be evaluated: the condition, and why not.
    ConditionFailed(String, String),
    /// It decides.
    Decides,
    /// It would have decided, had no rule before it.
    Holds,
}

/// One rule, as it was considered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered {
    /// Grant or deny rule.
    pub kind: RuleKind,
    /// Its name.
    pub name: GrantName,
    /// Where it stands.
    pub position: Position,
    /// Why it did or did not decide.
    pub reason: Reason,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A grant allows it.
    Allowed {
        /// Which.
        grant: GrantName,
        /// What it asks for.
        obligations: Obligations,
        /// The grant's limit, as the configuration says it.
        limit: Option<String>,
    },
    /// A deny rule forbids it.
    Forbidden {
        /// Which.
        rule: GrantName,
    },
    /// No grant allows it.
    NoGrant,
}

/// A decision with all that was considered, deny rules first, each kind in file order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What was decided.
    pub verdict: Verdict,
    /// Every rule, and why it did or did not decide.
    pub considered: Vec<Considered>,
}

/// A rule by which somebody may (or may not) do something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The rule.
    pub name: GrantName,
    /// Where it stands.
    pub position: Position,
    /// Who, as the rule spells it.
    pub to: Vec<String>,
    /// Which of its actions match, as the rule spells them; with a template they match for some callers.
    pub actions: Vec<String>,
    /// Under which condition.
    pub when: Option<String>,
    /// The backend role.
    pub role: Option<String>,
}

/// Who may do something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhoCan {
    /// The grants that allow it, in file order.
    pub grants: Vec<Holder>,
    /// The deny rules that take it away again.
    pub denies: Vec<Holder>,
}

impl Compiled {
    /// Decides the case and says why. Looks at every rule: for people, not for the road. Counts nothing.
    pub fn explain(&self, case: &Case<'_>) -> Explanation {
        let mut considered = Vec::with_capacity(self.grants.len() + self.denies.len());
        let mut verdict: Option<Verdict> = None;
        for rule in &self.denies {
            let reason = self.deny_reason(rule, case);
            let reason = match (reason, &verdict) {
                (Reason::Holds, None) => {
                    verdict = Some(Verdict::Forbidden { rule: rule.name.clone() });
                    Reason::Decides
                }
                (reason, _) => reason,
            };
            considered.push(Considered::new(RuleKind::Deny, rule, reason));
        }
        for rule in &self.grants {
            let reason = match self.judge(rule, case) {
                Ok(obligations) if verdict.is_none() => {
                    let limit = rule.said.limit.clone();
                    verdict = Some(Verdict::Allowed { grant: rule.name.clone(), obligations, limit });
                    Reason::Decides
                }
                Ok(_) => Reason::Holds,
                Err(miss) => Reason::from_miss(miss, rule),
            };
            considered.push(Considered::new(RuleKind::Grant, rule, reason));
        }
        Explanation { verdict: verdict.unwrap_or(Verdict::NoGrant), considered }
    }

    /// The effective policy: every rule with all of its actions.
    pub fn rules(&self) -> WhoCan {
        let holders = |rules: &[Rule]| rules.iter().filter_map(|rule| Holder::new(rule, |_| true)).collect();
        WhoCan { grants: holders(&self.grants), denies: holders(&self.denies) }
    }

    /// Lists the rules by which somebody may do this, whoever it is.
    pub fn who_can(&self, verb: Verb, resource: &ResourceName, object: &Object) -> WhoCan {
        let holders = |rules: &[Rule]| {
            let holder = |rule: &Rule| {
                Holder::new(rule, |scope| {
                    scope.verbs.contains(verb)
                        && scope.resource == *resource
                        && scope.pattern.could_match(object.as_str())
                })
            };
            rules.iter().filter_map(holder).collect()
        };
        WhoCan { grants: holders(&self.grants), denies: holders(&self.denies) }
    }

    fn deny_reason(&self, rule: &Rule, case: &Case<'_>) -> Reason {
        let mut reason = Reason::OtherPrincipals;
        for action in case.actions.as_slice() {
            match self.forbids(rule, case, action) {
                None => return Reason::Holds,
                // A condition that is false says more than an action that the rule does not speak of.
                Some(Miss::Action(_)) if matches!(reason, Reason::ConditionFalse(_)) => {}
                Some(miss) => reason = Reason::from_miss(miss, rule),
            }
        }
        reason
    }
}

impl Reason {
    fn from_miss(miss: Miss, rule: &Rule) -> Self {
        let when = || rule.when.as_ref().map(|when| when.source().to_owned()).unwrap_or_default();
        match miss {
            Miss::To => Self::OtherPrincipals,
            Miss::Action(action) => Self::OtherActions(action),
            Miss::Template => Self::Unfilled,
            Miss::Role => Self::OtherRole,
            Miss::Condition => Self::ConditionFalse(when()),
            Miss::ConditionFailed(why) => Self::ConditionFailed(when(), why),
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OtherPrincipals => f.write_str("it is for others"),
            Self::OtherActions(action) => write!(f, "it does not speak of: {action}"),
            Self::Unfilled => f.write_str("a template in it cannot be filled for this caller"),
            Self::OtherRole => f.write_str("it is for another role than the session's"),
            Self::ConditionFalse(when) => write!(f, "its condition does not hold: {when}"),
            Self::ConditionFailed(when, why) => {
                write!(f, "its condition cannot be evaluated ({why}): {when}")
            }
            Self::Decides => f.write_str("it decides"),
            Self::Holds => f.write_str("it holds too, but a rule before it decides"),
        }
    }
}

impl Considered {
    fn new(kind: RuleKind, rule: &Rule, reason: Reason) -> Self {
        Self { kind, name: rule.name.clone(), position: rule.said.position.clone(), reason }
    }
}

impl Holder {
    fn new(rule: &Rule, speaks: impl Fn(&Scope) -> bool) -> Option<Self> {
        let actions: Vec<String> =
            rule.scopes.iter().filter(|scope| speaks(scope)).map(Scope::text).collect();
        (!actions.is_empty()).then(|| Self {
            name: rule.name.clone(),
            position: rule.said.position.clone(),
            to: rule.to.iter().map(ToString::to_string).collect(),
            actions,
            when: rule.when.as_ref().map(|when| when.source().to_owned()),
            role: rule.role.as_ref().map(Role::text),
        })
    }
}
