//! The main job over the real binary: who, what, whether, and the record of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use doorward_testkit::gateway::Setup;
use doorward_testkit::http::{StrictClient, raw, statuses};
use doorward_testkit::issuer::Alg;
use doorward_testkit::oidc_provider::Provider;
use doorward_testkit::postgres::{Cluster, Durability, Installation};
use doorward_testkit::wait_until;
use http::Method;
use serde_json::{Value, json};

use crate::bed::{Bed, GRANTS, SHOP, SOON, base, block_on, later, on_newer, record_of};

/// The record of one call, once it is in the store.
fn record(bed: &Bed, id: &str) -> Result<Value> {
    record_of(&bed.gateway, id)
}

fn main_job(cluster: &'static Cluster) -> Result<()> {
    let bed = Bed::start(cluster, SHOP, GRANTS)?;
    block_on(async {
        let ann = bed.client("ann", &["customers"])?;
        let mine = ann.get("/shop/orders?select=customer&limit=50").await?;
        ensure!(mine.status == 200, "{}", mine.text());
        ensure!(
            mine.json()?
                .as_array()
                .is_some_and(|rows| rows.len() == 10 && rows.iter().all(|row| row["customer"] == "ann")),
            "{}",
            mine.text()
        );

        // The same role, another person: nothing of the first one's settings is left.
        let bob = bed.client("bob", &["customers"])?;
        for _ in 0..20 {
            let (his, hers) = tokio::join!(
                bob.get("/shop/orders?select=customer"),
                ann.get("/shop/orders?select=customer")
            );
            ensure!(
                !his?.text().contains("ann") && !hers?.text().contains("bob"),
                "two callers share an answer"
            );
        }

        let made = ann.post("/shop/orders", &json!({ "customer": "ann", "total": 7 })).await?;
        ensure!(made.status == 201, "{}", made.text());
        let forged = ann.post("/shop/orders", &json!({ "customer": "bob", "total": 7 })).await?;
        ensure!(forged.status == 403, "row-level security is the database's: {}", forged.text());

        let reader = bed.client("rea", &["readers"])?;
        let refused = reader.post("/shop/orders", &json!({ "customer": "ann" })).await?;
        ensure!(refused.status == 403, "{}", refused.text());
        let says = refused.json()?;
        for part in ["code", "message", "details", "hint"] {
            ensure!(says.get(part).is_some(), "no {part} in {says}");
        }
        let denied = bed.client("wri", &["writers"])?.get("/shop/hidden").await?;
        ensure!(denied.status == 403 && denied.text().contains("no-hidden"), "{}", denied.text());

        let nobody = bed.anonymous()?.get("/shop/orders").await?;
        ensure!(nobody.status == 401 && nobody.header("www-authenticate").is_some(), "{}", nobody.text());

        for (answer, outcome, code) in [
            (&mine, "allowed", Value::Null),
            (&made, "allowed", Value::Null),
            (&refused, "denied", json!("authorize.no-grant")),
            (&denied, "denied", json!("authorize.denied-by-rule")),
            (&nobody, "denied", json!("authenticate.required")),
        ] {
            let row = record(&bed, answer.header("doorward-access-id").context("no access id")?)?;
            ensure!(row["outcome"] == outcome && row["fault_code"] == code, "{row}");
            ensure!(row["status"] == answer.status.as_u16(), "{row}");
        }
        let row = record(&bed, made.header("doorward-access-id").context("no id")?)?;
        ensure!(
            row["principal_subject"] == "ann" && row["verb"] == "write" && row["object"] == "public/orders",
            "{row}"
        );
        ensure!(
            row["backend_role"] == "customer" && row["grant"] == "customers" && row["door"] == "rest",
            "{row}"
        );
        Ok(())
    })?
}

#[test]
fn the_main_job_on_debians_postgresql() -> Result<()> {
    main_job(Cluster::shared()?)
}

#[test]
fn the_main_job_on_a_newer_postgresql() -> Result<()> {
    on_newer(main_job)
}

#[test]
fn a_limit_says_when_to_come_back() -> Result<()> {
    let bed = Bed::shop()?;
    block_on(async {
        let few = bed.client("fay", &["few"])?;
        let first = few.get("/shop/orders?select=id").await?;
        ensure!(first.json()?.as_array().is_some_and(|rows| rows.len() == 5), "max_rows: {}", first.text());
        ensure!(first.header("ratelimit").is_some_and(|value| value.contains("r=2")), "{:?}", first.headers);
        few.get("/shop/orders").await?;
        few.get("/shop/orders").await?;
        let over = few.get("/shop/orders").await?;
        ensure!(over.status == 429, "{}", over.text());
        let wait: u64 = over.header("retry-after").context("no Retry-After")?.parse()?;
        ensure!((1..=60).contains(&wait), "{wait}");
        ensure!(
            over.header("ratelimit-policy").is_some_and(|value| value.contains("few")),
            "{:?}",
            over.headers
        );
        // Another one's calls do not count.
        ensure!(
            bed.client("gil", &["few"])?.get("/shop/orders").await?.status == 200,
            "limits are each caller's own"
        );
        let row = record(&bed, over.header("doorward-access-id").context("no id")?)?;
        ensure!(row["outcome"] == "limited" && row["limit_remaining"] == 0, "{row}");
        Ok(())
    })?
}

#[test]
fn malformed_requests_are_refused_and_recorded() -> Result<()> {
    let bed = Bed::shop()?;
    let address = bed.gateway.address("http")?;
    let head = "GET /shop/orders HTTP/1.1\r\n";
    let cases = [
        ("two hosts", format!("{head}Host: a\r\nHost: b\r\n\r\n")),
        ("no host", format!("{head}\r\n")),
        ("CL and TE", "POST /shop/orders HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned()),
        ("two CL", "POST /shop/orders HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc".to_owned()),
        ("obs-fold", format!("{head}Host: a\r\nX: 1\r\n 2\r\n\r\n")),
        ("other host", "GET http://b/shop/orders HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        ("long header", format!("{head}Host: a\r\nX: {}\r\n\r\n", "x".repeat(70_000))),
        ("garbage", "\u{1}\u{2}\u{3} garbage\r\n\r\n".to_owned()),
    ];
    for (name, request) in &cases {
        let answer = raw(address, request.as_bytes(), Duration::from_secs(3))?;
        let text = String::from_utf8_lossy(&answer).to_lowercase();
        let status = statuses(&answer);
        ensure!(matches!(status[..], [400 | 413 | 414 | 431]), "{name}: {text}");
        ensure!(text.contains("application/problem+json"), "{name}: {text}");
        let id = text
            .lines()
            .find_map(|line| line.strip_prefix("doorward-access-id: "))
            .with_context(|| format!("{name}: {text}"))?;
        let row = record(&bed, id.trim())?;
        ensure!(row["outcome"] == "denied" && row["fault_code"].is_string(), "{name}: {row}");
    }
    Ok(())
}

#[test]
fn a_changed_file_is_reloaded_and_a_bad_one_is_not() -> Result<()> {
    let bed = Bed::shop()?;
    let config = base(&bed.issuer, &bed.database);
    block_on(async {
        let reader = bed.client("rea", &["readers"])?;
        ensure!(reader.get("/shop/orders").await?.status == 200, "the grant is there");
        let admin = StrictClient::new(bed.gateway.admin_url()?);

        bed.gateway.write("doorward.yaml", format!("{config}{GRANTS}\nlimmits: 3\n"))?;
        bed.gateway.sighup()?;
        ensure!(
            later(|| async { Ok(admin.get("/readyz").await?.text().contains("limmits")) }).await,
            "/readyz says nothing"
        );
        ensure!(
            admin.get("/metrics").await?.text().contains("doorward_config_current 0"),
            "metrics say nothing"
        );
        ensure!(bed.gateway.log().contains("limmits"), "the log says nothing");
        ensure!(reader.get("/shop/orders").await?.status == 200, "the old configuration goes on");

        // Without a signal: the file's change is enough.
        bed.gateway.write("doorward.yaml", format!("{config}grants: {{}}\n"))?;
        ensure!(
            later(|| async { Ok(reader.get("/shop/orders").await?.status == 403) }).await,
            "not reloaded: {}",
            bed.gateway.log()
        );
        ensure!(
            admin.get("/metrics").await?.text().contains("doorward_config_current 1"),
            "metrics are stale"
        );
        Ok(())
    })?
}

#[test]
fn a_database_that_comes_back_is_used_again() -> Result<()> {
    let cluster: &'static Cluster =
        // What is committed must outlive the crash: a fast cluster may lose the tables of this test.
        Box::leak(Box::new(Cluster::start_new(Installation::debian()?, Durability::Safe)?));
    let bed = Bed::start(cluster, SHOP, GRANTS)?;
    block_on(async {
        let reader = bed.client("rea", &["readers"])?;
        ensure!(reader.get("/shop/orders").await?.status == 200, "before");
        cluster.kill9()?;
        // A session may outlive its server by a moment.
        let mut away = reader.get("/shop/orders").await?;
        while away.status == 200 {
            away = reader.get("/shop/orders").await?;
        }
        ensure!(away.status == 503 || away.status == 502, "{}: {}", away.status, away.text());
        let row = record(&bed, away.header("doorward-access-id").context("no id")?)?;
        ensure!(row["outcome"] == "failed", "{row}");
        cluster.start()?;
        ensure!(
            later(|| async { Ok(reader.get("/shop/orders").await?.status == 200) }).await,
            "not back: {}",
            bed.gateway.log()
        );
        Ok::<_, anyhow::Error>(())
    })??;
    drop(bed);
    cluster.stop()
}

#[test]
fn a_superuser_login_is_refused_at_start() -> Result<()> {
    let cluster = Cluster::shared()?;
    let database = cluster.database()?;
    let issuer = doorward_testkit::issuer::Issuer::start()?;
    let config = base(&issuer, &database).replace("user: authenticator", "user: postgres");
    let started = Setup::new(&config)?.env("SHOP_PASSWORD", cluster.password()).start();
    let error = format!("{:#}", started.err().context("a superuser login is accepted")?);
    ensure!(error.contains("SUPERUSER") || error.contains("superuser"), "{error}");
    Ok(())
}

#[test]
fn a_client_that_hangs_up_cancels_its_query_and_is_recorded() -> Result<()> {
    let bed = Bed::shop()?;
    let token = bed.token("wri", &["writers"])?;
    let request = format!(
        "POST /shop/rpc/slow HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n{{\"seconds\":30}}"
    );
    let running = "select count(*) from pg_stat_activity where query like '%slow%' and state = 'active' and pid <> pg_backend_pid()";
    {
        use std::io::Write;
        let mut stream = std::net::TcpStream::connect(bed.gateway.address("http")?)?;
        stream.write_all(request.as_bytes())?;
        ensure!(
            wait_until(SOON, || bed.database.sql(running).is_ok_and(|count| count.trim() == "1")),
            "the query does not run"
        );
    }
    ensure!(
        wait_until(SOON, || bed.database.sql(running).is_ok_and(|count| count.trim() == "0")),
        "the query goes on"
    );
    let mut rows = String::new();
    let abandoned = wait_until(SOON, || {
        rows = bed
            .gateway
            .run(&["audit", "query", "--outcome", "abandoned", "--json"])
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default();
        rows.contains("public/slow")
    });
    ensure!(abandoned, "no abandoned record: {rows}");
    Ok(())
}

#[test]
fn tokens_of_a_real_identity_provider() -> Result<()> {
    let provider = Provider::start("doorward", Alg::Rs256)?;
    let bed = Bed::start_with(Cluster::shared()?, SHOP, |_, config| {
        let sections = GRANTS.replace("to: group:readers", "to: [\"group:readers\", \"issuer:real\"]");
        let config = config.replace(
            "issuers: { idp:",
            &format!(
                "issuers: {{ real: {{ url: \"{}\", audience: \"{}\" }}, idp:",
                provider.url(),
                "doorward"
            ),
        );
        Setup::new(&format!("{config}{sections}"))
    })?;
    block_on(async {
        let client = bed.anonymous()?.bearer(provider.token("pipeline").await?);
        let answer = client.get("/shop/orders?limit=1").await?;
        ensure!(answer.status == 200, "{}", answer.text());
        let head = client.send(Method::HEAD, "/shop/orders", &[], "").await?;
        ensure!(head.status == 200 && head.body.is_empty(), "{:?}", head.headers);
        Ok(())
    })?
}
