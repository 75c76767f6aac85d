//! What goes wrong: input that is bad, clients that are slow, a database, a disk or a gateway that ends.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use doorward_testkit::gateway::Setup;
use doorward_testkit::http::{Answer, StrictClient, raw, statuses};
use doorward_testkit::postgres::{Cluster, Durability, Installation};
use doorward_testkit::program::Bounded;
use doorward_testkit::{pause, wait_until};
use http::Method;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::bed::{
    Bed, GRANTS, SHOP, SOON, base, block_on, id_of, later, record_of, record_of_answer, records,
};

/// A slow client's connection ends long before this.
const QUIET: Duration = Duration::from_secs(20);

#[test]
fn bad_requests_are_refused_in_the_doors_words() -> Result<()> {
    let bed = Bed::start_with(Cluster::shared()?, SHOP, |_, config| {
        Setup::new(&format!("{config}{GRANTS}http: {{ body: 64KiB }}\n"))
    })?;
    let long = json!({ "customer": "x".repeat(70_000) }).to_string();
    let deep = format!("{{\"customer\":{}{}}}", "[".repeat(500), "]".repeat(500));
    let many = format!("/shop/orders?select={}", "id,".repeat(4000));
    let orders = "/shop/orders";
    let json = "application/json";
    let cases = [
        ("a body over the bound", "POST", orders, json, long.as_str(), 413, "accept.body-too-large"),
        ("JSON that is too deep", "POST", orders, json, &deep, 400, "decode.rest-body"),
        ("JSON that is broken", "POST", orders, json, "{\"customer\":", 400, "decode.rest-body"),
        ("no object", "POST", orders, json, "17", 400, "decode.rest-body"),
        ("another form", "POST", orders, "text/xml", "<a/>", 415, "decode.rest-media-type"),
        ("an unknown table", "GET", "/shop/nothing", "", "", 404, "forward.rest-unknown-table"),
        (
            "an unknown column",
            "GET",
            "/shop/orders?select=nothing",
            "",
            "",
            400,
            "forward.rest-unknown-column",
        ),
        (
            "an unknown column in a filter",
            "GET",
            "/shop/orders?nothing=eq.1",
            "",
            "",
            400,
            "forward.rest-unknown-column",
        ),
        (
            "an unknown column in a row",
            "POST",
            orders,
            json,
            r#"{"nothing":1}"#,
            400,
            "forward.rest-unknown-column",
        ),
        ("an unknown function", "GET", "/shop/rpc/nothing", "", "", 404, "forward.rest-unknown-function"),
        ("a value of another type", "GET", "/shop/orders?id=eq.north", "", "", 400, "forward.rest-refused"),
        ("a filter without an operator", "GET", "/shop/orders?status=paid", "", "", 400, "decode.rest-query"),
        ("an unknown operator", "GET", "/shop/orders?status=eqq.paid", "", "", 400, "decode.rest-query"),
        (
            "a tree without an end",
            "GET",
            "/shop/orders?or=(id.eq.1,id.eq.2",
            "",
            "",
            400,
            "decode.rest-query",
        ),
        ("a bad selection", "GET", "/shop/orders?select=id,(", "", "", 400, "decode.rest-query"),
        ("a bad order", "GET", "/shop/orders?order=id.up", "", "", 400, "decode.rest-query"),
        ("a list without brackets", "GET", "/shop/orders?customer=in.ann", "", "", 400, "decode.rest-query"),
        ("a target over its bound", "GET", &many, "", "", 414, "accept.uri-too-long"),
        ("a dot segment", "GET", "/shop/%2e%2e/orders", "", "", 400, "accept.bad-target"),
        (
            "a token in the query",
            "GET",
            "/shop/orders?access_token=x",
            "",
            "",
            401,
            "authenticate.malformed-credentials",
        ),
        ("an unknown resource", "GET", "/nothing/orders", "", "", 404, "decode.unknown-resource"),
        ("an unknown method", "BREW", orders, "", "", 501, "accept.method-unknown"),
        ("a method that is not served", "PUT", "/shop/rpc/slow", json, "{}", 405, "decode.rest-method"),
    ];
    block_on(async {
        let writer = bed.client("wri", &["writers"])?;
        let nobody = bed.anonymous()?;
        let mut seen = Vec::new();
        for (name, method, path, form, body, status, code) in cases {
            let client = if path.contains("access_token") { &nobody } else { &writer };
            let headers: &[(&str, &str)] = if form.is_empty() { &[] } else { &[("content-type", form)] };
            let method = Method::from_bytes(method.as_bytes())?;
            let answer = client.send(method, path, headers, body.to_owned()).await?;
            ensure!(answer.status == status, "{name}: {} {}", answer.status, answer.text());
            explained(name, &answer)?;
            seen.push((name, id_of(&answer)?, status, code));
        }
        let ids: Vec<String> = seen.iter().map(|(_, id, _, _)| id.clone()).collect();
        let records = records(&bed.gateway, &ids)?;
        for (name, id, status, code) in seen {
            let row = records[&id].first().context("a row")?;
            ensure!(row["fault_code"] == code && row["status"] == status, "{name}: {row}");
            ensure!(
                ["denied", "failed"].contains(&row["outcome"].as_str().unwrap_or_default()),
                "{name}: {row}"
            );
        }
        let left = bed.database.sql("select count(*) from orders")?;
        ensure!(left.trim() == "20", "nothing of it was written: {left}");
        Ok(())
    })?
}

/// A refusal says what was wrong in a form that a program can read, on REST paths in PostgREST's.
fn explained(name: &str, answer: &Answer) -> Result<()> {
    let says = answer.json().with_context(|| name.to_owned())?;
    let kind = answer.header("content-type").unwrap_or_default();
    let parts: &[&str] = match kind {
        kind if kind.starts_with("application/problem+json") => {
            &["type", "title", "status", "detail", "code"]
        }
        _ => &["code", "message", "details", "hint"],
    };
    for part in parts {
        ensure!(says.get(part).is_some(), "{name}: no {part} in {says}");
    }
    Ok(())
}

#[test]
fn slow_clients_are_cut() -> Result<()> {
    let bed = Bed::start_with(Cluster::shared()?, SHOP, |_, config| {
        let times = "http: { head_timeout: 300ms, idle_timeout: 900ms, stall_timeout: 300ms }\n";
        Setup::new(&format!("{config}{GRANTS}{times}"))
    })?;
    let address = bed.gateway.address("http")?;
    let authorization = format!("Authorization: Bearer {}", bed.token("wri", &["writers"])?);
    let half_body = format!(
        "POST /shop/orders HTTP/1.1\r\nHost: a\r\n{authorization}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{\"cust"
    );
    for (name, request, principal) in [
        ("half a head", "GET /shop/orders HTTP/1.1\r\nHost: a\r\nX-Slow".to_owned(), Value::Null),
        ("half a body", half_body, json!("wri")),
    ] {
        let start = Instant::now();
        let answer = raw(address, request.as_bytes(), QUIET)?;
        ensure!(start.elapsed() < QUIET, "{name}: the connection stayed open");
        ensure!(statuses(&answer) == [408], "{name}: {}", String::from_utf8_lossy(&answer));
        let row = record_of(&bed.gateway, &raw_id(&answer)?)?;
        ensure!(row["fault_code"] == "accept.slow-client", "{name}: {row}");
        ensure!(row["principal_subject"] == principal, "{name}: {row}");
    }
    // Who says nothing at all, or nothing more, is cut without an answer and without a record.
    let whole = format!("GET /shop/orders?limit=1 HTTP/1.1\r\nHost: a\r\n{authorization}\r\n\r\n");
    for (name, request, expected) in [("silence", String::new(), vec![]), ("no second", whole, vec![200])] {
        let start = Instant::now();
        let answer = raw(address, request.as_bytes(), QUIET)?;
        ensure!(start.elapsed() < QUIET, "{name}: the connection stayed open");
        ensure!(statuses(&answer) == expected, "{name}: {}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}

#[test]
fn bodies_that_break_off_change_nothing() -> Result<()> {
    let bed = Bed::shop()?;
    let address = bed.gateway.address("http")?;
    let authorization = format!("Authorization: Bearer {}", bed.token("wri", &["writers"])?);
    let head = format!(
        "POST /shop/orders HTTP/1.1\r\nHost: a\r\n{authorization}\r\nContent-Type: application/json\r\n"
    );
    let row = r#"{"customer":"broken"}"#;
    let chunked = |end: &str| format!("{head}Transfer-Encoding: chunked\r\n\r\n15\r\n{row}\r\n{end}");
    for (name, request) in [
        ("a size that is none", chunked("xyz\r\n")),
        ("a size over all bounds", chunked("fffffffffffffffff\r\n")),
        ("a bare line feed", chunked("0\n\n")),
        ("a chunk that is longer than it says", chunked("1\r\nabc\r\n0\r\n\r\n")),
    ] {
        let answer = raw(address, request.as_bytes(), QUIET)?;
        ensure!(statuses(&answer) == [400], "{name}: {}", String::from_utf8_lossy(&answer));
        let row = record_of(&bed.gateway, &raw_id(&answer)?)?;
        ensure!(row["fault_code"] == "accept.malformed-message", "{name}: {row}");
        ensure!(row["principal_subject"] == "wri" && row["outcome"] == "denied", "{name}: {row}");
    }
    // Half of it, and then no more.
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(QUIET))?;
    stream.write_all(format!("{head}Content-Length: 100\r\n\r\n{row}").as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    // Whether the refusal is still heard is the network's affair; the record is not.
    let _ = stream.read_to_end(&mut Vec::new());
    let mut found = String::new();
    let recorded = wait_until(SOON, || {
        found = bed.gateway.run(&["audit", "query", "--json"]).map_or_else(
            |error| error.to_string(),
            |output| String::from_utf8_lossy(&output.stdout).into_owned(),
        );
        found.contains("accept.body-broken") || found.contains("abandoned")
    });
    ensure!(recorded, "no record: {found} {}", bed.gateway.log());
    let written = bed.database.sql("select count(*) from orders where customer = 'broken'")?;
    ensure!(written.trim() == "0", "a broken body was written");
    Ok(())
}

/// The access id in raw bytes.
fn raw_id(answer: &[u8]) -> Result<String> {
    let text = String::from_utf8_lossy(answer).to_lowercase();
    let id = text.lines().find_map(|line| line.strip_prefix("doorward-access-id: ").map(str::to_owned));
    Ok(id.with_context(|| format!("no access id: {text}"))?.trim().to_owned())
}

#[test]
fn connections_over_the_cap_are_turned_away() -> Result<()> {
    const CAP: usize = 4;
    let bed = Bed::start_with(Cluster::shared()?, SHOP, |_, config| {
        Setup::new(&format!("{config}{GRANTS}http: {{ connections_per_ip: {CAP} }}\n"))
    })?;
    let address = bed.gateway.address("http")?;
    let reader = bed.client("rea", &["readers"])?;
    let held: Vec<TcpStream> = (0..CAP).map(|_| TcpStream::connect(address)).collect::<Result<_, _>>()?;
    let mut over = TcpStream::connect(address)?;
    over.set_read_timeout(Some(QUIET))?;
    // Closed before anything was read: an end, or a reset.
    ensure!(matches!(over.read(&mut [0; 16]), Ok(0) | Err(_)), "one more than the cap is served");
    block_on(async {
        ensure!(reader.get("/shop/orders").await.is_err(), "the cap is reached");
        let admin = StrictClient::new(bed.gateway.admin_url()?);
        ensure!(admin.get("/readyz").await?.status == 200, "the admin address has its own");
        drop(held);
        ensure!(
            later(|| async { Ok(reader.get("/shop/orders").await?.status == 200) }).await,
            "places are given back"
        );
        Ok(())
    })?
}

/// Claims that fill a record: the spool's smallest size is then reached soon.
const FILLING: usize = 9_000;

#[test]
fn a_store_that_is_away_costs_no_record() -> Result<()> {
    let bed = Bed::start_with(Cluster::shared()?, SHOP, |_, config| {
        let (_, shop) = config.split_once("  shop:\n").context("the resource")?;
        let grants = GRANTS.replace(
            "  readers:\n",
            "  lax: { to: group:readers, allow: read lax/public/*, as: reader }\n  readers:\n",
        );
        let more =
            format!("{config}  lax:\n    audit: best-effort\n{shop}{grants}spool: {{ size_max: 16MiB }}\n");
        let setup = Setup::new(&more)?;
        // A directory stands where the store should be: nothing can be written there.
        std::fs::create_dir_all(setup.folder().join("data/audit.db"))?;
        Ok(setup)
    })?;
    let token =
        bed.issuer.token("ann").claim("groups", vec!["readers"]).claim("filling", "x".repeat(FILLING));
    let ann = bed.anonymous()?.bearer(token.sign()?);
    let answered = block_on(async {
        let admin = StrictClient::new(bed.gateway.admin_url()?);
        let answered = Arc::new(Mutex::new(Vec::new()));
        let mut fillers = Vec::new();
        for _ in 0..8 {
            fillers.push(tokio::spawn(fill(ann.clone(), answered.clone())));
        }
        for filler in fillers {
            let refusal = filler.await??;
            ensure!(refusal.header("retry-after").is_some(), "{:?}", refusal.headers);
            ensure!(refusal.text().contains("record.unavailable"), "{}", refusal.text());
        }
        let ready = admin.get("/readyz").await?;
        let says = ready.json()?;
        ensure!(ready.status == 503 && says["spool"]["open"] == false, "{says}");
        ensure!(says["spool"]["store_trouble"].is_string(), "{says}");
        ensure!(
            admin.get("/metrics").await?.text().contains("doorward_store_reachable 0"),
            "metrics say nothing"
        );

        // Where the record is best effort calls go on, and the gap is counted.
        for _ in 0..5 {
            let lax = ann.get("/lax/orders?limit=1").await?;
            ensure!(lax.status == 200, "{}", lax.text());
        }
        let lost = admin.get("/readyz").await?.json()?["spool"]["lost"].as_u64().unwrap_or_default();
        ensure!(lost >= 5, "{lost} are counted as lost");

        std::fs::remove_dir(bed.gateway.folder().join("data/audit.db"))?;
        ensure!(
            later(|| async { Ok(ann.get("/shop/orders?limit=1").await?.status == 200) }).await,
            "mended, and still closed: {}",
            bed.gateway.log()
        );
        let answered = answered.lock().await.clone();
        Ok::<_, anyhow::Error>(answered)
    })??;
    ensure!(answered.len() > 500, "only {} calls filled the spool", answered.len());
    let found = records(&bed.gateway, &answered)?;
    for id in &answered {
        ensure!(found[id].len() == 1, "{id} has {} records", found[id].len());
        ensure!(found[id][0]["outcome"] == "allowed", "{}", found[id][0]);
    }
    let gap = wait_until(SOON, || {
        let output = bed.gateway.run(&["audit", "query", "--json", "--limit", "1"]);
        output.is_ok_and(|output| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let gaps = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            gaps.filter_map(|row| row["gap"]["lost"].as_u64()).sum::<u64>() >= 5
        })
    });
    ensure!(gap, "no gap is recorded");
    Ok(())
}

/// Reads until the gateway refuses; keeps the ids of what was answered.
async fn fill(client: StrictClient, answered: Arc<Mutex<Vec<String>>>) -> Result<Answer> {
    for _ in 0..20_000 {
        let answer = client.get("/shop/orders?limit=1&select=id").await?;
        if answer.status == 503 {
            return Ok(answer);
        }
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        answered.lock().await.push(id_of(&answer)?);
    }
    anyhow::bail!("the spool is never full")
}

/// A call that takes this long.
async fn slow(client: StrictClient, seconds: f64) -> Result<Answer> {
    client.post("/shop/rpc/slow", &json!({ "seconds": seconds })).await
}

/// Waits until the slow call runs in the database.
fn runs(bed: &Bed) -> bool {
    let running = "select count(*) from pg_stat_activity where query like '%slow%' and state = 'active' \
                   and pid <> pg_backend_pid()";
    wait_until(SOON, || bed.database.sql(running).is_ok_and(|count| count.trim() == "1"))
}

#[test]
fn a_busy_pool_says_so() -> Result<()> {
    let bed = Bed::start_with(Cluster::shared()?, SHOP, |_, config| {
        Setup::new(&format!(
            "{}{GRANTS}",
            config.replace("pool: { size: 8 }", "pool: { size: 1, wait_max: 200ms }")
        ))
    })?;
    block_on(async {
        let writer = bed.client("wri", &["writers"])?;
        let first = tokio::spawn(slow(writer.clone(), 3.0));
        ensure!(runs(&bed), "the slow call does not run");
        let busy = writer.get("/shop/orders").await?;
        // PostgREST answers 504 to this.
        ensure!(busy.status == 504 && busy.header("retry-after").is_some(), "{}", busy.text());
        let row = record_of_answer(&bed.gateway, &busy)?;
        ensure!(row["fault_code"] == "forward.pool-exhausted" && row["outcome"] == "failed", "{row}");
        ensure!(first.await??.status == 200, "the first is not disturbed");
        ensure!(writer.get("/shop/orders").await?.status == 200, "the seat is given back");
        Ok(())
    })?
}

#[test]
fn a_second_gateway_on_one_spool_does_not_start() -> Result<()> {
    let bed = Bed::shop()?;
    let spool = bed.gateway.folder().join("data/spool");
    let config = base(&bed.issuer, &bed.database);
    let second = Setup::new(&format!("{config}spool: {{ dir: \"{}\" }}\n", spool.display()))?;
    let started = second.env("SHOP_PASSWORD", crate::bed::PASSWORD).start();
    let error = format!("{:#}", started.err().context("two gateways share a spool")?);
    ensure!(error.contains("in use by a running gateway") && error.contains("spool.dir"), "{error}");
    block_on(async {
        let answer = bed.client("rea", &["readers"])?.get("/shop/orders").await?;
        ensure!(answer.status == 200, "{}", answer.text());
        record_of_answer(&bed.gateway, &answer).map(drop)
    })?
}

#[test]
fn sigterm_lets_calls_under_way_end() -> Result<()> {
    let mut bed = Bed::shop()?;
    let answer = block_on(async {
        let (writer, reader) = (bed.client("wri", &["writers"])?, bed.client("rea", &["readers"])?);
        let admin = StrictClient::new(bed.gateway.admin_url()?);
        let under_way = tokio::spawn(slow(writer, 4.0));
        ensure!(runs(&bed), "the slow call does not run");
        let pid = bed.gateway.pid().to_string();
        ensure!(
            Command::new("/bin/sh").args(["-c", "kill -TERM \"$1\"", "kill", &pid]).run()?.status.success(),
            "kill"
        );
        let draining = later(|| async {
            let ready = admin.get("/readyz").await?;
            Ok(ready.status == 503 && ready.json()?["draining"] == true)
        });
        ensure!(draining.await, "/readyz does not turn red");
        ensure!(
            later(|| async { Ok(reader.get("/shop/orders").await.is_err()) }).await,
            "new connections are taken"
        );
        under_way.await?
    })??;
    ensure!(answer.status == 200, "{}", answer.text());
    ensure!(wait_until(SOON, || !bed.gateway.alive()), "it does not end");
    let row = record_of_answer(&bed.gateway, &answer)?;
    ensure!(row["outcome"] == "allowed" && row["object"] == "public/slow", "{row}");
    ensure!(!bed.gateway.log().contains("connections were cut"), "{}", bed.gateway.log());
    Ok(())
}

const WRITERS: usize = 8;

#[test]
fn a_database_killed_under_writes_leaves_no_doubt_untold() -> Result<()> {
    let cluster: &'static Cluster =
        Box::leak(Box::new(Cluster::start_new(Installation::debian()?, Durability::Safe)?));
    let bed = Bed::start(cluster, SHOP, GRANTS)?;
    let seen = block_on(async {
        let writer = bed.client("wri", &["writers"])?;
        // In the midst of one answer.
        let under_way = tokio::spawn(slow(writer.clone(), 60.0));
        ensure!(runs(&bed), "the slow call does not run");
        cluster.kill9()?;
        let broken = under_way.await??;
        ensure!(broken.status.is_server_error(), "{}: {}", broken.status, broken.text());
        cluster.start()?;
        ensure!(later(|| async { Ok(writer.get("/shop/orders").await?.status == 200) }).await, "not back");
        let row = record_of_answer(&bed.gateway, &broken)?;
        ensure!(row["fault_code"] == "forward.outcome-unknown", "{row}");

        // Under many.
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let mut writers = Vec::new();
        for _ in 0..WRITERS {
            writers.push(tokio::spawn(write(writer.clone(), seen.clone(), stop.clone())));
        }
        ensure!(later(|| async { Ok(seen.lock().await.len() > 200) }).await, "there is no load");
        cluster.kill9()?;
        pause(Duration::from_millis(300));
        cluster.start()?;
        let mark = seen.lock().await.len();
        let again =
            later(|| async { Ok(seen.lock().await.iter().skip(mark).any(|(_, status)| *status == 201)) });
        ensure!(again.await, "no write succeeds any more");
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for writer in writers {
            writer.await??;
        }
        let seen = seen.lock().await.clone();
        Ok::<_, anyhow::Error>(seen)
    })??;
    let committed = bed.database.sql("select access_id from orders where access_id <> ''")?;
    let committed: std::collections::HashSet<&str> = committed.lines().collect();
    let ids: Vec<String> = seen.iter().map(|(id, _)| id.clone()).collect();
    let records = records(&bed.gateway, &ids)?;
    let mut failed = 0;
    for (id, status) in &seen {
        let [row] = &records[id][..] else { anyhow::bail!("{id} has {} records", records[id].len()) };
        ensure!(row["status"] == *status, "{row}");
        if *status == 201 {
            ensure!(committed.contains(id.as_str()), "{id} was answered, and its row is not there");
            ensure!(row["outcome"] == "allowed", "{row}");
        } else {
            failed += 1;
            ensure!(row["outcome"] != "allowed" && row["fault_code"].is_string(), "{row}");
            // A refusal that is certain must be true.
            let doubtful = row["fault_code"] == "forward.outcome-unknown";
            ensure!(doubtful || !committed.contains(id.as_str()), "was refused, and is there: {row}");
        }
    }
    ensure!(failed > 0, "nobody noticed the crash");
    drop(bed);
    cluster.stop()
}

/// Writes until told to stop; keeps what came back.
async fn write(
    client: StrictClient,
    seen: Arc<Mutex<Vec<(String, u16)>>>,
    stop: Arc<std::sync::atomic::AtomicBool>,
) -> Result<()> {
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        let answer = client.post("/shop/orders", &json!({ "customer": "ann" })).await?;
        seen.lock().await.push((id_of(&answer)?, answer.status.as_u16()));
        if answer.status != 201 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}
