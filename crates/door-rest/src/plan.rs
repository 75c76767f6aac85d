//! Stage two: a request and the catalogue → a [`Plan`]. Pure: the same input gives the same plan.
//!
//! A plan is a source (a relation, a change, a function's call) and a tree of nodes that select from it.
//! There is one node as yet; a foreign key's embedding will hang sub-selects under it, each a LATERAL
//! join of its parent.
//!
//! Invariants: the table, the function and every column that is written come from the catalogue, never
//! from the request; this stage runs after the decision, so its refusals tell only those who may know.
//! A column that is only read may be a computed one: a function of the row, which needs a grant of its own.

use doorward_pgclient::catalog::{Argument, Catalog, Column, Function, Generated, Relation, Volatility};

use crate::codes;
use crate::problem::Problem;
use crate::request::body::Payload;
use crate::request::prefer::Return;
use crate::request::syntax::{Condition, Field, Filter, Item, Order, Test};
use crate::request::{Operation, Request, Target};

mod oid {
    pub(super) const JSON: u32 = 114;
    pub(super) const JSONB: u32 = 3802;
    pub(super) const TSVECTOR: u32 = 3614;
    pub(super) const VOID: u32 = 2278;
}

/// What will be done.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) source: Source<'a>,
    pub(crate) root: Node<'a>,
    pub(crate) form: BodyForm,
    /// Whether the whole change is undone unless it is of exactly one row.
    pub(crate) only_one: bool,
    /// Whether the rows are counted as if there were no limit.
    pub(crate) count: bool,
    pub(crate) read_only: bool,
    /// The columns that a new row's `Location` names.
    pub(crate) location: Vec<&'a str>,
}

/// Where the rows come from.
#[derive(Debug)]
pub(crate) enum Source<'a> {
    Relation(&'a Relation),
    Insert(Change<'a>),
    Update(Change<'a>, Vec<Where<'a>>),
    Delete(&'a Relation, Vec<Where<'a>>),
    Call(&'a Function, CallArguments<'a>),
}

/// A change whose values are in the body.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    pub(crate) relation: &'a Relation,
    /// The columns that are written, as the catalogue has them.
    pub(crate) columns: Vec<&'a Column>,
    pub(crate) payload: &'a Payload,
    /// Whether absent values are the columns' defaults.
    pub(crate) defaults: bool,
}

/// How a function gets its arguments.
#[derive(Debug)]
pub(crate) enum CallArguments<'a> {
    /// By name, each a value of the query string.
    Values(Vec<(&'a Argument, Vec<&'a str>)>),
    /// By name, from the body's object.
    Object(Vec<&'a Argument>, &'a Payload),
    /// The whole body is the one unnamed argument.
    Whole(&'a Argument, &'a Payload),
}

/// One node of the tree: which columns of the source, which rows, in which order.
#[derive(Debug, Default)]
pub(crate) struct Node<'a> {
    /// Empty means all columns.
    pub(crate) items: Vec<Output<'a>>,
    pub(crate) conditions: Vec<Where<'a>>,
    pub(crate) order: Vec<(Expression<'a>, &'a Order)>,
    pub(crate) limit: Option<u64>,
    pub(crate) offset: u64,
}

/// One item of the output.
#[derive(Debug)]
pub(crate) enum Output<'a> {
    Star,
    Column { expression: Expression<'a>, name: &'a str, cast: Option<&'a str> },
}

/// A field, and what its column's type asks for.
#[derive(Clone, Debug)]
pub(crate) struct Expression<'a> {
    pub(crate) field: &'a Field,
    /// The column is no JSON, so a path into it begins with a conversion.
    pub(crate) to_json: bool,
}

/// A condition with its fields resolved.
#[derive(Debug)]
pub(crate) enum Where<'a> {
    Filter {
        expression: Expression<'a>,
        filter: &'a Filter,
        /// Full-text search on something that is no `tsvector` converts it first.
        to_tsvector: bool,
    },
    Group {
        negated: bool,
        any: bool,
        parts: Vec<Where<'a>>,
    },
}

/// What the answer's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyForm {
    /// An array of row objects.
    Rows,
    /// One row object.
    Row,
    /// An array of values.
    Values,
    /// One value.
    Value,
    /// Nothing.
    Empty,
}

/// What the planner is told beside the request and the catalogue.
pub(crate) struct Bounds<'p> {
    /// The most rows that are answered.
    pub(crate) rows_max: Option<u64>,
    /// Whether the caller may hear of a table or function of this name.
    pub(crate) may_name: &'p (dyn Fn(&str) -> bool + Sync),
    /// Whether the caller may read a table or function of this name: what a computed column needs.
    pub(crate) may_read: &'p (dyn Fn(&str) -> bool + Sync),
}

/// Plans a request.
pub(crate) fn plan<'a>(
    request: &'a Request,
    catalog: &'a Catalog,
    bounds: &Bounds<'_>,
) -> Result<Plan<'a>, Problem> {
    match &request.target {
        Target::Table(_) => {
            let relation = relation(request, catalog, bounds)?;
            check_computed(request, relation, catalog, bounds)?;
            plan_table(request, relation, bounds)
        }
        Target::Function(_) => plan_call(request, catalog, bounds),
    }
}

/// The relation that a request names.
pub(crate) fn relation<'a>(
    request: &Request,
    catalog: &'a Catalog,
    bounds: &Bounds<'_>,
) -> Result<&'a Relation, Problem> {
    let (schema, name) = (&*request.schema, request.target.name());
    catalog.relation(schema, name).ok_or_else(|| {
        let names = catalog.relations(schema).map(|relation| &*relation.name);
        let message = format!("Could not find the table '{schema}.{name}' in the schema cache");
        let problem = Problem::new(404, "PGRST205", codes::UNKNOWN_TABLE, message);
        match closest(name, names, bounds) {
            Some(found) => problem.hint(format!("Perhaps you meant the table '{schema}.{found}'")),
            None => problem
                .hint("Check the table's name; a new table is known once the schema has been reloaded."),
        }
    })
}

/// The functions that a request can mean, by name alone.
pub(crate) fn functions<'a>(request: &Request, catalog: &'a Catalog) -> Vec<&'a Function> {
    let named = catalog.functions(&request.schema, request.target.name());
    named.iter().filter(|function| !function.procedure).collect()
}

/// PostgreSQL reads `table.name` as a call of `name(table)` when there is no such column. So a field that is
/// no column is a function of the served schema that the caller may read, or it is refused: a grant on a
/// table is no grant on functions.
fn check_computed(
    request: &Request,
    relation: &Relation,
    catalog: &Catalog,
    bounds: &Bounds<'_>,
) -> Result<(), Problem> {
    let query = &request.query;
    let selected = query.select.iter().filter_map(|item| match item {
        Item::Star => None,
        Item::Column { field, .. } => Some(field),
    });
    let mut fields: Vec<&Field> = selected.chain(query.order.iter().map(|term| &term.field)).collect();
    tested(&query.conditions, &mut fields);
    for field in fields {
        let name = &*field.name;
        let computed = || !catalog.functions(&request.schema, name).is_empty() && (bounds.may_read)(name);
        if relation.column(name).is_none() && !computed() {
            return Err(undefined_column(relation, name));
        }
    }
    Ok(())
}

/// The fields of a tree of conditions; its depth is bounded by the grammar.
fn tested<'a>(conditions: &'a [Condition], fields: &mut Vec<&'a Field>) {
    for condition in conditions {
        match condition {
            Condition::Filter(filter) => fields.push(&filter.field),
            Condition::Group { parts, .. } => tested(parts, fields),
        }
    }
}

/// As PostgreSQL says it.
fn undefined_column(relation: &Relation, name: &str) -> Problem {
    let shown: String = name.chars().take(64).collect();
    let message = format!("column {}.{shown} does not exist", relation.name);
    let problem = Problem::new(400, "42703", codes::UNKNOWN_COLUMN, message);
    let everything = Bounds { rows_max: None, may_name: &|_| true, may_read: &|_| true };
    match closest(name, relation.columns.iter().map(|column| &*column.name), &everything) {
        Some(found) => problem.hint(format!("Perhaps you meant the column '{found}'.")),
        None => {
            problem.hint("Check the column's name; a computed column needs a grant to read its function.")
        }
    }
}

/// How alike a name must be to be offered instead.
const LIKENESS_MIN: f64 = 0.75;

fn closest<'n>(name: &str, names: impl Iterator<Item = &'n str>, bounds: &Bounds<'_>) -> Option<&'n str> {
    names
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(likeness, candidate)| *likeness >= LIKENESS_MIN && (bounds.may_name)(candidate))
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1)))
        .map(|(_, candidate)| candidate)
}

fn plan_table<'a>(
    request: &'a Request,
    relation: &'a Relation,
    bounds: &Bounds<'_>,
) -> Result<Plan<'a>, Problem> {
    let scope = Scope { relation: Some(relation) };
    let query = &request.query;
    let mut root = Node { limit: bounded(query.limit, bounds), offset: query.offset, ..Node::default() };
    let returns = request.prefer.returns();
    let writes = request.operation != Operation::Read;
    if !writes || returns == Return::Representation {
        root.items = query.select.iter().map(|item| scope.output(item)).collect();
        root.order = scope.order(&query.order);
    }
    if writes {
        may_change(request, relation)?;
    }
    let source = match request.operation {
        Operation::Insert => Source::Insert(change(request, relation)?),
        Operation::Update => Source::Update(change(request, relation)?, scope.conditions(&query.conditions)),
        Operation::Delete => Source::Delete(relation, scope.conditions(&query.conditions)),
        Operation::Read | Operation::Call | Operation::Describe => {
            root.conditions = scope.conditions(&query.conditions);
            Source::Relation(relation)
        }
    };
    let form = match (request.head, writes, returns) {
        (true, ..) | (_, true, Return::Minimal | Return::HeadersOnly) => BodyForm::Empty,
        _ if request.singular => BodyForm::Row,
        _ => BodyForm::Rows,
    };
    let location = match (&source, returns) {
        (Source::Insert(_), Return::HeadersOnly) => relation.primary_key.iter().map(|name| &**name).collect(),
        _ => Vec::new(),
    };
    let only_one = writes && request.singular;
    Ok(Plan { source, root, form, only_one, count: request.prefer.count_exact, read_only: !writes, location })
}

fn bounded(limit: Option<u64>, bounds: &Bounds<'_>) -> Option<u64> {
    match (limit, bounds.rows_max) {
        (Some(limit), Some(max)) => Some(limit.min(max)),
        (limit, max) => limit.or(max),
    }
}

/// A view that cannot be changed says so itself, but with a status that blames the server.
fn may_change(request: &Request, relation: &Relation) -> Result<(), Problem> {
    let (able, method) = match request.operation {
        Operation::Insert => (relation.insertable, "POST"),
        Operation::Update => (relation.updatable, "PATCH"),
        Operation::Delete => (relation.deletable, "DELETE"),
        Operation::Read | Operation::Call | Operation::Describe => return Ok(()),
    };
    if able {
        return Ok(());
    }
    Err(Problem::new(405, "PGRST117", codes::METHOD, format!("Unsupported HTTP method: {method}"))
        .details(format!(
            "'{}.{}' is a view whose rows cannot be changed this way",
            relation.schema, relation.name
        ))
        .hint("OPTIONS lists the methods; change the tables behind the view."))
}

fn change<'a>(request: &'a Request, relation: &'a Relation) -> Result<Change<'a>, Problem> {
    let given = match &request.query.columns {
        Some(columns) => columns.as_slice(),
        None => request.payload.keys(),
    };
    let mut columns = Vec::with_capacity(given.len());
    for name in given {
        let column = relation.column(name).ok_or_else(|| unknown_column(relation, name))?;
        if !columns.iter().any(|known: &&Column| known.name == column.name) {
            columns.push(column);
        }
    }
    let defaults = request.prefer.missing_default == Some(true);
    Ok(Change { relation, columns, payload: &request.payload, defaults })
}

fn unknown_column(relation: &Relation, name: &str) -> Problem {
    // A key of the body is the caller's text; what it is cut to is enough to recognize it.
    let shown: String = name.chars().take(64).collect();
    let message = format!("Could not find the '{shown}' column of '{}' in the schema cache", relation.name);
    let problem = Problem::new(400, "PGRST204", codes::UNKNOWN_COLUMN, message);
    let everything = Bounds { rows_max: None, may_name: &|_| true, may_read: &|_| true };
    match closest(name, relation.columns.iter().map(|column| &*column.name), &everything) {
        Some(found) => problem.hint(format!("Perhaps you meant the column '{found}'")),
        None => problem.hint("Leave the key out, or check the column's name."),
    }
}

/// What fields can mean in one node.
struct Scope<'a> {
    /// Unknown for functions that return no relation's rows.
    relation: Option<&'a Relation>,
}

impl<'a> Scope<'a> {
    fn base_oid(&self, name: &str) -> Option<u32> {
        self.relation.and_then(|relation| relation.column(name)).map(|column| column.base_oid)
    }

    fn expression(&self, field: &'a Field) -> Expression<'a> {
        let is_json = |oid| matches!(oid, oid::JSON | oid::JSONB);
        let to_json = !field.path.is_empty() && self.base_oid(&field.name).is_some_and(|oid| !is_json(oid));
        Expression { field, to_json }
    }

    fn output(&self, item: &'a Item) -> Output<'a> {
        match item {
            Item::Star => Output::Star,
            Item::Column { field, alias, cast } => Output::Column {
                expression: self.expression(field),
                name: alias.as_deref().unwrap_or_else(|| default_name(field)),
                cast: cast.as_deref(),
            },
        }
    }

    fn order(&self, terms: &'a [Order]) -> Vec<(Expression<'a>, &'a Order)> {
        terms.iter().map(|term| (self.expression(&term.field), term)).collect()
    }

    fn conditions(&self, conditions: &'a [Condition]) -> Vec<Where<'a>> {
        conditions.iter().map(|condition| self.condition(condition)).collect()
    }

    fn condition(&self, condition: &'a Condition) -> Where<'a> {
        match condition {
            Condition::Group { negated, any, parts } => {
                Where::Group { negated: *negated, any: *any, parts: self.conditions(parts) }
            }
            Condition::Filter(filter) => {
                let search = matches!(filter.test, Test::Search { .. });
                let is_vector = filter.field.path.is_empty()
                    && self.base_oid(&filter.field.name).is_none_or(|oid| oid == oid::TSVECTOR);
                Where::Filter {
                    expression: self.expression(&filter.field),
                    filter,
                    to_tsvector: search && !is_vector,
                }
            }
        }
    }
}

/// An item without an alias is named by the last key of its path, or else by its column.
fn default_name(field: &Field) -> &str {
    use crate::request::syntax::Operand;
    let key = field.path.iter().rev().find_map(|step| match &step.operand {
        Operand::Key(key) => Some(&**key),
        Operand::Index(_) => None,
    });
    key.unwrap_or(&field.name)
}

fn plan_call<'a>(
    request: &'a Request,
    catalog: &'a Catalog,
    bounds: &Bounds<'_>,
) -> Result<Plan<'a>, Problem> {
    let candidates = functions(request, catalog);
    let function = choose(request, &candidates, catalog, bounds)?;
    let arguments = call_arguments(request, function);
    let returns = &function.returns;
    let relation = returns.relation.as_ref().and_then(|(schema, name)| catalog.relation(schema, name));
    let scope = Scope { relation };
    let query = &request.query;
    let mut root = Node::default();
    let form = match (returns.type_oid == oid::VOID, returns.composite, returns.set) {
        (true, ..) => BodyForm::Empty,
        _ if request.head => BodyForm::Empty,
        (_, true, set) if set && !request.singular => BodyForm::Rows,
        (_, true, _) => BodyForm::Row,
        (_, false, set) if set && !request.singular => BodyForm::Values,
        (_, false, _) => BodyForm::Value,
    };
    if returns.composite {
        root.items = query.select.iter().map(|item| scope.output(item)).collect();
        root.conditions = scope.conditions(&query.conditions);
        root.order = scope.order(&query.order);
    }
    if returns.set {
        (root.limit, root.offset) = (bounded(query.limit, bounds), query.offset);
    }
    // GET is read only whatever the function's author says, and POST is where the author says so.
    let read_only = request.safe || function.volatility != Volatility::Volatile;
    let source = Source::Call(function, arguments);
    let only_one = request.singular && !read_only && form != BodyForm::Empty;
    let count = request.prefer.count_exact;
    Ok(Plan { source, root, form, only_one, count, read_only, location: Vec::new() })
}

/// The names of the arguments that a call gives.
fn given_names(request: &Request) -> Vec<&str> {
    let mut names: Vec<&str> = match request.safe {
        true => request.query.arguments.iter().map(|(name, _)| &**name).collect(),
        false => request.payload.keys().iter().map(|name| &**name).collect(),
    };
    names.sort_unstable();
    names.dedup();
    names
}

fn choose<'a>(
    request: &Request,
    candidates: &[&'a Function],
    catalog: &Catalog,
    bounds: &Bounds<'_>,
) -> Result<&'a Function, Problem> {
    let given = given_names(request);
    let by_name = matches!(request.payload, Payload::Absent | Payload::Object { .. });
    let mut fitting: Vec<&Function> =
        candidates.iter().copied().filter(|function| by_name && fits(function, &given)).collect();
    if fitting.is_empty() && !request.safe {
        fitting = candidates.iter().copied().filter(|function| takes_whole(function)).collect();
    }
    match fitting.as_slice() {
        [function] => Ok(function),
        [] => Err(unknown_function(request, &given, candidates, catalog, bounds)),
        several => {
            let signatures: Vec<String> = several.iter().map(|function| signature(function)).collect();
            let message =
                format!("Could not choose the best candidate function between: {}", signatures.join(", "));
            Err(Problem::new(300, "PGRST203", codes::AMBIGUOUS_FUNCTION, message).hint(
                "Try renaming the parameters or the function itself in the database so function overloading can be resolved",
            ))
        }
    }
}

fn fits(function: &Function, given: &[&str]) -> bool {
    let named = function.arguments.iter().all(|argument| !argument.name.is_empty());
    let all_known =
        given.iter().all(|name| function.arguments.iter().any(|argument| &*argument.name == *name));
    let all_given =
        function.arguments.iter().all(|argument| argument.has_default || given.contains(&&*argument.name));
    named && all_known && all_given
}

/// A function with one unnamed JSON argument takes the body as it is.
fn takes_whole(function: &Function) -> bool {
    match function.arguments.as_slice() {
        [argument] => argument.name.is_empty() && matches!(argument.type_oid, oid::JSON | oid::JSONB),
        _ => false,
    }
}

fn call_arguments<'a>(request: &'a Request, function: &'a Function) -> CallArguments<'a> {
    if let ([argument], true) = (function.arguments.as_slice(), takes_whole(function)) {
        return CallArguments::Whole(argument, &request.payload);
    }
    if !request.safe {
        let keys = request.payload.keys();
        let given = function.arguments.iter().filter(|argument| keys.contains(&argument.name)).collect();
        return CallArguments::Object(given, &request.payload);
    }
    let values = |argument: &Argument| -> Vec<&'a str> {
        let named = request.query.arguments.iter().filter(|(name, _)| *name == argument.name);
        named.map(|(_, value)| &**value).collect()
    };
    let given = function.arguments.iter().map(|argument| (argument, values(argument)));
    CallArguments::Values(given.filter(|(_, values)| !values.is_empty()).collect())
}

fn signature(function: &Function) -> String {
    let arguments: Vec<String> = function
        .arguments
        .iter()
        .map(|argument| format!("{} => {}", argument.name, argument.type_name))
        .collect();
    format!("{}.{}({})", function.schema, function.name, arguments.join(", "))
}

/// How many of the given names a refusal repeats.
const NAMES_SHOWN_MAX: usize = 16;

fn unknown_function(
    request: &Request,
    given: &[&str],
    candidates: &[&Function],
    catalog: &Catalog,
    bounds: &Bounds<'_>,
) -> Problem {
    let (schema, name) = (&*request.schema, request.target.name());
    // A body may have very many keys; a few of them, cut, are enough to recognize it.
    let mut shown: Vec<String> =
        given.iter().take(NAMES_SHOWN_MAX).map(|name| name.chars().take(64).collect()).collect();
    if given.len() > NAMES_SHOWN_MAX {
        shown.push("…".to_owned());
    }
    let parameters = match shown.as_slice() {
        [] => " without parameters".to_owned(),
        shown => format!("({})", shown.join(", ")),
    };
    let message = format!("Could not find the function {schema}.{name}{parameters} in the schema cache");
    let problem = Problem::new(404, "PGRST202", codes::UNKNOWN_FUNCTION, message).details(format!(
        "Searched for the function {schema}.{name}{parameters}, but no matches were found in the schema cache."
    ));
    if let Some(candidate) = candidates.first() {
        let mut names: Vec<&str> = candidate.arguments.iter().map(|argument| &*argument.name).collect();
        names.sort_unstable();
        return problem
            .hint(format!("Perhaps you meant to call the function {schema}.{name}({})", names.join(", ")));
    }
    let names = catalog.all_functions(schema).filter(|function| !function.procedure).map(|f| &*f.name);
    match closest(name, names, bounds) {
        Some(found) => problem.hint(format!("Perhaps you meant to call the function {schema}.{found}")),
        None => problem
            .hint("Check the function's name; a new function is known once the schema has been reloaded."),
    }
}

/// The methods that OPTIONS answers.
pub(crate) fn methods(
    request: &Request,
    catalog: &Catalog,
    bounds: &Bounds<'_>,
) -> Result<&'static str, Problem> {
    if let Target::Function(_) = request.target {
        let candidates = functions(request, catalog);
        return match candidates.iter().any(|function| function.volatility != Volatility::Volatile) {
            _ if candidates.is_empty() => Err(unknown_function(request, &[], &candidates, catalog, bounds)),
            true => Ok("OPTIONS,GET,HEAD,POST"),
            false => Ok("OPTIONS,POST"),
        };
    }
    let relation = relation(request, catalog, bounds)?;
    Ok(match (relation.insertable, relation.updatable, relation.deletable) {
        (true, true, true) => "OPTIONS,GET,HEAD,POST,PATCH,DELETE",
        (true, true, false) => "OPTIONS,GET,HEAD,POST,PATCH",
        (true, false, true) => "OPTIONS,GET,HEAD,POST,DELETE",
        (true, false, false) => "OPTIONS,GET,HEAD,POST",
        (false, true, true) => "OPTIONS,GET,HEAD,PATCH,DELETE",
        (false, true, false) => "OPTIONS,GET,HEAD,PATCH",
        (false, false, true) => "OPTIONS,GET,HEAD,DELETE",
        (false, false, false) => "OPTIONS,GET,HEAD",
    })
}

/// The SQL that makes a column's default, if it has one.
pub(crate) fn default_of(column: &Column) -> Option<&str> {
    match column.generated {
        Generated::No => column.default.as_deref(),
        Generated::IdentityAlways | Generated::IdentityByDefault | Generated::Expression => None,
    }
}

/// Whether a function answers nothing at all.
pub(crate) fn is_void(function: &Function) -> bool {
    function.returns.type_oid == oid::VOID
}
