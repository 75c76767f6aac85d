//! Conditions: CEL expressions, parsed and type-checked at load, evaluated over lazy views of the case.
//!
//! Parsing happens on a thread with a large stack, because the parser recurses deeply even for flat
//! expressions; only at load. Evaluation is bounded by the expression's size and by the token's: there are
//! no loops but those over lists that the expression or a claim holds, nested at most twice.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cel::common::traits::{Container, Indexer};
use cel::common::types::{
    CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelTimestamp, MAP_TYPE, Type,
};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::{Context, Env, ExecutionError, Program, Value};
use doorward_core::{Action, Actor, Case};
use serde_json::{Map, Value as Json};

use crate::typecheck::{self, CheckError};

/// The longest condition, in bytes.
pub(crate) const CONDITION_BYTES_MAX: usize = 4_096;

/// The stack of the parsing thread, in bytes.
const PARSE_STACK_BYTES: usize = 64 * 1024 * 1024;

/// A condition that holds or does not.
#[derive(Debug)]
pub(crate) struct Condition {
    program: Program,
    source: Box<str>,
    uses_action: bool,
}

impl Condition {
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// Whether the condition holds: for every action when it is about actions.
    pub(crate) fn holds_for_all(&self, env: &Arc<Env>, case: &Case<'_>) -> Result<bool, String> {
        let actions = case.actions.as_slice();
        let asked = if self.uses_action { actions } else { actions.get(..1).unwrap_or_default() };
        for action in asked {
            if !self.holds(env, case, action)? {
                return Ok(false);
            }
        }
        Ok(!asked.is_empty())
    }

    /// Whether the condition holds for one action. The error names no value that a caller has sent.
    pub(crate) fn holds(&self, env: &Arc<Env>, case: &Case<'_>, action: &Action) -> Result<bool, String> {
        let resolver = Resolver { case, action };
        let mut context = Context::with_env(env.clone());
        context.set_variable_resolver(&resolver);
        let value =
            Value::resolve_val(self.program.expression(), &context).map_err(|error| describe(&error))?;
        value
            .downcast_ref::<CelBool>()
            .map(|flag| *flag.inner())
            .ok_or_else(|| "it gives neither true nor false".to_owned())
    }
}

/// Compiles conditions, all on one thread with a large stack. The results are in the order of the sources.
pub(crate) fn compile_all(sources: &[&str]) -> Vec<Result<Condition, CheckError>> {
    if sources.is_empty() {
        return Vec::new();
    }
    std::thread::scope(|scope| {
        let work = || sources.iter().map(|source| compile_guarded(source)).collect();
        let spawned = std::thread::Builder::new()
            .name("conditions".to_owned())
            .stack_size(PARSE_STACK_BYTES)
            .spawn_scoped(scope, work);
        let failed = || {
            sources.iter().map(|_| Err(CheckError::whole("the condition cannot be parsed here"))).collect()
        };
        match spawned {
            Ok(thread) => thread.join().unwrap_or_else(|_| failed()),
            Err(_) => failed(),
        }
    })
}

/// A defect of the parser costs one condition, not the configuration's other errors.
fn compile_guarded(source: &str) -> Result<Condition, CheckError> {
    catch_unwind(AssertUnwindSafe(|| compile(source)))
        .unwrap_or_else(|_| Err(CheckError::whole("the condition cannot be parsed")))
}

fn compile(source: &str) -> Result<Condition, CheckError> {
    if source.len() > CONDITION_BYTES_MAX {
        return Err(CheckError::whole(format!("a condition has at most {CONDITION_BYTES_MAX} bytes")));
    }
    if source.trim().is_empty() {
        return Err(CheckError::whole("the condition is empty"));
    }
    let program = Program::compile(source).map_err(|errors| parse_error(source, &errors))?;
    typecheck::check(&program)?;
    let uses_action = program.references().has_variable("action");
    Ok(Condition { program, source: source.into(), uses_action })
}

fn parse_error(source: &str, errors: &cel::ParseErrors) -> CheckError {
    let Some(first) = errors.errors.first() else {
        return CheckError::whole("the condition cannot be parsed");
    };
    let (line, column) = first.pos;
    let line = usize::try_from(line).unwrap_or(1).max(1);
    let before: usize = source.split_inclusive('\n').take(line - 1).map(|line| line.chars().count()).sum();
    let offset = before + usize::try_from(column).unwrap_or(1).max(1) - 1;
    CheckError::at(offset, parse_message(&first.msg))
}

/// The parser's own words, without its list of all tokens that it knows.
fn parse_message(message: &str) -> String {
    if message.contains("Recursion limit") {
        return "the condition nests too deeply".to_owned();
    }
    let line = message.lines().next().unwrap_or_default();
    let line = line.strip_prefix("Syntax error: ").unwrap_or(line);
    let line = line.split(" expecting ").next().unwrap_or(line);
    if line.contains("<EOF>") {
        return "the condition ends too early".to_owned();
    }
    format!("the condition is not valid CEL: {line}")
}

/// Names of keys and types come from the expression; values do not appear.
fn describe(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(key) => format!("there is no \"{key}\"; ask has(…) first"),
        ExecutionError::NoSuchOverload(overload) => overload.to_string(),
        ExecutionError::IndexOutOfBounds(_) => "an index is beyond the end of its list".to_owned(),
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => {
            "it divides by zero".to_owned()
        }
        ExecutionError::Overflow(..) => "a number overflows".to_owned(),
        ExecutionError::FunctionError { function, .. } => format!("{function}() cannot take this value"),
        _ => "a value is not of the sort that it asks for".to_owned(),
    }
}

/// Gives the three variables as views; nothing is copied that the expression does not touch.
struct Resolver<'a> {
    case: &'a Case<'a>,
    action: &'a Action,
}

impl VariableResolver for Resolver<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        // The whole dotted name is asked for first, so a field costs one step and no view in between.
        match variable.split_once('.') {
            None => self.variable(variable).map(CowVal::owned),
            Some((name, path)) => self.variable(name)?.at(path).map(CowVal::Owned),
        }
    }
}

impl<'a> Resolver<'a> {
    fn variable(&self, name: &str) -> Option<View<'a>> {
        match name {
            "principal" => Some(View::Principal(self.case)),
            "request" => Some(View::Request(self.case)),
            "action" => Some(View::Action(self.action)),
            _ => None,
        }
    }
}

/// A record whose fields are made when they are asked for.
#[derive(Clone, Copy, Debug)]
enum View<'a> {
    Principal(&'a Case<'a>),
    Request(&'a Case<'a>),
    Action(&'a Action),
    Actor(&'a Actor),
    Claims(&'a Map<String, Json>),
}

fn text<'v>(value: &'v str) -> Box<dyn Val + 'v> {
    Box::new(CelString::from(value))
}

fn list<'v>(items: impl Iterator<Item = Box<dyn Val + 'v>>) -> Box<dyn Val + 'v> {
    Box::new(CelList::from(items.collect::<Vec<_>>()))
}

impl<'a> View<'a> {
    /// A field, or a claim: `email`, `claims.team`. Whatever lies deeper is left to the evaluation.
    fn at(self, path: &str) -> Option<Box<dyn Val + 'a>> {
        match (self, path.split_once('.')) {
            (_, None) => self.field(path),
            (Self::Principal(case), Some(("claims", claim))) if !claim.contains('.') => {
                case.principal.claims.get(claim).map(json)
            }
            _ => None,
        }
    }

    fn field(self, name: &str) -> Option<Box<dyn Val + 'a>> {
        match self {
            Self::Principal(case) => principal_field(case, name),
            Self::Request(case) => request_field(case, name),
            Self::Action(action) => match name {
                "verb" => Some(text(action.verb.as_str())),
                "resource" => Some(text(action.resource.as_str())),
                "object" => Some(text(action.object.as_str())),
                _ => None,
            },
            Self::Actor(actor) => match name {
                "subject" => Some(text(actor.subject.reveal())),
                "issuer" => Some(text(actor.issuer.as_deref().unwrap_or_default())),
                _ => None,
            },
            Self::Claims(claims) => claims.get(name).map(json),
        }
    }
}

/// What is absent is the empty text, so that a comparison with it is false rather than an error.
fn principal_field<'a>(case: &'a Case<'a>, name: &str) -> Option<Box<dyn Val + 'a>> {
    let principal = case.principal;
    Some(match name {
        "subject" => text(principal.subject.reveal()),
        "issuer" => text(principal.issuer.as_str()),
        "kind" => text(principal.kind.as_str()),
        "email" => text(principal.email.as_ref().map_or("", |email| email.reveal())),
        "client_id" => text(principal.client_id.as_deref().unwrap_or_default()),
        "groups" => list(principal.groups.iter().map(|group| text(group))),
        "act" => list(principal.actors.iter().map(|actor| Box::new(View::Actor(actor)) as Box<dyn Val + 'a>)),
        "claims" => Box::new(View::Claims(&principal.claims)),
        _ => return None,
    })
}

fn request_field<'a>(case: &'a Case<'a>, name: &str) -> Option<Box<dyn Val + 'a>> {
    Some(match name {
        "time" => {
            let time = chrono::DateTime::from_timestamp_micros(case.now.micros())?;
            Box::new(CelTimestamp::from(time.fixed_offset()))
        }
        "source_ip" => Box::new(CelString::from(
            case.arrival.source_ip.map(|ip| ip.to_canonical().to_string()).unwrap_or_default(),
        )),
        "door" => text(case.arrival.door),
        _ => return None,
    })
}

fn json<'a>(value: &'a Json) -> Box<dyn Val + 'a> {
    match value {
        Json::Null => Box::new(CelNull),
        Json::Bool(flag) => Box::new(CelBool::from(*flag)),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Box::new(CelInt::from(whole)),
            None => Box::new(CelDouble::from(number.as_f64().unwrap_or(f64::NAN))),
        },
        Json::String(value) => text(value),
        Json::Array(items) => list(items.iter().map(json)),
        Json::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| (CelMapKey::from(key.as_str()), json(value)));
            Box::new(CelMap::from(fields.collect::<HashMap<_, _>>()))
        }
    }
}

impl Val for View<'_> {
    fn get_type(&self) -> &Type {
        &MAP_TYPE
    }

    fn cel_type() -> &'static Type {
        &MAP_TYPE
    }

    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }

    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(*self)
    }
}

impl Container for View<'_> {
    fn contains(&self, key: &dyn Val) -> Result<bool, ExecutionError> {
        Ok(self.field(key_text(key)?).is_some())
    }
}

impl Indexer for View<'_> {
    fn get<'b, 'v>(&'b self, key: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let name = key_text(key)?;
        let value: Option<Box<dyn Val + 'v>> = self.field(name);
        value.map(CowVal::Owned).ok_or_else(|| ExecutionError::no_such_key(name))
    }

    fn steal<'v>(self: Box<Self>, key: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(key).map(CowVal::into_owned)
    }
}

fn key_text<'k>(key: &'k (dyn Val + '_)) -> Result<&'k str, ExecutionError> {
    match key.downcast_ref::<CelString<'_>>() {
        Some(key) => Ok(key.inner()),
        None => Err(ExecutionError::UnexpectedType {
            got: key.get_type().name().to_owned(),
            want: "string".to_owned(),
        }),
    }
}
