//! What `doorward check` warns of: rules that are allowed and probably not meant.

use std::collections::HashMap;
use std::fmt;

use doorward_core::GrantName;
use doorward_settings::{Position, suggest};

use crate::compile::Compiled;
use crate::rule::{Role, Rule};
use crate::selector::Selector;

/// The most pairs of grants that are compared; a larger policy is checked as far as that goes.
const COMPARISONS_MAX: usize = 2_000_000;

/// One warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lint {
    /// The rule that it is about.
    pub rule: GrantName,
    /// Where the rule stands.
    pub position: Position,
    /// What is odd about it.
    pub message: String,
}

impl fmt::Display for Lint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.position, self.rule, self.message)
    }
}

impl Compiled {
    /// What `doorward check` warns of once it knows the configured issuers: `issuer:` selectors that name
    /// none of them.
    pub fn issuer_lints(&self, known: &[&str]) -> Vec<Lint> {
        let rules = self.grants.iter().chain(&self.denies);
        let unknown = rules.flat_map(|rule| rule.to.iter().map(move |selector| (rule, selector))).filter_map(
            |(rule, selector)| match selector {
                Selector::Issuer(name) if !known.contains(&&**name) => Some((rule, name)),
                _ => None,
            },
        );
        unknown
            .map(|(rule, name)| {
                let hint =
                    suggest(name, known.iter().copied()).map(|hint| format!("; {hint}")).unwrap_or_default();
                lint(rule, format!("names an issuer that is not configured: \"{name}\"{hint}"))
            })
            .collect()
    }
}

/// All warnings, in file order of the grants, then of the deny rules.
pub(crate) fn all(grants: &[Rule], denies: &[Rule]) -> Vec<Lint> {
    let mut shadows = Shadows::default();
    let mut lints = Vec::new();
    for rule in grants {
        lints.extend(shadows.of(rule).map(|earlier| {
            lint(
                rule,
                format!(
                    "can never decide: \"{}\" before it allows the same to the same callers",
                    earlier.name
                ),
            )
        }));
        lints.extend(breadth(rule));
        shadows.add(rule);
    }
    let everything = |rule: &&Rule| rule.to.contains(&Selector::Public) && rule.when.is_none();
    lints.extend(
        denies
            .iter()
            .filter(everything)
            .map(|rule| lint(rule, "holds for everybody, whatever is granted".to_owned())),
    );
    lints
}

fn breadth(rule: &Rule) -> Vec<Lint> {
    let public = rule.to.contains(&Selector::Public);
    let wide = public || rule.to.contains(&Selector::Anyone);
    let mut lints = Vec::new();
    if public {
        lints.push(lint(rule, "is open to callers who show no credentials".to_owned()));
    }
    let changing = rule.scopes.iter().find(|scope| {
        wide && scope.pattern.is_everything() && scope.verbs.iter().any(doorward_core::Verb::changes)
    });
    if let Some(scope) = changing {
        let who = if public { "everybody" } else { "anyone who is authenticated" };
        lints.push(lint(rule, format!("lets {who} change all of \"{}\": {}", scope.resource, scope.text())));
    }
    lints
}

fn lint(rule: &Rule, message: String) -> Lint {
    Lint { rule: rule.name.clone(), position: rule.said.position.clone(), message }
}

/// The earlier grants that can hide later ones: without a condition, and sure to hold once they match.
#[derive(Default)]
struct Shadows<'a> {
    by_selector: HashMap<&'a Selector, Vec<&'a Rule>>,
    /// Those whose `to` can cover a selector that is spelled differently.
    wide: Vec<&'a Rule>,
    compared: usize,
}

impl<'a> Shadows<'a> {
    fn add(&mut self, rule: &'a Rule) {
        if rule.when.is_some() || rule.uses_group || matches!(rule.role, Some(Role::Filled(_))) {
            return;
        }
        let spread = |selector: &Selector| match selector {
            Selector::Public | Selector::Anyone => true,
            Selector::Group(glob) | Selector::Task(glob) | Selector::Agent(glob) => glob.literal().is_none(),
            Selector::User(_) | Selector::Client(_) | Selector::Issuer(_) => false,
        };
        if rule.to.iter().any(spread) {
            self.wide.push(rule);
            return;
        }
        for selector in &rule.to {
            self.by_selector.entry(selector).or_default().push(rule);
        }
    }

    fn of(&mut self, rule: &Rule) -> Option<&'a Rule> {
        // Whoever covers all of `to` covers its first entry, so it is listed under that one or is wide.
        let same = rule.to.first().and_then(|selector| self.by_selector.get(selector));
        let candidates = self.wide.iter().chain(same.into_iter().flatten());
        let left = COMPARISONS_MAX.saturating_sub(self.compared);
        let mut compared = 0;
        let found = candidates.take(left).copied().find(|earlier| {
            compared += 1;
            hides(earlier, rule)
        });
        self.compared += compared;
        found
    }
}

fn hides(earlier: &Rule, rule: &Rule) -> bool {
    let same_callers = rule.to.iter().all(|selector| earlier.to.iter().any(|wide| wide.covers(selector)));
    same_callers
        && rule.scopes.iter().all(|scope| {
            scope.verbs.iter().all(|verb| {
                earlier.scopes.iter().any(|wide| {
                    wide.verbs.contains(verb)
                        && wide.resource == scope.resource
                        && wide.pattern.covers(&scope.pattern)
                })
            })
        })
}
