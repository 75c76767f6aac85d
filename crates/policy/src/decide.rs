//! The decision, and the texts of its refusals.

use doorward_core::{
    Action, Allowance, Case, Decision, Fault, Obligations, Permit, Policy, RoleName, SessionGrant, Timestamp,
};

use crate::codes;
use crate::compile::Compiled;
use crate::rule::{Match, Rule, Scope};
use crate::selector::Names;

/// How many near misses a refusal tells the operator of, and how many actions it spells out.
const NEAR_MISSES_MAX: usize = 4;
const ACTIONS_SPELLED_MAX: usize = 3;

/// Why a grant does not decide a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Miss {
    /// It is for others.
    To,
    /// It does not allow this action.
    Action(Action),
    /// A template cannot be filled for this caller.
    Template,
    /// It is for another role than the session's.
    Role,
    /// Its condition is false.
    Condition,
    /// Its condition cannot be evaluated.
    ConditionFailed(String),
}

impl Policy for Compiled {
    fn decide(&self, case: &Case<'_>) -> Decision {
        if let Some((rule, action)) = self.forbidding(case) {
            return Decision::Deny(forbidden(rule, action));
        }
        let numbers = self.selectors.of(case.principal, Names::Own);
        let mut misses = Vec::new();
        for place in self.candidates(case, &numbers) {
            let Some(rule) = usize::try_from(place).ok().and_then(|place| self.grants.get(place)) else {
                continue;
            };
            match self.judge_selected(rule, case) {
                Ok(obligations) => return Decision::Allow { grant: rule.name.clone(), obligations },
                Err(miss) if misses.len() < NEAR_MISSES_MAX => misses.push((rule, miss)),
                Err(_) => {}
            }
        }
        Decision::Deny(no_grant(case, &misses))
    }

    fn session_roles(&self, case: &Case<'_>) -> Vec<RoleName> {
        let mut roles = Vec::new();
        if self.forbidding(case).is_some() {
            return roles;
        }
        let numbers = self.selectors.of(case.principal, Names::Own);
        for place in self.candidates(case, &numbers) {
            let rule = usize::try_from(place).ok().and_then(|place| self.grants.get(place));
            let role = rule.and_then(|rule| self.judge_selected(rule, case).ok()?.role);
            roles.extend(role.filter(|role| !roles.contains(role)));
        }
        roles
    }

    fn session_grants(&self, case: &Case<'_>) -> Vec<SessionGrant> {
        if self.forbidding(case).is_some() {
            return Vec::new();
        }
        let Some(resource) = case.actions.resource() else { return Vec::new() };
        let numbers = self.selectors.of(case.principal, Names::Own);
        let told = |place: u32| {
            let rule = self.grants.get(usize::try_from(place).ok()?)?;
            let obligations = self.judge_selected(rule, case).ok()?;
            let scopes = rule.scopes.iter().filter(|scope| scope.resource == *resource);
            let left = |limit| self.limiter.left(&rule.name, limit, (case.principal, case.actions), case.now);
            Some(SessionGrant {
                name: rule.name.clone(),
                allow: scopes.map(Scope::text).collect(),
                limit: rule.said.limit.clone(),
                remaining: rule.limit.map(left),
                obligations,
            })
        };
        self.candidates(case, &numbers).into_iter().filter_map(told).collect()
    }

    fn admit(&self, permit: &Permit, now: Timestamp) -> Result<Option<Allowance>, Fault> {
        let rule = self.by_name.get(permit.grant()).and_then(|place| self.grants.get(*place));
        match rule.and_then(|rule| rule.limit) {
            Some(limit) => self
                .limiter
                .admit(permit.grant(), limit, (permit.principal(), permit.actions()), now)
                .map(Some),
            None => Ok(None),
        }
    }
}

impl Compiled {
    /// The grants that may allow all actions of the case: such a grant allows each, so it is among any one's
    /// candidates. What comes with any grant on the resource tells least.
    fn candidates(&self, case: &Case<'_>, numbers: &[u32]) -> Vec<u32> {
        let actions = case.actions.as_slice();
        let telling = actions.iter().find(|action| !action.comes_with_a_session());
        match (telling, actions.first()) {
            (Some(action), _) => self.grant_index.candidates(action, numbers),
            (None, Some(action)) => self.grant_index.of_resource(&action.resource, numbers),
            (None, None) => Vec::new(),
        }
    }

    /// The first deny rule, in file order, that holds for any of the actions.
    fn forbidding<'a, 'c>(&'a self, case: &Case<'c>) -> Option<(&'a Rule, &'c Action)> {
        if self.deny_index.is_empty() {
            return None;
        }
        let numbers = self.selectors.of(case.principal, Names::Carried);
        let hits = case.actions.as_slice().iter().filter_map(|action| {
            let places = self.deny_index.candidates(action, &numbers);
            places.into_iter().find_map(|place| {
                let rule = usize::try_from(place).ok().and_then(|place| self.denies.get(place))?;
                self.forbids_selected(rule, case, action).is_none().then_some((place, rule, action))
            })
        });
        hits.min_by_key(|(place, ..)| *place).map(|(_, rule, action)| (rule, action))
    }

    /// `None` when the deny rule holds for the action. What cannot be evaluated holds.
    pub(crate) fn forbids(&self, rule: &Rule, case: &Case<'_>, action: &Action) -> Option<Miss> {
        match rule.selects(case.principal, Names::Carried) {
            Some(_) => self.forbids_selected(rule, case, action),
            None => Some(Miss::To),
        }
    }

    /// Whether a grant decides the case, and with which obligations. What cannot be evaluated does not.
    pub(crate) fn judge(&self, rule: &Rule, case: &Case<'_>) -> Result<Obligations, Miss> {
        match rule.selects(case.principal, Names::Own) {
            Some(_) => self.judge_selected(rule, case),
            None => Err(Miss::To),
        }
    }

    /// As [`Self::forbids`], for a rule whose `to` holds.
    fn forbids_selected(&self, rule: &Rule, case: &Case<'_>, action: &Action) -> Option<Miss> {
        let Some(group) = group_of(rule, case, Names::Carried) else { return Some(Miss::To) };
        match rule.matches(action, case.principal, group) {
            Match::No => return Some(Miss::Action(action.clone())),
            Match::Yes | Match::Unfilled => {}
        }
        match rule.when.as_ref().map(|when| when.holds(&self.cel, case, action)) {
            Some(Ok(false)) => Some(Miss::Condition),
            Some(Ok(true) | Err(_)) | None => None,
        }
    }

    /// As [`Self::judge`], for a grant whose `to` holds.
    fn judge_selected(&self, rule: &Rule, case: &Case<'_>) -> Result<Obligations, Miss> {
        let group = group_of(rule, case, Names::Own).ok_or(Miss::To)?;
        for action in case.actions.as_slice() {
            let implied = || action.comes_with_a_session() && rule.speaks_of(&action.resource);
            match rule.matches(action, case.principal, group) {
                Match::Yes => {}
                _ if implied() => {}
                Match::No => return Err(Miss::Action(action.clone())),
                Match::Unfilled => return Err(Miss::Template),
            }
        }
        match rule.when.as_ref().map(|when| when.holds_for_all(&self.cel, case)) {
            None | Some(Ok(true)) => {}
            Some(Ok(false)) => return Err(Miss::Condition),
            Some(Err(why)) => return Err(Miss::ConditionFailed(why)),
        }
        let obligations = rule.obligations(case.principal, group).map_err(|_| Miss::Template)?;
        // A session is logged in as one role: what another role's grant allows is not to be had in it.
        match case.role {
            Some(role) if obligations.role.as_ref() != Some(role) => Err(Miss::Role),
            _ => Ok(obligations),
        }
    }
}

/// The group that selected the caller, for the templates that use it. The index has found the rule by its
/// `to` already, so a long `to` is walked only when a template asks.
fn group_of<'p>(rule: &Rule, case: &Case<'p>, names: Names) -> Option<Option<&'p str>> {
    if rule.uses_group { rule.selects(case.principal, names) } else { Some(None) }
}

fn forbidden(rule: &Rule, action: &Action) -> Fault {
    Fault::new(codes::DENIED_BY_RULE, format!("the rule \"{}\" forbids: {action}", rule.name))
        .hint("A deny rule beats every grant; ask the gateway's operator whether this rule should hold for you.")
        .rule(rule.name.clone())
}

fn no_grant(case: &Case<'_>, misses: &[(&Rule, Miss)]) -> Fault {
    let wanted = spelled(case.actions.as_slice());
    let fault = if case.principal.authenticated() {
        let many = case.actions.as_slice().len() > 1;
        let public = if many {
            format!("no single grant allows all that this call needs: {wanted}")
        } else {
            format!("no grant allows: {wanted}")
        };
        Fault::new(codes::NO_GRANT, public).hint(format!(
            "Ask the gateway's operator for a grant such as: allow: {}",
            asked_for(case.actions.as_slice())
        ))
    } else {
        Fault::new(codes::REQUIRED, format!("only who is known here may: {wanted}"))
            .hint("Show who you are, for example with an Authorization: Bearer header.")
    };
    if misses.is_empty() {
        return fault;
    }
    let near: Vec<String> = misses.iter().map(|(rule, miss)| miss.text(rule)).collect();
    fault.cause(near.join("; "))
}

impl Miss {
    /// What the operator reads.
    pub(crate) fn text(&self, rule: &Rule) -> String {
        let name = &rule.name;
        let when = || rule.when.as_ref().map_or("", |when| when.source());
        match self {
            Self::To => format!("\"{name}\" is for others"),
            Self::Action(action) => format!("\"{name}\" does not speak of: {action}"),
            Self::Template => format!("\"{name}\" has a template that this caller's claims cannot fill"),
            Self::Role => format!("\"{name}\" would allow it, but to a session of another role"),
            Self::Condition => {
                format!("\"{name}\" would allow it, but its condition does not hold: {}", when())
            }
            Self::ConditionFailed(why) => {
                format!(
                    "\"{name}\" would allow it, but its condition cannot be evaluated ({why}): {}",
                    when()
                )
            }
        }
    }
}

fn spelled(actions: &[Action]) -> String {
    let mut parts: Vec<String> = actions.iter().take(ACTIONS_SPELLED_MAX).map(ToString::to_string).collect();
    if actions.len() > ACTIONS_SPELLED_MAX {
        parts.push(format!("and {} more", actions.len() - ACTIONS_SPELLED_MAX));
    }
    parts.join(", ")
}

fn asked_for(actions: &[Action]) -> String {
    match actions {
        [action] => action.to_string(),
        _ => {
            let parts: Vec<String> =
                actions.iter().take(ACTIONS_SPELLED_MAX).map(|action| format!("\"{action}\"")).collect();
            let more = if actions.len() > ACTIONS_SPELLED_MAX { ", …" } else { "" };
            format!("[{}{more}]", parts.join(", "))
        }
    }
}
