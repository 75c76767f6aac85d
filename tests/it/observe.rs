//! What an operator sees: metrics, health, traces, the timeline's commands, and the policy's.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Output;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use doorward_testkit::gateway::{CONFIG, Setup};
use doorward_testkit::http::StrictClient;
use doorward_testkit::postgres::Cluster;
use doorward_testkit::wait_until;
use http::Method;
use serde_json::{Value, json};

use crate::bed::{Bed, GRANTS, SHOP, SOON, base, block_on, id_of, later, record_of_answer, records};

/// The value of a metric with these labels, in whatever order they stand.
fn metric(text: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let line = text.lines().find(|line| {
        let of = line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        of && labels.iter().all(|label| line.contains(label))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn metrics_count_what_was_called() -> Result<()> {
    let bed = Bed::shop()?;
    block_on(async {
        let admin = StrictClient::new(bed.gateway.admin_url()?);
        ensure!(admin.get("/healthz").await?.text() == "ok\n", "/healthz");
        ensure!(bed.anonymous()?.get("/healthz").await?.text() == "ok\n", "the listener's own sign of life");
        ensure!(admin.get("/nothing").await?.status == 404, "there is nothing else");
        let post = admin.post("/metrics", &json!({})).await?;
        ensure!(post.status == 405 && post.header("allow") == Some("GET, HEAD"), "{:?}", post.headers);

        let reader = bed.client("rea", &["readers"])?;
        for _ in 0..3 {
            ensure!(reader.get("/shop/orders?limit=2").await?.status == 200, "a read");
        }
        ensure!(reader.post("/shop/orders", &json!({})).await?.status == 403, "a refused write");
        ensure!(bed.anonymous()?.get("/shop/orders").await?.status == 401, "nobody");
        ensure!(reader.get("/made-up-by-the-caller/orders").await?.status == 404, "no resource");

        let answer = admin.get("/metrics").await?;
        let kind = answer.header("content-type").unwrap_or_default();
        ensure!(kind.starts_with("application/openmetrics-text"), "{kind}");
        let text = answer.text();
        ensure!(text.ends_with("# EOF\n"), "an OpenMetrics text has an end");
        for (name, labels, expected) in [
            (
                "doorward_calls_total",
                &[r#"resource="shop""#, r#"verb="read""#, r#"outcome="allowed""#][..],
                3.0,
            ),
            ("doorward_faults_total", &[r#"code="authorize.no-grant""#], 1.0),
            ("doorward_faults_total", &[r#"code="authenticate.required""#], 1.0),
            ("doorward_faults_total", &[r#"code="decode.unknown-resource""#], 1.0),
            ("doorward_call_duration_seconds_count", &[r#"door="rest""#, r#"resource="shop""#], 3.0),
            ("doorward_config_current", &[], 1.0),
            ("doorward_spool_open", &[], 1.0),
            ("doorward_store_reachable", &[], 1.0),
            ("doorward_records_lost_total", &[], 0.0),
        ] {
            let found = metric(&text, name, labels);
            ensure!(found.is_some_and(|value| value >= expected), "{name}{labels:?} is {found:?}: {text}");
            if !name.contains("duration") {
                ensure!(found == Some(expected), "{name}{labels:?} is {found:?}: {text}");
            }
        }
        // A place is given back when the record is durable: a moment after the answer.
        let settled = later(|| async {
            let text = admin.get("/metrics").await?.text();
            Ok(metric(&text, "doorward_calls_in_flight", &[]) == Some(0.0))
        });
        ensure!(settled.await, "places are not given back");
        // What callers choose is no label: the number of series is the configuration's.
        for word in ["made-up", "orders", "rea\"", "public"] {
            ensure!(!text.contains(word), "{word} stands in the metrics: {text}");
        }
        let ready = admin.get("/readyz").await?;
        let says = ready.json()?;
        ensure!(ready.status == 200 && says["ready"] == true && says["draining"] == false, "{says}");
        ensure!(says["resources"] == json!([{ "name": "shop", "ready": true }]), "{says}");
        ensure!(says["spool"]["open"] == true && says["spool"]["lost"] == 0, "{says}");
        let digest = says["config"]["digest"].as_str().context("a digest")?;
        ensure!(text.contains(digest), "the metrics name the configuration");
        let row = record_of_answer(&bed.gateway, &reader.get("/shop/orders?limit=1").await?)?;
        ensure!(row["config_digest"] == digest, "so does each record: {row}");
        Ok(())
    })?
}

/// A collector of traces: keeps the bodies that are posted to it.
struct Collector {
    address: SocketAddr,
    posted: Arc<Mutex<Vec<(String, String)>>>,
}

impl Collector {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let posted = Arc::<Mutex<Vec<_>>>::default();
        let kept = posted.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let kept = kept.clone();
                std::thread::spawn(move || serve(&stream, &kept));
            }
        });
        Ok(Self { address, posted })
    }

    fn all(&self) -> Vec<(String, String)> {
        self.posted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All spans so far.
    fn spans(&self) -> Vec<Value> {
        let mut spans = Vec::new();
        for (_, body) in self.all() {
            let body: Value = serde_json::from_str(&body).unwrap_or_default();
            spans.extend(
                body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().cloned().unwrap_or_default(),
            );
        }
        spans
    }
}

/// Answers the requests of one connection; an error ends it.
fn serve(stream: &TcpStream, posted: &Mutex<Vec<(String, String)>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            if line.trim().is_empty() {
                break;
            }
            head += &line;
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let kept = (head, String::from_utf8_lossy(&body).into_owned());
        posted.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
        (&*stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").ok()?;
    }
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[test]
fn traces_are_joined_and_exported() -> Result<()> {
    let collector = Collector::start()?;
    let bed = Bed::start_with(Cluster::shared()?, SHOP, |_, config| {
        let otlp = format!(
            "otlp: {{ endpoint: \"http://{}\", headers: {{ x-api-key: \"env:COLLECTOR_KEY\" }} }}\n",
            collector.address
        );
        Ok(Setup::new(&format!("{config}{GRANTS}{otlp}"))?.env("COLLECTOR_KEY", "key-of-the-collector"))
    })?;
    block_on(async {
        let token = bed.issuer.token("ann@example.com").claim("email", "ann@example.com");
        let reader = bed.anonymous()?.bearer(token.claim("groups", vec!["readers"]).sign()?);
        let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
        let path = "/shop/orders?customer=eq.a-personal-value";
        let joined = reader.send(Method::GET, path, &[("traceparent", &parent)], "").await?;
        let row = record_of_answer(&bed.gateway, &joined)?;
        ensure!(row["trace_id"] == TRACE && row["parent_span_id"] == "00f067aa0ba902b7", "{row}");
        let span_id = row["span_id"].as_str().context("a span")?.to_owned();
        ensure!(span_id != "00f067aa0ba902b7", "the call has a span of its own: {row}");

        // The database hears of the call's own span, not of the caller's.
        let heard = reader.send(Method::GET, "/shop/rpc/seen_trace", &[("traceparent", &parent)], "").await?;
        let row = record_of_answer(&bed.gateway, &heard)?;
        let span = row["span_id"].as_str().context("a span")?;
        ensure!(heard.text() == format!("\"00-{TRACE}-{span}-01\""), "{}", heard.text());

        // One that cannot be read is as none; one that is not sampled is joined, and not exported.
        let broken = [("traceparent", "00-zz-00f067aa0ba902b7-01")];
        let alone = reader.send(Method::GET, "/shop/orders", &broken, "").await?;
        let row = record_of_answer(&bed.gateway, &alone)?;
        ensure!(row["trace_id"].as_str().is_some_and(|id| id.len() == 32 && id != TRACE), "{row}");
        let unsampled = "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-00f067aa0ba902b7-00";
        let quiet = reader.send(Method::GET, "/shop/orders", &[("traceparent", unsampled)], "").await?;
        ensure!(record_of_answer(&bed.gateway, &quiet)?["trace_id"] == "a".repeat(32), "joined");
        let refused = bed.anonymous()?.get("/shop/orders").await?;

        let wanted = [id_of(&joined)?, id_of(&alone)?, id_of(&refused)?];
        let exported = wait_until(SOON, || {
            let all = Value::from(collector.spans()).to_string();
            wanted.iter().all(|id| all.contains(id.as_str()))
        });
        ensure!(exported, "not exported: {:?} {}", collector.all(), bed.gateway.log());
        let spans = collector.spans();
        let of_joined: Vec<_> = spans.iter().filter(|span| span["traceId"] == TRACE).collect();
        let root = of_joined.iter().find(|span| span["spanId"] == *span_id).context("a root span")?;
        ensure!(root["parentSpanId"] == "00f067aa0ba902b7" && root["kind"] == 2, "{root}");
        for stage in ["accept", "authenticate", "decode", "authorize", "lease", "forward", "shape"] {
            let span = of_joined.iter().find(|span| span["name"] == stage);
            let span = span.with_context(|| format!("no span of {stage}: {of_joined:?}"))?;
            ensure!(span["parentSpanId"] == *span_id, "{span}");
        }
        let all = collector.all();
        let (head, _) = &all[0];
        ensure!(head.starts_with("POST /v1/traces ") && head.contains("key-of-the-collector"), "{head}");
        for (_, body) in &all {
            for personal in ["ann@example.com", "a-personal-value", "127.0.0.1", "aaaaaaaaaaaaaaaa"] {
                ensure!(!body.contains(personal), "{personal} is exported: {body}");
            }
        }
        Ok(())
    })?
}

fn said(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// The rows of `audit query` with these arguments.
fn rows(bed: &Bed, arguments: &[&str]) -> Result<Vec<Value>> {
    let arguments: Vec<&str> = ["audit", "query", "--json"].iter().chain(arguments).copied().collect();
    let (code, text) = said(&bed.gateway.run(&arguments)?);
    let rows: Vec<Value> =
        text.lines().map(serde_json::from_str).collect::<Result<_, _>>().with_context(|| text.clone())?;
    ensure!(code == Some(if rows.is_empty() { 4 } else { 0 }), "{arguments:?}: {code:?} {text}");
    Ok(rows)
}

#[test]
fn the_timeline_is_asked() -> Result<()> {
    let bed = Bed::shop()?;
    let (read, refused, expired) = block_on(async {
        let ann = bed.client("ann", &["customers"])?;
        let read = ann.get("/shop/orders?customer=eq.ann&select=id").await?;
        let wrote = ann.post("/shop/orders", &json!({ "customer": "ann" })).await?;
        let refused = bed.client("rea", &["readers"])?.post("/shop/orders", &json!({})).await?;
        let old = bed.issuer.token("old").issued_in(-7200).expires_in(-3600).sign()?;
        let expired = bed.anonymous()?.bearer(old).get("/shop/orders").await?;
        let ids = [id_of(&read)?, id_of(&wrote)?, id_of(&refused)?, id_of(&expired)?];
        records(&bed.gateway, &ids)?;
        Ok::<_, anyhow::Error>((ids[0].clone(), ids[2].clone(), ids[3].clone()))
    })??;
    for (arguments, count) in [
        (&[][..], 4),
        (&["--principal", "ann"], 2),
        (&["--principal", "nobody"], 0),
        (&["--resource", "shop"], 3),
        (&["--resource", "another"], 0),
        (&["--verb", "write"], 2),
        (&["--verb", "write", "--outcome", "denied"], 1),
        (&["--outcome", "allowed"], 2),
        (&["--outcome", "unknown"], 0),
        (&["--door", "rest"], 4),
        (&["--since", "1h"], 4),
        (&["--since", "2000-01-01T00:00:00Z", "--until", "2000-01-02T00:00:00Z"], 0),
        (&["--until", "1h"], 0),
        (&["--limit", "1"], 1),
    ] {
        let found = rows(&bed, arguments)?;
        ensure!(found.len() == count, "{arguments:?}: {} rows: {found:?}", found.len());
    }
    for (arguments, says) in [
        (&["audit", "query", "--outcome", "alowed"][..], "allowed, denied"),
        (&["audit", "query", "--verb", "reed"], "read"),
        (&["audit", "query", "--since", "yesterday"], "a span back from now such as 15m or 7d"),
        (&["audit", "trace", "not-an-id"], "not-an-id"),
    ] {
        let (code, text) = said(&bed.gateway.run(arguments)?);
        ensure!(code.is_some_and(|code| code == 1 || code == 2), "{arguments:?}: {code:?}");
        ensure!(text.contains(says), "{arguments:?}: {text}");
    }
    let (code, table) = said(&bed.gateway.run(&["audit", "query", "--principal", "ann"])?);
    ensure!(code == Some(0) && table.starts_with("TIME") && table.contains("public/orders"), "{table}");
    for arguments in [
        &["audit", "query", "--format", "ocsf"][..],
        &["audit", "query", "--all", "--format", "ocsf"],
        &["audit", "tail", "--no-follow", "--format", "ocsf"],
        &["audit", "trace", &refused, "--format", "ocsf"],
    ] {
        let (code, events) = said(&bed.gateway.run(arguments)?);
        let events: Vec<Value> = events.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        ensure!(code == Some(0) && events.len() == if arguments[1] == "trace" { 1 } else { 4 }, "{events:?}");
        let event = events.iter().find(|event| event["metadata"]["uid"] == format!("{refused}/0"));
        let event = event.with_context(|| format!("{arguments:?}: {events:?}"))?;
        ensure!(event["class_uid"] == 6005 && event["status"] == "denied", "{event}");
        ensure!(event["actor"]["user"]["name"] == "rea", "opened, for whoever has the keys: {event}");
    }
    let (code, tail) = said(&bed.gateway.run(&["audit", "tail", "--no-follow", "--outcome", "denied"])?);
    ensure!(code == Some(0) && tail.contains("authorize.no-grant") && !tail.contains("allowed"), "{tail}");

    // In words: what was asked, how long each stage took, what went wrong.
    for (id, words) in [
        (&read, &["ann", "read", "public/orders", "allowed", "forward", "customers"][..]),
        (&refused, &["denied", "authorize.no-grant", "write", "rea"]),
        (&expired, &["denied", "authenticate.token-expired", "expired"]),
    ] {
        let (code, text) = said(&bed.gateway.run(&["audit", "trace", id])?);
        ensure!(code == Some(0), "{text}");
        for word in words {
            ensure!(text.contains(word), "no {word:?} in: {text}");
        }
    }
    let (code, text) = said(&bed.gateway.run(&["audit", "trace", "00000000-0000-7000-8000-000000000000"])?);
    ensure!(code == Some(4) && text.contains("no record"), "{text}");
    Ok(())
}

/// A configuration for commands that work offline.
fn offline(sections: &str) -> Result<Setup> {
    Setup::new(&format!("{OFFLINE}{sections}"))
}

const OFFLINE: &str = "version: 1
issuers: { idp: { url: \"https://login.example.com\", audience: doorward } }
resources:
  shop: { url: \"postgres://db.example.com/shop\", login: { user: authenticator, password: \"env:SHOP_PASSWORD\" } }
";

#[test]
fn check_says_what_is_wrong_and_where() -> Result<()> {
    let (code, text) = said(&offline(GRANTS)?.run(&["check"])?);
    ensure!(code == Some(0) && text.contains("resource shop: door rest"), "{text}");
    ensure!(text.contains("group:readers may") && text.contains("by deny no-hidden"), "{text}");
    let grant =
        |rest: &str| format!("grants: {{ g: {{ to: anyone, allow: read shop/**, as: r, {rest} }} }}\n");
    for (sections, words) in [
        ("limmits: 3\n".to_owned(), &["limmits", "doorward.yaml:5"][..]),
        ("sesion_grace: 3s\n".to_owned(), &["sesion_grace", "session_grace"]),
        ("spool: { size_maxx: 1GiB }\n".to_owned(), &["size_maxx", "size_max"]),
        (grant("timout: 5s"), &["timout", "timeout"]),
        (grant("mask: { email: hash }"), &["mask", "not available in this version yet"]),
        (grant("shadow: true"), &["shadow", "not available in this version yet"]),
        (grant("quota: 5/d"), &["quota", "not available in this version yet"]),
        ("console: {}\n".to_owned(), &["console", "not available in this version yet"]),
        ("redis: {}\n".to_owned(), &["redis", "not available in this version yet"]),
        (grant("when: principal.knd == \"user\""), &["knd"]),
        (grant("limit: 5 per second"), &["limit"]),
        ("grants: { g: { to: anyone, allow: red shop/**, as: r } }\n".to_owned(), &["red", "read"]),
        ("grants: { g: { to: anyone, allow: read shp/**, as: r } }\n".to_owned(), &["shp", "shop"]),
        ("version: 1\n".to_owned(), &["version"]),
        ("listen: { postgress: 127.0.0.1:5432 }\n".to_owned(), &["postgress", "postgres"]),
        ("store: postgres://db/audit\n".to_owned(), &["USER@HOST"]),
    ] {
        let (code, text) = said(&offline(&sections)?.run(&["check"])?);
        ensure!(code == Some(1), "{sections}: {code:?} {text}");
        for word in words {
            ensure!(text.contains(word), "{sections}: no {word:?} in: {text}");
        }
    }
    let s3 = OFFLINE.replace("postgres://db.example.com/shop", "s3://bucket");
    let (code, text) = said(&Setup::new(&s3)?.run(&["check"])?);
    ensure!(code == Some(1) && text.contains("the S3 door"), "{text}");
    // A warning is a failure for those who want it so.
    let typo = "grants: { g: { to: issuer:ipd, allow: read shop/**, as: r } }\n";
    let (code, text) = said(&offline(typo)?.run(&["check"])?);
    ensure!(code == Some(0) && text.contains("warning: ") && text.contains("ipd"), "{text}");
    ensure!(said(&offline(typo)?.run(&["check", "--strict", "--quiet"])?).0 == Some(1), "--strict");
    let (code, text) = said(&Setup::new("version: 1\n")?.run(&["check", "--config", "missing.yaml"])?);
    ensure!(code == Some(1) && text.contains("missing.yaml"), "{text}");
    Ok(())
}

#[test]
fn overlays_win_key_by_key() -> Result<()> {
    let setup = offline(GRANTS)?
        .file("over.yaml", "environment: staging\ngrants: { few: { max_rows: 7 } }\n")?
        .file("bad.yaml", "environmnt: staging\n")?;
    let (code, text) = said(&setup.run(&["check", "--config", CONFIG, "--config", "over.yaml"])?);
    ensure!(code == Some(0) && text.contains("environment staging"), "{text}");
    let few = ["explain", "read", "shop/public/orders", "--as", "f", "--groups", "few"];
    let (code, text) = said(&setup.run(&[&few[..], &["--config", "doorward.yaml:over.yaml"]].concat())?);
    ensure!(code == Some(0) && text.contains("rows at most  7") && text.contains("reader"), "{text}");
    let (_, text) = said(&setup.run(&few)?);
    ensure!(text.contains("rows at most  5"), "{text}");
    let (code, text) = said(&setup.run(&["check", "--config", CONFIG, "--config", "bad.yaml"])?);
    ensure!(code == Some(1) && text.contains("bad.yaml:1") && text.contains("environment"), "{text}");
    Ok(())
}

#[test]
fn explain_and_who_can_tell_what_the_gateway_does() -> Result<()> {
    let sections = "grants:
  day: { to: group:staff, allow: \"read,write shop/public/orders\", as: writer, when: 'principal.kind == \"user\"' }
  own: { to: group:staff, allow: \"read shop/team_${claims.team}/**\", as: reader, limit: 5/s burst 10 }
deny:
  frozen: { to: anyone, what: write shop/public/ledger }
";
    let setup = offline(sections)?;
    let staff = ["--as", "ann@example.com", "--groups", "staff"];
    let target = "shop/public/orders";
    for (arguments, code, words) in [
        (&["explain", "read", target][..], 0, &["allowed", "by grant      day", "writer"][..]),
        (
            &["explain", "read", target, "--kind", "service"],
            3,
            &["denied", "no grant", "its condition is false"],
        ),
        (&["explain", "delete", target], 3, &["denied", "does not speak of delete"]),
        (&["explain", "write", "shop/public/ledger"], 3, &["denied", "by deny rule  frozen"]),
        (&["explain", "read", "shop/team_emea/a", "--claim", "team=emea"], 0, &["by grant      own", "5"]),
        (&["explain", "read", "shop/team_emea/a"], 3, &["cannot fill"]),
        (&["explain", "read", "shop/team_emea/a", "--claim", "team=*"], 3, &["denied"]),
    ] {
        let (got, text) = said(&setup.run(&[arguments, &staff[..]].concat())?);
        ensure!(got == Some(code), "{arguments:?}: {got:?} {text}");
        for word in words {
            ensure!(text.contains(word), "{arguments:?}: no {word:?} in: {text}");
        }
    }
    let (code, text) = said(&setup.run(&["explain", "read", target, "--json"])?);
    let says: Value = serde_json::from_str(&text)?;
    ensure!(code == Some(3) && says["allowed"] == false, "an anonymous caller: {says}");
    let (code, text) = said(&setup.run(&["explain", "read", "shp/public/orders"])?);
    ensure!(code == Some(1) && text.contains("shp"), "{text}");

    let (code, text) = said(&setup.run(&["who-can", "write", target])?);
    ensure!(
        code == Some(0) && text.contains("group:staff may") && text.contains("when principal.kind"),
        "{text}"
    );
    let (code, text) = said(&setup.run(&["who-can", "write", "shop/public/ledger"])?);
    ensure!(code == Some(4) && text.contains("may not"), "{text}");
    let (code, text) = said(&setup.run(&["who-can", "delete", target])?);
    ensure!(code == Some(4) && text.contains("nobody may delete"), "{text}");
    let (_, text) = said(&setup.run(&["who-can", "read", target, "--json"])?);
    let says: Value = serde_json::from_str(text.lines().next().context("a line")?)?;
    ensure!(says["rule"] == "day" && says["role"] == "writer", "{says}");
    Ok(())
}

#[test]
fn the_schema_describes_the_configuration() -> Result<()> {
    let (code, text) = said(&offline("")?.run(&["schema"])?);
    let schema: Value = serde_json::from_str(&text)?;
    ensure!(code == Some(0), "{text}");
    let keys = schema["properties"].as_object().context("properties")?;
    for key in
        ["version", "listen", "issuers", "resources", "grants", "deny", "store", "spool", "http", "otlp"]
    {
        ensure!(keys.get(key).is_some_and(|key| key["description"].is_string()), "{key} is not described");
    }
    ensure!(schema["additionalProperties"] == false, "unknown keys are refused: {schema}");
    Ok(())
}

#[test]
fn a_gateway_without_a_usable_configuration_does_not_start() -> Result<()> {
    let bed = Bed::shop()?;
    let config = base(&bed.issuer, &bed.database);
    for (change, word) in [
        (("version: 1", "version: 2"), "version"),
        (("env:SHOP_PASSWORD", "env:NOT_SET_ANYWHERE"), "NOT_SET_ANYWHERE"),
        (("env:SHOP_PASSWORD", "a-password-in-the-file"), "env:"),
        (("127.0.0.1:0", "127.0.0.1:port"), "listen"),
    ] {
        let started = Setup::new(&config.replace(change.0, change.1))?.env("SHOP_PASSWORD", "x").start();
        let error = format!("{:#}", started.err().context("it starts")?);
        ensure!(error.contains(word), "{change:?}: {error}");
        ensure!(!error.contains("a-password-in-the-file"), "a secret is repeated: {error}");
    }
    Ok(())
}
