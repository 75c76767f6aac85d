//! The floor: the least that a server can do for the same answer. hyper, tokio-postgres, the same SQL;
//! no identity, no policy, no record, no limits. What the gateway costs is measured against this.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_postgres::types::{Format, IsNull, ToSql, Type};
use tokio_postgres::{Client, NoTls, Statement};

/// What the floor is started with, as JSON in the environment variable `FLOOR`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    /// libpq connection string.
    pub dsn: String,
    /// Statements that make a fresh connection the same as one of the gateway's.
    pub setup: String,
    /// The statement, its parameters, and which column of the answer's one row is the body, by path.
    pub routes: Vec<Route>,
    /// Connections.
    pub connections: usize,
    /// Where the address is written once the floor listens.
    pub ready_file: String,
}

/// One path and the statement that answers it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Route {
    /// The request's path and query.
    pub path: String,
    /// The statement.
    pub sql: String,
    /// Its parameters, as text.
    pub params: Vec<String>,
    /// The column that is the body.
    pub body_column: usize,
}

/// A parameter in text form, whatever its type.
#[derive(Debug)]
struct Text(String);

impl ToSql for Text {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    tokio_postgres::types::to_sql_checked!();
}

struct Backend {
    client: Client,
    statements: Vec<Statement>,
}

struct Floor {
    backends: Vec<Backend>,
    next: AtomicUsize,
    routes: Vec<(String, Vec<Text>, usize)>,
}

/// Serves on one worker thread until it is killed.
pub fn serve() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(run())
}

async fn run() -> anyhow::Result<()> {
    let plan: Plan = serde_json::from_str(&std::env::var("FLOOR").context("FLOOR is not set")?)?;
    let mut backends = Vec::new();
    for _ in 0..plan.connections {
        let (client, connection) = tokio_postgres::connect(&plan.dsn, NoTls).await?;
        tokio::spawn(connection);
        client.batch_execute(&plan.setup).await?;
        let mut statements = Vec::new();
        for route in &plan.routes {
            statements.push(client.prepare(&route.sql).await?);
        }
        backends.push(Backend { client, statements });
    }
    let routes = plan
        .routes
        .into_iter()
        .map(|route| (route.path, route.params.into_iter().map(Text).collect(), route.body_column))
        .collect();
    let floor = Arc::new(Floor { backends, next: AtomicUsize::new(0), routes });
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    std::fs::write(&plan.ready_file, listener.local_addr()?.to_string())?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let floor = floor.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(floor.clone(), request));
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(floor: Arc<Floor>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path_and_query().map_or("", |path| path.as_str());
    let Some(index) = floor.routes.iter().position(|(route, ..)| route == path) else {
        return Ok(status(404));
    };
    let (_, params, column) = &floor.routes[index];
    let turn = floor.next.fetch_add(1, Ordering::Relaxed) % floor.backends.len();
    let backend = &floor.backends[turn];
    let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|text| text as _).collect();
    let Ok(row) = backend.client.query_one(&backend.statements[index], &params).await else {
        return Ok(status(502));
    };
    let body: &str = row.get(*column);
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    response
        .headers_mut()
        .insert("content-type", hyper::header::HeaderValue::from_static("application/json; charset=utf-8"));
    Ok(response)
}

fn status(code: u16) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = hyper::StatusCode::from_u16(code).unwrap_or_default();
    response
}
