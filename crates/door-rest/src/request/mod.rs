//! Stage one: method, path, query string and headers → a typed [`Request`]; then the body.
//!
//! Invariants: nothing here knows the catalogue, so no refusal of this stage says whether a table
//! exists; every name and value is decoded exactly once; every length is bounded.

pub(crate) mod body;
pub(crate) mod grammar;
pub(crate) mod prefer;
pub(crate) mod query;
pub(crate) mod range;
pub(crate) mod redact;
pub(crate) mod syntax;

use http::{HeaderMap, HeaderName, Method, header};
use percent_encoding::percent_decode_str;

use crate::codes;
use crate::problem::Problem;
use body::Payload;
use grammar::NAME_BYTES_MAX;
use prefer::{Prefer, Return};
use query::Arguments;
use syntax::Query;

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A table or view.
    Table(Box<str>),
    /// A function.
    Function(Box<str>),
}

impl Target {
    /// The name, exactly as the catalogue has it.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Table(name) | Self::Function(name) => name,
        }
    }
}

/// What is done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// GET and HEAD on a table.
    Read,
    /// POST on a table.
    Insert,
    /// PATCH on a table.
    Update,
    /// DELETE on a table.
    Delete,
    /// GET, HEAD and POST on a function.
    Call,
    /// OPTIONS: which methods are there?
    Describe,
}

/// A request that has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) operation: Operation,
    /// Whether it came by GET or HEAD and therefore must not change anything.
    pub(crate) safe: bool,
    /// Whether the answer has no body (HEAD).
    pub(crate) head: bool,
    pub(crate) schema: Box<str>,
    pub(crate) target: Target,
    pub(crate) query: Query,
    pub(crate) prefer: Prefer,
    /// Whether exactly one row is asked for, as an object.
    pub(crate) singular: bool,
    /// The body, once it has been read.
    pub(crate) payload: Payload,
}

/// What a request's head is read from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    pub(crate) method: &'a Method,
    /// The path behind the resource's segment, still encoded, without its first `/`.
    pub(crate) path: &'a str,
    /// The query string without `?`.
    pub(crate) query: &'a str,
    pub(crate) headers: &'a HeaderMap,
    /// The schemas that the resource serves, the default first.
    pub(crate) schemas: &'a [Box<str>],
}

impl Request {
    /// Reads the head of a request.
    pub(crate) fn read(head: Head<'_>) -> Result<Self, Problem> {
        let target = target(head.path)?;
        let operation = operation(head.method, &target)?;
        let safe = matches!(*head.method, Method::GET | Method::HEAD | Method::OPTIONS);
        let schema = schema(&head, safe)?;
        let singular = accept(head.headers)?;
        let prefer = Prefer::read(texts(head.headers, &HeaderName::from_static("prefer")))?;
        let call_by_get = operation == Operation::Call && safe;
        let arguments = if call_by_get { Arguments::Taken } else { Arguments::Refused };
        let mut query = match operation {
            Operation::Describe => Query::default(),
            _ => query::read(head.query, arguments)?,
        };
        if *head.method == Method::GET {
            range::apply(head.headers.get(header::RANGE), &mut query)?;
        }
        if matches!(operation, Operation::Update | Operation::Delete)
            && (query.limit.is_some() || query.offset > 0)
        {
            // PostgREST once limited the rows that are changed, and now only the rows that are answered.
            // Whoever sends a limit must not lose a table to that difference.
            return Err(query::not_implemented("limit and offset on PATCH and DELETE"));
        }
        if has_body(operation, safe) {
            content_type(head.headers)?;
        }
        Ok(Self {
            operation,
            safe,
            head: *head.method == Method::HEAD,
            schema,
            target,
            query,
            prefer,
            singular,
            payload: Payload::Absent,
        })
    }

    /// Whether the request has a body to read.
    pub(crate) fn takes_body(&self) -> bool {
        has_body(self.operation, self.safe)
    }

    /// Whether the answer tells something about rows: their content, their keys or their number.
    pub(crate) fn answers_rows(&self) -> bool {
        match self.operation {
            Operation::Read | Operation::Call | Operation::Describe => true,
            Operation::Insert | Operation::Update | Operation::Delete => {
                self.prefer.returns() != Return::Minimal || self.prefer.count_exact || self.singular
            }
        }
    }
}

fn has_body(operation: Operation, safe: bool) -> bool {
    match operation {
        Operation::Insert | Operation::Update => true,
        Operation::Call => !safe,
        Operation::Read | Operation::Delete | Operation::Describe => false,
    }
}

fn target(path: &str) -> Result<Target, Problem> {
    let no_such_path = || {
        Problem::new(404, "PGRST125", codes::PATH, "Invalid path specified in request URL")
            .hint("Paths are /RESOURCE/TABLE and /RESOURCE/rpc/FUNCTION.")
    };
    let path = path.strip_suffix('/').unwrap_or(path);
    match path.split('/').collect::<Vec<_>>().as_slice() {
        [""] => Err(Problem::new(404, "PGRST126", codes::PATH, "Root endpoint metadata is disabled")
            .hint("Name a table: /RESOURCE/TABLE. The OpenAPI description comes with a later version.")),
        ["rpc", function] => Ok(Target::Function(segment(function).ok_or_else(no_such_path)?)),
        [table] => Ok(Target::Table(segment(table).ok_or_else(no_such_path)?)),
        _ => Err(no_such_path()),
    }
}

/// A path segment, decoded once. Broken escapes, control characters and names that PostgreSQL would
/// cut are refused, because they could stand for another name than the one that is decided on.
fn segment(encoded: &str) -> Option<Box<str>> {
    let mut rest = encoded;
    while let Some((_, tail)) = rest.split_once('%') {
        let digits = tail.get(..2)?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        rest = tail;
    }
    let name = percent_decode_str(encoded).decode_utf8().ok()?;
    let good = !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control);
    good.then(|| name.into())
}

fn operation(method: &Method, target: &Target) -> Result<Operation, Problem> {
    match (target, method) {
        (_, &Method::OPTIONS) => Ok(Operation::Describe),
        (Target::Table(_), &Method::GET | &Method::HEAD) => Ok(Operation::Read),
        (Target::Table(_), &Method::POST) => Ok(Operation::Insert),
        (Target::Table(_), &Method::PATCH) => Ok(Operation::Update),
        (Target::Table(_), &Method::DELETE) => Ok(Operation::Delete),
        (Target::Function(_), &Method::GET | &Method::HEAD | &Method::POST) => Ok(Operation::Call),
        (Target::Function(_), &Method::PUT | &Method::PATCH | &Method::DELETE) => {
            let message = format!("Cannot use the {method} method on RPC");
            Err(Problem::new(405, "PGRST101", codes::METHOD, message).hint("Call functions by GET or POST."))
        }
        (Target::Table(_), &Method::PUT) => {
            Err(Problem::new(405, "PGRST117", codes::METHOD, "Unsupported HTTP method: PUT")
                .hint("Use POST to insert and PATCH to update; PUT comes with upsert, in a later version."))
        }
        _ => Err(Problem::new(405, "PGRST117", codes::METHOD, "Unsupported HTTP method")
            .hint("Use GET, HEAD, POST, PATCH, DELETE or OPTIONS.")),
    }
}

/// The methods that a refusal by method names in `Allow`.
pub(crate) fn allowed_methods(path: &str) -> &'static str {
    if path.starts_with("rpc/") { "OPTIONS,GET,HEAD,POST" } else { "OPTIONS,GET,HEAD,POST,PATCH,DELETE" }
}

fn texts<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok())
}

fn schema(head: &Head<'_>, safe: bool) -> Result<Box<str>, Problem> {
    let name = if safe { "accept-profile" } else { "content-profile" };
    let asked = head.headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let served = match asked {
        None => head.schemas.first(),
        Some(asked) => head.schemas.iter().find(|schema| &***schema == asked),
    };
    // The refusal does not list what is served: at this point nobody has decided what the caller may know.
    served.cloned().ok_or_else(|| {
        Problem::new(406, "PGRST106", codes::SCHEMA, "Invalid schema")
            .details(format!("the schema asked for in {name} is not served"))
            .hint("Leave the header out for the default schema, or name one that the resource's configuration lists.")
    })
}

/// Whether exactly one row is asked for. Only JSON is written.
fn accept(headers: &HeaderMap) -> Result<bool, Problem> {
    let mut asked = texts(headers, &header::ACCEPT).flat_map(|value| value.split(',')).peekable();
    if asked.peek().is_none() {
        return Ok(false);
    }
    for media in asked {
        let essence = media.split(';').next().unwrap_or_default().trim();
        match essence.to_ascii_lowercase().as_str() {
            "*/*" | "application/*" | "application/json" | "" => return Ok(false),
            "application/vnd.pgrst.array+json" | "application/vnd.pgrst.array" => return Ok(false),
            "application/vnd.pgrst.object+json" | "application/vnd.pgrst.object"
                if !media.contains("nulls=stripped") =>
            {
                return Ok(true);
            }
            _ => {}
        }
    }
    let message = "None of these media types are available";
    Err(Problem::new(406, "PGRST107", codes::NOT_ACCEPTABLE, message)
        .details("this version writes application/json")
        .hint("Send Accept: application/json."))
}

fn content_type(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let json = ["application/json", "application/vnd.pgrst.object+json", "application/vnd.pgrst.array+json"];
    if essence.is_empty() || json.iter().any(|known| essence.eq_ignore_ascii_case(known)) {
        return Ok(());
    }
    Err(Problem::new(415, "PGRST107", codes::MEDIA_TYPE, "Content-Type not acceptable")
        .details("this version reads JSON bodies; CSV and form bodies come with a later one")
        .hint("Send the body as application/json."))
}
