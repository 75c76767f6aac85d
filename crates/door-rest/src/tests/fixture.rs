//! A shop's catalogue, and a request against it.

use std::fmt::Write;

use bytes::Bytes;
use doorward_core::{Fault, Kind};
use doorward_pgclient::catalog::{
    Argument, Catalog, Column, Function, Generated, Relation, RelationKind, Returns, Volatility,
};
use expect_test::Expect;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::plan::{self, Bounds};
use crate::problem::Problem;
use crate::request::body::{Expect as Shape, Payload};
use crate::request::{Head, Operation, Request, redact};
use crate::sql;

fn column(name: &str, type_name: &str, oid: u32) -> Column {
    Column {
        name: name.into(),
        type_name: type_name.into(),
        type_oid: oid,
        base_oid: oid,
        nullable: true,
        default: None,
        generated: Generated::No,
        comment: None,
    }
}

fn relation(schema: &str, name: &str, columns: Vec<Column>) -> Relation {
    Relation {
        schema: schema.into(),
        name: name.into(),
        kind: RelationKind::Table,
        insertable: true,
        updatable: true,
        deletable: true,
        columns,
        primary_key: vec!["id".into()],
        comment: None,
    }
}

fn argument(name: &str, type_name: &str, oid: u32) -> Argument {
    Argument {
        name: name.into(),
        type_name: type_name.into(),
        type_oid: oid,
        has_default: false,
        variadic: false,
    }
}

fn function(name: &str, arguments: Vec<Argument>, returns: Returns, volatility: Volatility) -> Function {
    Function {
        schema: "public".into(),
        name: name.into(),
        arguments,
        returns,
        volatility,
        procedure: false,
        comment: None,
    }
}

fn returns(type_name: &str, oid: u32, set: bool, composite: bool) -> Returns {
    Returns {
        type_name: type_name.into(),
        type_oid: oid,
        set,
        composite,
        relation: None,
        columns: Vec::new(),
    }
}

/// Orders with all kinds of columns, a view that cannot be changed, and functions of all kinds.
pub(super) fn catalog() -> Catalog {
    let mut id = column("id", "integer", 23);
    id.generated = Generated::IdentityByDefault;
    let mut status = column("status", "text", 25);
    status.default = Some("'new'::text".into());
    let orders = relation(
        "public",
        "orders",
        vec![
            id,
            status,
            column("total", "numeric(10,2)", 1700),
            column("data", "jsonb", 3802),
            column("tags", "text[]", 1009),
            column("body", "tsvector", 3614),
            column("Odd \"name\"", "text", 25),
        ],
    );
    let mut totals = relation("public", "totals", vec![column("status", "text", 25)]);
    (totals.kind, totals.insertable, totals.updatable, totals.deletable) =
        (RelationKind::View, false, false, false);
    totals.primary_key.clear();
    let private = relation("private", "orders", vec![column("id", "integer", 23)]);
    let mut limit = argument("n", "integer", 23);
    limit.has_default = true;
    let mut all = argument("v", "integer[]", 1007);
    all.variadic = true;
    let mut best = returns("public.orders", 16_400, true, true);
    best.relation = Some(("public".into(), "orders".into()));
    let mut one = best.clone();
    one.set = false;
    let int4 = || returns("integer", 23, false, false);
    let (a, b) = (|| argument("a", "integer", 23), || argument("b", "integer", 23));
    let functions = vec![
        function("add", vec![a(), b()], int4(), Volatility::Immutable),
        function("best", vec![limit], best, Volatility::Stable),
        function("newest", vec![], one, Volatility::Volatile),
        function("series", vec![a()], returns("integer", 23, true, false), Volatility::Stable),
        function("sum_all", vec![all], int4(), Volatility::Immutable),
        function(
            "log",
            vec![argument("note", "text", 25)],
            returns("void", 2278, false, false),
            Volatility::Volatile,
        ),
        function(
            "take",
            vec![argument("", "jsonb", 3802)],
            returns("jsonb", 3802, false, false),
            Volatility::Volatile,
        ),
        function("over", vec![a()], int4(), Volatility::Stable),
        function("over", vec![a(), b()], int4(), Volatility::Stable),
        function("twice", vec![argument("x", "integer", 23)], int4(), Volatility::Stable),
        function("twice", vec![argument("x", "text", 25)], int4(), Volatility::Stable),
    ];
    // Computed columns: functions of a row. The names try the grammar.
    let computed = ["full_name", "android", "odd-name", "$x"].map(|name| {
        let row = argument("", "public.orders", 16_400);
        function(name, vec![row], returns("text", 25, false, false), Volatility::Stable)
    });
    Catalog::of(vec![orders, totals, private], functions.into_iter().chain(computed).collect())
}

/// A request in the making.
pub(super) struct Ask {
    pub(super) method: Method,
    uri: String,
    headers: HeaderMap,
    body: Bytes,
    rows_max: Option<u64>,
    hidden: bool,
}

pub(super) fn get(uri: &str) -> Ask {
    Ask::new(Method::GET, uri)
}

pub(super) fn post(uri: &str, body: &str) -> Ask {
    Ask { body: Bytes::copy_from_slice(body.as_bytes()), ..Ask::new(Method::POST, uri) }
}

pub(super) fn patch(uri: &str, body: &str) -> Ask {
    Ask { body: Bytes::copy_from_slice(body.as_bytes()), ..Ask::new(Method::PATCH, uri) }
}

impl Ask {
    pub(super) fn new(method: Method, uri: &str) -> Self {
        Self {
            method,
            uri: uri.to_owned(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            rows_max: None,
            hidden: false,
        }
    }

    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().expect("a header's name");
        self.headers.append(name, HeaderValue::from_str(value).expect("a header's value"));
        self
    }

    pub(super) fn at_most(mut self, rows: u64) -> Self {
        self.rows_max = Some(rows);
        self
    }

    /// The caller may not hear of other names.
    pub(super) fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }

    pub(super) fn read(&self) -> Result<Request, Problem> {
        let (path, query) = self.uri.split_once('?').unwrap_or((&self.uri, ""));
        let schemas = ["public".into(), "private".into()];
        let head = Head { method: &self.method, path, query, headers: &self.headers, schemas: &schemas };
        let mut request = Request::read(head)?;
        if request.takes_body() {
            let shape = if request.operation == Operation::Call { Shape::Arguments } else { Shape::Rows };
            request.payload = Payload::read(self.body.clone(), shape, request.query.columns.is_some())?;
        }
        Ok(request)
    }

    fn statement(&self) -> Result<String, Problem> {
        let (request, catalog) = (self.read()?, catalog());
        let may_name = |_: &str| !self.hidden;
        let bounds = Bounds { rows_max: self.rows_max, may_name: &may_name, may_read: &may_name };
        if request.operation == Operation::Describe {
            return Ok(plan::methods(&request, &catalog, &bounds)?.to_owned());
        }
        let plan = plan::plan(&request, &catalog, &bounds)?;
        let statement = sql::write(&plan);
        let mut text = statement.text.clone();
        for (index, value) in statement.params.iter().enumerate() {
            write!(text, "\n${}: {}", index + 1, String::from_utf8_lossy(value)).expect("written");
        }
        write!(text, "\n{}", if plan.read_only { "read only" } else { "read write" }).expect("written");
        Ok(text)
    }

    /// The parts of the statement that requests differ in: what is selected from, and the values.
    pub(super) fn selects(self, expect: &Expect) {
        let text = match self.statement() {
            Ok(text) => text.replace(TAIL, " … "),
            Err(problem) => told(&problem),
        };
        expect.assert_eq(&text);
    }

    pub(super) fn refused(self, expect: &Expect) {
        match self.statement() {
            Ok(text) => panic!("not refused: {text}"),
            Err(problem) => expect.assert_eq(&told(&problem)),
        }
    }

    pub(super) fn recorded_as(self, expect: &Expect) {
        let request = self.read().expect("a good request");
        expect.assert_eq(&redact::operation(&request, self.method.as_str(), "shop"));
    }
}

const TAIL: &str = ", nullif(pg_catalog.current_setting('response.headers', true), ''), \
                    nullif(pg_catalog.current_setting('response.status', true), '')";

/// A problem as the caller and the record are told of it.
pub(super) fn told(problem: &Problem) -> String {
    let Problem { fault, form: Some(form) } = problem else { panic!("no form: {problem:?}") };
    let optional =
        |name: &str, text: Option<&str>| text.map(|text| format!("\n{name}: {text}")).unwrap_or_default();
    assert_ne!(fault.code().kind, Kind::Internal, "{fault}");
    assert!(fault.hint_text().is_some(), "no way out: {fault}");
    format!(
        "{} {} {}: {}{}{}",
        form.status,
        form.code,
        Fault::code(fault).name,
        form.message.as_deref().unwrap_or_else(|| fault.public()),
        optional("details", form.details.as_deref()),
        optional("hint", form.hint.as_deref().or_else(|| fault.hint_text())),
    )
}
