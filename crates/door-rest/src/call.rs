//! One call of the REST door on the main road.
//!
//! Which action a call needs is read off its head alone: path, method and `Prefer`. The catalogue is
//! asked after the decision, so a table that does not exist and one that the caller may not see are
//! refused alike.
//!
//! | request | actions on `schema/name` |
//! |---|---|
//! | GET, HEAD, OPTIONS on a table | read |
//! | POST, PATCH | write; and read when rows, keys or counts are answered |
//! | DELETE | delete; and read when rows or counts are answered |
//! | GET, HEAD, OPTIONS on a function | read: its transaction is read only, whatever the function is |
//! | POST on a function | execute, whether or not the function is declared to have side effects |
//!
//! A filter of PATCH or DELETE needs no read of its own: the answer does not tell what it matched. The
//! role needs SELECT on the filtered columns all the same, as in PostgreSQL.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use doorward_core::{
    Access, Action, Actions, Call, Caller, Case, Clock, Completion, Credentials, Decision, Fault, Object, Pass,
    Principal, Refusal, ResourceName, Shaped, Snapshot, SystemClock, Verb, unknown_resource,
};
use doorward_pgclient::{Reply, RunError};
use http::{HeaderMap, Method, Response, header};
use http_body_util::BodyExt;

use crate::answer::{self, Facts};
use crate::codes;
use crate::plan::{self, BodyForm, Bounds, Plan, Source};
use crate::problem::{self, Form, Problem};
use crate::request::body::{Expect, Payload};
use crate::request::{self, Head, Operation, Request, redact};
use crate::resource::RestResource;
use crate::settings::Settings;
use crate::sql::{self, column};
use crate::sqlstate;

/// How long a body may take to arrive.
const BODY_WAIT_MAX: Duration = Duration::from_secs(30);

/// What came in over HTTP.
#[derive(Debug)]
pub struct RestInput<B> {
    /// The resource that the address names.
    pub resource: Box<str>,
    /// The method.
    pub method: Method,
    /// The path behind the resource, still encoded, without its first `/`.
    pub path: Box<str>,
    /// The query string, without `?`.
    pub query: Box<str>,
    /// The headers.
    pub headers: HeaderMap,
    /// What the caller showed.
    pub credentials: Credentials,
    /// The body, not yet read.
    pub body: B,
}

/// A call of the REST door.
#[derive(Debug)]
pub struct RestCall<B> {
    input: RestInput<B>,
    /// Read by `decode`.
    request: Option<Request>,
    /// The form of the fault that this call itself raised.
    form: Option<Form>,
}

/// What `forward` brings back.
#[derive(Debug)]
pub enum RestReply {
    /// The facts of an answer, and how many bytes the database sent.
    Rows(Box<RestFacts>),
    /// The methods that OPTIONS answers.
    Methods(&'static str),
}

/// The database's answer, taken apart.
#[derive(Debug)]
pub struct RestFacts(Facts);

impl<B> RestCall<B>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
    B::Error: std::fmt::Display,
{
    /// A call that has come in.
    pub fn new(input: RestInput<B>) -> Self {
        Self { input, request: None, form: None }
    }

    fn raise<T>(&mut self, result: Result<T, Problem>) -> Result<T, Fault> {
        result.map_err(|problem| {
            self.form = Some(problem.form);
            problem.fault
        })
    }

    async fn read(&mut self, access: &mut Access) -> Result<Actions, Problem> {
        let snapshot = access.snapshot().clone();
        let rest = resource(&snapshot, &self.input.resource)?;
        access.note_endpoint(endpoint(&self.input.method, rest.name.as_str(), &self.input.path));
        if let Some(agent) = self.input.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()) {
            access.note_user_agent(agent);
        }
        let head = Head {
            method: &self.input.method,
            path: &self.input.path,
            query: &self.input.query,
            headers: &self.input.headers,
            schemas: &rest.schemas,
        };
        let mut request = Request::read(head)?;
        if request.takes_body() {
            let json = read_body(&mut self.input.body, &self.input.headers, rest.body_max, access).await?;
            let expect = match request.operation {
                Operation::Call => Expect::Arguments,
                _ => Expect::Rows,
            };
            request.payload = Payload::read(json, expect, request.query.columns.is_some())?;
        }
        let operation = redact::operation(&request, self.input.method.as_str(), rest.name.as_str());
        let fingerprint = redact::fingerprint(&operation);
        access.note_operation(operation, Some(fingerprint));
        let actions = actions(&request, &rest.name);
        self.request = Some(request);
        Ok(actions)
    }

    async fn ask(&mut self, pass: &mut Pass) -> Result<RestReply, Problem> {
        let snapshot = pass.access().snapshot().clone();
        let rest = resource(&snapshot, &self.input.resource)?;
        let request = self.request.as_ref().ok_or_else(|| unexpected("the request was not decoded"))?;
        let role = pass.lease().role().ok_or_else(no_role)?.clone();
        let catalog = rest.catalog().ok_or_else(no_catalogue)?;
        let may_name = may_name(request, &snapshot, pass)?;
        let obligations = pass.permit().obligations().clone();
        let rows_max = match (obligations.rows_max, rest.max_rows) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let bounds = Bounds { rows_max, may_name: &may_name };
        if request.operation == Operation::Describe {
            return Ok(RestReply::Methods(plan::methods(request, &catalog, &bounds)?));
        }
        let plan = plan::plan(request, &catalog, &bounds)?;
        let statement = sql::write(&plan);
        let principal = pass.permit().principal().clone();
        let settings = Settings::of(&self.input.headers, &self.input.method, request, rest, &principal);
        let params: Vec<Option<&[u8]>> = statement.params.iter().map(|value| Some(&value[..])).collect();
        let asked = doorward_pgclient::Request {
            settings: &settings.pairs(),
            read_only: plan.read_only,
            calls_function: matches!(plan.source, Source::Call(..)),
            sql: &statement.text,
            params: &params,
            bytes_max: obligations.bytes_max,
            timeout: obligations.timeout.or(rest.timeout),
            ..doorward_pgclient::Request::default()
        };
        tracing::debug!(role = role.as_str(), sql = statement.text, "asking the database");
        match rest.pool.run(pass, &asked).await {
            Ok(reply) => Ok(RestReply::Rows(Box::new(RestFacts(facts(&plan, &reply)?)))),
            Err(RunError::Server(error)) => Err(sqlstate::problem(&error, principal.authenticated())),
            Err(RunError::Fault(fault)) => Err(pool_problem(fault)),
        }
    }
}

impl<B> Call for RestCall<B>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
    B::Error: std::fmt::Display,
{
    type Answer = Response<Bytes>;
    type Reply = RestReply;

    fn caller(&self) -> Caller<'_> {
        Caller::Credentials(&self.input.credentials)
    }

    async fn decode(&mut self, access: &mut Access, _: &Arc<Principal>) -> Result<Actions, Fault> {
        let read = self.read(access).await;
        self.raise(read)
    }

    async fn forward(&mut self, pass: &mut Pass) -> Result<RestReply, Fault> {
        let asked = self.ask(pass).await;
        self.raise(asked)
    }

    fn shape(&mut self, reply: RestReply, _: &mut Pass) -> Result<Shaped<Response<Bytes>>, Fault> {
        let facts = match reply {
            RestReply::Methods(methods) => {
                let mut response = Response::new(Bytes::new());
                response.headers_mut().insert(header::ALLOW, http::HeaderValue::from_static(methods));
                let completion = Completion { status: Some(200), ..Completion::default() };
                return Ok(Shaped::Whole(response, completion));
            }
            RestReply::Rows(facts) => facts.0,
        };
        let rows = facts.rows;
        let shaped = match &self.request {
            Some(request) => answer::answer(request, &self.input.resource, facts),
            None => Err(unexpected("the request was not decoded")),
        };
        let response = self.raise(shaped)?;
        let completion = Completion {
            status: Some(response.status().as_u16()),
            rows: Some(rows),
            bytes_out: u64::try_from(response.body().len()).unwrap_or(u64::MAX),
        };
        Ok(Shaped::Whole(response, completion))
    }

    fn refuse(&mut self, refusal: &Refusal<'_>) -> (Response<Bytes>, Completion) {
        let form = self.form.take().unwrap_or_else(|| problem::form_of(refusal));
        let mut response = answer::refusal(&form, refusal);
        if form.status == 405 {
            let allow = request::allowed_methods(&self.input.path);
            response.headers_mut().insert(header::ALLOW, http::HeaderValue::from_static(allow));
        }
        let bytes_out = u64::try_from(response.body().len()).unwrap_or(u64::MAX);
        let completion = Completion { status: Some(response.status().as_u16()), rows: None, bytes_out };
        if self.input.method == Method::HEAD {
            *response.body_mut() = Bytes::new();
        }
        (response, completion)
    }
}

fn resource<'s>(snapshot: &'s Snapshot, name: &str) -> Result<&'s RestResource, Problem> {
    let Some(resource) = snapshot.resource(name) else {
        let form =
            Form { status: 404, code: "PGRST125".into(), message: None, details: None, hint: None };
        return Err(Problem { fault: unknown_resource(name), form });
    };
    resource.backend::<RestResource>().ok_or_else(|| {
        Problem::new(500, "PGRSTX00", codes::NOT_REST, "the resource is not served by this door")
            .hint("Tell the gateway's operator the access id.")
    })
}

/// The route's template: as many of them as there are methods and resources, whatever callers send.
fn endpoint(method: &Method, resource: &str, path: &str) -> String {
    let method = match *method {
        Method::GET | Method::HEAD | Method::POST | Method::PATCH | Method::DELETE | Method::OPTIONS => {
            method.as_str()
        }
        _ => "OTHER",
    };
    let tail = if path.starts_with("rpc/") { "rpc/{function}" } else { "{table}" };
    format!("{method} /{resource}/{tail}")
}

/// The actions that a request needs, from its head alone.
fn actions(request: &Request, resource: &ResourceName) -> Actions {
    let verb = match request.operation {
        Operation::Read | Operation::Describe => Verb::Read,
        Operation::Insert | Operation::Update => Verb::Write,
        Operation::Delete => Verb::Delete,
        Operation::Call if request.safe => Verb::Read,
        Operation::Call => Verb::Execute,
    };
    let action = |verb| action(verb, request, resource, request.target.name());
    let reads_too = matches!(request.operation, Operation::Insert | Operation::Update | Operation::Delete)
        && request.answers_rows();
    let one = Actions::one(action(verb));
    if !reads_too {
        return one;
    }
    Actions::new(vec![action(verb), action(Verb::Read)]).unwrap_or(one)
}

fn action(verb: Verb, request: &Request, resource: &ResourceName, name: &str) -> Action {
    Action { verb, resource: resource.clone(), object: Object::from_segments([&*request.schema, name]) }
}

/// Which names a refusal may offer instead of an unknown one: those that the caller could have asked for.
fn may_name<'a>(
    request: &'a Request,
    snapshot: &'a Snapshot,
    pass: &mut Pass,
) -> Result<impl Fn(&str) -> bool + use<'a>, Problem> {
    let arrival = pass.access().arrival().clone();
    let principal = pass.permit().principal().clone();
    let decided = pass.permit().actions().as_slice().first();
    let Action { verb, resource, .. } = decided.ok_or_else(|| unexpected("there is no action"))?.clone();
    Ok(move |name: &str| {
        let actions = Actions::one(action(verb, request, &resource, name));
        let case =
            Case { principal: &principal, actions: &actions, arrival: &arrival, now: SystemClock.now() };
        matches!(snapshot.policy.decide(&case), Decision::Allow { .. })
    })
}

fn no_role() -> Problem {
    Problem::new(500, "PGRSTX00", codes::NO_ROLE, "the grant that allows this call names no database role")
        .hint("The gateway's operator adds `as: ROLE` to the grant.")
}

fn no_catalogue() -> Problem {
    let mut problem = Problem::new(
        503,
        "PGRST002",
        codes::NO_CATALOGUE,
        "Could not query the database for the schema cache. Retrying.",
    )
    .hint("Try again in a moment; the gateway's operator sees the cause in /readyz.");
    problem.fault = problem.fault.retry_after(Duration::from_secs(1));
    problem
}

fn unexpected(cause: &'static str) -> Problem {
    let mut problem =
        Problem::new(500, "PGRSTX00", codes::UNEXPECTED_REPLY, "the database answered in an unexpected form")
            .hint("Tell the gateway's operator the access id.");
    problem.fault = problem.fault.cause(cause);
    problem
}

/// Faults of the pool, by PostgREST's codes for connections.
fn pool_problem(fault: Fault) -> Problem {
    use doorward_core::Kind;
    let (status, code) = match fault.code().kind {
        Kind::TooLarge => (413, "54000"),
        Kind::Timeout => (504, "57014"),
        Kind::Unavailable if fault.code().name == doorward_pgclient::codes::POOL_EXHAUSTED.name => {
            (504, "PGRST003")
        }
        Kind::Unavailable => (503, "PGRST001"),
        _ => (500, "PGRSTX00"),
    };
    Problem { fault, form: Form { status, code: code.into(), message: None, details: None, hint: None } }
}

/// Reads a body of at most `bytes_max` within [`BODY_WAIT_MAX`].
async fn read_body<B>(
    body: &mut B,
    headers: &HeaderMap,
    bytes_max: u64,
    access: &mut Access,
) -> Result<Bytes, Problem>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
    B::Error: std::fmt::Display,
{
    let too_large = || {
        Problem::new(413, "PGRST102", codes::BODY_TOO_LARGE, "the body is too large")
            .details(format!("at most {bytes_max} bytes are read"))
            .hint("Send the rows in several requests.")
    };
    let incomplete = |cause: String| {
        let mut problem = Problem::new(400, "PGRST102", codes::BODY_INCOMPLETE, "the body did not arrive")
            .hint("Send the whole body at once.");
        problem.fault = problem.fault.cause(cause);
        problem
    };
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > bytes_max) {
        return Err(too_large());
    }
    let gather = async {
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| incomplete(error.to_string()))?;
            let Ok(data) = frame.into_data() else { continue };
            access.count_in(u64::try_from(data.len()).unwrap_or(u64::MAX));
            let length = first.len().saturating_add(rest.len()).saturating_add(data.len());
            if u64::try_from(length).unwrap_or(u64::MAX) > bytes_max {
                return Err(too_large());
            }
            // Most bodies come in one piece, which is then passed on as it is.
            if first.is_empty() && rest.is_empty() {
                first = data;
                continue;
            }
            if rest.is_empty() {
                rest.extend_from_slice(&std::mem::take(&mut first));
            }
            rest.extend_from_slice(&data);
        }
        Ok(if rest.is_empty() { first } else { rest.freeze() })
    };
    match tokio::time::timeout(BODY_WAIT_MAX, gather).await {
        Ok(gathered) => gathered,
        Err(_) => Err(incomplete("the body took too long".to_owned())),
    }
}

fn facts(plan: &Plan<'_>, reply: &Reply) -> Result<Facts, Problem> {
    let row = reply.first().ok_or_else(|| unexpected("there is no row"))?;
    let number = |column| row.text(column).and_then(|text| text.parse::<u64>().ok());
    let rows = number(column::ROWS).ok_or_else(|| unexpected("there is no count"))?;
    let void = matches!(&plan.source, Source::Call(function, _) if plan::is_void(function));
    Ok(Facts {
        form: plan.form,
        void,
        total: number(column::TOTAL),
        rows,
        body: if plan.form == BodyForm::Empty { None } else { row.shared(column::BODY) },
        headers: row.shared(column::HEADERS),
        status: row.shared(column::STATUS),
        key: row.shared(column::KEY),
        offset: plan.root.offset,
    })
}
