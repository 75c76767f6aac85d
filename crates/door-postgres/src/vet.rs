//! Statements, read by PostgreSQL's own grammar, and what they need in the vocabulary of grants.
//!
//! This is the door's only window to `doorward_sql`. Invariant: a text is decided as a whole; when an earlier
//! statement of it may change what the names of a later one mean, it is refused.

use std::sync::Arc;

use doorward_core::{Action, Actions, Fault, Object, Verb};
use doorward_sql::{
    Direction, Discard, Kind, Need, ObjectKind, ParseError, Parser, Script, Shape, Statement, Transaction,
    Unknown, Why, resolve,
};

use crate::codes;
use crate::desk::Desk;
use crate::hidden;
use crate::names::Names;
use crate::own;
use crate::values::Places;

/// An isolation that replicas do not have.
const SERIALIZABLE: &str = "serializable";
/// Settings that say what names mean.
const NAMING: [&str; 4] = ["search_path", "all", "role", "session_authorization"];

/// A text that has been read.
#[derive(Debug)]
pub(crate) struct Vetted {
    text: Box<str>,
    script: Arc<Script>,
    places: Places,
    /// Whether what was read is its one statement in another spelling.
    respelled: bool,
}

/// What a text does to the session, beside what it needs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Effects {
    /// What names mean may be another thing afterwards.
    pub(crate) changes_names: bool,
    /// All settings are what they were at first.
    pub(crate) resets_all: bool,
    /// Structure is changed, in a way that others see when it is committed.
    pub(crate) changes_structure: bool,
    /// The transaction, or a part of it, ends.
    pub(crate) ends_or_rolls_back: bool,
    /// All prepared statements go.
    pub(crate) deallocates_all: bool,
    /// These go.
    pub(crate) deallocates: Vec<Box<str>>,
    /// All cursors go.
    pub(crate) closes_all: bool,
    /// These cursors go.
    pub(crate) closes: Vec<Box<str>>,
}

/// What of a text outlives the transaction that it runs in, or may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lasting {
    /// Nothing.
    Nothing,
    /// A setting, which a plain SET or RESET makes: its name, and whether it is the default again.
    Setting(Box<str>, bool),
    /// Something that the session itself does not know, by code in the database or a change of structure.
    Unknown,
    /// Something that the session has to find again: a temporary table, a lock, a prepared statement, or
    /// settings that are made otherwise.
    State,
}

/// Finds what a session has prepared under a name.
pub(crate) type Prepared<'a> = dyn Fn(&str) -> Option<Arc<Vetted>> + Sync + 'a;

impl Vetted {
    /// Reads a text of any number of statements.
    pub(crate) fn read(parser: &Parser, text: &str) -> Result<Arc<Self>, Fault> {
        let (script, respelled) = match parser.parse(text) {
            Ok(script) => (script, false),
            Err(error) => {
                let other = own::spelled(text).and_then(|other| parser.parse(&other).ok());
                (other.ok_or_else(|| syntax(&error))?, true)
            }
        };
        Ok(Arc::new(Self { text: text.into(), script, places: Places::default(), respelled }))
    }

    /// Reads the text of a prepared statement: one statement, or none.
    pub(crate) fn read_one(parser: &Parser, text: &str) -> Result<Arc<Self>, Fault> {
        let vetted = Self::read(parser, text)?;
        if vetted.script.statements.len() > 1 {
            let text = "cannot insert multiple commands into a prepared statement";
            return Err(Fault::new(codes::SYNTAX, text).backend_code("42601"));
        }
        Ok(vetted)
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// What is known of the places of its values.
    pub(crate) fn places(&self) -> &Places {
        &self.places
    }

    /// Its statements, without their places.
    pub(crate) fn shapes(&self) -> impl DoubleEndedIterator<Item = &Shape> {
        self.script.statements.iter().map(|statement| &*statement.shape)
    }

    /// The fingerprint of its one statement, or of all together.
    pub(crate) fn fingerprint(&self) -> Option<u64> {
        let mut all = self.shapes().map(|shape| shape.fingerprint);
        let first = all.next()??;
        all.try_fold(first, |sum, next| Some(sum.rotate_left(7) ^ next?))
    }

    /// What its comments tell in the form of sqlcommenter.
    pub(crate) fn tags(&self) -> impl Iterator<Item = (&str, &str)> {
        self.script.statements.iter().flat_map(|one| one.tags.iter().map(|(key, value)| (&**key, &**value)))
    }

    /// Whether there are several statements in it.
    pub(crate) fn is_several(&self) -> bool {
        self.script.statements.len() > 1
    }

    /// Its statements, each by itself.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Arc<Self>> {
        self.script.statements.iter().map(|statement| self.part(statement))
    }

    fn part(&self, statement: &Statement) -> Arc<Self> {
        let text = self.text.get(statement.span.clone()).unwrap_or_default().into();
        let script = Arc::new(Script { statements: vec![statement.clone()] });
        Arc::new(Self { text, script, places: Places::default(), respelled: false })
    }

    /// Its text with other statements in the places of some; `None` when all stay as they are.
    pub(crate) fn replaced(&self, with: impl Fn(&Shape) -> Option<String>) -> Option<String> {
        if self.respelled {
            return self.shapes().find_map(with);
        }
        let mut text: Option<String> = None;
        let mut until = 0;
        for statement in &self.script.statements {
            let Some(other) = with(&statement.shape) else { continue };
            let text = text.get_or_insert_default();
            text.push_str(self.text.get(until..statement.span.start).unwrap_or_default());
            text.push_str(&other);
            until = statement.span.end;
        }
        text.map(|text| text + self.text.get(until..).unwrap_or_default())
    }

    /// Whether nothing comes of it but its answer, and a setting of the session or a transaction that begins; unless
    /// a function of it needs `execute`. The end of a transaction is what makes changes lasting.
    pub(crate) fn only_answers(&self) -> bool {
        self.shapes().all(|shape| match shape.kind {
            Kind::Select | Kind::Explain { .. } | Kind::Copy(Direction::Out) => shape.reads_only,
            Kind::Show(_) | Kind::Set => true,
            Kind::Transaction => matches!(shape.transaction, Transaction::Begin { .. }),
            _ => false,
        })
    }

    /// Whether it is one statement that only reads, as far as its text tells: a function that it calls may change
    /// something, see [`only_reads`].
    pub(crate) fn is_read(&self) -> bool {
        let reads = |shape: &Shape| {
            let kind = matches!(shape.kind, Kind::Select | Kind::Copy(Direction::Out));
            kind && shape.reads_only && !shape.session.sequence && !shape.session.pins()
        };
        matches!(self.script.statements.as_slice(), [only] if reads(only)) && !self.respelled
    }

    /// Whether it only begins or ends a transaction or a part of it: what that makes lasting, other statements have done.
    pub(crate) fn is_transaction_control(&self) -> bool {
        let others = |shape: &Shape| {
            matches!(
                shape.transaction,
                Transaction::Prepare(_) | Transaction::CommitPrepared(_) | Transaction::RollbackPrepared(_)
            )
        };
        self.shapes().all(|shape| shape.kind == Kind::Transaction && !others(shape))
    }

    /// Whether it begins a transaction that reads only, and that a replica can run: none is serializable there.
    pub(crate) fn begins_reading(&self) -> bool {
        let begins = |shape: &Shape| shape.transaction == Transaction::Begin { read_only: Some(true) };
        matches!(self.script.statements.as_slice(), [only] if begins(only))
            && !self.text.to_ascii_lowercase().contains(SERIALIZABLE)
    }

    /// Whether names must be looked up for it.
    pub(crate) fn asks_names(&self) -> bool {
        self.shapes().any(asks_names)
    }

    /// The prepared statements that it executes.
    pub(crate) fn executes(&self) -> impl Iterator<Item = &str> {
        self.shapes().filter_map(|shape| match &shape.kind {
            Kind::Execute(name) => Some(&**name),
            _ => None,
        })
    }

    /// The prepared statements that it deallocates by their names.
    pub(crate) fn deallocated(&self) -> impl Iterator<Item = &str> {
        self.shapes().filter_map(|shape| match &shape.kind {
            Kind::Deallocate(name) => name.as_deref(),
            _ => None,
        })
    }

    /// The cursors that it reads on: their needs are those of the statements that they were made of.
    pub(crate) fn fetches(&self) -> impl Iterator<Item = &str> {
        self.shapes().filter_map(|shape| match &shape.kind {
            Kind::Fetch(name) => Some(&**name),
            _ => None,
        })
    }

    /// Whether the backend looks its names up when it is executed, and not when it is bound.
    pub(crate) fn resolves_late(&self) -> bool {
        let planned = |kind: &Kind| {
            matches!(kind, Kind::Select | Kind::Insert | Kind::Update | Kind::Delete | Kind::Merge)
        };
        !self.shapes().all(|shape| planned(&shape.kind))
    }

    /// Whether it gives or takes names of prepared statements.
    pub(crate) fn names_statements(&self) -> bool {
        self.script.statements.iter().any(|statement| {
            matches!(statement.kind, Kind::Prepare { .. } | Kind::Deallocate(_) | Kind::Discard(Discard::All))
        })
    }

    /// Whether it is a text of several statements.
    pub(crate) fn is_of_several(&self) -> bool {
        self.script.statements.len() > 1
    }

    /// Whether it closes a cursor of this name.
    pub(crate) fn closes(&self, cursor: &str) -> bool {
        self.shapes().any(|shape| match &shape.kind {
            Kind::Close(name) => name.as_deref().is_none_or(|name| name == cursor),
            Kind::Discard(Discard::All) => true,
            _ => false,
        })
    }

    /// The statements that it prepares, each by itself.
    pub(crate) fn prepared(&self) -> impl Iterator<Item = (Box<str>, Arc<Self>)> {
        self.script.statements.iter().filter_map(|statement| match &statement.kind {
            Kind::Prepare(name) => Some((name.clone(), self.inner(statement))),
            _ => None,
        })
    }

    /// The cursors that it declares, each by itself, and whether it outlives its transaction.
    pub(crate) fn declared(&self) -> impl Iterator<Item = (Box<str>, Arc<Self>, bool)> {
        self.script.statements.iter().filter_map(|statement| match &statement.kind {
            Kind::Declare(name) => {
                Some((name.clone(), self.inner(statement), statement.session.holds_cursor))
            }
            _ => None,
        })
    }

    /// What PREPARE or DECLARE is about: to execute that is not to make it again. It is planned, as a query is.
    fn inner(&self, outer: &Statement) -> Arc<Self> {
        let shape = Arc::new(Shape { kind: Kind::Select, ..(*outer.shape).clone() });
        self.part(&Statement { shape, ..outer.clone() })
    }

    /// What it does to the session; `actions` are what it needs.
    pub(crate) fn effects(&self, actions: &Actions) -> Effects {
        let needs = |verb: Verb| actions.as_slice().iter().any(|action| action.verb == verb);
        let mut effects = Effects {
            changes_names: needs(Verb::Execute) || needs(Verb::Manage),
            changes_structure: needs(Verb::Manage),
            ..Effects::default()
        };
        for shape in self.shapes() {
            effects.changes_names |= changes_names(shape);
            effects.resets_all |= shape.kind == Kind::Discard(Discard::All)
                || shape.settings.iter().any(|setting| &*setting.name == "all");
            effects.ends_or_rolls_back |= !matches!(
                shape.transaction,
                Transaction::None
                    | Transaction::Begin { .. }
                    | Transaction::Savepoint(_)
                    | Transaction::Release(_)
            );
            match &shape.kind {
                Kind::Deallocate(None) | Kind::Discard(Discard::All) => effects.deallocates_all = true,
                Kind::Deallocate(Some(name)) => effects.deallocates.push(name.clone()),
                Kind::Close(None) => effects.closes_all = true,
                Kind::Close(Some(name)) => effects.closes.push(name.clone()),
                _ => {}
            }
        }
        effects
    }

    /// What of it outlives its transaction; `actions` are what it needs.
    pub(crate) fn lasting(&self, actions: &Actions) -> Lasting {
        if let [only] = self.script.statements.as_slice()
            && only.kind == Kind::Set
            && only.session.sets
        {
            return match only.settings.as_slice() {
                [setting] if !setting.local => Lasting::Setting(setting.name.clone(), is_default(only)),
                _ => Lasting::State,
            };
        }
        if self
            .shapes()
            .any(|shape| shape.session.pins() || matches!(shape.transaction, Transaction::Prepare(_)))
        {
            return Lasting::State;
        }
        let calls = |action: &Action| matches!(action.verb, Verb::Execute | Verb::Manage);
        let unknown = |shape: &Shape| {
            matches!(shape.kind, Kind::Do | Kind::Call | Kind::Ddl | Kind::Deallocate(_) | Kind::Discard(_))
        };
        match actions.as_slice().iter().any(calls) || self.shapes().any(unknown) {
            true => Lasting::Unknown,
            false => Lasting::Nothing,
        }
    }

    /// Whether it may take a lock that its session holds until it gives it back, though the statement fails.
    pub(crate) fn takes_session_lock(&self) -> bool {
        self.shapes().any(|shape| shape.session.advisory_lock)
    }

    /// Whether it takes back a part of what its transaction has done.
    pub(crate) fn rolls_back_to(&self) -> bool {
        self.shapes().any(|shape| matches!(shape.transaction, Transaction::RollbackTo(_)))
    }

    /// Whether it forgets all prepared statements, or a part of them that it names, and nothing else.
    pub(crate) fn deallocates(&self) -> Option<Option<&str>> {
        match self.script.statements.as_slice() {
            [only] => match &only.kind {
                Kind::Deallocate(name) => Some(name.as_deref()),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether all prepared statements go, among other things.
    pub(crate) fn deallocates_all(&self) -> bool {
        let all = |kind: &Kind| matches!(kind, Kind::Deallocate(None) | Kind::Discard(Discard::All));
        self.shapes().any(|shape| all(&shape.kind))
    }

    /// What it needs, where names mean this and these statements are prepared.
    pub(crate) fn needs(
        &self,
        desk: &Desk,
        names: &Names,
        prepared: &Prepared<'_>,
    ) -> Result<Actions, Fault> {
        let lasting = self.lasting_shape().filter(|_| names.are_shared());
        let Some(shape) = lasting else { return actions(desk, &self.ask(desk, names, prepared)?.0) };
        let asked = (shape, names.path(), desk.wire.hides_catalog);
        if let Some(actions) = names.objects.resolved.find(asked) {
            return Ok(actions);
        }
        let actions = actions(desk, &self.ask(desk, names, prepared)?.0)?;
        names.objects.resolved.keep(asked, &actions);
        Ok(actions)
    }

    /// The shape of its one statement, if what that needs does not depend on what is prepared.
    fn lasting_shape(&self) -> Option<&Arc<Shape>> {
        let [statement] = self.script.statements.as_slice() else { return None };
        let prepares = matches!(statement.kind, Kind::Prepare(_) | Kind::Execute(_));
        (!prepares).then_some(&statement.shape)
    }

    /// The same, of each statement by itself.
    pub(crate) fn needs_each(
        &self,
        desk: &Desk,
        names: &Names,
        prepared: &Prepared<'_>,
    ) -> Result<Vec<Actions>, Fault> {
        let (needs, ends) = self.ask(desk, names, prepared)?;
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let pieces = starts.zip(&ends).map(|(start, end)| needs.get(start..*end).unwrap_or_default());
        pieces.map(|needs| actions(desk, needs)).collect()
    }

    /// All that it needs, and where the needs of each statement end.
    fn ask(
        &self,
        desk: &Desk,
        names: &Names,
        prepared: &Prepared<'_>,
    ) -> Result<(Vec<Need>, Vec<usize>), Fault> {
        let hides_catalog = desk.wire.hides_catalog;
        let path = names.path().iter().map(|schema| &**schema).collect();
        let mut asking = Asking { path, names, prepared, hides_catalog, needs: Vec::new() };
        let mut ends = Vec::with_capacity(self.script.statements.len());
        let mut own: Vec<Own<'_>> = Vec::new();
        let mut changed = false;
        for (index, statement) in self.script.statements.iter().enumerate() {
            let shape = &*statement.shape;
            if changed && asks_names(shape) {
                return Err(Fault::new(
                    codes::UNKNOWN_EFFECT,
                    "a statement before it in the same text may change what its names mean",
                )
                .hint("Send the statements one by one."));
            }
            let before = asking.needs.len();
            asking.ask(shape)?;
            match &shape.kind {
                Kind::Prepare(name) => {
                    if is_prepared(name, &own, prepared) {
                        let text = format!("prepared statement \"{name}\" already exists");
                        return Err(Fault::new(codes::NAME, text).backend_code("42P05"));
                    }
                    own.push(Own::Prepared(name, index));
                }
                Kind::Execute(name) => self.ask_prepared(name, &own, &mut asking)?,
                Kind::Deallocate(Some(name)) => own.push(Own::Gone(name)),
                Kind::Deallocate(None) | Kind::Discard(Discard::All) => own.push(Own::AllGone),
                _ => {}
            }
            let turns = |need: &Need| matches!(need.verb, Verb::Execute | Verb::Manage);
            changed |= changes_names(shape) || asking.needs.iter().skip(before).any(turns);
            ends.push(asking.needs.len());
        }
        Ok((asking.needs, ends))
    }

    /// What EXECUTE needs: what the statement needs that it names.
    fn ask_prepared(&self, name: &str, own: &[Own<'_>], asking: &mut Asking<'_>) -> Result<(), Fault> {
        for entry in own.iter().rev() {
            match entry {
                Own::Prepared(known, index) if *known == name => {
                    let statement = self.script.statements.get(*index);
                    return statement.map_or(Ok(()), |statement| asking.ask(&statement.shape));
                }
                Own::Gone(known) if *known == name => return Err(not_prepared(name)),
                Own::AllGone => return Err(not_prepared(name)),
                _ => {}
            }
        }
        let outer = (asking.prepared)(name).ok_or_else(|| not_prepared(name))?;
        outer.shapes().try_for_each(|shape| asking.ask(shape))
    }
}

/// What a text does to prepared statements, before its later statements.
enum Own<'a> {
    Prepared(&'a str, usize),
    Gone(&'a str),
    AllGone,
}

fn is_prepared(name: &str, own: &[Own<'_>], prepared: &Prepared<'_>) -> bool {
    for entry in own.iter().rev() {
        match entry {
            Own::Prepared(known, _) if *known == name => return true,
            Own::Gone(known) if *known == name => return false,
            Own::AllGone => return false,
            _ => {}
        }
    }
    prepared(name).is_some()
}

/// The fault of a prepared statement that is not there.
pub(crate) fn not_prepared(name: &str) -> Fault {
    Fault::new(codes::NAME, format!("prepared statement \"{name}\" does not exist"))
}

/// Whether a fault says that a name is not in what is known: it may be new.
pub(crate) fn is_missing(fault: &Fault) -> bool {
    fault.code() == codes::UNKNOWN_EFFECT && matches!(fault.backend_code_text(), Some("42P01" | "42883"))
}

struct Asking<'a> {
    path: Vec<&'a str>,
    names: &'a Names,
    prepared: &'a Prepared<'a>,
    hides_catalog: bool,
    needs: Vec<Need>,
}

impl Asking<'_> {
    fn ask(&mut self, shape: &Shape) -> Result<(), Fault> {
        own::check(shape)?;
        let found = resolve(shape, self.names, &self.path).map_err(|unknown| not_known(&unknown))?;
        self.needs.extend(found.needs);
        if self.hides_catalog {
            self.needs.extend(shape.wants.iter().filter_map(hidden::need));
        }
        Ok(())
    }
}

fn asks_names(shape: &Shape) -> bool {
    !shape.wants.is_empty() || matches!(shape.kind, Kind::Execute(_))
}

/// Whether a SET or RESET makes the setting what it was at first.
fn is_default(shape: &Shape) -> bool {
    shape.tag == "RESET" || shape.settings.iter().all(|setting| setting.value.is_none())
}

/// Whether names may mean another thing after the statement, whatever functions it calls.
fn changes_names(shape: &Shape) -> bool {
    let naming = shape.settings.iter().any(|setting| NAMING.contains(&&*setting.name));
    let kind = matches!(
        shape.kind,
        Kind::Discard(Discard::All | Discard::Temp) | Kind::Ddl | Kind::Call | Kind::Execute(_)
    );
    naming || kind || shape.session.temporary
}

/// The needs as actions; a statement that needs nothing of its own still needs its session.
fn actions(desk: &Desk, needs: &[Need]) -> Result<Actions, Fault> {
    let resource = &desk.resource;
    let mut actions: Vec<Action> = Vec::with_capacity(needs.len().max(1));
    for need in needs {
        let action = match need.kind {
            ObjectKind::Catalog if !desk.wire.hides_catalog => Action {
                verb: Verb::List,
                resource: resource.clone(),
                object: Object::from_segments([&*need.schema]),
            },
            _ => {
                let segments = need.segments();
                Action {
                    verb: need.verb,
                    resource: resource.clone(),
                    object: Object::from_segments(segments.iter().map(|segment| &**segment)),
                }
            }
        };
        if !actions.contains(&action) {
            actions.push(action);
        }
    }
    if actions.is_empty() {
        actions.push(Action::of_session(resource));
    }
    gathered(actions)
}

/// Whether a statement that needs these actions reads, and leaves nothing behind.
pub(crate) fn only_reads(vetted: &Vetted, actions: &Actions) -> bool {
    let reads = |action: &Action| matches!(action.verb, Verb::Read | Verb::List);
    vetted.is_read() && actions.as_slice().iter().all(reads) && vetted.lasting(actions) == Lasting::Nothing
}

/// What a text needs that reads on from cursors: first what those were made of, then its own needs.
pub(crate) fn with_cursors(cursors: &[Actions], own: &Actions) -> Result<Actions, Fault> {
    let mut all: Vec<Action> = Vec::new();
    for action in cursors.iter().chain([own]).flat_map(Actions::as_slice) {
        if !all.contains(action) {
            all.push(action.clone());
        }
    }
    gathered(all)
}

fn gathered(actions: Vec<Action>) -> Result<Actions, Fault> {
    Actions::new(actions).ok_or_else(|| {
        let text = format!("a text of statements may touch at most {} objects", Actions::MAX);
        Fault::new(codes::UNKNOWN_EFFECT, text).hint("Send the statements one by one.")
    })
}

fn syntax(error: &ParseError) -> Fault {
    let fault = Fault::new(codes::SYNTAX, error.message.to_string()).backend_code(error.sqlstate);
    match error.hint {
        Some(hint) => fault.hint(hint),
        None => fault,
    }
}

fn not_known(unknown: &Unknown) -> Fault {
    let (text, code) = match unknown.why {
        Why::NoRelation => (unknown.what.to_string(), "42P01"),
        Why::NoFunction => (unknown.what.to_string(), "42883"),
        _ => (format!("not let through: {}", unknown.what), "42501"),
    };
    Fault::new(codes::UNKNOWN_EFFECT, text).hint(unknown.hint()).backend_code(code)
}
