//! The `grants:` and `deny:` sections → a [`Compiled`] policy, or all that is wrong with them.

use std::sync::Arc;

use cel::Env;
use doorward_core::{GrantName, ResourceName, RoleName, Verb};
use doorward_settings::{Entry, Node, Problem, Problems, Spanned, suggest};

use crate::condition;
use crate::config::{DenyConfig, GrantConfig, LimitConfig};
use crate::index::{Index, Selectors};
use crate::limiter::{Limit, Limiter};
use crate::lint::{self, Lint};
use crate::pattern::Pattern;
use crate::rule::{Role, Rule, Said, Scope, Scopes, Verbs};
use crate::selector::Selector;
use crate::template::Template;
use crate::typecheck::CheckError;
use doorward_core::hash::FixedMap;

/// The most grants, and the most deny rules, that one configuration may have.
const RULES_MAX: usize = 100_000;

/// The longest name of a rule and of a role, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// What a policy is compiled from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sources<'a> {
    /// The `grants:` section.
    pub grants: Option<&'a Node>,
    /// The `deny:` section.
    pub deny: Option<&'a Node>,
    /// The names of the configured resources.
    pub resources: &'a [ResourceName],
}

/// A compiled policy; implements [`doorward_core::Policy`].
pub struct Compiled {
    pub(crate) grants: Vec<Rule>,
    pub(crate) denies: Vec<Rule>,
    pub(crate) selectors: Selectors,
    pub(crate) grant_index: Index,
    pub(crate) deny_index: Index,
    pub(crate) by_name: FixedMap<GrantName, usize>,
    pub(crate) cel: Arc<Env>,
    pub(crate) limiter: Arc<Limiter>,
    lints: Vec<Lint>,
}

impl Compiled {
    /// What `doorward check` warns of.
    pub fn lints(&self) -> &[Lint] {
        &self.lints
    }

    /// How many grants and deny rules there are.
    pub fn size(&self) -> (usize, usize) {
        (self.grants.len(), self.denies.len())
    }

    /// The backend roles that grants name literally, each with a resource that it is used on; pairs may
    /// come more than once.
    pub fn roles(&self) -> impl Iterator<Item = (&RoleName, &ResourceName)> {
        let named = self.grants.iter().filter_map(|rule| match &rule.role {
            Some(Role::Named(role)) => Some((role, &rule.scopes)),
            Some(Role::Filled(_)) | None => None,
        });
        named.flat_map(|(role, scopes)| scopes.iter().map(move |scope| (role, &scope.resource)))
    }
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (grants, denies) = self.size();
        f.debug_struct("Compiled").field("grants", &grants).field("denies", &denies).finish_non_exhaustive()
    }
}

/// Compiles the policy. Every problem of every rule is found before it fails. Starts a thread with a large
/// stack for the conditions and waits for it: at load only.
pub fn compile(sources: Sources<'_>, limiter: Arc<Limiter>) -> Result<Compiled, Problems> {
    let mut problems = Problems::new();
    let mut drafts =
        Drafts { resources: sources.resources, problems: &mut problems, roles: FixedMap::default() };
    let grants = drafts.section(sources.grants, Drafts::grant);
    let denies = drafts.section(sources.deny, Drafts::deny);
    let mut rules = conditions(vec![grants, denies], &mut problems).into_iter();
    let (grants, denies) = (rules.next().unwrap_or_default(), rules.next().unwrap_or_default());
    problems.or(())?;

    let mut selectors = Selectors::default();
    let grant_index = Index::new(&grants, &mut selectors);
    let deny_index = Index::new(&denies, &mut selectors);
    let by_name = grants.iter().enumerate().map(|(place, rule)| (rule.name.clone(), place)).collect();
    let lints = lint::all(&grants, &denies);
    let cel = Arc::new(Env::stdlib());
    Ok(Compiled { grants, denies, selectors, grant_index, deny_index, by_name, cel, limiter, lints })
}

/// A rule whose condition is still text.
struct Draft {
    rule: Rule,
    when: Option<Spanned<String>>,
}

/// Compiles the conditions of all sections together and puts them into their rules.
fn conditions(sections: Vec<Vec<Draft>>, problems: &mut Problems) -> Vec<Vec<Rule>> {
    let sources: Vec<&str> = sections
        .iter()
        .flatten()
        .filter_map(|draft| draft.when.as_ref())
        .map(|when| when.get().as_str())
        .collect();
    let mut compiled = condition::compile_all(&sources).into_iter();
    let mut finish = |draft: Draft| {
        let mut rule = draft.rule;
        if let Some(when) = draft.when {
            let result =
                compiled.next().unwrap_or_else(|| Err(CheckError::whole("the condition was not compiled")));
            rule.when = problems.take(result.map(Box::new).map_err(|error| condition_problem(&when, error)));
        }
        rule
    };
    sections.into_iter().map(|section| section.into_iter().map(&mut finish).collect()).collect()
}

fn condition_problem(when: &Spanned<String>, error: CheckError) -> Problem {
    let message = match error.offset {
        Some(offset) => {
            let (line, column) = line_and_column(when.get(), offset);
            let place =
                if line > 1 { format!("line {line}, column {column}") } else { format!("column {column}") };
            format!("{} (at {place} of the condition)", error.message)
        }
        None => error.message,
    };
    let problem = when.problem(message);
    match error.hint {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before: Vec<char> = text.chars().take(offset).collect();
    let line = before.iter().filter(|c| **c == '\n').count() + 1;
    let column = before.iter().rev().take_while(|c| **c != '\n').count() + 1;
    (line, column)
}

struct Drafts<'a> {
    resources: &'a [ResourceName],
    problems: &'a mut Problems,
    /// Each role's name once: grants of many callers share the few that there are.
    roles: FixedMap<RoleName, ()>,
}

impl Drafts<'_> {
    fn section(&mut self, node: Option<&Node>, draft: fn(&mut Self, &Entry) -> Option<Draft>) -> Vec<Draft> {
        let Some(node) = node.filter(|node| !node.is_null()) else { return Vec::new() };
        if !node.is_mapping() {
            self.problems.push(node.problem("expected a mapping of names to rules"));
            return Vec::new();
        }
        if node.entries().len() > RULES_MAX {
            self.problems.push(node.problem(format!("more than {RULES_MAX} rules stand here")));
            return Vec::new();
        }
        node.entries().iter().filter_map(|entry| draft(self, entry)).collect()
    }

    fn grant(&mut self, entry: &Entry) -> Option<Draft> {
        let config = self.read::<GrantConfig>(entry)?;
        let mut rule = self.rule(entry, &config.to, &config.allow, "allow")?;
        rule.role = config.role.as_ref().and_then(|role| {
            let result = read_role(role);
            self.problems.take(result).map(|role| self.shared(role))
        });
        rule.limit = config.limit.as_ref().map(|limit: &Spanned<LimitConfig>| Limit::new(limit.get()));
        rule.said.limit = config.limit.as_ref().map(|limit| limit.get().to_string());
        rule.rows_max = config.max_rows;
        rule.bytes_max = config.max_bytes.map(|size| size.get());
        rule.timeout = config.timeout.map(|span| span.get());
        rule.uses_group |= matches!(&rule.role, Some(Role::Filled(template)) if template.uses_group());
        self.check_group(entry, &rule);
        Some(Draft { rule, when: config.when })
    }

    fn deny(&mut self, entry: &Entry) -> Option<Draft> {
        let config = self.read::<DenyConfig>(entry)?;
        let rule = self.rule(entry, &config.to, &config.what, "what")?;
        self.check_group(entry, &rule);
        Some(Draft { rule, when: config.when })
    }

    fn read<T: serde::de::DeserializeOwned>(&mut self, entry: &Entry) -> Option<T> {
        if entry.key.is_empty() || entry.key.len() > NAME_BYTES_MAX || entry.key.contains(char::is_control) {
            let message = format!("a rule's name has 1 to {NAME_BYTES_MAX} bytes and no control characters");
            self.problems.push(entry.problem(message));
        }
        self.problems.take(entry.value.deserialize())
    }

    fn rule(
        &mut self,
        entry: &Entry,
        to: &[Spanned<String>],
        what: &[Spanned<String>],
        what_key: &str,
    ) -> Option<Rule> {
        let before = self.problems.as_slice().len();
        let selectors: Vec<Selector> = to
            .iter()
            .filter_map(|text| {
                let result = read_selector(text);
                self.problems.take(result)
            })
            .collect();
        let scopes: Vec<Scope> = what
            .iter()
            .filter_map(|text| {
                let result = read_scope(text, self.resources);
                self.problems.take(result)
            })
            .collect();
        for (key, empty) in [("to", to.is_empty()), (what_key, what.is_empty())] {
            if empty {
                self.problems.push(entry.problem(format!("\"{key}\" is empty, so the rule never holds")));
            }
        }
        if self.problems.as_slice().len() > before {
            return None;
        }
        let scopes = Scopes::new(scopes)?;
        let uses_group = scopes.iter().any(|scope| scope.pattern.uses_group());
        Some(Rule {
            uses_group,
            scopes,
            when: None,
            role: None,
            name: GrantName::new(&*entry.key),
            rows_max: None,
            bytes_max: None,
            timeout: None,
            limit: None,
            to: selectors,
            said: Box::new(Said { position: entry.key_position.clone(), limit: None }),
        })
    }

    fn shared(&mut self, role: Role) -> Role {
        let Role::Named(name) = role else { return role };
        Role::Named(self.roles.entry(name).insert_entry(()).key().clone())
    }

    fn check_group(&mut self, entry: &Entry, rule: &Rule) {
        if rule.uses_group && !rule.to.iter().any(|selector| matches!(selector, Selector::Group(_))) {
            self.problems
                .push(entry.problem("\"${group}\" is the group that matched, and \"to\" names no group"));
        }
    }
}

fn read_selector(text: &Spanned<String>) -> Result<Selector, Problem> {
    Selector::parse(text).map_err(|(message, hint)| {
        let problem = text.problem(message);
        match hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    })
}

fn read_role(text: &Spanned<String>) -> Result<Role, Problem> {
    if text.is_empty() || text.len() > NAME_BYTES_MAX || text.contains(char::is_control) {
        return Err(text.problem(format!("a role has 1 to {NAME_BYTES_MAX} bytes and no control characters")));
    }
    let template = Template::parse(text).map_err(|message| text.problem(message))?;
    Ok(match template.literal() {
        Some(name) => Role::Named(RoleName::new(name)),
        None => Role::Filled(Box::new(template)),
    })
}

fn read_scope(text: &Spanned<String>, resources: &[ResourceName]) -> Result<Scope, Problem> {
    const FORM: &str = "write VERB[,VERB…] RESOURCE/OBJECT, for example \"read shop/public/*\"";
    let mut words = text.split_ascii_whitespace();
    let (Some(verbs), Some(path), None) = (words.next(), words.next(), words.next()) else {
        return Err(text.problem("this is not one action rule").hint(FORM));
    };
    let verbs = read_verbs(text, verbs)?;
    let Some((resource, object)) = path.split_once('/') else {
        let hint = format!("to mean all of it, write \"{path}/**\"");
        return Err(text.problem("the object is missing after the resource").hint(hint));
    };
    let Some(resource) = resources.iter().find(|known| known.as_str() == resource) else {
        let problem = text.problem(format!("there is no resource \"{resource}\""));
        return Err(match suggest(resource, resources.iter().map(ResourceName::as_str)) {
            Some(hint) => problem.hint(hint),
            None => problem,
        });
    };
    let pattern = Pattern::parse(object).map_err(|message| text.problem(message))?;
    Ok(Scope { verbs, resource: resource.clone(), pattern })
}

fn read_verbs(text: &Spanned<String>, words: &str) -> Result<Verbs, Problem> {
    let mut verbs = Verbs::default();
    for word in words.split(',') {
        match Verb::parse(word) {
            Some(verb) => verbs.insert(verb),
            None => {
                let known = Verb::ALL.map(Verb::as_str);
                let problem = text.problem(format!("\"{word}\" is no verb"));
                return Err(match word {
                    "*" | "all" => problem.hint(format!("name the verbs: {}", known.join(","))),
                    "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" => text
                        .problem(format!(
                            "rules by HTTP method (\"{word}\") are not available in this version yet"
                        ))
                        .hint("use read, write or delete"),
                    _ => match suggest(word, known) {
                        Some(hint) => problem.hint(hint),
                        None => problem,
                    },
                });
            }
        }
    }
    Ok(verbs)
}
