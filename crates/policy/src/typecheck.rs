//! The static check of conditions: known variables, fields and functions, arguments that fit, and a result
//! that is true or false. What only a claim's value can tell is left to the evaluation (`dyn`).

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, SourceInfo, operators,
};
use cel::{Context, Program, Value};
use doorward_settings::suggest;

/// The deepest nesting of an expression, and of `exists`, `all`, `map` and `filter` in each other.
const DEPTH_MAX: usize = 64;
const LOOPS_MAX: usize = 2;

/// What is wrong with a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CheckError {
    /// The place in the expression, in characters from 0.
    pub(crate) offset: Option<usize>,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl CheckError {
    pub(crate) fn whole(message: impl Into<String>) -> Self {
        Self { offset: None, message: message.into(), hint: None }
    }

    pub(crate) fn at(offset: usize, message: impl Into<String>) -> Self {
        Self { offset: Some(offset), message: message.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Checks a parsed condition.
pub(crate) fn check(program: &Program) -> Result<(), CheckError> {
    let mut checker =
        Checker { info: program.source_info(), locals: Vec::new(), depth: 0, loops: 0, offset: 0 };
    match checker.infer(program.expression())? {
        Type::Bool => Ok(()),
        Type::Dyn => Err(CheckError::at(0, "the condition gives the value of a claim, not true or false")
            .hint("compare it: … == true")),
        other => Err(CheckError::at(0, format!("the condition gives {}, not true or false", other.name()))),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Type {
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Null,
    Timestamp,
    Duration,
    List(Box<Type>),
    Map(Box<Type>),
    Record(&'static Record),
    /// The token's claims: any key, but not a map that can be walked.
    Claims,
    Dyn,
}

/// A variable's fields.
#[derive(Debug)]
struct Record {
    name: &'static str,
    fields: &'static [(&'static str, Field)],
}

impl PartialEq for Record {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

#[derive(Clone, Copy, Debug)]
enum Field {
    String,
    Strings,
    Timestamp,
    Actors,
    Claims,
    /// Named in the design, and brought by a later version.
    Later,
}

static PRINCIPAL: Record = Record {
    name: "principal",
    fields: &[
        ("subject", Field::String),
        ("issuer", Field::String),
        ("kind", Field::String),
        ("email", Field::String),
        ("groups", Field::Strings),
        ("client_id", Field::String),
        ("claims", Field::Claims),
        ("act", Field::Actors),
        ("task", Field::Later),
    ],
};
static ACTOR: Record =
    Record { name: "an actor", fields: &[("subject", Field::String), ("issuer", Field::String)] };
static REQUEST: Record = Record {
    name: "request",
    fields: &[("time", Field::Timestamp), ("source_ip", Field::String), ("door", Field::String)],
};
static ACTION: Record = Record {
    name: "action",
    fields: &[("verb", Field::String), ("resource", Field::String), ("object", Field::String)],
};
static VARIABLES: [&Record; 3] = [&PRINCIPAL, &REQUEST, &ACTION];

impl Field {
    fn type_of(self) -> Option<Type> {
        match self {
            Self::String => Some(Type::String),
            Self::Strings => Some(Type::List(Box::new(Type::String))),
            Self::Timestamp => Some(Type::Timestamp),
            Self::Actors => Some(Type::List(Box::new(Type::Record(&ACTOR)))),
            Self::Claims => Some(Type::Claims),
            Self::Later => None,
        }
    }
}

impl Type {
    fn name(&self) -> String {
        match self {
            Self::Bool => "true or false".to_owned(),
            Self::Int => "an int".to_owned(),
            Self::Uint => "a uint".to_owned(),
            Self::Double => "a double".to_owned(),
            Self::String => "a string".to_owned(),
            Self::Bytes => "bytes".to_owned(),
            Self::Null => "null".to_owned(),
            Self::Timestamp => "a timestamp".to_owned(),
            Self::Duration => "a duration".to_owned(),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "a map".to_owned(),
            Self::Record(record) => record.name.to_owned(),
            Self::Claims => "the claims".to_owned(),
            Self::Dyn => "a claim's value".to_owned(),
        }
    }

    fn numeric(&self) -> bool {
        matches!(self, Self::Int | Self::Uint | Self::Double | Self::Dyn)
    }

    /// Whether a value of this type can stand where the other is asked for.
    fn fits(&self, wanted: &Self) -> bool {
        match (self, wanted) {
            (Self::Dyn, _) | (_, Self::Dyn) => true,
            (Self::List(one), Self::List(other)) | (Self::Map(one), Self::Map(other)) => one.fits(other),
            (one, other) => one == other,
        }
    }

    /// Whether the two can be equal at all.
    fn comparable(&self, other: &Self) -> bool {
        self.fits(other) || (self.numeric() && other.numeric())
    }

    fn ordered(&self, other: &Self) -> bool {
        let sort = |one: &Self| {
            matches!(
                one,
                Self::String | Self::Bytes | Self::Timestamp | Self::Duration | Self::Bool | Self::Dyn
            )
        };
        (self.numeric() && other.numeric())
            || (sort(self) && self.fits(other))
            || (sort(other) && other.fits(self))
    }

    fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::List(one), Self::List(other)) => Self::List(Box::new(match (*one, *other) {
                // An empty list is a list of whatever it is joined with.
                (Self::Dyn, other) => other,
                (one, other) => one.join(other),
            })),
            (one, other) if one == other => one,
            _ => Self::Dyn,
        }
    }
}

struct Checker<'a> {
    info: &'a SourceInfo,
    locals: Vec<(String, Type)>,
    depth: usize,
    loops: usize,
    /// The last place that the source knows: expanded macros have none of their own.
    offset: usize,
}

type Inferred = Result<Type, CheckError>;

impl Checker<'_> {
    fn infer(&mut self, expr: &IdedExpr) -> Inferred {
        let outer = self.offset;
        if let Some((start, _)) = self.info.offset_for(expr.id) {
            self.offset = usize::try_from(start).unwrap_or(outer);
        }
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.error("the condition nests too deeply"));
        }
        let inferred = match &expr.expr {
            Expr::Literal(literal) => Ok(literal_type(literal)),
            Expr::Ident(name) => self.variable(name),
            Expr::Select(select) => self.select(select),
            Expr::Call(call) => self.call(call),
            Expr::List(list) => {
                let mut element = Type::List(Box::new(Type::Dyn));
                for item in &list.elements {
                    element = element.join(Type::List(Box::new(self.infer(item)?)));
                }
                Ok(element)
            }
            Expr::Map(map) => {
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else {
                        return Err(self.error("this is no map"));
                    };
                    let key = self.infer(&entry.key)?;
                    if !matches!(key, Type::String | Type::Int | Type::Uint | Type::Bool | Type::Dyn) {
                        return Err(self.error(format!("{} cannot be a map's key", key.name())));
                    }
                    self.infer(&entry.value)?;
                }
                Ok(Type::Map(Box::new(Type::Dyn)))
            }
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Struct(_) => Err(self.error("messages cannot be made in a condition")),
            Expr::Unspecified => Err(self.error("something is missing here")),
        };
        self.depth -= 1;
        if inferred.is_ok() {
            self.offset = outer;
        }
        inferred
    }

    fn variable(&self, name: &str) -> Inferred {
        if let Some((_, found)) = self.locals.iter().rev().find(|(local, _)| local == name) {
            return Ok(found.clone());
        }
        if let Some(record) = VARIABLES.iter().find(|record| record.name == name) {
            return Ok(Type::Record(record));
        }
        let known = VARIABLES.iter().map(|record| record.name);
        Err(self.unknown(format!("\"{name}\" is unknown"), name, known))
    }

    fn select(&mut self, select: &SelectExpr) -> Inferred {
        let operand = self.infer(&select.operand)?;
        let field = select.field.as_str();
        match operand {
            Type::Record(record) if select.test => {
                self.field(record, field)?;
                Err(self
                    .error(format!("{}.{field} is always there; if it is absent it is empty", record.name)))
            }
            Type::Record(record) => self.field(record, field),
            Type::Claims | Type::Map(_) | Type::Dyn if select.test => Ok(Type::Bool),
            Type::Map(value) => Ok(*value),
            Type::Claims | Type::Dyn => Ok(Type::Dyn),
            other => Err(self.error(format!("{} has no field \"{field}\"", other.name()))),
        }
    }

    fn field(&self, record: &Record, name: &str) -> Inferred {
        let Some((_, field)) = record.fields.iter().find(|(field, _)| *field == name) else {
            let known =
                record.fields.iter().filter(|(_, field)| field.type_of().is_some()).map(|(name, _)| *name);
            return Err(self.unknown(format!("{} has no field \"{name}\"", record.name), name, known));
        };
        field.type_of().ok_or_else(|| {
            self.error(format!("{}.{name} is not available in this version yet", record.name))
                .hint("claims that the issuer sends are in principal.claims")
        })
    }

    fn comprehension(&mut self, loop_: &ComprehensionExpr) -> Inferred {
        let element = match self.infer(&loop_.iter_range)? {
            Type::List(element) => *element,
            Type::Map(_) => Type::String,
            Type::Dyn => Type::Dyn,
            other => return Err(self.error(format!("{} cannot be walked", other.name()))),
        };
        self.loops += 1;
        if self.loops > LOOPS_MAX {
            return Err(self.error(format!("exists, all, map and filter nest at most {LOOPS_MAX} times")));
        }
        let start = self.infer(&loop_.accu_init)?;
        let outer = self.locals.len();
        self.locals.push((loop_.accu_var.clone(), start.clone()));
        self.locals.push((loop_.iter_var.clone(), element));
        self.expect(&loop_.loop_cond, &Type::Bool)?;
        let step = self.infer(&loop_.loop_step)?;
        self.locals.truncate(outer);
        self.locals.push((loop_.accu_var.clone(), start.join(step)));
        let result = self.infer(&loop_.result)?;
        self.locals.truncate(outer);
        self.loops -= 1;
        Ok(result)
    }

    fn call(&mut self, call: &CallExpr) -> Inferred {
        let mut types = Vec::with_capacity(call.args.len());
        for arg in &call.args {
            types.push(self.infer(arg)?);
        }
        match &call.target {
            Some(target) => {
                let target_type = self.infer(target)?;
                self.method(call, &target_type, &types)
            }
            None if is_operator(&call.func_name) => self.operator(&call.func_name, &types),
            None => self.function(call, &types),
        }
    }

    fn operator(&self, name: &str, types: &[Type]) -> Inferred {
        match (name, types) {
            (
                operators::LOGICAL_AND
                | operators::LOGICAL_OR
                | operators::LOGICAL_NOT
                | operators::NOT_STRICTLY_FALSE,
                types,
            ) => match types.iter().find(|found| !found.fits(&Type::Bool)) {
                None => Ok(Type::Bool),
                Some(other) => {
                    Err(self.error(format!("true or false is expected here, found {}", other.name())))
                }
            },
            (operators::CONDITIONAL, [condition, yes, no]) if condition.fits(&Type::Bool) => {
                Ok(yes.clone().join(no.clone()))
            }
            (operators::EQUALS | operators::NOT_EQUALS, [one, other]) if one.comparable(other) => {
                Ok(Type::Bool)
            }
            (operators::EQUALS | operators::NOT_EQUALS, [one, other]) => {
                Err(self.error(format!("{} is never equal to {}", one.name(), other.name())))
            }
            (
                operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS,
                [one, other],
            ) if one.ordered(other) => Ok(Type::Bool),
            (operators::IN, [item, range]) => self.membership(item, range),
            (operators::INDEX, [range, index]) => self.index(range, index),
            (operators::NEGATE, [Type::Int | Type::Double | Type::Dyn]) => {
                Ok(types.first().cloned().unwrap_or(Type::Dyn))
            }
            (operators::ADD, [one, other]) => self.sum(one, other),
            (operators::SUBSTRACT, [one, other]) => match (one, other) {
                (Type::Timestamp, Type::Timestamp) => Ok(Type::Duration),
                (Type::Timestamp | Type::Duration, Type::Duration) => Ok(one.clone()),
                _ => self.arithmetic(one, other),
            },
            (operators::MULTIPLY | operators::DIVIDE, [one, other]) => self.arithmetic(one, other),
            (operators::MODULO, [one, other]) if *one != Type::Double => self.arithmetic(one, other),
            _ => Err(self.misfit("this operator", types)),
        }
    }

    fn membership(&self, item: &Type, range: &Type) -> Inferred {
        let fits = match range {
            Type::List(element) => item.comparable(element),
            Type::Claims => item.fits(&Type::String),
            Type::Map(_) | Type::Dyn => true,
            _ => {
                return Err(
                    self.error(format!("\"in\" looks into a list or a map, not into {}", range.name()))
                );
            }
        };
        if fits { Ok(Type::Bool) } else { Err(self.error(format!("{} is never in this list", item.name()))) }
    }

    fn index(&self, range: &Type, index: &Type) -> Inferred {
        match range {
            Type::List(element) if matches!(index, Type::Int | Type::Uint | Type::Dyn) => {
                Ok((**element).clone())
            }
            Type::Map(value) => Ok((**value).clone()),
            Type::Claims if index.fits(&Type::String) => Ok(Type::Dyn),
            Type::Dyn => Ok(Type::Dyn),
            Type::Record(record) => Err(self.error(format!("write {}.FIELD", record.name))),
            other => Err(self.error(format!("{} cannot be indexed by {}", other.name(), index.name()))),
        }
    }

    fn sum(&self, one: &Type, other: &Type) -> Inferred {
        match (one, other) {
            (Type::String, Type::String | Type::Dyn) | (Type::Dyn, Type::String) => Ok(Type::String),
            (Type::Bytes, Type::Bytes) => Ok(Type::Bytes),
            (Type::List(_), Type::List(_)) => Ok(one.clone().join(other.clone())),
            (Type::List(_), Type::Dyn) | (Type::Dyn, Type::List(_)) => Ok(Type::List(Box::new(Type::Dyn))),
            (Type::Timestamp, Type::Duration) | (Type::Duration, Type::Timestamp) => Ok(Type::Timestamp),
            (Type::Duration, Type::Duration) => Ok(Type::Duration),
            _ => self.arithmetic(one, other),
        }
    }

    fn arithmetic(&self, one: &Type, other: &Type) -> Inferred {
        match (one, other) {
            (Type::Dyn, other) if other.numeric() => Ok(other.clone()),
            (one, Type::Dyn) if one.numeric() => Ok(one.clone()),
            (one, other) if one.numeric() && one == other => Ok(one.clone()),
            _ => Err(self.error(format!("{} and {} do not go together here", one.name(), other.name()))),
        }
    }

    fn method(&self, call: &CallExpr, target: &Type, args: &[Type]) -> Inferred {
        const TEXT: [&str; 3] = ["startsWith", "endsWith", "contains"];
        const CALENDAR: [&str; 6] =
            ["getFullYear", "getMonth", "getDayOfYear", "getDayOfMonth", "getDate", "getDayOfWeek"];
        const CLOCK: [&str; 4] = ["getHours", "getMinutes", "getSeconds", "getMilliseconds"];
        let name = call.func_name.as_str();
        match (name, target, args) {
            ("size", _, []) => self.size(target),
            (name, Type::String | Type::Dyn, [Type::String | Type::Dyn]) if TEXT.contains(&name) => {
                Ok(Type::Bool)
            }
            (name, Type::Timestamp | Type::Dyn, []) if CALENDAR.contains(&name) || CLOCK.contains(&name) => {
                Ok(Type::Int)
            }
            (name, Type::Duration, []) if CLOCK.contains(&name) => Ok(Type::Int),
            (name, Type::Timestamp, [Type::String]) if CALENDAR.contains(&name) || CLOCK.contains(&name) => {
                self.time_zone(call)?;
                Ok(Type::Int)
            }
            ("matches", ..) => Err(self.no_regex()),
            _ if TEXT.contains(&name) || CALENDAR.contains(&name) || CLOCK.contains(&name) => {
                let all: Vec<Type> = std::iter::once(target).chain(args).cloned().collect();
                Err(self.misfit(&format!("{name}()"), &all))
            }
            _ => {
                let known = TEXT
                    .into_iter()
                    .chain(CALENDAR)
                    .chain(CLOCK)
                    .chain(["size", "exists", "all", "map", "filter"]);
                Err(self.unknown(format!("there is no method {name}()"), name, known))
            }
        }
    }

    fn function(&self, call: &CallExpr, args: &[Type]) -> Inferred {
        const KNOWN: [&str; 10] =
            ["size", "has", "int", "uint", "double", "string", "bool", "timestamp", "duration", "dyn"];
        let name = call.func_name.as_str();
        let number = |found: &Type| found.numeric() || *found == Type::String;
        match (name, args) {
            ("size", [arg]) => self.size(arg),
            ("int", [arg]) if number(arg) || *arg == Type::Timestamp => Ok(Type::Int),
            ("uint", [arg]) if number(arg) => Ok(Type::Uint),
            ("double", [arg]) if number(arg) => Ok(Type::Double),
            ("bool", [Type::Bool | Type::String | Type::Dyn]) => Ok(Type::Bool),
            ("string", [Type::List(_) | Type::Map(_) | Type::Record(_) | Type::Claims | Type::Null]) => {
                Err(self.misfit("string()", args))
            }
            ("string", [_]) => Ok(Type::String),
            ("timestamp", [Type::String | Type::Int | Type::Timestamp | Type::Dyn]) => {
                self.constant(call, "an RFC 3339 time such as 2027-01-31T00:00:00Z")?;
                Ok(Type::Timestamp)
            }
            ("duration", [Type::String | Type::Duration | Type::Dyn]) => {
                self.constant(call, "a duration such as 90s or 1h30m")?;
                Ok(Type::Duration)
            }
            ("dyn", [_]) => Ok(Type::Dyn),
            ("matches", _) => Err(self.no_regex()),
            _ if KNOWN.contains(&name) => Err(self.misfit(&format!("{name}()"), args)),
            _ => Err(self.unknown(format!("there is no function {name}()"), name, KNOWN)),
        }
    }

    fn size(&self, of: &Type) -> Inferred {
        match of {
            Type::String | Type::Bytes | Type::List(_) | Type::Map(_) | Type::Dyn => Ok(Type::Int),
            other => Err(self.error(format!("{} has no size", other.name()))),
        }
    }

    /// A literal that the evaluation would never accept is an error now.
    fn constant(&self, call: &CallExpr, form: &str) -> Result<(), CheckError> {
        let [IdedExpr { expr: Expr::Literal(_), .. }] = call.args.as_slice() else { return Ok(()) };
        let expr = IdedExpr { id: 0, expr: Expr::Call(call.clone()) };
        match Value::resolve(&expr, &Context::default()) {
            Ok(_) => Ok(()),
            Err(_) => Err(self.error(format!("expected {form}"))),
        }
    }

    fn time_zone(&self, call: &CallExpr) -> Result<(), CheckError> {
        let [IdedExpr { expr: Expr::Literal(_), .. }] = call.args.as_slice() else { return Ok(()) };
        let zero = IdedExpr { id: 0, expr: Expr::Literal(LiteralValue::Int(0.into())) };
        let epoch = CallExpr { func_name: "timestamp".to_owned(), target: None, args: vec![zero] };
        let target = Some(Box::new(IdedExpr { id: 0, expr: Expr::Call(epoch) }));
        let expr = IdedExpr { id: 0, expr: Expr::Call(CallExpr { target, ..call.clone() }) };
        match Value::resolve(&expr, &Context::default()) {
            Ok(_) => Ok(()),
            Err(_) => Err(self.error("expected a time zone such as Europe/Berlin, UTC or +02:00")),
        }
    }

    fn expect(&mut self, expr: &IdedExpr, wanted: &Type) -> Result<(), CheckError> {
        let found = self.infer(expr)?;
        if found.fits(wanted) {
            return Ok(());
        }
        Err(self.error(format!("{} is expected here, found {}", wanted.name(), found.name())))
    }

    fn error(&self, message: impl Into<String>) -> CheckError {
        CheckError::at(self.offset, message)
    }

    fn unknown<'k>(
        &self,
        message: String,
        name: &str,
        known: impl IntoIterator<Item = &'k str>,
    ) -> CheckError {
        let error = self.error(message);
        match suggest(name, known) {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    fn misfit(&self, what: &str, types: &[Type]) -> CheckError {
        let names: Vec<String> = types.iter().map(Type::name).collect();
        let found = if names.is_empty() { "nothing".to_owned() } else { names.join(" and ") };
        self.error(format!("{what} does not take {found}"))
    }

    fn no_regex(&self) -> CheckError {
        self.error("matches() is not available").hint("use startsWith(), endsWith() or contains()")
    }
}

fn is_operator(name: &str) -> bool {
    name.starts_with('@') || name.contains('_')
}

fn literal_type(literal: &LiteralValue) -> Type {
    match literal {
        LiteralValue::Boolean(_) => Type::Bool,
        LiteralValue::Bytes(_) => Type::Bytes,
        LiteralValue::Double(_) => Type::Double,
        LiteralValue::Int(_) => Type::Int,
        LiteralValue::Null => Type::Null,
        LiteralValue::String(_) => Type::String,
        LiteralValue::UInt(_) => Type::Uint,
    }
}
