//! From a caller and an action to the few rules that can concern them, whatever the number of rules.
//!
//! Two steps, each a hash lookup: the caller's names → selector numbers (once a decision), and (resource,
//! verb, selector) → rules. Rules for one literal object are found by that object. What comes out is a
//! superset of the rules that hold; it is in file order, and never in the order of a hash map.

use std::hash::{BuildHasher, BuildHasherDefault};

use doorward_core::{Action, Principal, PrincipalKind, ResourceName, Verb};

use crate::rule::{Rule, Scopes, Verbs};
use crate::selector::{Glob, Names, Selector};
use crate::text::Text;
use doorward_core::hash::{FixedMap, QuickHasher};

const PUBLIC: u32 = 0;
const ANYONE: u32 = 1;
const FIRST_FREE: u32 = 2;

/// Room for this many candidates is made at once.
const CANDIDATES_EXPECTED: usize = 16;

/// The numbers of selectors.
#[derive(Debug, Default)]
pub(crate) struct Selectors {
    users: FixedMap<Text, u32>,
    groups: FixedMap<Text, u32>,
    clients: FixedMap<Text, u32>,
    issuers: FixedMap<Text, u32>,
    tasks: Globs,
    agents: Globs,
    group_globs: Vec<(Glob, u32)>,
    /// Whether any rule is for everybody, or for whoever is authenticated.
    public: bool,
    anyone: bool,
    used: u32,
}

#[derive(Debug, Default)]
struct Globs {
    literal: FixedMap<Text, u32>,
    wild: Vec<(Glob, u32)>,
}

impl Selectors {
    /// The number of a selector; a new one if it has none.
    fn number(&mut self, selector: &Selector) -> u32 {
        let fresh = FIRST_FREE + self.used;
        self.public |= *selector == Selector::Public;
        self.anyone |= *selector == Selector::Anyone;
        let number = match selector {
            Selector::Public => PUBLIC,
            Selector::Anyone => ANYONE,
            Selector::User(name) => *self.users.entry((&**name).into()).or_insert(fresh),
            Selector::Client(name) => *self.clients.entry((&**name).into()).or_insert(fresh),
            Selector::Issuer(name) => *self.issuers.entry((&**name).into()).or_insert(fresh),
            Selector::Group(glob) => number_of(&mut self.groups, &mut self.group_globs, glob, fresh),
            Selector::Task(glob) => number_of(&mut self.tasks.literal, &mut self.tasks.wild, glob, fresh),
            Selector::Agent(glob) => number_of(&mut self.agents.literal, &mut self.agents.wild, glob, fresh),
        };
        if number == fresh {
            self.used += 1;
        }
        number
    }

    /// The numbers of all selectors that select the principal.
    pub(crate) fn of(&self, principal: &Principal, names: Names) -> Vec<u32> {
        let mut numbers = Vec::with_capacity(6 + principal.groups.len());
        if self.public {
            numbers.push(PUBLIC);
        }
        if !principal.authenticated() {
            return numbers;
        }
        if self.anyone {
            numbers.push(ANYONE);
        }
        let subject: &str = principal.subject.reveal();
        if names.apply(principal) {
            numbers.extend(self.users.get(subject.as_bytes()));
            numbers
                .extend(principal.email.as_ref().and_then(|email| self.users.get(email.reveal().as_bytes())));
        }
        numbers.extend(principal.client_id.as_ref().and_then(|id| self.clients.get(id.as_bytes())));
        numbers.extend(self.issuers.get(principal.issuer.as_str().as_bytes()));
        for group in &principal.groups {
            numbers.extend(self.groups.get(group.as_bytes()));
            numbers.extend(wild(&self.group_globs, group));
        }
        match principal.kind {
            PrincipalKind::Task => self.tasks.find(subject, &mut numbers),
            PrincipalKind::Agent => self.agents.find(subject, &mut numbers),
            PrincipalKind::User | PrincipalKind::Service | PrincipalKind::Public => {}
        }
        numbers
    }
}

impl Globs {
    fn find(&self, text: &str, numbers: &mut Vec<u32>) {
        numbers.extend(self.literal.get(text.as_bytes()));
        numbers.extend(wild(&self.wild, text));
    }
}

fn wild<'a>(globs: &'a [(Glob, u32)], text: &'a str) -> impl Iterator<Item = u32> + 'a {
    globs.iter().filter(move |(glob, _)| glob.matches(text)).map(|(_, number)| *number)
}

fn number_of(literal: &mut FixedMap<Text, u32>, wild: &mut Vec<(Glob, u32)>, glob: &Glob, fresh: u32) -> u32 {
    if let Some(text) = glob.literal() {
        return *literal.entry(text.into()).or_insert(fresh);
    }
    if let Some((_, number)) = wild.iter().find(|(known, _)| known == glob) {
        return *number;
    }
    wild.push((glob.clone(), fresh));
    fresh
}

/// The rules of one kind, by what they speak of. Flat tables: a caller's own entries are cold in the
/// processor's caches, and each table within a table would be waited for anew.
#[derive(Debug, Default)]
pub(crate) struct Index {
    resources: FixedMap<Text, u32>,
    /// Rules with a pattern, by resource, verb and selector.
    wide: FixedMap<u64, Places>,
    /// Rules for one object, by the same and the object's hash. Objects that share a hash are candidates for
    /// one another; resource, verb and selector are compared in full, because a candidate's are taken for granted.
    exact: FixedMap<(u64, u64), Places>,
    /// All rules, by resource and selector.
    of_resource: FixedMap<u64, Vec<u32>>,
    /// The places of those that have more than one.
    several: Vec<u32>,
    /// The verbs that a selector's rules have at all: of a caller's many groups few have any for a verb.
    verbs: Vec<Verbs>,
}

/// Places of rules: the one itself, or where several stand.
#[derive(Clone, Copy, Debug)]
struct Places {
    first: u32,
    count: u32,
}

impl Index {
    /// Indexes rules by their place in the list.
    pub(crate) fn new(rules: &[Rule], selectors: &mut Selectors) -> Self {
        let mut index = Self::default();
        let mut wide = FixedMap::<u64, Vec<u32>>::default();
        let mut exact = FixedMap::<(u64, u64), Vec<u32>>::default();
        for (place, rule) in (0_u32..).zip(rules) {
            for selector in &rule.to {
                let number = selectors.number(selector);
                index.note_verbs(number, &rule.scopes);
                for scope in rule.scopes.iter() {
                    let fresh = u32::try_from(index.resources.len()).unwrap_or(u32::MAX);
                    let resource = *index.resources.entry(scope.resource.as_str().into()).or_insert(fresh);
                    push(index.of_resource.entry(key_of_resource(resource, number)).or_default(), place);
                    let literal = scope.pattern.literal().map(hash_of);
                    for verb in scope.verbs.iter() {
                        let key = key(resource, verb, number);
                        match literal {
                            Some(object) => push(exact.entry((key, object)).or_default(), place),
                            None => push(wide.entry(key).or_default(), place),
                        }
                    }
                }
            }
        }
        index.wide = wide.into_iter().map(|(key, places)| (key, index.keep(&places))).collect();
        index.exact = exact.into_iter().map(|(key, places)| (key, index.keep(&places))).collect();
        index
    }

    fn note_verbs(&mut self, number: u32, scopes: &Scopes) {
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        if self.verbs.len() <= number {
            self.verbs.resize(number.saturating_add(1), Verbs::default());
        }
        if let Some(verbs) = self.verbs.get_mut(number) {
            scopes.iter().flat_map(|scope| scope.verbs.iter()).for_each(|verb| verbs.insert(verb));
        }
    }

    fn has_verb(&self, number: u32, verb: Verb) -> bool {
        let verbs = usize::try_from(number).ok().and_then(|number| self.verbs.get(number));
        verbs.is_some_and(|verbs| verbs.contains(verb))
    }

    fn keep(&mut self, places: &[u32]) -> Places {
        let count = u32::try_from(places.len()).unwrap_or(u32::MAX);
        if let [place] = places {
            return Places { first: *place, count };
        }
        let first = u32::try_from(self.several.len()).unwrap_or(u32::MAX);
        self.several.extend_from_slice(places);
        Places { first, count }
    }

    /// The places of the rules that may speak of the action and mean the caller, in file order.
    pub(crate) fn candidates(&self, action: &Action, numbers: &[u32]) -> Vec<u32> {
        let mut places = Vec::with_capacity(CANDIDATES_EXPECTED);
        let Some(resource) = self.resources.get(action.resource.as_str().as_bytes()) else { return places };
        let object = hash_of(action.object.as_str());
        for number in numbers.iter().filter(|number| self.has_verb(**number, action.verb)) {
            let key = key(*resource, action.verb, *number);
            for found in [self.wide.get(&key), self.exact.get(&(key, object))].into_iter().flatten() {
                self.put(*found, &mut places);
            }
        }
        if places.len() > 1 {
            places.sort_unstable();
            places.dedup();
        }
        places
    }

    /// The places of the rules that speak of the resource and mean the caller, in file order.
    pub(crate) fn of_resource(&self, resource: &ResourceName, numbers: &[u32]) -> Vec<u32> {
        let Some(resource) = self.resources.get(resource.as_str().as_bytes()) else { return Vec::new() };
        let found =
            numbers.iter().filter_map(|number| self.of_resource.get(&key_of_resource(*resource, *number)));
        let mut places: Vec<u32> = found.flatten().copied().collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    fn put(&self, found: Places, places: &mut Vec<u32>) {
        let Places { first, count } = found;
        if count == 1 {
            return places.push(first);
        }
        let several = usize::try_from(first).ok().and_then(|first| self.several.get(first..));
        let several = several.and_then(|rest| rest.get(..usize::try_from(count).unwrap_or(usize::MAX)));
        places.extend_from_slice(several.unwrap_or_default());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.wide.is_empty() && self.exact.is_empty()
    }
}

fn hash_of(object: &str) -> u64 {
    BuildHasherDefault::<QuickHasher>::default().hash_one(object)
}

/// A resource, a verb and a selector as one number: resources and selectors are fewer than 2^28.
fn key(resource: u32, verb: Verb, selector: u32) -> u64 {
    u64::from(resource) << 36 | u64::from(verb as u8) << 32 | u64::from(selector)
}

/// A resource and a selector as one number.
fn key_of_resource(resource: u32, selector: u32) -> u64 {
    u64::from(resource) << 32 | u64::from(selector)
}

/// Places come in rising order, so a rule that names the same thing twice is the last one in the list.
fn push(places: &mut Vec<u32>, place: u32) {
    if places.last() != Some(&place) {
        places.push(place);
    }
}
