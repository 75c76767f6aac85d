//! Other gateways' records, through the real binary: by HTTP, by OTLP and by syslog; good ones, and all
//! kinds of bad ones.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use doorward_testkit::gateway::{Running, Setup};
use doorward_testkit::http::{Answer, StrictClient};
use doorward_testkit::issuer::Issuer;
use doorward_testkit::program::Bounded;
use doorward_testkit::{wait_until, workspace_root};
use http::Method;
use serde_json::{Value, json};

use crate::bed::{SOON, block_on, record_of_answer};

const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");
const JSON: (&str, &str) = ("content-type", "application/json");
const KINDS: [&str; 5] = ["kong", "azure-apim", "apigee", "envoy", "generic"];

/// A gateway that takes in records of each kind, and somebody who may bring them.
struct Ingest {
    gateway: Running,
    issuer: Issuer,
}

impl Ingest {
    fn start() -> Result<Self> {
        Self::start_with("", Ok)
    }

    fn start_with(sections: &str, more: impl FnOnce(Setup) -> Result<Setup>) -> Result<Self> {
        let issuer = Issuer::start()?;
        let resources: String = KINDS.iter().map(|kind| format!("  {kind}: ingest:{kind}\n")).collect();
        let allow = KINDS.map(|kind| format!("write {kind}/records")).join(", ");
        let listen = if sections.contains("listen:") {
            ""
        } else {
            "listen: { http: 127.0.0.1:0, admin: 127.0.0.1:0 }\n"
        };
        let config = format!(
            "version: 1\nenvironment: test\n{listen}issuers: {{ idp: {{ url: \"{}\", audience: doorward }} }}
resources:\n{resources}grants:\n  shippers: {{ to: group:shippers, allow: [{allow}] }}\n{sections}",
            issuer.url()
        );
        let gateway = more(Setup::new(&config)?)?.start()?;
        Ok(Self { gateway, issuer })
    }

    fn client(&self) -> Result<StrictClient> {
        let token = self.issuer.token("shipper").claim("groups", ["shippers"]).sign()?;
        Ok(StrictClient::new(self.gateway.url()?).bearer(token))
    }

    /// The timeline's rows of a source, once there are so many.
    fn rows(&self, source: &str, count: usize) -> Result<Vec<Value>> {
        let mut rows = Vec::new();
        wait_until(SOON, || {
            rows = self.rows_now(source).unwrap_or_default();
            rows.len() >= count
        });
        ensure!(
            rows.len() == count,
            "{} rows of {source} instead of {count}; {}",
            rows.len(),
            self.gateway.log()
        );
        Ok(rows)
    }

    fn rows_now(&self, source: &str) -> Result<Vec<Value>> {
        let output = self.gateway.run(&["audit", "query", "--json", "--limit", "100000"])?;
        let text = String::from_utf8(output.stdout)?;
        let rows: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok(rows.into_iter().filter(|row| row["source"] == source).collect())
    }
}

async fn post(
    client: &StrictClient,
    path: &str,
    kind: (&str, &str),
    body: impl Into<Vec<u8>>,
) -> Result<Answer> {
    client.send(Method::POST, path, &[kind], body.into()).await
}

/// Now, as RFC 3339 and in milliseconds.
fn now() -> Result<(String, i64)> {
    let millis =
        i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis())?;
    let ts = doorward_core::Timestamp::from_micros(millis * 1_000);
    Ok((doorward_audit::time::rfc3339(ts), millis))
}

/// A sample of what a gateway writes, with today's time.
fn sample(kind: &str) -> Result<String> {
    let path = workspace_root().join(format!("tests/samples/ingest/{kind}.json"));
    let (text, millis) = now()?;
    Ok(std::fs::read_to_string(path)?.replace("@NOW@", &text).replace("@NOW_MS@", &millis.to_string()))
}

fn counts(answer: &Answer) -> Result<(u64, u64, u64)> {
    let body = answer.json()?;
    let count = |name: &str| body[name].as_u64().with_context(|| format!("{}: {body}", answer.status));
    Ok((count("accepted")?, count("duplicates")?, count("rejected")?))
}

/// What must stand in the row of each sample.
fn expected(kind: &str) -> Value {
    match kind {
        "kong" => json!({
            "verb": "read", "object": "v1/invoices/17", "status": 200, "outcome": "allowed", "duration_us": 37_000,
            "forward_us": 34_000, "bytes_in": 412, "bytes_out": 1_840, "source_ip": "203.0.113.40",
            "user_agent": "invoicer/2.4", "principal_subject": "acme", "client_id": "customer-42",
            "endpoint": "invoice", "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
            "operation": "GET https://api.example.com:8443/v1/invoices/17?expand=?&token=?"
        }),
        "azure-apim" => json!({
            "verb": "write", "object": "orders/v2/orders", "status": 502, "outcome": "failed",
            "duration_us": 216_000, "forward_us": 187_000, "bytes_in": 1_204, "bytes_out": 310,
            "source_ip": "198.51.100.23", "principal_subject": "grace@partner.example",
            "client_id": "sub-partner-7", "endpoint": "create-order", "api_version": "3",
            "fault_code": "forward.import-failure", "fault_side": "backend",
            "fault_public": "The backend service could not be reached"
        }),
        "apigee" => json!({
            "verb": "read", "object": "catalog/v3/items/88", "status": 403, "outcome": "denied", "duration_us": 9_000,
            "bytes_out": 221, "source_ip": "192.0.2.99", "user_agent": "curl/8.9.1",
            "principal_subject": "dev@shop.example", "principal_email": "dev@shop.example", "client_id": "shopfront",
            "api_version": "12", "cache_status": "miss", "fault_code": "forward.import-refusal",
            "fault_public": "oauth.v2.InvalidApiKeyForGivenResource"
        }),
        "envoy" => json!({
            "verb": "delete", "object": "files/a%2Fb/report.pdf", "status": 204, "outcome": "allowed",
            "duration_us": 5_000, "forward_us": 4_000, "source_ip": "203.0.113.9", "user_agent": "files-sync/1.1",
            "principal_subject": "svc-files", "endpoint": "files", "operation": "DELETE /files/a%2Fb/report.pdf?sig=?"
        }),
        _ => json!({
            "verb": "write", "object": "things/9", "status": 429, "outcome": "limited", "duration_us": 1_500,
            "source_ip": "2001:db8::7", "user_agent": "thing/1", "principal_subject": "lin",
            "trace_id": "0af7651916cd43dd8448eb211c80319c", "dag_id": "daily", "task_id": "load", "try_number": 2
        }),
    }
}

#[test]
fn samples_of_each_gateway_land_in_their_columns() -> Result<()> {
    let ingest = Ingest::start()?;
    block_on(async {
        let client = ingest.client()?;
        for kind in KINDS {
            let answer = post(&client, &format!("/{kind}/records"), JSON, sample(kind)?).await?;
            ensure!(answer.status == 200, "{kind}: {}: {}", answer.status, answer.text());
            ensure!(counts(&answer)? == (1, 0, 0), "{kind}: {}", answer.text());
            let unknown = &answer.json()?["unknown_fields"];
            match kind {
                "generic" => ensure!(*unknown == json!({ "novel": 1, "api_key": 1 }), "{unknown}"),
                _ => {
                    ensure!(unknown.is_null(), "{kind} has fields that its mapping does not know: {unknown}")
                }
            }
            let row = ingest.rows(kind, 1)?.remove(0);
            for (column, value) in expected(kind).as_object().context("an object")? {
                ensure!(row[column] == *value, "{kind}: {column} is {}, not {value}", row[column]);
            }
            let own = record_of_answer(&ingest.gateway, &answer)?;
            // What is ours to say is said by us, and what is not is empty.
            for (column, value) in [
                ("source", json!(kind)),
                ("class", json!("imported")),
                ("door", json!("ingest")),
                ("resource", json!(kind)),
                ("environment", json!("test")),
                ("principal_issuer", json!(format!("import:{kind}"))),
                ("auth_method", json!("claimed")),
                ("parent_access_id", own["access_id"].clone()),
                ("grant", Value::Null),
                ("config_digest", Value::Null),
                ("backend_role", Value::Null),
                ("lease_id", Value::Null),
                ("session_id", Value::Null),
                ("credential_id", Value::Null),
            ] {
                ensure!(row[column] == value, "{kind}: {column} is {}, not {value}", row[column]);
            }
            ensure!(
                own["source"] == "gateway" && own["verb"] == "write" && own["grant"] == "shippers",
                "{own}"
            );
            ensure!(own["object"] == "records" && own["rows"] == 1, "{own}");
        }
        // Nothing secret of the samples is anywhere in the gateway's folder.
        for secret in ["tk-5f2a", "k-91b2", "ak-77", "sig=s-1", "not-for-the-record"] {
            let found = Command::new("grep").args(["-rl", secret]).arg(ingest.gateway.folder()).run()?;
            ensure!(found.stdout.is_empty(), "{secret} is in {}", String::from_utf8_lossy(&found.stdout));
        }
        Ok(())
    })?
}

#[test]
fn what_cannot_be_read_is_told_and_kept() -> Result<()> {
    let ingest = Ingest::start()?;
    block_on(async {
        let client = ingest.client()?;
        let (ts, _) = now()?;
        let deep = format!("{}{}", "[".repeat(40), "]".repeat(40));
        let lines = [
            format!("{{\"ts\":\"{ts}\",\"status\":200,\"user\":\"ann\"}}"),
            "{\"ts\":".to_owned(),
            String::new(),
            "[1,2]".to_owned(),
            format!("{{\"ts\":\"{ts}\",\"status\":\"fine\",\"password\":\"pw-4411\"}}"),
            "{\"status\":200}".to_owned(),
            "{\"ts\":\"2001-01-01T00:00:00Z\"}".to_owned(),
            "{\"ts\":\"2999-01-01T00:00:00Z\"}".to_owned(),
            format!("{{\"ts\":\"{ts}\",\"x\":{deep}}}"),
            format!("{{\"ts\":\"{ts}\",\"x\":\"{}\"}}", "y".repeat(70_000)),
            format!(
                "{{\"ts\":\"{ts}\",\"status\":200,\"source\":\"gateway\",\"grant\":\"admins\",\"backend_role\":\"root\"}}"
            ),
        ];
        let answer = post(&client, "/generic/records", NDJSON, lines.join("\n")).await?;
        ensure!(answer.status == 200 && counts(&answer)? == (2, 0, 8), "{}", answer.text());
        let body = answer.json()?;
        let told: Vec<(u64, String)> = body["rejections"]
            .as_array()
            .context("rejections")?
            .iter()
            .map(|one| (one["line"].as_u64().unwrap_or(0), one["code"].as_str().unwrap_or("").to_owned()))
            .collect();
        let expected = [
            (2, "forward.import-form"),
            (4, "forward.import-form"),
            (5, "forward.import-value"),
            (6, "forward.import-time"),
            (7, "forward.import-time"),
            (8, "forward.import-time"),
            (9, "forward.import-bound"),
            (10, "forward.import-bound"),
        ];
        ensure!(told == expected.map(|(line, code)| (line, code.to_owned())), "{body}");
        ensure!(!answer.text().contains("pw-4411"), "the answer repeats no value");

        let rows = ingest.rows("generic", 10)?;
        let letters: Vec<&Value> = rows.iter().filter(|row| row["ext"]["line"].is_u64()).collect();
        ensure!(letters.len() == 8, "{} dead letters", letters.len());
        for letter in letters {
            ensure!(letter["outcome"] == "failed" && letter["class"] == "imported", "{letter}");
            ensure!(letter["fault_public"].is_string() && letter["operation"].is_string(), "{letter}");
        }
        // A source that says whose decision it was is not believed: the words are unknown fields.
        let forged =
            rows.iter().find(|row| row["ext"]["unknown"]["grant"] == "admins").context("the forged one")?;
        ensure!(forged["grant"].is_null() && forged["backend_role"].is_null(), "{forged}");
        ensure!(forged["source"] == "generic" && forged["principal_issuer"].is_null(), "{forged}");
        let found = Command::new("grep").args(["-rl", "pw-4411"]).arg(ingest.gateway.folder()).run()?;
        ensure!(found.stdout.is_empty(), "the password is in {}", String::from_utf8_lossy(&found.stdout));

        let metrics = StrictClient::new(ingest.gateway.admin_url()?).get("/metrics").await?.text();
        for line in [
            "doorward_imported_records_total{resource=\"generic\",result=\"accepted\"} 2",
            "doorward_imported_records_total{resource=\"generic\",result=\"rejected\"} 8",
            "doorward_imported_unknown_fields_total{resource=\"generic\"} 3",
        ] {
            ensure!(metrics.contains(line), "no {line} in {metrics}");
        }
        let log = ingest.gateway.log();
        let told = log.lines().filter(|line| line.contains("backend_role") && line.contains("does not know"));
        ensure!(told.count() == 1, "an unknown field is told once: {log}");
        Ok(())
    })?
}

#[test]
fn requests_that_are_not_understood_are_refused() -> Result<()> {
    let ingest = Ingest::start()?;
    block_on(async {
        let client = ingest.client()?;
        let good = sample("generic")?;
        let gzip =
            |body: &[u8]| -> Result<Vec<u8>> { Ok(Command::new("gzip").arg("-c").run_with(body)?.stdout) };
        let packed = gzip(good.as_bytes())?;
        let bomb = gzip(&vec![b' '; 64 << 20])?;
        let zip = ("content-encoding", "gzip");
        let (json_zip, lines_zip) = ([JSON, zip], [NDJSON, zip]);
        type Case<'c> = (&'c str, &'c str, &'c [(&'c str, &'c str)], Vec<u8>, u16, &'c str);
        let cases: Vec<Case<'_>> = vec![
            ("POST", "records", &json_zip, packed.clone(), 200, "\"accepted\":1"),
            (
                "POST",
                "records",
                &[JSON, ("content-encoding", "identity")],
                good.clone().into(),
                200,
                "\"duplicates\":1",
            ),
            (
                "POST",
                "records",
                &[JSON, ("idempotency-key", "a b")],
                good.clone().into(),
                400,
                "decode.ingest-key",
            ),
            ("POST", "records", &json_zip, packed[..packed.len() - 3].to_vec(), 400, "forward.ingest-gzip"),
            ("POST", "records", &json_zip, good.clone().into(), 400, "forward.ingest-gzip"),
            ("POST", "records", &lines_zip, bomb, 413, "forward.ingest-batch-too-large"),
            (
                "POST",
                "records",
                &[JSON, ("content-encoding", "br")],
                good.clone().into(),
                415,
                "Content-Encoding: gzip",
            ),
            (
                "POST",
                "records",
                &[("content-type", "text/csv")],
                good.clone().into(),
                415,
                "application/x-ndjson",
            ),
            ("POST", "records", &[], good.clone().into(), 415, "application/x-ndjson"),
            (
                "POST",
                "v1/logs",
                &[("content-type", "text/plain")],
                good.clone().into(),
                415,
                "decode.ingest-media-type",
            ),
            ("POST", "records", &[JSON], Vec::new(), 400, "the body is empty"),
            ("POST", "records", &[NDJSON], b"one\ntwo\n".to_vec(), 400, "none of 2 records can be read"),
            ("POST", "records", &[JSON], b"{\"records\":[".to_vec(), 400, "forward.ingest-unreadable"),
            ("POST", "v1/logs", &[JSON], b"[]".to_vec(), 400, "forward.ingest-unreadable"),
            (
                "POST",
                "v1/logs",
                &[("content-type", "application/x-protobuf")],
                b"\xff\xff".to_vec(),
                400,
                "broken",
            ),
            ("GET", "records", &[], Vec::new(), 405, "decode.ingest-method"),
            ("POST", "record", &[JSON], good.clone().into(), 404, "decode.ingest-path"),
        ];
        for (method, path, headers, body, status, told) in cases {
            let method = Method::from_bytes(method.as_bytes())?;
            let answer = client.send(method.clone(), &format!("/generic/{path}"), headers, body).await?;
            let text = answer.text();
            ensure!(
                answer.status == status && text.contains(told),
                "{method} {path} {headers:?}: {}: {text}",
                answer.status
            );
            if path == "records" && status != 200 {
                ensure!(
                    answer.json()?["status"] == status,
                    "{method} {path}: the body says another status: {text}"
                );
            }
        }
        let nobody = StrictClient::new(ingest.gateway.url()?);
        let anyone = ingest.issuer.token("reader").claim("groups", ["readers"]).sign()?;
        for (client, status) in [(nobody.clone(), 401), (nobody.bearer(anyone), 403)] {
            let answer = post(&client, "/generic/records", JSON, good.clone()).await?;
            ensure!(answer.status == status, "{}: {}", answer.status, answer.text());
        }
        Ok(())
    })?
}

#[test]
fn a_repeat_is_acknowledged_and_not_stored_again() -> Result<()> {
    let mut ingest = Ingest::start()?;
    let (ts, _) = now()?;
    let lines = |range: std::ops::Range<u32>| -> String {
        range.map(|n| format!("{{\"ts\":\"{ts}\",\"status\":200,\"request_id\":\"r{n}\"}}\n")).collect()
    };
    let bare = format!("{{\"ts\":\"{ts}\",\"status\":201}}\n");
    block_on(async {
        let client = ingest.client()?;
        let answer = post(&client, "/generic/records", NDJSON, lines(0..10)).await?;
        ensure!(counts(&answer)? == (10, 0, 0), "{}", answer.text());
        let answer = post(&client, "/generic/records", NDJSON, lines(5..15)).await?;
        ensure!(counts(&answer)? == (5, 5, 0), "{}", answer.text());
        // Another source has keys of its own; another content under a key is another record.
        let answer = post(&client, "/generic/records", NDJSON, lines(0..1).replace("200", "500")).await?;
        ensure!(counts(&answer)? == (1, 0, 0), "{}", answer.text());
        // The batch's own key counts for records without one, and for dead letters.
        let batch = format!("{bare}{bare}not json\n");
        for expected in [(2, 0, 1), (0, 3, 0)] {
            let headers = [NDJSON, ("idempotency-key", "\"batch-1\"")];
            let answer = client.send(Method::POST, "/generic/records", &headers, batch.clone()).await?;
            ensure!(counts(&answer)? == expected, "{}", answer.text());
        }
        anyhow::Ok(())
    })??;
    ingest.rows("generic", 19)?;
    ingest.gateway.kill9()?;
    ingest.gateway.again()?;
    block_on(async {
        let client = ingest.client()?;
        let answer = post(&client, "/generic/records", NDJSON, lines(0..16)).await?;
        ensure!(counts(&answer)? == (1, 15, 0), "after a restart: {}", answer.text());
        anyhow::Ok(())
    })??;
    ingest.rows("generic", 20)?;
    Ok(())
}

#[test]
fn kill_9_while_records_come_in_stores_each_once() -> Result<()> {
    const ROUNDS: u32 = 4;
    const BATCH: u32 = 200;
    let mut ingest = Ingest::start()?;
    let (ts, _) = now()?;
    let mut sent = 0;
    let mut killed_within = 0;
    for round in 0..ROUNDS {
        let client = ingest.client()?;
        let until = (round + 1) * 12;
        let ts = ts.clone();
        let shipping = std::thread::spawn(move || {
            block_on(async {
                let mut acknowledged = 0;
                for batch in sent..until {
                    let lines: String = (batch * BATCH..(batch + 1) * BATCH)
                        .map(|n| format!("{{\"ts\":\"{ts}\",\"status\":200,\"request_id\":\"r{n}\"}}\n"))
                        .collect();
                    match post(&client, "/generic/records", NDJSON, lines).await {
                        Ok(answer) if answer.status == 200 => acknowledged = batch + 1,
                        _ => break,
                    }
                }
                acknowledged
            })
        });
        doorward_testkit::pause(Duration::from_millis(60 + 35 * u64::from(round)));
        ingest.gateway.kill9()?;
        let acknowledged = shipping.join().ok().context("the shipper panicked")??;
        killed_within += u32::from(acknowledged < until);
        // The shipper knows of what was acknowledged, and brings the rest again.
        sent = sent.max(acknowledged);
        ingest.gateway.again()?;
    }
    let total = ROUNDS * 12;
    block_on(async {
        let client = ingest.client()?;
        for batch in sent.saturating_sub(2)..total {
            let lines: String = (batch * BATCH..(batch + 1) * BATCH)
                .map(|n| format!("{{\"ts\":\"{ts}\",\"status\":200,\"request_id\":\"r{n}\"}}\n"))
                .collect();
            let answer = post(&client, "/generic/records", NDJSON, lines).await?;
            ensure!(answer.status == 200, "{}", answer.text());
        }
        anyhow::Ok(())
    })??;
    let rows = ingest.rows("generic", usize::try_from(total * BATCH)?)?;
    let ids: BTreeSet<&str> = rows.iter().filter_map(|row| row["ext"]["request_id"].as_str()).collect();
    println!("{} records of {} batches, killed within {killed_within} of {ROUNDS} rounds", rows.len(), total);
    ensure!(ids.len() == rows.len(), "{} ids in {} rows", ids.len(), rows.len());
    Ok(())
}

#[test]
fn a_crowded_spool_turns_batches_away_before_they_are_read() -> Result<()> {
    let ingest = Ingest::start_with("spool: { size_max: 16MiB, alarm_percent: 20 }\n", |setup| {
        Ok(setup.arg("--leave-records-in-spool"))
    })?;
    let (ts, _) = now()?;
    block_on(async {
        let client = ingest.client()?;
        let line = format!("{{\"ts\":\"{ts}\",\"status\":200,\"url\":\"/{}\"}}\n", "a/".repeat(500));
        let mut turned = None;
        for _ in 0..200 {
            let answer = post(&client, "/generic/records", NDJSON, line.repeat(100)).await?;
            if answer.status != 200 {
                turned = Some(answer);
                break;
            }
        }
        let turned = turned.context("the spool was never crowded")?;
        ensure!(
            turned.status == 503 && turned.header("retry-after") == Some("5"),
            "{}: {}",
            turned.status,
            turned.text()
        );
        ensure!(turned.text().contains("forward.ingest-busy"), "{}", turned.text());
        let answer = post(&client, "/generic/v1/logs", JSON, "{}").await?;
        ensure!(answer.status == 503 && answer.json()?["code"] == 14, "{}", answer.text());
        Ok(())
    })?
}

#[test]
fn check_refuses_mappings_that_would_forge_a_decision() -> Result<()> {
    let check = |resource: &str| -> Result<String> {
        let config = format!("version: 1\nresources:\n  edge: {resource}\n");
        let output = Setup::new(&config)?.run(&["check"])?;
        ensure!(!output.status.success(), "{resource} was taken");
        Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    for (resource, told) in [
        ("{ url: ingest:kong, fields: { source: x } }", "`source` is not a source's to say"),
        ("{ url: ingest:kong, fields: { grant: x } }", "doorward.yaml:3:"),
        ("{ url: ingest:kong, fields: { leaf_hash: x } }", "own place in the timeline"),
        ("{ url: ingest:kong, fields: { statsu: x } }", "did you mean \"status\"?"),
        ("{ url: ingest:kongg }", "did you mean \"kong\"?"),
        ("ingest:kongg", "did you mean \"kong\"?"),
        ("{ url: ingest:kong, feilds: {} }", "did you mean \"fields\"?"),
        ("{ url: ingest:kong, line_size_max: 2MiB }", "between 256B and 1MiB"),
        ("{ url: ingest:kong, syslog: { app_name: kong } }", "listen.syslog"),
        ("{ url: ingest:kong, syslog: {} }", "`app_name` or `certificate`"),
    ] {
        let problem = check(resource)?;
        ensure!(problem.contains(told), "{resource}: {problem}");
    }
    let open = "version: 1\nlisten: { syslog: 0.0.0.0:6514 }\nresources: { edge: ingest:kong }\n";
    let output = Setup::new(open)?.run(&["check"])?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && text.contains("loopback only"), "{text}");
    Ok(())
}

#[test]
fn every_column_is_mappable_or_ours() {
    for column in doorward_audit::columns::COLUMNS {
        let (mappable, ours) =
            (doorward_door_ingest::is_mappable(column.name), doorward_door_ingest::is_ours(column.name));
        assert!(mappable != ours, "{} must be in one of door-ingest's two lists", column.name);
    }
}

#[test]
fn the_opentelemetry_sdk_exports_its_logs() -> Result<()> {
    let ingest = Ingest::start()?;
    let token = ingest.issuer.token("shipper").claim("groups", ["shippers"]).sign()?;
    let output = Command::new(python()?)
        .arg(workspace_root().join("tests/clients/otel-logs.py"))
        .arg(format!("{}/generic/v1/logs", ingest.gateway.url()?))
        .env("TOKEN", token)
        .run()?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{said}");
    let rows = ingest.rows("generic", 20)?;
    let row = rows.iter().find(|row| row["status"] == 200 && row["object"] == "v1/orders/7");
    let row = row.context("the order's record")?;
    ensure!(
        row["verb"] == "read" && row["principal_subject"] == "ann" && row["duration_us"] == 12_500,
        "{row}"
    );
    ensure!(row["ext"]["service"] == "checkout", "{row}");
    Ok(())
}

/// The Python of the tests' clients.
fn python() -> Result<std::path::PathBuf> {
    let python = workspace_root().join(".cache/clients/bin/python");
    ensure!(python.exists(), "the Python clients are not installed; run scripts/setup.sh test");
    Ok(python)
}

#[test]
fn a_real_envoy_s_access_log_is_taken_in() -> Result<()> {
    let ingest = Ingest::start()?;
    let token = ingest.issuer.token("shipper").claim("groups", ["shippers"]).sign()?;
    let output = Command::new(python()?)
        .arg(workspace_root().join("tests/clients/envoy-log.py"))
        .arg(format!("{}/envoy/records", ingest.gateway.url()?))
        .env("TOKEN", token)
        .run()?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{said}");
    let rows = ingest.rows("envoy", 3)?;
    let of = |status: u64| {
        rows.iter().find(|row| row["status"] == status).with_context(|| format!("{status}: {said}"))
    };
    let good = of(200)?;
    ensure!(
        good["verb"] == "read" && good["object"] == "hello/world" && good["outcome"] == "allowed",
        "{good}"
    );
    ensure!(
        good["source_ip"] == "127.0.0.1"
            && good["user_agent"].as_str().is_some_and(|agent| agent.contains("test")),
        "{good}"
    );
    ensure!(good["operation"] == "GET /hello/world?token=?", "{good}");
    let missing = of(404)?;
    ensure!(missing["verb"] == "write" && missing["fault_public"] == "route_not_found", "{missing}");
    let failed = of(503)?;
    ensure!(failed["outcome"] == "failed" && failed["fault_side"] == "backend", "{failed}");
    Ok(())
}

#[test]
fn logger_is_heard_on_loopback() -> Result<()> {
    let sections = "
listen: { http: 127.0.0.1:0, admin: 127.0.0.1:0, syslog: 127.0.0.1:0 }
";
    // Over plain TCP everybody is `public`.
    let ingest = Ingest::start_with(sections, |setup| {
        let config = std::fs::read_to_string(setup.folder().join("doorward.yaml"))?
            .replace(
                "  generic: ingest:generic\n",
                "  generic: { url: ingest:generic, syslog: { app_name: app } }\n",
            )
            .replace("  kong: ingest:kong\n", "  kong: { url: ingest:kong, syslog: { app_name: kong } }\n")
            .replace("grants:\n", "grants:\n  local: { to: public, allow: write generic/records }\n");
        setup.file("doorward.yaml", config)
    })?;
    let address = ingest.gateway.address("syslog")?;
    let (ts, _) = now()?;
    let port = address.port().to_string();
    let logger = |more: &[&str], text: &str| -> Result<()> {
        let done = Command::new("logger")
            .args(["--tcp", "--server", "127.0.0.1", "--port", &port])
            .args(more)
            .args(["--", text])
            .run()?;
        ensure!(done.status.success(), "logger {more:?}");
        Ok(())
    };
    let good = ["--rfc5424=notq", "--tag", "app"];
    logger(
        &[&good[..], &["--octet-count"]].concat(),
        &format!("{{\"ts\":\"{ts}\",\"status\":200,\"user\":\"ann\"}}"),
    )?;
    logger(&[&good[..], &["--sd-id", "req@32473", "--sd-param", "user=\"bob\""]].concat(), "plain words")?;
    let rows = ingest.rows("generic", 2)?;
    let ann = rows.iter().find(|row| row["principal_subject"] == "ann").context("ann")?;
    ensure!(ann["status"] == 200 && ann["parent_access_id"].is_string(), "{ann}");
    // The older form, another application, and what is no syslog at all: refused, and told.
    logger(&["--rfc3164", "--tag", "app"], "old")?;
    logger(&["--rfc5424=notq", "--tag", "unknown"], "{}")?;
    logger(&["--rfc5424=notq", "--tag", "kong"], "{}")?;
    send(address, b"GET / HTTP/1.1\r\n\r\n")?;
    let told = ["RFC 3164", "no resource is for their application", "not framed", "only who is known"];
    let mut records = Vec::new();
    let all = wait_until(SOON, || {
        records = ingest.rows_now("gateway").unwrap_or_default();
        told.iter().all(|told| refused(&records, told))
    });
    ensure!(all, "not all of {told:?} in {records:#?}");
    ensure!(ingest.rows_now("kong")?.is_empty(), "kong's are not the public's to write");
    Ok(())
}

fn refused(records: &[Value], told: &str) -> bool {
    records.iter().any(|row| {
        row["outcome"] == "denied" && row["fault_public"].as_str().is_some_and(|text| text.contains(told))
    })
}

fn send(address: SocketAddr, bytes: &[u8]) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(bytes)?;
    // The gateway closes: it has nothing to say.
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    ensure!(rest.is_empty(), "{rest:?}");
    Ok(())
}

#[test]
fn rsyslog_delivers_over_tls_as_the_holder_of_its_certificate() -> Result<()> {
    use crate::identity::{Authority, named, spiffe};
    let authority = Authority::new("senders' authority")?;
    let (server, server_key) =
        authority.sign(&rcgen::CertificateParams::new(vec!["localhost".to_owned()])?)?;
    let (edge, edge_key) = authority.sign(&spiffe("spiffe://example.com/edge/one")?)?;
    let (other, other_key) = authority.sign(&named(&[(rcgen::DnType::CommonName, "nobody")]))?;
    let sections = "
listen: { http: 127.0.0.1:0, admin: 127.0.0.1:0, syslog: 127.0.0.1:0 }
tls: { cert: \"file:server.crt\", key: \"file:server.key\", client_ca: \"file:ca.pem\" }
certificates:
  trust_domains: [example.com]
  entries: [{ spiffe: \"spiffe://example.com/edge/**\", groups: [shippers] }]
";
    let ingest = Ingest::start_with(sections, |setup| {
        let config = std::fs::read_to_string(setup.folder().join("doorward.yaml"))?.replace(
            "  kong: ingest:kong\n",
            "  kong: { url: ingest:kong, syslog: { certificate: \"spiffe://example.com/edge/one\" } }\n",
        );
        let setup = setup.file("doorward.yaml", config)?.file("ca.pem", &authority.pem)?;
        let setup = setup.file("server.crt", server)?.file("server.key", server_key)?;
        setup
            .file("edge.crt", edge)?
            .file("edge.key", edge_key)?
            .file("other.crt", other)?
            .file("other.key", other_key)
    })?;
    let port = ingest.gateway.address("syslog")?.port();
    let folder = ingest.gateway.folder().to_owned();

    // rsyslog reads a file, and forwards each line as an RFC 5424 message.
    let line = sample("kong")?.replace('\n', " ");
    let lines: String = (0..50).map(|n| line.replace("b96c6a3d", &format!("{n:08}")) + "\n").collect();
    std::fs::write(folder.join("kong.log"), lines + "this is not JSON\n")?;
    let rsyslog = format!(
        "global(workDirectory=\"{0}\" maxMessageSize=\"64k\" defaultNetstreamDriver=\"ossl\"
  defaultNetstreamDriverCAFile=\"{0}/ca.pem\" defaultNetstreamDriverCertFile=\"{0}/edge.crt\" defaultNetstreamDriverKeyFile=\"{0}/edge.key\")
module(load=\"imfile\" mode=\"polling\" pollingInterval=\"1\")
input(type=\"imfile\" file=\"{0}/kong.log\" tag=\"kong\" freshStartTail=\"off\")
action(type=\"omfwd\" target=\"localhost\" port=\"{port}\" protocol=\"tcp\" tcp_framing=\"octet-counted\" template=\"RSYSLOG_SyslogProtocol23Format\"
  streamDriver=\"ossl\" streamDriverMode=\"1\" streamDriverAuthMode=\"x509/certvalid\")\n",
        folder.display()
    );
    std::fs::write(folder.join("rsyslog.conf"), rsyslog)?;
    let mut command = Command::new("rsyslogd");
    command.args(["-n", "-i"]).arg(folder.join("rsyslog.pid")).arg("-f").arg(folder.join("rsyslog.conf"));
    let log = folder.join("rsyslog.out");
    let _child = doorward_testkit::child::Guarded::start(
        "rsyslogd",
        &mut command,
        &log,
        doorward_testkit::child::Signal::Term,
        None,
    )?;
    let rows = ingest.rows("kong", 51).with_context(|| std::fs::read_to_string(&log).unwrap_or_default())?;
    let good: Vec<&Value> = rows.iter().filter(|row| row["status"] == 200).collect();
    ensure!(
        good.len() == 50 && good.iter().all(|row| row["principal_subject"] == "acme"),
        "{} rows",
        good.len()
    );
    ensure!(
        rows.iter().any(|row| row["fault_code"] == "forward.import-form"),
        "what has no fields is no record"
    );
    // A batch's own record comes behind those that it brought.
    let mut batch = None;
    wait_until(SOON, || {
        let own = ingest.rows_now("gateway").unwrap_or_default();
        batch = own.into_iter().find(|row| row["resource"] == "kong");
        batch.is_some()
    });
    let batch = batch.context("the batch's own record")?;
    ensure!(
        batch["principal_subject"] == "spiffe://example.com/edge/one"
            && batch["auth_method"] == "certificate",
        "{batch}"
    );

    // A certificate of nobody who is known, and none at all.
    let tls = |more: &[&str]| -> Result<String> {
        let output = Command::new("openssl")
            .current_dir(&folder)
            .args(["s_client", "-quiet", "-connect", &format!("localhost:{port}"), "-CAfile", "ca.pem"])
            .args(more)
            .run_with("<13>1 - - kong - - - {}\n")?;
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let without = tls(&[])?;
    ensure!(without.contains("alert") || without.contains("error"), "{without}");
    tls(&["-cert", "other.crt", "-key", "other.key"])?;
    let refused = wait_until(SOON, || {
        let rows = ingest.rows_now("gateway").unwrap_or_default();
        rows.iter().any(|row| row["fault_code"] == "authenticate.unknown-certificate")
    });
    ensure!(refused, "{}", ingest.gateway.log());
    ensure!(ingest.rows_now("kong")?.len() == 51, "nothing of theirs is taken");
    Ok(())
}
