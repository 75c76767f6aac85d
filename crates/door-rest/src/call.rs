//! One call of the REST door on the main road.
//!
//! Which action a call needs is read off its head alone: path, method and `Prefer`. The catalogue is
//! asked after the decision, so a table that does not exist and one that the caller may not see are
//! refused alike.
//!
//! | request | actions on `schema/name` |
//! |---|---|
//! | GET, HEAD, OPTIONS on a table | read |
//! | POST, PATCH | write; and read when rows, keys or counts are answered, or one row is asked for |
//! | DELETE | delete; and read likewise |
//! | GET, HEAD, OPTIONS on a function | read: its transaction is read only, whatever the function is |
//! | POST on a function | execute, whether or not the function is declared to have side effects |
//!
//! A filter of PATCH or DELETE needs no read of its own: the answer does not tell how many rows it matched.
//! An error can tell that there were some, so the role needs SELECT on the filtered columns all the same,
//! as in PostgreSQL. Without a filter they change all rows that the role may change, as in PostgREST.
//!
//! A body is read only for a caller who may do what it is for: nobody else fills the gateway's memory.
//!
//! The row cap, of the grant or the resource, is a LIMIT: what is beyond it is left out, and
//! `Content-Range` says how many rows there are in the answer. The byte cap is a refusal.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use doorward_core::{
    Access, Action, Actions, Arrival, Call, Caller, Case, Clock, Completion, Decision, Fault, Object, Pass,
    Principal, Refusal, Resource, ResourceName, Shaped, Snapshot, SystemClock, Verb,
};
use doorward_http::{Body, Inbound, RequestBody, dress_answer, dress_refusal, empty, full, read_body};
use doorward_pgclient::{Reply, RunError};
use http::{HeaderValue, Method, Response, header};

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

/// A call of the REST door.
#[derive(Debug)]
pub(crate) struct RestCall<'a> {
    resource: &'a Resource,
    inbound: Inbound,
    /// Read by `decode`.
    request: Option<Request>,
    /// The form of the fault that this call itself raised.
    form: Option<Form>,
}

/// What `forward` brings back.
#[derive(Debug)]
pub(crate) enum RestReply {
    /// The database's answer, taken apart.
    Rows(Box<Facts>),
    /// The methods that OPTIONS answers.
    Methods(&'static str),
}

impl<'a> RestCall<'a> {
    /// A call that has come in for a resource of this door.
    pub(crate) fn new(resource: &'a Resource, inbound: Inbound) -> Self {
        Self { resource, inbound, request: None, form: None }
    }

    fn raise<T>(&mut self, result: Result<T, Problem>) -> Result<T, Fault> {
        result.map_err(|problem| {
            self.form = problem.form;
            problem.fault
        })
    }

    async fn read(&mut self, access: &mut Access, principal: &Principal) -> Result<Actions, Problem> {
        let rest = backend(self.resource)?;
        let path: Box<str> = self.inbound.tail().into();
        let incoming = &mut self.inbound.request;
        access.note_endpoint(endpoint(incoming.method(), rest.name.as_str(), &path));
        let head = Head {
            method: incoming.method(),
            path: &path,
            query: incoming.uri().query().unwrap_or_default(),
            headers: incoming.headers(),
            schemas: &rest.schemas,
        };
        let mut request = Request::read(head)?;
        let actions = actions(&request, &rest.name);
        let reads_body =
            request.takes_body() && may(access.snapshot(), principal, &actions, access.arrival());
        if reads_body {
            request.payload = payload(incoming.body_mut(), &request, rest.body_max, access).await?;
        }
        let operation = redact::operation(&request, incoming.method().as_str(), rest.name.as_str());
        let fingerprint = redact::fingerprint(&operation);
        access.note_operation(operation, Some(fingerprint));
        // Without its body a request is not whole: should the road's own decision differ, nothing is forwarded.
        self.request = (reads_body || !request.takes_body()).then_some(request);
        Ok(actions)
    }

    async fn ask(&mut self, pass: &mut Pass) -> Result<RestReply, Problem> {
        let rest = backend(self.resource)?;
        let request = self.request.as_ref().ok_or_else(|| unexpected("the request was not decoded"))?;
        if pass.lease().role().is_none() {
            return Err(no_role());
        }
        let catalog = rest.catalog().ok_or_else(no_catalogue)?;
        let snapshot = pass.access().snapshot().clone();
        let may_name = may_name(request, None, &snapshot, pass)?;
        let may_read = self::may_name(request, Some(Verb::Read), &snapshot, pass)?;
        let obligations = pass.permit().obligations().clone();
        let rows_max = match (obligations.rows_max, rest.max_rows) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let bounds = Bounds { rows_max, may_name: &may_name, may_read: &may_read };
        if request.operation == Operation::Describe {
            return Ok(RestReply::Methods(plan::methods(request, &catalog, &bounds)?));
        }
        let plan = plan::plan(request, &catalog, &bounds)?;
        let statement = sql::write(&plan);
        let principal = pass.permit().principal().clone();
        // The body may not be looked at from two threads, so no reference to the whole request is kept.
        let (headers, method) = (self.inbound.request.headers(), self.inbound.request.method());
        let settings = Settings::of(headers, method, request, rest, &principal);
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
        match rest.pool.run(pass, &asked).await {
            Ok(reply) => Ok(RestReply::Rows(Box::new(facts(&plan, &reply)?))),
            Err(RunError::Server(mut error)) => {
                // A violated constraint quotes the row as it was, which is for readers. A new row is the caller's own.
                let of_old_rows = matches!(request.operation, Operation::Update | Operation::Delete);
                let quotes = error.sqlstate.starts_with("23") || error.sqlstate.starts_with("44");
                if of_old_rows && quotes && !request.answers_rows() {
                    error.detail = None;
                }
                Err(sqlstate::problem(&error, principal.authenticated()))
            }
            Err(RunError::Fault(fault)) => Err(pool_problem(fault)),
        }
    }
}

impl Call for RestCall<'_> {
    type Answer = Response<Body>;
    type Reply = RestReply;

    fn caller(&self) -> Caller<'_> {
        Caller::Credentials(&self.inbound.credentials)
    }

    async fn decode(&mut self, access: &mut Access, principal: &Arc<Principal>) -> Result<Actions, Fault> {
        let read = self.read(access, principal).await;
        self.raise(read)
    }

    async fn forward(&mut self, pass: &mut Pass) -> Result<RestReply, Fault> {
        let asked = self.ask(pass).await;
        self.raise(asked)
    }

    fn shape(&mut self, reply: RestReply, pass: &mut Pass) -> Result<Shaped<Response<Body>>, Fault> {
        let (mut response, rows) = match reply {
            RestReply::Methods(methods) => {
                let mut response = Response::new(Bytes::new());
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
                (response, None)
            }
            RestReply::Rows(facts) => {
                let rows = facts.rows;
                let shaped = match &self.request {
                    Some(request) => answer::answer(request, self.resource.name.as_str(), *facts),
                    None => Err(unexpected("the request was not decoded")),
                };
                (self.raise(shaped)?, Some(rows))
            }
        };
        dress_answer(response.headers_mut(), pass);
        let completion = completion(&response, rows);
        Ok(Shaped::Whole(response.map(full), completion))
    }

    fn refuse(&mut self, refusal: &Refusal<'_>) -> (Response<Body>, Completion) {
        let form = self.form.take().unwrap_or_else(|| problem::form_of(refusal));
        let mut response = answer::refusal(&form, refusal);
        if form.status == 405 {
            let allow = request::allowed_methods(self.inbound.tail());
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        dress_refusal(response.headers_mut(), refusal);
        let completion = completion(&response, None);
        let head = *self.inbound.request.method() == Method::HEAD;
        (response.map(|body| if head { empty() } else { full(body) }), completion)
    }
}

fn completion(response: &Response<Bytes>, rows: Option<u64>) -> Completion {
    let bytes_out = u64::try_from(response.body().len()).unwrap_or(u64::MAX);
    Completion { status: Some(response.status().as_u16()), rows, bytes_out }
}

fn backend(resource: &Resource) -> Result<&RestResource, Problem> {
    resource.backend::<RestResource>().ok_or_else(|| {
        Problem::new(500, "PGRSTX00", codes::NOT_REST, "the resource is not served by this door")
            .hint("Tell the gateway's operator the access id.")
    })
}

/// Reads the body of a request whose head is good.
async fn payload(
    body: &mut RequestBody,
    request: &Request,
    bytes_max: u64,
    access: &mut Access,
) -> Result<Payload, Problem> {
    let json = read_body(body, bytes_max).await;
    access.count_in(body.bytes_seen());
    let expect = match request.operation {
        Operation::Call => Expect::Arguments,
        _ => Expect::Rows,
    };
    Payload::read(json?, expect, request.query.columns.is_some())
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
    [method, " /", resource, "/", tail].concat()
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
/// With a verb, what the caller may do with a name by that verb instead of the call's own.
fn may_name<'a>(
    request: &'a Request,
    verb: Option<Verb>,
    snapshot: &'a Snapshot,
    pass: &mut Pass,
) -> Result<impl Fn(&str) -> bool + use<'a>, Problem> {
    let arrival = pass.access().arrival().clone();
    let principal = pass.permit().principal().clone();
    let decided = pass.permit().actions().as_slice().first();
    let decided = decided.ok_or_else(|| unexpected("there is no action"))?;
    let (verb, resource) = (verb.unwrap_or(decided.verb), decided.resource.clone());
    Ok(move |name: &str| {
        may(snapshot, &principal, &Actions::one(action(verb, request, &resource, name)), &arrival)
    })
}

/// What the road will decide, or would.
fn may(snapshot: &Snapshot, principal: &Principal, actions: &Actions, arrival: &Arrival) -> bool {
    let case = Case { principal, actions, arrival, now: SystemClock.now(), role: None };
    matches!(snapshot.policy.decide(&case), Decision::Allow { .. })
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
    let form = Form { status, code: code.into(), message: None, details: None, hint: None };
    Problem { fault, form: Some(form) }
}

fn facts(plan: &Plan<'_>, reply: &Reply) -> Result<Facts, Problem> {
    let row = reply.first().ok_or_else(|| unexpected("there is no row"))?;
    let mut cells = [None; column::COUNT];
    cells.iter_mut().zip(row.values()).for_each(|(cell, value)| *cell = value);
    let cell = |column: usize| cells.get(column).copied().flatten();
    let shared = |column| cell(column).map(|value| row.share(value));
    let number = |column| cell(column).and_then(|text| std::str::from_utf8(text).ok()?.parse::<u64>().ok());
    let rows = number(column::ROWS).ok_or_else(|| unexpected("there is no count"))?;
    let void = matches!(&plan.source, Source::Call(function, _) if plan::is_void(function));
    Ok(Facts {
        void,
        changed: !plan.read_only,
        total: number(column::TOTAL),
        rows,
        body: if plan.form == BodyForm::Empty { None } else { shared(column::BODY) },
        headers: shared(column::HEADERS),
        status: shared(column::STATUS),
        key: shared(column::KEY),
        offset: plan.root.offset,
    })
}
